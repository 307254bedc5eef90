//! Datagrams through a SOCKS5 proxy (RFC 1928 sections 4, 6 and 7).
//!
//! ```text
//! first datagram -> ask the warden -> connection -> UDP ASSOCIATE -> relay's address -> ask the warden -> socket -> datagrams
//! ```
//!
//! - The association lives as long as its connection. When the proxy ends it, the next datagram begins another.
//! - The socket is the warden's to make: it is connected to the relay, which must be the proxy itself, before it comes here, and
//!   this process can not aim it elsewhere (`jail::seccomp::roles`). The kernel lets nobody but the relay answer.
//! - A proxy that refuses is not asked again for a while, and its refusal is every datagram's.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use super::batch::{Cut, Train};
use super::id::MappingId;
use super::leg::{Associating, Leg, Step};
use super::table::Mapping;
use super::{Begin, Udp, Worker};
use crate::control::worker::ToWarden;
use crate::log::Close;
use crate::names::pool;
use crate::overlay::DialError;
use crate::overlay::socks5::datagram;
use crate::policy::Rule;
use crate::stack::{Duration, Instant};
use crate::worker::dial::Proxy;
use crate::worker::poll::{Readiness, Token};

/// The most associations of a worker that are on their way.
const ASSOCIATING: usize = 128;

/// How long the proxy's own refusal holds, and how long any other failure.
const REFUSED_FOR: Duration = Duration::from_secs(60);
const FAILED_FOR: Duration = Duration::from_secs(2);

/// How many times 512 bytes a proxy may say at once on a connection on which nothing is to be said.
const TALK: usize = 8;

/// How soon after an association has begun another may, where the proxy ends them at once.
const AGAIN: Duration = Duration::from_secs(1);

/// Whom a relay's datagram is from, as the program knows it, and where its data begins.
pub(super) fn source(mapping: &Mapping, bytes: &[u8]) -> Option<(SocketAddr, usize)> {
    let (from, at) = datagram::read(bytes)?;
    let source = match (from, mapping.key.pool, &mapping.name) {
        // Which addresses a name has, only the proxy knows.
        (datagram::From::Address(from), Some(pool), _) => SocketAddr::new(pool, from.port()),
        (datagram::From::Name(name, port), Some(pool), Some(own)) if name == *own => SocketAddr::new(pool, port),
        // An address of the pool is the jail's own word for a name.
        (datagram::From::Address(from), None, _) if !pool::is_ours(from.ip()) => from,
        _ => return None,
    };
    (source.port() != 0).then_some((source, at))
}

/// The leg of a mapping whose association is over.
pub(super) fn lost(now: Instant) -> Leg {
    Leg::None { retry: now + AGAIN }
}

impl Worker {
    /// Whether the proxy may be asked for one more association.
    pub(super) fn may_associate(&self) -> Result<(), Begin> {
        match self.udp.outage {
            Some((until, error)) if self.now < until => Err(Begin::Failed(error)),
            _ if self.udp.associating >= ASSOCIATING => Err(Begin::Limit(Rule::LimitPending)),
            _ => Ok(()),
        }
    }

    /// Asks for one.
    pub(super) fn associate(&mut self, id: MappingId) {
        let deadline = self.now + self.connect_timeout;
        let Some(mapping) = self.udp.mappings.get(id) else { return };
        mapping.leg = Leg::Associating(Box::new(Associating::new(deadline)));
        self.udp.associating += 1;
        self.udp.sweep_by(deadline);
        self.ask(id.to_bits());
    }

    pub(in crate::worker) fn is_associating(&mut self, id: MappingId) -> bool {
        self.udp.mappings.get(id).is_some_and(|mapping| matches!(mapping.leg, Leg::Associating(_)))
    }

    fn associating(&mut self, id: MappingId) -> Option<&mut Associating> {
        match &mut self.udp.mappings.get(id)?.leg {
            Leg::Associating(associating) => Some(associating),
            _ => None,
        }
    }

