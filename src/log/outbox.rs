//! A worker's records on their way to the warden.
//!
//! A worker must neither wait for the warden nor grow without bound: records queue here up to a number of bytes, are cut
//! into messages that fit the channel, and what finds no room is counted, never lost in silence.

use std::collections::VecDeque;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};

use super::{Kind, Record};

/// The most bytes of records in one batch.
pub const MAX_BATCH: usize = 63 * 1024;

/// The most bytes of records that wait; about 10,000 records.
const MAX_QUEUED: usize = 1024 * 1024;

/// Records for one message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// How many records found no room since the last batch.
    pub lost: u64,
    /// The records, oldest first.
    pub records: Vec<Record>,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<(usize, Record)>,
    bytes: usize,
    lost: u64,
}

impl Outbox {
    /// Queues a record, or counts it where there is no room.
    pub fn push(&mut self, record: Record) {
        // Questions are cheap to ask: a flood of them must not push out the record of a flow.
        let most = if record.kind == Kind::Question { MAX_QUEUED / 2 } else { MAX_QUEUED };
        match encoded_size(&record) {
            Some(size) if size <= MAX_BATCH && self.bytes + size <= most => {
                self.bytes += size;
                self.queue.push_back((size, record));
            }
            _ => self.lost += 1,
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lost == 0
    }

    /// How many records wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes as many records as fit one message; give the batch back with [`put_back`](Self::put_back) if it did not go.
    pub fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let mut batch = Batch { lost: std::mem::take(&mut self.lost), records: Vec::new() };
        let mut room = MAX_BATCH;
        while let Some((size, record)) = self.queue.pop_front() {
            if size > room {
                self.queue.push_front((size, record));
                break;
            }
            room -= size;
            self.bytes -= size;
            batch.records.push(record);
        }
        Some(batch)
    }

    /// Takes back a batch that the channel had no room for; it is the next one again.
    pub fn put_back(&mut self, batch: Batch) {
        self.lost += batch.lost;
        for record in batch.records.into_iter().rev() {
            // It fitted before; it may now exceed the bound by one batch, and no more.
            let size = encoded_size(&record).unwrap_or(MAX_BATCH);
            self.bytes += size;
            self.queue.push_front((size, record));
        }
    }
}

fn encoded_size(record: &Record) -> Option<usize> {
    postcard::serialize_with_flavor(record, Size::default()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Kind, Protocol};
    use crate::policy::Rule;

    fn record(name_length: usize) -> Record {
        let mut record = Record::new(Kind::Flow, Protocol::Tcp, Rule::Default, u64::MAX);
        record.name = Some("n".repeat(name_length));
        record
    }

    #[test]
    fn every_batch_fits_the_channel_and_keeps_the_order() {
        let mut outbox = Outbox::default();
        for length in 0..2000 {
            outbox.push(record(length % 256));
        }
        let mut lengths = Vec::new();
        while let Some(batch) = outbox.take() {
            assert!(postcard::to_stdvec(&batch).unwrap().len() <= MAX_BATCH + 16);
            assert!(!batch.records.is_empty());
            lengths.extend(batch.records.iter().map(|r| r.name.as_ref().unwrap().len()));
        }
        assert_eq!(lengths, (0..2000).map(|length| length % 256).collect::<Vec<_>>());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut outbox = Outbox::default();
        outbox.push(record(MAX_BATCH));
        for _ in 0..100_000 {
            outbox.push(record(200));
        }
        assert!(outbox.bytes <= MAX_QUEUED);
        let kept = outbox.len() as u64;
        assert_eq!(outbox.take().unwrap().lost, 100_001 - kept);
    }

    proptest::proptest! {
        #[test]
        fn what_a_hostile_relay_sends_is_refused_or_is_one_bounded_line_each(
            place in 0..400usize, byte in proptest::prelude::any::<u8>(), random in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)
        ) {
            let mut bytes = postcard::to_stdvec(&Batch { lost: 1, records: vec![record(20), record(300)] }).unwrap();
            let place = place % bytes.len();
            bytes[place] = byte;
            for bytes in [bytes, random] {
                for record in postcard::from_bytes::<Batch>(&bytes).map(|batch| batch.records).unwrap_or_default() {
                    let line = crate::log::json::line(&record, "one");
                    assert!(line.len() <= crate::log::json::MAX_LINE && line.matches('\n').count() == 1);
                }
            }
        }
    }

    #[test]
    fn a_batch_put_back_is_the_next_one_again() {
        let mut outbox = Outbox::default();
        (0..1000).for_each(|_| outbox.push(record(200)));
        let before = outbox.bytes;
        let first = outbox.take().unwrap();
        outbox.put_back(first.clone());
        assert_eq!(outbox.bytes, before);
        assert_eq!(outbox.take().unwrap(), first);
    }
}
