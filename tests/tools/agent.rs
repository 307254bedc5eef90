//! Holds the namespaces of the test lab and opens sockets in them on request.
//!
//! `agent` makes two network namespaces, "host" (where netjail will run) and "internet" (everything else there is), joined
//! by two links, and one mount namespace for the host, so that it has a resolver of its own. An ordinary user does this in a
//! user namespace that maps nobody but himself. It then serves its stdin, a SEQPACKET socket: each request is one line,
//! each answer one datagram, `ok` with at most one descriptor, or `error TEXT`.
//!
//! A test is one multi-threaded process and can not enter another user namespace; a listening socket made here and passed
//! over works from where the test is, and its connections still belong to this namespace.
//!
//! Requests: `PLACE tcp ADDR`, `PLACE udp ADDR`, `PLACE packet INTERFACE|any`, `PLACE run WORD...`, with `host` or `internet`
//! as the place. `pids` answers with the process of each place, for nsenter(1).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::IoSlice;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};
use nix::unistd::{ForkResult, fork, getegid, geteuid, getpid};

/// What joins the two places: see the head of `tests/lab/host.rs` for the map.
const LINKS: &[&str] = &[
    "link set lo up",
    "link add wan0 type veth peer name wan1 netns INTERNET",
    "link add lan0 type veth peer name lan1 netns INTERNET",
    "addr add 192.0.2.2/24 dev wan0",
    "addr add 2001:db8:1::2/64 dev wan0 nodad",
    "addr add 10.20.0.2/24 dev lan0",
    "addr add fd20::2/64 dev lan0 nodad",
    "link set wan0 up",
    "link set lan0 up",
    "route add default via 192.0.2.1",
    "-6 route add default via 2001:db8:1::1",
];
const INTERNET: &[&str] = &[
    "link set lo up",
    "addr add 192.0.2.1/24 dev wan1",
    "addr add 2001:db8:1::1/64 dev wan1 nodad",
    "addr add 10.20.0.1/24 dev lan1",
    "addr add fd20::1/64 dev lan1 nodad",
    "link set wan1 up",
    "link set lan1 up",
    "addr add 203.0.113.5/32 dev lo",
    "addr add 203.0.113.80/32 dev lo",
    "addr add 198.51.100.53/32 dev lo",
    "addr add 169.254.169.254/32 dev lo",
    "addr add 172.16.9.9/32 dev lo",
    "addr add 100.64.9.9/32 dev lo",
    "addr add 2001:db8:9::80/128 dev lo nodad",
    "addr add 2001:db8:9::5/128 dev lo nodad",
    "addr add fd99::9/128 dev lo nodad",
    "route add unreachable 198.51.100.97/32",
    "route add prohibit 198.51.100.98/32",
    "-6 route add unreachable 2001:db8:9::97/128",
    "-6 route add prohibit 2001:db8:9::98/128",
];

fn main() {
    let conf = std::env::args().nth(1).expect("usage: agent FOLDER (with resolv.conf and hosts), stdin a SEQPACKET");
    enter_namespaces();
    private_files(&conf);
    let (to_internet, from_host) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    // SAFETY: this process has one thread.
    let internet = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(to_internet);
            die_with_parent();
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // Real servers (a resolver on port 53) run here as the ordinary user who runs the tests.
            std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").unwrap();
            // Routers answer for addresses that they can not reach.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            serve(&from_host, None);
        }
        ForkResult::Parent { child } => child,
    };
    drop(from_host);
    // The child answers only once it is in its own namespace.
    ask(&to_internet, "ready");
    ip(LINKS, internet.as_raw());
    for line in INTERNET {
        ask(&to_internet, &format!("internet run ip {line}"));
    }
    // SAFETY: stdin is the socket that the test handed over and nothing else here owns it.
    let stdin = unsafe { OwnedFd::from_raw_fd(0) };
    serve(&stdin, Some((&to_internet, internet.as_raw())));
}

fn enter_namespaces() {
    let (uid, gid) = (geteuid(), getegid());
    if !uid.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER).expect("a user namespace (is it allowed to ordinary users here?)");
        std::fs::write("/proc/self/setgroups", "deny").unwrap();
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).unwrap();
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).unwrap();
        // ip(8) is executed by an unprivileged uid: only ambient capabilities survive that.
        let mut all = caps::read(None, caps::CapSet::Permitted).unwrap();
        all.shrink_to_fit();
        caps::set(None, caps::CapSet::Inheritable, &all).unwrap();
        caps::set(None, caps::CapSet::Ambient, &all).unwrap();
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
}

