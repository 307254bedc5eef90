//! The end of a jail: what its programs wrote before they ended is delivered, as it would be without a jail.
//!
//! A program may write and end at once. Its socket then lives on in the kernel until the other side has everything (an
//! orphan, tcp(7)), here too: the namespace lives as long as a queue of its TUN is open. So a worker that is told to stop
//! goes on until each flow has had the program's FIN or reset and all bytes before it were taken by the descriptor, whose
//! own socket is then the host's orphan. Dials and questions are dropped: nobody waits for them. Datagrams that wait for an association at a proxy still go.
//!
//! The limits are [`DRAIN_STALL`] without a byte that could be delivered, and [`DRAIN_MOST`] in all; what is left after
//! them is reset, because an orderly end would be a lie.

use crate::control::worker::{DRAIN_MOST, DRAIN_STALL, ToWarden};
use crate::log::Close;
use crate::stack::{Duration, FlowId, Instant};

use super::flow::{Flow, Stage};
use super::tune;
use super::{Worker, WorkerError, dns};

/// How far it is.
pub(super) struct Drain {
    until: Instant,
    stalls_at: Instant,
    /// [`Worker::moved`] when that was set.
    moved: u64,
    told: bool,
}

fn span(duration: std::time::Duration) -> Duration {
    Duration::from_micros(duration.as_micros() as u64)
}

impl Worker {
    /// The jail's tree is dead.
    pub(super) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let (until, stalls_at) = (self.now + span(DRAIN_MOST), self.now + span(DRAIN_STALL));
        self.drain = Some(Drain { until, stalls_at, moved: self.moved, told: false });
        // The last packets were sent before the tree was dead, so one look at the queue finds them.
        self.queue_readable = true;
        self.forwarder = dns::Forwarder::new(Vec::new());
        self.drop_ready();
        let pending: Vec<FlowId> =
            self.flows.iter().flatten().filter(|flow| !matches!(flow.stage, Stage::Open)).map(|flow| flow.id).collect();
        for id in pending {
            self.drop_dial(id);
        }
    }

    /// A dial that nobody waits for any more, or a conversation.
    pub(super) fn drop_dial(&mut self, id: FlowId) {
        let refusal = crate::stack::Limit::REFUSAL;
        self.stack.refuse(id, refusal, &mut &self.queue);
        self.forget(id, Close::CutOff, refusal);
    }

    /// When a limit is reached.
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        self.drain.as_ref().map(|drain| drain.until.min(drain.stalls_at))
    }

    /// Ends the worker if everything is delivered or a limit is reached; tells the warden if it takes longer than a look.
    pub(super) fn drain_step(&mut self) -> Result<(), WorkerError> {
        let Some(drain) = &mut self.drain else { return Ok(()) };
        if self.queue_readable || self.passed_on || !self.stack.is_flushed() {
            return Ok(());
        }
        if drain.moved != self.moved {
            drain.moved = self.moved;
            drain.stalls_at = self.now + span(DRAIN_STALL);
        }
        let late = self.now >= drain.until.min(drain.stalls_at);
        if late || (self.flows.iter().flatten().all(|flow| flow.sent_all) && !self.udp.is_waiting()) {
            self.over = true;
        } else if !drain.told {
            let told = self.tell(&ToWarden::Draining)?;
            if let Some(drain) = &mut self.drain {
                drain.told = told;
            }
        }
        Ok(())
    }

    /// Closes the flows that are left, each as honestly as it can be.
    pub(super) fn close_all(&mut self) {
        self.end_mappings();
        for flow in std::mem::take(&mut self.flows).into_iter().flatten() {
            let Flow { stage, fd, sent_all, .. } = &*flow;
            let delivered = *sent_all && matches!(stage, Stage::Open);
            if let (false, Some(fd)) = (delivered, fd) {
                tune::reset_on_close(fd);
            }
            self.record_end(*flow, if delivered { Close::JailEnded } else { Close::CutOff }, None);
        }
    }
}
