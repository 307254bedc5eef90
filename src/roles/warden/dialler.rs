//! Connections to the proxy: the one address that a jail's traffic goes to.
//!
//! The proxy's host is resolved here, on the host, by a thread of its own, for `getaddrinfo(3)` may take seconds. A dial
//! makes a socket, starts to connect it, and is handed to the worker at once, still connecting: giving a dial up is then
//! closing a descriptor. Where the host has several addresses the next one is tried for the next dial after a failure.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt};

use crate::overlay::DialError;

/// How long a name's addresses are believed before they are looked up again beside the next dial.
const FRESH: Duration = Duration::from_secs(30);

/// No relay is at a port below, unless it is the proxy's own: those are for services that are asked for by their number.
const FIRST_RELAY_PORT: u16 = 1024;

/// What came of a dial.
#[derive(Debug)]
pub enum Dialled {
    /// A non-blocking socket, connected or connecting.
    Socket(OwnedFd),
    /// It failed at once.
    Failed(Errno),
    /// The proxy's host name is being looked up; [`Dialler::resolved`] tells when to try again.
    Wait,
}

/// Dials one proxy.
#[derive(Debug)]
pub struct Dialler {
    host: String,
    port: u16,
    addresses: VecDeque<SocketAddr>,
    looked_up: Option<Instant>,
    asking: bool,
    /// What the host has new connections send by paces them.
    paced: bool,
    answers: (mpsc::Sender<Vec<SocketAddr>>, mpsc::Receiver<Vec<SocketAddr>>),
    answered: EventFd,
}

impl Dialler {
    /// Begins to look the host up, if it is a name.
    pub fn new(host: &str, port: u16) -> Result<Self, Errno> {
        let answered = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mut dialler = Self {
            host: host.to_owned(),
            port,
            addresses: VecDeque::new(),
            looked_up: None,
            asking: false,
            paced: is_paced(),
            answers: mpsc::channel(),
            answered,
        };
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => dialler.addresses.push_back(SocketAddr::new(ip, port)),
            Err(_) => dialler.look_up(),
        }
        Ok(dialler)
    }

    fn is_name(&self) -> bool {
        self.looked_up.is_some() || self.asking || self.addresses.is_empty()
    }

    fn look_up(&mut self) {
        if self.asking {
            return;
        }
        let Ok(wake) = self.answered.as_fd_owned() else { return };
        let (sender, host, port) = (self.answers.0.clone(), self.host.clone(), self.port);
        let asked = thread::Builder::new().name("nj-resolve".into()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
            let _ = sender.send(found);
            let _ = nix::unistd::write(&wake, &1u64.to_ne_bytes());
        });
        self.asking = asked.is_ok();
    }

    /// Readable when a look-up has ended.
    pub fn event(&self) -> &EventFd {
        &self.answered
    }

    /// Takes the look-up's result; dials that were told to wait may be tried again.
    pub fn resolved(&mut self) {
        let _ = self.answered.read();
        while let Ok(found) = self.answers.1.try_recv() {
            self.asking = false;
            self.looked_up = Some(Instant::now());
            // A look-up that fails now does not take back what was known before.
            if !found.is_empty() {
                self.addresses = found.into();
            }
        }
    }

    /// The last dial did not come to anything: another address is tried next, and the name is looked up again.
    pub fn failed(&mut self) {
        self.addresses.rotate_left(usize::from(self.addresses.len() > 1));
        if self.is_name() && self.looked_up.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            self.look_up();
        }
    }

    /// What is known of the proxy's name may be old: it is looked up again, whatever the clock says.
    pub fn look_again(&mut self) {
        if self.is_name() {
            self.look_up();
        }
    }

    /// Starts one connection.
    pub fn dial(&mut self) -> Dialled {
        if self.is_name() && self.looked_up.is_some_and(|at| at.elapsed() > FRESH) {
            self.look_up();
        }
        // What dial_error() takes for a name without an address.
        let mut last = Errno::ENXIO;
        for _ in 0..self.addresses.len() {
            let Some(&address) = self.addresses.front() else { break };
            match start(address, self.paced && address.ip().is_loopback()) {
                Ok(socket) => return Dialled::Socket(socket),
                Err(errno) => {
                    last = errno;
                    self.failed();
                }
            }
        }
        if self.addresses.is_empty() && self.asking { Dialled::Wait } else { Dialled::Failed(last) }
    }

    /// A datagram socket to the proxy's relay. It goes to the proxy's own address only, whatever the relay's is said to be:
    /// neither a hostile proxy nor a worker that was broken into can have datagrams sent to somebody else; nor, on the proxy's
    /// machine, to a service at a well-known port.
    ///
    /// # Errors
    /// [`DialError::RelayElsewhere`], or the kernel's.
    pub fn relay(&self, relay: SocketAddr) -> Result<OwnedFd, DialError> {
        let said = relay.ip().to_canonical();
        let known = |address: &&SocketAddr| said.is_unspecified() || address.ip().to_canonical() == said;
        let proxy = self.addresses.iter().find(known).ok_or(DialError::RelayElsewhere)?;
        let port = relay.port();
        if port == 0 || (port < FIRST_RELAY_PORT && port != self.port) {
            return Err(DialError::RelayElsewhere);
        }
        let mut address = *proxy;
        address.set_port(port);
        datagrams(address).map_err(|errno| DialError::Proxy(errno as i32))
    }
}

