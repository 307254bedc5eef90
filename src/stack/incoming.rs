//! What a packet of the jail's does: to the flow that it belongs to, or to none.

use std::net::SocketAddr;

use smoltcp::socket::tcp::State;

use super::device::Port;
use super::flow::{Flow, Held, Key, Phase};
use super::packet::{self, Packet, Tcp};
use super::udp::{self, Taken};
use super::{Closed, Event, FlowId, Instant, LOOK_AGAIN, Limit, Sink, Stack, emit, write_refusal};
use crate::flow::Refusal;

impl Stack {
    /// One whole packet.
    pub(super) fn packet(&mut self, now: Instant, packet: &Packet<'_>, sink: &mut dyn Sink) -> Taken {
        if !packet.intact() {
            return Taken::Dropped;
        }
        if packet.protocol == packet::TCP {
            return self.segment(now, packet, sink).map_or(Taken::Dropped, |()| Taken::Told);
        }
        let taken = udp::receive(&self.config.datagrams, packet, &mut self.events);
        if let Taken::Refused(refusal) = taken {
            let quoted = emit::quotable(packet);
            emit::unreachable(&mut self.reply, packet.source, packet.destination, &quoted, refusal);
            sink.send(&self.reply);
        }
        taken
    }

    /// One TCP segment.
    fn segment(&mut self, now: Instant, packet: &Packet<'_>, sink: &mut dyn Sink) -> Option<()> {
        let tcp = packet::tcp(packet.payload())?;
        let key = Key::new(packet.source, packet.destination, &tcp);
        let opens = tcp.syn && !tcp.ack && !tcp.rst;
        let Some(id) = self.table.find(&key) else {
            if opens {
                self.open(now, key, packet, &tcp, sink);
            } else if !tcp.rst {
                emit::reset(&mut self.reply, packet.source, packet.destination, &tcp);
                sink.send(&self.reply);
            }
            return Some(());
        };
        let flow = self.table.get_mut(id)?;
        match &mut flow.phase {
            Phase::Pending(_) if tcp.rst => {
                self.table.remove(id);
                self.events.push_back(Event::DialAbandoned { flow: id });
            }
            Phase::Pending(held) if opens => held.again(now, packet, &tcp),
            Phase::Pending(_) => {}
            Phase::Live(_) => self.feed(now, id, packet, &tcp, sink),
        }
        Some(())
    }

    /// A SYN of a new flow.
    fn open(&mut self, now: Instant, key: Key, packet: &Packet<'_>, tcp: &Tcp, sink: &mut dyn Sink) {
        let client = SocketAddr::new(packet.source, tcp.source_port);
        let server = SocketAddr::new(packet.destination, tcp.destination_port);
        let held = Held::new(now, packet, tcp);
        let limit = if self.table.len() >= self.config.flows {
            Some(Limit::Flows)
        } else if self.table.pending() >= self.config.pending {
            Some(Limit::Pending)
        } else {
            None
        };
        if let Some(limit) = limit {
            write_refusal(&mut self.reply, client.ip(), server.ip(), &held, Limit::REFUSAL);
            sink.send(&self.reply);
            self.events.push_back(Event::Limited { client, server, limit });
            return;
        }
        if client.port() == 0 || server.port() == 0 {
            write_refusal(&mut self.reply, client.ip(), server.ip(), &held, Refusal::Refused);
            sink.send(&self.reply);
            return;
        }
        let ends = held.patience_ends().min(now + LOOK_AGAIN);
        let phase = Phase::Pending(held);
        let flow = Flow { key, client, server, phase, registered: None, ready_queued: false, egress_queued: false };
        let id = self.table.insert(flow);
        if let Some(flow) = self.table.get_mut(id) {
            self.deadlines.set(id, ends, &mut flow.registered);
        }
        self.events.push_back(Event::Open { flow: id, client, server });
    }

    /// A segment of a live flow.
    fn feed(&mut self, now: Instant, id: FlowId, packet: &Packet<'_>, tcp: &Tcp, sink: &mut dyn Sink) {
        let Some(live) = self.table.live(id) else { return };
        let rebuilt;
        // smoltcp knows IPv4 options, and is spared IPv6 extension headers.
        let bytes = if packet.source.is_ipv6() && packet.transport != packet::IPV6_HEADER {
            rebuilt = emit::plain(packet.source, packet.destination, packet::TCP, packet.payload());
            &rebuilt
        } else {
            packet.bytes
        };
        let (before, queued) = (live.state(), live.socket_ref().recv_queue());
        live.hear(now, bytes, Port { interface: &mut self.interface, train: &mut self.train, sink });
        let after = live.state();
        live.unanswered += tcp.length as usize;
        if tcp.data > 0 {
            live.touched = true;
            live.progress = now;
            live.hole |= live.socket_ref().recv_queue() < queued + tcp.data;
        }
        match (before, after) {
            (_, State::Listen) => return self.end(now, id, Closed::ClientReset),
            (_, State::Closed) if tcp.rst => return self.end(now, id, Closed::ClientReset),
            (State::LastAck, State::Closed) => live.orderly = true,
            _ if before != after => live.progress = now,
            _ => {}
        }
        self.queue_ready(id);
        self.queue_egress(id);
    }
}
