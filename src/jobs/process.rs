//! A trainer process, seen from the worker that drives it.
//!
//! libtorch's thread counts are fixed when it loads, so they are set in the child's environment. The child is in a process
//! group of its own: a Ctrl-C at a terminal reaches the server alone, which then asks its children to stop.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::messages::{Message, Order, REQUEST, RESUME, Request};
use crate::domain::limits::{LOG_LINE_BYTES, TRAINER_MESSAGE_BYTES};
use crate::training::device::Devices;

/// Messages that wait for the worker before the trainer has to.
const MESSAGES: usize = 256;
/// How much of a trainer's last words is kept.
const LAST_WORDS_BYTES: usize = 4096;
/// Lines of its standard error that wait for the worker. What comes beyond them is lost to the log.
const SAID_LINES: usize = 1024;

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

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        let threads = self.threads.max(1).to_string();
        command.arg("trainer");
        if let Some(bytes) = self.memory_bytes {
            command.arg("--memory-bytes").arg(bytes.to_string());
            // A backtrace takes memory. Where there is none left, a process that wants one waits for itself for ever.
            command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
            // Tensors of a MiB and more go back to the system as soon as they are dropped. Left to itself glibc keeps ever larger
            // ones, and what it keeps in pieces counts against the limit too.
            command.env("MALLOC_MMAP_THRESHOLD_", "1048576");
        }
        command.env("OMP_NUM_THREADS", &threads).env("MKL_NUM_THREADS", &threads);
        // Threads that wait for each other spin for some microseconds, then sleep:
        // libgomp's own choice made a trainer beside two busy processes on two cores twice as slow as this; threads that
        // sleep at once made it half as fast alone.
        command.env("GOMP_SPINCOUNT", "20000");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
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

/// A running trainer. It is killed when this is dropped.
pub struct TrainerProcess {
    child: Child,
    orders: ChildStdin,
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
        config: &TrainerConfig,
        directory: &Path,
        request: &Request,
        resume: Option<&[u8]>,
    ) -> std::io::Result<Self> {
        tokio::fs::write(directory.join(REQUEST), serde_json::to_vec(request)?).await?;
        if let Some(checkpoint) = resume {
            tokio::fs::write(directory.join(RESUME), checkpoint).await?;
        }
        let mut child = config.command().arg(directory).spawn()?;
        let orders = child.stdin.take().expect("standard input is piped");
        let errors = child.stderr.take().expect("standard error is piped");
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let (sender, messages) = mpsc::channel(MESSAGES);
        tokio::spawn(read_messages(lines, sender));
        let (speaker, said) = mpsc::channel(SAID_LINES);
        let last_words = tokio::spawn(listen(errors, speaker));
        Ok(Self { child, orders, messages, said, last_words, directory: directory.to_owned() })
    }

    /// What it said on standard error since this was last asked, as lines.
    pub fn heard(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.said.try_recv().ok()).collect()
    }

    /// The operating system's number of the process, for the log.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
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
            let _ = self.child.start_kill();
        }
        drop(self.orders);
        let status = self.child.wait().await;
        let last_words = self.last_words.await.unwrap_or_default();
        let said = std::iter::from_fn(|| self.said.try_recv().ok()).collect();
        Ending { status, last_words, said }
    }
}

/// Reads standard error to its end: cut into lines for the log, and its last part for whoever asks why it ended. It must not wait
/// for anybody, or the trainer would.
async fn listen(mut errors: ChildStderr, speaker: mpsc::Sender<String>) -> String {
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

async fn read_messages(mut lines: BufReader<tokio::process::ChildStdout>, sender: mpsc::Sender<Message>) {
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
