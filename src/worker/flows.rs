//! The table of flows: one begins with a judgement, is kept while it lives, and leaves one record.

use std::net::SocketAddr;

use super::flow::Flow;
use super::tune;
use super::{BURST, GIVE_BACK_WAIT, Worker};
use crate::flow::{Refusal, Target};
use crate::log::{Close, End, Kind, Protocol, Record};
use crate::names::Lookup;
use crate::policy::{Request, Rule, Verdict};
use crate::stack::FlowId;

impl Worker {
    /// What a program means by the address that it sends to, and whether it may: the beginning of the record, and the target
    /// or what refuses it.
    pub(super) fn judge(
        &self,
        protocol: Protocol,
        server: SocketAddr,
    ) -> (Record, Result<Target, (Rule, Option<Refusal>)>) {
        let mut record = Record::new(Kind::Flow, protocol, Rule::Default, self.table.generation);
        record.address = Some(server.ip());
        record.port = Some(server.port());
        let target = match self.names.lookup(server.ip()) {
            Lookup::Address => Target::Addr(server),
            Lookup::Name(name) => {
                record.name = Some(name.as_str().to_owned());
                Target::Name(name, server.port())
            }
            Lookup::Unknown => return (record, Err((Rule::UnknownPoolAddress, None))),
        };
        match self.table.decide(&Request::Flow(&target)) {
            Verdict::Deny { refusal, rule } => return (record, Err((rule, Some(refusal)))),
            Verdict::Allow { network, rule } => {
                (record.rule, record.refusal, record.network) = (rule, None, Some(network.clone()));
            }
        }
        (record, Ok(target))
    }

    pub(super) fn flow(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.slot())?.as_deref_mut().filter(|flow| flow.id == id)
    }

    pub(super) fn keep(&mut self, flow: Flow) {
        let slot = flow.id.slot();
        if self.flows.len() <= slot {
            self.flows.resize_with(slot + 1, || None);
        }
        self.flows[slot] = Some(Box::new(flow));
        self.live += 1;
        self.peak = self.peak.max(self.live);
    }

    /// Takes a flow out of the table.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<Box<Flow>> {
        self.flow(id)?;
        let flow = self.flows.get_mut(id.slot())?.take()?;
        self.live -= 1;
        if self.peak > BURST && self.live < self.peak / 4 && self.give_back_at.is_none() {
            self.give_back_at = Some(self.now + GIVE_BACK_WAIT);
        }
        Some(flow)
    }

    /// After a burst the allocator's pages go back to the kernel, which it would not do by itself.
    pub(super) fn give_back(&mut self) {
        self.give_back_at = None;
        self.peak = self.live;
        let used = self.flows.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.flows.truncate(used);
        self.flows.shrink_to_fit();
        self.young.shrink();
        self.stack.give_back();
        // SAFETY: malloc_trim(3) has no preconditions; it takes the allocator's own locks.
        unsafe { libc::malloc_trim(0) };
    }

    /// Ends a flow that the stack has ended already: closes its descriptor, with a reset if `hard`, and records it.
    pub(super) fn close(&mut self, id: FlowId, close: Close, hard: bool) {
        if let Some(flow) = self.remove(id) {
            if hard && let Some(fd) = &flow.fd {
                tune::reset_on_close(fd);
            }
            self.record_end(*flow, close, None);
        }
    }

    pub(super) fn record_end(&mut self, flow: Flow, close: Close, refusal: Option<Refusal>) {
        let Some(record) = flow.record else { return };
        let mut record = *record;
        record.refusal = refusal;
        record.end = Some(End {
            bytes_out: flow.bytes_out,
            bytes_in: flow.bytes_in,
            datagrams: None,
            duration_ms: (self.now - flow.since).total_millis(),
            close,
        });
        self.record(record);
    }
}
