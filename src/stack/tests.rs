//! The stack against another stack, joined in memory: no kernel, no clock, no threads.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use smoltcp::iface::SocketSet;
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{self, Socket, SocketBuffer};
use smoltcp::wire::{IpCidr, IpEndpoint};

use super::packet::{GSO_TCP4, GSO_TCP6, ICMP, ICMP6, NEEDS_CHECKSUM, TCP, UDP, add, fold, pseudo};
use super::*;
use crate::tun::VNET_HEADER;

const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

fn pair(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (CLIENT6, SERVER6) } else { (CLIENT4, SERVER4) }
}

/// The jail's kernel: cuts super-segments, completes checksums, and hands packets to a client made of smoltcp.
struct Kernel {
    to_client: VecDeque<Vec<u8>>,
    to_stack: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Kernel {
    fn deliver(&mut self, frame: &[u8]) {
        let (header, packet) = frame.split_at(VNET_HEADER);
        let v4 = packet[0] >> 4 == 4;
        let ip = if v4 { 20 } else { 40 };
        let gso = usize::from(u16::from_ne_bytes([header[4], header[5]]));
        if header[0] & NEEDS_CHECKSUM == 0 {
            assert_eq!(gso, 0);
            self.to_client.push_back(packet.to_vec());
            return;
        }
        let (start, offset) = (u16::from_ne_bytes([header[6], header[7]]), u16::from_ne_bytes([header[8], header[9]]));
        assert_eq!((usize::from(start), offset), (ip, 16));
        let headers = ip + usize::from(packet[ip + 12] >> 4) * 4;
        let pieces: Vec<&[u8]> = if gso == 0 {
            assert!(packet.len() <= self.mtu, "{} bytes without segmentation at MTU {}", packet.len(), self.mtu);
            vec![&packet[headers..]]
        } else {
            assert_eq!(header[1], if v4 { GSO_TCP4 } else { GSO_TCP6 });
            assert_eq!(usize::from(u16::from_ne_bytes([header[2], header[3]])), headers);
            assert!(packet.len() > headers + gso && headers + gso <= self.mtu);
            packet[headers..].chunks(gso).collect()
        };
        let mut sequence = u32::from_be_bytes(packet[ip + 4..ip + 8].try_into().unwrap());
        let last = pieces.len() - 1;
        for (i, data) in pieces.into_iter().enumerate() {
            let mut piece = [&packet[..headers], data].concat();
            piece[ip + 4..ip + 8].copy_from_slice(&sequence.to_be_bytes());
            if i < last {
                piece[ip + 13] &= !(1 | 8);
            }
            let length = if v4 { piece.len() } else { piece.len() - 40 } as u16;
            let at = if v4 { 2 } else { 4 };
            piece[at..at + 2].copy_from_slice(&length.to_be_bytes());
            if v4 {
                piece[10..12].fill(0);
                let sum = !fold(add(0, &piece[..20]));
                piece[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let (source, destination) = addresses(&piece);
            if gso == 0 {
                let partial = u16::from_be_bytes([piece[ip + 16], piece[ip + 17]]);
                assert_eq!(partial, fold(pseudo(source, destination, TCP, piece.len() - ip)));
            }
            piece[ip + 16..ip + 18].fill(0);
            let sum = !fold(add(pseudo(source, destination, TCP, piece.len() - ip), &piece[ip..]));
            piece[ip + 16..ip + 18].copy_from_slice(&sum.to_be_bytes());
            sequence = sequence.wrapping_add(data.len() as u32);
            self.to_client.push_back(piece);
        }
    }
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at = |i: usize| IpAddr::from(*packet[i..].first_chunk::<4>().unwrap());
        (at(12), at(16))
    } else {
        let at = |i: usize| IpAddr::from(*packet[i..].first_chunk::<16>().unwrap());
        (at(8), at(24))
    }
}

impl Device for Kernel {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.to_client.pop_front()?), Tx(&mut self.to_stack)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.to_stack))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Rx(Vec<u8>);
impl smoltcp::phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);
impl smoltcp::phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; VNET_HEADER + len];
        let result = f(&mut frame[VNET_HEADER..]);
        self.0.push_back(frame);
        result
    }
}

/// A client, the stack, and the wire between them.
struct Lab {
    now: Instant,
    stack: Stack,
    kernel: Kernel,
    interface: Interface,
    sockets: SocketSet<'static>,
    events: VecDeque<Event>,
    next_port: u16,
}

impl Lab {
    fn new(mtu: usize) -> Self {
        Self::with(mtu, Config { seed: [1, 2, 3], ..Config::default() })
    }

