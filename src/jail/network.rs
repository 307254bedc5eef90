//! Stage two: the jail's links, addresses and routes, spoken to the kernel over one plain netlink socket (`rtnetlink(7)`).
//!
//! The jail sees two links: `lo`, and a point-to-point `tun0` that everything else is routed into.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily as SocketFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The loopback link is always the first of a network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Packets that may wait for the stack; the default of 500 drops bursts silently, and each drop costs a second.
const TRANSMIT_QUEUE_PACKETS: u32 = 10_000;

/// What the jail's own link looks like.
#[derive(Clone, Debug)]
pub struct Link {
    /// The device's name, `tun0`.
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    /// The jail's own addresses.
    pub v4: Ipv4Addr,
    /// The jail's own addresses.
    pub v6: Ipv6Addr,
}

/// What failed, and in which step.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct NetworkError {
    /// The step, as a person would say it.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// What the kernel is asked for, each with its step.
#[derive(Debug)]
pub struct Requests(Vec<(&'static str, RouteNetlinkMessage)>);

/// What brings up loopback and the TUN link, and routes everything into the latter.
///
/// Runs in init, inside the jail's network namespace, while the host's /proc is to be seen.
pub fn prepare(link: &Link) -> Result<Requests, NetworkError> {
    let index = if_nametoindex(link.name.as_str())
        .map_err(|e| NetworkError { step: "look up the TUN device", source: e.into() })?;
    let mut requests = vec![
        ("bring up lo", link_up(LOOPBACK_INDEX, &[])),
        (
            "bring up the TUN device",
            link_up(index, &[LinkAttribute::Mtu(link.mtu), LinkAttribute::TxQueueLen(TRANSMIT_QUEUE_PACKETS)]),
        ),
        ("add the IPv4 address", add_address(index, link.v4.into())),
        ("add the IPv4 route", default_route(index, AddressFamily::Inet)),
    ];
    // A kernel booted with ipv6.disable=1 has no such directory; the jail then has IPv4 alone.
    if fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
        requests.push(("add the IPv6 address", add_address(index, link.v6.into())));
        requests.push(("add the IPv6 route", default_route(index, AddressFamily::Inet6)));
    }
    Ok(Requests(requests))
}

impl Requests {
    /// Has them done, with the capabilities of U1. Touches no path, so it may run beside what builds the jail's files.
    pub fn send(self) -> Result<(), NetworkError> {
        let failed = |step| move |source| NetworkError { step, source };
        let socket = Netlink::open().map_err(failed("open a netlink socket"))?;
        for (step, request) in self.0 {
            socket.request(request).map_err(failed(step))?;
        }
        Ok(())
    }
}

/// Settings of the jail's network namespace that are files of /proc/sys; `Err` names the file.
///
/// Must run while /proc/sys is still writable. None of them guards the promise, so the caller may go on without.
pub fn tune(gid: nix::unistd::Gid) -> Result<(), NetworkError> {
    let settings = [
        // A host that defaults to bbr makes uploads cost two to three times the CPU; reno is always allowed.
        ("/proc/sys/net/ipv4/tcp_congestion_control", "reno".to_owned()),
        // Ports below 1024 of a namespace of one's own are nobody else's.
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0".to_owned()),
        // ping needs no privilege, so that it can be refused honestly by the stack.
        ("/proc/sys/net/ipv4/ping_group_range", format!("{gid} {gid}")),
    ];
    for (file, value) in settings {
        fs::write(file, value).map_err(|source| NetworkError { step: file, source })?;
    }
    Ok(())
}

fn link_up(index: u32, attributes: &[LinkAttribute]) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes.to_vec();
    RouteNetlinkMessage::SetLink(message)
}

fn add_address(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    (message.header.family, message.header.prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    // Duplicate address detection would hold the address back for a second; nobody else is on this link.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    RouteNetlinkMessage::NewAddress(message)
}

fn default_route(index: u32, family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    RouteNetlinkMessage::NewRoute(message)
}

/// A netlink route socket that waits for each request's acknowledgement.
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> io::Result<Self> {
        let fd = socket(SocketFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        Ok(Self(fd))
    }

    fn request(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let creates = matches!(message, RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::NewRoute(_));
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        if creates {
            packet.header.flags |= NLM_F_CREATE | NLM_F_EXCL;
        }
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..length]).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(()),
                Some(_) => Err(error.to_io()),
            },
            other => Err(io::Error::other(format!("the kernel answered {other:?} instead of an acknowledgement"))),
        }
    }
}