fn datagrams(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

/// Whether this host's default congestion control is one that paces what it sends (bbr), unlike the kernel's own.
fn is_paced() -> bool {
    let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    !matches!(default.trim(), "" | "cubic" | "reno")
}

/// `unpaced`: to this machine itself, where there is nothing to pace for: it costs an upload half of its speed.
fn start(address: SocketAddr, unpaced: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    if unpaced {
        // Every kernel has it and allows it to everybody; one that refuses paces.
        let _ = setsockopt(&fd, sockopt::TcpCongestion, &OsString::from("reno"));
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

trait Duplicate {
    fn as_fd_owned(&self) -> std::io::Result<OwnedFd>;
}

impl Duplicate for EventFd {
    fn as_fd_owned(&self) -> std::io::Result<OwnedFd> {
        use std::os::fd::AsFd;
        self.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    use super::*;

    fn await_answer(dialler: &mut Dialler) {
        let mut polled = [PollFd::new(dialler.event().as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, PollTimeout::from(20_000u16)), Ok(1));
        dialler.resolved();
    }

    #[test]
    fn after_a_sleep_the_proxys_name_is_looked_up_again() {
        let mut dialler = Dialler::new("localhost", 9).unwrap();
        await_answer(&mut dialler);
        let known = dialler.addresses.clone();
        assert!(!known.is_empty());
        dialler.addresses = [SocketAddr::from(([192, 0, 2, 7], 9))].into();
        dialler.look_again();
        await_answer(&mut dialler);
        assert_eq!(dialler.addresses, known);
        let mut literal = Dialler::new("192.0.2.7", 9).unwrap();
        literal.look_again();
        assert!(!literal.asking, "an address is no name");
    }

    #[test]
    fn a_relay_is_the_proxy_itself_at_no_service_s_port() {
        let dialler = Dialler::new("127.0.0.1", 1080).unwrap();
        let to = |text: &str| {
            let fd = dialler.relay(text.parse().unwrap())?;
            let name = nix::sys::socket::getpeername::<nix::sys::socket::SockaddrIn>(fd.as_raw_fd()).unwrap();
            Ok(name.to_string())
        };
        for good in ["127.0.0.1:40000", "0.0.0.0:40000", "[::]:40000", "[::ffff:127.0.0.1]:40000"] {
            assert_eq!(to(good), Ok("127.0.0.1:40000".to_owned()), "{good}");
        }
        assert_eq!(to("127.0.0.1:1080"), Ok("127.0.0.1:1080".to_owned()));
        let elsewhere = [
            "127.0.0.2:40000",
            "169.254.169.254:40000",
            "[::1]:40000",
            "203.0.113.7:40000",
            "127.0.0.1:53",
            "0.0.0.0:53",
            "127.0.0.1:0",
        ];
        for bad in elsewhere {
            assert_eq!(to(bad), Err(DialError::RelayElsewhere), "{bad}");
        }
    }
}