    fn with(mtu: usize, config: Config) -> Self {
        let now = Instant::from_secs(1);
        let mut kernel = Kernel { to_client: VecDeque::new(), to_stack: VecDeque::new(), mtu };
        let mut settings = InterfaceConfig::new(HardwareAddress::Ip);
        settings.random_seed = 77;
        let mut interface = Interface::new(settings, &mut kernel, now);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(CLIENT4.into(), 30)).unwrap();
            addresses.push(IpCidr::new(CLIENT6.into(), 64)).unwrap();
        });
        let stack = Stack::new(config, now);
        let sockets = SocketSet::new(Vec::new());
        Self { now, stack, kernel, interface, sockets, events: VecDeque::new(), next_port: 40_000 }
    }

    fn dial(&mut self, v6: bool) -> smoltcp::iface::SocketHandle {
        self.dial_with(v6, 256 * 1024)
    }

    fn dial_with(&mut self, v6: bool, window: usize) -> smoltcp::iface::SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; window]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let server = pair(v6).1;
        self.next_port += 1;
        socket.connect(self.interface.context(), IpEndpoint::new(server.into(), 80), self.next_port).unwrap();
        let handle = self.sockets.add(socket);
        self.step();
        handle
    }

    fn client(&mut self, handle: smoltcp::iface::SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// One millisecond: everything in flight arrives.
    fn step(&mut self) {
        self.advance(Duration::from_millis(1));
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        for _ in 0..4 {
            self.interface.poll(self.now, &mut self.kernel, &mut self.sockets);
            for frame in std::mem::take(&mut self.kernel.to_stack) {
                let kernel = &mut self.kernel;
                self.stack.receive(self.now, &frame, &mut |frame: &[u8]| kernel.deliver(frame));
            }
            let kernel = &mut self.kernel;
            self.stack.expire(self.now, &mut |frame: &[u8]| kernel.deliver(frame));
            self.stack.flush(self.now, &mut |frame: &[u8]| kernel.deliver(frame));
            while let Some(event) = self.stack.next_event() {
                self.events.push_back(event);
            }
        }
    }

    /// The next event that is not `Ready`.
    fn event(&mut self) -> Option<Event> {
        loop {
            match self.events.pop_front() {
                Some(Event::Ready { .. }) => {}
                other => return other,
            }
        }
    }

    fn opened(&mut self) -> FlowId {
        match self.event() {
            Some(Event::Open { flow, .. }) => flow,
            other => panic!("expected Open, got {other:?}"),
        }
    }

    fn accept(&mut self, flow: FlowId, early: &[u8]) {
        let kernel = &mut self.kernel;
        self.stack.accept(self.now, flow, early, &mut |frame: &[u8]| kernel.deliver(frame)).unwrap();
        self.step();
    }

    fn connected(&mut self, v6: bool) -> (smoltcp::iface::SocketHandle, FlowId) {
        let handle = self.dial(v6);
        let flow = self.opened();
        self.accept(flow, b"");
        assert_eq!(self.client(handle).state(), State::Established);
        (handle, flow)
    }

    fn fill(&mut self, flow: FlowId, data: &[u8]) -> usize {
        self.stack.fill(self.now, flow, |room| {
            let n = room.len().min(data.len());
            room[..n].copy_from_slice(&data[..n]);
            n
        })
    }

    fn drain(&mut self, flow: FlowId) -> (Vec<u8>, Drained) {
        let mut all = Vec::new();
        loop {
            match self.stack.drain(self.now, flow, |bytes| {
                all.extend_from_slice(bytes);
                bytes.len()
            }) {
                Drained::Some { .. } => {}
                end => return (all, end),
            }
        }
    }

    fn received(&mut self, handle: smoltcp::iface::SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(n) = self.client(handle).recv(|bytes| {
            all.extend_from_slice(bytes);
            (bytes.len(), bytes.len())
        }) {
            if n == 0 {
                break;
            }
        }
        all
    }

    fn abort(&mut self, flow: FlowId) {
        let kernel = &mut self.kernel;
        self.stack.abort(self.now, flow, &mut |frame: &[u8]| kernel.deliver(frame));
        self.step();
    }
}

