//! Packets of one flow that follow each other leave as one, a *train*, which may be longer than an IP packet can say (BIG TCP).
//!
//! smoltcp writes packets of 64 KiB at most, for so long is what a length of 16 bits can name. Linux takes longer ones from a
//! device that segments: an IPv4 packet of TCP whose length is 0 is as long as its buffer (`iph_totlen` of
//! include/linux/ip.h, see [`crate::tun::longest_packet`]), and an IPv6 packet may have a jumbo payload (RFC 2675). What a
//! packet costs beside its bytes (a system call, a buffer, the way through the program's TCP, a wake-up, an acknowledgement)
//! is then paid once for a whole ring.
//!
//! Nothing is copied for it: a packet is written so that its payload follows the last one's. Its header, which falls upon the
//! end of that payload, is taken out again, and what it covered is put back.
//!
//! A flow whose long train has to be sent again (a kernel that refuses them after all) has none from then on.

use std::net::IpAddr;

use super::device::{LONGEST, Sink};
use super::emit;
use super::packet::{GSO_TCP4, GSO_TCP6, IPV4_HEADER, IPV6_HEADER, NEEDS_CHECKSUM, TCP, add, fold};
use crate::tun::VNET_HEADER;

/// The hop-by-hop header with the jumbo payload option (RFC 2675 section 2).
const JUMBO: usize = 8;
/// A TCP header without options.
const TCP_HEADER: usize = 20;
/// The most bytes of headers of a packet that may join.
const HEADERS: usize = IPV6_HEADER + TCP_HEADER;
/// Where a frame begins: before it is room for its headers to move down when a jumbo header comes between.
const START: usize = JUMBO;
/// The first byte of the packet.
const PACKET: usize = START + VNET_HEADER;

const ACK: u8 = 16;
const PSH: u8 = 8;

/// Where a flow's packets go.
pub(super) struct Way<'a> {
    pub sink: &'a mut dyn Sink,
    /// The client's true segment size.
    pub segment: u16,
    pub long: &'a mut Long,
}

/// What a flow knows of its trains that are longer than an IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Long {
    /// There was none.
    #[default]
    None,
    /// The sequence numbers of the last one, and behind it.
    Sent(u32, u32),
    /// One did not arrive.
    Never,
}

impl Long {
    /// Whether a packet with this sequence number may begin one: not if it is of the last one, which then was lost.
    fn may_begin(&mut self, sequence: u32) -> bool {
        if let Self::Sent(first, end) = *self
            && sequence.wrapping_sub(first) < end.wrapping_sub(first)
        {
            *self = Self::Never;
        }
        *self != Self::Never
    }
}

/// The buffer that smoltcp writes each packet to, and the train in it.
pub(super) struct Train {
    buffer: Box<[u8]>,
    /// The most bytes of a train, headers included.
    most: usize,
    /// Where the train ends that waits for company; 0 for none.
    end: usize,
    /// Its headers' length.
    headers: usize,
    /// The sequence numbers of its first byte and behind its last.
    sequence: (u32, u32),
}

impl Train {
    /// `most`: see [`Config::longest`](super::Config::longest).
    pub fn new(most: usize) -> Self {
        let buffer = vec![0; PACKET + LONGEST.max(most)].into_boxed_slice();
        Self { buffer, most, end: 0, headers: 0, sequence: (0, 0) }
    }

    /// Lets `write` write a packet of `length` bytes, which is sent, or waits for what follows.
    pub fn add<R>(&mut self, length: usize, way: &mut Way<'_>, write: impl FnOnce(&mut [u8]) -> R) -> R {
        if self.end > 0 {
            let headers = self.headers;
            // The next header must not fall upon the train's own.
            let (free, room) = (self.end >= PACKET + 2 * headers, PACKET + self.most - self.end);
            if free && length > headers && length - headers <= room {
                return self.join(length, way, write);
            }
            self.depart(way);
        }
        let result = write(&mut self.buffer[PACKET..PACKET + length]);
        self.begin(length, way);
        result
    }

    /// Sends what waits. To be called when no packet of the same flow follows.
    pub fn depart(&mut self, way: &mut Way<'_>) {
        let end = std::mem::take(&mut self.end);
        if end == 0 {
            return;
        }
        if end > PACKET + LONGEST {
            *way.long = Long::Sent(self.sequence.0, self.sequence.1);
        }
        let start = dress(&mut self.buffer[..end], way.segment);
        way.sink.send(&self.buffer[start..end]);
    }

    /// The packet at the buffer's beginning waits for company, or goes.
    fn begin(&mut self, length: usize, way: &mut Way<'_>) {
        self.end = PACKET + length;
        match joinable(&self.buffer[PACKET..self.end]) {
            Some((headers, first)) if self.most > LONGEST && way.long.may_begin(first) => {
                self.headers = headers;
                self.sequence = (first, first.wrapping_add((length - headers) as u32));
            }
            _ => self.depart(way),
        }
    }

