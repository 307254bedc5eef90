//! Mappings and what they remember, without I/O and without a clock: who may send from which outside socket, since when, how
//! much, and for how long it is kept.
//!
//! Everything is bounded: mappings of a worker, peers of a mapping, peers of all. A peer that has to make room leaves its
//! record, and loses nothing else: datagrams to and from it go on as a new association.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::flow::{HostName, Target};
use crate::log::Record;
use crate::stack::{Duration, Instant};

use super::id::MappingId;
use super::leg::Leg;

/// How much may be remembered, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most mappings of a worker.
    pub mappings: usize,
    /// The most peers of one mapping.
    pub peers: usize,
    /// The most peers of all mappings of a worker.
    pub all_peers: usize,
    /// How long an association without a datagram of the program's lives (RFC 4787 REQ-5 recommends five minutes).
    pub idle: Duration,
    /// The same for protocols of one question and one answer: DNS and NTP (REQ-5 a).
    pub short: Duration,
    /// A mapping that was idle for so long makes room for a new one.
    pub spare: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mappings: 4096,
            peers: 1024,
            all_peers: 16_384,
            idle: Duration::from_secs(300),
            short: Duration::from_secs(30),
            spare: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// How long an association with this server lives without a datagram.
    pub fn patience(&self, server: SocketAddr) -> Duration {
        if matches!(server.port(), 53 | 123) { self.short } else { self.idle }
    }
}

/// What tells mappings apart: the program's socket, and the address of the pool where it means a name. What comes back says
/// an address, and not which name it was asked by: so each name has a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub client: SocketAddr,
    pub pool: Option<IpAddr>,
}

/// Datagrams and payload bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub datagrams_out: u64,
    pub datagrams_in: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

/// An association: a mapping and one server.
pub(super) struct Peer {
    pub record: Box<Record>,
    pub target: Target,
    /// What stands before each datagram to it on the way out (SOCKS5).
    pub header: Box<[u8]>,
    pub tally: Tally,
    pub since: Instant,
    /// When the program last sent to it, or it answered.
    pub last: Instant,
}

/// One socket of the program's, as seen from outside.
pub(super) struct Mapping {
    pub id: MappingId,
    pub key: Key,
    /// The name behind [`Key::pool`].
    pub name: Option<HostName>,
    pub leg: Leg,
    pub peers: HashMap<SocketAddr, Peer>,
    /// What came from addresses that were never sent to: one record for all of them.
    pub strangers: Option<Box<Peer>>,
    /// There may be datagrams to read.
    pub ready: bool,
}

impl Mapping {
    /// When the program last used it.
    fn used(&self) -> Option<Instant> {
        self.peers.values().map(|peer| peer.last).max()
    }
}

/// The mappings of a worker.
pub(super) struct Mappings {
    pub limits: Limits,
    slots: Vec<(u32, Option<Box<Mapping>>)>,
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    peers: usize,
}

impl Mappings {
    pub fn new(limits: Limits) -> Self {
        Self { limits, slots: Vec::new(), free: Vec::new(), index: HashMap::new(), peers: 0 }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn find(&self, key: &Key) -> Option<MappingId> {
        let slot = *self.index.get(key)?;
        Some(MappingId { slot, generation: self.slots.get(slot as usize)?.0 })
    }

    pub fn get(&mut self, id: MappingId) -> Option<&mut Mapping> {
        let (generation, mapping) = self.slots.get_mut(id.slot as usize)?;
        if *generation == id.generation { mapping.as_deref_mut() } else { None }
    }

    /// Whether one more mapping may be; if not, the one that was idle for longest, if that is long enough.
    pub fn room(&self, now: Instant) -> Result<(), Option<MappingId>> {
        if self.len() < self.limits.mappings {
            return Ok(());
        }
        let idlest =
            self.iter().filter_map(|mapping| Some((mapping.used()?, mapping.id))).min_by_key(|(used, _)| *used);
        Err(idlest.filter(|(used, _)| *used + self.limits.spare <= now).map(|(_, id)| id))
    }

    pub fn insert(&mut self, key: Key, name: Option<HostName>, leg: Leg) -> MappingId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        let id = MappingId { slot, generation: place.0 };
        let mapping = Mapping { id, key, name, leg, peers: HashMap::new(), strangers: None, ready: false };
        place.1 = Some(Box::new(mapping));
        self.index.insert(key, slot);
        id
    }