    /// The warden's connection to the proxy.
    pub(in crate::worker) fn control_dialled(&mut self, id: MappingId, fd: OwnedFd) {
        // One that nobody waits for any more closes here.
        let Some(associating) = self.associating(id) else { return };
        if !matches!(associating.step, Step::Asked) {
            return;
        }
        let _ = setsockopt(&fd, sockopt::TcpNoDelay, &true);
        let _ = setsockopt(&fd, sockopt::KeepAlive, &true);
        let watched = self.poll.add(fd.as_fd(), Token::Association(id));
        if let Some(associating) = self.associating(id) {
            (associating.step, associating.control) = (Step::Connecting, Some(fd));
        }
        if let Err(errno) = watched {
            self.association_failed(id, DialError::Proxy(errno as i32));
        }
    }

    /// The connection that holds an association has something to say.
    pub(in crate::worker) fn association_ready(&mut self, id: MappingId, readiness: Readiness) {
        let Some(mapping) = self.udp.mappings.get(id) else { return };
        match &mut mapping.leg {
            Leg::Associating(associating) => {
                associating.readable |= readiness.readable;
                associating.writable |= readiness.writable;
                associating.ending |= readiness.ending;
                if let Err(error) = self.go_on(id) {
                    self.association_failed(id, error);
                }
            }
            Leg::Associated { control, .. } => {
                // Nothing is to be said on it any more: a proxy that talks on is none.
                let mut bytes = [0; 512];
                for _ in 0..TALK {
                    match recv(control.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                        Ok(1..) | Err(Errno::EINTR) => {}
                        Err(Errno::EAGAIN) => return,
                        Ok(0) | Err(_) => break,
                    }
                }
                self.association_ended(id);
            }
            Leg::None { .. } | Leg::Direct(_) => {}
        }
    }

    /// Goes on with an association as far as that goes now.
    fn go_on(&mut self, id: MappingId) -> Result<(), DialError> {
        let driver = &self.driver;
        let Some(Leg::Associating(associating)) = self.udp.mappings.get(id).map(|mapping| &mut mapping.leg) else {
            return Ok(());
        };
        let Associating { step, control: Some(control), readable, writable, ending, .. } = &mut **associating else {
            return Ok(());
        };
        let fresh = matches!(step, Step::Connecting);
        if fresh {
            if !*writable {
                return Ok(());
            }
            let mut handshake = driver.greeting()?;
            handshake.associate()?;
            *step = Step::Greeting(handshake);
        }
        match step {
            Step::Greeting(handshake) => {
                let fd = control.as_raw_fd();
                let proxy = Proxy { fd, readable, writable, ending: *ending, fresh, unproven: &mut false };
                if proxy.speak(handshake)?.is_none() {
                    return Ok(());
                }
                let relay = handshake.bound().ok_or(DialError::RelayElsewhere)?;
                *step = Step::Relay;
                let told = self.tell(&ToWarden::Relay { id: id.to_bits(), relay });
                if !matches!(told, Ok(true)) {
                    return Err(DialError::Proxy(libc::EAGAIN));
                }
                Ok(())
            }
            // The proxy has ended it before it began.
            Step::Relay if *ending => Err(DialError::Closed),
            Step::Asked | Step::Connecting | Step::Relay => Ok(()),
        }
    }

    /// The warden's socket to the relay: what waits goes out.
    pub(in crate::worker) fn relay_made(&mut self, id: MappingId, relay: OwnedFd) {
        let Some(associating) = self.associating(id) else { return };
        let (Step::Relay, Some(control)) = (&associating.step, associating.control.take()) else { return };
        let waiting = associating.take();
        if let Err(errno) = self.poll.add_readable(relay.as_fd(), Token::Datagrams(id)) {
            return self.association_failed(id, DialError::Proxy(errno as i32));
        }
        self.udp.associating -= 1;
        self.udp.outage = None;
        if let Some(mapping) = self.udp.mappings.get(id) {
            mapping.leg = Leg::Associated { control, relay, cut: Cut::new() };
        }
        for (server, data) in waiting {
            self.send_to_relay(id, server, &data, 0);
        }
        // What the connection said meanwhile is not said again.
        self.association_ready(id, Readiness { readable: true, writable: false, ending: false });
    }