    /// One that may follow.
    fn join<R>(&mut self, length: usize, way: &mut Way<'_>, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let headers = self.headers;
        let at = self.end - headers;
        let mut covered = [0; HEADERS];
        covered[..headers].copy_from_slice(&self.buffer[at..self.end]);
        let result = write(&mut self.buffer[at..at + length]);
        let follows =
            joinable(&self.buffer[at..at + length]) == Some((headers, self.sequence.1)) && self.is_of_this_flow(at);
        let mut taken = [0; HEADERS];
        taken[..headers].copy_from_slice(&self.buffer[at..self.end]);
        self.buffer[at..self.end].copy_from_slice(&covered[..headers]);
        if follows {
            // Acknowledgement, flags and window: the newer ones hold.
            let newer = headers - TCP_HEADER + 8..headers - 4;
            self.buffer[PACKET + newer.start..PACKET + newer.end].copy_from_slice(&taken[newer]);
            self.end += length - headers;
            self.sequence.1 = self.sequence.1.wrapping_add((length - headers) as u32);
        } else {
            self.depart(way);
            self.buffer.copy_within(at + headers..at + length, PACKET + headers);
            self.buffer[PACKET..PACKET + headers].copy_from_slice(&taken[..headers]);
            self.begin(length, way);
        }
        result
    }

    /// Whether the packet that was written at `at` has the train's addresses and ports.
    fn is_of_this_flow(&self, at: usize) -> bool {
        let (train, packet) = (&self.buffer[PACKET..], &self.buffer[at..]);
        let ports = self.headers - TCP_HEADER + 4;
        let addresses = if self.headers == IPV4_HEADER + TCP_HEADER { 12 } else { 8 };
        train[0] == packet[0] && train[addresses..ports] == packet[addresses..ports]
    }
}

/// The length of the headers and the sequence number of a packet with data, no flag but ACK and PSH, and no options.
fn joinable(packet: &[u8]) -> Option<(usize, u32)> {
    let ip = match packet.first()? {
        0x45 => IPV4_HEADER,
        0x60 => IPV6_HEADER,
        _ => return None,
    };
    let tcp = packet.get(ip..ip + TCP_HEADER)?;
    let plain = tcp[12] == 5 << 4 && tcp[13] & !PSH == ACK && packet.len() > ip + TCP_HEADER;
    plain.then(|| (ip + TCP_HEADER, u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])))
}

/// Fills in what a TCP packet of smoltcp's lacks: its length if it was joined, its partial checksum, and before it the
/// virtio-net header, which asks the kernel to cut it where it is longer than the client's segment. Says where the frame begins.
fn dress(buffer: &mut [u8], segment: u16) -> usize {
    buffer[..PACKET].fill(0);
    let packet = &mut buffer[PACKET..];
    let length = packet.len();
    let (source, destination, ip, gso) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if length >= IPV4_HEADER + TCP_HEADER => {
            let at = |i: usize| IpAddr::from([packet[i], packet[i + 1], packet[i + 2], packet[i + 3]]);
            (at(12), at(16), IPV4_HEADER, GSO_TCP4)
        }
        Some(6) if length >= IPV6_HEADER + TCP_HEADER => {
            let at = |i: usize| packet[i..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
            let (Some(source), Some(destination)) = (at(8), at(24)) else { return START };
            (source, destination, IPV6_HEADER, GSO_TCP6)
        }
        _ => return START,
    };
    let tcp = usize::from(packet[ip + 12] >> 4) * 4;
    let sum = emit::partial(source, destination, TCP, length - ip);
    packet[ip + 16..ip + 18].copy_from_slice(&sum.to_be_bytes());
    let start = if ip == IPV4_HEADER { say_length_v4(packet) } else { say_length_v6(buffer) };
    let before = ip + START - start;
    let header = &mut buffer[start..start + VNET_HEADER];
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&(before as u16).to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    if length > ip + tcp + usize::from(segment) {
        header[1] = gso;
        header[2..4].copy_from_slice(&((before + tcp) as u16).to_ne_bytes());
        header[4..6].copy_from_slice(&segment.to_ne_bytes());
    }
    start
}

/// Says how long an IPv4 packet is: 0 where 16 bits do not suffice.
fn say_length_v4(packet: &mut [u8]) -> usize {
    let length = u16::try_from(packet.len()).unwrap_or(0).to_be_bytes();
    if packet[2..4] != length {
        packet[2..4].copy_from_slice(&length);
        packet[10..12].fill(0);
        let sum = !fold(add(0, &packet[..IPV4_HEADER]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    START
}

/// Says how long an IPv6 packet is, by a jumbo payload option where 16 bits do not suffice; the headers before it move down.
fn say_length_v6(buffer: &mut [u8]) -> usize {
    let payload = buffer.len() - PACKET - IPV6_HEADER;
    let field = PACKET + 4;
    if let Ok(payload) = u16::try_from(payload) {
        buffer[field..field + 2].copy_from_slice(&payload.to_be_bytes());
        return START;
    }
    // No length, and a hop-by-hop header (0) next.
    buffer[field..field + 3].fill(0);
    let start = START - JUMBO;
    buffer.copy_within(START..PACKET + IPV6_HEADER, start);
    let jumbo = PACKET + IPV6_HEADER - JUMBO;
    buffer[jumbo..jumbo + 4].copy_from_slice(&[TCP, 0, 0xc2, 4]);
    buffer[jumbo + 4..jumbo + 8].copy_from_slice(&((payload + JUMBO) as u32).to_be_bytes());
    start
}
