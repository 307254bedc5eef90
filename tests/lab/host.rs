//! A machine with a network of its own, made of namespaces and without any privilege: where netjail runs when a test has to
//! see what leaves the host.
//!
//! ```text
//!   "host"                                          "internet"
//!   wan0 192.0.2.2/24  2001:db8:1::2/64  ────────  wan1 192.0.2.1 2001:db8:1::1   (the default route)
//!   lan0 10.20.0.2/24  fd20::2/64        ────────  lan1 10.20.0.1 fd20::1         (a private network)
//!   lo   127.0.0.1 ::1                             lo   203.0.113.80 2001:db8:9::80   a public web server
//!   resolv.conf: 198.51.100.53                          203.0.113.5  2001:db8:9::5    a proxy
//!   hosts: 203.0.113.80 hostsfile.lab                   198.51.100.53                 the resolver
//!                                                       169.254.169.254 172.16.9.9 100.64.9.9 fd99::9
//!                                                       what a jail must not reach although it answers
//!                                                       no way to 198.51.100.97, forbidden 198.51.100.98 (and …:9::97, 98)
//! ```
//!
//! `tests/tools/agent.rs` holds the namespaces; this is its client.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair};

use super::child::Running;

/// The public web server's addresses.
pub const WEB: &str = "203.0.113.80";
pub const WEB6: &str = "2001:db8:9::80";
/// The proxy's address.
pub const PROXY: &str = "203.0.113.5";
pub const PROXY6: &str = "2001:db8:9::5";
/// The resolver's address.
pub const RESOLVER: &str = "198.51.100.53";

/// The two namespaces, gone when this is dropped.
pub struct Host {
    agent: Child,
    socket: Mutex<OwnedFd>,
    host: i32,
    internet: i32,
    folder: tempfile::TempDir,
}

