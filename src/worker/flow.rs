//! What a flow is: what it is busy with, and what is known of its descriptor.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::flow::Target;
use crate::log::Record;
use crate::names::frame::{self, Frames, LARGEST_QUESTION};
use crate::overlay::socks5::Handshake;
use crate::stack::{FlowId, Instant};

/// What a flow is busy with.
pub(super) enum Stage {
    /// On its way to a connection.
    Dialling(Box<Dial>),
    /// Carrying bytes.
    Open,
    /// A DNS conversation that this worker answers itself.
    Questions(Box<Stream>),
}

/// A flow, as the worker sees it.
pub(super) struct Flow {
    pub id: FlowId,
    /// The connection to the overlay, or to the target.
    pub fd: Option<OwnedFd>,
    pub stage: Stage,
    pub readable: bool,
    pub writable: bool,
    /// The other side has closed or failed, so a short read does not mean that nothing more is to be seen.
    pub ending: bool,
    /// Whether the program's FIN was passed on.
    pub sent_all: bool,
    /// Whether the other side's FIN was passed on.
    pub received_all: bool,
    /// Whether a write failed: what was received before that is still read, then the flow is reset.
    pub broken: bool,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub since: Instant,
    /// What will be logged at the end; none for conversations whose questions are logged one by one.
    pub record: Option<Box<Record>>,
}

impl Flow {
    pub fn new(id: FlowId, stage: Stage, since: Instant, record: Option<Box<Record>>) -> Self {
        Self {
            id,
            fd: None,
            stage,
            readable: false,
            writable: false,
            ending: false,
            sent_all: false,
            received_all: false,
            broken: false,
            bytes_out: 0,
            bytes_in: 0,
            since,
            record,
        }
    }
}

/// How far a dial is.
pub(super) struct Dial {
    pub target: Target,
    pub step: Step,
    /// The connection was made before the dial, and no answer to the request has come yet: if it closes now, that says
    /// nothing about the target.
    pub unproven: bool,
}

pub(super) enum Step {
    /// The warden was asked.
    Asked,
    /// connect(2) is in progress; a connection that was made ahead has its handshake with it.
    Connecting(Option<Handshake>),
    /// The proxy is spoken to.
    Greeting(Handshake),
}

/// A DNS conversation over a flow (RFC 7766): messages with a length of two bytes before each.
pub(super) struct Stream {
    pub server: SocketAddr,
    pub questions: Frames,
    pub output: Vec<u8>,
    pub waiting: u32,
    pub over: bool,
    /// It is being looked at: see [`Worker::converse`](super::Worker::converse).
    pub conversing: bool,
}

impl Stream {
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            questions: Frames::new(LARGEST_QUESTION),
            output: Vec::new(),
            waiting: 0,
            over: false,
            conversing: false,
        }
    }

    pub fn reply(&mut self, message: &[u8]) {
        // An answer of ours fits, and a resolver's had a length itself.
        let _ = frame::append(message, &mut self.output);
    }
}
