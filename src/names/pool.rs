//! Addresses that stand for names.
//!
//! An overlay that resolves at its far end is dialled by name, but programs connect to addresses. So each name that a jail
//! asks about gets an address that exists only inside it: IPv4 in [`JAIL_V4`], 198.18.0.0/15 (RFC 2544, set aside for benchmarks), and
//! IPv6 in [`JAIL_V6`], one fixed unique local /64 (RFC 4193). Both are the same number: the IPv6 address ends in the IPv4 address.
//!
//! - **Stable and never reused.** A name keeps its address and an address its name until the jail ends, whatever becomes of
//!   the registry: programs keep addresses for ever.
//! - **Bounded.** At most [`CAPACITY`] names and [`MAX_NAME_BYTES`] of text; then [`Full`], and nothing is forgotten for it.
//! - **The first address is random**, so that addresses do not tell how many names were asked, nor match between jails.
//! - **Shared by the workers.** Address to name, which every SYN asks, takes no lock: the slots are written once and
//!   published by [`OnceLock`]. Name to address takes a mutex, which is a system call only while two workers ask at once.
//!
//! A name costs its text, 32 bytes of slot and about 7 of index; the text is stored once, and the index holds slot numbers.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, OnceLock, PoisonError};

use hashbrown::HashTable;

use crate::flow::HostName;
use crate::policy::{JAIL_V4, JAIL_V6};

/// The jail's gateway and resolver.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The jail itself.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The jail's gateway and resolver.
pub const GATEWAY_V6: Ipv6Addr = with_low_bits(1);
/// The jail itself.
pub const OWN_V6: Ipv6Addr = with_low_bits(2);

/// How many names a jail can have: all of 198.18.0.0/15 but its first 256 addresses (gateway, jail and their kind) and the last.
pub const CAPACITY: u32 = (1 << 17) - FIRST - 1;
/// How much text all names of a jail may have together, in bytes: 100,000 names of 83 bytes each.
pub const MAX_NAME_BYTES: usize = 8 << 20;

const BASE_V4: u32 = JAIL_V4.addr().to_bits();
const BASE_V6: u128 = JAIL_V6.addr().to_bits();
const FIRST: u32 = 256;
/// Slots are made in chunks, so that a jail with few names has a small pool.
const CHUNK: usize = 1024;
/// Written once each, in order, and read without a lock.
type Chunk = Box<[OnceLock<HostName>]>;
const CHUNKS: usize = (CAPACITY as usize).div_ceil(CHUNK);

const fn with_low_bits(bits: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(BASE_V6 | bits as u128)
}

/// The addresses of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// In [`JAIL_V4`].
    pub v4: Ipv4Addr,
    /// In [`JAIL_V6`].
    pub v6: Ipv6Addr,
}

/// The jail has asked for more names than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no pool address left: a jail can use {CAPACITY} names, of {MAX_NAME_BYTES} bytes together; a new jail has a new pool"
)]
pub struct Full;

/// The names of one jail.
#[derive(Debug)]
pub struct Pool {
    /// Where in the range the first name lies.
    start: u32,
    /// Keyed at random: the names are chosen by the jail, and must not be able to pile up in one place of the index.
    hasher: RandomState,
    chunks: Box<[OnceLock<Chunk>]>,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// Numbers of slots, found by the hash of the name in the slot. Its length is the number of the next slot.
    slots: HashTable<u32>,
    name_bytes: usize,
}

impl Pool {
    /// An empty pool. `random` chooses the first address and should be a random number; make the pool before system calls
    /// are taken away, for the index draws its own key here.
    pub fn new(random: u32) -> Self {
        Self {
            start: random % CAPACITY,
            hasher: RandomState::new(),
            chunks: std::iter::repeat_with(OnceLock::new).take(CHUNKS).collect(),
            index: Mutex::default(),
        }
    }

