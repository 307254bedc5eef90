//! Door 1: descriptors that belong to the outside.

use std::ffi::CString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::socket::{SockaddrIn, getsockname};

use super::call::{Arg, ZERO, any, call, connect, descriptor, hear, refused, told};
use super::{Attack, Context, Gift, INHERITED, Object, Outcome, Proof};

pub const ATTACKS: &[Attack] = &[
    Attack::new("inherited-tcp-socket", "connect an inherited TCP socket", |c| reuse(INHERITED, c))
        .given(Gift::Inherited(Object::TcpSocket)),
    Attack::new("inherited-connection", "re-aim an inherited TCP connection with connect(AF_UNSPEC)", |c| {
        re_aim(INHERITED, c)
    })
    .given(Gift::Inherited(Object::TcpConnection)),
    Attack::new("inherited-unix-connection", "talk over an inherited unix connection", |c| talk(INHERITED, c))
        .given(Gift::Inherited(Object::UnixConnection)),
    Attack::new("inherited-folder", "open a file below an inherited O_PATH folder", |c| below(INHERITED, c))
        .given(Gift::Inherited(Object::Folder)),
    Attack::new("inherited-namespace", "enter the network namespace of an inherited descriptor", |c| {
        super::processes::enter_and_look(INHERITED, c)
    })
    .given(Gift::Inherited(Object::NetworkNamespace)),
    Attack::new("inherited-datagram", "send to a path through an inherited datagram socket", |c| send(INHERITED, c))
        .given(Gift::Inherited(Object::UnixDatagram))
        .proven(Proof::Arrived),
    Attack::new("stdin-tcp-socket", "connect standard input, a TCP socket", |c| reuse(0, c))
        .given(Gift::Input(Object::TcpSocket)),
    Attack::new("stdin-connection", "re-aim standard input, a TCP connection", |c| re_aim(0, c))
        .given(Gift::Input(Object::TcpConnection)),
    Attack::new("stdin-datagram", "send to a path through standard input, a datagram socket", |c| send(0, c))
        .given(Gift::Input(Object::UnixDatagram))
        .proven(Proof::Arrived),
    Attack::new("stdin-folder", "open a file below standard input, a folder", |c| below(0, c))
        .given(Gift::Input(Object::Folder)),
    Attack::new("stdin-reopen", "make standard input, a file opened for reading, one to write to", |_| {
        let flags = Arg::Int((libc::O_WRONLY | libc::O_CLOEXEC).into());
        let at = Arg::Int(libc::AT_FDCWD.into());
        descriptor(libc::SYS_openat, &mut [at, Arg::Text(c"/proc/self/fd/0"), flags, ZERO])
            .map_err(refused("/proc/self/fd/0"))?;
        Ok("a hidden file that was opened for reading is open for writing".into())
    })
    .given(Gift::Input(Object::HiddenFile)),
    Attack::new("stdin-unix-socket", "connect standard input, a unix socket, to an abstract name outside", |c| {
        let fd = given(0)?;
        let address =
            nix::sys::socket::UnixAddr::new_abstract(c.abstract_stream.as_bytes()).map_err(refused("address"))?;
        connect(&fd, &address).map_err(refused("connect"))?;
        hear(fd, &c.token, "an abstract socket outside")
    })
    .given(Gift::Input(Object::UnixSocket)),
    Attack::new("stdin-namespace", "enter the network namespace that standard input is", |c| {
        super::processes::enter_and_look(0, c)
    })
    .given(Gift::Input(Object::NetworkNamespace)),
    Attack::new("stdin-tun", "use standard input, a TUN device of the host", |_| {
        let mut features = [0u8; 4];
        // TUNGETFEATURES
        call(libc::SYS_ioctl, &mut [ZERO, Arg::Int(0x8004_54cf), Arg::Buffer(&mut features)])
            .map_err(refused("TUNGETFEATURES"))?;
        Ok("standard input is the host's TUN device".into())
    })
    .given(Gift::Input(Object::TunDevice)),
    Attack::new("stdin-pidfd", "use standard input, a pidfd of a process outside", |c| {
        any([libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal], |number| {
            let second = if number == libc::SYS_pidfd_getfd { c.victim.file } else { 0 };
            call(number, &mut [ZERO, Arg::Int(second.into()), ZERO, ZERO])
                .map(|_| "the process outside can be reached".into())
                .map_err(refused("pidfd"))
        })
    })
    .given(Gift::Input(Object::Pidfd)),
    Attack::new("stdin-peer", "reach the process behind standard input by SO_PEERPIDFD", peer)
        .given(Gift::Input(Object::UnixConnection)),
];

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the attack is the only user of the descriptor that it was given; a number that is not open gives EBADF.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `dup` fails where the number is not open, so that nothing below owns a number that is not there.
fn given(fd: i32) -> Result<OwnedFd, String> {
    let copy = call(libc::SYS_dup, &mut [Arg::Int(fd.into())]).map_err(refused("the descriptor is not here"))?;
    Ok(own(copy as i32))
}

