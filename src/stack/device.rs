//! The seam to smoltcp: one packet in, and packets out with the virtio-net header that makes the kernel segment them.
//!
//! smoltcp is told that the device carries 65,535 bytes, and that the client takes segments as long (see
//! [`super::flow::hold`]), so it fills each packet from the ring. What is longer than the client's true segment leaves with
//! `gso_size` set, and the kernel cuts it, or hands it on whole; both families alike. smoltcp computes no TCP checksum: the
//! kernel is asked to (NEEDS_CSUM), and within one machine never does.

use std::net::IpAddr;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::emit;
use super::packet::{GSO_TCP4, GSO_TCP6, IPV4_HEADER, IPV6_HEADER, NEEDS_CHECKSUM, TCP};
use crate::tun::VNET_HEADER;

/// The longest IP packet.
pub(super) const LONGEST: usize = 65_535;

/// Where packets go: virtio-net header and IP packet, one for each write of the TUN.
pub trait Sink {
    /// Sends one packet; a device that can not take it drops it.
    fn send(&mut self, frame: &[u8]);
}

impl<F: FnMut(&[u8])> Sink for F {
    fn send(&mut self, frame: &[u8]) {
        self(frame)
    }
}

/// A device for the time of one call into smoltcp.
pub(super) struct Wire<'a> {
    /// The packet that comes in, without a virtio-net header.
    pub incoming: Option<&'a [u8]>,
    /// Room for the longest packet and its header.
    pub scratch: &'a mut [u8],
    pub sink: &'a mut dyn Sink,
    /// The client's true segment size.
    pub segment: u16,
}

pub(super) fn scratch() -> Box<[u8]> {
    vec![0; VNET_HEADER + LONGEST].into_boxed_slice()
}

pub(super) fn capabilities() -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = LONGEST;
    // What comes in was checked by `packet`.
    capabilities.checksum.ipv4 = Checksum::Tx;
    capabilities.checksum.tcp = Checksum::None;
    capabilities
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing { scratch: self.scratch, sink: self.sink, segment: self.segment }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing { scratch: self.scratch, sink: self.sink, segment: self.segment })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Outgoing<'a> {
    scratch: &'a mut [u8],
    sink: &'a mut dyn Sink,
    segment: u16,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let frame = &mut self.scratch[..VNET_HEADER + len];
        let result = f(&mut frame[VNET_HEADER..]);
        dress(frame, self.segment);
        self.sink.send(frame);
        result
    }
}

/// Fills in the virtio-net header and the partial checksum of a TCP packet that smoltcp wrote behind it.
fn dress(frame: &mut [u8], segment: u16) {
    let (header, packet) = frame.split_at_mut(VNET_HEADER);
    header.fill(0);
    let (source, destination, ip, gso) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= IPV4_HEADER + 20 => {
            let at = |i: usize| IpAddr::from([packet[i], packet[i + 1], packet[i + 2], packet[i + 3]]);
            (at(12), at(16), IPV4_HEADER, GSO_TCP4)
        }
        Some(6) if packet.len() >= IPV6_HEADER + 20 => {
            let at = |i: usize| packet[i..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
            let (Some(source), Some(destination)) = (at(8), at(24)) else { return };
            (source, destination, IPV6_HEADER, GSO_TCP6)
        }
        _ => return,
    };
    let headers = ip + usize::from(packet[ip + 12] >> 4) * 4;
    let sum = emit::partial(source, destination, TCP, packet.len() - ip);
    packet[ip + 16..ip + 18].copy_from_slice(&sum.to_be_bytes());
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&(ip as u16).to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    if packet.len() > headers + usize::from(segment) {
        header[1] = gso;
        header[2..4].copy_from_slice(&(headers as u16).to_ne_bytes());
        header[4..6].copy_from_slice(&segment.to_ne_bytes());
    }
}
