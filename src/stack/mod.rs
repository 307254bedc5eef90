//! Packets to flows and back: TCP ended in user space, without any input or output of its own.
//!
//! The caller brings packets (each one read of the TUN) and the time; packets go out through a [`Sink`], and what happened
//! waits as [`Event`]s. Nothing here reads a clock, a descriptor or a random number, so two stacks can be joined in memory
//! and a run can be repeated to the instruction.
//!
//! The path of a connection: a SYN is *held* ([`Event::Open`]). Only when the caller says [`Stack::accept`] does a TCP
//! socket exist and the held SYN go into it, so that the SYN-ACK means "the overlay has connected"; [`Stack::refuse`] makes
//! the one packet that gives the program its honest errno. Bytes then wait in two rings that the caller reads and writes in
//! place ([`Stack::drain`], [`Stack::fill`]), told by [`Event::Ready`] when there is something to do. [`Stack::flush`]
//! sends what is due. Each direction closes by itself; a reset passes at once, and discards.
//!
//! - `api`: configuration and events. `packet`, `emit`, `fragments`: IP in and out. `device`: the seam to smoltcp. `train`: what leaves, and segmentation offload.
//! - `commands`: what the caller says of a flow. `incoming`: what a packet does to one.
//! - `flow`: phases and the table. `arena`: the rings' memory. `deadlines`: timers. `udp`: what is not TCP.

mod api;
mod arena;
mod commands;
mod deadlines;
mod device;
mod emit;
mod flow;
mod fragments;
mod incoming;
mod packet;
#[cfg(test)]
mod tests;
mod train;
pub mod udp;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config as InterfaceConfig, Interface};
use smoltcp::socket::tcp::State;
use smoltcp::wire::HardwareAddress;

pub use api::{Closed, Config, Counts, Drained, Event, Limit};
pub use arena::NoMemory;
pub use device::Sink;
pub use flow::FlowId;
/// Time, in microseconds from any beginning that the caller likes.
pub use smoltcp::time::{Duration, Instant};
pub use udp::{Datagram, Datagrams};

use crate::flow::Refusal;
use arena::Rings;
use deadlines::Deadlines;
use device::{Port, Wire};
use flow::{Flow, Held, Live, Phase, Table};
use fragments::Fragments;
use packet::Parsed;
use train::{Long, Train, Way};
use udp::Taken;

/// How many packets one flow sends before the next one's turn.
const BURST: usize = 64;

/// How often a client whose dial is under way is looked at, and how many may be looked at so often.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOKED_AT_OFTEN: u32 = 64;

/// How long a bare acknowledgement of at most so many bytes waits for an answer that it can ride on: a quarter of what a
/// round trip costs this side is that packet. Short enough for a client that holds a second small write back until the first
/// one is acknowledged (Nagle), and nothing for one that sends more than small requests.
const HOLD: Duration = Duration::from_millis(1);
const HOLD_MOST: usize = 2048;

/// The least time to a flow's next look when smoltcp says "now" but has nothing to send.
const FLOOR: Duration = Duration::from_millis(10);

/// How many warm rings are cleaned in one go, and the pause between two goes.
const TRIM: usize = 256;
const TRIM_PAUSE: Duration = Duration::from_millis(20);

/// See the module's text.
pub struct Stack {
    config: Config,
    interface: Interface,
    // Before the rings: a socket holds slices of them.
    table: Table,
    rings: Rings,
    /// Flows that use all of their transmit ring.
    grown: usize,
    deadlines: Deadlines,
    fragments: Fragments,
    events: VecDeque<Event>,
    egress: Vec<FlowId>,
    egress_spare: Vec<FlowId>,
    trim_at: Option<Instant>,
    train: Train,
    reply: Vec<u8>,
    dropped: u64,
}

