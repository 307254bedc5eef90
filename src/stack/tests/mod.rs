//! The stack against another stack, joined in memory: no kernel, no clock, no threads.

mod datagrams;
mod dials;
mod ends;
mod flows;
mod hostile;
mod trains;

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::iface::SocketSet;
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{self, Socket, SocketBuffer};
use smoltcp::wire::{IpCidr, IpEndpoint};

use super::device::LONGEST;
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
    /// Packets that were longer than IP can say.
    refused: usize,
}

impl Kernel {
    fn deliver(&mut self, frame: &[u8]) {
        // As Linux before 6.3 does.
        if frame.len() > VNET_HEADER + LONGEST {
            self.refused += 1;
            return;
        }
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
        let mut kernel = Kernel { to_client: VecDeque::new(), to_stack: VecDeque::new(), mtu, refused: 0 };
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
