//! The trainer process: reads what to train, trains, and reports on its standard output.
//!
//! It knows no database and no network. When its standard input ends, its worker is gone, and it exits at once: what it
//! has done since its last checkpoint will be done again.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::answerer;
use super::fork::leave;
use super::messages::{INIT, Message, Order, REQUEST, RESUME, Request, Task};
use crate::data::rows::RowFile;
use crate::domain::job::{Phase, Progress};
use crate::domain::refusal::{Code, Refusal};
use crate::training::artifact::TrainedModel;
use crate::training::checkpoint::{Checkpoint, RunState};
use crate::training::device::Devices;
use crate::training::observer::{Observer, Report};
use crate::training::probe::{self as look, Probed};
use crate::training::stopping::StopFlag;
use crate::training::{Assignment, Finished, Outcome, TrainError, train};

/// Progress goes out this often at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Checkpoints are as far apart at least: what is lost without one is trained again sooner than it would be stored. The first of a
/// process comes as soon as it can, so that whatever is killed again and again still gets on.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(200);
const MODEL: &str = "model.safetensors";

/// Allows this process so many bytes of memory of its own, from here on. Files that are mapped do not count.
///
/// # Errors
/// The system does not take the limit.
pub fn limit_memory(bytes: u64) -> anyhow::Result<()> {
    let before = getrlimit(Resource::Data);
    let bytes = before.maximum.map_or(bytes, |most| most.min(bytes));
    setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: before.maximum })?;
    Ok(())
}

/// The refusal of a job that needs more memory than there is.
pub(super) fn out_of_memory() -> Refusal {
    Refusal::new(
        Code::OutOfMemory,
        "Training ran out of memory. A smaller training.batch_size or a narrower network needs less.",
    )
}

/// Whether a trainer that died said that it was for want of memory: Rust and C++ end a process then.
pub(super) fn says_out_of_memory(words: &str) -> bool {
    let lower = words.to_lowercase();
    ["memory allocation of", "bad_alloc", "can't allocate memory", "cannot allocate memory"]
        .iter()
        .any(|sign| lower.contains(sign))
}

/// Trains what `directory` says, and ends this process.
///
/// # Errors
/// The request cannot be read; everything later is reported as a message.
pub fn run(directory: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let request: Request = serde_json::from_slice(&std::fs::read(directory.join(REQUEST))?)?;
    let deadline = request.left_ms.and_then(|left| began.checked_add(Duration::from_millis(left)));
    let stop = StopFlag::until(deadline).after_epoch(request.rest_at);
    let busy = Arc::new(AtomicBool::new(false));
    obey(stop.clone(), Arc::clone(&busy));
    let mut reporter = Reporter {
        directory: directory.to_owned(),
        busy,
        sent: None,
        unsent: None,
        checkpoints: 0,
        checkpoint: None,
        every_epoch: request.every_epoch,
        phase: None,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| match &request.inference {
        Some(asked) => answerer::work(&request, asked, directory, &mut reporter, &stop),
        None => work(&request, directory, &mut reporter, &stop).and_then(|outcome| said(outcome, directory)),
    }));
    if let Some(progress) = reporter.unsent.take() {
        send(&Message::Progress(progress));
    }
    let last = match outcome {
        Ok(Ok(last)) => last,
        Ok(Err(error)) => Message::Failed { error },
        Err(panic) => Message::Failed { error: explain(&*panic) },
    };
    send(&last);
    leave()
}

/// The last message of a training.
fn said(done: Done, directory: &Path) -> Result<Message, Refusal> {
    let Finished { stop_reason, metrics, artifact } = match done {
        Done::Trained(Outcome::Finished(finished)) => finished,
        Done::Trained(Outcome::Stopped) => return Ok(Message::Stopped),
        Done::Probed(probed, peak_bytes) => return Ok(Message::Probed { probed, peak_bytes }),
    };
    std::fs::write(directory.join(MODEL), artifact).map_err(|error| {
        eprintln!("the model could not be written: {error}");
        Refusal::new(Code::Internal, "The model could not be written.")
    })?;
    Ok(Message::Finished { stop_reason, metrics, file: MODEL.to_owned() })
}

/// Prints what libtorch finds here, as JSON.
///
/// # Errors
/// Standard output is closed.
pub fn probe() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&Devices::probe())?);
    Ok(())
}

/// What came of a request.
enum Done {
    Trained(Outcome),
    Probed(Probed, Option<u64>),
}

fn work(request: &Request, directory: &Path, reporter: &mut Reporter, stop: &StopFlag) -> Result<Done, Refusal> {
    let internal = |what: &str, error: &dyn std::fmt::Display| {
        eprintln!("{what}: {error}");
        Refusal::new(Code::Internal, what)
    };
    let kept = request.schema.kept().count();
    let rows = RowFile::open(&request.rows_path, kept, request.rows)
        .map_err(|error| internal("The rows of the dataset cannot be read.", &error))?;
    let device = Devices::probe().choose(request.spec.training.device)?;
    let threads = request.spec.threads(&request.schema, tch::get_num_threads().max(1) as u32);
    tch::set_num_threads(threads as i32);
    let assignment = Assignment { spec: &request.spec, schema: &request.schema, rows: &rows, device };
    let refusal = |error| match error {
        TrainError::Refused(refusal) => refusal,
        TrainError::Checkpoint(fault) if directory.join(INIT).exists() => Refusal::at(
            Code::InvalidRequest,
            "/init_from",
            "another_network",
            format!("names a model whose weights do not fit this job: {fault}"),
        ),
        other @ TrainError::Checkpoint(_) => internal("The checkpoint does not fit the job.", &other),
    };
    if let Task::Probe { ms } = request.task {
        let probed = look::probe(&assignment, Duration::from_millis(ms)).map_err(refusal)?;
        return Ok(Done::Probed(probed, if device.is_cuda() { None } else { peak_bytes() }));
    }
    let resume = match std::fs::read(directory.join(RESUME)) {
        Ok(bytes) => {
            Some(Checkpoint::from_bytes(&bytes).map_err(|error| internal("The checkpoint cannot be read.", &error))?)
        }
        Err(_) => match std::fs::read(directory.join(INIT)) {
            Ok(bytes) => {
                let model = TrainedModel::read(&bytes, device)
                    .map_err(|error| internal("The model to begin with cannot be read.", &error))?;
                let beginning = model.beginning(&request.spec);
                Some(beginning.map_err(|error| internal("The model to begin with cannot be read.", &error))?)
            }
            Err(_) => None,
        },
    };
    train(&assignment, resume, reporter, stop).map(Done::Trained).map_err(refusal)
}

