//! Makes a file of a part of a model in a process of its own.
//!
//! Recording what a model does is libtorch's business, and takes as much memory as the model several times over. As with
//! trainers, whatever goes wrong there ends one answer and never the API, and the memory comes back for certain.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::process::TrainerConfig;
use crate::domain::refusal::{Code, Refusal};
use crate::training::export::{Form, Part};

/// Longer than the largest model takes.
const PATIENCE: Duration = Duration::from_secs(300);
const MODEL: &str = "model.safetensors";
const FILE: &str = "exported";

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportFault {
    /// The server has too much to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The process could not be started, or its files not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The process failed; with its last words.
    #[error("the export failed: {0}")]
    Failed(String),
}

/// A part of the model that `model` are the bytes of, as a file of that form. What is written meanwhile is in `directory`.
///
/// # Errors
/// The process could not be started, or it failed.
pub async fn export(
    config: &TrainerConfig,
    directory: &Path,
    model: &[u8],
    part: Part,
    form: Form,
) -> Result<Vec<u8>, ExportFault> {
    tokio::fs::write(directory.join(MODEL), model).await?;
    let mut command = Command::new(&config.executable);
    command.arg("export").arg(directory.join(MODEL)).arg("--output").arg(directory.join(FILE));
    command.args(["--form", form.as_str(), "--part", part.as_str()]);
    command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let overdue = |_| Refusal::new(Code::Overloaded, "the export took too long; try again when less is going on");
    let output = tokio::time::timeout(PATIENCE, command.output()).await.map_err(overdue)??;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ExportFault::Failed(format!("{} ({words})", output.status)));
    }
    Ok(tokio::fs::read(directory.join(FILE)).await?)
}
