//! A flow's life, and the table that finds it.
//!
//! | phase | entered by | holds | leaves to |
//! |---|---|---|---|
//! | pending | a SYN | the SYN's headers | live (`accept`), gone (`refuse`, the client's RST, no more SYNs) |
//! | live | `accept` | a TCP socket and two rings | gone (both directions finished, a reset, a limit) |
//!
//! A flow is found by its addresses through a keyed hash, so that no client can aim at one bucket. Each live flow has a
//! socket set of its own: smoltcp looks at every socket of a set for each packet.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};

use super::arena::Pair;
use super::device::{LONGEST, Port, Wire};
use super::emit;
use super::packet::{self, IPV4_HEADER, IPV6_HEADER, Packet, Tcp};
use super::train::{Long, Way};

/// Names a flow for as long as it lives; a later flow in the same place has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    slot: u32,
    generation: u32,
}

impl FlowId {
    /// A small number that no other live flow has: an index for a caller's own table.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// The whole name as one word, as `epoll_event.data` wants it.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The inverse of [`FlowId::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// The addresses of a flow, as words: a v4 address is its v4-mapped form, and the family stands beside the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    client: u128,
    server: u128,
    ports: u64,
}

impl Key {
    pub fn new(client: IpAddr, server: IpAddr, tcp: &Tcp) -> Self {
        let word = |address| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let family = u64::from(client.is_ipv6()) << 32;
        let ports = u64::from(tcp.source_port) << 16 | u64::from(tcp.destination_port) | family;
        Self { client: word(client), server: word(server), ports }
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in
            [self.client as u64, (self.client >> 64) as u64, self.server as u64, (self.server >> 64) as u64, self.ports]
        {
            state.write_u64(word);
        }
    }
}

/// A hash by folded multiplication under a secret of 128 bits: fast on five words, and without the secret nobody can choose
/// addresses that collide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed([u64; 2]);

pub(super) struct Folding {
    secret: u64,
    state: u64,
}

fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl BuildHasher for Keyed {
    type Hasher = Folding;
    fn build_hasher(&self) -> Folding {
        Folding { secret: self.0[0] | 1, state: self.0[1] }
    }
}

impl Hasher for Folding {
    fn write_u64(&mut self, word: u64) {
        self.state = folded(self.state ^ word, self.secret).wrapping_add(self.secret);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        folded(self.state, self.secret.rotate_left(32))
    }
}

/// A SYN that nobody has answered.
#[derive(Debug)]
pub(super) struct Held {
    /// Its IP and TCP headers, as the client sent them but for IP options; the MSS option too is the client's.
    pub headers: Box<[u8]>,
    pub tcp: Tcp,
    seen: Instant,
    gap: Duration,
}

/// Without a second SYN in this time the client has given up: five times the first gap of every known kernel (1 s), so that
/// a lost one does not count.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

impl Held {
    pub fn new(now: Instant, packet: &Packet<'_>, tcp: &Tcp) -> Self {
        let header = &packet.payload()[..tcp.header];
        Self {
            headers: emit::plain(packet.source, packet.destination, packet::TCP, header).into_boxed_slice(),
            tcp: *tcp,
            seen: now,
            gap: Duration::ZERO,
        }
    }

    /// Takes a retransmission's place.
    pub fn again(&mut self, now: Instant, packet: &Packet<'_>, tcp: &Tcp) {
        let gap = now - self.seen;
        *self = Self { gap, ..Self::new(now, packet, tcp) };
    }

    /// When the client must have given up, should it not say so when it is [asked](emit::still_there): a kernel at most doubles
    /// the gap between two SYNs, and one may be lost.
    pub fn patience_ends(&self) -> Instant {
        self.seen + FIRST_PATIENCE.max(self.gap * 4 + Duration::from_secs(2))
    }

