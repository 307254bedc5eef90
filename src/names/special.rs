//! Names that no network is asked about (RFC 6761 and its kind), and the shape both resolvers share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reply::{Data, refuse, reply};
use super::wire::{Fault, Query, rcode, rtype};
use super::{Answered, Asked, Decide, Outcome, Transport};
use crate::flow::HostName;
use crate::names::pool::{OWN_V4, OWN_V6};
use crate::policy::{Rule, Verdict};

/// What a resolver has found for a question.
pub(super) enum Finding<'a> {
    /// A reply with this code and these records; no record and NOERROR is NODATA.
    Reply(u16, Vec<Data<'a>>),
    /// Somebody else has to answer.
    Forward,
}

impl Finding<'_> {
    pub(super) const NODATA: Self = Finding::Reply(rcode::NOERROR, Vec::new());
    pub(super) const MISSING: Self = Finding::Reply(rcode::NXDOMAIN, Vec::new());
    pub(super) const NOTIMP: Self = Finding::Reply(rcode::NOTIMP, Vec::new());
    pub(super) const FAILED: Self = Finding::Reply(rcode::SERVFAIL, Vec::new());
}

/// A finding and the rule that led to it.
pub(super) type Ruled<'a> = (Rule, Finding<'a>);

/// Reads a message, has `find` look at its question (a host name and a type), and writes the reply.
pub(super) fn resolve<'a>(
    message: &[u8],
    transport: Transport,
    out: &mut Vec<u8>,
    find: impl FnOnce(&HostName, u16) -> Ruled<'a>,
) -> Answered {
    let query = match Query::parse(message) {
        Ok(query) => query,
        Err(fault) => return broken(message, &fault, out),
    };
    let (name, qtype) = (query.name(), query.qtype());
    let (rule, finding) = match &name {
        Asked::Host(name) => find(name, qtype),
        Asked::Text(_) if query.is_root() => match qtype {
            rtype::A | rtype::AAAA | rtype::ANY | rtype::HTTPS | rtype::SVCB => (Rule::AnsweredHere, Finding::NODATA),
            _ => (Rule::AnsweredHere, Finding::NOTIMP),
        },
        Asked::Text(_) => (Rule::MalformedName, Finding::MISSING),
    };
    let outcome = match finding {
        Finding::Reply(code, records) => {
            reply(&query, transport, code, records, out);
            Outcome::Reply(code)
        }
        Finding::Forward => {
            out.clear();
            Outcome::Forward
        }
    };
    Answered { outcome, name, qtype, rule }
}

fn broken(message: &[u8], fault: &Fault<'_>, out: &mut Vec<u8>) -> Answered {
    refuse(message, fault, out);
    let unread = || (Asked::Text(String::new()), 0);
    match fault {
        Fault::NotAQuestion => {
            let (name, qtype) = unread();
            Answered { outcome: Outcome::Drop, name, qtype, rule: Rule::MalformedQuestion }
        }
        Fault::Bad { rule, rcode, question } => {
            let (name, qtype) = question.map_or_else(unread, |query| (query.name(), query.qtype()));
            Answered { outcome: Outcome::Reply(*rcode), name, qtype, rule: *rule }
        }
    }
}

/// Asks the policy: the rule that allows the question, or the finding that it is refused.
pub(super) fn permit(name: &HostName, qtype: u16, decide: Decide<'_, '_>) -> Result<Rule, Ruled<'static>> {
    match decide(name, qtype) {
        Verdict::Allow { rule, .. } => Ok(rule),
        Verdict::Deny { rule, .. } => {
            let code = rule.rcode().map_or(rcode::REFUSED, u16::from);
            Err((rule, Finding::Reply(code, Vec::new())))
        }
    }
}

/// The finding for the reverse name of an address whose name is known.
pub(super) fn found_name(name: &HostName, qtype: u16) -> Ruled<'_> {
    let asked = matches!(qtype, rtype::PTR | rtype::ANY);
    let records = if asked { vec![Data::Ptr(name)] } else { vec![] };
    (Rule::AnsweredHere, Finding::Reply(rcode::NOERROR, records))
}

/// Types that ask a server about itself or a connection, not about a name (RFC 6895 section 3.1, and type 0): they are
/// never forwarded.
pub(super) fn is_meta(qtype: u16) -> bool {
    matches!(qtype, 0 | rtype::OPT | 128..=254)
}

/// What one jail knows by itself.
#[derive(Debug)]
pub(super) struct Locals {
    own: HostName,
    localhost: Option<HostName>,
}

