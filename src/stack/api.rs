//! What goes in and out of a stack besides packets: its configuration, its events, its numbers.

use std::net::{IpAddr, SocketAddr};

use super::device::LONGEST;
use super::{Datagrams, Duration, FlowId};
use crate::flow::Refusal;

/// What a stack is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Secrets: the key of the flow table's hash, and the seed of the initial sequence numbers.
    pub seed: [u64; 3],
    /// Bytes of a flow's ring for what the client sends. 256 KiB is the knee of the throughput curve.
    pub receive: usize,
    /// Bytes of a flow's ring for what is sent to the client. Until the client has taken a whole ring, only as many are used as
    /// the other one has. It is several packets of the [longest](Self::longest) kind: some are filled while one is read.
    pub transmit: usize,
    /// The most bytes of a packet to a client: 65,535, or more where the kernel takes longer ones of TCP from a TUN
    /// ([`crate::tun::longest_packet`]).
    pub longest: usize,
    /// The most flows, pending ones included.
    pub flows: usize,
    /// The most flows that wait for the overlay's answer.
    pub pending: usize,
    /// How long a half-closed flow may go without moving a byte before it is reset.
    pub half_close: Duration,
    /// How often a silent client is asked whether it is still there; one that does not answer twice is gone.
    pub keep_alive: Duration,
    /// After how long a silent flow gives the pages of its empty rings back.
    pub idle: Duration,
    /// What becomes of datagrams and pings.
    pub datagrams: Datagrams,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: [0; 3],
            receive: 256 * 1024,
            transmit: 1024 * 1024,
            longest: LONGEST,
            flows: 65_536,
            pending: 4_096,
            half_close: Duration::from_secs(15 * 60),
            keep_alive: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(1),
            datagrams: Datagrams::default(),
        }
    }
}

/// A limit of [`Config`] that a new flow ran into; the program was told [`Limit::REFUSAL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`Config::flows`].
    Flows,
    /// [`Config::pending`].
    Pending,
}

impl Limit {
    /// What a program beyond a limit is told.
    pub const REFUSAL: Refusal = Refusal::HostUnreachable;
}

/// Why a flow ended that the caller did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Both directions finished, and every byte was taken.
    Finished,
    /// The client sent a reset: what was in flight is discarded, and the other side deserves a reset too.
    ClientReset,
    /// The client does not answer any more.
    ClientGone,
    /// Half-closed, and silent for [`Config::half_close`].
    HalfCloseLimit,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A program dials: answer with [`Stack::accept`] or [`Stack::refuse`].
    Open {
        /// The new flow.
        flow: FlowId,
        /// The program's own end.
        client: SocketAddr,
        /// Where it wants to go.
        server: SocketAddr,
    },
    /// The program gave its dial up, or was killed; the flow is gone.
    DialAbandoned {
        /// The flow that was pending.
        flow: FlowId,
    },
    /// There may be bytes to drain, room to fill, or an end to see.
    Ready {
        /// A live flow.
        flow: FlowId,
    },
    /// The flow is gone.
    Closed {
        /// The flow that was live.
        flow: FlowId,
        /// Why.
        reason: Closed,
    },
    /// A flow was refused without being asked about.
    Limited {
        /// The program's own end.
        client: SocketAddr,
        /// Where it wanted to go.
        server: SocketAddr,
        /// The limit.
        limit: Limit,
    },
    /// A DNS message in a datagram: answer with [`Stack::answer`], or not at all.
    Query {
        /// Who asked.
        client: SocketAddr,
        /// The address that was asked, which the answer comes from.
        server: SocketAddr,
        /// The message.
        data: Vec<u8>,
    },
    /// A datagram that was answered with an ICMP error.
    DatagramRefused {
        /// The program's own end.
        client: SocketAddr,
        /// Where it wanted to go.
        server: SocketAddr,
    },
    /// A ping that was answered with an ICMP error.
    EchoRefused {
        /// The program's own address.
        client: IpAddr,
        /// Where it wanted to go.
        server: IpAddr,
    },
}

/// What [`Stack::drain`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The closure was offered so many bytes and took so many.
    Some {
        /// Bytes it was shown.
        offered: usize,
        /// Bytes it took.
        taken: usize,
    },
    /// Nothing there, for now.
    Empty,
    /// Nothing will ever come: the client's FIN was reached.
    Finished,
    /// No such flow.
    Gone,
}

/// Numbers for whoever watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows that wait for the overlay.
    pub pending: usize,
    /// Flows that carry bytes.
    pub live: usize,
    /// Packets that contradicted themselves, were damaged, or that nobody serves.
    pub dropped: u64,
}
