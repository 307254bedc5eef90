//! What one read of the TUN holds: a virtio-net header and an IP packet, taken apart and checked.
//!
//! Nothing here trusts a length: a packet that contradicts itself is dropped. Checksums of TCP and UDP are verified only
//! where the kernel says that they are complete; local traffic arrives with partial ones and can not have been damaged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::tun::VNET_HEADER;

/// Flags of `struct virtio_net_hdr`: the checksum is partial, or was verified by a device.
pub(super) const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// `gso_type`s.
pub(super) const GSO_TCP4: u8 = 1;
pub(super) const GSO_TCP6: u8 = 4;
pub(super) const GSO_UDP: u8 = 5;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMP6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;

pub(super) const IPV4_HEADER: usize = 20;
pub(super) const IPV6_HEADER: usize = 40;

/// One whole packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// The IP packet without anything behind its end.
    pub bytes: &'a [u8],
    /// Where the transport header begins.
    pub transport: usize,
    /// The length of each datagram in a UDP super-datagram (USO), else 0.
    pub segment: usize,
    /// Whether the transport checksum is complete and was not verified by anybody.
    pub unverified: bool,
}

/// One piece of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub identification: u32,
    pub offset: usize,
    pub last: bool,
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Parsed<'a> {
    Packet(Packet<'a>),
    Fragment(Fragment<'a>),
}

impl<'a> Packet<'a> {
    /// The transport header and its payload.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.transport..]
    }

    /// Whether the transport checksum is right, or need not be looked at.
    pub fn intact(&self) -> bool {
        if !self.unverified {
            return true;
        }
        let payload = self.payload();
        // IPv4 allows a datagram without a checksum (RFC 768); IPv6 does not (RFC 8200 section 8.1).
        if self.protocol == UDP && self.source.is_ipv4() && payload.len() >= 8 && payload[6..8] == [0, 0] {
            return true;
        }
        let sum = match self.protocol {
            ICMP => add(0, payload),
            _ => add(pseudo(self.source, self.destination, self.protocol, payload.len()), payload),
        };
        fold(sum) == 0xffff
    }
}

/// Takes one read of the TUN apart; `None` is a packet to drop.
pub(super) fn parse(frame: &[u8]) -> Option<Parsed<'_>> {
    let (header, bytes) = frame.split_at_checked(VNET_HEADER)?;
    let verified = header[0] & (NEEDS_CHECKSUM | DATA_VALID) != 0;
    let segment = if header[1] & 0x7f == GSO_UDP { usize::from(u16::from_ne_bytes([header[4], header[5]])) } else { 0 };
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes, segment, verified),
        6 => parse_v6(bytes, segment, verified),
        _ => None,
    }
}

fn parse_v4(bytes: &[u8], segment: usize, verified: bool) -> Option<Parsed<'_>> {
    if bytes.len() < IPV4_HEADER {
        return None;
    }
    let header = usize::from(bytes[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if header < IPV4_HEADER || total < header || total > bytes.len() {
        return None;
    }
    let bytes = &bytes[..total];
    if fold(add(0, &bytes[..header])) != 0xffff {
        return None;
    }
    let source = Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
    let destination = Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]);
    if [source, destination].iter().any(|a| a.is_multicast() || a.is_broadcast() || a.is_unspecified()) {
        return None;
    }
    let (source, destination) = (IpAddr::V4(source), IpAddr::V4(destination));
    let protocol = bytes[9];
    let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
    let (more, offset) = (fragment & 0x2000 != 0, usize::from(fragment & 0x1fff) * 8);
    if more || offset != 0 {
        return Some(Parsed::Fragment(Fragment {
            source,
            destination,
            protocol,
            identification: u32::from(u16::from_be_bytes([bytes[4], bytes[5]])),
            offset,
            last: !more,
            data: &bytes[header..],
        }));
    }
    let unverified = !verified || protocol == ICMP;
    Some(Parsed::Packet(Packet { source, destination, protocol, bytes, transport: header, segment, unverified }))
}

