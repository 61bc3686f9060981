//! Puts the floors together into a server that starts, serves and stops.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::http::{App, router, server};
use crate::jobs::Jobs;
use crate::serving::Inference;
use crate::store::Store;

/// From the signal to the end, at most.
const SHUTDOWN: Duration = Duration::from_secs(9);
/// Between two looks for uploads whose time is over.
const FORGETTING: Duration = Duration::from_secs(600);

/// Opens the data directory and starts the workers and the inference thread.
///
/// # Errors
/// The directory is in use or cannot be written, or trainers cannot be started.
pub async fn start(config: &ServerConfig) -> anyhow::Result<App> {
    let store = Store::open(&config.data)
        .await
        .with_context(|| format!("the data directory {} cannot be opened", config.data.display()))?;
    let inference = Inference::start(store.clone(), &config.serving)?;
    let jobs = Jobs::start(store.clone(), config.jobs.clone()).await?;
    tokio::spawn(forget_uploads(store.clone(), jobs.shutdown_token()));
    Ok(App::new(store, jobs, inference, config.http.clone()))
}

/// Removes uploads that nobody went on with, now and then until the server ends.
async fn forget_uploads(store: Store, stop: CancellationToken) {
    let mut times = tokio::time::interval(FORGETTING);
    while stop.run_until_cancelled(times.tick()).await.is_some() {
        if let Err(error) = store.remove_expired_uploads().await {
            tracing::warn!(%error, "Uploads whose time is over could not be removed; they are tried again");
        }
    }
}

/// Serves until a signal, then stops from the top down: no new connections, requests finish, trainers make a checkpoint and
/// their jobs return to the queue, the database closes.
///
/// # Errors
/// The server could not be started.
pub async fn serve(config: ServerConfig) -> anyhow::Result<()> {
    let app = start(&config).await?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    announce(&config, &app, &listener)?;
    let jobs = app.jobs.clone();
    tokio::spawn(async move { jobs.warm_up().await });
    let stop = CancellationToken::new();
    let service = tokio::spawn(server::serve(listener, router(app.clone()), stop.clone()));
    signal().await?;
    tracing::info!("Shutting down: trainers make a checkpoint, requests finish");
    let orderly = async {
        stop.cancel();
        app.jobs.shut_down().await;
        let _ = service.await;
        app.store.close().await;
    };
    if tokio::time::timeout(SHUTDOWN, orderly).await.is_err() {
        tracing::warn!("Not everything ended in time; jobs go on from their last checkpoint at the next start");
    }
    Ok(())
}

/// The first line is for programs; what follows is for people.
fn announce(config: &ServerConfig, app: &App, listener: &TcpListener) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let devices = app.jobs.devices();
    let device = match devices.cuda {
        0 => format!("CPU ({}), no CUDA: {}", devices.cpu, devices.cuda_absence.as_deref().unwrap_or("none")),
        count => format!("CPU ({}), {count} CUDA GPU(s)", devices.cpu),
    };
    let text = format!(
        "listening on http://{address}\n  try       http://{address}/docs\n  devices   {device}\n  training  {}\n  data      {}\n",
        config.jobs.words(),
        std::path::absolute(&config.data)?.display()
    );
    // Whoever started the server may read the first line and close the pipe: that is no reason to end.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if !address.ip().is_loopback() {
        tracing::warn!("Others can reach this address, and nothing asks them for a key");
    }
    Ok(())
}

async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
