//! What *direct* must know of the host: its own addresses and links, which a jail must not reach.
//!
//! An address is the host's own if an interface has it, and also if the routing table `local` says so: a load balancer
//! that takes a whole prefix for itself (`ip route add local 192.0.2.0/24 dev lo`) has it on no interface. Other tables with
//! local routes (TPROXY's) are looked at by the kernel only for packets that a firewall has marked, and are not read.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily as SocketFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, send, socket,
};

use crate::policy::OwnAddress;

/// `RT_TABLE_LOCAL` (rtnetlink(7)), the first table that every look-up of an address reads.
const LOCAL_TABLE: u8 = 255;
/// What the kernel puts into one message of a dump at most, bytes.
const LARGEST_PART: usize = 64 * 1024;

/// The addresses of all interfaces with their on-link prefixes, from getifaddrs(3), and the prefixes of the table `local`.
///
/// An address belongs to the host from the moment it is assigned, so the owner of a [`Table`](crate::policy::Table) asks
/// again when the kernel says that addresses have changed.
///
/// # Errors
/// The kernel's, where netlink is not to be had.
pub fn host_addresses() -> io::Result<Vec<OwnAddress>> {
    let mut own = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address.as_ref().and_then(ip) else { continue };
        let prefix = interface.netmask.as_ref().and_then(ip).and_then(|mask| ipnet::ip_mask_to_prefix(mask).ok());
        own.push(OwnAddress { address: address.into(), on_link: on_link(address, prefix) });
        // The other end of a point-to-point link is a neighbour, whatever the mask says.
        if let Some(peer) = interface.destination.as_ref().and_then(ip) {
            own.push(OwnAddress { address: address.into(), on_link: IpNet::from(peer) });
        }
    }
    let mut known: HashSet<IpNet> = own.iter().map(|own| own.address).collect();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let new = local_routes(family)?.into_iter().filter(|net| known.insert(*net));
        own.extend(new.map(|net| OwnAddress { address: net, on_link: net }));
    }
    Ok(own)
}

/// The prefixes that the kernel delivers to this host itself.
fn local_routes(family: AddressFamily) -> io::Result<Vec<IpNet>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let netlink = socket(SocketFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &bytes, MsgFlags::empty())?;

    let mut found = Vec::new();
    let mut part = vec![0; LARGEST_PART];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut part, MsgFlags::empty())?;
        let mut rest = &part[..length];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => found.extend(own_prefix(&route)),
                _ => {}
            }
            // Messages begin at multiples of four bytes (NLMSG_ALIGN of netlink(3)).
            let whole = (answer.header.length as usize).max(1).next_multiple_of(4);
            rest = rest.get(whole..).unwrap_or_default();
        }
    }
}

/// The prefix of a route that leads to this host.
fn own_prefix(route: &RouteMessage) -> Option<IpNet> {
    let own = matches!(route.header.kind, RouteType::Local | RouteType::Anycast);
    if !own || route.header.table != LOCAL_TABLE {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// The prefix round an address; the address alone where there is none.
fn on_link(address: IpAddr, prefix: Option<u8>) -> IpNet {
    match prefix.map(|prefix| IpNet::new(address, prefix)) {
        Some(Ok(net)) => net.trunc(),
        _ => IpNet::from(address),
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_among_the_host_s_addresses() {
        let own = host_addresses().unwrap();
        let loopback = OwnAddress { address: "127.0.0.1/32".parse().unwrap(), on_link: "127.0.0.0/8".parse().unwrap() };
        assert!(own.contains(&loopback), "{own:?}");
    }

    #[test]
    fn a_prefix_that_the_host_takes_for_itself_is_its_own_though_no_interface_has_it() {
        let whole: IpNet = "127.0.0.0/8".parse().unwrap();
        assert!(local_routes(AddressFamily::Inet).unwrap().contains(&whole));
        assert!(host_addresses().unwrap().iter().any(|own| own.address == whole));
    }

    #[test]
    fn a_prefix_is_the_network_and_not_the_address() {
        assert_eq!(on_link("10.1.2.3".parse().unwrap(), Some(16)), "10.1.0.0/16".parse().unwrap());
        assert_eq!(on_link("10.1.2.3".parse().unwrap(), None), "10.1.2.3/32".parse().unwrap());
        assert_eq!(on_link("2001:db8::1".parse().unwrap(), Some(64)), "2001:db8::/64".parse().unwrap());
    }
}
