//! What is not TCP: DNS questions and datagrams pass to the caller, everything else is refused at once by an ICMP error.
//!
//! A datagram that the caller carries is never copied here: [`Datagram`] says where in the frame it lies, and what comes back
//! is [`wrap`]ped where it was received. A super-datagram (USO: one frame that stands for many datagrams of one size) stays
//! whole in both directions.
//!
//! An echo reply for any address would be a lie, so a ping is answered only with the truth that it may not leave. Other
//! ICMP has no use for a stack without routers, and is dropped.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::packet::{GSO_UDP, ICMP, ICMP6, IPV4_HEADER, IPV6_HEADER, NEEDS_CHECKSUM, Packet, UDP};
use super::{Event, Sink, Stack, emit};
use crate::flow::Refusal;
use crate::tun::VNET_HEADER;

/// The room before its data that [`wrap`] needs for a datagram's headers, in bytes.
pub const HEADROOM: usize = VNET_HEADER + IPV6_HEADER + UDP_HEADER;

const UDP_HEADER: usize = 8;

/// What becomes of datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// The addresses whose port 53 is answered: `None` is every address.
    pub resolvers: Option<Vec<IpAddr>>,
    /// The jail's own addresses: a datagram from any other is forged, and dropped. Empty: from any.
    pub sources: Vec<IpAddr>,
    /// Whether any other datagram is the caller's to carry; else it is refused.
    pub carried: bool,
    /// What the sender of a datagram that is not carried is told.
    pub refusal: Refusal,
    /// What the sender of a ping is told.
    pub echo: Refusal,
    /// What the sender of any other protocol is told.
    pub other: Refusal,
}

impl Default for Datagrams {
    fn default() -> Self {
        let refusal = Refusal::Prohibited;
        Self { resolvers: None, sources: Vec::new(), carried: false, refusal, echo: refusal, other: refusal }
    }
}

/// A datagram, or a super-datagram, that a program sent: for the caller to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The program's own end.
    pub client: SocketAddr,
    /// Where it is to go.
    pub server: SocketAddr,
    /// The length of each datagram in a super-datagram (the last may be shorter), else 0.
    pub segment: usize,
    /// Where the data lies: in the frame that was received, or in `whole`.
    data: Range<usize>,
    /// The packet, where it came in pieces.
    whole: Option<Vec<u8>>,
}

impl Datagram {
    /// The frame that holds it: `frame` is what was given to [`Stack::receive`].
    pub fn frame<'a>(&'a self, frame: &'a [u8]) -> &'a [u8] {
        self.whole.as_deref().unwrap_or(frame)
    }

    /// The payload; `frame` is what was given to [`Stack::receive`].
    pub fn data<'a>(&'a self, frame: &'a [u8]) -> &'a [u8] {
        self.frame(frame).get(self.data.clone()).unwrap_or_default()
    }

    /// It came in pieces: the frame that they make is kept with it.
    pub(super) fn keep(&mut self, frame: Vec<u8>) {
        self.whole = Some(frame);
    }
}

/// What became of a packet that is not TCP.
pub(super) enum Taken {
    /// It contradicts itself, or is nobody's.
    Dropped,
    /// It is an event now.
    Told,
    /// Its sender is to be told this.
    Refused(Refusal),
    /// It is the caller's.
    Carried(Datagram),
}

/// Takes one packet that is not TCP.
pub(super) fn receive(datagrams: &Datagrams, packet: &Packet<'_>, events: &mut VecDeque<Event>) -> Taken {
    match packet.protocol {
        UDP => datagram(datagrams, packet, events).unwrap_or(Taken::Dropped),
        ICMP | ICMP6 => {
            let payload = packet.payload();
            let request = if packet.protocol == ICMP { 8 } else { 128 };
            if payload.len() < 8 || payload[0] != request {
                return Taken::Dropped;
            }
            events.push_back(Event::EchoRefused { client: packet.source, server: packet.destination });
            Taken::Refused(datagrams.echo)
        }
        _ => Taken::Refused(datagrams.other),
    }
}

