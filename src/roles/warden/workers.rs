//! The talk with the relay's workers: dials for them, their records, and what changes on the host meanwhile.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::Warden;
use super::clients;
use super::dialler::Dialled;
use crate::control::channel::ChannelError;
use crate::control::messages::WardenToFront;
use crate::control::worker::{AHEAD_MOST, FromWarden, ToWarden};
use crate::overlay::DialError;

impl Warden {
    pub(super) fn hear_worker(&mut self, index: usize) {
        let Some(Some(worker)) = self.workers.get(index) else { return };
        match worker.receive() {
            Ok((ToWarden::Dial { id }, _)) => self.dial(index, id),
            Ok((ToWarden::Ahead { count }, _)) => self.dial_ahead(index, count),
            Ok((ToWarden::Relay { id, relay }, _)) => self.relay_for(index, id, relay),
            Ok((ToWarden::NoDatagrams { error }, _)) => self.no_datagrams(error),
            Ok((ToWarden::Unreached, _)) => {
                if let Some(dialler) = &mut self.dialler {
                    dialler.failed();
                }
            }
            Ok((ToWarden::Up, _)) => self.worker_up(),
            Ok((ToWarden::Draining, _)) => self.draining = true,
            Ok((ToWarden::Stopped, _)) => self.workers[index] = None,
            Ok((ToWarden::Records(batch), _)) => self.write(&batch),
            Err(ChannelError::WouldBlock) => {}
            // The relay's own channel tells whether that is the end.
            Err(_) => self.workers[index] = None,
        }
    }

    fn dial(&mut self, index: usize, id: u64) {
        let (Some(dialler), Some(Some(worker))) = (&mut self.dialler, self.workers.get(index)) else { return };
        let sent = match dialler.dial() {
            Dialled::Socket(socket) => worker.send_with(&FromWarden::Dialled { id }, &[socket.as_fd()]),
            Dialled::Failed(errno) => worker.send(&FromWarden::DialFailed { id, error: dial_error(errno) }),
            Dialled::Wait if self.waiting.len() < clients::MOST_WAITING => {
                self.waiting.push((index, id));
                Ok(())
            }
            Dialled::Wait => worker.send(&FromWarden::DialFailed { id, error: DialError::Proxy(libc::EAGAIN) }),
        };
        // A worker that does not take its answers lets its dials time out.
        let _ = sent;
    }

    /// Connections that nobody waits for: what can not be made now is not made.
    fn dial_ahead(&mut self, index: usize, count: u8) {
        let (Some(dialler), Some(Some(worker))) = (&mut self.dialler, self.workers.get(index)) else { return };
        let mut sockets = Vec::new();
        while sockets.len() < usize::from(count).min(AHEAD_MOST)
            && let Dialled::Socket(socket) = dialler.dial()
        {
            sockets.push(socket);
        }
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let _ = worker.send_with(&FromWarden::Ahead, &descriptors);
    }

    /// A worker wants to send datagrams to the proxy.
    fn relay_for(&self, index: usize, id: u64, relay: SocketAddr) {
        let (Some(dialler), Some(Some(worker))) = (&self.dialler, self.workers.get(index)) else { return };
        let _ = match dialler.relay(relay) {
            Ok(socket) => worker.send_with(&FromWarden::Relay { id }, &[socket.as_fd()]),
            Err(error) => worker.send(&FromWarden::DialFailed { id, error }),
        };
    }

    /// The proxy carries no datagrams: said once.
    fn no_datagrams(&mut self, error: DialError) {
        if !std::mem::replace(&mut self.said_no_datagrams, true) {
            let network = &self.chosen.network.id;
            self.say_verbosely(&format!(
                "{network} carries no datagrams, so UDP is refused in this jail, and QUIC falls back to TCP: {error}"
            ));
        }
    }

    pub(super) fn dial_waiting(&mut self) {
        if let Some(dialler) = &mut self.dialler {
            dialler.resolved();
        }
        for (index, id) in std::mem::take(&mut self.waiting) {
            self.dial(index, id);
        }
    }

    fn write(&mut self, batch: &crate::log::Batch) {
        batch.records.iter().for_each(|record| self.summary.add(record));
        self.summary.lose(batch.lost);
        if let Some(sink) = &mut self.sink {
            sink.write(&batch.records);
            sink.lose(batch.lost);
            if let Some(trouble) = sink.trouble() {
                let _ = self.front.send(&WardenToFront::Say(trouble.to_string()));
            }
        }
    }
}

/// The proxy could not be dialled; without an address there was no name to dial.
fn dial_error(errno: Errno) -> DialError {
    if errno == Errno::ENXIO { DialError::ProxyName } else { DialError::Proxy(errno as i32) }
}
