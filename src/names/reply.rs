//! Replies, as they are written (RFC 1035 section 4).
//!
//! A reply repeats the question's bytes as they came, which keeps the asker's letter case (0x20) without an encoder; every
//! record belongs to the question's name, so its owner is a pointer to that.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::wire::{CD, CLASS_IN, Fault, HEADER, OPCODE, QR, Query, RA, RD, TC, UDP_LARGEST, rcode, rtype};
use super::{TTL, Transport};
use crate::flow::HostName;

/// What an answer record says about the question's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data<'a> {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name of the address that the question is for.
    Ptr(&'a HostName),
}

/// Writes the reply to a question; `out` is overwritten. A denial (no records, NOERROR or NXDOMAIN) carries a SOA, so that
/// caches know how long it holds (RFC 2308). What does not fit is left out and TC set.
pub(super) fn reply<'d>(
    query: &Query<'_>,
    transport: Transport,
    code: u16,
    records: impl IntoIterator<Item = Data<'d>>,
    out: &mut Vec<u8>,
) {
    header(query.id, query.flags, code, out);
    out.extend_from_slice(query.question);
    let opt_length = if query.edns.is_some() { 11 } else { 0 };
    let room = query.largest(transport) - opt_length;
    let (mut answers, mut truncated) = (0u16, false);
    for data in records {
        let before = out.len();
        record(data, out);
        if out.len() > room {
            out.truncate(before);
            truncated = true;
            break;
        }
        answers += 1;
    }
    let denial = answers == 0 && !truncated && (code == rcode::NOERROR || code == rcode::NXDOMAIN);
    if denial {
        soa(out);
    }
    if let Some(edns) = query.edns {
        opt(code, edns.dnssec_ok, out);
    }
    put(out, 4, 1);
    put(out, 6, answers);
    put(out, 8, u16::from(denial));
    put(out, 10, u16::from(query.edns.is_some()));
    if truncated {
        out[2] |= (TC >> 8) as u8;
    }
}

/// Answers a message that is no question that can be answered; `out` is overwritten, and left empty where silence is right.
pub(super) fn refuse(message: &[u8], fault: &Fault<'_>, out: &mut Vec<u8>) {
    out.clear();
    match (fault, message) {
        (Fault::NotAQuestion, _) => {}
        (Fault::Bad { rcode, question: Some(query), .. }, _) => reply(query, Transport::Udp, *rcode, [], out),
        (Fault::Bad { rcode, question: None, .. }, [id0, id1, flags0, flags1, ..]) => {
            header(u16::from_be_bytes([*id0, *id1]), u16::from_be_bytes([*flags0, *flags1]), *rcode, out);
        }
        (Fault::Bad { .. }, _) => {}
    }
}

/// Identification, opcode, RD and CD are the question's; the four counts are zero.
fn header(id: u16, flags: u16, code: u16, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&(QR | flags & (OPCODE | RD | CD) | RA | code & 0xF).to_be_bytes());
    out.extend_from_slice(&[0; HEADER - 4]);
}

fn put(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn record(data: Data<'_>, out: &mut Vec<u8>) {
    let rtype = match data {
        Data::A(_) => rtype::A,
        Data::Aaaa(_) => rtype::AAAA,
        Data::Ptr(_) => rtype::PTR,
    };
    out.extend_from_slice(&[0xC0, HEADER as u8]); // the owner: the name at the end of the header
    record_fields(rtype, out);
    let length_at = out.len();
    out.extend_from_slice(&[0; 2]);
    match data {
        Data::A(address) => out.extend_from_slice(&address.octets()),
        Data::Aaaa(address) => out.extend_from_slice(&address.octets()),
        Data::Ptr(name) => {
            for label in name.as_str().split('.') {
                out.push(label.len() as u8); // a HostName's labels have 63 bytes at most
                out.extend_from_slice(label.as_bytes());
            }
            out.push(0);
        }
    }
    let length = out.len() - length_at - 2;
    put(out, length_at, length as u16); // a HostName takes 255 bytes at most
}

fn record_fields(rtype: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&TTL.to_be_bytes());
}

/// The root's own SOA with nothing in it that is not needed: this resolver has no zones, only a TTL for its denials.
fn soa(out: &mut Vec<u8>) {
    out.push(0);
    record_fields(rtype::SOA, out);
    out.extend_from_slice(&22u16.to_be_bytes());
    out.extend_from_slice(&[0, 0]); // MNAME and RNAME: the root
    for field in [1, TTL, TTL, TTL, TTL] {
        out.extend_from_slice(&u32::to_be_bytes(field)); // serial, refresh, retry, expire, minimum
    }
}

fn opt(code: u16, dnssec_ok: bool, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&(UDP_LARGEST as u16).to_be_bytes());
    // Upper bits of the response code, version 0, DO as the asker had it (RFC 3225), no options.
    out.extend_from_slice(&[(code >> 4) as u8, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
}