/// A TCP packet as a kernel would send it, with a complete checksum.
fn segment(v6: bool, ports: (u16, u16), sequence: u32, flags: u8, rest: &[u8]) -> Vec<u8> {
    let (client, server) = pair(v6);
    let mut tcp = Vec::new();
    tcp.extend_from_slice(&ports.0.to_be_bytes());
    tcp.extend_from_slice(&ports.1.to_be_bytes());
    tcp.extend_from_slice(&sequence.to_be_bytes());
    tcp.extend_from_slice(&[0; 4]);
    let header = if flags & 2 != 0 { 24 } else { 20 };
    tcp.extend_from_slice(&[(header as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    if flags & 2 != 0 {
        tcp.extend_from_slice(&[2, 4, 5, 180]); // MSS 1460
    }
    tcp.extend_from_slice(rest);
    framed(client, server, TCP, 16, tcp)
}

fn framed(source: IpAddr, destination: IpAddr, protocol: u8, checksum: usize, mut transport: Vec<u8>) -> Vec<u8> {
    let seed = if protocol == ICMP { 0 } else { pseudo(source, destination, protocol, transport.len()) };
    let sum = !fold(add(seed, &transport));
    transport[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
    [vec![0; VNET_HEADER], emit::plain(source, destination, protocol, &transport)].concat()
}

fn udp_packet(v6: bool, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let (client, server) = pair(v6);
    let length = (8 + data.len()) as u16;
    let mut udp = Vec::new();
    for word in [ports.0, ports.1, length, 0] {
        udp.extend_from_slice(&word.to_be_bytes());
    }
    udp.extend_from_slice(data);
    framed(client, server, UDP, 6, udp)
}

/// Gives one frame to a fresh or used stack and returns what it sent and said.
fn give(stack: &mut Stack, now: Instant, frame: &[u8]) -> (Vec<Vec<u8>>, Vec<Event>) {
    let mut sent = Vec::new();
    stack.receive(now, frame, &mut |frame: &[u8]| sent.push(frame[VNET_HEADER..].to_vec()));
    stack.flush(now, &mut |frame: &[u8]| sent.push(frame[VNET_HEADER..].to_vec()));
    (sent, std::iter::from_fn(|| stack.next_event()).collect())
}

fn fresh() -> Stack {
    Stack::new(Config { seed: [1, 2, 3], ..Config::default() }, Instant::ZERO)
}

#[test]
fn a_syn_is_held_until_the_overlay_has_connected() {
    for v6 in [false, true] {
        let mut lab = Lab::new(65_520);
        let handle = lab.dial(v6);
        let flow = lab.opened();
        for _ in 0..500 {
            lab.step();
        }
        assert_eq!(lab.client(handle).state(), State::SynSent);
        assert_eq!(lab.stack.counts(), Counts { pending: 1, live: 0, dropped: 0 });
        lab.accept(flow, b"early");
        assert_eq!(lab.client(handle).state(), State::Established);
        assert_eq!(lab.received(handle), b"early");
    }
}

#[test]
fn a_retransmitted_syn_replaces_the_held_one_and_makes_no_second_dial() {
    let mut lab = Lab::new(65_520);
    let handle = lab.dial(false);
    let flow = lab.opened();
    for _ in 0..4 {
        lab.advance(Duration::from_secs(1));
    }
    assert_eq!(lab.event(), None);
    lab.accept(flow, b"");
    assert_eq!(lab.client(handle).state(), State::Established);
}

#[test]
fn each_refusal_is_the_packet_that_gives_its_errno() {
    // (refusal, ICMP type and code of IPv4, of IPv6)
    for (refusal, v4, v6) in [
        (Refusal::HostUnreachable, [3, 1], [1, 3]),
        (Refusal::NetUnreachable, [3, 0], [1, 0]),
        (Refusal::Prohibited, [3, 13], [1, 1]),
    ] {
        for six in [false, true] {
            let mut stack = fresh();
            let syn = segment(six, (4000, 80), 77, 2, &[]);
            let (sent, events) = give(&mut stack, Instant::ZERO, &syn);
            assert!(sent.is_empty());
            let Event::Open { flow, .. } = events[0] else { panic!("{events:?}") };
            let mut reply = Vec::new();
            stack.refuse(flow, refusal, &mut |frame: &[u8]| reply = frame[VNET_HEADER..].to_vec());
            let (source, destination) = addresses(&reply);
            assert_eq!((destination, source), pair(six), "the error comes from the dialled address");
            let ip = if six { 40 } else { 20 };
            assert_eq!(reply[ip..ip + 2], if six { v6 } else { v4 });
            let seed = if six { pseudo(source, destination, ICMP6, reply.len() - ip) } else { 0 };
            assert_eq!(fold(add(seed, &reply[ip..])), 0xffff);
            let quoted = &reply[ip + 8..];
            assert_eq!(addresses(quoted), pair(six));
            assert_eq!(quoted[ip..ip + 8], syn[VNET_HEADER + ip..VNET_HEADER + ip + 8], "it quotes the held SYN");
            assert_eq!(stack.counts().pending, 0);
        }
    }
}

#[test]
fn a_refused_dial_is_a_reset() {
    for v6 in [false, true] {
        let mut lab = Lab::new(1500);
        let handle = lab.dial(v6);
        let flow = lab.opened();
        let kernel = &mut lab.kernel;
        lab.stack.refuse(flow, Refusal::Refused, &mut |frame: &[u8]| kernel.deliver(frame));
        lab.step();
        assert_eq!(lab.client(handle).state(), State::Closed);
    }
}

#[test]
fn a_reset_from_the_client_cancels_the_dial() {
    let mut stack = fresh();
    let (_, events) = give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 77, 2, &[]));
    let Event::Open { flow, .. } = events[0] else { panic!() };
    let (sent, events) = give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 78, 4, &[]));
    assert_eq!((sent.len(), events), (0, vec![Event::DialAbandoned { flow }]));
    assert_eq!(stack.counts().pending, 0);
}

#[test]
fn a_client_that_stops_sending_syns_has_given_up() {
    let mut stack = fresh();
    let mut now = Instant::ZERO;
    let syn = segment(false, (4000, 80), 77, 2, &[]);
    let (_, events) = give(&mut stack, now, &syn);
    let Event::Open { flow, .. } = events[0] else { panic!() };
    // As Linux does: 1, 2, 4 … seconds; then silence.
    for gap in [1, 2, 4, 8] {
        now += Duration::from_secs(gap);
        stack.expire(now, &mut |_: &[u8]| {});
        assert_eq!(give(&mut stack, now, &syn), (vec![], vec![]));
    }
    now += Duration::from_secs(33);
    stack.expire(now, &mut |_: &[u8]| {});
    assert_eq!(stack.next_event(), None);
    now += Duration::from_secs(2);
    stack.expire(now, &mut |_: &[u8]| {});
    assert_eq!(stack.next_event(), Some(Event::DialAbandoned { flow }));
}

#[test]
fn each_direction_closes_by_itself() {
    for client_first in [true, false] {
        let mut lab = Lab::new(65_520);
        let (handle, flow) = lab.connected(false);
        if client_first {
            lab.client(handle).send_slice(b"question").unwrap();
            lab.client(handle).close();
            lab.step();
            assert_eq!(lab.drain(flow), (b"question".to_vec(), Drained::Finished));
            assert_eq!(lab.fill(flow, b"answer"), 6);
            lab.step();
            assert_eq!(lab.received(handle), b"answer");
            lab.stack.finish(lab.now, flow);
        } else {
            assert_eq!(lab.fill(flow, b"greeting"), 8);
            lab.stack.finish(lab.now, flow);
            lab.step();
            assert_eq!(lab.received(handle), b"greeting");
            assert!(!lab.client(handle).may_recv());
            lab.client(handle).send_slice(b"still here").unwrap();
            lab.step();
            assert_eq!(lab.drain(flow), (b"still here".to_vec(), Drained::Empty));
            lab.client(handle).close();
            lab.step();
            assert_eq!(lab.drain(flow), (vec![], Drained::Finished));
        }
        lab.step();
        assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::Finished }));
        assert_eq!(lab.stack.counts().live, 0, "TIME-WAIT is not kept");
    }
}

