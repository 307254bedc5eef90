//! Packets that the stack writes itself, without a TCP socket: resets, ICMP errors, datagrams.
//!
//! They are few and small, so their checksums are computed here, and their virtio-net header is all zeroes.

use std::net::{IpAddr, SocketAddr};

use super::packet::{ICMP, ICMP6, IPV4_HEADER, IPV6_HEADER, Packet, TCP, Tcp, UDP, add, fold, pseudo};
use crate::flow::Refusal;
use crate::tun::VNET_HEADER;

const HOP_LIMIT: u8 = 64;

/// The most bytes of an ICMP error: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
const ICMP4_MOST: usize = 576;
const ICMP6_MOST: usize = 1280;

/// Begins a packet in `out`: virtio-net and IP header for a transport payload of `length` bytes.
fn begin(out: &mut Vec<u8>, source: IpAddr, destination: IpAddr, protocol: u8, length: usize) {
    out.clear();
    out.resize(VNET_HEADER + if source.is_ipv4() && destination.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }, 0);
    ip_header(&mut out[VNET_HEADER..], source, destination, protocol, length);
}

/// Writes an IP header for a transport payload of `length` bytes; `out` is as long as the header.
pub(super) fn ip_header(out: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, length: usize) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (IPV4_HEADER + length) as u16;
            out[..2].copy_from_slice(&[0x45, 0]);
            out[2..4].copy_from_slice(&total.to_be_bytes());
            out[4..12].copy_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
            let sum = !fold(add(0, out));
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V4(v4) => std::net::Ipv4Addr::to_ipv6_mapped(&v4).octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            out[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            out[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            out[6..8].copy_from_slice(&[protocol, HOP_LIMIT]);
            out[8..24].copy_from_slice(&octets(source));
            out[24..40].copy_from_slice(&octets(destination));
        }
    }
}

