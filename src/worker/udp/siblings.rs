//! One mapping, one worker: a datagram that the kernel gave to another worker's queue is passed on.
//!
//! The kernel chooses a queue by all four of a packet's addresses and ports, so that what one socket sends to many peers comes
//! to many workers. Whose mapping it is, its source alone decides: a keyed hash that all workers share, and no table, no lock.
//! The frame goes through a socket pair, and is lost where that is full, as in any queue. What the owner sends back teaches the
//! kernel (`tun_flow_update`, drivers/net/tun.c) to give it the conversation's next packets at once.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt};

use crate::stack::Datagram;
use crate::worker::Worker;

/// How many frames are taken over before the flows have their turn.
const BATCH: usize = 64;

/// Bytes that may wait for a worker.
const BUFFER: usize = 1 << 20;

/// A worker's part of the pairs.
pub struct Siblings {
    own: usize,
    inbox: OwnedFd,
    /// Everybody's, this worker's too, in one order.
    outboxes: Arc<[OwnedFd]>,
    hash: RandomState,
}

impl Siblings {
    /// One for each of so many workers; none for a single one, whose mappings all are.
    ///
    /// # Errors
    /// The kernel's, where there are no descriptors left.
    pub fn of(workers: usize) -> std::io::Result<Vec<Option<Self>>> {
        if workers < 2 {
            return Ok((0..workers).map(|_| None).collect());
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (mut inboxes, mut outboxes) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
            // Where the user may not have so much the kernel's default has to do.
            let _ = setsockopt(&theirs, sockopt::SndBuf, &BUFFER);
            inboxes.push(ours);
            outboxes.push(theirs);
        }
        let (outboxes, hash): (Arc<[OwnedFd]>, _) = (outboxes.into(), RandomState::new());
        let sibling = |(own, inbox)| Some(Self { own, inbox, outboxes: Arc::clone(&outboxes), hash: hash.clone() });
        Ok(inboxes.into_iter().enumerate().map(sibling).collect())
    }

    /// Where the others' frames arrive.
    pub fn inbox(&self) -> &OwnedFd {
        &self.inbox
    }

    fn owner(&self, client: SocketAddr) -> usize {
        (self.hash.hash_one(client) % self.outboxes.len() as u64) as usize
    }

    /// Passes a datagram on, if it is another worker's.
    pub fn pass(&self, datagram: &Datagram, frame: &[u8]) -> bool {
        let owner = self.owner(datagram.client);
        if owner == self.own {
            return false;
        }
        if let Some(outbox) = self.outboxes.get(owner) {
            let _ = send(outbox.as_raw_fd(), datagram.frame(frame), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
        true
    }
}

impl Worker {
    /// Takes what other workers passed on. True if there may be more.
    pub(in crate::worker) fn take_over(&mut self) -> bool {
        let Some(inbox) = self.udp.siblings.as_ref().map(|siblings| siblings.inbox.as_raw_fd()) else { return false };
        let mut packet = std::mem::take(&mut self.packet);
        let mut more = true;
        for _ in 0..BATCH {
            match recv(inbox, &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::EAGAIN) => {
                    more = false;
                    break;
                }
                Ok(length) => {
                    let frame = &packet[..length];
                    if let Some(datagram) = self.stack.receive(self.now, frame, &mut &self.queue) {
                        self.carry(&datagram, frame);
                    }
                }
                Err(_) => {}
            }
        }
        self.packet = packet;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_agree_whose_a_source_is() {
        let all: Vec<Siblings> = Siblings::of(3).unwrap().into_iter().flatten().collect();
        let mut owned = [0; 3];
        for port in 1..1000 {
            let client = SocketAddr::from(([198, 18, 0, 2], port));
            let owner = all[0].owner(client);
            assert!(all.iter().all(|sibling| sibling.owner(client) == owner));
            owned[owner] += 1;
        }
        assert!(owned.iter().all(|count| *count > 200), "{owned:?}");
        assert_eq!(Siblings::of(1).unwrap().into_iter().flatten().count(), 0);
    }
}