#[test]
fn a_simultaneous_close_loses_nothing() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    lab.client(handle).send_slice(b"up").unwrap();
    lab.client(handle).close();
    lab.fill(flow, b"down");
    lab.stack.finish(lab.now, flow);
    let kernel = &mut lab.kernel;
    lab.stack.flush(lab.now, &mut |frame: &[u8]| kernel.deliver(frame));
    lab.step();
    assert_eq!(lab.received(handle), b"down");
    for _ in 0..20 {
        lab.step();
    }
    assert_eq!(lab.event(), None, "bytes are still to be taken");
    assert_eq!(lab.drain(flow), (b"up".to_vec(), Drained::Finished));
    lab.step();
    assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::Finished }));
}

#[test]
fn a_reset_passes_in_both_directions() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    lab.client(handle).abort();
    lab.step();
    assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::ClientReset }));

    let (handle, flow) = lab.connected(true);
    lab.abort(flow);
    assert_eq!(lab.client(handle).state(), State::Closed);
    assert_eq!(lab.event(), None);
    assert_eq!(lab.stack.counts().live, 0);
}

/// A byte stream that tells where it is.
fn pattern(at: usize, room: &mut [u8]) {
    for (i, byte) in room.iter_mut().enumerate() {
        let at = at + i;
        *byte = (at ^ (at >> 8) ^ (at >> 16)) as u8;
    }
}

#[test]
fn ten_megabytes_each_way_at_once_arrive_byte_for_byte() {
    const TOTAL: usize = 10_000_000;
    for (mtu, v6) in [(1500, false), (1500, true), (65_520, false), (65_520, true)] {
        let mut lab = Lab::new(mtu);
        let (handle, flow) = lab.connected(v6);
        let (mut up_sent, mut up_got, mut down_sent, mut down_got) = (0, 0, 0, 0);
        let mut expected = vec![0; 256 * 1024];
        let mut rounds = 0;
        while up_got < TOTAL || down_got < TOTAL {
            rounds += 1;
            assert!(rounds < 5_000, "stuck at {up_sent} {up_got} {down_sent} {down_got} with MTU {mtu}");
            let socket = lab.sockets.get_mut::<tcp::Socket<'static>>(handle);
            while up_sent < TOTAL && socket.can_send() {
                up_sent += socket
                    .send(|room| {
                        let n = room.len().min(TOTAL - up_sent);
                        pattern(up_sent, &mut room[..n]);
                        (n, n)
                    })
                    .unwrap();
            }
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        pattern(down_got, &mut expected[..bytes.len()]);
                        assert!(bytes == &expected[..bytes.len()], "damaged near {down_got}");
                        down_got += bytes.len();
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            while down_sent < TOTAL && lab.stack.wants_fill(flow) {
                let n = lab.stack.fill(lab.now, flow, |room| {
                    let n = room.len().min(TOTAL - down_sent);
                    pattern(down_sent, &mut room[..n]);
                    n
                });
                down_sent += n;
            }
            while let Drained::Some { .. } = lab.stack.drain(lab.now, flow, |bytes| {
                pattern(up_got, &mut expected[..bytes.len()]);
                assert!(bytes == &expected[..bytes.len()], "damaged near {up_got}");
                up_got += bytes.len();
                bytes.len()
            }) {}
            lab.step();
        }
        assert_eq!((up_got, down_got), (TOTAL, TOTAL));
    }
}

#[test]
fn a_stalled_reader_holds_one_ring_and_asks_for_nothing() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    let data = vec![9; 1 << 20];
    // Nobody drains: the window closes after one ring, and the client keeps the rest.
    let mut sent = 0;
    for _ in 0..100 {
        sent += lab.client(handle).send_slice(&data).unwrap();
        lab.step();
    }
    assert!(sent <= 2 * 256 * 1024, "{sent}");
    lab.events.clear();
    for _ in 0..100 {
        lab.step();
    }
    assert_eq!(lab.events, [], "a stalled flow is not ready again and again");
    // It opens again when somebody does. (The window counts in units of eight bytes.)
    let (got, _) = lab.drain(flow);
    assert!((256 * 1024 - 8..=256 * 1024).contains(&got.len()), "{}", got.len());
    lab.step();
    lab.step();
    assert!(!lab.drain(flow).0.is_empty());
}

#[test]
fn a_reader_that_stalls_in_the_jail_stops_the_filling_and_loses_nothing() {
    let mut lab = Lab::new(1500);
    let handle = lab.dial_with(false, 8192);
    let flow = lab.opened();
    lab.accept(flow, b"");
    let mut sent = 0;
    let mut wakeups = 0;
    while sent < 300_000 {
        let mut data = vec![0; 300_000 - sent];
        pattern(sent, &mut data);
        let n = lab.fill(flow, &data);
        if n == 0 {
            break;
        }
        sent += n;
        lab.step();
    }
    assert!((256 * 1024..=256 * 1024 + 8192).contains(&sent), "{sent}");
    assert!(!lab.stack.wants_fill(flow));
    for _ in 0..100 {
        let Some(next) = lab.stack.next_deadline() else { break };
        lab.advance(next.max(lab.now + Duration::from_millis(1)) - lab.now);
        wakeups += 1;
    }
    assert!(lab.now > Instant::from_secs(120), "{wakeups} wake-ups in {:?}", lab.now);
    let mut got = Vec::new();
    for _ in 0..1000 {
        got.extend(lab.received(handle));
        lab.step();
    }
    let mut expected = vec![0; sent];
    pattern(0, &mut expected);
    assert!(got == expected, "{} of {sent}", got.len());
}

