//! DNS messages as they come (RFC 1035 section 4); `reply` writes those that go.
//!
//! Read by hand, though a good crate exists (`domain`, which reads the replies back in the tests), because what a resolver
//! needs that a hostile program talks to is much smaller than the format. The only name that matters is the question's, and
//! as the first name of a message it has nothing before it to point at: so **no compression pointer is ever followed**, and
//! none can loop. Names of other records are stepped over.
//!
//! A message must be what it says, to its last byte: one question, no answers, at most one OPT record, nothing behind.

use super::{Asked, Transport};
use crate::flow::HostName;
use crate::policy::Rule;

/// Record types and classes (IANA, "Domain Name System (DNS) Parameters").
#[allow(missing_docs, reason = "the names are the registry's")]
pub mod rtype {
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const ANY: u16 = 255;
}

/// Response codes (the same registry).
#[allow(missing_docs, reason = "the names are the registry's")]
pub mod rcode {
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BADVERS: u16 = 16;
}

pub(super) const CLASS_IN: u16 = 1;
pub(super) const HEADER: usize = 12;
/// No datagram of ours is larger, whatever the asker announces: it fits into one packet at any MTU (DNS flag day 2020).
pub const UDP_LARGEST: usize = 1232;

// The header's second 16 bits (RFC 1035 section 4.1.1, RFC 4035 section 3.2).
pub(super) const QR: u16 = 0x8000;
pub(super) const OPCODE: u16 = 0x7800;
pub(super) const TC: u16 = 0x0200;
pub(super) const RD: u16 = 0x0100;
pub(super) const RA: u16 = 0x0080;
pub(super) const CD: u16 = 0x0010;

/// A well-formed message with one question of class IN and opcode QUERY.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub(super) id: u16,
    pub(super) flags: u16,
    /// Name, type and class as they came.
    pub(super) question: &'a [u8],
    qtype: u16,
    pub(super) edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Edns {
    payload: u16,
    pub(super) dnssec_ok: bool,
}

/// Why a message is not a [`Query`].
#[derive(Debug)]
pub enum Fault<'a> {
    /// It has no header, or is itself a reply: answering it could start a conversation between two servers.
    NotAQuestion,
    /// It is answered with a code and without an answer.
    Bad {
        /// The rule for the log.
        rule: Rule,
        /// The reply's.
        rcode: u16,
        /// The question, as far as it could be read.
        question: Option<Query<'a>>,
    },
}