    pub fn remove(&mut self, id: MappingId) -> Option<Box<Mapping>> {
        self.get(id)?;
        let (generation, mapping) = self.slots.get_mut(id.slot as usize)?;
        *generation = generation.wrapping_add(1);
        let mapping = mapping.take()?;
        self.free.push(id.slot);
        self.index.remove(&mapping.key);
        self.peers -= mapping.peers.len();
        if self.index.is_empty() {
            // After a burst nothing is left of it, but the generations.
            self.index.shrink_to_fit();
        }
        Some(mapping)
    }

    /// Adds a peer; returns the one that had to make room.
    pub fn add_peer(&mut self, id: MappingId, server: SocketAddr, peer: Peer) -> Option<Peer> {
        let (limit, full) = (self.limits.peers, self.peers >= self.limits.all_peers);
        let mapping = self.get(id)?;
        let crowded = mapping.peers.len() >= limit || (full && !mapping.peers.is_empty());
        let idlest = mapping.peers.iter().min_by_key(|(_, peer)| peer.last).map(|(server, _)| *server);
        let gone = idlest.filter(|_| crowded).and_then(|server| mapping.peers.remove(&server));
        let replaced = mapping.peers.insert(server, peer);
        self.peers += usize::from(gone.is_none() && replaced.is_none());
        gone.or(replaced)
    }

    /// Takes the associations out whose time is over, or that `keep` does not want; and says when to look again. A mapping
    /// without one is to be removed: its id is in the second list.
    pub fn expire(
        &mut self,
        now: Instant,
        mut keep: impl FnMut(&Peer) -> bool,
    ) -> (Vec<(Peer, Fate)>, Vec<MappingId>, Option<Instant>) {
        let Self { limits, slots, peers, .. } = self;
        let (mut ended, mut empty, mut next) = (Vec::new(), Vec::new(), None::<Instant>);
        for mapping in slots.iter_mut().filter_map(|(_, mapping)| mapping.as_deref_mut()) {
            let over = |server: &SocketAddr, peer: &Peer| peer.last + limits.patience(*server) <= now;
            for (server, peer) in mapping.peers.extract_if(|server, peer| over(server, peer) || !keep(peer)) {
                *peers -= 1;
                let fate = if over(&server, &peer) { Fate::Idle } else { Fate::Unwanted };
                ended.push((peer, fate));
            }
            let deadlines = mapping.peers.iter().map(|(server, peer)| peer.last + limits.patience(*server));
            match deadlines.min() {
                None => empty.push(mapping.id),
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
            }
        }
        (ended, empty, next)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.slots.iter().filter_map(|(_, mapping)| mapping.as_deref())
    }
}

