//! Which inherited descriptors a jail may hold.
//!
//! A socket keeps the network namespace it was made in, whoever holds it: an inherited inet socket is a way past the jail
//! (`connect(AF_UNSPEC)` re-aims it anywhere), and a unix datagram socket can be sent to any path. A folder is a way out of
//! the jail's files, a namespace or a device a way into the host. So nothing crosses but 0, 1, 2 and what `--keep-fd` names,
//! and of these only what can do nothing but carry bytes. The same list holds for descriptors that come *out* of a jail
//! (streams of `exec`), with [`Origin::Jail`].

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getpeername, getsockname, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::unistd::isatty;

/// What is to be done with a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// It may cross as it is.
    Pass,
    /// A socket whose bytes are useful and which is not: the jail gets a pipe, netjail carries the bytes. Only for 0, 1, 2.
    Relay(&'static str),
    /// It may not cross; the text names its type, for a message such as "descriptor 5 is a directory".
    Refuse(String),
}

/// Where a descriptor comes from, which decides about unix streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A standard stream of the caller: a connected unix stream passes, inet and datagram sockets are relayed.
    Standard,
    /// `--keep-fd`: only what is no socket.
    Kept,
    /// A jail: any socket would be that jail's network.
    Jail,
}

/// Judges one descriptor. (A standard stream that is closed is no question for this function: it stays closed.)
pub fn classify(fd: impl AsFd, origin: Origin) -> Stream {
    let fd = fd.as_fd();
    let found = match fstat(fd) {
        Ok(found) => found,
        Err(Errno::EBADF) => return Stream::Refuse("not open".into()),
        Err(errno) => return Stream::Refuse(format!("unreadable ({errno})")),
    };
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate).unwrap_or(OFlag::O_PATH);
    if flags.contains(OFlag::O_PATH) {
        return Stream::Refuse("a path without a file (O_PATH)".into());
    }
    match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => regular(fd, flags & OFlag::O_ACCMODE),
        SFlag::S_IFIFO => Stream::Pass,
        SFlag::S_IFSOCK => socket(fd, origin),
        SFlag::S_IFCHR => character(fd, found.st_rdev),
        SFlag::S_IFDIR => Stream::Refuse("a directory".into()),
        SFlag::S_IFBLK => Stream::Refuse("a block device".into()),
        SFlag::S_IFLNK => Stream::Refuse("a symbolic link".into()),
        _ => anonymous(fd),
    }
}