    /// The addresses of a name; a name that was not asked for before gets the next free ones.
    pub fn assign(&self, name: &HostName) -> Result<Pair, Full> {
        let hash = self.hasher.hash_one(name.as_str());
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&slot) = index.slots.find(hash, |&slot| self.slot(slot) == Some(name)) {
            return Ok(self.pair(slot));
        }
        let slot = u32::try_from(index.slots.len()).map_err(|_| Full)?;
        let name_bytes = index.name_bytes + name.as_str().len();
        if slot >= CAPACITY || name_bytes > MAX_NAME_BYTES {
            return Err(Full);
        }
        let (chunk, place) = split(slot);
        let fresh = || std::iter::repeat_with(OnceLock::new).take(CHUNK).collect();
        let place = self.chunks.get(chunk).and_then(|chunk| chunk.get_or_init(fresh).get(place)).ok_or(Full)?;
        place.set(name.clone()).map_err(|_| Full)?; // can not be taken: slots are numbered under the lock
        index.slots.insert_unique(hash, slot, |&slot| self.slot(slot).map_or(0, |n| self.hasher.hash_one(n.as_str())));
        index.name_bytes = name_bytes;
        Ok(self.pair(slot))
    }

    /// The name that an address stands for; `None` for an address that was not given out. Takes no lock.
    pub fn name(&self, address: IpAddr) -> Option<&HostName> {
        let v4 = match address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => u32::try_from(address.to_bits().checked_sub(BASE_V6)?).ok()?,
        };
        let place = v4.checked_sub(BASE_V4 + FIRST).filter(|&place| place < CAPACITY)?;
        self.slot((place + CAPACITY - self.start) % CAPACITY)
    }

    /// How many names have addresses.
    pub fn len(&self) -> usize {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).slots.len()
    }

    /// Whether no name was asked for yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slot(&self, slot: u32) -> Option<&HostName> {
        let (chunk, place) = split(slot);
        self.chunks.get(chunk)?.get()?.get(place)?.get()
    }

    fn pair(&self, slot: u32) -> Pair {
        let v4 = BASE_V4 + FIRST + (self.start + slot) % CAPACITY;
        Pair { v4: Ipv4Addr::from_bits(v4), v6: with_low_bits(v4) }
    }
}

/// Whether an address lies in one of the two ranges, given out or not: such an address is never dialled as it is, on no
/// overlay. What [`Pool::name`] does not know is refused.
pub fn is_ours(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => JAIL_V4.contains(&address),
        IpAddr::V6(address) => JAIL_V6.contains(&address),
    }
}

