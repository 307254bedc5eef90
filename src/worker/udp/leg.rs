//! The outside of a mapping: its socket, and what the kernel says of datagrams that did not arrive.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, recvmsg, setsockopt, socket,
    sockopt,
};

use super::batch::Cut;
use crate::overlay::socks5::Handshake;
use crate::stack::Instant;

/// The most datagrams, and bytes of them before the last one, that wait for one association. So many bytes that a burst with
/// one datagram of the largest size among ordinary ones waits whole.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 128 * 1024;

/// How a mapping's datagrams leave.
pub(super) enum Leg {
    /// Not at all, now: the next datagram begins an association, but not before this.
    None { retry: Instant },
    /// From a socket of the worker's own (direct). It is not connected: anybody may answer.
    Direct(OwnedFd),
    /// The proxy is asked for an association.
    Associating(Box<Associating>),
    /// Through the proxy's relay.
    Associated {
        /// The association lives as long as this connection.
        control: OwnedFd,
        /// Connected to the relay by the warden: the kernel lets nobody else answer.
        relay: OwnedFd,
        cut: Cut,
    },
}

/// How far it is.
pub(super) enum Step {
    /// The warden was asked for a connection to the proxy.
    Asked,
    /// It is being made.
    Connecting,
    /// The proxy is spoken to.
    Greeting(Handshake),
    /// The warden was asked for a socket to the relay.
    Relay,
}

/// An association on its way, and the datagrams that wait for it.
pub(super) struct Associating {
    pub step: Step,
    pub control: Option<OwnedFd>,
    pub readable: bool,
    pub writable: bool,
    pub ending: bool,
    pub deadline: Instant,
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    bytes: usize,
}

impl Associating {
    pub fn new(deadline: Instant) -> Self {
        Self {
            step: Step::Asked,
            control: None,
            readable: false,
            writable: false,
            ending: false,
            deadline,
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Keeps a datagram; one too many is lost, as in any queue.
    pub fn keep(&mut self, server: SocketAddr, data: &[u8]) {
        if self.waiting.len() < WAITING && self.bytes < WAITING_BYTES {
            self.bytes += data.len();
            self.waiting.push_back((server, data.to_vec()));
        }
    }

    /// What waits, oldest first.
    pub fn take(&mut self) -> VecDeque<(SocketAddr, Vec<u8>)> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}

/// A socket for one mapping (direct). The kernel gives it a port with the first datagram.
pub(super) fn open(v4: bool) -> nix::Result<OwnedFd> {
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    // The errors of datagrams that did not arrive are asked for: an unconnected socket is not told otherwise (ip(7)).
    if v4 {
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
    } else {
        // An IPv4 peer in IPv6 clothes would be judged as another address than the one it is.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
    }
    // Older kernels hand each datagram over by itself.
    let _ = setsockopt(&fd, sockopt::UdpGroSegment, &true);
    Ok(fd)
}

/// What the network said of a datagram.
pub(super) struct Complaint {
    pub to: SocketAddr,
    pub errno: i32,
    /// The largest packet that fits, if that is what it is about.
    pub mtu: u32,
    /// The datagram's beginning.
    pub data: Vec<u8>,
}

/// The next complaint of a socket's error queue.
pub(super) fn complaint(fd: &OwnedFd) -> Option<Complaint> {
    let mut data = vec![0; 512];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let got = recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
    let error = got.cmsgs().ok()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
        _ => None,
    })?;
    let v4 = |name: &SockaddrStorage| name.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    let v6 = |name: &SockaddrStorage| name.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())));
    let to = got.address.and_then(|name| v4(&name).or_else(|| v6(&name)))?;
    let length = got.bytes;
    data.truncate(length);
    Some(Complaint { to, errno: error.ee_errno as i32, mtu: error.ee_info, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of datagrams of these lengths wait.
    fn kept(lengths: impl IntoIterator<Item = usize>) -> usize {
        let mut associating = Associating::new(Instant::ZERO);
        let server = SocketAddr::from(([203, 0, 113, 9], 443));
        lengths.into_iter().for_each(|length| associating.keep(server, &vec![0; length]));
        associating.take().len()
    }

    #[test]
    fn a_burst_around_the_largest_datagram_waits_whole_and_what_waits_is_bounded() {
        assert_eq!(kept([99, 99, 99, 65_507, 99, 99]), 6);
        assert_eq!(kept([1452; 2 * WAITING]), WAITING, "so many of the internet's size");
        assert_eq!(kept([65_507; WAITING]), 3);
        assert_eq!(kept([0; 2 * WAITING]), WAITING);
    }
}
