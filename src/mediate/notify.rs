//! Notifications of a seccomp filter (seccomp_unotify(2)): receive, check, answer.

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{seccomp_notif, seccomp_notif_resp};
use nix::errno::Errno;

/// The kernel's own word for "begin again, or EINTR, as the signal's handler says"; never seen by programs (linux/errno.h).
pub const ERESTARTSYS: i32 = 512;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6).
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// A system call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// The kernel's name for it, unique within the listener.
    pub id: u64,
    /// The calling thread, in this process's pid namespace.
    pub tid: i32,
    /// `AUDIT_ARCH_*` of the entry point.
    pub arch: u32,
    /// The call's number there.
    pub number: i32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What the caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The call returns 0.
    Zero,
    /// The call fails with this errno (positive).
    Error(i32),
    /// The kernel executes the call. Never after a decision: the caller's memory may have changed since it was looked at.
    Continue,
}

/// Takes the next notification. Blocks if there is none: wait for readability first.
pub fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // SAFETY: the structure is plain data, and the kernel wants it zeroed.
    let mut raw: seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: a live descriptor and a live structure of the size that the request number carries.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut raw) })?;
    let data = raw.data;
    Ok(Notification { id: raw.id, tid: raw.pid as i32, arch: data.arch, number: data.nr, arguments: data.args })
}

/// Whether the caller still waits. What was read about it by its number is about *it* if this is so afterwards.
pub fn alive(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: a live descriptor, and a u64 that outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const id) == 0 }
}

/// Answers; ENOENT means that the caller has gone or was interrupted.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> Result<(), Errno> {
    let (error, flags) = match answer {
        Answer::Zero => (0, 0),
        Answer::Error(errno) => (-errno, 0),
        Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let raw = seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: a live descriptor and a live structure of the size that the request number carries.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const raw) })?;
    Ok(())
}

/// Lets caller and mediator hand the processor to each other, which halves the cost; kernels before 6.6 go without.
pub fn sync_wake_up(listener: BorrowedFd<'_>) {
    // SAFETY: a live descriptor; the argument is passed by value.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
}
