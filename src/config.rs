//! Settings of the server: a flag, an environment variable or a line of a TOML file each, in this order of precedence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;

use crate::domain::limits::TRAINER_MIB;
use crate::http::HttpConfig;
use crate::jobs::JobsConfig;
use crate::jobs::process::TrainerConfig;
use crate::serving::ServingConfig;

const MIB: u64 = 1 << 20;

/// Settings as they are given. In the TOML file they have the same names with `_` for `-`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on. Only loopback, unless --insecure is given. Port 0 picks a free one.
    /// [default: 127.0.0.1:8080]
    #[arg(long, env = "LATENTE_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Directory of the database and the rows of datasets; made when it is not there. [default: latente-data]
    #[arg(long, env = "LATENTE_DATA", value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Jobs that train at once. [default: as many as have room on the cores: a small job takes one, a large one its --threads]
    #[arg(long, env = "LATENTE_WORKERS", value_name = "NUMBER")]
    workers: Option<usize>,
    /// Threads of a trainer of a large job. Results depend on it, so keep it the same to reproduce them.
    /// [default: the cores divided by the workers, or by half the cores where --workers is not set]
    #[arg(long, env = "LATENTE_THREADS", value_name = "NUMBER")]
    threads: Option<usize>,
    /// MiB of memory that each trainer may have of its own; a job that needs more fails. The rows it reads do not count.
    /// [default: no limit]
    #[arg(long, env = "LATENTE_TRAINER_MIB", value_name = "MIB")]
    trainer_mib: Option<u64>,
    /// Make trainers as copies of a process that has loaded libtorch once: they start at once, and this process has some 60 MiB of
    /// memory of its own. Otherwise each loads libtorch itself, a quarter of a second long. [default: true]
    #[arg(long, env = "LATENTE_TRAINER_COPIES", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    trainer_copies: Option<bool>,
    /// Threads of inference. [default: the cores]
    #[arg(long, env = "LATENTE_INFERENCE_THREADS", value_name = "NUMBER")]
    inference_threads: Option<usize>,
    /// MiB of models that stay loaded; the least recently used go first. [default: 1024]
    #[arg(long, env = "LATENTE_RESIDENT_MIB", value_name = "MIB")]
    resident_mib: Option<u64>,
    /// MiB of one upload. [default: 4096]
    #[arg(long, env = "LATENTE_UPLOAD_MIB", value_name = "MIB")]
    upload_mib: Option<u64>,
    /// MiB of the rows of one dataset, after decompression. [default: 16384]
    #[arg(long, env = "LATENTE_DATASET_MIB", value_name = "MIB")]
    dataset_mib: Option<u64>,
    /// What is logged, such as `info` or `latente=debug`. [default: info]
    #[arg(long, env = "LATENTE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Listen on an address that others can reach, although nothing asks them for a key.
    #[arg(long, env = "LATENTE_INSECURE", value_parser = clap::builder::BoolishValueParser::new())]
    insecure: bool,
}

/// Settings with nothing left open.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The data directory.
    pub data: PathBuf,
    /// What is logged.
    pub log: String,
    /// Of the queue and its trainers.
    pub jobs: JobsConfig,
    /// Of inference.
    pub serving: ServingConfig,
    /// Of the HTTP surface.
    pub http: HttpConfig,
}

impl Settings {
    /// Settings given on the command line or in the environment, filled up from a file.
    ///
    /// # Errors
    /// The file cannot be read or has a line that is not understood.
    pub fn with_file(self, path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(self) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the settings file {} cannot be read", path.display()))?;
        let file: Self =
            toml::from_str(&text).with_context(|| format!("the settings file {} is not understood", path.display()))?;
        Ok(Self {
            listen: self.listen.or(file.listen),
            data: self.data.or(file.data),
            workers: self.workers.or(file.workers),
            threads: self.threads.or(file.threads),
            trainer_mib: self.trainer_mib.or(file.trainer_mib),
            trainer_copies: self.trainer_copies.or(file.trainer_copies),
            inference_threads: self.inference_threads.or(file.inference_threads),
            resident_mib: self.resident_mib.or(file.resident_mib),
            upload_mib: self.upload_mib.or(file.upload_mib),
            dataset_mib: self.dataset_mib.or(file.dataset_mib),
            log: self.log.or(file.log),
            insecure: self.insecure || file.insecure,
        })
    }

