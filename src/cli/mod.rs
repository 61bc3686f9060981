//! The command line.
//!
//! `serve` runs the server, `train` trains without one, `inspect` says what is in a file, `export` makes files for other programs,
//! `doctor` says what works on this machine.
//! `trainer` is what `serve` and `train` start for each job; it is hidden, because its messages are for programs.

mod doctor;
mod export;
mod file;
mod inspect;
mod train;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::config::Settings;
use crate::domain::refusal::Refusal;
use crate::{app, jobs, telemetry};

/// Training-as-a-service for autoencoders: upload data, train, then encode, decode, reconstruct and sample over HTTP.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve {
        #[command(flatten)]
        settings: Settings,
        /// A TOML file with any of the settings above, with `_` for `-`: `workers = 2`.
        #[arg(long, env = "LATENTE_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Train a model without a server: a file in, a safetensors model out.
    Train(train::Train),
    /// Say what is in a file: its columns, what they hold, and what may need a second thought.
    Inspect(inspect::Inspect),
    /// Make an ONNX or TorchScript file of a model, for other programs.
    Export(export::Export),
    /// Say what works on this machine and what does not.
    Doctor {
        #[command(flatten)]
        settings: Settings,
        /// A TOML file with settings.
        #[arg(long, env = "LATENTE_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Train what a directory says (started by the others).
    #[command(hide = true)]
    Trainer {
        /// The directory with the request.
        #[arg(required_unless_present_any = ["probe", "template"])]
        directory: Option<PathBuf>,
        /// Bytes of memory that this process may have of its own.
        #[arg(long)]
        memory_bytes: Option<u64>,
        /// Only say what libtorch finds here.
        #[arg(long)]
        probe: bool,
        /// Become a trainer in each copy that standard input, a socket, asks for.
        #[arg(long)]
        template: bool,
    },
}

/// Runs the command of this process.
///
/// # Errors
/// For people: what went wrong.
pub fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Serve { settings, config } => {
            let config = settings.with_file(config.as_deref())?.resolve()?;
            telemetry::start(&config.log)?;
            let runtime = runtime()?;
            let outcome = runtime.block_on(app::serve(config));
            // A file that is being read must not hold up the end: nothing of it is recorded yet.
            runtime.shutdown_background();
            outcome
        }
        Command::Train(command) => runtime()?.block_on(command.run()),
        Command::Inspect(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Doctor { settings, config } => {
            let config = settings.with_file(config.as_deref())?.resolve()?;
            runtime()?.block_on(doctor::run(&config))
        }
        Command::Trainer { probe: true, .. } => jobs::trainer::probe(),
        Command::Trainer { template: true, .. } => match jobs::template::run()? {
            Some(birth) => train(&birth.directory, birth.memory_bytes),
            None => Ok(()),
        },
        Command::Trainer { directory, memory_bytes, .. } => train(&directory.unwrap_or_default(), memory_bytes),
    }
}

fn train(directory: &Path, memory_bytes: Option<u64>) -> anyhow::Result<()> {
    if let Some(bytes) = memory_bytes {
        jobs::trainer::limit_memory(bytes)?;
    }
    jobs::trainer::run(directory)
}

/// Every fault of a refusal, for people.
fn faults(heading: &str, refusal: &Refusal) -> anyhow::Error {
    let lines: Vec<String> =
        refusal.errors.iter().map(|fault| format!("\n  {} {}", fault.pointer, fault.detail)).collect();
    if lines.is_empty() {
        anyhow::anyhow!("{}", refusal.detail)
    } else {
        anyhow::anyhow!("{heading}:{}", lines.concat())
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