impl Locals {
    /// `own` is the jail's host name.
    pub(super) fn new(own: HostName) -> Self {
        Self { own, localhost: HostName::parse("localhost").ok() }
    }

    /// The finding for a name that is special on every network, if it is.
    pub(super) fn special(&self, name: &HostName, qtype: u16) -> Option<Ruled<'static>> {
        let text = name.as_str();
        let below = |zone: &str| text.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if below("localhost") || *name == self.own {
            let v4 = Data::A(Ipv4Addr::LOCALHOST);
            let v6 = Data::Aaaa(Ipv6Addr::LOCALHOST);
            let records = match qtype {
                rtype::A => vec![v4],
                rtype::AAAA => vec![v6],
                rtype::ANY => vec![v4, v6],
                _ => vec![],
            };
            return Some((Rule::AnsweredHere, Finding::Reply(rcode::NOERROR, records)));
        }
        // systemd-resolved answers the first four with addresses of the host, and the last tells its resolver (RFC 9462).
        let of_the_host = ["_gateway", "_outbound", "_localdnsstub", "_localdnsproxy", "resolver.arpa"];
        of_the_host.into_iter().any(below).then_some((Rule::SpecialName, Finding::MISSING))
    }

    /// The name of an address that is the jail's own.
    pub(super) fn name(&self, address: IpAddr) -> Option<&HostName> {
        if address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST {
            self.localhost.as_ref()
        } else if address == OWN_V4 || address == OWN_V6 {
            Some(&self.own)
        } else {
            None
        }
    }
}

/// A name in the trees that turn addresses into names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reverse {
    /// The name of this address (RFC 1035 section 3.5, RFC 3596 section 2.5).
    Of(IpAddr),
    /// In one of the trees, but no whole address.
    Partial,
}

impl Reverse {
    /// `None` for a name outside both trees.
    pub(super) fn parse(name: &HostName) -> Option<Self> {
        let name = name.as_str();
        if let Some(octets) = zone(name, "in-addr.arpa") {
            return Some(v4(octets).map_or(Reverse::Partial, |address| Reverse::Of(address.into())));
        }
        let nibbles = zone(name, "ip6.arpa")?;
        Some(v6(nibbles).map_or(Reverse::Partial, |address| Reverse::Of(address.into())))
    }
}

fn zone<'n>(name: &'n str, zone: &str) -> Option<&'n str> {
    let rest = name.strip_suffix(zone)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

fn v4(octets: &str) -> Option<Ipv4Addr> {
    // Ipv4Addr's parser takes four decimal numbers without leading zeros and nothing else.
    octets.parse::<Ipv4Addr>().ok().map(|address| Ipv4Addr::from_bits(address.to_bits().swap_bytes()))
}

fn v6(nibbles: &str) -> Option<Ipv6Addr> {
    let mut bits = 0u128;
    let mut count = 0;
    for label in nibbles.split('.') {
        let &[digit] = label.as_bytes() else { return None };
        let digit = char::from(digit).to_digit(16)?;
        bits = bits >> 4 | u128::from(digit) << 124;
        count += 1;
    }
    (count == 32).then_some(Ipv6Addr::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reverse(text: &str) -> Option<Reverse> {
        Reverse::parse(&HostName::parse(text).unwrap())
    }

    #[test]
    fn a_reverse_name_is_its_address() {
        let of = |text: &str| Some(Reverse::Of(text.parse().unwrap()));
        assert_eq!(reverse("4.3.2.1.in-addr.arpa"), of("1.2.3.4"));
        let digits = "4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(reverse(digits), of("2001:db8::1:2:3:4"));
    }

    #[test]
    fn a_reverse_name_that_is_not_whole_is_no_address() {
        for text in [
            "in-addr.arpa",
            "3.2.1.in-addr.arpa",
            "5.4.3.2.1.in-addr.arpa",
            "256.3.2.1.in-addr.arpa",
            "04.3.2.1.in-addr.arpa",
            "x.3.2.1.in-addr.arpa",
            "ip6.arpa",
            "1.0.ip6.arpa",
            "10.0.ip6.arpa",
            "g.ip6.arpa",
            "lb._dns-sd._udp.1.168.192.in-addr.arpa",
        ] {
            assert_eq!(reverse(text), Some(Reverse::Partial), "{text}");
        }
        assert_eq!(reverse("4.3.2.1.xin-addr.arpa"), None);
        assert_eq!(reverse("arpa"), None);
    }
}
