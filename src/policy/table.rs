//! The immutable table that every decision reads.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::address::{self, OwnAddress};
use super::{Request, Rule, Verdict};
use crate::flow::{HostName, Target};
use crate::registry::Id;

/// One generation's rules, made by the warden, read by the relay's workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// A hash of the canonical registry: wardens with the same registry agree on it without talking.
    pub generation: u64,
    /// The network of this jail.
    pub network: Id,
    /// Whether that network is *direct*, so that the host's own addresses must be out of reach.
    pub direct: bool,
    /// `--allow-lan`.
    pub allow_lan: bool,
    /// The addresses of the host's interfaces with their on-link prefixes (direct only).
    pub host: Vec<OwnAddress>,
}

impl Table {
    /// Decides one request.
    ///
    /// On *direct* a flow is judged by its address alone, which is the address that will be dialled: a public name
    /// that resolves to the host's loopback is judged as the loopback. Through a proxy the address means what it means
    /// at the proxy, whose rules judge it; only what no connection can lead to is refused here.
    pub fn decide(&self, request: &Request<'_>) -> Verdict<'_> {
        let rule = match request {
            Request::Question(name) => self.question(name),
            Request::Flow(target) if target.port() == 0 => Rule::PortZero,
            Request::Flow(Target::Name(name, _)) if self.direct => match self.question(name) {
                Rule::Default => Rule::UnresolvedName,
                denied => denied,
            },
            Request::Flow(Target::Name(..)) => Rule::Default,
            Request::Flow(Target::Addr(address)) => self.address(address.ip()),
        };
        match rule.refusal() {
            None => Verdict::Allow { network: &self.network, rule },
            Some(refusal) => Verdict::Deny { refusal, rule },
        }
    }

    /// A name by itself: any overlay may carry it, but the host's resolvers must not see what only overlays have
    /// (RFC 7686 section 2).
    fn question(&self, name: &HostName) -> Rule {
        let overlay_only = matches!(name.top_level(), "onion" | "i2p");
        if self.direct && overlay_only { Rule::UnroutableName } else { Rule::Default }
    }

    fn address(&self, ip: IpAddr) -> Rule {
        if self.direct { address::judge_direct(ip, &self.host, self.allow_lan) } else { address::judge_proxied(ip) }
    }
}

#[cfg(test)]
mod tests;
