//! Datagrams: what a program sends from one socket leaves from one socket, whomever it is for, and whoever answers is heard.
//!
//! # Theory of operation
//! A *mapping* is a program's address and port, and one outside socket ([`leg`]): endpoint-independent, as RFC 4787 (REQ-1,
//! REQ-8) wants it and peer-to-peer protocols need it. An *association* is a mapping and one server: it passed
//! [`decide`](crate::policy::Table::decide), has counts and a time-out, and leaves one record.
//!
//! - **Nothing of the host is reached.** Each server is judged once for its association, and again when the rules or the
//!   host's addresses change: an address that has become the host's own is not sent to any more. Who answers without having
//!   been asked is judged as well: what may not be sent to may not send.
//! - **A proxy's relay** ([`socks`]) says in each datagram which address it came from, and not by which name it was asked for.
//!   So a name has a mapping of its own in which everybody is that name, at the port that he answers from.
//! - **A datagram that can not go is said at once**, by an ICMP error that quotes it: the rule's, the proxy's, the kernel's, or the network's
//!   own, which the kernel keeps for us ([`leg::complaint`]). What is too large is "fragmentation needed".
//! - **Bounded** ([`table`]): mappings, peers, waiting datagrams, associations on their way. A datagram that finds no room in a
//!   queue is lost, as in every queue of a network.
//! - **Batches** ([`batch`]): what was read together leaves together, in both directions, and datagrams that make a
//!   super-datagram do so where the kernel has them; a program's own pass whole, and are cut here where it has not. Nothing waits for company.
//!
//! With several workers the kernel chooses the queue by server too, so that a mapping's packets come to several workers. All
//! go to one ([`siblings`]), which its source address chooses.

mod batch;
mod end;
pub(super) mod id;
mod leg;
mod receive;
mod send;
mod siblings;
mod socks;
mod table;

use std::hash::RandomState;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::poll::Token;
use super::{Driver, Worker};
use crate::flow::Target;
use crate::log::{Close, Protocol};
use crate::names::{Resolver, pool};
use crate::overlay::{DialError, socks5};
use crate::policy::Rule;
use crate::stack::{Datagram, Instant};
use batch::{Receiver, Sender};
use leg::Leg;
use table::{Key, Mappings, Peer, Tally};

use id::MappingId;
pub use siblings::Siblings;
pub use table::Limits;

/// How many refusals are remembered, so that a repeated one is not recorded again.
const SAID_SLOTS: usize = 256;

/// What a worker keeps for datagrams.
pub(super) struct Udp {
    mappings: Mappings,
    /// The buffers, while there is a mapping.
    io: Option<Box<Io>>,
    /// Mappings that may have datagrams to read.
    ready: Vec<MappingId>,
    sweep_at: Option<Instant>,
    /// Associations on their way.
    associating: usize,
    /// Until when the proxy is not asked again, and why.
    outage: Option<(Instant, DialError)>,
    /// Refusals that were recorded a moment ago: their hash, and when.
    said: Box<[Option<(u64, Instant)>]>,
    hash: RandomState,
    /// Whether the TUN takes super-datagrams.
    super_datagrams: bool,
    pub(super) siblings: Option<Siblings>,
}

struct Io {
    sender: Sender,
    receiver: Receiver,
}

impl Udp {
    pub fn new(limits: Limits, super_datagrams: bool, siblings: Option<Siblings>) -> Self {
        Self {
            mappings: Mappings::new(limits),
            io: None,
            ready: Vec::new(),
            sweep_at: None,
            associating: 0,
            outage: None,
            said: vec![None; SAID_SLOTS].into_boxed_slice(),
            hash: RandomState::new(),
            super_datagrams,
            siblings,
        }
    }

    /// Whether there are datagrams that were not read for want of time.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether datagrams wait for an association.
    pub fn is_waiting(&self) -> bool {
        self.associating > 0
    }

    /// When something has to be looked at.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.sweep_at
    }

    fn sweep_by(&mut self, at: Instant) {
        self.sweep_at = Some(self.sweep_at.map_or(at, |known| known.min(at)));
    }
}