/// Regular by type; but files of nsfs (a namespace) and of proc or sysfs are handles on the kernel, not data.
fn regular(fd: BorrowedFd<'_>, access: OFlag) -> Stream {
    use nix::sys::statfs::{NSFS_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
    let written = access != OFlag::O_RDONLY;
    match fstatfs(fd) {
        Ok(at) if at.filesystem_type() == NSFS_MAGIC => Stream::Refuse("a namespace".into()),
        // pidfs (Linux 6.9): a pidfd has a regular file's mode there.
        Ok(at) if at.filesystem_type().0 == 0x5049_4446 => Stream::Refuse("a process (pidfd)".into()),
        Ok(at) if written && [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&at.filesystem_type()) => {
            Stream::Refuse("a writable file of the kernel (proc or sysfs)".into())
        }
        Ok(_) => Stream::Pass,
        Err(errno) => Stream::Refuse(format!("unreadable ({errno})")),
    }
}

/// Terminals, and the memory devices that a jail has anyway.
fn character(fd: BorrowedFd<'_>, device: u64) -> Stream {
    const MEMORY: u64 = 1; // null 3, zero 5, full 7, random 8, urandom 9 (Documentation/admin-guide/devices.txt)
    let (major, minor) = (major(device), minor(device));
    if (major, minor) == (5, 2) {
        return Stream::Refuse("the master of a pty".into());
    }
    if major == MEMORY && matches!(minor, 3 | 5 | 7 | 8 | 9) || isatty(fd).unwrap_or(false) {
        return Stream::Pass;
    }
    Stream::Refuse(format!("a character device ({major}:{minor})"))
}

/// What has no file type at all: eventfd, epoll, pidfd, io_uring, perf, a new mount …
fn anonymous(fd: BorrowedFd<'_>) -> Stream {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let name = link.map(|l| String::from_utf8_lossy(l.as_os_str().as_bytes()).into_owned()).unwrap_or_default();
    let name = name.trim_start_matches("anon_inode:").trim_matches(['[', ']']);
    match name {
        "eventfd" => Stream::Pass,
        "" => Stream::Refuse("a descriptor of an unknown type".into()),
        other => Stream::Refuse(format!("a kernel object ({})", other.escape_default())),
    }
}

fn socket(fd: BorrowedFd<'_>, origin: Origin) -> Stream {
    // nix's enum knows no vsock or SMC by number here, so the family is read from the address's first field.
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|a| a.family());
    let stream = getsockopt(&fd, sockopt::SockType).is_ok_and(|t| t == nix::sys::socket::SockType::Stream);
    let listening = getsockopt(&fd, sockopt::AcceptConn).unwrap_or(true);
    let connected = getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok();
    let name = match (family, stream) {
        (Some(AddressFamily::Unix), true) if listening => "a listening unix socket",
        (Some(AddressFamily::Unix), true) => "a unix stream socket",
        (Some(AddressFamily::Unix), false) => "a unix datagram or packet socket",
        (Some(AddressFamily::Inet | AddressFamily::Inet6), true) if listening => "a listening network socket",
        (Some(AddressFamily::Inet | AddressFamily::Inet6), true) => "a network stream socket",
        (Some(AddressFamily::Inet | AddressFamily::Inet6), false) => "a network datagram socket",
        (Some(AddressFamily::Netlink), _) => "a netlink socket",
        (Some(AddressFamily::Packet), _) => "a packet socket",
        _ => "a socket of another family",
    };
    let relayed = matches!(family, Some(AddressFamily::Unix | AddressFamily::Inet | AddressFamily::Inet6));
    match origin {
        Origin::Standard if family == Some(AddressFamily::Unix) && stream && connected => Stream::Pass,
        Origin::Standard if relayed && !listening => Stream::Relay(name),
        _ => Stream::Refuse(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn refused(fd: impl AsFd, origin: Origin, word: &str) {
        match classify(fd, origin) {
            Stream::Refuse(why) => assert!(why.contains(word), "{why} names no {word}"),
            other => panic!("{other:?}, not refused as {word}"),
        }
    }

    #[test]
    fn what_only_carries_bytes_passes() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let pty = nix::pty::openpty(None, None);
        for origin in [Origin::Standard, Origin::Kept, Origin::Jail] {
            assert_eq!(classify(&read, origin), Stream::Pass);
            assert_eq!(classify(&write, origin), Stream::Pass);
            for path in ["/dev/null", "/dev/zero", "/dev/urandom", "/etc/passwd"] {
                assert_eq!(classify(File::open(path).unwrap(), origin), Stream::Pass, "{path}");
            }
            assert_eq!(classify(tempfile::tempfile().unwrap(), origin), Stream::Pass);
            if let Ok(pty) = &pty {
                assert_eq!(classify(&pty.slave, origin), Stream::Pass);
                refused(&pty.master, origin, "master");
            }
            let event = nix::sys::eventfd::EventFd::new().unwrap();
            assert_eq!(classify(&event, origin), Stream::Pass);
        }
    }

    #[test]
    fn ways_out_are_refused_by_their_type() {
        for origin in [Origin::Standard, Origin::Kept, Origin::Jail] {
            refused(File::open("/").unwrap(), origin, "directory");
            refused(File::open("/proc/self/ns/net").unwrap(), origin, "namespace");
            refused(File::options().write(true).open("/proc/self/comm").unwrap(), origin, "proc");
            let path = File::options().read(true).custom_flags(libc::O_PATH).open("/etc/passwd").unwrap();
            refused(path, origin, "O_PATH");
            refused(
                nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap().0,
                origin,
                "eventpoll",
            );
            // SAFETY: a fresh descriptor of the call before it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as i32) };
            refused(pidfd, origin, "pidfd");
        }
    }

    #[test]
    fn sockets_are_relayed_on_standard_streams_and_refused_elsewhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (datagram, _peer) = UnixDatagram::pair().unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        assert_eq!(classify(&stream, Origin::Standard), Stream::Pass);
        assert_eq!(classify(&tcp, Origin::Standard), Stream::Relay("a network stream socket"));
        assert_eq!(classify(&udp, Origin::Standard), Stream::Relay("a network datagram socket"));
        assert_eq!(classify(&datagram, Origin::Standard), Stream::Relay("a unix datagram or packet socket"));
        refused(&listener, Origin::Standard, "listening network");
        for origin in [Origin::Kept, Origin::Jail] {
            refused(&tcp, origin, "network stream");
            refused(&udp, origin, "network datagram");
            refused(&datagram, origin, "unix datagram");
            refused(&stream, origin, "unix stream");
        }
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        refused(&listener, Origin::Standard, "listening unix");
    }
}
