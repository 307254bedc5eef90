//! What `-v` says at the end of a jail: how many of what, by rule and by outcome.
//!
//! It counts only what has a fixed set of values, so that no jail can make it grow.

use std::collections::BTreeMap;
use std::fmt;

use super::{Kind, Record};
use crate::policy::Rule;

/// Counts over all records of a jail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    flows: BTreeMap<&'static str, u64>,
    denied_flows: BTreeMap<Rule, u64>,
    questions: u64,
    denied_questions: BTreeMap<Rule, u64>,
    bytes_out: u64,
    bytes_in: u64,
    lost: u64,
}

impl Summary {
    /// Counts one record.
    pub fn add(&mut self, record: &Record) {
        let denied = record.rule.refusal().is_some();
        match record.kind {
            Kind::Flow if denied => *self.denied_flows.entry(record.rule).or_default() += 1,
            Kind::Question if denied => *self.denied_questions.entry(record.rule).or_default() += 1,
            Kind::Question => self.questions += 1,
            Kind::Flow => {
                let outcome = record.end.map_or("unknown", |end| end.close.name());
                *self.flows.entry(outcome).or_default() += 1;
            }
        }
        if let Some(end) = record.end {
            // The figures come from the relay, which may lie.
            self.bytes_out = self.bytes_out.saturating_add(end.bytes_out);
            self.bytes_in = self.bytes_in.saturating_add(end.bytes_in);
        }
    }

    /// How many records were counted.
    pub fn records(&self) -> u64 {
        let denied = self.denied_flows.values().chain(self.denied_questions.values());
        self.questions + self.flows.values().chain(denied).sum::<u64>()
    }

    /// Whether anything came back from the network.
    pub fn answered(&self) -> bool {
        self.bytes_in > 0
    }

    /// Counts records that were lost on the way.
    pub fn lose(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }
}

impl fmt::Display for Summary {
    /// One to five lines, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flows: u64 = self.flows.values().sum();
        write!(f, "{} out, {} in", size(self.bytes_out), size(self.bytes_in))?;
        write!(f, "\n{} allowed{}", count(flows, "flow"), list(self.flows.iter().map(|(name, n)| (*name, *n))))?;
        let by_rule = |rules: &BTreeMap<Rule, u64>| list(rules.iter().map(|(rule, n)| (rule.name(), *n)));
        if !self.denied_flows.is_empty() {
            let denied = self.denied_flows.values().sum();
            write!(f, "\n{} denied{}", count(denied, "flow"), by_rule(&self.denied_flows))?;
        }
        let denied: u64 = self.denied_questions.values().sum();
        write!(f, "\n{}", count(self.questions + denied, "question"))?;
        if denied > 0 {
            write!(f, ", {denied} denied{}", by_rule(&self.denied_questions))?;
        }
        if self.lost > 0 {
            write!(f, "\n{} lost: not in the log", count(self.lost, "record"))?;
        }
        Ok(())
    }
}

fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// `: 3 finished, 1 socks-refused`, the most frequent first; nothing for nothing.
fn list(entries: impl Iterator<Item = (&'static str, u64)>) -> String {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    let parts: Vec<String> = entries.iter().map(|(name, n)| format!("{n} {name}")).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

/// Decimal units, three digits or so.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut whole, mut tenth, mut unit) = (bytes / 1000, bytes / 100 % 10, 0);
    while whole >= 1000 {
        (tenth, whole) = (whole / 100 % 10, whole / 1000);
        unit += 1;
    }
    format!("{whole}.{tenth} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Close, End, Protocol};
    use crate::overlay::DialError;

    fn flow(rule: Rule, close: Option<Close>) -> Record {
        let mut record = Record::new(Kind::Flow, Protocol::Tcp, rule, 0);
        record.end =
            close.map(|close| End { bytes_out: 1500, bytes_in: 2_000_000, datagrams: None, duration_ms: 1, close });
        record
    }

    #[test]
    fn it_counts_by_outcome_and_by_rule() {
        let mut summary = Summary::default();
        for _ in 0..3 {
            summary.add(&flow(Rule::Default, Some(Close::Finished)));
        }
        summary.add(&flow(Rule::Default, Some(Close::Dial(DialError::Reply(5)))));
        summary.add(&flow(Rule::Private, None));
        summary.add(&Record::new(Kind::Question, Protocol::Udp, Rule::Default, 0));
        summary.add(&Record::new(Kind::Question, Protocol::Udp, Rule::MalformedName, 0));
        summary.lose(2);
        let text = "6.0 kB out, 8.0 MB in\n4 flows allowed: 3 finished, 1 socks-refused\n1 flow denied: 1 private\n\
                    2 questions, 1 denied: 1 malformed-name\n2 records lost: not in the log";
        assert_eq!(summary.to_string(), text);
    }

    #[test]
    fn nothing_happened_is_said_too() {
        assert_eq!(Summary::default().to_string(), "0 B out, 0 B in\n0 flows allowed\n0 questions");
    }

    #[test]
    fn a_lying_relay_overflows_nothing() {
        let mut summary = Summary::default();
        for _ in 0..2 {
            let mut record = flow(Rule::Default, Some(Close::Finished));
            record.end.as_mut().unwrap().bytes_in = u64::MAX;
            summary.add(&record);
        }
        assert!(summary.to_string().contains("18.4 EB in"));
    }
}
