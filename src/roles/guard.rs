//! The streams of `exec` that are files open for reading: in the jail they stay so.
//!
//! `run` does that in init, while the host's mounts are still there ([`reopen`]). A jail that lives has none of them left, so
//! the client does it: a child of it, in a user and mount namespace of its own, opens the file anew on a read-only copy of
//! its mount, and hands that back.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getegid, geteuid};

use super::fork::exit;
use crate::control::channel::{self, Channel};
use crate::jail::mounts::reopen;
use crate::jail::namespaces;

/// What to hand to a jail in the place of this stream. The caller must be single-threaded.
pub fn read_only(stream: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if !reopen::is_open_for_reading_only(stream) {
        return stream.try_clone_to_owned();
    }
    let (ours, theirs) = channel::pair::<(), Option<String>>()?;
    // SAFETY: the caller's promise.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ours);
            answer(&theirs, stream)
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    let answer = ours.receive();
    let _ = waitpid(child, None);
    match answer.map_err(io::Error::other)? {
        (None, mut descriptors) => descriptors.pop().ok_or_else(|| io::Error::other("no descriptor came back")),
        (Some(why), _) => Err(io::Error::other(why)),
    }
}

fn answer(parent: &Channel<Option<String>, ()>, stream: BorrowedFd<'_>) -> ! {
    let reopened = || -> Result<(), String> {
        let (uid, gid) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|e| e.to_string())?;
        namespaces::map_self_only("self", uid, gid).map_err(|e| e.to_string())?;
        reopen::read_only(stream.as_raw_fd()).map_err(|e| e.to_string())
    };
    let _ = match reopened() {
        Ok(()) => parent.send_with(&None, &[stream.as_fd()]),
        Err(why) => parent.send(&Some(why)),
    };
    exit(0)
}
