//! When which flow wants to be looked at: one heap, with lazy deletion.
//!
//! A retransmission timer moves with each segment, so the heap is not told about a deadline that moves *back*: the entry
//! that is there fires, the flow is asked again, and the true deadline is entered then. An entry is live if it is the one
//! that its flow remembers; dead ones are dropped when they come up, or all at once when they outnumber the live.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smoltcp::time::Instant;

use super::flow::FlowId;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, FlowId)>>,
}

impl Deadlines {
    /// Makes sure that `flow` comes up at `at` or before; `registered` is what the flow remembers.
    pub fn set(&mut self, flow: FlowId, at: Instant, registered: &mut Option<Instant>) {
        if registered.is_none_or(|earlier| at < earlier) {
            *registered = Some(at);
            self.heap.push(Reverse((at, flow)));
        }
    }

    /// The earliest entry's time. It may be dead: then looking costs one needless wake-up.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next entry that is due.
    pub fn due(&mut self, now: Instant) -> Option<(Instant, FlowId)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Drops dead entries if there are many more than `flows`.
    pub fn tidy(&mut self, flows: usize, live: impl Fn(FlowId, Instant) -> bool) {
        if self.heap.len() > 4 * flows + 1024 {
            self.shrink(live);
        }
    }

    /// Drops all dead entries, and gives their memory back.
    pub fn shrink(&mut self, live: impl Fn(FlowId, Instant) -> bool) {
        self.heap.retain(|Reverse((at, flow))| live(*flow, *at));
        self.heap.shrink_to_fit();
    }

    /// Entries, dead ones included.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }
}
