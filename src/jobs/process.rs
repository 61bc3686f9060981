//! A trainer process, seen from the worker that drives it.
//!
//! It is a copy of a process that has libtorch loaded already (`nursery`), or it is started by itself. libtorch's thread
//! counts are fixed when it loads, so they are set in the environment. The child is in a process
//! group of its own: a Ctrl-C at a terminal reaches the server alone, which then asks its children to stop.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::messages::{Message, Order, REQUEST, RESUME, Request};
use super::nursery::{Copied, Nursery};
use crate::domain::limits::{LOG_LINE_BYTES, TRAINER_MESSAGE_BYTES};
use crate::training::device::Devices;

/// Messages that wait for the worker before the trainer has to.
const MESSAGES: usize = 256;
/// How much of a trainer's last words is kept.
const LAST_WORDS_BYTES: usize = 4096;
/// Lines of its standard error that wait for the worker. What comes beyond them is lost to the log.
const SAID_LINES: usize = 1024;
/// Where memory is limited, tensors of so many bytes and more go back to the system as soon as they are dropped. Left to itself glibc
/// keeps ever larger ones, and what it keeps in pieces counts against the limit too.
pub(super) const LARGE_BYTES: i32 = 1 << 20;
/// Elsewhere tensors of up to so many bytes, the most that glibc allows, are given memory that is kept when they are dropped, up to
/// `FREE_BYTES` of it: each step drops what the next one needs again, and to be given it by the system anew took a twelfth of the
/// time of a job with convolutions.
pub(super) const KEPT_BYTES: i32 = 32 << 20;
pub(super) const FREE_BYTES: i32 = 1 << 30;

/// How trainers are started.
#[derive(Clone, Debug)]
pub struct TrainerConfig {
    /// This program.
    pub executable: PathBuf,
    /// Threads of one operation in each trainer.
    pub threads: usize,
    /// Bytes of memory that each trainer may have of its own; the rows it reads do not count. No limit when it is absent.
    pub memory_bytes: Option<u64>,
}

impl TrainerConfig {
    /// The same with another limit of memory.
    pub fn with_memory(&self, memory_bytes: Option<u64>) -> Self {
        Self { memory_bytes, ..self.clone() }
    }

    /// This program with what holds for every trainer.
    pub(super) fn bare_command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        let threads = self.threads.max(1).to_string();
        command.env("OMP_NUM_THREADS", &threads).env("MKL_NUM_THREADS", &threads);
        // Threads that wait for each other spin for some microseconds, then sleep:
        // libgomp's own choice made a trainer beside two busy processes on two cores twice as slow as this; threads that
        // sleep at once made it half as fast alone.
        command.env("GOMP_SPINCOUNT", "20000");
        command.kill_on_drop(true).process_group(0);
        command
    }

    fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg("trainer");
        if let Some(bytes) = self.memory_bytes {
            command.arg("--memory-bytes").arg(bytes.to_string());
            // A backtrace takes memory. Where there is none left, a process that wants one waits for itself for ever.
            command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
            command.env("MALLOC_MMAP_THRESHOLD_", LARGE_BYTES.to_string());
        } else {
            command.env("MALLOC_MMAP_THRESHOLD_", KEPT_BYTES.to_string());
            command.env("MALLOC_TRIM_THRESHOLD_", FREE_BYTES.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Asks a child what libtorch finds here, so that the server itself never wakes CUDA.
    ///
    /// # Errors
    /// The child cannot be started or does not answer as expected.
    pub async fn probe(&self) -> std::io::Result<Devices> {
        let output = self.command().arg("--probe").output().await?;
        let words = String::from_utf8_lossy(&output.stderr);
        let broken = |fault: String| std::io::Error::other(format!("{fault}; it said: {}", words.trim()));
        if !output.status.success() {
            return Err(broken(format!("the trainer ended with {}", output.status)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| broken(error.to_string()))
    }
}

/// Starts trainers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trainers {
    /// How they are started by themselves.
    pub config: TrainerConfig,
    nursery: Option<Arc<Nursery>>,
}

impl Trainers {
    /// Each is started by itself, and loads libtorch.
    pub fn fresh(config: TrainerConfig) -> Self {
        Self { config, nursery: None }
    }

    /// They are copies of a process that has libtorch loaded already.
    pub fn copied(config: TrainerConfig) -> Self {
        Self { nursery: Some(Arc::new(Nursery::new(config.clone()))), config }
    }

    /// The same with another limit of memory.
    pub fn with_memory(&self, memory_bytes: Option<u64>) -> Self {
        Self { config: self.config.with_memory(memory_bytes), nursery: self.nursery.clone() }
    }

    /// Gets everything ready that the first trainer would have to wait for.
    pub async fn warm_up(&self) {
        if let Some(nursery) = &self.nursery {
            nursery.warm_up().await;
        }
    }

    /// Ends what was got ready.
    pub async fn close(&self) {
        if let Some(nursery) = &self.nursery {
            nursery.close().await;
        }
    }

    /// A trainer on the request in `directory`, and this side's ends of its standard streams.
    async fn start(&self, directory: &Path) -> std::io::Result<(Body, pipe::Sender, [pipe::Receiver; 2])> {
        let ((orders, input), (output, messages), (errors, words)) = (pipe::pipe()?, pipe::pipe()?, pipe::pipe()?);
        let (input, output, errors) =
            (input.into_blocking_fd()?, output.into_blocking_fd()?, errors.into_blocking_fd()?);
        let streams = [input.as_fd(), output.as_fd(), errors.as_fd()];
        let copied = match &self.nursery {
            Some(nursery) => nursery.copy(directory, self.config.memory_bytes, streams).await,
            None => None,
        };
        let body = match copied {
            Some(Ok(copied)) => Body::Copied(copied),
            other => {
                if let Some(Err(error)) = other {
                    tracing::warn!(%error, "A trainer could not be copied; it is started by itself");
                }
                let mut command = self.config.command();
                command.arg(directory).stdin(input).stdout(output).stderr(errors);
                Body::Own(command.spawn()?)
            }
        };
        Ok((body, orders, [messages, words]))
    }
}

/// The process of a trainer. It is killed when this is dropped.
enum Body {
    Own(Child),
    Copied(Copied),
}

impl Body {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Own(child) => child.id(),
            Self::Copied(copied) => Some(copied.pid()),
        }
    }

    fn kill(&mut self) {
        match self {
            // One that has ended is as good as killed.
            Self::Own(child) => drop(child.start_kill()),
            Self::Copied(copied) => copied.kill(),
        }
    }

    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        match self {
            Self::Own(child) => child.wait().await,
            Self::Copied(copied) => copied.wait().await,
        }
    }
}

