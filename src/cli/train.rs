//! Training without a server: the same trainer process, with a progress bar in front of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::faults;
use super::file::FileArgs;
use crate::domain::job::Progress;
use crate::domain::metric::Metric;
use crate::jobs::messages::{INIT, Message, Order, Request, Task};
use crate::jobs::process::{Ending, TrainerConfig, TrainerProcess, Trainers};
use crate::training::observer::Chosen;
use crate::training::presets::presets;
use crate::training::spec::TrainSpec;

/// Stands for the file in the spec: there is no dataset, and the same file must give the same model file.
const NO_DATASET: &str = "ds_00000000000000000000000000000000";

/// Train a model without a server.
#[derive(Args, Debug)]
pub(super) struct Train {
    #[command(flatten)]
    file: FileArgs,
    /// The model file to write (safetensors).
    #[arg(long, short, default_value = "model.safetensors")]
    output: PathBuf,
    /// The family, such as autoencoder, denoising, vae or helmholtz.
    #[arg(long, default_value = "autoencoder")]
    family: String,
    /// The whole job spec as JSON, or `@file`; `dataset` may be left out, and --family is not used then.
    #[arg(long, value_name = "JSON")]
    spec: Option<String>,
    /// A preset to begin with, such as vae-images; --family is not used then.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["spec", "family"])]
    preset: Option<String>,
    /// Width of the code.
    #[arg(long)]
    latent: Option<u32>,
    /// Passes over the training rows, at most.
    #[arg(long)]
    epochs: Option<u32>,
    /// Everything random depends on it.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads of one operation. [default: the cores]
    #[arg(long, env = "LATENTE_THREADS")]
    threads: Option<usize>,
    /// A model file whose weights training begins with, of the same family and network.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Where to write the figures of the model, as JSON.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// No bar; for logs.
    #[arg(long, short)]
    quiet: bool,
}

