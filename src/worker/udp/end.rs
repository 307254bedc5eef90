//! How associations and mappings end, and what is refused: each with its record.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use super::SAID_SLOTS;
use super::id::MappingId;
use super::leg::Leg;
use super::table::{Fate, Mapping, Peer};
use crate::flow::Refusal;
use crate::log::{Close, Datagrams, End, Record};
use crate::overlay::DialError;
use crate::policy::{Request, Rule, Table, Verdict};
use crate::stack::Duration;
use crate::worker::{GIVE_BACK_WAIT, Worker};

/// How often it is looked for what has ended, at most.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A refusal that is repeated within this time is told to the program, and not to the log.
const SAID: Duration = Duration::from_secs(60);

impl Worker {
    /// Ends what has been silent for too long, and associations that do not come about.
    pub(in crate::worker) fn mappings_due(&mut self) {
        if self.udp.sweep_at.is_some_and(|at| at <= self.now) {
            self.sweep(|_, _| None);
        }
    }

    /// The rules or the host's addresses are others: what they forbid now ends at once.
    pub(in crate::worker) fn judge_again(&mut self) {
        self.sweep(|table, peer| match table.decide(&Request::Flow(&peer.target)) {
            Verdict::Allow { .. } => None,
            Verdict::Deny { rule, .. } => Some(rule),
        });
    }

    fn sweep(&mut self, forbidden: impl Fn(&Table, &Peer) -> Option<Rule>) {
        let Self { udp, table, .. } = self;
        let (ended, empty, next) = udp.mappings.expire(self.now, |peer| forbidden(table, peer).is_none());
        for (peer, fate) in ended {
            let close = match fate {
                Fate::Idle => Close::Idle,
                Fate::Unwanted => Close::Limit(forbidden(&self.table, &peer).unwrap_or(Rule::Default)),
            };
            self.record_association(peer, close, None);
        }
        empty.into_iter().for_each(|id| self.end_mapping(id, Close::Idle));
        let late = self.associations_due();
        self.udp.sweep_at = next.into_iter().chain(late).min().map(|at| at.max(self.now + SWEEP_PAUSE));
    }

    /// Ends a mapping with everything that it remembers.
    pub(super) fn end_mapping(&mut self, id: MappingId, close: Close) {
        self.end_mapping_with(id, close, None);
    }

    pub(super) fn end_mapping_with(&mut self, id: MappingId, close: Close, refusal: Option<Refusal>) {
        let Some(mapping) = self.udp.mappings.remove(id) else { return };
        let Mapping { leg, peers, strangers, .. } = *mapping;
        if matches!(leg, Leg::Associating(_)) {
            self.udp.associating -= 1;
        }
        for peer in peers.into_values() {
            self.record_association(peer, close, refusal);
        }
        if let Some(strangers) = strangers {
            self.record_association(*strangers, close, None);
        }
        if self.udp.mappings.len() == 0 {
            self.udp.io = None;
            self.udp.ready = Vec::new();
            self.give_back_at.get_or_insert(self.now + GIVE_BACK_WAIT);
        }
    }

    /// The jail has ended, and its mappings with it.
    pub(in crate::worker) fn end_mappings(&mut self) {
        let all: Vec<MappingId> = self.udp.mappings.iter().map(|mapping| mapping.id).collect();
        for id in all {
            let cut = self.is_associating(id);
            self.end_mapping(id, if cut { Close::CutOff } else { Close::JailEnded });
        }
    }

    pub(super) fn record_association(&mut self, peer: Peer, close: Close, refusal: Option<Refusal>) {
        let Peer { record, tally, since, .. } = peer;
        let mut record = *record;
        record.refusal = refusal;
        record.end = Some(End {
            bytes_out: tally.bytes_out,
            bytes_in: tally.bytes_in,
            datagrams: Some(Datagrams { sent: tally.datagrams_out, received: tally.datagrams_in }),
            duration_ms: (self.now - since).total_millis(),
            close,
        });
        self.record(record);
    }

    /// A rule says no.
    pub(super) fn deny_datagram(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        data: &[u8],
        mut record: Record,
        rule: Rule,
        refusal: Option<Refusal>,
    ) {
        let refusal = refusal.or(rule.refusal()).unwrap_or(Refusal::Prohibited);
        (record.rule, record.refusal) = (rule, Some(refusal));
        self.stack.refuse_datagram(client, server, data, refusal, &mut &self.queue);
        if self.is_news(client, server, rule.name()) {
            self.record(record);
        }
    }

    /// The way out does not work.
    pub(super) fn fail_datagram(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        data: &[u8],
        mut record: Record,
        error: DialError,
    ) {
        self.stack.refuse_datagram(client, server, data, error.refusal(), &mut &self.queue);
        if self.is_news(client, server, error.name()) {
            record.refusal = Some(error.refusal());
            let (datagrams, close) = (Some(Datagrams::default()), Close::Dial(error));
            record.end = Some(End { bytes_out: 0, bytes_in: 0, datagrams, duration_ms: 0, close });
            self.record(record);
        }
    }

    /// Whether the log does not know this refusal yet: a program that sends a thousand datagrams in vain leaves one record
    /// a minute, not a thousand.
    pub(in crate::worker) fn is_news(&mut self, client: SocketAddr, server: SocketAddr, why: &str) -> bool {
        let hash = self.udp.hash.hash_one((client, server, why));
        let Some(slot) = self.udp.said.get_mut(hash as usize % SAID_SLOTS) else { return true };
        let known = slot.is_some_and(|(known, at)| known == hash && self.now < at + SAID);
        if !known {
            *slot = Some((hash, self.now));
        }
        !known
    }
}