/// Ends the packet: writes the transport checksum at `offset` behind the IP header.
fn finish(out: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, offset: usize) {
    let start = VNET_HEADER + if source.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
    let sum = match protocol {
        ICMP => 0,
        _ => pseudo(source, destination, protocol, out.len() - start),
    };
    let mut sum = !fold(add(sum, &out[start..]));
    if protocol == UDP && sum == 0 {
        sum = 0xffff;
    }
    out[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The reset that answers a segment which belongs to no flow, or to a flow that is refused (RFC 9293 section 3.10.7.1).
pub(super) fn reset(out: &mut Vec<u8>, client: IpAddr, server: IpAddr, segment: &Tcp) {
    let (sequence, acknowledgement, flags) = if segment.ack {
        (segment.acknowledgement, 0, 4)
    } else {
        (0, segment.sequence.wrapping_add(segment.length), 4 | 16)
    };
    begin(out, server, client, TCP, 20);
    out.extend_from_slice(&segment.destination_port.to_be_bytes());
    out.extend_from_slice(&segment.source_port.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&u32::to_be_bytes(acknowledgement));
    out.extend_from_slice(&[5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    finish(out, server, client, TCP, 16);
}

/// A segment without a flag, for a client whose SYN waits: a socket in SYN-SENT drops it without a word, and one that was
/// closed meanwhile, which sends nothing of its own, answers with a reset (RFC 9293 sections 3.10.7.3 and 3.10.7.1).
pub(super) fn still_there(out: &mut Vec<u8>, client: IpAddr, server: IpAddr, syn: &Tcp) {
    begin(out, server, client, TCP, 20);
    out.extend_from_slice(&syn.destination_port.to_be_bytes());
    out.extend_from_slice(&syn.source_port.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[5 << 4, 0, 0, 0, 0, 0, 0, 0]);
    finish(out, server, client, TCP, 16);
}

/// The ICMP error that says why, from the address that was asked for; `quoted` is the packet that caused it.
/// [`Refusal::Refused`] is *port unreachable* here, which a datagram's sender sees as ECONNREFUSED.
pub(super) fn unreachable(out: &mut Vec<u8>, client: IpAddr, server: IpAddr, quoted: &[u8], refusal: Refusal) {
    let kind = if client.is_ipv4() {
        let code = match refusal {
            Refusal::NetUnreachable => 0,
            Refusal::HostUnreachable => 1,
            Refusal::Refused => 3,
            Refusal::Prohibited => 13,
        };
        [3, code]
    } else {
        let code = match refusal {
            Refusal::NetUnreachable => 0,
            Refusal::Prohibited => 1,
            Refusal::HostUnreachable => 3,
            Refusal::Refused => 4,
        };
        [1, code]
    };
    error(out, client, server, quoted, kind, 0);
}

/// The same for a datagram that was refused here and now. Linux keeps the soft ones from a datagram socket (they may pass:
/// `icmp_err_convert` of net/ipv4/icmp.c, `tab_unreach` of net/ipv6/icmp.c), so each is said in a way that is final there:
/// on IPv6 there is but EACCES, and ECONNREFUSED.
pub(super) fn refused_datagram(out: &mut Vec<u8>, client: IpAddr, server: IpAddr, quoted: &[u8], refusal: Refusal) {
    let kind = match (client.is_ipv4(), refusal) {
        (true, Refusal::Refused) => [3, 3],
        (true, Refusal::NetUnreachable) => [3, 6],
        (true, Refusal::HostUnreachable | Refusal::Prohibited) => [3, 13],
        (false, Refusal::Refused) => [1, 4],
        (false, _) => [1, 1],
    };
    error(out, client, server, quoted, kind, 0);
}

/// The ICMP error that says how long a packet may be (RFC 1191 section 4, RFC 4443 section 3.2).
pub(super) fn too_big(out: &mut Vec<u8>, client: IpAddr, server: IpAddr, quoted: &[u8], mtu: u32) {
    let (kind, mtu) = if client.is_ipv4() { ([3, 4], mtu.min(0xffff)) } else { ([2, 0], mtu) };
    error(out, client, server, quoted, kind, mtu);
}

/// An ICMP error: type and code, four bytes of its own, and what it quotes.
fn error(out: &mut Vec<u8>, client: IpAddr, server: IpAddr, quoted: &[u8], kind: [u8; 2], rest: u32) {
    let (protocol, most) =
        if client.is_ipv4() { (ICMP, ICMP4_MOST - IPV4_HEADER - 8) } else { (ICMP6, ICMP6_MOST - IPV6_HEADER - 8) };
    let quoted = &quoted[..quoted.len().min(most)];
    begin(out, server, client, protocol, 8 + quoted.len());
    out.extend_from_slice(&kind);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&rest.to_be_bytes());
    out.extend_from_slice(quoted);
    finish(out, server, client, protocol, 2);
}

/// A datagram. False if it is larger than IP can carry, or the families differ.
pub(super) fn datagram(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr, data: &[u8]) -> bool {
    let header = if source.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
    if data.len() + 8 + header > 0xffff || source.is_ipv4() != destination.is_ipv4() {
        return false;
    }
    begin(out, source.ip(), destination.ip(), UDP, 8 + data.len());
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out.extend_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(data);
    finish(out, source.ip(), destination.ip(), UDP, 6);
    true
}

/// An IP packet whose IP header has neither options nor extension headers: what a TCP socket and an ICMP quotation need.
/// No virtio-net header. `transport` is the transport header and what follows it.
pub(super) fn plain(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(VNET_HEADER + IPV6_HEADER + transport.len());
    begin(&mut out, source, destination, protocol, transport.len());
    out.drain(..VNET_HEADER);
    out.extend_from_slice(transport);
    out
}

/// What an ICMP error quotes of a packet: its plain IP header and its transport header and payload, as far as they fit.
pub(super) fn quotable(packet: &Packet<'_>) -> Vec<u8> {
    let payload = packet.payload();
    let mut quoted =
        plain(packet.source, packet.destination, packet.protocol, &payload[..payload.len().min(ICMP6_MOST)]);
    // The lengths are the whole packet's.
    let (at, length) = match packet.source {
        IpAddr::V4(_) => (2, IPV4_HEADER + payload.len()),
        IpAddr::V6(_) => (4, payload.len()),
    };
    quoted[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    quoted
}

/// What an ICMP error quotes of a datagram: its headers and the beginning of its data.
pub(super) fn quoted_datagram(client: SocketAddr, server: SocketAddr, data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len();
    let data = &data[..data.len().min(ICMP6_MOST)];
    let mut quoted = Vec::with_capacity(IPV6_HEADER + 8 + data.len());
    quoted.resize(if client.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }, 0);
    ip_header(&mut quoted, client.ip(), server.ip(), UDP, length);
    quoted.extend_from_slice(&client.port().to_be_bytes());
    quoted.extend_from_slice(&server.port().to_be_bytes());
    quoted.extend_from_slice(&(length as u16).to_be_bytes());
    quoted.extend_from_slice(&[0, 0]);
    quoted.extend_from_slice(data);
    quoted
}

/// The partial checksum that NEEDS_CSUM asks for: the pseudo-header's sum, not complemented.
pub(super) fn partial(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    fold(pseudo(source, destination, protocol, length))
}
