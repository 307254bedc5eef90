//! Who may go where: [`Table::decide`] is asked about every flow and every DNS question before anything leaves.
//!
//! It is a pure function over an immutable [`Table`]: the warden makes one table for each generation of the registry and
//! sends it to the relay, whose workers share it. Nothing here does I/O, and a decision allocates nothing.
//!
//! - [`rules`]: the names of all rules, limits included, with what a program is told by each (`docs/rules.md`).
//! - [`address`]: what an address is to the host: itself, its link, private, or the open internet.
//! - [`table`]: the decision.

mod address;
mod rules;
mod table;

pub use address::{JAIL_V4, JAIL_V6, OwnAddress, judge_direct};
pub use rules::Rule;
pub use table::Table;

use crate::flow::{HostName, Refusal, Target};
use crate::registry::Id;

/// What a jail asks for.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// A connection, or datagrams to a server.
    Flow(&'a Target),
    /// A DNS question for this name; the type is in the record only.
    Question(&'a HostName),
}

/// The answer, for the worker to carry out and the log to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'t> {
    /// Go, over this network.
    Allow {
        /// The network that carries it.
        network: &'t Id,
        /// The rule that said so.
        rule: Rule,
    },
    /// Do not go.
    Deny {
        /// What the program is told.
        refusal: Refusal,
        /// The rule that said so.
        rule: Rule,
    },
}

impl Verdict<'_> {
    /// The rule that decided.
    pub fn rule(&self) -> Rule {
        match self {
            Verdict::Allow { rule, .. } | Verdict::Deny { rule, .. } => *rule,
        }
    }
}