#[test]
fn an_urgent_byte_is_neither_lost_nor_disturbs_its_neighbours() {
    let mut stack = fresh();
    let now = Instant::ZERO;
    let (_, events) = give(&mut stack, now, &segment(false, (4000, 80), 77, 2, &[]));
    let Event::Open { flow, .. } = events[0] else { panic!() };
    let mut synack = Vec::new();
    stack.accept(now, flow, b"", &mut |frame: &[u8]| synack = frame[VNET_HEADER..].to_vec()).unwrap();
    let ours = u32::from_be_bytes(synack[24..28].try_into().unwrap()).wrapping_add(1);
    let mut data = segment(false, (4000, 80), 78, 16 | 32 | 8, b"ab!cd");
    let tcp = VNET_HEADER + 20;
    data[0] = NEEDS_CHECKSUM;
    data[tcp + 8..tcp + 12].copy_from_slice(&ours.to_be_bytes());
    data[tcp + 19] = 3; // urgent pointer
    give(&mut stack, now, &data);
    let mut got = Vec::new();
    stack.drain(now, flow, |bytes| {
        got = bytes.to_vec();
        bytes.len()
    });
    assert_eq!(got, b"ab!cd");
}

#[test]
fn a_small_requests_acknowledgement_rides_on_the_answer_and_waits_a_millisecond_for_it() {
    let mut lab = Lab::new(1500);
    let (handle, flow) = lab.connected(false);
    /// What the stack sends, on its way to the client.
    fn sent(lab: &mut Lab, mut act: impl FnMut(&mut Stack, Instant, &mut dyn Sink)) -> usize {
        let Lab { stack, kernel, now, .. } = lab;
        let mut count = 0;
        act(stack, *now, &mut |frame: &[u8]| {
            kernel.deliver(frame);
            count += 1;
        });
        count
    }
    let flush = |lab: &mut Lab| {
        sent(lab, |stack, now, sink| {
            stack.flush(now, sink);
            stack.expire(now, sink);
        })
    };
    let request = |lab: &mut Lab, bytes: usize| {
        lab.client(handle).send_slice(&vec![7; bytes]).unwrap();
        let Lab { interface, kernel, sockets, now, .. } = lab;
        interface.poll(*now, kernel, sockets);
        let frames = std::mem::take(&mut lab.kernel.to_stack);
        sent(lab, |stack, now, sink| {
            for frame in &frames {
                stack.receive(now, frame, sink);
            }
        });
        assert_eq!(lab.drain(flow).0.len(), bytes);
        flush(lab)
    };
    assert_eq!(request(&mut lab, 64), 0, "nothing but an acknowledgement was due");
    assert_eq!(lab.fill(flow, b"answer"), 6);
    assert_eq!(flush(&mut lab), 1, "one packet for both");
    lab.step();
    assert_eq!(lab.received(handle), b"answer");
    lab.step();
    assert_eq!(request(&mut lab, 64), 0);
    assert_eq!(flush(&mut lab), 0);
    lab.now += HOLD;
    assert_eq!(flush(&mut lab), 1, "by itself, when nothing came");
    lab.step();
    assert!(request(&mut lab, HOLD_MOST + 1) > 0, "what is no small request is acknowledged at once");
}

#[test]
fn fifty_thousand_flows_live_at_once_and_each_is_heard() {
    const FLOWS: u16 = 50_000;
    let mut stack = fresh();
    for port in 1..=FLOWS {
        let (_, events) = give(&mut stack, Instant::ZERO, &segment(false, (port, 80), 77, 2, &[]));
        let Event::Open { flow, .. } = events[0] else { panic!("{events:?}") };
        stack.accept(Instant::ZERO, flow, &[], &mut |_: &[u8]| {}).unwrap();
    }
    assert_eq!((stack.counts().live, stack.counts().pending), (usize::from(FLOWS), 0));
    for port in [1, 777, FLOWS] {
        let (_, events) = give(&mut stack, Instant::ZERO, &segment(false, (port, 80), 78, 4, &[]));
        assert!(matches!(events[..], [Event::Closed { reason: Closed::ClientReset, .. }]), "{port}: {events:?}");
    }
    assert_eq!(stack.counts().live, usize::from(FLOWS) - 3);
}

#[test]
fn limits_refuse_at_once_and_say_which() {
    let mut stack = Stack::new(Config { flows: 3, pending: 2, ..Config::default() }, Instant::ZERO);
    let now = Instant::ZERO;
    let dial = |stack: &mut Stack, port| give(stack, now, &segment(false, (port, 80), 1, 2, &[]));
    let (_, first) = dial(&mut stack, 1000);
    dial(&mut stack, 1001);
    let (sent, events) = dial(&mut stack, 1002);
    assert!(matches!(events[..], [Event::Limited { limit: Limit::Pending, .. }]), "{events:?}");
    assert_eq!(sent[0][20..22], [3, 1]);
    let Event::Open { flow, .. } = first[0] else { panic!() };
    stack.accept(now, flow, b"", &mut |_: &[u8]| {}).unwrap();
    dial(&mut stack, 1003);
    let (sent, events) = dial(&mut stack, 1004);
    assert!(matches!(events[..], [Event::Limited { limit: Limit::Flows, .. }]), "{events:?}");
    assert_eq!(sent.len(), 1);
    assert_eq!(stack.counts(), Counts { pending: 2, live: 1, dropped: 0 });
}

