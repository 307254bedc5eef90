//! What the supervisor and its worker say to each other, and what outlives a worker.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::FromMediator;
use super::bound::{Allowed, Bound};
use super::flight::Flight;
use super::watchdog::Watchdog;

/// To the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Down {
    /// Beside it: the listener of another command.
    Listener {
        /// Its number.
        number: u32,
        /// The jail's network.
        network: u64,
        /// Only a fatal signal interrupts its calls.
        killable: bool,
    },
    /// Beside it: an inode that may be connected to.
    Allow,
    /// Beside it: a folder in which a name, or everything, may be connected to, and the socket that has the name now.
    AllowEntry {
        /// Bytes of one name.
        name: Option<Vec<u8>>,
        /// No other socket is meant by the name.
        only_this: bool,
    },
    /// Datagram sockets may be connected to any path.
    AllowDatagrams,
    /// Beside it: both sockets of the letterbox.
    Letterbox,
    /// Read what is left there.
    ReadLetters,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Up {
    /// Beside it: an inode that was bound inside.
    Bound {
        /// The socket's network.
        network: u64,
    },
    /// For the warden.
    Event(FromMediator),
}

/// A filter's listener.
#[derive(Debug)]
pub(super) struct Listener {
    /// From 1; never used twice.
    pub number: u32,
    /// The jail's network, as [`network_of`](super::target::network_of) numbers it.
    pub network: u64,
    /// Only a fatal signal interrupts its calls.
    pub killable: bool,
    /// What notifications arrive on.
    pub fd: OwnedFd,
}

/// What outlives a worker.
#[derive(Debug)]
pub(super) struct State {
    pub listeners: Vec<Listener>,
    pub bound: Bound,
    pub allowed: Allowed,
    pub allow_datagrams: bool,
    /// Two or none. Only a worker reads them.
    pub letterbox: Vec<OwnedFd>,
    pub flight: Flight,
    pub watchdog: Watchdog,
}
