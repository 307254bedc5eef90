//! What the caller says of one flow: it is accepted or refused, its bytes are taken and given, it ends.

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};

use super::device::Port;
use super::flow::{Flow, Live, Phase, Room};
use super::train::Long;
use super::{Closed, Drained, Duration, FlowId, Instant, NoMemory, Sink, Stack, write_refusal};
use crate::flow::Refusal;

/// How many flows may use all of their transmit ring. With more at once none needs it, for there is always one to go on with.
pub(super) const GROWN: usize = 64;

impl Stack {
    /// Answers a held SYN: the overlay has connected. `early` are bytes that the server sent already.
    pub fn accept(&mut self, now: Instant, id: FlowId, early: &[u8], sink: &mut dyn Sink) -> Result<(), NoMemory> {
        let Some(Flow { phase: Phase::Pending(held), server, .. }) = self.table.get(id) else { return Ok(()) };
        let (syn, segment, whole) = held.for_socket();
        let server = *server;
        let rings = self.rings.take()?;
        // SAFETY: the pair was just taken, so these are its only slices. They live in the socket, which is dropped in `release`
        // before the pair is given back, and with `table` before `rings` when the stack is dropped.
        let (receive, transmit) = unsafe { self.rings.bytes(rings) };
        let room = Room::new(receive.len(), transmit.len(), whole);
        let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(transmit));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(self.config.keep_alive));
        socket.set_timeout(Some(self.config.keep_alive * 2 + Duration::from_secs(60)));
        let listening = socket.listen(smoltcp::wire::IpListenEndpoint::from(server));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let live = Live {
            sockets,
            handle,
            rings,
            segment,
            long: Long::default(),
            room,
            touched: !early.is_empty(),
            hole: false,
            drained: false,
            finishing: false,
            orderly: false,
            early: early.to_vec(),
            progress: now,
            unanswered: 0,
            held_until: None,
        };
        let held = self.table.promote(id, live);
        if let Some(live) = self.table.live(id) {
            live.hear(now, &syn, Port { interface: &mut self.interface, train: &mut self.train, sink });
            if listening.is_err() || live.state() != State::SynReceived {
                // A port or an address that no socket can have; such a SYN was never sent by a kernel.
                if let Some(held) = held {
                    self.refuse_held(id, &held, Refusal::Refused, sink);
                }
                self.end(now, id, Closed::ClientGone);
                return Ok(());
            }
        }
        self.send(now, id, sink);
        Ok(())
    }

    /// Answers a held SYN with a refusal; the flow is gone.
    pub fn refuse(&mut self, id: FlowId, refusal: Refusal, sink: &mut dyn Sink) {
        if !matches!(self.table.get(id), Some(Flow { phase: Phase::Pending(_), .. })) {
            return;
        }
        if let Some(flow) = self.table.remove(id)
            && let Phase::Pending(held) = &flow.phase
        {
            write_refusal(&mut self.reply, flow.client.ip(), flow.server.ip(), held, refusal);
            sink.send(&self.reply);
        }
    }

    /// Shows the bytes that the client sent to `take`, which says how many of them are done with. The slice ends where the
    /// ring wraps: call again while something was taken.
    pub fn drain(&mut self, now: Instant, id: FlowId, take: impl FnOnce(&[u8]) -> usize) -> Drained {
        let Some(live) = self.table.live(id) else { return Drained::Gone };
        let outcome = live.socket().recv(|bytes| {
            if bytes.is_empty() {
                return (0, Drained::Empty);
            }
            let offered = bytes.len();
            let taken = take(bytes).min(offered);
            (taken, Drained::Some { offered, taken })
        });
        match outcome {
            Ok(Drained::Some { offered, taken }) => {
                if taken > 0 {
                    live.progress = now;
                    self.queue_egress(id);
                }
                Drained::Some { offered, taken }
            }
            Ok(other) => other,
            Err(RecvError::Finished) => {
                if !live.drained {
                    live.drained = true;
                    live.progress = now;
                    self.queue_egress(id);
                }
                Drained::Finished
            }
            Err(RecvError::InvalidState) => Drained::Empty,
        }
    }

    /// Whether [`Stack::fill`] is worth a call: the transmit ring is empty, or a quarter of it is free. Smaller pieces would
    /// cost a system call and a packet each.
    pub fn wants_fill(&mut self, id: FlowId) -> bool {
        let Some(live) = self.table.live(id) else { return false };
        if live.finishing || !live.early.is_empty() {
            return false;
        }
        let socket = live.socket_ref();
        socket.may_send() && live.room.is_worth_filling(socket.send_queue())
    }

    /// Offers `write` the free part of the transmit ring, up to where it wraps; it says how many bytes it put there.
    pub fn fill(&mut self, now: Instant, id: FlowId, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some(live) = self.table.live(id) else { return 0 };
        let free = live.room.free(live.socket_ref().send_queue());
        let written = live.socket().send(|room| {
            let most = room.len().min(free);
            let room = &mut room[..most];
            let written = if room.is_empty() { 0 } else { write(room).min(room.len()) };
            (written, written)
        });
        let written = written.unwrap_or(0);
        if written > 0 {
            live.progress = now;
            live.touched = true;
            let queued = live.socket_ref().send_queue();
            self.grown += usize::from(self.grown < GROWN && live.room.given(written, queued));
            self.queue_egress(id);
        }
        written
    }

    /// Says that no more bytes will come for the client: a FIN follows the last one.
    pub fn finish(&mut self, now: Instant, id: FlowId) {
        if let Some(live) = self.table.live(id) {
            live.finishing = true;
            live.progress = now;
            self.queue_egress(id);
        }
    }

    /// Ends a flow at once: the client sees a reset. A pending one is refused.
    pub fn abort(&mut self, now: Instant, id: FlowId, sink: &mut dyn Sink) {
        if let Some(live) = self.table.live(id) {
            live.socket().abort();
            live.speak(now, 1, Port { interface: &mut self.interface, train: &mut self.train, sink });
            self.release(now, id);
        } else {
            self.refuse(id, Refusal::Refused, sink);
        }
    }
}