#[test]
fn a_half_closed_flow_that_stays_silent_is_reset() {
    let mut lab = Lab::with(65_520, Config { half_close: Duration::from_secs(60), ..Config::default() });
    let (handle, flow) = lab.connected(false);
    lab.client(handle).close();
    lab.step();
    assert_eq!(lab.drain(flow).1, Drained::Finished);
    for _ in 0..10 {
        lab.advance(Duration::from_secs(50));
        assert_eq!(lab.event(), None, "a byte every 50 s keeps it");
        lab.fill(flow, b".");
        lab.step();
    }
    lab.advance(Duration::from_secs(61));
    lab.step();
    assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::HalfCloseLimit }));
    assert_eq!(lab.client(handle).state(), State::Closed);
}

#[test]
fn an_idle_flow_of_24_hours_lives_by_keep_alive_and_ends_when_nobody_answers() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    for minute in 0..24 * 60 {
        lab.advance(Duration::from_secs(60));
        assert_eq!(lab.event(), None, "minute {minute}");
    }
    lab.client(handle).send_slice(b"still there").unwrap();
    lab.step();
    assert_eq!(lab.drain(flow).0, b"still there");
    lab.fill(flow, b"so am I");
    lab.step();
    assert_eq!(lab.received(handle), b"so am I");

    // The program's kernel is gone without a word.
    lab.sockets.remove(handle);
    lab.kernel.to_client.clear();
    lab.interface.update_ip_addrs(|addresses| addresses.clear());
    let mut ended = None;
    for _ in 0..60 {
        lab.advance(Duration::from_secs(60));
        ended = ended.or(lab.event());
    }
    assert!(matches!(ended, Some(Event::Closed { flow: closed, .. }) if closed == flow), "{ended:?}");
}

#[test]
fn a_segment_of_no_flow_is_reset_and_a_reset_is_not_answered() {
    let mut stack = fresh();
    let (sent, events) = give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 77, 16, b"?"));
    assert_eq!((sent.len(), events.len()), (1, 0));
    assert_eq!(sent[0][33] & 4, 4);
    assert_eq!(give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 77, 4, &[])), (vec![], vec![]));
}

#[test]
fn a_question_is_an_event_and_its_answer_comes_from_the_address_asked() {
    for v6 in [false, true] {
        let mut stack = fresh();
        let (sent, events) = give(&mut stack, Instant::ZERO, &udp_packet(v6, (5000, 53), b"question"));
        assert!(sent.is_empty());
        let Event::Query { client, server, data } = events[0].clone() else { panic!("{events:?}") };
        assert_eq!(data, b"question");
        let mut answer = Vec::new();
        stack.answer(client, server, b"answer", &mut |frame: &[u8]| answer = frame.to_vec());
        let Some(Parsed::Packet(packet)) = packet::parse(&answer) else { panic!() };
        assert!(packet.intact());
        assert_eq!((packet.destination, packet.source), pair(v6));
        assert_eq!(packet.payload()[8..], *b"answer");
    }
}

#[test]
fn other_datagrams_and_pings_are_refused_at_once_with_their_own_error() {
    for v6 in [false, true] {
        let mut stack = Stack::new(
            Config { datagrams: Datagrams { refusal: Refusal::Refused, ..Datagrams::default() }, ..Config::default() },
            Instant::ZERO,
        );
        let ip = if v6 { 40 } else { 20 };
        let (sent, events) = give(&mut stack, Instant::ZERO, &udp_packet(v6, (5000, 443), b"hello"));
        assert_eq!(sent[0][ip..ip + 2], if v6 { [1, 4] } else { [3, 3] });
        assert!(matches!(events[..], [Event::DatagramRefused { .. }]));

        let (client, server) = pair(v6);
        let echo = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 1, 42];
        let ping = framed(client, server, if v6 { ICMP6 } else { ICMP }, 2, echo);
        let (sent, events) = give(&mut stack, Instant::ZERO, &ping);
        assert_eq!(sent[0][ip..ip + 2], if v6 { [1, 1] } else { [3, 13] });
        assert_eq!(events, [Event::EchoRefused { client, server }]);
    }
}

fn carrying() -> Stack {
    let datagrams = Datagrams { carried: true, sources: vec![CLIENT4, pair(true).0], ..Datagrams::default() };
    Stack::new(Config { datagrams, ..Config::default() }, Instant::ZERO)
}

#[test]
fn a_datagram_is_the_caller_s_where_it_lies_and_a_forged_one_is_dropped() {
    for v6 in [false, true] {
        let mut stack = carrying();
        let frame = udp_packet(v6, (5000, 443), b"hello");
        let datagram = stack.receive(Instant::ZERO, &frame, &mut |_: &[u8]| panic!("nothing is sent")).unwrap();
        assert_eq!((datagram.client.ip(), datagram.server.ip()), pair(v6));
        assert_eq!((datagram.client.port(), datagram.server.port(), datagram.segment), (5000, 443, 0));
        assert_eq!(datagram.data(&frame), b"hello");
        assert_eq!(stack.next_event(), None);
        // Questions are still answered here.
        assert!(stack.receive(Instant::ZERO, &udp_packet(v6, (5000, 53), b"q"), &mut |_: &[u8]| {}).is_none());
        assert!(matches!(stack.next_event(), Some(Event::Query { .. })));
        // From an address that is not the jail's; with no port; longer than it is.
        let stranger = if v6 { "2001:db8:77::1" } else { "203.0.113.99" }.parse().unwrap();
        let forged = framed(stranger, pair(v6).1, UDP, 6, frame[VNET_HEADER + if v6 { 40 } else { 20 }..].to_vec());
        let mut long = frame.clone();
        long[VNET_HEADER + if v6 { 40 } else { 20 } + 4] = 0xff;
        long[0] = NEEDS_CHECKSUM;
        for bad in [forged, udp_packet(v6, (0, 443), b"x"), long] {
            assert!(stack.receive(Instant::ZERO, &bad, &mut |_: &[u8]| panic!("no answer to a forgery")).is_none());
        }
        assert_eq!(stack.counts().dropped, 3);
    }
}