fn datagram(datagrams: &Datagrams, packet: &Packet<'_>, events: &mut VecDeque<Event>) -> Option<Taken> {
    let payload = packet.payload();
    let header = payload.get(..UDP_HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let data = payload.get(UDP_HEADER..length)?;
    let client = SocketAddr::new(packet.source, u16::from_be_bytes([header[0], header[1]]));
    let server = SocketAddr::new(packet.destination, u16::from_be_bytes([header[2], header[3]]));
    let forged = !datagrams.sources.is_empty() && !datagrams.sources.contains(&client.ip());
    if client.port() == 0 || forged {
        return None;
    }
    let served = datagrams.resolvers.as_ref().is_none_or(|only| only.contains(&server.ip()));
    if server.port() == 53 && served {
        // The kernel passes a burst to one peer as one super-datagram (USO).
        let segment = if packet.segment == 0 { data.len().max(1) } else { packet.segment };
        for piece in data.chunks(segment) {
            events.push_back(Event::Query { client, server, data: piece.to_vec() });
        }
        return Some(Taken::Told);
    }
    if !datagrams.carried {
        events.push_back(Event::DatagramRefused { client, server });
        return Some(Taken::Refused(datagrams.refusal));
    }
    let begin = VNET_HEADER + packet.transport + UDP_HEADER;
    let segment = if packet.segment < data.len() { packet.segment } else { 0 };
    Some(Taken::Carried(Datagram { client, server, segment, data: begin..begin + data.len(), whole: None }))
}

impl Stack {
    /// Tells the sender of a datagram that it did not go, and why: an ICMP error that quotes it, of a kind that every
    /// connected socket is told of. `data` is its payload, or as much as is known of it.
    pub fn refuse_datagram(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        data: &[u8],
        refusal: Refusal,
        sink: &mut dyn Sink,
    ) {
        self.return_datagram(client, server, data, sink, |out, client, server, quoted| {
            emit::refused_datagram(out, client, server, quoted, refusal);
        });
    }

    /// Tells the sender of a datagram what the network said of it, as a network says it: Linux keeps from a socket what may
    /// pass, unless it asks for it (IP_RECVERR).
    pub fn complain(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        data: &[u8],
        refusal: Refusal,
        sink: &mut dyn Sink,
    ) {
        self.return_datagram(client, server, data, sink, |out, client, server, quoted| {
            emit::unreachable(out, client, server, quoted, refusal);
        });
    }

    /// Tells the sender of a datagram that the way carries packets of `mtu` bytes at most (RFC 1191, RFC 8201): its next
    /// system call gives EMSGSIZE.
    pub fn too_big(&mut self, client: SocketAddr, server: SocketAddr, data: &[u8], mtu: u32, sink: &mut dyn Sink) {
        self.return_datagram(client, server, data, sink, |out, client, server, quoted| {
            emit::too_big(out, client, server, quoted, mtu);
        });
    }

    /// Sends what `write` makes of the quoted datagram.
    fn return_datagram(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        data: &[u8],
        sink: &mut dyn Sink,
        write: impl FnOnce(&mut Vec<u8>, IpAddr, IpAddr, &[u8]),
    ) {
        let quoted = emit::quoted_datagram(client, server, data);
        write(&mut self.reply, client.ip(), server.ip(), &quoted);
        sink.send(&self.reply);
    }
}

/// The longest payload that a datagram between addresses of this family can have, in bytes.
pub fn longest(v4: bool) -> usize {
    if v4 { 0xffff - IPV4_HEADER - UDP_HEADER } else { 0xffff - UDP_HEADER }
}

/// Brings a datagram, or a super-datagram, to the program: [`wrap`]ped whole where the device takes that (`whole`), else each
/// datagram for itself and in order: the headers of one lie over the end of the one before it, which has gone.
pub fn bring(
    buffer: &mut [u8],
    data: Range<usize>,
    ends: (SocketAddr, SocketAddr),
    segment: usize,
    whole: bool,
    sink: &mut dyn Sink,
) {
    let (source, destination) = ends;
    let step = if segment == 0 || whole { data.len().max(1) } else { segment };
    let mut at = data.start;
    loop {
        let length = step.min(data.end - at);
        if let Some(frame) = wrap(buffer, at, length, source, destination, segment) {
            sink.send(frame);
        }
        at += length;
        if at >= data.end {
            return;
        }
    }
}

/// Makes the frame that brings a datagram to the program: `length` bytes of data lie at `at` in `buffer`, with
/// [`HEADROOM`] before them. `segment`: the length of each datagram in a super-datagram, which the kernel then takes apart
/// or hands on whole; 0 for one datagram. `None` if no packet can hold it, or the families differ.
pub fn wrap(
    buffer: &mut [u8],
    at: usize,
    length: usize,
    source: SocketAddr,
    destination: SocketAddr,
    segment: usize,
) -> Option<&[u8]> {
    let v4 = source.is_ipv4();
    if v4 != destination.is_ipv4() || length > longest(v4) {
        return None;
    }
    let ip = if v4 { IPV4_HEADER } else { IPV6_HEADER };
    let frame = buffer.get_mut(at.checked_sub(VNET_HEADER + ip + UDP_HEADER)?..at + length)?;
    let (vnet, packet) = frame.split_at_mut(VNET_HEADER);
    vnet.fill(0);
    vnet[0] = NEEDS_CHECKSUM;
    if segment > 0 && segment < length {
        vnet[1] = GSO_UDP;
        vnet[2..4].copy_from_slice(&((ip + UDP_HEADER) as u16).to_ne_bytes());
        vnet[4..6].copy_from_slice(&(segment as u16).to_ne_bytes());
    }
    vnet[6..8].copy_from_slice(&(ip as u16).to_ne_bytes());
    vnet[8..10].copy_from_slice(&6u16.to_ne_bytes());
    emit::ip_header(&mut packet[..ip], source.ip(), destination.ip(), UDP, UDP_HEADER + length);
    let udp = &mut packet[ip..ip + UDP_HEADER];
    udp[..2].copy_from_slice(&source.port().to_be_bytes());
    udp[2..4].copy_from_slice(&destination.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((UDP_HEADER + length) as u16).to_be_bytes());
    udp[6..8].copy_from_slice(&emit::partial(source.ip(), destination.ip(), UDP, UDP_HEADER + length).to_be_bytes());
    Some(frame)
}
