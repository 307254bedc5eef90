//! Questions made by hand and replies read by another implementation (`domain`), for the tests.

use std::sync::LazyLock;

use domain::base::{Message, Rtype};
use domain::rdata::AllRecordData;

use super::wire::Query;
use crate::flow::{HostName, Refusal};
use crate::policy::{Rule, Verdict};
use crate::registry::Id;

pub fn host(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

/// A question with RD set; the labels are what is between the dots.
pub fn question(name: &str, qtype: u16) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
    raw_question(&labels, qtype)
}

pub fn raw_question(labels: &[&[u8]], qtype: u16) -> Vec<u8> {
    let mut message = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        message.push(label.len() as u8);
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// The same with an OPT record.
pub fn with_opt(mut message: Vec<u8>, payload: u16, version: u8, dnssec_ok: bool) -> Vec<u8> {
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41]);
    message.extend_from_slice(&payload.to_be_bytes());
    message.extend_from_slice(&[0, version, u8::from(dnssec_ok) << 7, 0, 0, 0]);
    message
}

static NETWORK: LazyLock<Id> = LazyLock::new(Id::direct);

pub fn allow(_: &HostName, _: u16) -> Verdict<'static> {
    Verdict::Allow { network: &NETWORK, rule: Rule::Default }
}

pub fn deny(_: &HostName, _: u16) -> Verdict<'static> {
    Verdict::Deny { refusal: Refusal::Prohibited, rule: Rule::Private }
}

/// A reply as another implementation sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub rcode: u16,
    pub truncated: bool,
    /// `TYPE data`, of the answer section.
    pub answers: Vec<String>,
    /// The SOA of a denial, by its minimum in seconds.
    pub denied_for: Option<u32>,
    /// Payload size, version, DO.
    pub opt: Option<(u16, u8, bool)>,
}

/// Reads a reply and checks what is true of all: it answers the question, byte for byte, and has nothing behind it.
pub fn read(query: &[u8], reply: &[u8]) -> Read {
    let message = Message::from_octets(reply).unwrap();
    let header = message.header();
    assert_eq!(reply[..2], query[..2], "identification");
    assert!(header.qr() && header.ra() && !header.aa() && !header.ad());
    assert_eq!(header.rd(), query[2] & 1 == 1);
    if message.header_counts().qdcount() == 1 {
        let length = Query::parse(query).map_or(0, |_| message.answer().unwrap().pos() - 12);
        assert_eq!(reply[12..12 + length], query[12..12 + length], "the question's bytes");
    }
    let mut answers = vec![];
    for record in message.answer().unwrap().limit_to_in::<AllRecordData<_, _>>() {
        let record = record.unwrap();
        assert_eq!(record.owner(), message.sole_question().unwrap().qname());
        assert_eq!(record.ttl().as_secs(), super::TTL);
        answers.push(format!("{} {}", record.rtype(), record.data()));
    }
    let mut denied_for = None;
    for record in message.authority().unwrap().limit_to_in::<AllRecordData<_, _>>() {
        let record = record.unwrap();
        let AllRecordData::Soa(soa) = record.data() else { panic!("not a SOA") };
        assert_eq!(record.ttl(), soa.minimum());
        denied_for = Some(soa.minimum().as_secs());
    }
    let opt = message.opt().map(|opt| (opt.udp_payload_size(), opt.version(), opt.dnssec_ok()));
    let others = message.additional().unwrap().filter(|record| record.as_ref().unwrap().rtype() != Rtype::OPT).count();
    assert_eq!(others, 0);
    let mut end = message.additional().unwrap();
    while end.next().is_some() {}
    assert_eq!(end.pos(), reply.len(), "trailing bytes");
    Read { rcode: message.opt_rcode().to_int(), truncated: header.tc(), answers, denied_for, opt }
}
