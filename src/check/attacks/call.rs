//! Raw system calls and sockets for the attacks; a filter judges calls, so they are made without a library's help.

use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike, UnixAddr};
use nix::sys::time::TimeVal;

use super::Outcome;

/// One argument of a system call. Pointers come only from borrowed buffers, so none outlives its call.
#[derive(Debug)]
pub enum Arg<'a> {
    Int(i64),
    Text(&'a CStr),
    Bytes(&'a [u8]),
    Buffer(&'a mut [u8]),
}

/// Null, or zero.
pub const ZERO: Arg<'static> = Arg::Int(0);

/// Makes a system call; a buffer must be as large as the call's structure.
pub fn call(number: libc::c_long, arguments: &mut [Arg<'_>]) -> Result<i64, Errno> {
    let mut words = [0i64; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Arg::Int(value) => *value,
            Arg::Text(text) => text.as_ptr() as i64,
            Arg::Bytes(bytes) => bytes.as_ptr() as i64,
            Arg::Buffer(buffer) => buffer.as_mut_ptr() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: pointers are those of live buffers that are borrowed for the length of the call, or null.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// The same for a call that makes a descriptor.
pub fn descriptor(number: libc::c_long, arguments: &mut [Arg<'_>]) -> Result<OwnedFd, Errno> {
    let fd = call(number, arguments)?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Words for a call that was refused.
pub fn refused(what: &str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {errno:?}")
}

/// socket(2).
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    let kind = kind | libc::SOCK_CLOEXEC;
    descriptor(libc::SYS_socket, &mut [Arg::Int(family.into()), Arg::Int(kind.into()), Arg::Int(protocol.into())])
}

/// connect(2) with a limit of two seconds.
pub fn connect(fd: &OwnedFd, address: &dyn SockaddrLike) -> Result<(), Errno> {
    patience(fd);
    // SAFETY: pointer and length are those of one live address.
    Errno::result(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len()) }).map(drop)
}

/// Nothing that an attack waits for takes longer than two seconds.
pub fn patience(fd: &OwnedFd) {
    use nix::sys::socket::{setsockopt, sockopt};
    let _ = setsockopt(fd, sockopt::ReceiveTimeout, &TimeVal::new(2, 0));
    let _ = setsockopt(fd, sockopt::SendTimeout, &TimeVal::new(2, 0));
}

/// Reads what a victim tells; only the token counts.
pub fn hear(fd: OwnedFd, token: &str, from: &str) -> Outcome {
    patience(&fd);
    let mut heard = [0u8; 256];
    let length = std::fs::File::from(fd).read(&mut heard).map_err(|e| format!("{from}: connected, then: {e}"))?;
    told(&heard[..length], token, from)
}

/// Whether these bytes are the victim's.
pub fn told(heard: &[u8], token: &str, from: &str) -> Outcome {
    if heard.windows(token.len()).any(|w| w == token.as_bytes()) {
        return Ok(format!("{from} told its secret"));
    }
    Err(format!("{from}: {} bytes that are not the victim's", heard.len()))
}

/// Connects to a unix socket by path and reads the token.
pub fn unix(path: &Path, kind: i32, token: &str) -> Outcome {
    let from = path.display().to_string();
    let fd = socket(libc::AF_UNIX, kind, 0).map_err(refused("socket"))?;
    let address = UnixAddr::new(path).map_err(refused(&from))?;
    connect(&fd, &address).map_err(refused(&from))?;
    hear(fd, token, &from)
}

/// Whether a process has ended, waiting at most that long.
pub fn ends_within(pid: nix::unistd::Pid, limit: Duration) -> bool {
    let flags = &mut [Arg::Int(pid.as_raw().into()), ZERO];
    let Ok(pidfd) = descriptor(libc::SYS_pidfd_open, flags) else { return true };
    let mut polled = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live structure.
    unsafe { libc::poll(&raw mut polled, 1, limit.as_millis() as i32) > 0 }
}

/// The first success, or all failures.
pub fn any<T>(tries: impl IntoIterator<Item = T>, attempt: impl Fn(T) -> Outcome) -> Outcome {
    let mut failures = Vec::new();
    for item in tries {
        match attempt(item) {
            Ok(evidence) => return Ok(evidence),
            Err(why) => failures.push(why),
        }
    }
    if failures.is_empty() { Err("there is nothing of the kind here".into()) } else { Err(failures.join("; ")) }
}
