//! The resolver of the direct network: the host's hosts file first, then the host's resolvers.
//!
//! The warden reads the file and makes a [`HostsTable`]; the relay, which opens no file, answers from it and forwards what it
//! does not hold. A jail on the direct network may learn what the host can reach, but not what the host is called and where
//! it stands (containment.md, identity), so some questions are answered here that a resolver on the host's network would
//! answer with just that:
//!
//! | asked | answered | rule |
//! |---|---|---|
//! | broken, root, no host name, `localhost`, `_gateway` … | as on other networks, see [`super::answer`] | |
//! | the host's own name, or a name that its hosts file gives the same address line | NXDOMAIN | `names-host` |
//! | `.onion`, `.i2p` | NXDOMAIN | `names-not-carried` |
//! | the name of an address in the hosts file | PTR | `names-hosts` |
//! | the name of another address of the host, a loopback, link-local or pool address | NXDOMAIN | `names-reverse-private` |
//! | the name of another private or shared address, or of a part of a reverse tree | NXDOMAIN, but forwarded with `--allow-lan` | `names-reverse-private` |
//! | a name that policy denies | REFUSED | the policy's |
//! | a name in the hosts file | its addresses | `names-hosts` |
//! | a meta type | NOTIMP | `names-no-type` |
//! | anything else | forwarded | `names-forward` |
//!
//! As systemd-resolved does, a name in the hosts file with addresses of one family has none of the other: the file overrides,
//! it does not mix.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::answer::Carries;
use super::reply::Data;
use super::special::{Finding, Locals, Reverse, Ruled, is_meta, permit, resolve};
use super::wire::{rcode, rtype};
use super::{Answered, Transport, pool};
use crate::flow::HostName;
use crate::policy::Verdict;

/// No more text of a hosts file is read: the largest block lists have 200,000 lines.
const LONGEST_TEXT: usize = 16 << 20;
/// No more names are kept.
const MOST_NAMES: usize = 400_000;
/// No more addresses of one name are answered.
const MOST_ADDRESSES: usize = 64;

/// A hosts file (hosts(5)), sorted for look-ups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsTable {
    /// By name; the entries of one name are in the file's order.
    forward: Vec<(HostName, IpAddr)>,
    /// By address, each with the first name that the file has for it.
    reverse: Vec<(IpAddr, HostName)>,
    /// What the host is called.
    hidden: HashSet<HostName>,
}

impl HostsTable {
    /// Reads the text. `host_name` is the host's own name, as gethostname(2) gives it. Lines and names that can not be read
    /// are passed over, as libc does.
    pub fn parse(text: &[u8], host_name: &str) -> Self {
        let short = host_name.split('.').next().unwrap_or_default();
        let own = [host_name.to_owned(), short.to_owned(), format!("{short}.local")];
        let mut table =
            Self { hidden: own.iter().filter_map(|name| HostName::parse(name).ok()).collect(), ..Self::default() };
        table.hidden.retain(|name| name.as_str() != "localhost");
        for line in lines(text, LONGEST_TEXT) {
            if table.forward.len() >= MOST_NAMES {
                break;
            }
            table.line(line);
        }
        table.forward.retain(|(name, _)| !table.hidden.contains(name));
        table.reverse.retain(|(_, name)| !table.hidden.contains(name));
        table.forward.sort_by(|(a, _), (b, _)| a.cmp(b)); // stable
        table.forward.shrink_to_fit();
        table.reverse.sort_by_key(|(address, _)| *address);
        table.reverse.dedup_by_key(|(address, _)| *address); // keeps the first
        table
    }

    fn line(&mut self, line: &str) {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(address) else { return };
        let names: Vec<HostName> = words.filter_map(|word| HostName::parse(word).ok()).collect();
        // `127.0.1.1 box.example.org box`: all of these are the host. Not so where one line names it beside `localhost`.
        if names.iter().any(|name| self.hidden.contains(name)) {
            self.hidden.extend(names.into_iter().filter(|name| !name.as_str().starts_with("localhost")));
            return;
        }
        // Loopback and 0.0.0.0 stand for hundreds of blocked names, and are no addresses to ask the name of.
        if let Some(first) = names.first()
            && !address.is_loopback()
            && !address.is_unspecified()
        {
            self.reverse.push((address, first.clone()));
        }
        self.forward.extend(names.into_iter().map(|name| (name, address)));
    }

    /// How many pairs of a name and an address it holds.
    pub fn len(&self) -> usize {
        self.forward.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.forward.is_empty()
    }

    fn addresses(&self, name: &HostName) -> impl Iterator<Item = IpAddr> {
        let from = self.forward.partition_point(|(entry, _)| entry < name);
        let entries = &self.forward[from..];
        entries.iter().take_while(move |(entry, _)| entry == name).map(|(_, address)| *address)
    }

