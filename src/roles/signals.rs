//! The signals of a process that stands for a command in a jail: the shell, a service manager or `kill` mean the command.
//!
//! All that a process can catch are taken, real-time ones included, but for those that report a fault or a child of this
//! process itself. Whoever holds them decides which are passed on.

use std::os::fd::{AsFd, BorrowedFd};
use std::process;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::jail::signals::{bit, mask_of, set_of};

/// Never taken: they can not be, or mean this process itself.
const OWN: [Signal; 8] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGCHLD,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
];

/// Without a handler these do not end a program (`signal(7)`).
const HARMLESS: [Signal; 6] =
    [Signal::SIGCONT, Signal::SIGWINCH, Signal::SIGURG, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// The signals of this process, blocked and waiting to be read.
#[derive(Debug)]
pub struct Signals {
    waiting: SignalFd,
    before: u64,
}

/// One signal.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// Another process sent it; otherwise the terminal, a timer, or a pipe that this process wrote to.
    pub from_process: bool,
}

impl Received {
    /// Whether it is this one.
    pub fn is(&self, signal: Signal) -> bool {
        self.number == signal as i32
    }

    /// Whether a program that does nothing about it ends.
    pub fn ends_a_program(&self) -> bool {
        !HARMLESS.iter().any(|harmless| self.is(*harmless))
    }
}

impl Signals {
    /// Blocks them, but for those in `except`, which keep what they do.
    pub fn block(except: &[Signal]) -> nix::Result<Self> {
        let left: u64 = OWN.iter().chain(except).map(|signal| bit(*signal as i32)).sum();
        let set = set_of(!left);
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        let waiting = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { waiting, before: mask_of(&before) })
    }

    /// The mask that the caller had.
    pub fn mask_before(&self) -> u64 {
        self.before
    }

    /// The next one, if there is any.
    pub fn next(&self) -> Option<Received> {
        let info = self.waiting.read_signal().ok()??;
        let from_process = info.ssi_code <= 0 && info.ssi_pid != process::id();
        Some(Received { number: i32::try_from(info.ssi_signo).ok()?, from_process })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

/// Ends this process by a signal, as a command ended, so that a shell loop stops at Ctrl-C as it would without a jail.
/// Returns the exit status for where that can not be.
pub fn die_by(number: i32) -> i32 {
    // The command has dumped its core, if it had one to dump.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: the default disposition needs no handler function; raise takes an integer.
    unsafe { libc::signal(number, libc::SIG_DFL) };
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set_of(bit(number))), None);
    // SAFETY: as above.
    unsafe { libc::raise(number) };
    128 + number
}

/// What a role begins with: nothing blocked, whatever the process that forked it had taken.
pub fn unblock_all() -> nix::Result<()> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
