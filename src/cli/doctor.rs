//! Says what works on this machine: each line a check, each fault with what to do about it.

use anyhow::bail;

use crate::config::ServerConfig;
use crate::store::{Store, StoreError};
use crate::training::device::LIBTORCH_VERSION;

/// Runs every check and prints each.
pub(super) async fn run(config: &ServerConfig) -> anyhow::Result<()> {
    let mut faults = 0;
    let mut say = |good: bool, what: &str, detail: String| {
        faults += usize::from(!good);
        println!("{} {what:<16} {detail}", if good { "ok  " } else { "FAIL" });
    };
    say(true, "program", format!("latente {}", env!("CARGO_PKG_VERSION")));
    match config.jobs.trainer.probe().await {
        Ok(devices) => {
            say(
                true,
                "libtorch",
                format!("{LIBTORCH_VERSION}, in a trainer process with {} thread(s)", devices.threads),
            );
            say(
                true,
                "cpu",
                format!("{}, {} core(s)", devices.cpu, std::thread::available_parallelism().map_or(1, usize::from)),
            );
            let cuda = match (devices.cuda, devices.cuda_absence) {
                (0, why) => format!("none: {}. Training uses the CPU.", why.unwrap_or_default()),
                (count, _) => format!("{count} GPU(s)"),
            };
            say(true, "cuda", cuda);
        }
        Err(error) => {
            say(false, "libtorch", format!("a trainer cannot be started: {error}. Run `make setup` and build again."))
        }
    }
    say(true, "training", config.jobs.words());
    let existed = config.data.exists();
    match Store::open(&config.data).await {
        Ok(store) => {
            let free = store.free_bytes();
            let gib = free
                .map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
            let note = if existed { "" } else { " (made just now)" };
            say(
                free.is_none_or(|bytes| bytes > 1 << 30),
                "data directory",
                format!("{}{note}, {gib} free", config.data.display()),
            );
            match store.check().await {
                Ok((verdict, bytes)) => {
                    say(verdict == "ok", "database", format!("{verdict}, {:.1} MiB", bytes as f64 / f64::from(1 << 20)))
                }
                Err(error) => say(false, "database", error.to_string()),
            }
            store.close().await;
        }
        Err(StoreError::InUse(path)) => say(
            true,
            "data directory",
            format!("{}, in use by a running server; the database was not looked at", path.display()),
        ),
        Err(error) => say(false, "data directory", error.to_string()),
    }
    if faults > 0 {
        bail!("{faults} check(s) failed");
    }
    Ok(())
}
