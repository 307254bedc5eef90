//! What goes outside: counted, put together with what was read in the same turn, and sent; and what becomes of a datagram that
//! can not go.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::batch::{Exit, Outgoing, Train, Way};
use super::leg::Leg;
use super::receive::hear_complaints;
use super::socks::lost;
use super::table::Mappings;
use super::{MappingId, Udp};
use crate::overlay::DialError;
use crate::stack::udp::longest;
use crate::stack::{Instant, Stack};
use crate::worker::{Queue, Worker};

/// The largest packet that every way carries (RFC 8200 section 5): what is said where the kernel does not say more.
const SMALLEST_MTU: u32 = 1280;

impl Worker {
    /// Sends a datagram, or a super-datagram, to a known peer.
    pub(super) fn send_out(&mut self, id: MappingId, server: SocketAddr, data: &[u8], segment: usize) {
        let now = self.now;
        let Some(mapping) = self.udp.mappings.get(id) else { return };
        let Some(peer) = mapping.peers.get_mut(&server) else { return };
        peer.last = now;
        peer.tally.datagrams_out += Train::new(data.len(), segment).count as u64;
        peer.tally.bytes_out += data.len() as u64;
        self.moved += 1;
        if !matches!(mapping.leg, Leg::Direct(_)) {
            return self.send_to_relay(id, server, data, segment);
        }
        self.make_room(data.len());
        if let Some(io) = &mut self.udp.io {
            io.sender.push((id, server), &[], data, segment, false);
        }
    }

    /// Makes room for a datagram of so many bytes.
    pub(super) fn make_room(&mut self, length: usize) {
        if self.udp.io.as_ref().is_some_and(|io| !io.sender.has_room(length)) {
            self.flush_datagrams();
        }
    }

    /// Sends what waits for the end of the batch.
    pub(in crate::worker) fn flush_datagrams(&mut self) {
        let Self { udp, stack, queue, now, .. } = self;
        let Udp { mappings, io: Some(io), .. } = udp else { return };
        io.sender.flush(&mut Outside { mappings, stack, queue, now: *now });
    }
}

/// What a batch needs of the worker.
struct Outside<'a> {
    mappings: &'a mut Mappings,
    stack: &'a mut Stack,
    queue: &'a Queue,
    now: Instant,
}

impl Exit for Outside<'_> {
    fn way(&mut self, mapping: MappingId) -> Option<Way<'_>> {
        match &mut self.mappings.get(mapping)?.leg {
            Leg::Direct(fd) => Some(Way::Addressed(OwnedFd::as_fd(fd))),
            Leg::Associated { relay, cut, .. } => Some(Way::Connected(OwnedFd::as_fd(relay), cut)),
            // It was lost a moment ago.
            Leg::None { .. } | Leg::Associating(_) => None,
        }
    }

    fn failed(&mut self, message: &Outgoing, datagram: &[u8], errno: Errno, again: bool) -> bool {
        let Some(mapping) = self.mappings.get(message.mapping) else { return false };
        let (client, server, direct) = (mapping.key.client, message.to, matches!(mapping.leg, Leg::Direct(_)));
        let data = datagram.get(message.header..).unwrap_or_default();
        match errno {
            // A full queue loses datagrams, here as anywhere.
            Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR => {}
            Errno::EMSGSIZE => {
                let most = (longest(true) - message.header).min(data.len().saturating_sub(1));
                let mtu = if direct { SMALLEST_MTU } else { mtu_for(client.is_ipv4(), most) };
                self.stack.too_big(client, server, data, mtu, &mut &*self.queue);
            }
            // It may be about an earlier datagram, to somebody else.
            _ if direct && !again => {
                hear_complaints(mapping, self.stack, self.queue);
                return true;
            }
            _ if direct => {
                let refusal = DialError::Direct(errno as i32).refusal();
                self.stack.refuse_datagram(client, server, data, refusal, &mut &*self.queue);
            }
            // Nobody is at the relay's port any more.
            _ => {
                mapping.leg = lost(self.now);
                self.stack.refuse_datagram(client, server, data, DialError::Closed.refusal(), &mut &*self.queue);
            }
        }
        false
    }
}

/// The longest packet whose datagram still fits, if so many bytes of data are the most.
fn mtu_for(v4: bool, data: usize) -> u32 {
    let headers = 0xffff - longest(true) + if v4 { 0 } else { 20 };
    (data + headers) as u32
}
