//! Who may go where: [`decide`] is asked about every flow and every DNS question before anything leaves.
//!
//! It is a pure function over an immutable [`Table`]: the warden makes one table for each generation of the registry and
//! sends it to the relay, whose workers share it. Nothing here does I/O.

mod table;

pub use table::{OwnAddress, Table};

use crate::flow::{HostName, Refusal, Target};
use crate::registry::Id;

/// What a jail asks for.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// A TCP connection.
    Flow(&'a Target),
    /// A DNS question for this name; the type is in the record only.
    Question(&'a HostName),
}

/// The answer, for the worker to carry out and the log to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go, over this network.
    Allow {
        /// The network that carries it.
        network: Id,
        /// The rule that said so.
        rule: &'static str,
    },
    /// Do not go.
    Deny {
        /// What the program is told.
        refusal: Refusal,
        /// The rule that said so, as the docs list it.
        rule: &'static str,
    },
}
