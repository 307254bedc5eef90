//! The resolver of the direct network: the host's hosts file first, then the host's resolvers.
//!
//! The warden reads the file and makes a [`HostsTable`]; the relay, which opens no file, answers from it and forwards what it
//! does not hold. A jail on the direct network may learn what the host can reach, but not what the host is called and where
//! it stands, so some questions are answered here that a resolver on the host's network would
//! answer with just that:
//!
//! | asked | answered | rule |
//! |---|---|---|
//! | broken, root, no host name, `localhost`, `_gateway` … | as on other networks, see [`super::answer`] | |
//! | the host's own name, or a name that its hosts file has beside it | NXDOMAIN | `special-name` |
//! | `.onion`, `.i2p` | NXDOMAIN | `unroutable-name` |
//! | the name of an address that the jail may not dial | NXDOMAIN | the address's: `private`, `host-address` … |
//! | the name of a part of a reverse tree, without `--allow-lan` | NXDOMAIN | `private` |
//! | a name that policy denies | REFUSED | the policy's |
//! | a name or address in the hosts file | its addresses, its name | `answered-here` |
//! | a meta type | NOTIMP | `answered-here` |
//! | anything else | forwarded | the policy's |
//!
//! As systemd-resolved does, a name in the hosts file with addresses of one family has none of the other: the file overrides,
//! it does not mix.

use std::collections::HashSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::answer::Carries;
use super::reply::Data;
use super::special::{Finding, Locals, Reverse, Ruled, found_name, is_meta, permit, resolve};
use super::wire::{rcode, rtype};
use super::{Answered, Decide, Transport};
use crate::flow::HostName;
use crate::policy::{OwnAddress, Rule, judge_direct};

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
    host: Vec<OwnAddress>,
    allow_lan: bool,
}

impl HostNames {
    /// `own` is the jail's host name, `host` and `allow_lan` are those of the policy's [`Table`](crate::policy::Table).
    pub fn new(table: HostsTable, own: HostName, host: Vec<OwnAddress>, allow_lan: bool) -> Self {
        Self { table, locals: Locals::new(own), host, allow_lan }
    }

    /// The host's file or addresses are others now.
    pub fn follow(&mut self, table: HostsTable, host: Vec<OwnAddress>) {
        (self.table, self.host) = (table, host);
    }

    /// Answers one message, as [`super::answer::Names::answer`] does, or says that it is to be forwarded.
    pub fn answer(&self, query: &[u8], transport: Transport, decide: Decide<'_, '_>, out: &mut Vec<u8>) -> Answered {
        resolve(query, transport, out, |name, qtype| self.find(name, qtype, decide))
    }

    fn find(&self, name: &HostName, qtype: u16, decide: Decide<'_, '_>) -> Ruled<'_> {
        if let Some(ruled) = self.locals.special(name, qtype) {
            return ruled;
        }
        if self.table.hidden.contains(name) {
            return (Rule::SpecialName, Finding::MISSING);
        }
        if !(Carries { onion: false, i2p: false }).may_carry(name) {
            return (Rule::UnroutableName, Finding::MISSING);
        }
        let reverse = Reverse::parse(name);
        if let Some(Reverse::Of(address)) = reverse
            && let Some(name) = self.locals.name(address)
        {
            return found_name(name, qtype);
        }
        if let Some(unreachable) = reverse.and_then(|reverse| self.unreachable(reverse)) {
            return unreachable;
        }
        let allowed = match permit(name, qtype, decide) {
            Ok(rule) => rule,
            Err(refused) => return refused,
        };
        if let Some(Reverse::Of(address)) = reverse
            && let Some(name) = self.table.name(address)
        {
            return found_name(name, qtype);
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
            return (Rule::AnsweredHere, Finding::Reply(rcode::NOERROR, wanted.take(MOST_ADDRESSES).collect()));
        }
        if is_meta(qtype) {
            return (Rule::AnsweredHere, Finding::NOTIMP);
        }
        (allowed, Finding::Forward)
    }

    /// The finding for an address that the jail may not dial: its name would tell about the host and its neighbours (of the
    /// host's own addresses, systemd-resolved tells the host's name).
    fn unreachable(&self, reverse: Reverse) -> Option<Ruled<'static>> {
        let rule = match reverse {
            Reverse::Of(address) => judge_direct(address, &self.host, self.allow_lan),
            Reverse::Partial if self.allow_lan => return None,
            Reverse::Partial => Rule::Private,
        };
        rule.refusal().map(|_| (rule, Finding::MISSING))
    }
}

#[cfg(test)]
mod tests;