    /// The packet to give to the socket, the client's true segment size, and the size of a full packet. The MSS option is overwritten so that smoltcp
    /// fills packets of up to 64 KiB, in whole segments, which the kernel cuts again: see [`super::device`].
    pub fn for_socket(&self) -> (Vec<u8>, u16, usize) {
        let mut packet = self.headers.to_vec();
        let ip = if packet[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER };
        let longest = LONGEST - ip - 20;
        match packet::maximum_segment(&packet[ip..]) {
            Some((at, segment)) if segment > 0 => {
                // smoltcp's own floor; a smaller segment would carry next to nothing.
                let segment = usize::from(segment).clamp(48, longest);
                let whole = longest / segment * segment;
                packet[ip + at..ip + at + 2].copy_from_slice(&(whole as u16).to_be_bytes());
                (packet, segment as u16, whole)
            }
            _ => (packet, u16::MAX, 1),
        }
    }
}

/// How much of the transmit ring is used: at first as much as the receive ring has, so that a client that never reads costs no
/// more than a server that never does; all of it once the client has taken so many bytes. Whole packets always, so that no
/// small one follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    now: usize,
    first: usize,
    all: usize,
    /// Bytes that were put into the ring since there was nothing in it for a while.
    given: usize,
}

impl Room {
    /// For rings of so many bytes, and packets of so many.
    pub fn new(receive: usize, transmit: usize, packet: usize) -> Self {
        let whole = |ring: usize| (ring / packet * packet).max(ring / 2);
        let all = whole(transmit);
        let first = whole(receive).min(all);
        Self { now: first, first, all, given: 0 }
    }

    /// Bytes that may be put behind those that are there.
    pub fn free(&self, queued: usize) -> usize {
        self.now.saturating_sub(queued)
    }

    /// Whether there is room for so many that they are worth a system call and a packet.
    pub fn is_worth_filling(&self, queued: usize) -> bool {
        queued == 0 || self.free(queued) >= self.now / 4
    }

    /// Bytes were put into the ring. True if all of it is used from now on.
    pub fn given(&mut self, count: usize, queued: usize) -> bool {
        self.given = self.given.saturating_add(count);
        let grows = self.now < self.all && self.given.saturating_sub(queued) >= self.all;
        if grows {
            self.now = self.all;
        }
        grows
    }

    /// The flow rests. True if all of the ring was used.
    pub fn rest(&mut self) -> bool {
        self.given = 0;
        std::mem::replace(&mut self.now, self.first) > self.first
    }
}

/// A flow with a TCP socket.
pub(super) struct Live {
    pub sockets: SocketSet<'static>,
    pub handle: SocketHandle,
    pub rings: Pair,
    /// The client's true segment size.
    pub segment: u16,
    pub long: Long,
    pub room: Room,
    /// Whether a ring may hold pages.
    pub touched: bool,
    /// Whether the receive ring may hold bytes behind a hole, which its length does not show.
    pub hole: bool,
    /// Whether the caller has seen the client's FIN behind its last byte.
    pub drained: bool,
    /// Whether the caller wants a FIN behind the last byte to the client.
    pub finishing: bool,
    /// Whether both FINs were acknowledged, so that a closed socket is no failure.
    pub orderly: bool,
    /// Bytes for the client that came before its handshake was complete.
    pub early: Vec<u8>,
    /// When a byte last moved, or a direction closed.
    pub progress: Instant,
    /// Bytes, and a FIN, that came since this side last had a chance to acknowledge them.
    pub unanswered: usize,
    /// When they are acknowledged even if there is nothing else to say.
    pub held_until: Option<Instant>,
}

