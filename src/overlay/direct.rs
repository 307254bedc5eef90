//! What *direct* must know of the host: its own addresses and links, which a jail must not reach.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use crate::policy::OwnAddress;

/// The addresses of all interfaces with their on-link prefixes, from getifaddrs(3).
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
        own.push(OwnAddress { address, on_link: on_link(address, prefix) });
        // The other end of a point-to-point link is a neighbour, whatever the mask says.
        if let Some(peer) = interface.destination.as_ref().and_then(ip) {
            own.push(OwnAddress { address, on_link: IpNet::from(peer) });
        }
    }
    Ok(own)
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
        let loopback = OwnAddress { address: "127.0.0.1".parse().unwrap(), on_link: "127.0.0.0/8".parse().unwrap() };
        assert!(own.contains(&loopback), "{own:?}");
    }

    #[test]
    fn a_prefix_is_the_network_and_not_the_address() {
        assert_eq!(on_link("10.1.2.3".parse().unwrap(), Some(16)), "10.1.0.0/16".parse().unwrap());
        assert_eq!(on_link("10.1.2.3".parse().unwrap(), None), "10.1.2.3/32".parse().unwrap());
        assert_eq!(on_link("2001:db8::1".parse().unwrap(), Some(64)), "2001:db8::/64".parse().unwrap());
    }
}
