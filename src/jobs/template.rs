//! The process that trainers are copies of.
//!
//! Loading libtorch takes a quarter of a second of a core, which is longer than a small job trains. This process does it once and
//! then nothing else: no operation, no thread, no question about CUDA. For each job it copies itself, and the copy is a trainer
//! as any other, with memory, threads and an end of its own. Nothing is used twice.
//!
//! Its standard input is a socket. It gets a [`Birth`] with the three standard streams of the trainer, answers with `News`, and tells
//! how each trainer ended, because only a parent hears that. When nobody holds the other end any more, it exits.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, setpgid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fork::{Side, be_generous, be_sparing, fork};

/// The longest message; a path is most of it.
const MESSAGE_BYTES: usize = 16 << 10;
/// Standard input, output and error.
const STREAMS: usize = 3;

/// A trainer that is wanted. Its standard streams come beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Birth {
    /// The directory with its request.
    pub directory: PathBuf,
    /// Bytes of memory that it may have of its own.
    pub memory_bytes: Option<u64>,
}

/// What the template says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum News {
    /// The trainer runs. A handle of its process comes beside this.
    Born {
        /// The number of its process.
        pid: i32,
    },
    /// There is none.
    Unborn {
        /// Why.
        fault: String,
    },
    /// A trainer has ended.
    Ended {
        /// The number of its process.
        pid: i32,
        /// What the system says of it.
        status: i32,
    },
}

/// Copies this process for each trainer that is asked for. In a copy this answers with what it is to do; in the template with
/// nothing, once nobody needs it any more.
///
/// # Errors
/// Standard input is no socket, or what comes there is not understood.
pub fn run() -> anyhow::Result<Option<Birth>> {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let mut trainers: Vec<(Pid, OwnedFd)> = Vec::new();
    loop {
        let (is_asked, ended) = wait(socket, &trainers)?;
        for place in ended.into_iter().rev() {
            let (pid, _) = trainers.swap_remove(place);
            if let Some((_, status)) = waitpid(Some(pid), WaitOptions::empty())? {
                send(socket, &News::Ended { pid: pid.as_raw_pid(), status: status.as_raw() }, &[], SendFlags::empty())?;
            }
        }
        if !is_asked {
            continue;
        }
        let Some((birth, streams)) = receive::<Birth>(socket)? else { return Ok(None) };
        match fork() {
            Ok(Side::Copy) => {
                take_over(&birth, &streams)?;
                return Ok(Some(birth));
            }
            Ok(Side::Original(pid)) => {
                let handle = pidfd_open(pid, PidfdFlags::empty())?;
                send(socket, &News::Born { pid: pid.as_raw_pid() }, &[handle.as_fd()], SendFlags::empty())?;
                trainers.push((pid, handle));
            }
            Err(fault) => send(socket, &News::Unborn { fault: fault.to_string() }, &[], SendFlags::empty())?,
        }
    }
}

/// Makes a copy what it would be, had it been started by itself. The socket goes with the old standard input.
fn take_over(birth: &Birth, streams: &[OwnedFd]) -> io::Result<()> {
    let [input, output, errors] = streams else {
        return Err(io::Error::other("a trainer needs three streams"));
    };
    dup2_stdin(input)?;
    dup2_stdout(output)?;
    dup2_stderr(errors)?;
    setpgid(None, None)?;
    match birth.memory_bytes {
        Some(_) => be_sparing(),
        None => be_generous(),
    }
    Ok(())
}

/// Waits until there is a message or a trainer has ended: whether there is one, and the places of those that ended.
fn wait(socket: BorrowedFd<'_>, trainers: &[(Pid, OwnedFd)]) -> io::Result<(bool, Vec<usize>)> {
    let watched = std::iter::once(socket).chain(trainers.iter().map(|(_, handle)| handle.as_fd()));
    let mut watched: Vec<PollFd<'_>> = watched.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)).collect();
    loop {
        match poll(&mut watched, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    let happened: Vec<bool> = watched.iter().map(|file| !file.revents().is_empty()).collect();
    Ok((happened[0], (0..trainers.len()).filter(|place| happened[place + 1]).collect()))
}

/// Sends a message, with files beside it.
pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    files: &[BorrowedFd<'_>],
    how: SendFlags,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files beside a message"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, how | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// Takes a message, with the files beside it; `None` when the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(fault) => return Err(fault.into()),
        }
    };
    let mut files = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, files)))
}