/// A running trainer. It is killed when this is dropped.
pub struct TrainerProcess {
    body: Body,
    orders: pipe::Sender,
    messages: mpsc::Receiver<Message>,
    said: mpsc::Receiver<String>,
    last_words: JoinHandle<String>,
    directory: PathBuf,
}

/// How a trainer ended.
pub struct Ending {
    /// What the system says.
    pub status: std::io::Result<ExitStatus>,
    /// The end of what it said on standard error.
    pub last_words: String,
    /// Lines of it that were not yet heard.
    pub said: Vec<String>,
}

impl TrainerProcess {
    /// Writes the request into `directory` and starts a trainer on it.
    ///
    /// # Errors
    /// The files cannot be written or the process cannot be started.
    pub async fn start(
        trainers: &Trainers,
        directory: &Path,
        request: &Request,
        resume: Option<&[u8]>,
    ) -> std::io::Result<Self> {
        tokio::fs::write(directory.join(REQUEST), serde_json::to_vec(request)?).await?;
        if let Some(checkpoint) = resume {
            tokio::fs::write(directory.join(RESUME), checkpoint).await?;
        }
        let (body, orders, [output, errors]) = trainers.start(directory).await?;
        let (sender, messages) = mpsc::channel(MESSAGES);
        tokio::spawn(read_messages(BufReader::new(output), sender));
        let (speaker, said) = mpsc::channel(SAID_LINES);
        let last_words = tokio::spawn(listen(errors, speaker));
        Ok(Self { body, orders, messages, said, last_words, directory: directory.to_owned() })
    }

    /// What it said on standard error since this was last asked, as lines.
    pub fn heard(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.said.try_recv().ok()).collect()
    }

    /// The operating system's number of the process, for the log.
    pub fn pid(&self) -> Option<u32> {
        self.body.pid()
    }

    /// Waits for messages and moves all there are into `batch`; leaves it empty when the process has closed its output.
    pub async fn receive(&mut self, batch: &mut Vec<Message>) {
        self.messages.recv_many(batch, MESSAGES).await;
    }

    /// Gives an order. A process that has ended does not hear it.
    pub async fn order(&mut self, order: Order) {
        let mut line = serde_json::to_string(&order).expect("orders are JSON");
        line.push('\n');
        let _ = self.orders.write_all(line.as_bytes()).await;
    }

    /// Reads a file that a message named, and removes it.
    ///
    /// # Errors
    /// It is not there.
    pub async fn take_file(&self, name: &str) -> std::io::Result<Vec<u8>> {
        let path = self.directory.join(name);
        let data = tokio::fs::read(&path).await?;
        tokio::fs::remove_file(path).await?;
        Ok(data)
    }

    /// Kills the process where it still runs, and tells how it ended.
    pub async fn end(mut self, kill: bool) -> Ending {
        if kill {
            self.body.kill();
        }
        drop(self.orders);
        let status = self.body.wait().await;
        let last_words = self.last_words.await.unwrap_or_default();
        let said = std::iter::from_fn(|| self.said.try_recv().ok()).collect();
        Ending { status, last_words, said }
    }
}

/// Reads standard error to its end: cut into lines for the log, and its last part for whoever asks why it ended. It must not wait
/// for anybody, or the trainer would.
async fn listen(mut errors: pipe::Receiver, speaker: mpsc::Sender<String>) -> String {
    let (mut words, mut line, mut buffer) = (Vec::new(), Vec::new(), [0; 1024]);
    let tell = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        line.clear();
        if !text.is_empty() {
            let _ = speaker.try_send(text);
        }
    };
    while let Ok(count @ 1..) = errors.read(&mut buffer).await {
        words.extend_from_slice(&buffer[..count]);
        let surplus = words.len().saturating_sub(LAST_WORDS_BYTES);
        words.drain(..surplus);
        for byte in &buffer[..count] {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() >= LOG_LINE_BYTES {
                tell(&mut line);
            }
        }
    }
    tell(&mut line);
    String::from_utf8_lossy(&words).trim().to_owned()
}

async fn read_messages(mut lines: BufReader<pipe::Receiver>, sender: mpsc::Sender<Message>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut lines).take(TRAINER_MESSAGE_BYTES as u64);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(1..) if line.ends_with(b"\n") => {}
            _ => return,
        }
        match serde_json::from_slice(&line) {
            Ok(message) => {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "A trainer sent a line that is no message");
                return;
            }
        }
    }
}