    /// Fills in what was left open.
    ///
    /// # Errors
    /// A setting is not allowed.
    pub fn resolve(self) -> anyhow::Result<ServerConfig> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
        if !listen.ip().is_loopback() && !self.insecure {
            bail!(
                "--listen {listen} can be reached by others, and this version has no keys: anybody there could read and delete everything. Listen on 127.0.0.1, or add --insecure if the network is yours alone."
            );
        }
        // Left alone, as many jobs run at once as have room on the cores. Results depend on the threads, so their number does not
        // depend on what else runs.
        let workers = self.workers.unwrap_or(cores);
        let threads = self.threads.unwrap_or((cores / self.workers.unwrap_or(cores / 2).max(1)).max(1));
        for (name, value) in [
            ("--workers", workers),
            ("--threads", threads),
            ("--inference-threads", self.inference_threads.unwrap_or(1)),
        ] {
            if value > 1024 || value == 0 {
                bail!("{name} is {value}; allowed are 1 to 1024");
            }
        }
        if let Some(mib) = self.trainer_mib.filter(|mib| !TRAINER_MIB.contains(mib)) {
            bail!("--trainer-mib is {mib}; allowed are {} to {}", TRAINER_MIB.start(), TRAINER_MIB.end());
        }
        if self.workers.is_some() && workers * threads > cores {
            eprintln!(
                "warning: {workers} workers with {threads} threads each are more than the {cores} cores of this machine; training will be slower than with fewer"
            );
        }
        let executable = std::env::current_exe().context("this program cannot find its own file")?;
        Ok(ServerConfig {
            listen,
            data: self.data.unwrap_or_else(|| PathBuf::from("latente-data")),
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            jobs: JobsConfig {
                workers,
                cores: self.workers.is_none().then_some(cores),
                trainer: TrainerConfig { executable, threads, memory_bytes: self.trainer_mib.map(|mib| mib * MIB) },
                copies: self.trainer_copies.unwrap_or(true),
            },
            serving: ServingConfig {
                threads: self.inference_threads.unwrap_or(cores).max(1),
                resident_bytes: self.resident_mib.unwrap_or(1024) * MIB,
            },
            http: HttpConfig {
                upload_bytes: self.upload_mib.unwrap_or(4096) * MIB,
                dataset_bytes: self.dataset_mib.unwrap_or(16_384) * MIB,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("latente.toml");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_directory, path) = file("workers = 3\nthreads = 2\nlisten = \"127.0.0.1:9\"\ntrainer_mib = 512");
        let flags = Settings { workers: Some(1), ..Settings::default() };
        let config = flags.with_file(Some(&path)).unwrap().resolve().unwrap();
        assert_eq!((config.jobs.workers, config.jobs.trainer.threads, config.listen.port()), (1, 2, 9));
        assert_eq!(config.http.upload_bytes, 4096 * MIB);
        assert_eq!(config.jobs.trainer.memory_bytes, Some(512 * MIB));
        let fault = Settings { trainer_mib: Some(1), ..Settings::default() }.resolve().unwrap_err().to_string();
        assert!(fault.contains("--trainer-mib is 1"), "{fault}");
    }

    #[test]
    fn an_unknown_line_of_the_file_is_named() {
        let (_directory, path) = file("worker = 3");
        let fault = format!("{:#}", Settings::default().with_file(Some(&path)).unwrap_err());
        assert!(fault.contains("worker") && fault.contains("workers"), "{fault}");
    }

    #[test]
    fn an_open_address_is_refused_unless_it_is_insisted_on() {
        let open = Settings { listen: Some("0.0.0.0:80".parse().unwrap()), ..Settings::default() };
        assert!(open.clone().resolve().unwrap_err().to_string().contains("--insecure"));
        assert!(Settings { insecure: true, ..open }.resolve().is_ok());
    }
}
