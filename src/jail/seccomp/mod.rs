//! Which system calls the processes of a jail, and netjail's own roles, may make.
//!
//! - [`assembler`]: rules (data) become a classic-BPF program; the only place that knows BPF.
//! - [`payload`]: the table for what runs in the jail, each row with its reason.
//! - [`roles`]: the cages of relay, warden and mediator, and the relay's empty network namespace.
//! - [`install`]: gives a program to the kernel, and fetches the listener of a filter that notifies.
//!
//! A [`Policy`](assembler::Policy) is plain data. The tests interpret the assembled program over every row, so the table
//! that a person reads is the table that the kernel runs.

pub mod assembler;
pub mod install;
pub mod payload;
pub mod roles;
mod shared;

pub use assembler::{Policy, Verdict};
pub use install::{InstallError, Installed, install};
pub use payload::{Options, Sockets};
