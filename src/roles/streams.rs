//! Standard streams that must not be handed on.
//!
//! A socket keeps the network namespace it was made in, and can be re-aimed (`connect(AF_UNSPEC)`); inetd, socket activation
//! and some CI systems give programs one as their standard input. Such a stream becomes a pipe, and a process of its own,
//! outside the jail, copies between the two.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

use super::fork::{self, Bond, Side};
use crate::jail::descriptors::{self, Origin, Stream};

const NAMES: [&str; 3] = ["standard input", "standard output", "standard error"];

/// The copying processes of the streams that had to be replaced.
#[derive(Debug, Default)]
pub struct Relayed {
    copiers: Vec<Pid>,
}

/// Opens /dev/null where the caller left one of 0, 1 and 2 closed: another file would be opened in its place and mistaken for
/// a stream.
pub fn fill_holes() {
    let Ok(mut lowest) = open_null() else { return };
    while lowest.as_raw_fd() <= libc::STDERR_FILENO {
        let Ok(next) = open_null() else { return };
        // It stays where it is for the life of the process.
        std::mem::forget(std::mem::replace(&mut lowest, next));
    }
}

fn open_null() -> nix::Result<OwnedFd> {
    nix::fcntl::open("/dev/null", OFlag::O_RDWR, nix::sys::stat::Mode::empty())
}

/// Looks at 0, 1, 2 and `kept`, replaces what must be, and refuses what can not go into a jail.
pub fn prepare(kept: &[RawFd]) -> Result<Relayed, String> {
    for &fd in kept {
        // SAFETY: the number is only looked at; one that is not open is refused.
        let kept = unsafe { BorrowedFd::borrow_raw(fd) };
        if let Stream::Refuse(why) = descriptors::classify(kept, Origin::Kept) {
            return Err(format!(
                "--keep-fd {fd}: descriptor {fd} is {why}; only regular files, pipes and terminals can be kept"
            ));
        }
    }
    let mut relayed = Relayed::default();
    for (number, name) in NAMES.iter().enumerate() {
        let stream = standard(number);
        match descriptors::classify(stream, Origin::Standard) {
            Stream::Pass => {}
            Stream::Refuse(why) => {
                return Err(format!(
                    "{name} is {why}, which can not go into a jail; redirect it to a file, a pipe or /dev/null"
                ));
            }
            Stream::Relay(what) => {
                let pid = relay(number).map_err(|e| format!("{name} is {what}, which netjail must relay: {e}"))?;
                // Nobody waits for what is left of an input.
                if number > 0 {
                    relayed.copiers.push(pid);
                }
            }
        }
    }
    Ok(relayed)
}

fn standard(number: usize) -> BorrowedFd<'static> {
    let number = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO][number];
    // SAFETY: 0, 1 and 2 are open as long as this process lives: main opens /dev/null where the caller left a hole.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Puts a pipe in the place of stream `number`, and a process between the pipe and the socket.
fn relay(number: usize) -> io::Result<Pid> {
    let socket = standard(number).try_clone_to_owned()?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: front is single-threaded.
    match unsafe { fork::role(c"nj-stream", Bond::DiesWithParent) }? {
        Side::Child => {
            let _ = fork::leave_streams();
            if number == 0 {
                drop(read);
                copy(socket, write);
            } else {
                drop(write);
                copy(read, socket);
            }
            fork::exit(0)
        }
        Side::Parent(pid) => {
            match number {
                0 => dup2_stdin(&read)?,
                1 => dup2_stdout(&write)?,
                _ => dup2_stderr(&write)?,
            }
            Ok(pid)
        }
    }
}

fn copy(from: OwnedFd, to: OwnedFd) {
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // The far side learns that nothing more comes, also where front holds another copy of the socket.
    let _ = nix::sys::socket::shutdown(to.as_raw_fd(), nix::sys::socket::Shutdown::Write);
}

impl Relayed {
    /// Waits until what the jail wrote has been copied. Nothing of netjail's own can be printed afterwards.
    pub fn finish(&self) {
        if self.copiers.is_empty() || fork::leave_streams().is_err() {
            return;
        }
        for &pid in &self.copiers {
            while waitpid(pid, None) == Err(Errno::EINTR) {}
        }
    }
}
