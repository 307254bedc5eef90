//! How a role begins: a fork of a single-threaded process that can not be looked into.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, getppid};

use crate::control::messages::Refusal;
use crate::jail::counters;
use crate::jail::payload::ignore;

/// Which side of [`role`] this is.
#[derive(Debug)]
pub enum Side {
    /// The caller, with the new role's pid.
    Parent(Pid),
    /// The new role.
    Child,
}

/// Whether a role ends at once with the process that forked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// SIGKILL when the parent goes (`PR_SET_PDEATHSIG`).
    DiesWithParent,
    /// It notices by itself, at the end of its channel, and has something to finish first.
    Finishes,
}

/// Forks a role; the child is undumpable, has no standard streams, and does not mind the terminal's or a service manager's
/// signals: a role ends when its work ends.
///
/// # Safety
/// The caller must be single-threaded, or its other threads must hold no lock that the child will want.
pub unsafe fn role(name: &CStr, bond: Bond) -> io::Result<Side> {
    let parent = getpid();
    // SAFETY: the caller's promise.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => {
            if begin(name, bond, parent).is_err() {
                exit(1);
            }
            Ok(Side::Child)
        }
    }
}

fn begin(name: &CStr, bond: Bond, parent: Pid) -> nix::Result<()> {
    prctl::set_name(name)?;
    prctl::set_dumpable(false)?;
    if bond == Bond::DiesWithParent {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // It went before the request was in place.
            return Err(nix::Error::ESRCH);
        }
    }
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        ignore(signal);
    }
    // Front has its signals wait in a descriptor, and a fork inherits that; here an alarm must end what has blocked.
    super::signals::unblock_all()
}

/// Lets go of the caller's standard streams, which may be a pipe that somebody waits to see closed.
pub fn leave_streams() -> nix::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

/// Has a role's panic said by somebody who has a place to say it: its own standard error is closed. The process aborts after
/// that (`panic = "abort"`).
pub fn report_panics(say: impl Fn(&str) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |info| {
        // May hold bytes of a packet: whoever shows it escapes it.
        let text: String = info.to_string().chars().take(LONGEST_PANIC).collect();
        say(&format!("{text}; this is a mistake in netjail, please report it"));
    }));
}

/// Characters of a panic's text that are passed on.
const LONGEST_PANIC: usize = 1000;

/// Waits in reads and writes again, where the descriptor's last owner did not.
pub fn make_blocking(fd: &impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map(drop)
}

/// Ends a role without running what its parent left behind in this copy of its memory: destructors, atexit handlers, buffers.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor above 2 but these: for a role that is forked late, when its parent holds more than it may have.
pub fn close_all_but(kept: &[RawFd]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if first < fd {
            // SAFETY: nothing in this process uses the descriptors again; their owners' destructors never run, for a role
            // ends by `exit`.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}

/// Says that there is no such role, and what to do about it.
pub fn refused(role: &str, error: &io::Error) -> Refusal {
    let remedy = counters::remedy(error.raw_os_error().unwrap_or_default());
    Refusal(format!("can not start the {role}: {error}{remedy}"))
}

/// Waits for a child's end.
pub(super) fn reap(pid: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(pid, None::<WaitPidFlag>) {
            Err(Errno::EINTR) => {}
            other => return other.ok(),
        }
    }
}
