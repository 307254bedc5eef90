//! The caller's terminal: an interactive shell inside a jail leaves its foreground group wrong for whoever comes after.

use std::io::{IsTerminal, stdin};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp};

/// The terminal's state before the command began.
#[derive(Debug)]
pub struct Terminal {
    foreground: Option<Pid>,
}

impl Terminal {
    /// Remembers which process group has the terminal on standard input, if there is one.
    pub fn save() -> Self {
        let foreground = if stdin().is_terminal() { tcgetpgrp(stdin()).ok() } else { None };
        Self { foreground }
    }

    /// Gives the terminal back to that group, if somebody else has it now.
    ///
    /// The caller may be in the background by now, where tcsetpgrp(3) raises SIGTTOU unless it is blocked.
    pub fn restore(&self) {
        let Some(saved) = self.foreground else { return };
        if tcgetpgrp(stdin()) == Ok(saved) {
            return;
        }
        let mut block = SigSet::empty();
        block.add(Signal::SIGTTOU);
        let mut before = SigSet::empty();
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&block), Some(&mut before));
        let _ = tcsetpgrp(stdin(), saved);
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
}