impl Live {
    pub fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub fn socket_ref(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// Gives a packet to the socket, and sends what it answers at once.
    pub fn hear(&mut self, now: Instant, packet: &[u8], port: Port<'_>) {
        let way = Way { sink: port.sink, segment: self.segment, long: &mut self.long };
        let mut wire = Wire { incoming: Some(packet), train: port.train, way };
        port.interface.poll_ingress_single(now, &mut wire, &mut self.sockets);
        wire.train.depart(&mut wire.way);
    }

    /// Lets the socket send at most so many packets; how many it had.
    pub fn speak(&mut self, now: Instant, most: usize, port: Port<'_>) -> usize {
        let way = Way { sink: port.sink, segment: self.segment, long: &mut self.long };
        let mut wire = Wire { incoming: None, train: port.train, way };
        let mut packets = 0;
        while packets < most
            && port.interface.poll_egress(now, &mut wire, &mut self.sockets) == PollResult::SocketStateChanged
        {
            packets += 1;
        }
        wire.train.depart(&mut wire.way);
        packets
    }

    pub fn state(&self) -> tcp::State {
        self.socket_ref().state()
    }

    pub fn is_empty(&self) -> bool {
        let socket = self.socket_ref();
        socket.send_queue() == 0 && socket.recv_queue() == 0 && self.early.is_empty()
    }

    /// Whether one direction is closed and the other is not, or waits for its last acknowledgement.
    pub fn is_half_closed(&self) -> bool {
        use tcp::State::{CloseWait, Closing, FinWait1, FinWait2, LastAck};
        matches!(self.state(), CloseWait | FinWait1 | FinWait2 | LastAck | Closing)
    }
}

impl Flow {
    /// Until when the acknowledgement of a small request, or of the client's FIN, may wait for the answer, where there is
    /// nothing else to send.
    pub fn may_hold(&mut self, now: Instant, hold: Duration, most: usize) -> Option<Instant> {
        let Phase::Live(live) = &mut self.phase else { return None };
        let small = live.unanswered > 0 && live.unanswered <= most;
        let open = matches!(live.state(), tcp::State::Established | tcp::State::CloseWait);
        let quiet = live.is_empty() && !live.finishing && !live.hole && open;
        let until = live.held_until.unwrap_or(now + hold);
        if !small || !quiet || until <= now {
            return None;
        }
        live.held_until = Some(until);
        Some(until)
    }
}

pub(super) enum Phase {
    Pending(Held),
    Live(Live),
}

pub(super) struct Flow {
    pub key: Key,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub phase: Phase,
    /// What the heap of deadlines holds for this flow.
    pub registered: Option<Instant>,
    pub ready_queued: bool,
    pub egress_queued: bool,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    flow: Option<Box<Flow>>,
}

/// All flows, by name and by address.
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashMap<Key, FlowId, Keyed>,
    pending: usize,
}

impl Table {
    pub fn new(seed: [u64; 2]) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: HashMap::with_hasher(Keyed(seed)), pending: 0 }
    }

    /// Pending and live flows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn pending(&self) -> usize {
        self.pending
    }

    pub fn find(&self, key: &Key) -> Option<FlowId> {
        self.index.get(key).copied()
    }

    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slots.get(id.slot())?;
        if slot.generation == id.generation { slot.flow.as_deref() } else { None }
    }

    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation == id.generation { slot.flow.as_deref_mut() } else { None }
    }

    pub fn live(&mut self, id: FlowId) -> Option<&mut Live> {
        match &mut self.get_mut(id)?.phase {
            Phase::Live(live) => Some(live),
            Phase::Pending(_) => None,
        }
    }

    pub fn insert(&mut self, flow: Flow) -> FlowId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let id = FlowId { slot, generation: self.slots[slot as usize].generation };
        self.pending += usize::from(matches!(flow.phase, Phase::Pending(_)));
        self.index.insert(flow.key, id);
        self.slots[slot as usize].flow = Some(Box::new(flow));
        id
    }

    /// Makes a pending flow live; the SYN is returned. Does nothing to any other.
    pub fn promote(&mut self, id: FlowId, live: Live) -> Option<Held> {
        let flow = self.get_mut(id)?;
        match std::mem::replace(&mut flow.phase, Phase::Live(live)) {
            Phase::Pending(held) => {
                self.pending -= 1;
                Some(held)
            }
            Phase::Live(_) => None,
        }
    }

    pub fn remove(&mut self, id: FlowId) -> Option<Box<Flow>> {
        self.get(id)?;
        let slot = &mut self.slots[id.slot()];
        slot.generation = slot.generation.wrapping_add(1);
        let flow = slot.flow.take()?;
        self.index.remove(&flow.key);
        self.pending -= usize::from(matches!(flow.phase, Phase::Pending(_)));
        self.free.push(id.slot);
        Some(flow)
    }

    /// Every flow's name.
    pub fn ids(&self) -> Vec<FlowId> {
        self.index.values().copied().collect()
    }

    /// Gives back what a burst of flows needed. The slots stay: each remembers its generation, in 16 bytes.
    pub fn shrink(&mut self) {
        self.index.shrink_to_fit();
        self.free.shrink_to_fit();
    }
}
