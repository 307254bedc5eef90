//! What a relay's worker and the warden say to each other, each worker on a channel of its own.

use serde::{Deserialize, Serialize};

use crate::log::Batch;
use crate::policy::Table;

/// worker -> warden.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToWarden {
    /// Connect to the proxy, and answer with this number.
    Dial {
        /// The worker's own number for the dial.
        id: u32,
    },
    /// A dial's descriptor came to nothing: the proxy's next address is to be tried from now on.
    DialFailed,
    /// Records for the log.
    Records(Batch),
}

/// warden -> worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromWarden {
    /// One descriptor: a non-blocking socket that is connected to the proxy or still connecting.
    Dialled {
        /// The worker's number for the dial.
        id: u32,
    },
    /// The proxy can not be dialled.
    DialFailed {
        /// The worker's number for the dial.
        id: u32,
        /// The kernel's answer, by number; ENXIO where the proxy's host name does not resolve.
        errno: i32,
    },
    /// A new generation's rules.
    Table(Box<Table>),
    /// The host's names and resolvers have changed (networks that answer with real addresses).
    Host(Box<HostNames>),
    /// The jail is gone: send the last records, let go of the device and end.
    Stop,
}

/// What a worker must know of the host to answer with real addresses; it opens no file itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HostNames {
    /// The text of the hosts file.
    pub hosts: String,
    /// Where questions are forwarded to, in order.
    pub resolvers: Vec<std::net::SocketAddr>,
}
