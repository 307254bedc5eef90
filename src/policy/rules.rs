//! Every rule's stable name, what a program is told by it, and a sentence for people. `docs/rules.md` is this table in
//! print; a test holds the two equal.

use serde::{Deserialize, Serialize};

use crate::flow::Refusal;

/// Makes the enum and its table from one list, so that neither can lack a row of the other.
macro_rules! rules {
    ($($rule:ident $name:literal $refusal:expr, $sentence:literal;)*) => {
        /// Why something was allowed or denied. It crosses between roles as a number, so a relay cannot make up a rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Rule {
            $(#[doc = $sentence] $rule,)*
        }

        impl Rule {
            /// All of them, in the order of the docs.
            pub const ALL: &[Rule] = &[$(Rule::$rule),*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name,)* }
            }

            /// What the program is told; none for a rule that allows.
            pub fn refusal(self) -> Option<Refusal> {
                use Refusal::*;
                match self { $(Rule::$rule => $refusal,)* }
            }

            /// What it says, for the docs and for `-v`.
            pub fn sentence(self) -> &'static str {
                match self { $(Rule::$rule => $sentence,)* }
            }
        }
    };
}

rules! {
    Default "default" None, "Nothing forbids it.";
    AllowLan "allow-lan" None, "A private or on-link address, opened by `--allow-lan`.";
    AnsweredHere "answered-here" None, "A question that netjail answers itself; nothing leaves the jail.";
    // Addresses that direct never dials.
    Unspecified "unspecified" Some(NetUnreachable), "0.0.0.0/8 or `::`, which a host takes for itself.";
    HostLoopback "host-loopback" Some(NetUnreachable), "127.0.0.0/8 or `::1` of the host (direct).";
    HostAddress "host-address" Some(NetUnreachable), "An address of one of the host's interfaces (direct).";
    Metadata "metadata" Some(NetUnreachable), "A cloud's metadata service, which would name the host and hand out its keys (direct).";
    LinkLocal "link-local" Some(NetUnreachable), "169.254.0.0/16 or fe80::/10 (direct).";
    SiteLocal "site-local" Some(NetUnreachable), "fec0::/10, withdrawn by RFC 3879 but still routed by some sites (direct).";
    Multicast "multicast" Some(NetUnreachable), "224.0.0.0/4 or ff00::/8: no connection leads there.";
    Broadcast "broadcast" Some(NetUnreachable), "255.255.255.255, or the first or last address of an on-link prefix.";
    Reserved "reserved" Some(NetUnreachable), "240.0.0.0/4 (direct).";
    JailRange "jail-range" Some(NetUnreachable), "The jail's own addresses, which mean nothing outside (direct).";
    // Addresses that direct dials with --allow-lan only.
    Private "private" Some(NetUnreachable), "A private range: RFC 1918, 100.64.0.0/10, 192.0.0.0/24, fc00::/7, 64:ff9b:1::/48; `--allow-lan` opens it (direct).";
    OnLink "on-link" Some(NetUnreachable), "A neighbour: an address of an on-link prefix of the host; `--allow-lan` opens it (direct).";
    // Names.
    UnresolvedName "unresolved-name" Some(HostUnreachable), "A flow by name on a network that dials addresses: it was not resolved on the way it would go.";
    UnroutableName "unroutable-name" Some(HostUnreachable), "`.onion` or `.i2p` on a network that cannot carry it; the question is answered NXDOMAIN.";
    UnknownPoolAddress "unknown-pool-address" Some(Refused), "An address of the jail's pool that stands for no name.";
    MalformedName "malformed-name" Some(HostUnreachable), "A name that is no host name, or one that a proxy could read as an address.";
    MalformedQuestion "malformed-question" Some(Refused), "A packet to port 53 that is no DNS question.";
    SpecialName "special-name" Some(HostUnreachable), "A name with a meaning on this machine only, such as `_gateway`.";
    // What is not carried.
    PortZero "port-zero" Some(Refused), "Port 0, where nothing can listen.";
    UdpUnsupported "udp-unsupported" Some(Prohibited), "A datagram, which this network does not carry.";
    PingUnsupported "ping-unsupported" Some(Prohibited), "A ping, which this network cannot really send.";
    ProtocolUnsupported "protocol-unsupported" Some(Prohibited), "A protocol other than TCP, UDP and ICMP.";
    NetworkUnavailable "network-unavailable" Some(NetUnreachable), "The jail's network is being stopped, or was never up.";
    // Limits.
    LimitFlows "limit-flows" Some(HostUnreachable), "Too many live flows in this jail.";
    LimitPending "limit-pending" Some(HostUnreachable), "Too many dials in progress in this jail.";
    LimitMappings "limit-mappings" Some(HostUnreachable), "Too many sockets of this jail send datagrams, and none of them is idle.";
    LimitPeers "limit-peers" Some(HostUnreachable), "Datagrams to too many servers: the oldest association is forgotten.";
    LimitHalfClosed "limit-half-closed" Some(HostUnreachable), "Too many half-closed flows, or one for too long.";
    LimitNames "limit-names" Some(HostUnreachable), "The jail's pool has no address left for another name.";
    LimitQuestions "limit-questions" Some(HostUnreachable), "Too many DNS questions in progress in this jail.";
    LimitMemory "limit-memory" Some(HostUnreachable), "No buffer left for another flow in this jail.";
}

impl Rule {
    /// What a DNS question that the rule denies is answered with (RFC 1035 section 4.1.1); none for a rule that allows.
    pub fn rcode(self) -> Option<u8> {
        const FORMERR: u8 = 1;
        const SERVFAIL: u8 = 2;
        const NXDOMAIN: u8 = 3;
        const REFUSED: u8 = 5;
        self.refusal().map(|_| match self {
            Rule::MalformedQuestion => FORMERR,
            Rule::MalformedName | Rule::SpecialName | Rule::UnroutableName => NXDOMAIN,
            // May pass: the program should ask again.
            Rule::LimitNames | Rule::LimitQuestions | Rule::LimitMemory | Rule::NetworkUnavailable => SERVFAIL,
            _ => REFUSED,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_docs_and_the_table_are_equal() {
        let mut rows = String::new();
        for rule in Rule::ALL {
            let told = match rule.refusal() {
                None => "allowed".to_owned(),
                Some(refusal) => {
                    let (v4, v6) = (refusal.errno_name(false), refusal.errno_name(true));
                    if v4 == v6 { v4.to_owned() } else { format!("{v4} (IPv6: {v6})") }
                }
            };
            rows += &format!("| `{}` | {told} | {} |\n", rule.name(), rule.sentence());
        }
        crate::docs::assert_table("docs/rules.md", &rows);
    }

    #[test]
    fn a_denied_question_is_always_answered() {
        for rule in Rule::ALL {
            assert_eq!(rule.rcode().is_some(), rule.refusal().is_some(), "{rule:?}");
        }
        assert_eq!(Rule::UnroutableName.rcode(), Some(3), "RFC 7686 section 2 wants NXDOMAIN for .onion");
    }

    #[test]
    fn names_are_unique_and_kebab_case() {
        let names: HashSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }
}
