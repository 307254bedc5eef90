//! Drives the in-memory core so that its instructions can be counted (`scripts/instructions`): no descriptor, no clock, no
//! random number, so a run can be repeated to the instruction.
//!
//! `core MODE COUNT`: the difference between two counts is what so many of these cost:
//!
//! | mode | one of them is |
//! |---|---|
//! | `up` | a packet of 1,448 bytes from a program: taken in, offered to the overlay, acknowledged |
//! | `down` | a packet of 1,448 bytes to a program, and its acknowledgement |
//! | `connect` | a connection: SYN, accept, 64 bytes each way, both ends |
//! | `idle` | as `up`, one packet on each of 1,000 flows in turn |
//! | `decide` | a decision about a flow, and its record up to the bytes of the batch |

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use netjail::control::worker::ToWarden;
use netjail::flow::Target;
use netjail::log::{Kind, Outbox, Protocol, Record};
use netjail::policy::{Request, Table, Verdict};
use netjail::registry::Id;
use netjail::stack::{Config, Drained, Duration, Event, FlowId, Instant, Stack};
use netjail::tun::VNET_HEADER;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const PAYLOAD: usize = 1448;
const MESSAGE: usize = 64;

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The stack, its clock, and the program's side of its connections.
struct Bench {
    stack: Stack,
    now: Instant,
    /// The last packet that the stack sent, without its virtio-net header.
    sent: Vec<u8>,
    frame: Vec<u8>,
}

/// The program's end of one connection.
#[derive(Clone, Copy)]
struct Client {
    flow: FlowId,
    port: u16,
    sequence: u32,
    acknowledged: u32,
}

impl Bench {
    fn new() -> Self {
        let config = Config { seed: [1, 2, 3], ..Config::default() };
        let now = Instant::from_secs(1);
        Self { stack: Stack::new(config, now), now, sent: Vec::new(), frame: Vec::new() }
    }

