//! What is not TCP: DNS questions pass to the caller, everything else is refused at once by an ICMP error.
//!
//! An echo reply for any address would be a lie, so a ping is answered only with the truth that it may not leave. Other
//! ICMP has no use for a stack without routers, and is dropped.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::Event;
use super::packet::{ICMP, ICMP6, Packet, UDP};
use crate::flow::Refusal;

/// What becomes of datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// The addresses whose port 53 is answered: `None` is every address.
    pub resolvers: Option<Vec<IpAddr>>,
    /// What the sender of any other datagram is told.
    pub refusal: Refusal,
    /// What the sender of a ping is told.
    pub echo: Refusal,
    /// What the sender of any other protocol is told.
    pub other: Refusal,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self { resolvers: None, refusal: Refusal::Prohibited, echo: Refusal::Prohibited, other: Refusal::Prohibited }
    }
}

/// Takes one packet that is not TCP. `None`: it is dropped; `Some(Some(_))`: it is refused.
pub(super) fn receive(
    datagrams: &Datagrams,
    packet: &Packet<'_>,
    events: &mut VecDeque<Event>,
) -> Option<Option<Refusal>> {
    let payload = packet.payload();
    match packet.protocol {
        UDP => {
            let header = payload.get(..8)?;
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let data = payload.get(8..length)?;
            let client = SocketAddr::new(packet.source, u16::from_be_bytes([header[0], header[1]]));
            let server = SocketAddr::new(packet.destination, u16::from_be_bytes([header[2], header[3]]));
            let served = datagrams.resolvers.as_ref().is_none_or(|only| only.contains(&server.ip()));
            if server.port() != 53 || !served {
                events.push_back(Event::DatagramRefused { client, server });
                return Some(Some(datagrams.refusal));
            }
            // The kernel passes a burst to one peer as one super-datagram (USO).
            let segment = if packet.segment == 0 { data.len().max(1) } else { packet.segment };
            for piece in data.chunks(segment) {
                events.push_back(Event::Query { client, server, data: piece.to_vec() });
            }
            Some(None)
        }
        ICMP | ICMP6 => {
            let request = if packet.protocol == ICMP { 8 } else { 128 };
            if payload.len() < 8 || payload[0] != request {
                return None;
            }
            events.push_back(Event::EchoRefused { client: packet.source, server: packet.destination });
            Some(Some(datagrams.echo))
        }
        _ => Some(Some(datagrams.other)),
    }
}
