//! What a worker of the relay and the warden say to each other, over a channel that each worker has to itself.
//!
//! | from the worker | the warden's part |
//! |---|---|
//! | `Up` | the loop runs |
//! | `Dial` | start a non-blocking connect() to the proxy and pass the descriptor at once, or say why not |
//! | `Ahead` | the same for several connections that no dial waits for yet |
//! | `Relay` | make a datagram socket, connect it to the proxy's relay if that is the proxy itself, and pass it |
//! | `NoDatagrams` | say it, once |
//! | `Unreached` | try another address of the proxy's next, and look its name up again |
//! | `Records` | write and count them |
//! | `Draining` | wait: it was told to stop, and delivers what the jail's programs wrote before they ended |
//! | `Stopped` | everything was said; the channel closes |
//!
//! The worker parses hostile packets, so the warden believes nothing here but that this worker wants a connection to the one
//! proxy that it is allowed, or to send it datagrams.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::messages::HostView;
use crate::log::{Batch, MAX_BATCH};
use crate::overlay::DialError;
use crate::policy::Table;

/// How long a worker that delivers the last bytes goes on without one that could be delivered.
pub const DRAIN_STALL: Duration = Duration::from_secs(2);

/// How long it goes on in all.
pub const DRAIN_MOST: Duration = Duration::from_secs(30);

/// The most connections that a worker has made ahead of its dials. As many descriptors fit one message.
pub const AHEAD_MOST: usize = 16;
const _: () = assert!(AHEAD_MOST <= super::packet::MAX_DESCRIPTORS);

/// A batch of records is one message, with what is wrapped round it.
const _: () = assert!(MAX_BATCH + 1024 <= super::channel::MAX_MESSAGE);

/// From a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWarden {
    /// The loop runs: packets are answered from now on.
    Up,
    /// A connection to the proxy, please; the number comes back with it.
    Dial {
        /// The worker's own.
        id: u64,
    },
    /// Connections to the proxy for the dials to come, please.
    Ahead {
        /// How many, [`AHEAD_MOST`] at most.
        count: u8,
    },
    /// A datagram socket to the relay that the proxy names, please. Its address must be the proxy's own, or unspecified.
    Relay {
        /// The worker's own, of a [`ToWarden::Dial`] before.
        id: u64,
        /// From the proxy's reply.
        relay: SocketAddr,
    },
    /// The proxy carries no datagrams.
    NoDatagrams {
        /// Its words.
        error: DialError,
    },
    /// A connection that the warden started did not come to the proxy.
    Unreached,
    /// What happened.
    Records(Batch),
    /// It was told to stop, but programs of the jail left bytes behind that are on their way: it ends by itself, after
    /// [`DRAIN_MOST`] at the latest.
    Draining,
    /// The worker has ended as it was told to.
    Stopped,
}

/// To a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWarden {
    /// One descriptor lies beside this message: a non-blocking socket whose connect() has been started.
    Dialled {
        /// Of the [`ToWarden::Dial`].
        id: u64,
    },
    /// As many descriptors lie beside this message as there could be made of the [`ToWarden::Ahead`], none perhaps: sockets
    /// as those of [`FromWarden::Dialled`].
    Ahead,
    /// One descriptor lies beside this message: a non-blocking datagram socket that is connected to the relay.
    Relay {
        /// Of the [`ToWarden::Relay`].
        id: u64,
    },
    /// There will be no descriptor.
    DialFailed {
        /// Of the [`ToWarden::Dial`] or the [`ToWarden::Relay`].
        id: u64,
        /// [`DialError::Proxy`], [`DialError::ProxyName`] or [`DialError::RelayElsewhere`].
        error: DialError,
    },
    /// A new generation decides from now on.
    Table(Table),
    /// The host has other resolvers, names or addresses (those are in a [`Table`](FromWarden::Table) before it). One
    /// descriptor lies beside this message: a memory file of this worker's own with the text of the host's hosts file.
    Host(HostView),
    /// The machine may have slept: connections that wait for a dial may be dead.
    Woken,
    /// The jail's tree is dead: deliver what its programs wrote before they ended (their sockets live on in the kernel, as
    /// they would without a jail), then leave the device to its namespace and end.
    Stop,
    /// End now. Without a [`Stop`](FromWarden::Stop) before it the tree may live, so the device goes with the worker.
    Abandon,
}
