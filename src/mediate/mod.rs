//! The mediator: executes a jail's `connect` calls, so that path sockets of the host stay out of the jail's reach.
//!
//! # Theory of operation
//! The payload's filter ([`crate::jail::seccomp::payload`]) sends `connect` and `listen` here as notifications. For a `connect` the
//! mediator copies the descriptor and the address *once*, decides about the copies and calls connect on the copies: there is
//! nothing left that a second thread of the caller could change between look and act. A `listen` is only noted, and goes on.
//!
//! Which socket is allowed: of INET and INET6 every one, since such a socket leads into the jail's own network; of unix, abstract
//! names (they belong to the socket's network namespace) and paths that [`bound`] knows. A socket of any other network namespace
//! is refused, whatever it is. A netlink socket is never connected here: it would get the mediator's port number, and the
//! mediator's rights; connecting one to the kernel is what it is from the start, and anything else is EPERM.
//!
//! # Two processes
//! A descriptor that belongs to somebody else can block at any time: another holder flips `O_NONBLOCK` back, a close lingers.
//! So what touches them is a disposable [`worker`], one thread and one loop, which is ended when a round lasts for
//! [`watchdog::PATIENCE`]; [`supervise`] is its parent, which touches none of them, keeps the listeners and what was learnt, fails
//! the calls that were under way and forks the next worker. A jail harms only its own connects. When both are gone the kernel
//! answers ENOSYS.
//!
//! # bind
//! `bind` is not mediated: where a socket file may be made is the business of the file system that the jail sees. Executed here, it
//! would leave the mediator's own way to the file as the socket's name, which servers read back and pass on (getsockname(2)).
//!
//! # What it costs
//! A release build on Linux 6.18, two shared processors, p50: connect over loopback TCP 15 us natively and 27 us mediated, over a
//! unix path 4 and 24 us. The ignored test `figures` prints them. Addresses of more than 110 bytes are no unix addresses and
//! never come here.
//!
//! # Outside
//! It runs in the host's namespaces with the caller's user and without any capability. That user owns the jail's user namespace,
//! which is what lets it copy descriptors and read memory of undumpable processes there.

pub mod address;
pub mod attempt;
pub mod bound;
pub mod flight;
mod handover;
pub mod lookup;
pub mod messages;
pub mod notify;
mod supervise;
pub mod target;
mod watchdog;
pub mod worker;

use std::io;

pub use messages::{FromMediator, ToMediator, hand_over};
pub use supervise::run;

use crate::control::channel::Channel;

/// What a mediator is started with.
#[derive(Debug)]
pub struct Setup {
    /// To the warden. When it closes, the mediator ends.
    pub control: Channel<FromMediator, ToMediator>,
    /// `--allow-datagrams`: a datagram socket may be connected to any path, as it may already send to any.
    pub allow_datagrams: bool,
}

/// Why a mediator can not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MediateError {
    /// Capabilities or the filter.
    #[error("the mediator could not be caged: {0}")]
    Cage(String),
    /// Anything of the kernel's.
    #[error("the mediator could not {what}: {why}")]
    System {
        /// In a few words.
        what: &'static str,
        /// The errno.
        why: io::Error,
    },
    /// Workers died faster than they could be of use.
    #[error(
        "{0} workers of the mediator died at once, one after the other; the jail's connects are refused from now on"
    )]
    Hopeless(u32),
}

#[cfg(test)]
mod tests;
