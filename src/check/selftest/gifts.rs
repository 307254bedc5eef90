//! Descriptors of the outside that an attack is started with.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::check::attacks::{Context, Gift, INHERITED, Object};

/// What has to stay open while the attack runs.
#[derive(Debug)]
pub struct Held {
    _descriptors: Vec<OwnedFd>,
}

/// Prepares the command; what comes back must live until the attack has ended.
pub fn give(gift: Gift, command: &mut Command, context: &Context) -> io::Result<Held> {
    let mut descriptors = Vec::new();
    match gift {
        Gift::Nothing => {}
        Gift::Group => {
            command.process_group(context.victim.pid);
        }
        Gift::Input(object) => {
            command.stdin(Stdio::from(make(object, context)?));
        }
        Gift::Inherited(object) => {
            let fd = make(object, context)?;
            let number = fd.as_raw_fd();
            let duplicate = move || match nix::errno::Errno::result(
                // SAFETY: dup2 replaces whatever has that number in the child, where nothing uses it.
                unsafe { libc::dup2(number, INHERITED) },
            ) {
                Ok(_) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
            // SAFETY: dup2 is safe between fork and exec. It clears close-on-exec, unless the number is the same.
            unsafe { command.pre_exec(duplicate) };
            descriptors.push(fd);
        }
        Gift::Terminal => {
            let pair = openpty(None, None)?;
            command.stdin(Stdio::from(pair.slave));
            let take = || {
                nix::unistd::setsid()?;
                // SAFETY: TIOCSCTTY takes an integer.
                nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
                Ok(())
            };
            // SAFETY: both calls are safe between fork and exec.
            unsafe { command.pre_exec(take) };
            descriptors.push(pair.master);
        }
    }
    Ok(Held { _descriptors: descriptors })
}

fn make(object: Object, context: &Context) -> io::Result<OwnedFd> {
    let base = context.file.parent().and_then(|work| work.parent()).ok_or(io::ErrorKind::NotFound)?;
    Ok(match object {
        Object::TcpSocket => socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?,
        Object::TcpConnection => TcpStream::connect((Ipv4Addr::LOCALHOST, context.tcp))?.into(),
        Object::UnixConnection => UnixStream::connect(base.join("victim.sock"))?.into(),
        Object::UnixDatagram => socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?,
        Object::Folder => {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            File::options().read(true).custom_flags(flags).open(base.join("outside"))?.into()
        }
        Object::UnixSocket => socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?,
        Object::HiddenFile => File::open(context.hidden.join("secret"))?.into(),
        Object::TunDevice => File::options().read(true).write(true).open("/dev/net/tun")?.into(),
        Object::Pidfd => {
            // SAFETY: integers.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, context.victim.pid, 0) };
            let fd = nix::errno::Errno::result(fd)? as i32;
            // SAFETY: the kernel has just made this descriptor for this call.
            unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
        }
        Object::NetworkNamespace => File::open("/proc/self/ns/net")?.into(),
    })
}
