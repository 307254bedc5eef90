//! What a worker of the relay and the warden say to each other, over a channel that each worker has to itself.
//!
//! | from the worker | the warden's part |
//! |---|---|
//! | `Up` | the loop runs |
//! | `Dial` | start a non-blocking connect() to the proxy and pass the descriptor at once, or say why not |
//! | `Records` | write and count them |
//! | `Stopped` | everything was said; the channel closes |
//!
//! The worker parses hostile packets, so the warden believes nothing here but that this worker wants a connection to the one
//! proxy that it is allowed.

use serde::{Deserialize, Serialize};

use crate::log::Batch;
use crate::overlay::DialError;
use crate::policy::Table;

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
    /// What happened.
    Records(Batch),
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
    /// There will be no descriptor.
    DialFailed {
        /// Of the [`ToWarden::Dial`].
        id: u64,
        /// [`DialError::Proxy`] or [`DialError::ProxyName`].
        error: DialError,
    },
    /// A new generation decides from now on.
    Table(Table),
    /// The jail's tree is dead: leave the device to its namespace and end.
    Stop,
}