impl Stack {
    /// A stack without flows.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut train = Train::new(config.longest);
        let mut nowhere = |_: &[u8]| {};
        let way = Way { sink: &mut nowhere, segment: 0, long: &mut Long::default() };
        let mut wire = Wire { incoming: None, train: &mut train, way };
        let mut settings = InterfaceConfig::new(HardwareAddress::Ip);
        settings.random_seed = config.seed[2];
        let mut interface = Interface::new(settings, &mut wire, now);
        interface.set_any_ip(true);
        Self {
            interface,
            table: Table::new([config.seed[0], config.seed[1]]),
            rings: Rings::new(config.receive, config.transmit),
            grown: 0,
            deadlines: Deadlines::default(),
            fragments: Fragments::default(),
            events: VecDeque::new(),
            egress: Vec::new(),
            egress_spare: Vec::new(),
            trim_at: None,
            train,
            reply: Vec::with_capacity(2048),
            dropped: 0,
            config,
        }
    }

    /// Takes one read of the TUN: a virtio-net header and a packet. A datagram that is the caller's to carry is returned
    /// ([`Datagrams::carried`]).
    pub fn receive(&mut self, now: Instant, frame: &[u8], sink: &mut dyn Sink) -> Option<Datagram> {
        let taken = match packet::parse(frame) {
            Some(Parsed::Packet(packet)) => self.packet(now, &packet, sink),
            Some(Parsed::Fragment(piece)) => match self.fragments.add(now, &piece) {
                Some(whole) => self.reassembled(now, &whole, sink),
                None => Taken::Told,
            },
            None => Taken::Dropped,
        };
        match taken {
            Taken::Carried(datagram) => return Some(datagram),
            Taken::Dropped => self.dropped += 1,
            Taken::Told | Taken::Refused(_) => {}
        }
        None
    }

    /// A packet that came in pieces.
    fn reassembled(&mut self, now: Instant, whole: &[u8], sink: &mut dyn Sink) -> Taken {
        let frame = [&[0; crate::tun::VNET_HEADER][..], whole].concat();
        let Some(Parsed::Packet(packet)) = packet::parse(&frame) else { return Taken::Dropped };
        let mut taken = self.packet(now, &packet, sink);
        if let Taken::Carried(datagram) = &mut taken {
            datagram.keep(frame);
        }
        taken
    }

    /// The oldest event that was not taken yet. To be emptied after each batch of packets.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Ready { flow } = &event {
            match self.table.get_mut(*flow) {
                Some(flow) => flow.ready_queued = false,
                None => return self.next_event(),
            }
        }
        Some(event)
    }

    /// Ends every flow with a reset, or a refusal.
    pub fn shutdown(&mut self, now: Instant, sink: &mut dyn Sink) {
        for id in self.table.ids() {
            self.abort(now, id, sink);
        }
    }

    /// Sends a datagram from `server`, as the answer to a [`Event::Query`].
    pub fn answer(&mut self, client: SocketAddr, server: SocketAddr, data: &[u8], sink: &mut dyn Sink) {
        if emit::datagram(&mut self.reply, server, client, data) {
            sink.send(&self.reply);
        }
    }

    /// Sends what the flows that something happened to have to send. To be called after each batch.
    pub fn flush(&mut self, now: Instant, sink: &mut dyn Sink) {
        let mut turn = std::mem::replace(&mut self.egress, std::mem::take(&mut self.egress_spare));
        for id in turn.drain(..) {
            let Some(flow) = self.table.get_mut(id) else { continue };
            flow.egress_queued = false;
            match flow.may_hold(now, HOLD, HOLD_MOST) {
                Some(until) => self.deadlines.set(id, until, &mut flow.registered),
                None => self.send(now, id, sink),
            }
        }
        self.egress_spare = turn;
    }

    /// Whether [`Stack::flush`] has work left.
    pub fn is_flushed(&self) -> bool {
        self.egress.is_empty()
    }

    /// When [`Stack::expire`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (self.deadlines.next(), self.trim_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does what has become due.
    pub fn expire(&mut self, now: Instant, sink: &mut dyn Sink) {
        let look_again = LOOK_AGAIN * (1 + self.table.pending() as u32 / LOOKED_AT_OFTEN);
        while let Some((at, id)) = self.deadlines.due(now) {
            let Some(flow) = self.table.get_mut(id) else { continue };
            if flow.registered != Some(at) {
                continue;
            }
            flow.registered = None;
            match &flow.phase {
                Phase::Pending(held) => {
                    let ends = held.patience_ends();
                    if now >= ends {
                        self.table.remove(id);
                        self.events.push_back(Event::DialAbandoned { flow: id });
                    } else {
                        emit::still_there(&mut self.reply, flow.client.ip(), flow.server.ip(), &held.tcp);
                        sink.send(&self.reply);
                        let next = ends.min(now + look_again);
                        self.deadlines.set(id, next, &mut flow.registered);
                    }
                }
                Phase::Live(live) if live.is_half_closed() && now >= live.progress + self.config.half_close => {
                    self.abort(now, id, sink);
                    self.events.push_back(Event::Closed { flow: id, reason: Closed::HalfCloseLimit });
                }
                Phase::Live(live) => {
                    if live.touched && live.is_empty() && !live.hole && now >= live.progress + self.config.idle {
                        self.rings.clean(live.rings);
                        if let Some(live) = self.table.live(id) {
                            live.touched = false;
                            self.grown -= usize::from(live.room.rest());
                        }
                    }
                    self.send(now, id, sink);
                }
            }
        }
        if self.trim_at.is_some_and(|at| now >= at) {
            self.trim_at = if self.rings.trim(TRIM) { Some(now + TRIM_PAUSE) } else { None };
        }
        let table = &self.table;
        self.deadlines.tidy(table.len(), |id, at| table.get(id).is_some_and(|flow| flow.registered == Some(at)));
    }

    /// After a burst of flows: shrinks what grew with them. (Rings go back by themselves.)
    pub fn give_back(&mut self) {
        self.table.shrink();
        let table = &self.table;
        self.deadlines.shrink(|id, at| table.get(id).is_some_and(|flow| flow.registered == Some(at)));
        self.events.shrink_to_fit();
        self.egress.shrink_to_fit();
        self.egress_spare.shrink_to_fit();
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        let pending = self.table.pending();
        Counts { pending, live: self.table.len() - pending, dropped: self.dropped }
    }

    /// Sends what a live flow has to send, sees whether it has ended, and sets its next deadline.
    fn send(&mut self, now: Instant, id: FlowId, sink: &mut dyn Sink) {
        let Some(Flow { phase: Phase::Live(live), registered, .. }) = self.table.get_mut(id) else { return };
        (live.unanswered, live.held_until) = (0, None);
        let established = !matches!(live.state(), State::SynReceived);
        if established {
            if !live.early.is_empty() {
                let early = std::mem::take(&mut live.early);
                let sent = live.socket().send_slice(&early).unwrap_or(early.len());
                live.early = early[sent..].to_vec();
            }
            if live.finishing && live.early.is_empty() {
                live.socket().close();
            }
        }
        let packets = live.speak(now, BURST, Port { interface: &mut self.interface, train: &mut self.train, sink });
        let over = match live.state() {
            State::TimeWait => true,
            State::Closed if !live.orderly && packets < BURST => return self.end(now, id, Closed::ClientGone),
            State::Closed => true,
            _ => false,
        };
        if over && live.drained && live.socket_ref().recv_queue() == 0 {
            return self.end(now, id, Closed::Finished);
        }
        let mut next = self.interface.poll_at(now, &live.sockets).map(|at| if at > now { at } else { now + FLOOR });
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if live.is_half_closed() || over {
            sooner((live.progress + self.config.half_close).max(now + FLOOR));
        }
        if live.touched && live.is_empty() && !live.hole {
            sooner((live.progress + self.config.idle).max(now + FLOOR));
        }
        if let Some(next) = next {
            self.deadlines.set(id, next, registered);
        }
        if packets == BURST {
            self.queue_egress(id);
        }
    }

    /// A flow that ended by itself.
    fn end(&mut self, now: Instant, id: FlowId, reason: Closed) {
        self.release(now, id);
        self.events.push_back(Event::Closed { flow: id, reason });
    }

    /// Forgets a flow and takes its rings back.
    fn release(&mut self, now: Instant, id: FlowId) {
        let Some(flow) = self.table.remove(id) else { return };
        if let Phase::Live(Live { sockets, rings, touched, mut room, .. }) = flow.phase {
            drop(sockets);
            self.grown -= usize::from(room.rest());
            self.rings.give_back(rings, touched);
            if self.trim_at.is_none() && self.rings.is_warm() {
                self.trim_at = Some(now + self.config.idle);
            }
        }
    }

    fn refuse_held(&mut self, id: FlowId, held: &Held, refusal: Refusal, sink: &mut dyn Sink) {
        if let Some(flow) = self.table.get(id) {
            write_refusal(&mut self.reply, flow.client.ip(), flow.server.ip(), held, refusal);
            sink.send(&self.reply);
        }
    }

    fn queue_ready(&mut self, id: FlowId) {
        if let Some(flow) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.ready_queued, true)
        {
            self.events.push_back(Event::Ready { flow: id });
        }
    }

    fn queue_egress(&mut self, id: FlowId) {
        if let Some(flow) = self.table.get_mut(id)
            && !std::mem::replace(&mut flow.egress_queued, true)
        {
            self.egress.push(id);
        }
    }
}

/// The one packet that answers a SYN with no: a reset, or an ICMP error that quotes it.
fn write_refusal(reply: &mut Vec<u8>, client: IpAddr, server: IpAddr, held: &Held, refusal: Refusal) {
    match refusal {
        Refusal::Refused => emit::reset(reply, client, server, &held.tcp),
        _ => emit::unreachable(reply, client, server, &held.headers, refusal),
    }
}