/// The most memory that this process had so far beside mapped files.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let find = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(find("VmHWM:")?.saturating_sub(find("RssFile:")?) << 10)
}

/// What a panic of libtorch means to the person who asked. Its own words stay in the log.
fn explain(panic: &(dyn std::any::Any + Send)) -> Refusal {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("");
    let lower = text.to_lowercase();
    if lower.contains("out of memory") || lower.contains("can't allocate memory") || lower.contains("not enough memory")
    {
        return out_of_memory();
    }
    Refusal::new(Code::Internal, "The trainer failed; the server's log has the reason.")
}

/// Listens to the worker on a thread of its own.
fn obey(stop: StopFlag, busy: Arc<AtomicBool>) {
    std::thread::Builder::new()
        .name("orders".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
                    Some(Order::Stored) => busy.store(false, Ordering::Release),
                    Some(Order::Stop) => stop.raise(),
                    None => break,
                }
            }
            std::process::exit(0);
        })
        .expect("a thread can be started");
}

/// Turns reports into messages and files.
pub(super) struct Reporter {
    directory: PathBuf,
    /// A checkpoint is on its way into the database.
    busy: Arc<AtomicBool>,
    sent: Option<Instant>,
    /// The latest, when it came too soon after another.
    unsent: Option<Progress>,
    checkpoints: u64,
    /// When the last was made.
    checkpoint: Option<Instant>,
    every_epoch: bool,
    phase: Option<Phase>,
}

impl Reporter {
    /// So many rows of an answer are on the disk.
    pub(super) fn counted(&self, rows: u64) {
        self.busy.store(true, Ordering::Release);
        send(&Message::Rows { rows });
    }
}

impl Observer for Reporter {
    fn observe(&mut self, report: Report<'_>) {
        match report {
            Report::Phase(phase) => {
                if self.phase != Some(phase) {
                    self.phase = Some(phase);
                    send(&Message::Phase { phase });
                }
            }
            Report::Split(split) => {
                let rows = [&split.train, &split.validation, &split.test].map(|part| part.len() as u64);
                let file = "split".to_owned();
                match split.to_bytes().and_then(|bytes| std::fs::write(self.directory.join(&file), bytes)) {
                    Ok(()) => send(&Message::Split { file, rows }),
                    Err(error) => eprintln!("the split could not be written: {error}"),
                }
            }
            Report::Started(started) => send(&Message::Started(started)),
            Report::Progress(progress) => {
                if self.sent.is_none_or(|sent| sent.elapsed() >= PROGRESS_INTERVAL) {
                    (self.sent, self.unsent) = (Some(Instant::now()), None);
                    send(&Message::Progress(progress));
                } else {
                    self.unsent = Some(progress);
                }
            }
            Report::Epoch { epoch, metrics } => send(&Message::Epoch { epoch, metrics }),
            Report::Checkpoint(checkpoint) => {
                self.checkpoints += 1;
                self.checkpoint = Some(Instant::now());
                let file = format!("checkpoint-{}.safetensors", self.checkpoints);
                match std::fs::write(self.directory.join(&file), checkpoint.to_bytes()) {
                    Ok(()) => {
                        self.busy.store(true, Ordering::Release);
                        let RunState { epoch, step, best, .. } = &checkpoint.state;
                        let best = *step == 0 && *epoch > 0 && best.epoch == *epoch;
                        send(&Message::Checkpoint { file, epoch: *epoch, step: *step, best });
                    }
                    // Training goes on without: the next checkpoint may find room again.
                    Err(error) => eprintln!("a checkpoint could not be written: {error}"),
                }
            }
            Report::Chosen(chosen) => send(&Message::Chosen(chosen)),
            Report::Warning(text) => send(&Message::Warning { text }),
        }
    }

    fn takes_checkpoint(&self) -> bool {
        let is_early = self.checkpoint.is_some_and(|made| made.elapsed() < CHECKPOINT_PAUSE);
        !self.busy.load(Ordering::Acquire) && (self.every_epoch || !is_early)
    }
}

/// Writes one line. When nobody reads it any more, there is nothing left to do.
pub(super) fn send(message: &Message) {
    let mut line = serde_json::to_string(message).expect("messages are JSON");
    line.push('\n');
    let mut out = std::io::stdout().lock();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_allocation_is_said_as_what_it_is() {
        let panic: Box<dyn std::any::Any + Send> =
            Box::new("Torch(\"[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9\")".to_owned());
        assert_eq!(explain(&*panic).code, Code::OutOfMemory);
        assert!(says_out_of_memory("memory allocation of 4096 bytes failed") && !says_out_of_memory("killed"));
        let panic: Box<dyn std::any::Any + Send> = Box::new("index out of bounds");
        assert_eq!(explain(&*panic).code, Code::Internal);
    }
}