/// The host's resolver and hosts file, seen by nobody else.
fn private_files(folder: &str) {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    for name in ["resolv.conf", "hosts"] {
        let target = std::fs::canonicalize(format!("/etc/{name}")).unwrap();
        mount(Some(format!("{folder}/{name}").as_str()), &target, none, MsFlags::MS_BIND, none).unwrap();
    }
}

fn die_with_parent() {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn ip(lines: &[&str], internet: i32) {
    for line in lines {
        let line = line.replace("INTERNET", &internet.to_string());
        let done = Command::new("ip").args(line.split(' ')).output().expect("ip(8)");
        assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

fn ask(socket: &OwnedFd, line: &str) {
    nix::unistd::write(socket, line.as_bytes()).unwrap();
    let mut buffer = [0; 1024];
    let n = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(text.starts_with("ok"), "{line}: {text}");
}

/// Answers requests until the other end is closed. The host's agent passes what is meant for the internet on to the other
/// one's socket, with its answer and descriptor.
fn serve(socket: &OwnedFd, internet: Option<(&OwnedFd, i32)>) -> ! {
    loop {
        let mut buffer = [0; 4096];
        let n = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap_or(0);
        if n == 0 {
            std::process::exit(0);
        }
        let line = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if let (Some((other, _)), true) = (internet, line.starts_with("internet ")) {
            nix::unistd::write(other, line.as_bytes()).unwrap();
            let (text, fd) = receive(other);
            answer(socket, &text, fd.as_ref());
            continue;
        }
        let pids = internet.map(|(_, pid)| format!("{} {pid}", getpid()));
        match act(&line, pids) {
            Ok((text, fd)) => answer(socket, &format!("ok {text}"), fd.as_ref()),
            Err(e) => answer(socket, &format!("error {line}: {e}"), None),
        }
    }
}

fn act(line: &str, pids: Option<String>) -> Result<(String, Option<OwnedFd>), String> {
    let words: Vec<&str> = line.split(' ').collect();
    let text = |e: std::io::Error| e.to_string();
    match words.as_slice() {
        ["ready"] => Ok((String::new(), None)),
        ["pids"] => Ok((pids.unwrap_or_default(), None)),
        [_, "tcp", addr] => Ok((String::new(), Some(TcpListener::bind(addr).map_err(text)?.into()))),
        [_, "udp", addr] => Ok((String::new(), Some(UdpSocket::bind(addr).map_err(text)?.into()))),
        [_, "packet", interface] => packet_socket(interface).map(|fd| (String::new(), Some(fd))),
        [_, "run", program, rest @ ..] => {
            let done = Command::new(program).args(rest).output().map_err(text)?;
            if done.status.success() {
                Ok((String::from_utf8_lossy(&done.stdout).into_owned(), None))
            } else {
                Err(String::from_utf8_lossy(&done.stderr).into_owned())
            }
        }
        _ => Err("unknown request".into()),
    }
}

/// Sees every frame of the interface, in and out (packet(7)).
fn packet_socket(interface: &str) -> Result<OwnedFd, String> {
    use nix::sys::socket::{SockProtocol, socket};
    let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .map_err(|e| e.to_string())?;
    let index = match interface {
        "any" => 0,
        one => nix::net::if_::if_nametoindex(one).map_err(|e| e.to_string())?,
    };
    let mut address: libc::sockaddr_ll = {
        // SAFETY: an all-zero sockaddr_ll is a valid value.
        unsafe { std::mem::zeroed() }
    };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: pointer and length describe the live address above.
    let rc =
        unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t) };
    if rc == 0 { Ok(fd) } else { Err(std::io::Error::last_os_error().to_string()) }
}

fn answer(socket: &OwnedFd, text: &str, fd: Option<&OwnedFd>) {
    let fds = fd.map(|fd| [fd.as_raw_fd()]);
    let rights = fds.as_ref().map(|fds| [ControlMessage::ScmRights(fds)]);
    let control: &[ControlMessage] = rights.as_ref().map_or(&[], |r| r.as_slice());
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], control, MsgFlags::empty(), None).unwrap();
}

fn receive(socket: &OwnedFd) -> (String, Option<OwnedFd>) {
    let mut buffer = [0; 4096];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
    let message =
        nix::sys::socket::recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .unwrap();
    let mut fd = None;
    for part in message.cmsgs().unwrap() {
        if let nix::sys::socket::ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made this descriptor for us.
            fd = fds.first().map(|&raw| unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
    let n = message.bytes;
    (String::from_utf8_lossy(&buffer[..n]).into_owned(), fd)
}
