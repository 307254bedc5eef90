//! Names in a jail: what the resolver at the gateway address answers.
//!
//! A jail's programs ask one resolver, which is a function: a question's bytes in, an answer's bytes out. It does no I/O
//! and knows no socket; the worker carries the bytes.
//!
//! - Overlays that resolve at their far end ([`answer::Names`]): an A question gets an address from a [`pool::Pool`] that
//!   stands for the name, and the later connection to it is dialled *by name*. No question leaves the jail.
//! - The direct network ([`hosts::HostNames`]): the host's hosts file answers, and what it does not hold is forwarded as it
//!   came to the host's resolvers ([`resolv`]), for the answer must be what the host itself would have got.
//!
//! A jail has one of the two, a [`Resolver`]. Both share [`wire`] and `reply` (the messages), `special` (names that no network is asked about) and [`frame`] (DNS over TCP).
//!
//! Every question ends in one [`Answered`], which is what the log keeps.

pub mod answer;
pub mod frame;
pub mod hosts;
pub mod pool;
mod reply;
pub mod resolv;
mod resolver;
mod special;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

pub use resolver::{Lookup, Resolver, gateways};

use std::fmt;

use crate::flow::HostName;
use crate::policy::{Rule, Verdict};

/// How a question came, and so how large its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: at most what the asker's EDNS0 announces, 512 bytes without it (RFC 1035 section 4.2.1, RFC 6891).
    Udp,
    /// A stream: no limit but the 65,535 bytes of its length prefix.
    Tcp,
}

/// The policy's word on a name that is asked for with this type of record.
pub type Decide<'d, 't> = &'d mut dyn FnMut(&HostName, u16) -> Verdict<'t>;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The output holds a reply with this (extended, RFC 6891) response code.
    Reply(u16),
    /// The output is empty: the raw question is to be sent to a resolver, and its reply back if [`wire::reply_matches`].
    Forward,
    /// The output is empty and the message is forgotten: it was no question.
    Drop,
}

/// A question's fate, for the worker to act on and the log to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What the worker does now.
    pub outcome: Outcome,
    /// The name asked for.
    pub name: Asked,
    /// The question's type as a number (1 is A, 28 AAAA); 0 where the message was too broken to have one.
    pub qtype: u16,
    /// Which rule decided. It may allow and the code still be an error: a type that nobody here knows is
    /// [`Rule::AnsweredHere`] with NOTIMP.
    pub rule: Rule,
}

/// A name as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A host name.
    Host(HostName),
    /// Anything else, escaped as in a zone file (RFC 1035 section 5.1): printable ASCII only, at most four times 255 bytes.
    Text(String),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Host(name) => f.write_str(name.as_str()),
            Asked::Text(text) => f.write_str(text),
        }
    }
}

/// How long a program may keep an answer, in seconds, the denials included.
///
/// A pool address means the same name until the jail ends, so nothing goes wrong when a program keeps it for longer (the
/// JVM and nginx do). The TTL bounds the opposite: how long a program goes on with an answer after the registry has changed
/// (a network swapped for one with real addresses, `names: both`, a policy). Asking again costs microseconds and no packet
/// outside, so a minute is chosen; below that some stub caches impose a minimum of their own anyway.
pub const TTL: u32 = 60;
