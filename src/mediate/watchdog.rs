//! Sees a worker that a jail has blocked, at no cost for one that works.
//!
//! The worker counts its rounds in memory that it shares with its parent: odd is busy. A timer of the parent's looks at that
//! number; the worker starts it when it becomes busy and nobody looks. A number that is odd and the same at two looks is a
//! round that does not end. So a busy mediator pays one system call a look and not four a connect, and an idle one nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::flight::map_shared;

/// How long one round of the worker's loop may take before it must go.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks: a round that is seen twice has lasted for longer than this, and for [`PATIENCE`] at most.
const LOOK: Duration = Duration::from_millis(PATIENCE.as_millis() as u64 / 2);

#[derive(Debug, Default)]
struct Shared {
    round: AtomicU64,
    /// The timer runs.
    watched: AtomicBool,
}

/// One for a mediator and each of its workers; see the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog {
    shared: &'static Shared,
    timer: &'static TimerFd,
}

impl Watchdog {
    /// Makes it; it stays for as long as the process does.
    pub fn new() -> Result<Self, Errno> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        // SAFETY: zeroes are valid atomics.
        let shared = unsafe { map_shared::<Shared>() }?;
        Ok(Self { shared, timer: Box::leak(Box::new(timer)) })
    }

    /// Readable when it is time for a [`look`](Self::look).
    pub fn timer(&self) -> &'static TimerFd {
        self.timer
    }

    /// The worker has something to do.
    pub fn busy(&self) {
        self.shared.round.fetch_add(1, SeqCst);
        if !self.shared.watched.swap(true, SeqCst) {
            self.start();
        }
    }

    /// The worker waits.
    pub fn idle(&self) {
        if self.shared.round.load(SeqCst) % 2 == 1 {
            self.shared.round.fetch_add(1, SeqCst);
        }
    }

    /// The parent's look: whether the worker must go. `seen` is what the last look saw.
    pub fn look(&self, seen: &mut u64) -> bool {
        let _ = self.timer.wait(); // EAGAIN: somebody has started it anew.
        let round = self.shared.round.load(SeqCst);
        let blocked = round % 2 == 1 && round == *seen;
        *seen = round;
        if round % 2 == 1 {
            self.start();
        } else {
            self.shared.watched.store(false, SeqCst);
            // A round that began in between took it to be watched.
            if self.shared.round.load(SeqCst) % 2 == 1 && !self.shared.watched.swap(true, SeqCst) {
                self.start();
            }
        }
        blocked
    }

    /// The next worker begins.
    pub fn reset(&self) {
        self.shared.round.store(0, SeqCst);
        self.shared.watched.store(false, SeqCst);
    }

    fn start(&self) {
        // It can only fail on a descriptor that is none.
        let _ = self.timer.set(Expiration::OneShot(TimeSpec::from_duration(LOOK)), TimerSetTimeFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_round_that_is_seen_twice_is_blocked() {
        let (watchdog, mut seen) = (Watchdog::new().unwrap(), 0);
        watchdog.busy();
        assert!(!watchdog.look(&mut seen));
        watchdog.idle();
        watchdog.busy();
        assert!(!watchdog.look(&mut seen));
        assert!(watchdog.look(&mut seen));
        watchdog.idle();
        assert!(!watchdog.look(&mut seen));
        assert!(!watchdog.shared.watched.load(SeqCst), "an idle worker is not looked at");
        watchdog.idle();
        assert!(!watchdog.look(&mut seen), "and idle twice is idle");
    }
}
