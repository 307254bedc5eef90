//! The header of each datagram between a client and the proxy's relay (RFC 1928 section 7): RSV RSV FRAG ATYP ADDR PORT.
//!
//! What comes back is a stranger's bytes behind a proxy's: a header that contradicts itself is no datagram, and a fragment
//! (FRAG other than 0) is dropped, as the section allows and every server expects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{IPV4, IPV6, NAME, push_destination};
use crate::flow::{HostName, Target};
use crate::overlay::DialError;

/// The most that a header takes, in bytes: a name of 255.
pub const LONGEST_HEADER: usize = 3 + 1 + 1 + 255 + 2;

/// The header of a datagram to `target`, which its data follows.
///
/// # Errors
/// [`DialError::Inexpressible`] for a target that the protocol can not say.
pub fn header(target: &Target) -> Result<Box<[u8]>, DialError> {
    let mut header = vec![0, 0, 0];
    push_destination(&mut header, target)?;
    Ok(header.into_boxed_slice())
}

/// Whom a datagram is from, in the proxy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// An address.
    Address(SocketAddr),
    /// A name: some proxies say what they were asked for.
    Name(HostName, u16),
}

/// Reads a datagram of the relay's: whom it is from, and where its data begins. `None` is one to drop.
pub fn read(datagram: &[u8]) -> Option<(From, usize)> {
    // The reserved bytes mean nothing, whatever they are.
    let (&[_, _, fragment, kind], rest) = datagram.split_first_chunk::<4>()?;
    if fragment != 0 {
        return None;
    }
    let (host, rest) = match kind {
        IPV4 => {
            let (octets, rest) = rest.split_first_chunk::<4>()?;
            (Ok(IpAddr::V4(Ipv4Addr::from(*octets))), rest)
        }
        IPV6 => {
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            // An IPv4 address in IPv6 clothes is the IPv4 address, as in a request.
            (Ok(IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical()), rest)
        }
        NAME => {
            let (&length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(length))?;
            (Err(std::str::from_utf8(name).ok()?), rest)
        }
        _ => return None,
    };
    let (port, data) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let from = match host {
        Ok(ip) => From::Address(SocketAddr::new(ip, port)),
        // Some proxies write an address as a text.
        Err(text) => match text.parse::<IpAddr>() {
            Ok(ip) => From::Address(SocketAddr::new(ip.to_canonical(), port)),
            Err(_) => From::Name(HostName::parse(text).ok()?, port),
        },
    };
    Some((from, datagram.len() - data.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> Target {
        Target::Addr(text.parse().unwrap())
    }

    fn name(text: &str, port: u16) -> Target {
        Target::Name(HostName::parse(text).unwrap(), port)
    }

    #[test]
    fn a_header_is_as_the_rfc_draws_it() {
        let of = |target| header(&target).unwrap().to_vec();
        assert_eq!(of(address("203.0.113.7:258")), [0, 0, 0, 1, 203, 0, 113, 7, 1, 2]);
        assert_eq!(of(address("[2001:db8::7]:53"))[..6], [0, 0, 0, 4, 0x20, 1]);
        assert_eq!(of(address("[2001:db8::7]:53")).len(), 22);
        assert_eq!(of(name("a.test", 443)), [&[0, 0, 0, 3, 6][..], b"a.test", &[1, 187]].concat());
        assert_eq!(of(address("[::ffff:203.0.113.7]:1"))[3], 1, "the IPv4 address that it means");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let targets = [address("203.0.113.7:258"), address("[2001:db8::7]:53"), name("a.test", 443)];
        for target in targets {
            let mut datagram = header(&target).unwrap().to_vec();
            let length = datagram.len();
            assert!(length <= LONGEST_HEADER);
            datagram.extend_from_slice(b"data");
            let from = match target {
                Target::Addr(address) => From::Address(address),
                Target::Name(name, port) => From::Name(name, port),
            };
            assert_eq!(read(&datagram), Some((from, length)));
            assert_eq!(read(&datagram[..length]).map(|(_, at)| at), Some(length), "an empty datagram is one");
            (0..length).for_each(|cut| assert_eq!(read(&datagram[..cut]), None));
        }
    }

    #[test]
    fn fragments_unknown_kinds_and_names_that_are_none_are_dropped() {
        let good = [0, 0, 0, 1, 203, 0, 113, 7, 1, 2];
        assert!(read(&good).is_some());
        for (at, byte) in [(2, 1), (2, 0x81), (3, 0), (3, 2), (3, 5)] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(read(&bad), None);
        }
        assert_eq!(read(&[0, 0, 0, 3, 0, 1, 2]), None, "no name");
        assert_eq!(read(&[0, 0, 0, 3, 2, b'a', 0x1b, 1, 2]), None, "an escape sequence");
        assert_eq!(read(&[0, 0, 0, 3, 2, 0xff, 0xfe, 1, 2]), None, "not UTF-8");
        let text = [&[0, 0, 0, 3, 11][..], b"203.0.113.7", &[1, 2]].concat();
        assert_eq!(read(&text), Some((From::Address("203.0.113.7:258".parse().unwrap()), 18)));
    }

    proptest! {
        #[test]
        fn whatever_comes_it_says_nothing_about_bytes_that_are_not_there(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0..6u8
        ) {
            if bytes.len() > 3 {
                bytes[2] = 0;
                bytes[3] = kind;
            }
            if let Some((_, at)) = read(&bytes) {
                prop_assert!(at <= bytes.len() && at <= LONGEST_HEADER);
            }
        }
    }
}