    fn name(&self, address: IpAddr) -> Option<&HostName> {
        let at = self.reverse.binary_search_by_key(&address, |(entry, _)| *entry).ok()?;
        self.reverse.get(at).map(|(_, name)| name)
    }
}

/// The whole lines of a text's first `longest` bytes that are UTF-8.
pub(super) fn lines(text: &[u8], longest: usize) -> impl Iterator<Item = &str> {
    let whole = match text.get(..longest) {
        Some(head) => head.iter().rposition(|&b| b == b'\n').map_or(&[][..], |end| &head[..end]),
        None => text,
    };
    whole.split(|&b| b == b'\n').filter_map(|line| str::from_utf8(line).ok())
}

/// An address as libc's files write it; an interface's scope (`fe80::1%eth0`) is dropped.
pub(super) fn address(word: &str) -> Option<IpAddr> {
    word.split('%').next().and_then(|address| address.parse().ok())
}

/// The resolver.
#[derive(Debug)]
pub struct HostNames {
    table: HostsTable,
    locals: Locals,
    host: Vec<IpAddr>,
    allow_lan: bool,
}

impl HostNames {
    /// `own` is the jail's host name, `host` are the host's addresses, whose names stay unknown (systemd-resolved answers
    /// with the host's name), `allow_lan` is whether the jail may reach the host's networks (`--allow-lan`).
    pub fn new(table: HostsTable, own: HostName, host: Vec<IpAddr>, allow_lan: bool) -> Self {
        Self { table, locals: Locals::new(own), host, allow_lan }
    }

    /// Answers one message, as [`super::answer::Names::answer`] does, or says that it is to be forwarded.
    pub fn answer(
        &self,
        query: &[u8],
        transport: Transport,
        decide: &mut dyn FnMut(&HostName, u16) -> Verdict,
        out: &mut Vec<u8>,
    ) -> Answered {
        resolve(query, transport, out, |name, qtype| self.find(name, qtype, decide))
    }

    fn find(&self, name: &HostName, qtype: u16, decide: &mut dyn FnMut(&HostName, u16) -> Verdict) -> Ruled<'_> {
        if let Some(ruled) = self.locals.special(name, qtype) {
            return ruled;
        }
        if self.table.hidden.contains(name) {
            return ("names-host", Finding::MISSING);
        }
        if !(Carries { onion: false, i2p: false }).may_carry(name) {
            return ("names-not-carried", Finding::MISSING);
        }
        if let Some(reverse) = Reverse::parse(name)
            && let Some(ruled) = self.find_reverse(reverse, qtype)
        {
            return ruled;
        }
        if let Err(refused) = permit(name, qtype, decide) {
            return refused;
        }
        let mut addresses = self.table.addresses(name).peekable();
        if addresses.peek().is_some()
            && matches!(qtype, rtype::A | rtype::AAAA | rtype::ANY | rtype::HTTPS | rtype::SVCB)
        {
            let wanted = addresses.filter_map(|address| match address {
                IpAddr::V4(v4) if qtype == rtype::A || qtype == rtype::ANY => Some(Data::A(v4)),
                IpAddr::V6(v6) if qtype == rtype::AAAA || qtype == rtype::ANY => Some(Data::Aaaa(v6)),
                _ => None,
            });
            return ("names-hosts", Finding::Reply(rcode::NOERROR, wanted.take(MOST_ADDRESSES).collect()));
        }
        if is_meta(qtype) {
            return ("names-no-type", Finding::NOTIMP);
        }
        ("names-forward", Finding::Forward)
    }

    /// `None` where the question is like any other.
    fn find_reverse(&self, reverse: Reverse, qtype: u16) -> Option<Ruled<'_>> {
        let private = match reverse {
            Reverse::Of(address) => {
                let known = || if self.host.contains(&address) { None } else { self.table.name(address) };
                if let Some(name) = self.locals.name(address).or_else(known) {
                    let asked = matches!(qtype, rtype::PTR | rtype::ANY);
                    let records = if asked { vec![Data::Ptr(name)] } else { vec![] };
                    return Some(("names-hosts", Finding::Reply(rcode::NOERROR, records)));
                }
                if never_forwarded(address) || self.host.contains(&address) {
                    return Some(("names-reverse-private", Finding::MISSING));
                }
                is_private(address)
            }
            Reverse::Partial => true,
        };
        (private && !self.allow_lan).then_some(("names-reverse-private", Finding::MISSING))
    }
}

/// Addresses of the host itself or of nobody, and the jail's own ranges.
fn never_forwarded(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    address.is_loopback() || address.is_unspecified() || link_local || pool::is_ours(address)
}

/// RFC 1918, RFC 6598 and RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || in_shared_range(v4),
        IpAddr::V6(v6) => is_unique_local(v6),
    }
}

fn in_shared_range(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [100, 64..=127, ..])
}

fn is_unique_local(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xFE == 0xFC
}

#[cfg(test)]
mod tests;
