//! Options of the flows' connections. Each of these only tunes; a socket that refuses one still carries bytes.

use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};

/// A byte that was sent out of band stays where it is in the stream, for the stack knows no other place.
pub(super) fn keep_urgent_in_line(fd: &OwnedFd) {
    let _ = setsockopt(fd, sockopt::OobInline, &true);
}

/// Makes the coming close(2) send a reset.
pub(super) fn reset_on_close(fd: &OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // A socket that is dead already refuses, and needs no reset.
    let _ = setsockopt(fd, sockopt::Linger, &linger);
}
