//! The calls that copy a process and end one.
//!
//! A copy has one thread, whatever its original had, and the memory as it was: a lock that another thread held would stay locked
//! in it for ever. So a process with more than one thread is not copied.

use std::io;

use rustix::process::Pid;

/// On which side of the copying one is.
pub(super) enum Side {
    /// In the process that was copied, with the number of the copy.
    Original(Pid),
    /// In the copy.
    Copy,
}

/// Copies this process.
///
/// # Errors
/// It has other threads, or the system has no room for one more process.
pub(super) fn fork() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("a process with {threads} threads is not copied")));
    }
    // SAFETY: there is no other thread, as was just seen, so nothing is half done or locked in the copy.
    #[expect(unsafe_code, reason = "no library offers this as safe: it cannot know of the threads")]
    let number = unsafe { libc::fork() };
    match number {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Copy),
        number => {
            Pid::from_raw(number).map(Side::Original).ok_or_else(|| io::Error::other("a process without a number"))
        }
    }
}

/// Ends this process at once, as one that did its work. On the ordinary way out libtorch takes itself apart, which takes a fifth of a
/// second: longer than a small job trains.
pub(super) fn leave() -> ! {
    // SAFETY: nothing here is needed any more. What was to be said is flushed, and files are written and closed.
    #[expect(unsafe_code, reason = "the ways out that the standard library offers run what is to be left out")]
    unsafe {
        libc::_exit(0)
    }
}

/// What a process with a limit of memory has in its environment from its start (`TrainerConfig::command`), for one that began as a
/// copy of one without.
pub(super) fn be_sparing() {
    // SAFETY: a copy calls this before it starts a thread, and nothing else reads or writes the environment meanwhile.
    #[expect(unsafe_code, reason = "the environment and the allocator are shared by all threads")]
    unsafe {
        std::env::set_var("RUST_BACKTRACE", "0");
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
        libc::mallopt(libc::M_MMAP_THRESHOLD, super::process::LARGE_BYTES);
    }
}

/// The same of a process without a limit.
pub(super) fn be_generous() {
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "the allocator is shared by all threads")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, super::process::KEPT_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, super::process::FREE_BYTES);
    }
}