fn parse_v6(bytes: &[u8], segment: usize, verified: bool) -> Option<Parsed<'_>> {
    if bytes.len() < IPV6_HEADER {
        return None;
    }
    let total = IPV6_HEADER + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    if total > bytes.len() {
        return None;
    }
    let bytes = &bytes[..total];
    let address = |at: usize| bytes[at..at + 16].first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    let (source, destination) = (address(8)?, address(24)?);
    if [source, destination].iter().any(|a| a.is_multicast() || a.is_unspecified()) {
        return None;
    }
    let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
    let mut protocol = bytes[6];
    let mut transport = IPV6_HEADER;
    if protocol == HOP_BY_HOP {
        protocol = *bytes.get(transport)?;
        let length = 8 + usize::from(*bytes.get(transport + 1)?) * 8;
        hop_by_hop_options(bytes.get(transport + 2..transport + length)?)?;
        transport += length;
    }
    if protocol == FRAGMENT {
        let header = bytes.get(transport..transport + 8)?;
        let offset = u16::from_be_bytes([header[2], header[3]]);
        return Some(Parsed::Fragment(Fragment {
            source,
            destination,
            protocol: header[0],
            identification: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            offset: usize::from(offset & 0xfff8),
            last: offset & 1 == 0,
            data: &bytes[transport + 8..],
        }));
    }
    let unverified = !verified || protocol == ICMP6;
    Some(Parsed::Packet(Packet { source, destination, protocol, bytes, transport, segment, unverified }))
}

/// An option whose type begins with two zero bits may be skipped; any other means: drop (RFC 8200 section 4.2).
fn hop_by_hop_options(mut options: &[u8]) -> Option<()> {
    while let [kind, rest @ ..] = options {
        if *kind == 0 {
            options = rest;
            continue;
        }
        // PadN is 1, router alert 5 (RFC 2711); both begin with zero bits.
        if kind >> 6 != 0 {
            return None;
        }
        options = rest.get(1 + usize::from(*rest.first()?)..)?;
    }
    Some(())
}

/// The fields of a TCP header that matter before a flow is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tcp {
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub syn: bool,
    pub ack: bool,
    pub rst: bool,
    /// The header's length with its options, bytes.
    pub header: usize,
    /// What the segment takes of the sequence space.
    pub length: u32,
    pub data: usize,
}

/// Reads a TCP header (RFC 9293 section 3.1).
pub(super) fn tcp(payload: &[u8]) -> Option<Tcp> {
    if payload.len() < 20 {
        return None;
    }
    let header = usize::from(payload[12] >> 4) * 4;
    if header < 20 || header > payload.len() {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
    let flags = payload[13];
    let (fin, syn) = (flags & 1 != 0, flags & 2 != 0);
    let data = payload.len() - header;
    Some(Tcp {
        source_port: u16::from_be_bytes([payload[0], payload[1]]),
        destination_port: u16::from_be_bytes([payload[2], payload[3]]),
        sequence: word(4),
        acknowledgement: word(8),
        syn,
        ack: flags & 16 != 0,
        rst: flags & 4 != 0,
        header,
        length: data as u32 + u32::from(fin) + u32::from(syn),
        data,
    })
}

/// Where the value of the maximum-segment-size option stands in a TCP header, and what it is.
pub(super) fn maximum_segment(header: &[u8]) -> Option<(usize, u16)> {
    let mut at = 20;
    while let Some(kind) = header.get(at) {
        match kind {
            0 => return None,
            1 => at += 1,
            2 if header.get(at + 1) == Some(&4) => {
                return Some((at + 2, u16::from_be_bytes([*header.get(at + 2)?, *header.get(at + 3)?])));
            }
            _ => at += usize::from(*header.get(at + 1)?).max(2),
        }
    }
    None
}

/// Adds bytes to a ones' complement sum (RFC 1071).
pub(super) fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    for (at, byte) in rest.iter().enumerate() {
        sum += u64::from(*byte) << (24 - 8 * at);
    }
    sum
}

/// Folds a sum to 16 bits.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    let mut sum = u64::from(protocol) + length as u64;
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(v4) => add(sum, &v4.octets()),
            IpAddr::V6(v6) => add(sum, &v6.octets()),
        };
    }
    sum
}