#[test]
fn a_refused_datagram_is_quoted_in_an_error_that_a_datagram_socket_is_told_of() {
    let cases = [
        (Refusal::Refused, [3, 3], [1, 4]),
        (Refusal::NetUnreachable, [3, 6], [1, 1]),
        (Refusal::HostUnreachable, [3, 13], [1, 1]),
        (Refusal::Prohibited, [3, 13], [1, 1]),
    ];
    for v6 in [false, true] {
        let (client, server) = pair(v6);
        let (client, server) = (SocketAddr::new(client, 5000), SocketAddr::new(server, 443));
        let mut stack = carrying();
        let mut sent = Vec::new();
        for (refusal, _, _) in cases {
            stack.refuse_datagram(client, server, &[7; 3000], refusal, &mut |frame: &[u8]| sent.push(frame.to_vec()));
        }
        stack.too_big(client, server, &[7; 3000], 1400, &mut |frame: &[u8]| sent.push(frame.to_vec()));
        let wanted = cases.map(|(_, v4_code, v6_code)| if v6 { v6_code } else { v4_code });
        let too_big = if v6 { [2, 0] } else { [3, 4] };
        for (frame, kind) in sent.iter().zip(wanted.into_iter().chain([too_big])) {
            let Some(Parsed::Packet(packet)) = packet::parse(frame) else { panic!() };
            assert!(packet.intact() && (packet.source, packet.destination) == (server.ip(), client.ip()));
            let payload = packet.payload();
            assert_eq!(payload[..2], kind);
            assert_eq!(payload[4..8], if kind == too_big { 1400u32.to_be_bytes() } else { [0; 4] });
            let ports = 8 + if v6 { 40 } else { 20 };
            assert_eq!(payload[ports..ports + 4], [0x13, 0x88, 1, 187], "the quoted ports");
            assert!(packet.bytes.len() <= if v6 { 1280 } else { 576 });
        }
    }
}

#[test]
fn what_comes_in_is_wrapped_where_it_lies_whole_or_cut() {
    use udp::{HEADROOM, bring, longest};
    for v6 in [false, true] {
        let (client, server) = pair(v6);
        let ends = (SocketAddr::new(server, 443), SocketAddr::new(client, 5000));
        let data: Vec<u8> = (0..2500u32).map(|i| (i / 1000) as u8 + 1).collect();
        for (whole, lengths) in [(true, vec![2500]), (false, vec![1000, 1000, 500])] {
            let mut buffer = [vec![0; HEADROOM], data.clone()].concat();
            let mut frames: Vec<Vec<u8>> = Vec::new();
            bring(&mut buffer, HEADROOM..HEADROOM + 2500, ends, 1000, whole, &mut |frame: &[u8]| {
                frames.push(frame.to_vec());
            });
            let mut got = Vec::new();
            for (frame, length) in frames.iter().zip(&lengths) {
                let Some(Parsed::Packet(packet)) = packet::parse(frame) else { panic!() };
                assert_eq!((packet.source, packet.destination), (server, client));
                assert_eq!(packet.segment, if whole { 1000 } else { 0 });
                let payload = packet.payload();
                assert_eq!(payload.len(), 8 + length);
                assert_eq!(payload[..4], [1, 187, 0x13, 0x88]);
                // The partial checksum that NEEDS_CSUM asks for is the pseudo-header's.
                let partial = fold(pseudo(server, client, UDP, payload.len()));
                assert_eq!((frame[0], payload[6..8].to_vec()), (NEEDS_CHECKSUM, partial.to_be_bytes().to_vec()));
                got.extend_from_slice(&payload[8..]);
            }
            assert_eq!((frames.len(), got), (lengths.len(), data.clone()));
        }
        // An empty one is one; one that no packet holds is none.
        for (length, frames) in [(0, 1), (longest(!v6), 1), (longest(!v6) + 1, 0)] {
            let mut buffer = vec![0; HEADROOM + length];
            let mut count = 0;
            bring(&mut buffer, HEADROOM..HEADROOM + length, ends, 0, true, &mut |_: &[u8]| count += 1);
            assert_eq!(count, frames, "{length}");
        }
    }
}

