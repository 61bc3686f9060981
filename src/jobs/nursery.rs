//! Keeps the process that trainers are copies of ([`template`]), and has it make them.
//!
//! Whatever goes wrong with it concerns the start of a trainer alone: the caller then starts one by itself, which takes a quarter of
//! a second longer. A trainer that runs needs neither this nor the template any more.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::process::Child;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::process::TrainerConfig;
use super::template::{self, Birth, News};

/// A template that has not answered by then never will. It is generous, because the first answer waits for libtorch to load.
const ANSWER: Duration = Duration::from_secs(30);
/// After so many templates that did not do their work there is no further one.
const MAX_FAULTS: u32 = 3;

/// The keeper of the template.
#[derive(Debug)]
pub struct Nursery {
    config: TrainerConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    template: Option<Template>,
    faults: u32,
}

/// The process, and the way to talk with it.
#[derive(Debug)]
struct Template {
    child: Child,
    socket: Arc<OwnedFd>,
    answers: mpsc::Receiver<Result<Copied, String>>,
}

/// A trainer that is a copy. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Copied {
    pid: i32,
    /// It means this process for ever; a number may be given to another one.
    process: OwnedFd,
    ended: Option<oneshot::Receiver<i32>>,
}

impl Nursery {
    /// One whose trainers are started as `config` says. Nothing runs yet.
    pub(super) fn new(config: TrainerConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    /// Starts the template, so that the first trainer need not wait for it.
    pub(super) async fn warm_up(&self) {
        if let Err(error) = self.state.lock().await.template(&self.config) {
            tracing::warn!(%error, "Trainers cannot be copied for now");
        }
    }

    /// A trainer on the request in `directory`, with these standard streams. `None` when there is no template any more, because too
    /// many of them failed.
    ///
    /// # Errors
    /// There is no copy; the next one may work.
    pub(super) async fn copy(
        &self,
        directory: &Path,
        memory_bytes: Option<u64>,
        streams: [BorrowedFd<'_>; 3],
    ) -> Option<io::Result<Copied>> {
        let mut state = self.state.lock().await;
        if state.faults >= MAX_FAULTS {
            return None;
        }
        let birth = Birth { directory: directory.to_owned(), memory_bytes };
        let copied = state.copy(&self.config, &birth, streams).await;
        match &copied {
            Ok(_) => state.faults = 0,
            Err(_) => {
                state.faults += 1;
                state.template = None;
            }
        }
        Some(copied)
    }

    /// Lets the template end. Another one would be started for another trainer.
    pub(super) async fn close(&self) {
        let Some(Template { mut child, socket, .. }) = self.state.lock().await.template.take() else { return };
        let _ = shutdown(&socket, Shutdown::Both);
        if tokio::time::timeout(ANSWER, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

impl State {
    fn template(&mut self, config: &TrainerConfig) -> io::Result<&mut Template> {
        // One that was killed meanwhile is replaced; that is no fault of the next.
        let alive = self
            .template
            .take()
            .and_then(|mut template| matches!(template.child.try_wait(), Ok(None)).then_some(template));
        Ok(self.template.insert(match alive {
            Some(template) => template,
            None => Template::start(config)?,
        }))
    }

    async fn copy(
        &mut self,
        config: &TrainerConfig,
        birth: &Birth,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Copied> {
        let template = self.template(config)?;
        // It waits for nothing: the template takes message after message.
        template::send(template.socket.as_fd(), birth, &streams, SendFlags::DONTWAIT)?;
        match tokio::time::timeout(ANSWER, template.answers.recv()).await {
            Ok(Some(answer)) => answer.map_err(io::Error::other),
            Ok(None) => Err(io::Error::other("the process that trainers are copies of has ended")),
            Err(_) => Err(io::Error::other("the process that trainers are copies of does not answer")),
        }
    }
}

impl Template {
    fn start(config: &TrainerConfig) -> io::Result<Self> {
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = config.bare_command();
        command.arg("trainer").arg("--template");
        command.stdin(Stdio::from(other)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn()?;
        // With it goes this process's copy of the other end, or the end of the template would not be heard.
        drop(command);
        let socket = Arc::new(own);
        let (sender, answers) = mpsc::channel(1);
        let ear = Arc::clone(&socket);
        std::thread::Builder::new().name("nursery".to_owned()).spawn(move || hear(ear.as_fd(), &sender))?;
        tracing::debug!(pid = child.id(), "The process that trainers are copies of runs");
        Ok(Self { child, socket, answers })
    }
}

/// Hears what a template says, until it is gone. A thread does that, because files come beside messages.
fn hear(socket: BorrowedFd<'_>, answers: &mpsc::Sender<Result<Copied, String>>) {
    let mut running: HashMap<i32, oneshot::Sender<i32>> = HashMap::new();
    loop {
        let answer = match template::receive::<News>(socket) {
            Ok(Some((News::Born { pid }, mut files))) => {
                let (sender, ended) = oneshot::channel();
                running.insert(pid, sender);
                match files.pop() {
                    Some(process) => Ok(Copied { pid, process, ended: Some(ended) }),
                    None => Err("a trainer came without its handle".to_owned()),
                }
            }
            Ok(Some((News::Unborn { fault }, _))) => Err(fault),
            Ok(Some((News::Ended { pid, status }, _))) => {
                if let Some(waiting) = running.remove(&pid) {
                    let _ = waiting.send(status);
                }
                continue;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "The process that trainers are copies of cannot be understood");
                return;
            }
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

impl Copied {
    /// The number of the process.
    pub(super) fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Kills it where it still runs.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// How it ended is not known, because the template ended before.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(ended) = self.ended.take()
            && let Ok(status) = ended.await
        {
            return Ok(ExitStatus::from_raw(status));
        }
        let process = self.process.try_clone()?;
        let over = move || poll(&mut [PollFd::new(&process, PollFlags::IN)], None).map(drop);
        tokio::task::spawn_blocking(over).await??;
        Err(io::Error::other("how is not known: the process that it was a copy of has ended, too"))
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.kill();
    }
}
