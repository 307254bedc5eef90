//! What is left for front to do when the command has ended.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fork::reap;
use super::remark::Told;
use super::signals::Signals;
use super::{RunOptions, say};
use crate::control::channel::Channel;
use crate::control::messages::{FrontToWarden, WardenToFront};
use crate::control::worker::DRAIN_MOST;
use crate::jail::letterbox;

/// How long the warden may take to write the last records.
const FLUSH: Duration = Duration::from_secs(2);

/// How long the last bytes may take before a person is told what is being waited for.
const REMARK: Duration = Duration::from_secs(1);

/// Lets the warden see the last bytes delivered, write its last records and clear up, and prints its summary. A signal that
/// asks this process to end drops the bytes that are still on their way.
pub(super) struct Rest<'a> {
    pub warden: &'a Channel<FrontToWarden, WardenToFront>,
    pub pid: Pid,
    pub signals: &'a Signals,
    /// What the warden said of it already.
    pub early: VecDeque<WardenToFront>,
}

impl Rest<'_> {
    pub fn finish(mut self, options: &RunOptions, told: &mut Told, failed: bool) {
        let (warden, pid, signals) = (self.warden, self.pid, self.signals);
        // The signal that ended the command came here too.
        while signals.next().is_some() {}
        let _ = warden.send(&FrontToWarden::Finish { failed });
        let mut until = Instant::now() + FLUSH;
        let mut remark = None;
        loop {
            let now = Instant::now();
            if remark.is_some_and(|at| at <= now) {
                remark = None;
                say("the command has ended; its last bytes are still being delivered (Ctrl-C drops them)");
            }
            let left = until.min(remark.unwrap_or(until)).saturating_duration_since(now);
            if until <= now {
                break;
            }
            let message = if let Some(message) = self.early.pop_front() {
                Ok(message)
            } else {
                let mut polled =
                    [PollFd::new(warden.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
                // Rounded up, so that a moment is reached and not circled.
                let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
                let _ = poll(&mut polled, wait);
                let ready = |at: usize| polled[at].revents().is_some_and(|events| !events.is_empty());
                if ready(1) && signals_to_end(signals) {
                    let _ = warden.send(&FrontToWarden::Hurry);
                    (until, remark) = (Instant::now() + FLUSH, None);
                }
                if !ready(0) {
                    continue;
                }
                warden.receive().map(|(message, _)| message)
            };
            match message {
                Ok(WardenToFront::Finished { summary, answered }) => {
                    told.answered = answered;
                    if let Some(summary) = summary.filter(|_| !options.quiet) {
                        let _ = writeln!(io::stderr(), "{summary}");
                    }
                }
                Ok(WardenToFront::Draining) => {
                    until = Instant::now() + DRAIN_MOST + FLUSH;
                    remark = (!options.quiet).then(|| Instant::now() + REMARK);
                }
                Ok(WardenToFront::Say(text)) => say(&text),
                Ok(WardenToFront::Notify(lines)) => letterbox::pass_on(&lines),
                Ok(WardenToFront::SocketRefused(path)) => told.refused = Some((path, Instant::now())),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let _ = kill(pid, Signal::SIGKILL);
        let _ = reap(pid);
    }
}

/// Takes all signals; whether one of them asks to end.
fn signals_to_end(signals: &Signals) -> bool {
    let mut end = false;
    while let Some(received) = signals.next() {
        end |= [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]
            .iter()
            .any(|signal| received.is(*signal));
    }
    end
}
