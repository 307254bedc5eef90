//! Keepalive of the connections that last: most are over before it could matter, and are spared its four system calls.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};

use super::Worker;
use crate::stack::{Duration, FlowId, Instant};

/// How long a connection lives before it gets keepalive.
const LASTS: Duration = Duration::from_secs(2);

/// After how many silent seconds the far side is asked whether it lives: as the stack asks the program. Address translators
/// on the way forget a connection that is silent for longer, and a host that is gone is noticed four minutes later.
const SILENCE: u32 = 15 * 60;

/// The connections that are young, in the order of their ages.
#[derive(Debug, Default)]
pub(super) struct Young {
    flows: VecDeque<(Instant, FlowId)>,
}

impl Young {
    /// When [`Worker::young_due`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.flows.front().map(|(at, _)| *at)
    }

    pub fn shrink(&mut self) {
        self.flows.shrink_to_fit();
    }
}

impl Worker {
    /// A flow has its connection.
    pub(super) fn is_born(&mut self, id: FlowId) {
        self.young.flows.push_back((self.now + LASTS, id));
    }

    /// Sees to those that have become old enough.
    pub(super) fn young_due(&mut self) {
        while let Some(&(at, id)) = self.young.flows.front()
            && at <= self.now
        {
            self.young.flows.pop_front();
            if let Some(fd) = self.flow(id).and_then(|flow| flow.fd.as_ref()) {
                keep_alive(fd);
            }
        }
    }
}

/// Each of these only tunes; a socket that refuses one still carries bytes.
pub(super) fn keep_alive(fd: &OwnedFd) {
    let _ = setsockopt(fd, sockopt::KeepAlive, &true);
    let _ = setsockopt(fd, sockopt::TcpKeepIdle, &SILENCE);
    let _ = setsockopt(fd, sockopt::TcpKeepInterval, &60);
    let _ = setsockopt(fd, sockopt::TcpKeepCount, &4);
}
