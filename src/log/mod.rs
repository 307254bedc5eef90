//! What happened: one [`Record`] for each flow and each DNS question, and where it is kept.
//!
//! A worker makes a record when a flow ends, is refused, or outlives its jail: exactly one for each. Records go to the
//! warden in batches ([`outbox`]), which writes them as lines of JSON ([`sink`], schema in `docs/log.md`) and counts
//! them ([`summary`]). The relay is not trusted with text: rules, reasons and networks cross as checked values, and names
//! are bounded and escaped ([`escape`](crate::escape::escape)) before they reach a terminal or a file.

mod json;
pub mod outbox;
mod record;
pub mod sink;
pub mod summary;

pub use outbox::{Batch, MAX_BATCH, Outbox};
pub use record::{Close, Datagrams, End, Kind, Origin, Protocol, Record, now_micros};
pub use sink::{LogError, Sink};
pub use summary::Summary;
