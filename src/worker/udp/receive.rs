//! What comes from outside: read in batches, judged, and brought to the program; and what the network says of datagrams that did
//! not arrive.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use super::batch::{Incoming, Receiver, Train};
use super::id::MappingId;
use super::leg::{self, Leg};
use super::socks;
use super::table::{Mapping, Peer, Tally};
use crate::flow::Target;
use crate::log::{Kind, Protocol, Record};
use crate::overlay::DialError;
use crate::policy::{Request, Verdict};
use crate::stack::Stack;
use crate::stack::udp::bring;
use crate::worker::poll::Readiness;
use crate::worker::{Queue, Worker};

/// How many system calls one mapping may receive with before the others have their turn.
const ROUNDS: usize = 2;

/// How many complaints of the network are heard in one go.
const COMPLAINTS: usize = 32;

impl Worker {
    /// A mapping's socket has something to say.
    pub(in crate::worker) fn datagrams_ready(&mut self, id: MappingId, readiness: Readiness) {
        let Self { udp, stack, queue, .. } = self;
        let Some(mapping) = udp.mappings.get(id) else { return };
        if readiness.ending {
            hear_complaints(mapping, stack, queue);
        }
        if !std::mem::replace(&mut mapping.ready, true) {
            udp.ready.push(id);
        }
    }

    /// Reads what came, from each mapping for a while.
    pub(in crate::worker) fn receive_datagrams(&mut self) {
        if self.udp.ready.is_empty() {
            return;
        }
        let Some(mut io) = self.udp.io.take() else { return self.udp.ready.clear() };
        let mut turn = std::mem::take(&mut self.udp.ready);
        for id in turn.drain(..) {
            self.receive_from(id, &mut io.receiver);
        }
        if self.udp.ready.is_empty() {
            self.udp.ready = turn;
        }
        if self.udp.mappings.len() > 0 {
            self.udp.io = Some(io);
        }
    }

    fn receive_from(&mut self, id: MappingId, receiver: &mut Receiver) {
        let Some(mapping) = self.udp.mappings.get(id) else { return };
        mapping.ready = false;
        for _ in 0..ROUNDS {
            let Some(mapping) = self.udp.mappings.get(id) else { return };
            let raw = match &mapping.leg {
                Leg::Direct(fd) | Leg::Associated { relay: fd, .. } => fd.as_raw_fd(),
                Leg::None { .. } | Leg::Associating(_) => return,
            };
            let more = match receiver.receive(raw) {
                Ok(more) => more,
                Err(_) => {
                    // About something that was sent. The complaint itself is in the queue (direct); a relay that is gone
                    // takes its association with it.
                    self.relay_failed(id);
                    true
                }
            };
            self.deliver(id, receiver);
            if !more {
                return;
            }
        }
        if let Some(mapping) = self.udp.mappings.get(id) {
            mapping.ready = true;
            self.udp.ready.push(id);
        }
    }

    /// Brings what was received to the program; neighbours that make a train, as one super-datagram.
    fn deliver(&mut self, id: MappingId, receiver: &mut Receiver) {
        let Receiver { buffer, messages } = receiver;
        let mut first: Option<Incoming> = None;
        for message in messages.iter() {
            let Some(next) = self.admit(id, message, buffer) else { continue };
            let coupled = self.udp.super_datagrams && first.as_mut().is_some_and(|first| first.couple(&next, buffer));
            if !coupled && let Some(done) = first.replace(next) {
                self.bring(id, &done, buffer);
            }
        }
        if let Some(done) = first {
            self.bring(id, &done, buffer);
        }
    }

    /// What of a message is the program's, and whom it is from for the program. `None` if it may not come in.
    fn admit(&mut self, id: MappingId, message: &Incoming, buffer: &[u8]) -> Option<Incoming> {
        let mapping = self.udp.mappings.get(id)?;
        let mut inner = *message;
        if !matches!(mapping.leg, Leg::Direct(_)) {
            let bytes = buffer.get(message.at..message.at + message.train.length)?;
            let (from, header) = socks::source(mapping, bytes)?;
            inner = Incoming { from: Some(from), at: message.at + header, train: Train::new(bytes.len() - header, 0) };
        }
        self.may_enter(id, inner.from?, &inner.train).then_some(inner)
    }

    fn bring(&mut self, id: MappingId, message: &Incoming, buffer: &mut [u8]) {
        let Incoming { from: Some(source), at, train } = *message else { return };
        let Some(mapping) = self.udp.mappings.get(id) else { return };
        let ends = (source, mapping.key.client);
        self.moved += 1;
        bring(buffer, at..at + train.length, ends, train.segment(), self.udp.super_datagrams, &mut &self.queue);
    }

    /// Whether a datagram from `source` may come in, and counts it.
    fn may_enter(&mut self, id: MappingId, source: SocketAddr, train: &Train) -> bool {
        let (now, generation) = (self.now, self.table.generation);
        let Self { udp, table, .. } = self;
        let Some(mapping) = udp.mappings.get(id) else { return false };
        let tally = if let Some(peer) = mapping.peers.get_mut(&source) {
            peer.last = now;
            &mut peer.tally
        } else {
            // Nobody asked him. What may not be sent to may not send, either.
            let target = match &mapping.name {
                Some(name) => Target::Name(name.clone(), source.port()),
                None => Target::Addr(source),
            };
            let Verdict::Allow { network, rule } = table.decide(&Request::Flow(&target)) else { return false };
            let strangers = mapping.strangers.get_or_insert_with(|| {
                let mut record = Record::new(Kind::Flow, Protocol::Udp, rule, generation);
                (record.network, record.refusal) = (Some(network.clone()), None);
                let (header, tally) = (Box::default(), Tally::default());
                Box::new(Peer { record: Box::new(record), target, header, tally, since: now, last: now })
            });
            &mut strangers.tally
        };
        tally.datagrams_in += train.count as u64;
        tally.bytes_in += train.length as u64;
        true
    }
}

/// Tells the program what the network said of its datagrams (direct).
pub(super) fn hear_complaints(mapping: &Mapping, stack: &mut Stack, queue: &Queue) {
    let (client, Leg::Direct(fd)) = (mapping.key.client, &mapping.leg) else { return };
    for _ in 0..COMPLAINTS {
        let Some(complaint) = leg::complaint(fd) else { return };
        let leg::Complaint { to, errno, mtu, data } = complaint;
        if !mapping.peers.contains_key(&to) {
            continue;
        }
        let mut sink = queue;
        if errno == libc::EMSGSIZE {
            stack.too_big(client, to, &data, mtu, &mut sink);
        } else {
            stack.complain(client, to, &data, DialError::Direct(errno).refusal(), &mut sink);
        }
    }
}
