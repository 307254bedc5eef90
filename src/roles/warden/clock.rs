//! Jumps of the clock: the machine has slept, or somebody has set its time.
//!
//! Every time-out of netjail's is measured on CLOCK_MONOTONIC, which no setting moves and which stands still while the machine
//! sleeps; so nothing expires by a jump. But after a sleep the world is another one: the proxy's name may lead elsewhere, and
//! a connection that waited for a dial may be dead. A timer that is cancelled when CLOCK_REALTIME is set tells of both, for
//! the kernel sets that clock when it wakes up (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// The year 2096: the timer is only there to be cancelled.
const NEVER: Duration = Duration::from_secs(4_000_000_000);

/// Tells of jumps.
#[derive(Debug)]
pub struct Jumps(TimerFd);

impl Jumps {
    /// Begins to watch.
    pub fn watch() -> nix::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(Expiration::OneShot(TimeSpec::from_duration(NEVER)), flags)?;
        Ok(Self(timer))
    }

    /// Takes the news; whether there was a jump. The timer goes on.
    pub fn take(&self) -> bool {
        matches!(self.0.wait(), Err(Errno::ECANCELED))
    }
}

impl AsFd for Jumps {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_jump_there_is_no_news() {
        // A jump can not be made here: the clock is the whole machine's.
        assert!(!Jumps::watch().unwrap().take());
    }
}