/// Why an association was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its time is over.
    Idle,
    /// The rules do not want it any more.
    Unwanted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Kind, Protocol};
    use crate::policy::Rule;

    fn at(seconds: u64) -> Instant {
        Instant::from_secs(seconds as i64)
    }

    fn key(port: u16) -> Key {
        Key { client: SocketAddr::from(([198, 18, 0, 2], port)), pool: None }
    }

    fn server(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    fn peer(server: SocketAddr, last: Instant) -> Peer {
        let record = Box::new(Record::new(Kind::Flow, Protocol::Udp, Rule::Default, 0));
        let (target, header) = (Target::Addr(server), Box::default());
        Peer { record, target, header, tally: Tally::default(), since: last, last }
    }

    fn mappings(limits: Limits) -> Mappings {
        Mappings::new(limits)
    }

    fn begin(table: &mut Mappings, port: u16, to: u16, last: Instant) -> MappingId {
        let id = table.insert(key(port), None, Leg::None { retry: last });
        assert!(table.add_peer(id, server(to), peer(server(to), last)).is_none());
        id
    }

    #[test]
    fn a_name_dies_with_its_mapping_and_is_no_flow_s() {
        let mut table = mappings(Limits::default());
        let first = begin(&mut table, 1000, 9, at(0));
        assert_eq!(MappingId::from_bits(first.to_bits()), Some(first));
        assert_eq!(MappingId::from_bits(77 << 32 | 65_535), None);
        assert_eq!(MappingId::from_bits(77 << 32 | 1 << 31), None);
        assert_eq!(table.find(&key(1000)), Some(first));
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        let second = begin(&mut table, 1001, 9, at(0));
        assert_ne!(first, second);
        assert!(table.get(first).is_none() && table.find(&key(1000)).is_none());
    }

    #[test]
    fn questions_are_forgotten_early_and_conversations_after_five_minutes() {
        let mut table = mappings(Limits::default());
        let (dns, quic) = (begin(&mut table, 1000, 53, at(0)), begin(&mut table, 1001, 443, at(0)));
        let (ended, empty, next) = table.expire(at(29), |_| true);
        assert!(ended.is_empty() && empty.is_empty());
        assert_eq!(next, Some(at(30)));
        let (ended, empty, next) = table.expire(at(30), |_| true);
        assert_eq!((ended.len(), empty.as_slice(), next), (1, &[dns][..], Some(at(300))));
        table.remove(dns);
        assert_eq!(table.expire(at(299), |_| true).0.len(), 0);
        assert_eq!(table.expire(at(300), |_| true).1, [quic]);
    }

    #[test]
    fn a_flood_of_sources_is_bounded_and_takes_nothing_from_who_is_busy() {
        let limits = Limits { mappings: 10, ..Limits::default() };
        let mut table = mappings(limits);
        let first = begin(&mut table, 1, 9, at(0));
        for port in 2..=10 {
            begin(&mut table, port, 9, at(5));
        }
        assert_eq!(table.room(at(29)), Err(None), "all were used a moment ago");
        assert_eq!(table.room(at(30)), Err(Some(first)));
        table.remove(first);
        assert_eq!(table.room(at(30)), Ok(()));
    }

    #[test]
    fn a_flood_of_peers_is_bounded_and_the_oldest_makes_room() {
        let limits = Limits { peers: 5, all_peers: 8, ..Limits::default() };
        let mut table = mappings(limits);
        let id = begin(&mut table, 1, 100, at(0));
        for port in 101..200 {
            let gone = table.add_peer(id, server(port), peer(server(port), at(u64::from(port))));
            assert_eq!(gone.map(|gone| gone.target.port()), (port >= 105).then(|| port - 5));
        }
        // Of all together: each mapping keeps one at least.
        for port in 2..50 {
            let id = begin(&mut table, port, 1, at(500));
            table.add_peer(id, server(2), peer(server(2), at(501)));
        }
        assert!(table.peers <= 8 + 48, "{}", table.peers);
        let all: Vec<MappingId> = table.iter().map(|mapping| mapping.id).collect();
        all.into_iter().for_each(|id| drop(table.remove(id)));
        assert_eq!((table.peers, table.len()), (0, 0));
    }

    #[test]
    fn what_the_rules_do_not_want_any_more_goes_at_once() {
        let mut table = mappings(Limits::default());
        let id = begin(&mut table, 1, 9, at(0));
        table.add_peer(id, server(10), peer(server(10), at(0)));
        let (ended, empty, _) = table.expire(at(1), |peer| peer.target.port() != 9);
        assert_eq!(ended.iter().map(|(_, fate)| *fate).collect::<Vec<_>>(), [Fate::Unwanted]);
        assert!(empty.is_empty());
    }
}