#[test]
fn fragments_of_a_datagram_are_joined_in_any_order_and_overlaps_are_dropped() {
    let data: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
    let whole = udp_packet(false, (5000, 53), &data);
    let transport = &whole[VNET_HEADER + 20..];
    let piece = |from: usize, to: usize, identification: u8| {
        let mut packet = emit::plain(CLIENT4, SERVER4, UDP, &transport[from..to]);
        let more = if to < transport.len() { 0x20 } else { 0 };
        packet[5] = identification;
        packet[6] = more | ((from / 8) >> 8) as u8;
        packet[7] = (from / 8) as u8;
        packet[10..12].fill(0);
        let sum = !fold(add(0, &packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        [vec![0; VNET_HEADER], packet].concat()
    };
    let mut stack = fresh();
    let mut events = Vec::new();
    for (from, to) in [(1480, 2960), (2960, transport.len()), (0, 1480)] {
        events.extend(give(&mut stack, Instant::ZERO, &piece(from, to, 1)).1);
    }
    assert!(matches!(&events[..], [Event::Query { data: got, .. }] if *got == data), "{events:?}");
    for (from, to) in [(0, 1480), (1472, 2960), (1480, 2960), (2960, transport.len())] {
        assert_eq!(give(&mut stack, Instant::ZERO, &piece(from, to, 2)).1, []);
    }
    // First pieces alone, for ever: bounded.
    for identification in 0..=255 {
        give(&mut stack, Instant::ZERO, &piece(0, 1480, identification));
    }
}

#[test]
fn hop_by_hop_options_are_stepped_over_and_other_extension_headers_dropped() {
    let plain = segment(true, (4000, 80), 77, 2, &[]);
    let extended = |kind: u8, option: [u8; 6]| {
        let mut packet = plain[VNET_HEADER..].to_vec();
        let header = [&[TCP, 0][..], &option].concat();
        packet.splice(40..40, header);
        packet[6] = kind;
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        [vec![0; VNET_HEADER], packet].concat()
    };
    let padding = [1, 4, 0, 0, 0, 0];
    let mut stack = fresh();
    let (_, events) = give(&mut stack, Instant::ZERO, &extended(0, padding));
    let Event::Open { flow, .. } = events[0] else { panic!("{events:?}") };
    let mut synack = Vec::new();
    stack.accept(Instant::ZERO, flow, b"", &mut |frame: &[u8]| synack = frame.to_vec()).unwrap();
    assert_eq!(synack[VNET_HEADER + 40 + 13], 2 | 16);
    for (kind, option) in [(0, [0xc1, 4, 0, 0, 0, 0]), (43, padding), (60, padding), (51, padding)] {
        let mut stack = fresh();
        let (_, events) = give(&mut stack, Instant::ZERO, &extended(kind, option));
        assert!(!events.iter().any(|event| matches!(event, Event::Open { .. })), "{kind} {option:?}");
    }
}

#[test]
fn damaged_packets_are_dropped() {
    let mut stack = fresh();
    for v6 in [false, true] {
        for original in [segment(v6, (4000, 80), 77, 2, &[]), udp_packet(v6, (5000, 53), b"question")] {
            // A wrong checksum, a length beyond the packet, and every truncation.
            let mut wrong = original.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(give(&mut stack, Instant::ZERO, &wrong), (vec![], vec![]));
            for length in 0..original.len() {
                assert_eq!(give(&mut stack, Instant::ZERO, &original[..length]), (vec![], vec![]), "{length}");
            }
        }
    }
    assert_eq!(stack.counts().live + stack.counts().pending, 0);
}

#[test]
fn the_pages_of_an_idle_flow_go_back_and_the_flow_lives_on() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    for round in 0..3 {
        lab.client(handle).send_slice(b"ping").unwrap();
        lab.step();
        assert_eq!(lab.drain(flow).0, b"ping", "{round}");
        lab.fill(flow, b"pong");
        lab.step();
        assert_eq!(lab.received(handle), b"pong");
        assert!(lab.stack.table.live(flow).unwrap().touched);
        lab.advance(Duration::from_millis(1500));
        assert!(!lab.stack.table.live(flow).unwrap().touched);
    }
}

#[test]
fn the_heap_of_deadlines_is_bounded_by_the_flows() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    for _ in 0..20_000 {
        lab.fill(flow, b"x");
        lab.advance(Duration::from_millis(700));
        lab.received(handle);
    }
    assert!(lab.stack.deadlines.len() < 2000, "{}", lab.stack.deadlines.len());
}

/// A conversation of one flow that random mutations then disturb.
fn script() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for v6 in [false, true] {
        frames.push(segment(v6, (4000, 80), 77, 2, &[]));
        frames.push(segment(v6, (4000, 80), 78, 16, b"data of the client"));
        frames.push(segment(v6, (4000, 80), 96, 1 | 16, &[]));
        frames.push(udp_packet(v6, (5000, 53), b"question"));
        frames.push(segment(v6, (4000, 80), 97, 4, &[]));
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_makes_it_panic_and_memory_stays_bounded(
        changes in prop::collection::vec((0..10usize, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<bool>()), 1..200),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let frames = script();
        let config = Config { flows: 20, pending: 10, ring: 8192, ..Config::default() };
        let mut stack = Stack::new(config, Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut sink = |_: &[u8]| {};
        let mut step = |stack: &mut Stack, frame: &[u8], accept: bool| {
            now += Duration::from_millis(300);
            stack.receive(now, frame, &mut sink);
            while let Some(event) = stack.next_event() {
                match event {
                    Event::Open { flow, .. } if accept => stack.accept(now, flow, b"early", &mut sink).unwrap(),
                    Event::Ready { flow } => {
                        stack.drain(now, flow, <[u8]>::len);
                        stack.fill(now, flow, |room| room.len().min(100));
                    }
                    _ => {}
                }
            }
            stack.flush(now, &mut sink);
            stack.expire(now, &mut sink);
        };
        for (which, bytes, accept) in changes {
            let mut frame = frames[which].clone();
            for (at, value) in bytes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            frame[0] |= NEEDS_CHECKSUM; // so that mutations reach the deeper layers
            step(&mut stack, &frame, accept);
        }
        for frame in noise {
            step(&mut stack, &frame, true);
        }
        let counts = stack.counts();
        prop_assert!(counts.live + counts.pending <= 20);
    }
}