/// A place in a message; every step is checked.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// Steps over a name without a pointer and returns its bytes, the root label included (RFC 1035: 255 at most).
    fn plain_name(&mut self) -> Option<&'a [u8]> {
        let start = self.rest;
        let mut length = 0;
        loop {
            let label = usize::from(*start.get(length)?);
            length += 1 + label;
            if label > 63 || length > 255 {
                return None;
            }
            if label == 0 {
                return self.take(length);
            }
        }
    }

    /// Steps over a name that may end in a pointer. Where that points is of no interest here.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.take(1)?[0] {
                0 => return Some(()),
                label @ 1..=63 => drop(self.take(usize::from(label))?),
                0xC0..=0xFF => return self.take(1).map(drop),
                _ => return None,
            }
        }
    }
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub fn parse(message: &'a [u8]) -> Result<Self, Fault<'a>> {
        let mut cursor = Cursor { rest: message };
        let mut header = [0; 6];
        for field in &mut header {
            *field = cursor.u16().ok_or(Fault::NotAQuestion)?;
        }
        let [id, flags, questions, answers, authorities, additionals] = header;
        if flags & QR != 0 {
            return Err(Fault::NotAQuestion);
        }
        if flags & OPCODE != 0 {
            return Err(Fault::Bad { rule: Rule::AnsweredHere, rcode: rcode::NOTIMP, question: None });
        }
        let malformed = |question| Fault::Bad { rule: Rule::MalformedQuestion, rcode: rcode::FORMERR, question };
        if questions != 1 {
            return Err(malformed(None));
        }
        let (mut query, class) = Self::question(id, flags, &mut cursor).ok_or_else(|| malformed(None))?;
        if answers != 0 || authorities != 0 {
            return Err(malformed(Some(query)));
        }
        let version = query.additional(additionals, &mut cursor).ok_or_else(|| malformed(Some(query)))?;
        if !cursor.rest.is_empty() {
            return Err(malformed(Some(query)));
        }
        if version != 0 {
            return Err(Fault::Bad { rule: Rule::AnsweredHere, rcode: rcode::BADVERS, question: Some(query) });
        }
        if class != CLASS_IN {
            return Err(Fault::Bad { rule: Rule::AnsweredHere, rcode: rcode::REFUSED, question: Some(query) });
        }
        Ok(query)
    }

    fn question(id: u16, flags: u16, cursor: &mut Cursor<'a>) -> Option<(Self, u16)> {
        let from = cursor.rest;
        let name = cursor.plain_name()?;
        let qtype = cursor.u16()?;
        let class = cursor.u16()?;
        Some((Self { id, flags, question: &from[..name.len() + 4], qtype, edns: None }, class))
    }

    /// Steps over the additional records, keeps the OPT and returns its EDNS version. The number of records that a
    /// message announces is worth nothing: each takes 11 bytes at least, so the loop ends with the message.
    fn additional(&mut self, records: u16, cursor: &mut Cursor<'a>) -> Option<u8> {
        let mut version = 0;
        for _ in 0..records {
            let at_root = cursor.rest.first() == Some(&0);
            cursor.skip_name()?;
            let rtype = cursor.u16()?;
            let class = cursor.u16()?;
            let ttl = cursor.take(4)?;
            let length = cursor.u16()?;
            cursor.take(usize::from(length))?;
            if rtype == rtype::OPT {
                if !at_root || self.edns.is_some() {
                    return None; // RFC 6891 section 6.1.1: FORMERR
                }
                version = ttl[1];
                self.edns = Some(Edns { payload: class, dnssec_ok: ttl[2] & 0x80 != 0 });
            }
        }
        Some(version)
    }

    /// The question's type.
    pub fn qtype(&self) -> u16 {
        self.qtype
    }

    fn labels(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut cursor = Cursor { rest: self.question };
        std::iter::from_fn(move || {
            let length = cursor.take(1)?[0];
            if length == 0 { None } else { cursor.take(usize::from(length)) }
        })
    }

    /// The name: a host name where it is one. Labels are compared with what a host name may hold *before* they are joined,
    /// for a label of `a.b` (one label with a dot in it) is not the name `a.b`.
    pub fn name(&self) -> Asked {
        let mut text = [0; 255];
        let mut length = 0;
        for label in self.labels() {
            if label.contains(&b'.') {
                return Asked::Text(self.escaped());
            }
            text[length..length + label.len()].copy_from_slice(label);
            text[length + label.len()] = b'.';
            length += label.len() + 1;
        }
        let host = str::from_utf8(&text[..length]).ok().and_then(|text| HostName::parse(text).ok());
        host.map_or_else(|| Asked::Text(self.escaped()), Asked::Host)
    }

    /// Whether the question is for the root.
    pub fn is_root(&self) -> bool {
        self.question.first() == Some(&0)
    }

    fn escaped(&self) -> String {
        let mut text = String::new();
        for label in self.labels() {
            if !text.is_empty() {
                text.push('.');
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
                    b'!'..=b'~' => text.push(char::from(byte)),
                    _ => text.push_str(&format!("\\{byte:03}")),
                }
            }
        }
        if text.is_empty() { ".".into() } else { text }
    }

    /// The most bytes that its reply may have.
    pub(super) fn largest(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => 512,
            // RFC 6891 section 6.2.3: values below 512 are read as 512.
            (Transport::Udp, Some(edns)) => usize::from(edns.payload).clamp(512, UDP_LARGEST),
        }
    }
}

/// Whether `reply` answers `query`: the same identification and opcode, QR set, the same question (letter case aside). A
/// server that could not read the question may leave it out, so an error without one passes too.
///
/// The source address is not in the message. The socket that sent the question must be connected, or the caller compares it.
pub fn reply_matches(query: &[u8], reply: &[u8]) -> bool {
    let read = |message| {
        let mut cursor = Cursor { rest: message };
        let (id, flags, questions) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
        cursor.take(6)?;
        let question = if questions == 1 { Some(Query::question(id, flags, &mut cursor)?) } else { None };
        Some((id, flags, questions, question))
    };
    let (Some((id, flags, 1, Some((asked, asked_class)))), Some((id_back, flags_back, count_back, back))) =
        (read(query), read(reply))
    else {
        return false;
    };
    if id != id_back || flags_back & QR == 0 || (flags ^ flags_back) & OPCODE != 0 {
        return false;
    }
    match back {
        Some((back, class)) => {
            let same_name = asked.question.eq_ignore_ascii_case(back.question);
            same_name && asked.qtype == back.qtype && asked_class == class
        }
        None => {
            let could_not = [rcode::FORMERR, rcode::SERVFAIL, rcode::NOTIMP, rcode::REFUSED];
            count_back == 0 && could_not.contains(&(flags_back & 0xF))
        }
    }
}