impl Host {
    /// Why this can not be had on this machine, if it can't.
    pub fn lack() -> Option<String> {
        for tool in ["ip", "nsenter", "unshare"] {
            if super::program(tool).is_none() {
                return Some(format!("no {tool}(8)"));
            }
        }
        if !super::is_root() {
            let tried = Command::new("unshare").args(["-Urn", "true"]).output();
            if !tried.is_ok_and(|o| o.status.success()) {
                return Some("ordinary users may not make user namespaces".into());
            }
        }
        None
    }

    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("resolv.conf"), format!("nameserver {RESOLVER}\n")).unwrap();
        let hosts = format!("127.0.0.1 localhost\n::1 localhost\n{WEB} hostsfile.lab\n");
        std::fs::write(folder.path().join("hosts"), hosts).unwrap();
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let mut command = Command::new(super::tool("agent"));
        command.arg(folder.path()).stdin(Stdio::from(there));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let agent = super::child::spawn(command).unwrap();
        let timeout = nix::sys::time::TimeVal::new(20, 0);
        nix::sys::socket::setsockopt(&here, nix::sys::socket::sockopt::ReceiveTimeout, &timeout).unwrap();
        let mut lab = Self { agent, socket: Mutex::new(here), host: 0, internet: 0, folder };
        let pids = lab.ask("pids").0;
        let mut pids = pids.split_whitespace().map(|p| p.parse().unwrap());
        lab.host = pids.next().unwrap();
        lab.internet = pids.next().unwrap();
        lab
    }

    /// The process that holds the host's namespaces.
    pub fn pid(&self) -> i32 {
        self.host
    }

    /// A listener on the host or in the internet.
    pub fn listen(&self, place: &str, addr: &str) -> TcpListener {
        TcpListener::from(self.ask(&format!("{place} tcp {addr}")).1.expect("a socket"))
    }

    /// A datagram socket on the host or in the internet.
    pub fn datagrams(&self, place: &str, addr: &str) -> UdpSocket {
        UdpSocket::from(self.ask(&format!("{place} udp {addr}")).1.expect("a socket"))
    }

    /// Runs a command as the one who owns the namespaces: `host` or `internet`.
    pub fn act(&self, place: &str, words: &str) {
        self.ask(&format!("{place} run {words}"));
    }

    /// Overwrites the host's `resolv.conf` or `hosts`.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A command in the internet, as the user who runs the tests.
    pub fn in_internet(&self, program: &str) -> Command {
        let mut enter = Command::new("nsenter");
        if !super::is_root() {
            enter.arg(format!("--user=/proc/{}/ns/user", self.internet)).arg("--preserve-credentials");
        }
        enter.arg(format!("--net=/proc/{}/ns/net", self.internet)).arg("--").arg(program);
        enter
    }

    /// A resolver in the internet: `web.lab` is the web server in both families, every other name `*.lab` is nothing.
    /// Its questions are on its stderr.
    pub fn resolver(&self) -> Running {
        let mut command = self.in_internet("dnsmasq");
        command.args(["--keep-in-foreground", "--log-queries", "--log-facility=-", "--conf-file=/dev/null"]);
        command.args(["--no-resolv", "--no-hosts", "--pid-file=", "--bind-interfaces"]);
        command.args([format!("--listen-address={RESOLVER}"), "--local=/lab/".into(), "--local=/#/".into()]);
        command.args([format!("--address=/web.lab/{WEB}"), format!("--address=/web.lab/{WEB6}")]);
        command.arg("--address=/rebind.lab/127.0.0.1");
        command.arg("--txt-record=text.lab,hello");
        if super::is_root() {
            command.arg("--user=root");
        }
        let running = Running::start(command);
        super::wait_for("dnsmasq", Duration::from_secs(10), || running.err().contains("started").then_some(()));
        running
    }

    /// Sees every packet on the host, loopback included, from now on.
    pub fn capture(&self) -> Capture {
        let socket = self.ask("host packet any").1.expect("a socket");
        Capture::on(socket, self.datagrams("host", "192.0.2.2:0"))
    }

    fn ask(&self, line: &str) -> (String, Option<OwnedFd>) {
        let socket = self.socket.lock().unwrap();
        send(socket.as_raw_fd(), line.as_bytes(), MsgFlags::empty()).unwrap();
        let mut buffer = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .unwrap_or_else(|e| panic!("the agent did not answer {line:?}: {e}"));
        let mut fd = None;
        for part in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel has just made this descriptor for this process.
                fd = fds.first().map(|&raw| unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        let n = message.bytes;
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let text = text.strip_prefix("ok ").unwrap_or_else(|| panic!("agent: {line}: {text}")).to_owned();
        (text, fd)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// One captured packet, as far as the tests care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a protocol number.
    pub protocol: String,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// What has passed on the host since it began.
pub struct Capture {
    packets: Arc<Mutex<Vec<Packet>>>,
    marker: UdpSocket,
}

const MARK: &str = "192.0.2.1:9";

impl Capture {
    fn on(socket: OwnedFd, marker: UdpSocket) -> Self {
        let packets = Arc::<Mutex<Vec<Packet>>>::default();
        let kept = Arc::clone(&packets);
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(8 << 20));
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n) = nix::unistd::read(&socket, &mut buffer) {
                if let Some(packet) = parse(&buffer[..n]) {
                    kept.lock().unwrap().push(packet);
                }
            }
        });
        Self { packets, marker }
    }

    /// All packets until now. A marker is sent and awaited, so nothing that came before it is missing.
    pub fn packets(&self) -> Vec<Packet> {
        self.marker.send_to(b"mark", MARK).unwrap();
        let mark = MARK.parse().unwrap();
        super::wait_for("the capture's own marker", Duration::from_secs(10), || {
            let packets = self.packets.lock().unwrap();
            let at = packets.iter().position(|p| p.to == mark)?;
            Some(packets[..at].to_vec())
        })
    }

    /// Nothing but TCP to and from the proxy may have passed.
    pub fn assert_only(&self, proxy: SocketAddr) {
        let stray: Vec<_> =
            self.packets().into_iter().filter(|p| p.protocol != "tcp" || (p.from != proxy && p.to != proxy)).collect();
        assert!(stray.is_empty(), "packets that went past the proxy: {stray:#?}");
    }
}

/// Reads an IP packet; the neighbour and multicast chatter of IPv6 itself is not one.
fn parse(bytes: &[u8]) -> Option<Packet> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let v6 = bytes.first()? >> 4 == 6;
    if !v6 && bytes[0] >> 4 != 4 {
        return None;
    }
    let (protocol, from, to, rest): (u8, IpAddr, IpAddr, &[u8]) = if v6 {
        let from = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?);
        let to = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(24..40)?).ok()?);
        let (mut protocol, mut rest) = (bytes[6], bytes.get(40..)?);
        if protocol == 0 {
            protocol = *rest.first()?;
            rest = rest.get((usize::from(*rest.get(1)?) + 1) * 8..)?;
        }
        // Router and neighbour discovery, multicast listener reports (RFC 4861, RFC 3810).
        if protocol == 58 && matches!(rest.first()?, 130..=137 | 143) {
            return None;
        }
        (protocol, from.into(), to.into(), rest)
    } else {
        let from = Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(12..16)?).ok()?);
        let to = Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(16..20)?).ok()?);
        (bytes[9], from.into(), to.into(), bytes.get(usize::from(bytes[0] & 15) * 4..)?)
    };
    let ports = matches!(protocol, 6 | 17) && rest.len() >= 4;
    let port = |at: usize| if ports { u16::from_be_bytes([rest[at], rest[at + 1]]) } else { 0 };
    let name = match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        n => n.to_string(),
    };
    Some(Packet { protocol: name, from: SocketAddr::new(from, port(0)), to: SocketAddr::new(to, port(2)) })
}