fn reuse(fd: i32, c: &Context) -> Outcome {
    let fd = given(fd)?;
    let target = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, c.tcp));
    connect(&fd, &target).map_err(refused("connect"))?;
    hear(fd, &c.token, "a TCP listener on the host's loopback")
}

fn re_aim(fd: i32, c: &Context) -> Outcome {
    let fd = given(fd)?;
    let unspecified = [0u8; 16];
    call(libc::SYS_connect, &mut [Arg::Int(fd.as_raw_fd().into()), Arg::Bytes(&unspecified), Arg::Int(16)])
        .map_err(refused("connect(AF_UNSPEC)"))?;
    let target = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, c.tcp));
    connect(&fd, &target).map_err(refused("connect"))?;
    hear(fd, &c.token, "a TCP listener on the host's loopback")
}

fn talk(fd: i32, c: &Context) -> Outcome {
    let fd = given(fd)?;
    getsockname::<nix::sys::socket::UnixAddr>(fd.as_raw_fd()).map_err(refused("getsockname"))?;
    hear(fd, &c.token, "the victim's end of the connection")
}

fn below(fd: i32, c: &Context) -> Outcome {
    let fd = given(fd)?;
    let number = Arg::Int(fd.as_raw_fd().into());
    let file =
        descriptor(libc::SYS_openat, &mut [number, Arg::Text(c"secret"), ZERO, ZERO]).map_err(refused("openat"))?;
    hear(file, &c.token, "a file in a folder outside")
}

/// sendto(2) with a path: `struct sockaddr_un`.
pub fn send(fd: i32, c: &Context) -> Outcome {
    send_to_path(fd, c)
}

pub fn send_to_path(fd: i32, c: &Context) -> Outcome {
    let fd = given(fd)?;
    let path = CString::new(c.datagram.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(path.as_bytes_with_nul());
    let text = c.token.as_bytes();
    call(
        libc::SYS_sendto,
        &mut [
            Arg::Int(fd.as_raw_fd().into()),
            Arg::Bytes(text),
            Arg::Int(text.len() as i64),
            ZERO,
            Arg::Bytes(&address),
            Arg::Int(address.len() as i64),
        ],
    )
    .map_err(refused("sendto a path"))?;
    Ok("sent".into())
}

/// A pidfd of the peer crosses pid namespaces; what it is good for is the user namespaces' affair.
fn peer(c: &Context) -> Outcome {
    const SO_PEERPIDFD: i64 = 77; // asm-generic/socket.h, Linux 6.5
    let mut pidfd = [0u8; 4];
    let mut length = 4u32.to_ne_bytes();
    call(
        libc::SYS_getsockopt,
        &mut [
            ZERO,
            Arg::Int(libc::SOL_SOCKET.into()),
            Arg::Int(SO_PEERPIDFD),
            Arg::Buffer(&mut pidfd),
            Arg::Buffer(&mut length),
        ],
    )
    .map_err(refused("SO_PEERPIDFD"))?;
    let pidfd = own(i32::from_ne_bytes(pidfd));
    let number = || Arg::Int(pidfd.as_raw_fd().into());
    let mut why = Vec::new();
    match descriptor(libc::SYS_pidfd_getfd, &mut [number(), Arg::Int(c.victim.file.into()), ZERO]) {
        Ok(file) => {
            let mut text = [0u8; 256];
            let read = call(
                libc::SYS_pread64,
                &mut [Arg::Int(file.as_raw_fd().into()), Arg::Buffer(&mut text), Arg::Int(256), ZERO],
            )
            .unwrap_or(0);
            return told(&text[..read as usize], &c.token, "a file taken from the peer with pidfd_getfd");
        }
        Err(errno) => why.push(format!("pidfd_getfd: {errno:?}")),
    }
    match call(libc::SYS_setns, &mut [number(), Arg::Int(libc::CLONE_NEWNET.into())]) {
        Ok(_) => return Ok("entered the peer's network namespace".into()),
        Err(errno) => why.push(format!("setns: {errno:?}")),
    }
    match call(libc::SYS_pidfd_send_signal, &mut [number(), Arg::Int(0), ZERO, ZERO]) {
        Ok(_) => Ok("the peer can be signalled".into()),
        Err(errno) => {
            why.push(format!("pidfd_send_signal: {errno:?}"));
            Err(why.join("; "))
        }
    }
}