impl Worker {
    /// A datagram of the program's, from the queue.
    pub(super) fn datagram(&mut self, datagram: &Datagram, frame: &[u8]) {
        if let Some(siblings) = &self.udp.siblings
            && siblings.pass(datagram, frame)
        {
            return;
        }
        self.carry(datagram, frame);
    }

    /// A datagram of a mapping of this worker's.
    fn carry(&mut self, datagram: &Datagram, frame: &[u8]) {
        let Datagram { client, server, segment, .. } = *datagram;
        let data = datagram.data(frame);
        let by_name = matches!(self.names, Resolver::Pool(_)) && pool::is_ours(server.ip());
        let key = Key { client, pool: by_name.then(|| server.ip()) };
        let known = self
            .udp
            .mappings
            .find(&key)
            .filter(|id| self.udp.mappings.get(*id).is_some_and(|mapping| mapping.peers.contains_key(&server)));
        if let Some(id) = known.or_else(|| self.begin_association(key, server, data)) {
            self.send_out(id, server, data, segment);
        }
    }

    /// The first datagram to a server: decides, and remembers.
    fn begin_association(&mut self, key: Key, server: SocketAddr, data: &[u8]) -> Option<MappingId> {
        let (record, judged) = self.judge(Protocol::Udp, server);
        let target = match judged {
            Ok(target) => target,
            Err((rule, refusal)) => {
                self.deny_datagram(key.client, server, data, record, rule, refusal);
                return None;
            }
        };
        let id = match self.udp.mappings.find(&key) {
            Some(id) => id,
            None => match self.begin_mapping(key, &target) {
                Ok(id) => id,
                Err(Begin::Limit(rule)) => {
                    self.deny_datagram(key.client, server, data, record, rule, None);
                    return None;
                }
                Err(Begin::Failed(error)) => {
                    self.fail_datagram(key.client, server, data, record, error);
                    return None;
                }
            },
        };
        let header = match &self.driver {
            Driver::Direct => Box::default(),
            // A name that was parsed fits, and an address of the jail's has no scope.
            Driver::Socks5 { .. } => socks5::datagram::header(&target).ok()?,
        };
        let (since, tally) = (self.now, Tally::default());
        let peer = Peer { record: Box::new(record), target, header, tally, since, last: since };
        if let Some(gone) = self.udp.mappings.add_peer(id, server, peer) {
            self.record_association(gone, Close::Limit(Rule::LimitPeers), None);
        }
        let patience = self.udp.mappings.limits.patience(server);
        self.udp.sweep_by(since + patience);
        Some(id)
    }

    fn begin_mapping(&mut self, key: Key, target: &Target) -> Result<MappingId, Begin> {
        if let Err(idle) = self.udp.mappings.room(self.now) {
            let idle = idle.ok_or(Begin::Limit(Rule::LimitMappings))?;
            self.end_mapping(idle, Close::Limit(Rule::LimitMappings));
        }
        let name = match target {
            Target::Name(name, _) => Some(name.clone()),
            Target::Addr(_) => None,
        };
        let id = match self.driver {
            Driver::Direct => {
                let failed = |errno: Errno| Begin::Failed(DialError::Direct(errno as i32));
                let fd = leg::open(key.client.is_ipv4()).map_err(failed)?;
                let id = self.udp.mappings.insert(key, name, Leg::None { retry: self.now });
                if let Err(errno) = self.poll.add_readable(fd.as_fd(), Token::Datagrams(id)) {
                    self.udp.mappings.remove(id);
                    return Err(failed(errno));
                }
                if let Some(mapping) = self.udp.mappings.get(id) {
                    mapping.leg = Leg::Direct(fd);
                }
                id
            }
            Driver::Socks5 { .. } => {
                self.may_associate()?;
                let id = self.udp.mappings.insert(key, name, Leg::None { retry: self.now });
                self.associate(id);
                id
            }
        };
        self.udp.io.get_or_insert_with(|| Box::new(Io { sender: Sender::new(), receiver: Receiver::new() }));
        Ok(id)
    }
}

/// Why there is no mapping.
enum Begin {
    /// A limit's rule.
    Limit(Rule),
    /// The way out does not work.
    Failed(DialError),
}
