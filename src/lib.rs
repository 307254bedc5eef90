//! netjail starts a command in a network namespace of its own whose only way out is the overlay its user chose.
//!
//! `ARCHITECTURE.md` has the map: one line for each module, the path of a byte and the path of a process.

pub mod control;
pub mod flow;
pub mod jail;
pub mod mediate;
pub mod policy;
pub mod registry;
