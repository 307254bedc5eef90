//! One connect, made on the mediator's duplicate of the caller's socket with the mediator's copy of the address.
//!
//! A caller that would wait must not make the receiver wait: `O_NONBLOCK` is set on the shared open file for the length of the
//! system call only, and a connect that is under way is asked about again when its socket becomes writable. The final answer of
//! the kernel to `connect` on such a socket is the one that a blocking call returns.
//!
//! | the kernel says | a blocking caller | |
//! |---|---|---|
//! | 0 or another errno | has its answer | |
//! | EINPROGRESS | waits | over loopback asked again at once: the handshake is over by then |
//! | EALREADY | waits | another thread's connect is under way: natively this one joins it |
//! | EAGAIN of AF_UNIX | waits | the listener's backlog is full; nothing tells when it is not: asked again on a timer |

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A socket, an address, and how the caller waits.
#[derive(Debug)]
pub struct Attempt {
    socket: OwnedFd,
    address: Vec<u8>,
    /// The unix socket's inode, which the address leads to by its descriptor's number.
    _object: Option<OwnedFd>,
    blocking: bool,
    /// The open file's flags, as long as they were read a moment ago.
    flags: Cell<Option<OFlag>>,
    unix: bool,
    loopback: bool,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This is what the caller's connect returns.
    Done(Result<(), Errno>),
    /// Ask again when the socket is writable.
    WhenWritable,
    /// Ask again after a while.
    Later,
}

impl Attempt {
    /// An attempt with the caller's own bytes: INET, an abstract name.
    pub fn with_address(socket: OwnedFd, address: Vec<u8>, unix: bool) -> Result<Self, Errno> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        let (blocking, flags) = (!flags.contains(OFlag::O_NONBLOCK), Cell::new(Some(flags)));
        let loopback = !unix && is_loopback(&address);
        Ok(Self { socket, address, _object: None, blocking, flags, unix, loopback })
    }

    /// An attempt to reach the unix socket whose inode `object` holds, by no path of the jail's.
    pub fn with_object(socket: OwnedFd, object: OwnedFd) -> Result<Self, Errno> {
        let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        address.extend_from_slice(format!("/proc/self/fd/{}\0", object.as_raw_fd()).as_bytes());
        let mut attempt = Self::with_address(socket, address, true)?;
        attempt._object = Some(object);
        Ok(attempt)
    }

    /// The duplicate, to be polled.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the socket is of AF_UNIX.
    pub fn is_unix(&self) -> bool {
        self.unix
    }

    /// Calls connect once, or twice where the second call may already know.
    pub fn step(&self) -> Progress {
        if !self.blocking {
            return Progress::Done(self.connect());
        }
        // Anybody who shares the open file may have taken the flag away again since the last step.
        let flags = match self.set_nonblocking() {
            Ok(flags) => flags,
            Err(errno) => return Progress::Done(Err(errno)),
        };
        let mut got = self.connect();
        if got == Err(Errno::EINPROGRESS) && self.loopback {
            got = self.connect();
        }
        // It can only fail on a descriptor that is not open, and this one is.
        let _ = fcntl(&self.socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK));
        match got {
            Err(Errno::EINPROGRESS | Errno::EALREADY) => Progress::WhenWritable,
            Err(Errno::EAGAIN) if self.unix => Progress::Later,
            got => Progress::Done(got),
        }
    }

    /// The socket and the address, as two numbers.
    pub fn key(&self) -> (u64, u64) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.address.hash(&mut hasher);
        (super::target::socket_cookie(self.socket()).unwrap_or(0), hasher.finish())
    }

    /// What connect says when the caller's SO_SNDTIMEO runs out.
    pub fn timed_out(&self) -> Errno {
        if self.unix { Errno::EAGAIN } else { Errno::EINPROGRESS }
    }

    /// Returns what the flags were.
    fn set_nonblocking(&self) -> Result<OFlag, Errno> {
        let flags = match self.flags.take() {
            Some(flags) => flags,
            None => OFlag::from_bits_retain(fcntl(&self.socket, FcntlArg::F_GETFL)?),
        };
        fcntl(&self.socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(|_| flags)
    }

    fn connect(&self) -> Result<(), Errno> {
        loop {
            // SAFETY: the address is a live buffer and its length is passed.
            let got = unsafe {
                libc::connect(
                    self.socket.as_raw_fd(),
                    self.address.as_ptr().cast(),
                    self.address.len() as libc::socklen_t,
                )
            };
            match Errno::result(got) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Whether a connect to it stays in the jail: 127.0.0.0/8 and ::1 (ip(7), ipv6(7)).
fn is_loopback(address: &[u8]) -> bool {
    let family = address.first_chunk().map(|b| i32::from(u16::from_ne_bytes(*b)));
    match family {
        Some(libc::AF_INET) => address.get(4) == Some(&127),
        Some(libc::AF_INET6) => address.get(8..24).is_some_and(|ip| ip == std::net::Ipv6Addr::LOCALHOST.octets()),
        _ => false,
    }
}