    /// One segment of the program's.
    fn packet(&mut self, port: u16, flags: u8, sequence: u32, acknowledged: u32, data: usize) {
        self.now += Duration::from_micros(10);
        let options: &[u8] = if flags == SYN { &[2, 4, 0x05, 0xb4] } else { &[] };
        let header = 20 + options.len();
        let frame = &mut self.frame;
        frame.clear();
        frame.resize(VNET_HEADER, 0);
        frame[0] = 1; // the checksum is partial, as the kernel of one machine leaves it
        frame.extend([0x45, 0]);
        frame.extend(((20 + header + data) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(CLIENT.octets());
        frame.extend(SERVER.octets());
        let sum: u32 =
            frame[VNET_HEADER..].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[VNET_HEADER + 10..VNET_HEADER + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(80u16.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend(acknowledged.to_be_bytes());
        frame.extend([(header as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(options);
        frame.resize(frame.len() + data, 7);
        let sent = &mut self.sent;
        let mut sink = |frame: &[u8]| keep(sent, frame);
        self.stack.receive(self.now, &self.frame, &mut sink);
    }

    fn flush(&mut self) {
        let sent = &mut self.sent;
        self.stack.flush(self.now, &mut |frame: &[u8]| keep(sent, frame));
        while self.stack.next_deadline().is_some_and(|at| at <= self.now) {
            let sent = &mut self.sent;
            self.stack.expire(self.now, &mut |frame: &[u8]| keep(sent, frame));
        }
    }

    /// What the stack says next about this flow.
    fn events(&mut self) -> Option<Event> {
        self.stack.next_event()
    }

    fn connect(&mut self, port: u16) -> Client {
        self.packet(port, SYN, 1000, 0, 0);
        let Some(Event::Open { flow, .. }) = self.events() else { panic!("the SYN opened nothing") };
        let sent = &mut self.sent;
        let accepted = self.stack.accept(self.now, flow, &[], &mut |frame: &[u8]| keep(sent, frame));
        assert_eq!(accepted, Ok(()));
        let theirs = u32::from_be_bytes([self.sent[24], self.sent[25], self.sent[26], self.sent[27]]);
        let client = Client { flow, port, sequence: 1001, acknowledged: theirs.wrapping_add(1) };
        self.packet(port, ACK, client.sequence, client.acknowledged, 0);
        while self.events().is_some() {}
        self.flush();
        client
    }

    fn up(&mut self, client: &mut Client, data: usize) {
        self.packet(client.port, ACK, client.sequence, client.acknowledged, data);
        client.sequence = client.sequence.wrapping_add(data as u32);
        let mut taken = 0;
        while let Some(event) = self.events() {
            assert!(matches!(event, Event::Ready { .. }), "{event:?}");
            while let Drained::Some { taken: some, .. } = self.stack.drain(self.now, client.flow, <[u8]>::len) {
                taken += some;
            }
        }
        assert_eq!(taken, data);
        self.flush();
    }

    fn down(&mut self, client: &mut Client, data: usize) {
        let filled = self.stack.fill(self.now, client.flow, |room| data.min(room.len()));
        // The ring wraps somewhere.
        let filled = filled + self.stack.fill(self.now, client.flow, |room| (data - filled).min(room.len()));
        assert_eq!(filled, data);
        self.flush();
        client.acknowledged = client.acknowledged.wrapping_add(data as u32);
        self.packet(client.port, ACK, client.sequence, client.acknowledged, 0);
        while self.events().is_some() {}
        self.flush();
    }

    fn close(&mut self, client: &mut Client) {
        self.packet(client.port, FIN | ACK, client.sequence, client.acknowledged, 0);
        while self.events().is_some() {}
        assert_eq!(self.stack.drain(self.now, client.flow, <[u8]>::len), Drained::Finished);
        self.stack.finish(self.now, client.flow);
        self.flush();
        self.packet(client.port, ACK, client.sequence.wrapping_add(1), client.acknowledged.wrapping_add(1), 0);
        self.flush();
        let mut closed = false;
        while let Some(event) = self.events() {
            closed |= matches!(event, Event::Closed { .. });
        }
        assert!(closed, "both ends are closed, and the flow is not");
    }
}

fn keep(sent: &mut Vec<u8>, frame: &[u8]) {
    sent.clear();
    // Headers only: what is counted is the stack.
    sent.extend_from_slice(&frame[VNET_HEADER..frame.len().min(VNET_HEADER + 60)]);
}

fn decide(count: usize) {
    let Ok(network) = Id::new("app", "proxy") else { panic!("a name") };
    let table = Table { generation: 7, network, direct: false, allow_lan: false, host: Vec::new() };
    let mut outbox = Outbox::default();
    let mut bytes = 0;
    for at in 0..count {
        let server = SocketAddr::new(IpAddr::V4(SERVER), 80);
        let target = Target::Addr(server);
        let Verdict::Allow { network, rule } = table.decide(&Request::Flow(&target)) else { panic!("denied") };
        let mut record = Record::new(Kind::Flow, Protocol::Tcp, rule, table.generation);
        (record.address, record.port, record.network) = (Some(server.ip()), Some(80), Some(network.clone()));
        outbox.push(record);
        if at % 128 == 127 {
            while let Some(batch) = outbox.take() {
                bytes += postcard::to_stdvec(&ToWarden::Records(batch)).map_or(0, |message| message.len());
            }
        }
    }
    assert!(bytes > 0 || count < 128);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mode, count) = match arguments.as_slice() {
        [mode, count] => (mode.as_str(), count.parse().unwrap_or(0)),
        _ => ("", 0),
    };
    let mut bench = Bench::new();
    match mode {
        "up" => {
            let mut client = bench.connect(1024);
            (0..count).for_each(|_| bench.up(&mut client, PAYLOAD));
        }
        "down" => {
            let mut client = bench.connect(1024);
            (0..count).for_each(|_| bench.down(&mut client, PAYLOAD));
        }
        "connect" => {
            for at in 0..count {
                let mut client = bench.connect(1024 + (at % 50_000) as u16);
                bench.up(&mut client, MESSAGE);
                bench.down(&mut client, MESSAGE);
                bench.close(&mut client);
            }
        }
        "idle" => {
            let mut clients: Vec<Client> = (0..1000).map(|at| bench.connect(1024 + at)).collect();
            (0..count).for_each(|at| bench.up(&mut clients[at % 1000], PAYLOAD));
        }
        "decide" => decide(count),
        _ => {
            eprintln!("usage: core up|down|connect|idle|decide COUNT; scripts/instructions starts it as it should be");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
