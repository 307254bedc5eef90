//! The jail's resolver as a worker wants it: over the pool, or over the host's names.

use std::net::IpAddr;

use crate::flow::HostName;
use crate::names::answer::Names;
use crate::names::hosts::HostNames;
use crate::names::{self, pool, wire};
use crate::policy::{JAIL_V4, JAIL_V6, Verdict};
use crate::registry::Id;
use crate::worker::{self, Answer, Decision, Lookup, Outcome, Transport};

/// Which names a jail has.
pub enum Resolver {
    /// Names stand behind pool addresses; the overlay resolves them.
    Pool(Names),
    /// Names have the addresses that the host's files and resolvers give them.
    Host(HostNames),
}

impl worker::Names for Resolver {
    fn lookup(&self, address: IpAddr) -> Lookup {
        let in_pool = match address {
            IpAddr::V4(v4) => JAIL_V4.contains(&v4),
            IpAddr::V6(v6) => JAIL_V6.contains(&v6),
        };
        match self {
            Self::Pool(names) if in_pool => names.pool().name(address).cloned().map_or(Lookup::Unknown, Lookup::Name),
            _ => Lookup::Address,
        }
    }

    fn answer(
        &self,
        query: &[u8],
        transport: Transport,
        decide: &mut dyn FnMut(&HostName) -> Decision,
        out: &mut Vec<u8>,
    ) -> Answer {
        let transport = match transport {
            Transport::Udp => names::Transport::Udp,
            Transport::Tcp => names::Transport::Tcp,
        };
        let network = Id::direct();
        let mut permit = |name: &HostName, _: u16| {
            let decision = decide(name);
            match decision.rule.refusal() {
                None => Verdict::Allow { network: &network, rule: decision.rule },
                Some(refusal) => Verdict::Deny { refusal, rule: decision.rule },
            }
        };
        let answered = match self {
            Self::Pool(names) => names.answer(query, transport, &mut permit, out),
            Self::Host(names) => names.answer(query, transport, &mut permit, out),
        };
        Answer {
            outcome: match answered.outcome {
                names::Outcome::Reply(code) => Outcome::Reply(code as u8),
                names::Outcome::Forward => Outcome::Forward,
                names::Outcome::Drop => Outcome::Drop,
            },
            name: Some(answered.name.to_string()),
            kind: Some(answered.qtype),
            rule: answered.rule,
        }
    }

    fn matches(&self, query: &[u8], reply: &[u8]) -> bool {
        wire::reply_matches(query, reply)
    }
}

/// The addresses of the jail's own resolver.
pub fn gateways() -> Vec<IpAddr> {
    vec![pool::GATEWAY_V4.into(), pool::GATEWAY_V6.into()]
}
