//! The seam to smoltcp: one packet in, and packets out with the virtio-net header that makes the kernel segment them.
//!
//! smoltcp is told that the device carries 65,535 bytes, and that the client takes segments as long (see
//! [`super::flow::Held::for_socket`]), so it fills each packet from the ring. What leaves is [`super::train`]'s.

use smoltcp::iface::Interface;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::train::{Train, Way};

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

/// What all flows of a stack share on their way into smoltcp and out.
pub(super) struct Port<'a> {
    pub interface: &'a mut Interface,
    pub train: &'a mut Train,
    pub sink: &'a mut dyn Sink,
}

/// A device for the time of one call into smoltcp, or of a row of them, for one flow.
pub(super) struct Wire<'a> {
    /// The packet that comes in, without a virtio-net header.
    pub incoming: Option<&'a [u8]>,
    pub train: &'a mut Train,
    pub way: Way<'a>,
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

impl<'a> Device for Wire<'a> {
    type RxToken<'t>
        = Incoming<'a>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t, 'a>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'a>, Outgoing<'_, 'a>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_, 'a>> {
        Some(Outgoing(self))
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

pub(super) struct Outgoing<'t, 'a>(&'t mut Wire<'a>);

impl TxToken for Outgoing<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.train.add(len, &mut self.0.way, f)
    }
}
