//! What the mediator takes from the caller of a mediated call: a descriptor, some bytes, and the state of its signals.
//!
//! The mediator's user owns the jail's user namespace, and so holds every capability over it (user_namespaces(7)): both
//! pidfd_getfd(2) and process_vm_readv(2) work on undumpable targets too. They do not on a program whose file nobody in the
//! jail may read; that is EACCES for the program.
//!
//! A number that the kernel gave for a thread is that thread's as long as the notification is alive, so whoever uses
//! what is read here checks [`alive`](super::notify::alive) afterwards.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `SO_NETNS_COOKIE` (Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;
/// `SIOCGSKNS`: a descriptor of a socket's network namespace.
const SIOCGSKNS: libc::c_ulong = 0x894C;
/// `PIDFD_THREAD` (Linux 6.9).
const PIDFD_THREAD: i32 = libc::O_EXCL;
/// How many pidfds of threads are kept for their next call.
const KEPT: usize = 64;

/// Copies descriptors out of the jail's threads.
#[derive(Debug, Default)]
pub struct Descriptors {
    threads: HashMap<i32, OwnedFd>,
}

impl Descriptors {
    /// A duplicate of descriptor `number` of thread `tid`; EBADF is the thread's own.
    pub fn copy(&mut self, tid: i32, number: i32) -> Result<OwnedFd, Errno> {
        if let Some(pidfd) = self.threads.get(&tid) {
            match pidfd_getfd(pidfd, number) {
                // The thread of that number has ended and the number is another's.
                Err(Errno::ESRCH) => self.threads.remove(&tid),
                other => return other,
            };
        }
        match pidfd_open(tid, PIDFD_THREAD) {
            Ok(pidfd) => {
                let got = pidfd_getfd(&pidfd, number);
                if self.threads.len() >= KEPT {
                    self.threads.clear();
                }
                self.threads.insert(tid, pidfd);
                got
            }
            // A pidfd of the process is not kept: its number does not tell which thread is meant.
            Err(Errno::EINVAL) => {
                let status = Status::read(tid)?;
                pidfd_getfd(&pidfd_open(status.process, 0)?, number)
            }
            Err(errno) => Err(errno),
        }
    }
}

fn pidfd_open(pid: i32, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn pidfd_getfd(pidfd: &OwnedFd, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Reads `length` bytes (at most 128, a socket address) at `address` of thread `tid`; EFAULT as the call itself would say.
pub fn read_memory(tid: i32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; length.min(128)];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: the local vector describes a live buffer; the remote one is only looked at in the other process.
    let got = Errno::result(unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) })?;
    if got as usize == bytes.len() { Ok(bytes) } else { Err(Errno::EFAULT) }
}

/// An `int` option of a socket; ENOTSOCK where it is none.
pub fn socket_option(fd: BorrowedFd<'_>, name: i32) -> Result<i32, Errno> {
    let (mut value, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the buffer is live and its size is passed.
    let got =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut size) };
    Errno::result(got)?;
    Ok(value)
}

/// A u64 option of a socket: its cookie or its network namespace's.
fn wide_option(fd: BorrowedFd<'_>, name: i32) -> Result<u64, Errno> {
    let (mut value, mut size) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the buffer is live and its size is passed.
    let got =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut size) };
    Errno::result(got)?;
    Ok(value)
}

/// The kernel's unique number of a socket (`SO_COOKIE`).
pub fn socket_cookie(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    wide_option(fd, libc::SO_COOKIE)
}

/// A number for the network namespace of a socket, the same for all sockets of that namespace while one of them lives.
pub fn network_of(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    match wide_option(socket, SO_NETNS_COOKIE) {
        Err(Errno::ENOPROTOOPT) => {}
        other => return other,
    }
    // SAFETY: a live descriptor and no memory.
    let fd = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS as _) })?;
    // SAFETY: the kernel has just made this descriptor for this call.
    let namespace = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(nix::sys::stat::fstat(&namespace)?.st_ino)
}

/// The send time-out of a socket (`SO_SNDTIMEO`), which is also connect's; none means for ever.
pub fn send_timeout(fd: BorrowedFd<'_>) -> Option<std::time::Duration> {
    let mut value = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut size = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the buffer is live and its size is passed.
    let got = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw mut value).cast(), &raw mut size)
    };
    let duration =
        std::time::Duration::new(u64::try_from(value.tv_sec).ok()?, u32::try_from(value.tv_usec).ok()? * 1000);
    (got == 0 && !duration.is_zero()).then_some(duration)
}

/// What /proc/TID/status says of a thread (proc_pid_status(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `Tgid`.
    pub process: i32,
    /// The last of `NSpid`: the number by which it knows itself.
    pub own_number: i32,
    pending: u64,
    shared: u64,
    blocked: u64,
    ignored: u64,
}

impl Status {
    /// Reads it; ESRCH where the thread is gone.
    pub fn read(tid: i32) -> Result<Self, Errno> {
        let text = fs::read_to_string(format!("/proc/{tid}/status"))
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::ESRCH)))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
            match key {
                "Tgid" => status.process = value.parse().unwrap_or(0),
                "NSpid" => {
                    status.own_number = value.rsplit(['\t', ' ']).next().and_then(|n| n.parse().ok()).unwrap_or(0);
                }
                "SigPnd" => status.pending = mask(),
                "ShdPnd" => status.shared = mask(),
                "SigBlk" => status.blocked = mask(),
                "SigIgn" => status.ignored = mask(),
                _ => {}
            }
        }
        status
    }

    /// Whether a signal waits for this thread to act on it. A signal for the whole process goes to the main thread unless that
    /// one blocks it (kernel/signal.c, complete_signal), so another thread asks `main` first.
    pub fn interrupted(&self, main: Option<&Self>) -> bool {
        let shared = self.shared & main.map_or(u64::MAX, |main| main.blocked);
        (self.pending | shared) & !self.blocked & !self.ignored != 0
    }
}

/// Whether thread `tid` has a signal to act on; a thread that is gone has not.
pub fn interrupted(tid: i32) -> bool {
    let Ok(status) = Status::read(tid) else { return false };
    if status.process == tid || status.shared == 0 {
        return status.interrupted(None);
    }
    Status::read(status.process).is_ok_and(|main| status.interrupted(Some(&main)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_signal_is_the_main_threads_unless_it_blocks_it() {
        let text = "Tgid:\t10\nNSpid:\t12\t3\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000200\n\
                    SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
        let thread = Status::parse(text);
        assert_eq!((thread.process, thread.own_number), (10, 3));
        assert!(thread.interrupted(None));
        assert!(!thread.interrupted(Some(&Status::default())));
        assert!(thread.interrupted(Some(&Status { blocked: 0x200, ..Status::default() })));
        assert!(!Status { ignored: 0x200, ..thread }.interrupted(None));
        assert!(!Status { blocked: 0x200, ..thread }.interrupted(None));
    }
}
