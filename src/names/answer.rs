//! The resolver of an overlay that resolves at its far end: names become pool addresses, and no question leaves the jail.
//!
//! In this order, the first that applies:
//!
//! | asked | answered | rule |
//! |---|---|---|
//! | what is no question: a reply, a stump | nothing | `malformed-question` |
//! | a question that is not well-formed | FORMERR | `malformed-question` |
//! | an unknown opcode, class or EDNS version | NOTIMP, REFUSED, BADVERS | `answered-here` |
//! | the root | NODATA | `answered-here` |
//! | a name that is no [`HostName`]: other characters, a numeric last label | NXDOMAIN | `malformed-name` |
//! | `localhost` and below, the jail's own name | the loopback | `answered-here` |
//! | `_gateway` and its kind, `resolver.arpa` | NXDOMAIN | `special-name` |
//! | an address's name | PTR if this jail resolved the name, else NXDOMAIN | `answered-here` |
//! | `.onion`, `.i2p` over a network that can not carry it | NXDOMAIN | `unroutable-name` |
//! | a name that policy denies | REFUSED | the policy's |
//! | A (and AAAA with `names: both`), ANY | a pool address | `answered-here` |
//! | the same, when the pool is full | SERVFAIL | `limit-names` |
//! | AAAA, with `names: v4` | NODATA | `answered-here` |
//! | HTTPS, SVCB: they could name other addresses and ports | NODATA | `answered-here` |
//! | another type | forwarded if there is a resolver for that, else NOTIMP | the policy's, `answered-here` |
//!
//! What is answered before the policy is asked is what the jail knows by itself; none of it leads anywhere.

use std::sync::Arc;

use super::pool::Pool;
use super::reply::Data;
use super::special::{Finding, Locals, Reverse, Ruled, found_name, is_meta, permit, resolve};
use super::wire::{rcode, rtype};
use super::{Answered, Decide, Transport};
use crate::flow::HostName;
use crate::policy::Rule;
use crate::registry::NameFamilies;

/// The pseudo top-level domains that an overlay can reach. Any other overlay would hand such a name to public DNS, which
/// tells the world where somebody wanted to go (RFC 7686).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carries {
    /// `.onion`: Tor, and plain SOCKS5, which may be Tor.
    pub onion: bool,
    /// `.i2p`.
    pub i2p: bool,
}

impl Carries {
    /// Whether a name may be given to the overlay.
    pub fn may_carry(self, name: &HostName) -> bool {
        match name.top_level() {
            "onion" => self.onion,
            "i2p" => self.i2p,
            _ => true,
        }
    }
}

/// What a network and its jail say about names. It may change with the registry; the pool does not.
#[derive(Clone, Debug)]
pub struct Config {
    /// The jail's host name.
    pub own: HostName,
    /// `names: v4|both`.
    pub families: NameFamilies,
    /// What the overlay can carry.
    pub carries: Carries,
    /// Whether there is a resolver at the overlay's far end for other types (the network's `dns`).
    pub forwards: bool,
}

/// The resolver. Workers share one, or have one each over a shared pool.
#[derive(Debug)]
pub struct Names {
    pool: Arc<Pool>,
    config: Config,
    locals: Locals,
}

impl Names {
    /// A resolver over the jail's pool.
    pub fn new(pool: Arc<Pool>, config: Config) -> Self {
        let locals = Locals::new(config.own.clone());
        Self { pool, config, locals }
    }

    /// The pool, for the way back from an address to its name.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Answers one message. `out` is overwritten: with the reply, or with nothing where [`Answered::outcome`] says so.
    /// `decide` is asked once at most, with the name and the type.
    pub fn answer(&self, query: &[u8], transport: Transport, decide: Decide<'_, '_>, out: &mut Vec<u8>) -> Answered {
        resolve(query, transport, out, |name, qtype| self.find(name, qtype, decide))
    }

    fn find(&self, name: &HostName, qtype: u16, decide: Decide<'_, '_>) -> Ruled<'_> {
        if let Some(ruled) = self.locals.special(name, qtype) {
            return ruled;
        }
        let reverse = Reverse::parse(name);
        if let Some(Reverse::Of(address)) = reverse
            && let Some(name) = self.locals.name(address).or_else(|| self.pool.name(address))
        {
            return found_name(name, qtype);
        }
        if reverse.is_some() {
            // Also where other types are forwarded: whom an address belongs to is a question about a connection that
            // the program made, and the addresses that it knows are mostly the pool's or private.
            return (Rule::AnsweredHere, Finding::MISSING);
        }
        if !self.config.carries.may_carry(name) {
            return (Rule::UnroutableName, Finding::MISSING);
        }
        let allowed = match permit(name, qtype, decide) {
            Ok(rule) => rule,
            Err(refused) => return refused,
        };
        match (qtype, self.config.families) {
            (rtype::A | rtype::ANY, _) | (rtype::AAAA, NameFamilies::Both) => self.pool_records(name, qtype),
            (rtype::AAAA, NameFamilies::V4) => (Rule::AnsweredHere, Finding::NODATA),
            (rtype::HTTPS | rtype::SVCB, _) => (Rule::AnsweredHere, Finding::NODATA),
            _ if self.config.forwards && !is_meta(qtype) && !hidden_service(name) => (allowed, Finding::Forward),
            _ => (Rule::AnsweredHere, Finding::NOTIMP),
        }
    }

    /// ANY gets the records that there are (RFC 8482 section 4.1).
    fn pool_records(&self, name: &HostName, qtype: u16) -> Ruled<'_> {
        let Ok(pair) = self.pool.assign(name) else {
            return (Rule::LimitNames, Finding::FAILED);
        };
        let records = match (qtype, self.config.families) {
            (rtype::AAAA, _) => vec![Data::Aaaa(pair.v6)],
            (rtype::ANY, NameFamilies::Both) => vec![Data::A(pair.v4), Data::Aaaa(pair.v6)],
            _ => vec![Data::A(pair.v4)],
        };
        (Rule::AnsweredHere, Finding::Reply(rcode::NOERROR, records))
    }
}

/// Names that no resolver may see, not even the one at the overlay's far end.
fn hidden_service(name: &HostName) -> bool {
    matches!(name.top_level(), "onion" | "i2p")
}

#[cfg(test)]
mod tests;
