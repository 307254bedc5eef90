//! Bytes between a flow's rings and its descriptor, in place and in both directions.
//!
//! A direction moves while it can: until the ring is empty or the descriptor would block (to the overlay), until the
//! descriptor is empty or the ring too full to be worth it (to the program). Ends pass one by one: a FIN becomes a
//! shutdown(2), an end of file a FIN; a reset in either direction becomes a reset in the other, and at once.

use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, Shutdown, getsockopt, recv, send, shutdown, sockopt};

use super::Worker;
use super::flow::Stage;
use super::poll::Readiness;
use crate::log::Close;
use crate::stack::{Drained, FlowId};

/// How a direction stopped.
enum Stop {
    /// For now.
    Pause,
    /// The other side reset the connection, or it failed.
    Broken,
}

impl Worker {
    /// A flow's descriptor changed.
    pub(super) fn upstream_ready(&mut self, id: FlowId, readiness: Readiness) {
        let Some(flow) = self.flow(id) else { return };
        flow.readable |= readiness.readable;
        flow.writable |= readiness.writable;
        flow.ending |= readiness.ending;
        match flow.stage {
            Stage::Dialling(_) => self.dial_step(id),
            Stage::Open => self.pump(id),
            Stage::Questions(_) => {}
        }
    }

    /// Moves what can be moved.
    pub(super) fn pump(&mut self, id: FlowId) {
        let Some(flow) = self.flow(id) else { return };
        match flow.stage {
            Stage::Dialling(_) => {}
            Stage::Questions(_) => self.converse(id),
            Stage::Open => {
                self.send_up(id);
                if matches!(self.bring_down(id), Stop::Broken) {
                    // What came before the reset goes out before it.
                    self.stack.flush(self.now, &mut &self.queue);
                    self.stack.abort(self.now, id, &mut &self.queue);
                    self.close(id, Close::ResetByPeer, false);
                }
            }
        }
    }

    fn send_up(&mut self, id: FlowId) {
        let now = self.now;
        let Self { flows, stack, moved, .. } = self;
        let Some(flow) = flows.get_mut(id.slot()).and_then(|flow| flow.as_deref_mut()) else { return };
        let Some(fd) = &flow.fd else { return };
        let raw = fd.as_raw_fd();
        while flow.writable && !flow.sent_all {
            let mut broken = false;
            let drained = stack.drain(now, id, |bytes| {
                loop {
                    match send(raw, bytes, MsgFlags::MSG_NOSIGNAL) {
                        Ok(count) => break count,
                        Err(nix::Error::EINTR) => {}
                        Err(nix::Error::EAGAIN) => break 0,
                        Err(_) => {
                            broken = true;
                            break 0;
                        }
                    }
                }
            });
            match drained {
                _ if broken => {
                    // Only reading tells what the other side said before.
                    (flow.broken, flow.sent_all, flow.readable, flow.ending) = (true, true, true, true);
                }
                Drained::Some { offered, taken } => {
                    flow.bytes_out += taken as u64;
                    *moved += taken as u64;
                    flow.writable = taken == offered;
                }
                Drained::Finished => {
                    flow.sent_all = true;
                    *moved += 1;
                    // A connection that is gone says so when it is read.
                    let _ = shutdown(raw, Shutdown::Write);
                }
                Drained::Empty | Drained::Gone => break,
            }
        }
    }

    fn bring_down(&mut self, id: FlowId) -> Stop {
        let now = self.now;
        let Self { flows, stack, volume, .. } = self;
        let Some(flow) = flows.get_mut(id.slot()).and_then(|flow| flow.as_deref_mut()) else { return Stop::Pause };
        let Some(fd) = &flow.fd else { return Stop::Pause };
        let raw = fd.as_raw_fd();
        while flow.readable && !flow.received_all && stack.wants_fill(id) {
            let (mut broken, mut over, mut short) = (false, false, false);
            let count = stack.fill(now, id, |room| {
                loop {
                    match recv(raw, room, MsgFlags::empty()) {
                        Ok(0) => {
                            over = true;
                            break 0;
                        }
                        Ok(count) => {
                            short = count < room.len();
                            break count;
                        }
                        Err(nix::Error::EINTR) => {}
                        Err(nix::Error::EAGAIN) => {
                            short = true;
                            break 0;
                        }
                        Err(_) => {
                            broken = true;
                            break 0;
                        }
                    }
                }
            });
            flow.bytes_in += count as u64;
            *volume += count;
            if broken {
                return Stop::Broken;
            }
            if over && flow.broken {
                return Stop::Broken;
            }
            if over {
                flow.received_all = true;
                stack.finish(now, id);
            } else if count == 0 || (short && !flow.ending) {
                // A short read of a stream empties it: what comes later is a new edge (epoll(7), question 9).
                flow.readable = false;
            }
        }
        if flow.broken && flow.received_all {
            return Stop::Broken;
        }
        // A reset that comes while nothing is to be read or written is seen here.
        if flow.ending && flow.received_all && !flow.sent_all && flow.readable {
            flow.readable = false;
            flow.ending = false;
            if matches!(getsockopt(fd, sockopt::SocketError), Ok(errno) if errno != 0) {
                return Stop::Broken;
            }
        }
        Stop::Pause
    }
}
