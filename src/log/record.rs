//! One record: what was asked, what was decided, how it ended.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::flow::Refusal;
use crate::overlay::DialError;
use crate::policy::Rule;
use crate::registry::Id;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A connection; or the datagrams between a program's socket and one server.
    Flow,
    /// A DNS question.
    Question,
}

/// What carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, also a question over TCP.
    Tcp,
    /// UDP, also a question over UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
    /// Another protocol, by its IANA number.
    Other(u8),
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Close {
    /// Both sides closed in order.
    Finished,
    /// The program reset it.
    ResetByProgram,
    /// The far side, or the proxy, reset it.
    ResetByPeer,
    /// The program gave up before the overlay had answered.
    Abandoned,
    /// A limit of netjail's ended it, or a rule that did not hold when it began.
    Limit(Rule),
    /// No datagram passed for so long that the association was forgotten.
    Idle,
    /// The program's side fell silent: segments went unanswered.
    TimedOut,
    /// The program ended before the far side did; what it had sent was delivered.
    JailEnded,
    /// The program ended, and not all that it had sent could be delivered: the far side was reset, or the dial dropped.
    CutOff,
    /// The dial failed.
    Dial(DialError),
}

impl Close {
    /// The stable name, as in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ResetByProgram => "reset-by-program",
            Self::ResetByPeer => "reset-by-peer",
            Self::Abandoned => "abandoned",
            Self::Limit(rule) => rule.name(),
            Self::Idle => "idle",
            Self::TimedOut => "silent",
            Self::JailEnded => "jail-ended",
            Self::CutOff => "cut-off",
            Self::Dial(error) => error.name(),
        }
    }
}

/// How an allowed flow went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Payload bytes from the program to the overlay.
    pub bytes_out: u64,
    /// Payload bytes from the overlay to the program.
    pub bytes_in: u64,
    /// From the decision to the end, in ms.
    pub duration_ms: u64,
    /// Datagrams, where it carried datagrams.
    pub datagrams: Option<Datagrams>,
    /// Why it ended.
    pub close: Close,
}

/// How many datagrams an association carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// From the program.
    pub sent: u64,
    /// To the program.
    pub received: u64,
}

/// The process behind a flow; the mediator will know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its pid in the jail.
    pub pid: u32,
    /// Its executable.
    pub exe: Option<String>,
}

/// One flow or question. The warden adds the jail's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was decided, in µs since 1970.
    pub at: u64,
    /// What was asked for.
    pub kind: Kind,
    /// What carried it.
    pub protocol: Protocol,
    /// The name asked for, or the one a pool address stands for; as the program wrote it where it is no valid name.
    pub name: Option<String>,
    /// The type of a question (RFC 1035 section 3.2.2).
    pub question: Option<u16>,
    /// The address that the program used: the target's, a pool's, or the resolver's of a question.
    pub address: Option<IpAddr>,
    /// The port it used, where the protocol has ports.
    pub port: Option<u16>,
    /// The network that was to carry it; none where it was answered or refused inside.
    pub network: Option<Id>,
    /// The registry's generation that decided.
    pub generation: u64,
    /// The rule that decided; it also tells whether it was allowed.
    pub rule: Rule,
    /// What the program was told if it got no connection: by the rule, or after a failed dial.
    pub refusal: Option<Refusal>,
    /// The DNS response code of a question.
    pub rcode: Option<u8>,
    /// The process behind it.
    pub origin: Option<Origin>,
    /// How an allowed flow went; none for questions and refusals.
    pub end: Option<End>,
}

impl Record {
    /// A record of now with everything unknown left empty.
    pub fn new(kind: Kind, protocol: Protocol, rule: Rule, generation: u64) -> Self {
        Self {
            at: now_micros(),
            kind,
            protocol,
            name: None,
            question: None,
            address: None,
            port: None,
            network: None,
            generation,
            rule,
            refusal: rule.refusal(),
            rcode: None,
            origin: None,
            end: None,
        }
    }

    /// The errno that the program's connect(2) gave, if it failed.
    pub fn errno_name(&self) -> Option<&'static str> {
        let v6 = self.address.is_some_and(|address| address.is_ipv6());
        self.refusal.map(|refusal| refusal.errno_name(v6))
    }
}

/// The wall clock in µs since 1970.
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
