//! The line of a record.
