//! netjail starts a command in a network namespace of its own whose only way out is the overlay its user chose.
//!
//! `ARCHITECTURE.md` has the map: one line for each module, the path of a byte and the path of a process.

pub mod check;
pub mod cli;
pub mod control;
pub mod demo;
pub mod flow;
pub mod jail;
pub mod log;
pub mod mediate;
pub mod names;
pub mod overlay;
pub mod policy;
pub mod registry;
pub mod roles;
pub mod stack;
pub mod tun;
pub mod worker;

/// Runs the program and returns its exit status.
pub fn start() -> i32 {
    let ignored = jail::payload::ignored_signals();
    roles::streams::fill_holes();
    cli::main(ignored)
}
