//! The ends of the warden's own processes: roles, ushers, and what those leave behind (the warden is their reaper).

use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn ends() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// From here on the end of a child waits to be taken by [`reap_all`]: a signal that is ignored by default is kept while it is
/// blocked (signal(7)).
pub fn keep_ends() {
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ends()), None);
}

/// Reaps all children as they end; gives up after `patience`. Wants [`keep_ends`] before it.
pub fn reap_all(patience: Duration) {
    let until = Instant::now() + patience;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let wait = libc::timespec { tv_sec: left.as_secs() as libc::time_t, tv_nsec: left.subsec_nanos().into() };
        // SAFETY: a live set and a live time; what was taken is not asked for.
        unsafe { libc::sigtimedwait(ends().as_ref(), ptr::null_mut(), &raw const wait) };
    }
}