impl Train {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let scratch = tempfile::tempdir()?;
        let rows_path = scratch.path().join("rows.f32");
        let (file, target) = (self.file.clone(), rows_path.clone());
        let ingested = tokio::task::spawn_blocking(move || file.read(&target)).await??;
        let spec = self
            .spec()?
            .resolve(&ingested.schema, ingested.rows)
            .map_err(|refusal| faults("the job is not allowed", &refusal))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let trainer = TrainerConfig {
            executable: std::env::current_exe()?,
            threads: self.threads.unwrap_or(cores),
            memory_bytes: None,
        };
        if spec.init_from.is_some() {
            bail!("init_from names a model of a server; without one, give its file by --init");
        }
        if let Some(init) = &self.init {
            std::fs::copy(init, scratch.path().join(INIT)).with_context(|| format!("--init: {}", init.display()))?;
        }
        let request = Request {
            spec,
            schema: ingested.schema,
            rows_path,
            rows: ingested.rows,
            left_ms: None,
            rest_at: None,
            every_epoch: false,
            task: Task::Train,
            inference: None,
        };
        let process = TrainerProcess::start(&Trainers::fresh(trainer), scratch.path(), &request, None).await?;
        let (metrics, artifact) = self.follow(process, request.spec.epochs()).await?;
        write_aside(&self.output, &artifact)?;
        let figures: std::collections::BTreeMap<&str, f64> =
            metrics.iter().map(|metric| (metric.name.as_str(), metric.value)).collect();
        if let Some(path) = &self.metrics {
            write_aside(path, serde_json::to_string_pretty(&figures)?.as_bytes())?;
        }
        for (name, value) in &figures {
            println!("{name:<28} {value:.6}");
        }
        println!("model written to {}", self.output.display());
        Ok(())
    }

    fn spec(&self) -> anyhow::Result<TrainSpec> {
        let mut json: serde_json::Value = match (self.spec.as_deref(), self.preset.as_deref()) {
            (None, None) => serde_json::json!({"model": {"family": self.family}}),
            (None, Some(name)) => preset(name)?,
            (Some(text), _) => {
                let text = match text.strip_prefix('@') {
                    Some(path) => {
                        std::fs::read_to_string(path).with_context(|| format!("--spec: {path} cannot be read"))?
                    }
                    None => text.to_owned(),
                };
                serde_json::from_str(&text).context("--spec is not JSON")?
            }
        };
        let object = json.as_object_mut().ok_or_else(|| anyhow!("--spec is not an object"))?;
        object.entry("dataset").or_insert_with(|| NO_DATASET.into());
        let mut set = |path: [&str; 3], value: Option<serde_json::Value>| -> anyhow::Result<()> {
            let Some(value) = value else { return Ok(()) };
            let mut place = &mut json;
            for key in path.into_iter().filter(|key| !key.is_empty()) {
                place = place
                    .as_object_mut()
                    .ok_or_else(|| anyhow!("--spec: `{key}` is not in an object"))?
                    .entry(key)
                    .or_insert_with(|| serde_json::json!({}));
            }
            *place = value;
            Ok(())
        };
        set(["model", "settings", "latent"], self.latent.map(Into::into))?;
        set(["training", "epochs", ""], self.epochs.map(Into::into))?;
        set(["training", "seed", ""], self.seed.map(Into::into))?;
        serde_path_to_error::deserialize(&json).map_err(|error| anyhow!("--spec: {}: {}", error.path(), error.inner()))
    }

    /// Shows progress until the trainer has ended.
    async fn follow(&self, mut process: TrainerProcess, epochs: u32) -> anyhow::Result<(Vec<Metric>, Vec<u8>)> {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(u64::from(epochs)) };
        bar.set_style(
            ProgressStyle::with_template("{bar:30} epoch {pos}/{len}  {msg}").expect("the template is right"),
        );
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = process.receive(&mut batch) => {}
                _ = &mut interrupted => bail!("interrupted; no model was written"),
            }
            if batch.is_empty() {
                let Ending { status, last_words: words, .. } = process.end(false).await;
                bail!("the trainer ended without a result ({}) {words}", status?);
            }
            for message in batch.drain(..) {
                match message {
                    Message::Progress(progress) => show(&bar, &progress),
                    Message::Epoch { epoch, .. } => bar.set_position(u64::from(epoch)),
                    Message::Chosen(Chosen { text, .. }) => bar.suspend(|| eprintln!("{text}")),
                    Message::Warning { text } => bar.suspend(|| eprintln!("warning: {text}")),
                    Message::Checkpoint { file, .. } => {
                        let _ = process.take_file(&file).await;
                        process.order(Order::Stored).await;
                    }
                    Message::Finished { metrics, file, .. } => {
                        bar.finish();
                        return Ok((metrics, process.take_file(&file).await?));
                    }
                    Message::Failed { error } => return Err(faults("the job failed", &error)),
                    Message::Stopped => bail!("the trainer was stopped"),
                    Message::Started(_) | Message::Split { .. } | Message::Phase { .. } | Message::Probed { .. } => {}
                    // What only jobs of inference say.
                    Message::Answering { .. } | Message::Rows { .. } | Message::Answered { .. } => {}
                }
            }
        }
    }
}

fn preset(name: &str) -> anyhow::Result<serde_json::Value> {
    let all = presets();
    let names: Vec<&str> = all.iter().map(|preset| preset.name.as_str()).collect();
    let found = all.iter().find(|preset| preset.name == name);
    found
        .map(|preset| preset.spec.clone())
        .ok_or_else(|| anyhow!("--preset: there is no `{name}`; there are {}", names.join(", ")))
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let part = |value: Option<f64>, digits: usize, unit: &str| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}{unit}  "))
    };
    bar.set_message(format!(
        "loss {}{}{}",
        part(progress.loss, 4, ""),
        part(progress.rows_per_second, 0, " rows/s"),
        part(progress.eta_seconds, 0, " s left")
    ));
}

/// Writes a file so that it is either whole or not there.
fn write_aside(path: &Path, data: &[u8]) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(directory).with_context(|| format!("{} cannot be written", path.display()))?;
    std::io::Write::write_all(&mut file, data)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