fn split(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    (slot / CHUNK, slot % CHUNK)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn a_name_keeps_its_addresses_and_they_keep_the_name() {
        let pool = Pool::new(12345);
        let first = pool.assign(&name("one.example")).unwrap();
        let second = pool.assign(&name("two.example")).unwrap();
        assert_ne!(first, second);
        assert_eq!(pool.assign(&name("ONE.Example.")).unwrap(), first);
        assert_eq!(pool.name(first.v4.into()), Some(&name("one.example")));
        assert_eq!(pool.name(first.v6.into()), Some(&name("one.example")));
        assert_eq!(pool.name(second.v6.into()), Some(&name("two.example")));
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn addresses_that_were_not_given_out_have_no_name() {
        let pool = Pool::new(CAPACITY - 1);
        pool.assign(&name("one.example")).unwrap();
        pool.assign(&name("two.example")).unwrap();
        let strangers = [
            "198.18.0.0",
            "198.18.0.1",
            "198.18.0.2",
            "198.18.0.255",
            "198.18.1.1",
            "198.19.255.255",
            "198.20.0.0",
            "8.8.8.8",
            "0.0.0.0",
            "255.255.255.255",
            "fd6e:6a61:696c::1",
            "fd6e:6a61:696c::2",
            "fd6e:6a61:696c:0:1:0:c612:100",
            "fd6e:6a61:696c:1::c612:100",
            "::c612:100",
            "::ffff:198.18.1.0",
            "::",
            "ffff::",
        ];
        for stranger in strangers {
            assert_eq!(pool.name(stranger.parse().unwrap()), None, "{stranger}");
        }
        // The range wraps round: the last address came first.
        assert_eq!(pool.name("198.19.255.254".parse().unwrap()), Some(&name("one.example")));
        assert_eq!(pool.name("198.18.1.0".parse().unwrap()), Some(&name("two.example")));
        assert_eq!(pool.name("fd6e:6a61:696c::c612:100".parse().unwrap()), Some(&name("two.example")));
    }

    #[test]
    fn every_address_is_given_out_once_and_then_the_pool_is_full_without_forgetting() {
        let pool = Pool::new(777);
        let mut seen = HashSet::new();
        for number in 0..CAPACITY {
            let pair = pool.assign(&name(&format!("n{number}.example"))).unwrap();
            assert!(seen.insert(pair.v4) && is_ours(pair.v4.into()) && is_ours(pair.v6.into()));
            assert!(![GATEWAY_V4, OWN_V4].contains(&pair.v4) && ![GATEWAY_V6, OWN_V6].contains(&pair.v6));
        }
        assert_eq!(1 << (32 - JAIL_V4.prefix_len()), CAPACITY + FIRST + 1);
        const { assert!(CAPACITY > 100_000) };
        assert_eq!(pool.assign(&name("one-more.example")), Err(Full));
        assert_eq!(pool.len(), CAPACITY as usize);
        for number in [0, 1, CAPACITY / 2, CAPACITY - 1] {
            let known = name(&format!("n{number}.example"));
            assert_eq!(pool.name(pool.assign(&known).unwrap().v4.into()), Some(&known));
        }
    }

    #[test]
    fn a_flood_of_long_names_stops_at_the_bound_of_bytes() {
        let pool = Pool::new(0);
        let tail = format!("{0}.{0}.{0}", "x".repeat(63));
        let mut given = 0;
        while pool.assign(&name(&format!("{given:055}a.{tail}"))).is_ok() {
            given += 1;
            assert!(given <= CAPACITY);
        }
        assert_eq!(given as usize, MAX_NAME_BYTES / 248);
        assert_eq!(pool.assign(&name(&format!("{:055}a.{tail}", given + 1))), Err(Full));
        // A shorter name may still fit: the bound is one of bytes.
        assert!(pool.index.lock().unwrap().name_bytes <= MAX_NAME_BYTES);
    }

    #[test]
    fn jails_begin_at_different_addresses() {
        let first = |random| Pool::new(random).assign(&name("same.example")).unwrap();
        assert_ne!(first(1), first(2));
        assert_eq!(first(1), first(1 + CAPACITY));
        assert!(is_ours(first(u32::MAX).v4.into()));
    }

    #[test]
    fn the_way_from_an_address_to_its_name_waits_for_nobody() {
        let pool = Pool::new(5);
        let pair = pool.assign(&name("one.example")).unwrap();
        let _held = pool.index.lock().unwrap();
        assert_eq!(pool.name(pair.v4.into()), Some(&name("one.example")));
    }

    #[test]
    fn workers_that_ask_at_once_agree() {
        let pool = Pool::new(99);
        let answers: Vec<Vec<Pair>> = std::thread::scope(|scope| {
            let ask = || {
                (0..2000)
                    .map(|number| {
                        let asked = name(&format!("n{number}.example"));
                        let pair = pool.assign(&asked).unwrap();
                        assert_eq!(pool.name(pair.v6.into()), Some(&asked));
                        pair
                    })
                    .collect()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|one| one == &answers[0]));
        assert_eq!(pool.len(), 2000);
    }

    #[test]
    fn the_ranges_end_where_they_end() {
        for (address, ours) in [
            ("198.17.255.255", false),
            ("198.18.0.0", true),
            ("198.19.255.255", true),
            ("198.20.0.0", false),
            ("fd6e:6a61:696b:ffff:ffff:ffff:ffff:ffff", false),
            ("fd6e:6a61:696c::", true),
            ("fd6e:6a61:696c:0:ffff:ffff:ffff:ffff", true),
            ("fd6e:6a61:696c:1::", false),
        ] {
            assert_eq!(is_ours(address.parse().unwrap()), ours, "{address}");
        }
    }
}