    /// Sends what is not for a socket of our own.
    pub(super) fn send_to_relay(&mut self, id: MappingId, server: SocketAddr, data: &[u8], segment: usize) {
        let Some(mapping) = self.udp.mappings.get(id) else { return };
        if let Leg::None { retry } = mapping.leg {
            let client = mapping.key.client;
            let refused = match self.may_associate() {
                Err(Begin::Failed(error)) => Some(error.refusal()),
                Err(Begin::Limit(rule)) => rule.refusal(),
                Ok(()) if self.now < retry => Some(DialError::Closed.refusal()),
                Ok(()) => None,
            };
            if let Some(refusal) = refused {
                return self.stack.refuse_datagram(client, server, data, refusal, &mut &self.queue);
            }
            self.associate(id);
        }
        for piece in Train::new(data.len(), segment).pieces(data) {
            self.make_room(datagram::LONGEST_HEADER + piece.len());
            let Udp { mappings, io: Some(io), .. } = &mut self.udp else { return };
            let Some(Mapping { leg, peers, .. }) = mappings.get(id) else { return };
            let Some(peer) = peers.get(&server) else { return };
            match leg {
                Leg::Associating(associating) => associating.keep(server, piece),
                Leg::Associated { cut, .. } => {
                    let alone = !cut.takes(peer.header.len() + piece.len());
                    io.sender.push((id, server), &peer.header, piece, 0, alone);
                }
                Leg::None { .. } | Leg::Direct(_) => return,
            }
        }
    }

    /// A relay's socket has failed; on direct that is the error queue's to say.
    pub(super) fn relay_failed(&mut self, id: MappingId) {
        if self.udp.mappings.get(id).is_some_and(|mapping| matches!(mapping.leg, Leg::Associated { .. })) {
            self.association_ended(id);
        }
    }

    /// The proxy has ended an association: the next datagram begins another.
    fn association_ended(&mut self, id: MappingId) {
        let now = self.now;
        if let Some(mapping) = self.udp.mappings.get(id) {
            mapping.leg = lost(now);
        }
    }

    /// There is no association: everybody who waits is told, and the proxy is left alone for a while.
    pub(in crate::worker) fn association_failed(&mut self, id: MappingId, error: DialError) {
        let Some(associating) = self.associating(id) else { return };
        let waiting = associating.take();
        let Some(client) = self.udp.mappings.get(id).map(|mapping| mapping.key.client) else { return };
        for (server, data) in waiting {
            self.stack.refuse_datagram(client, server, &data, error.refusal(), &mut &self.queue);
        }
        let refused = matches!(error, DialError::Reply(_) | DialError::RelayElsewhere);
        self.udp.outage = Some((self.now + if refused { REFUSED_FOR } else { FAILED_FOR }, error));
        if refused {
            // Of no use to anybody but a person who looks: a full channel may lose it.
            let _ = self.tell(&ToWarden::NoDatagrams { error });
        }
        self.end_mapping_with(id, Close::Dial(error), Some(error.refusal()));
    }

    /// Gives associations up whose time is over; when the next one's is.
    pub(super) fn associations_due(&mut self) -> Option<Instant> {
        if self.udp.associating == 0 {
            return None;
        }
        let deadlines = self.udp.mappings.iter().filter_map(|mapping| match &mapping.leg {
            Leg::Associating(associating) => Some((associating.deadline, mapping.id)),
            _ => None,
        });
        let (late, early): (Vec<_>, Vec<_>) = deadlines.partition(|(at, _)| *at <= self.now);
        late.into_iter().for_each(|(_, id)| self.association_failed(id, DialError::TimedOut));
        early.into_iter().map(|(at, _)| at).min()
    }
}
