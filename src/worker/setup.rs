//! What a worker is made of, and what it needs others to know.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::control::channel::Channel;
use crate::control::worker::{FromWarden, ToWarden};
use crate::names::Resolver;
use crate::policy::Table;
use crate::registry::{Isolation, Kind as NetworkKind, Network};
use crate::stack;

pub use super::udp::Limits;
use super::udp::Siblings;

/// What a worker can not go on after.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A system call that only fails where the kernel lacks something or the cage is wrong.
    #[error("the relay can not go on: {step}: {source}; `netjail doctor` lists what this machine lacks")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The warden has gone: there is nobody to decide or to log, so the way out closes.
    #[error("the warden has gone, so the jail's network ends; its own message says why")]
    WardenGone,
    /// The warden's message is not one: the binaries differ, or memory is damaged.
    #[error("the warden's message can not be understood: {0}; start the jail again")]
    Message(String),
}

/// How a flow gets out.
#[derive(Clone, Debug)]
pub enum Driver {
    /// Dialled by the worker itself.
    Direct,
    /// Through a SOCKS5 proxy, whose connections the warden starts.
    Socks5 {
        /// User name and password, if there are any.
        login: Option<Login>,
        /// Whether each connection has fresh random credentials instead.
        isolate: bool,
    },
}

/// User name and password as bytes; its debug output shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// 1 to 255 bytes.
    pub username: Vec<u8>,
    /// At most 255 bytes.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Driver {
    /// The driver of a network. `jail` are the credentials of this jail, for `isolate_streams: jail`. `None` for a network
    /// of a kind that is not built yet.
    pub fn of(network: &Network, jail: &crate::overlay::Credentials) -> Option<Self> {
        match &network.kind {
            NetworkKind::Direct => Some(Self::Direct),
            NetworkKind::Socks5(socks5) => {
                let own = socks5.login.as_ref().map(|login| Login {
                    username: login.username.clone().into_bytes(),
                    password: login.password.reveal().as_bytes().to_vec(),
                });
                let login = match socks5.isolate {
                    Isolation::Jail => {
                        let (username, password) = jail.login();
                        Some(Login { username: username.to_vec(), password: password.to_vec() })
                    }
                    Isolation::Off | Isolation::Stream => own,
                };
                Some(Self::Socks5 { login, isolate: socks5.isolate == Isolation::Stream })
            }
            NetworkKind::Unbuilt(_) => None,
        }
    }
}

/// Everything a worker is made of.
pub struct Setup {
    /// A queue of the TUN, from [`crate::tun::open`].
    pub queue: OwnedFd,
    /// To the warden.
    pub channel: Channel<ToWarden, FromWarden>,
    /// What decides, until the warden sends another.
    pub table: Table,
    /// The way out.
    pub driver: Driver,
    /// Names and questions.
    pub names: Resolver,
    /// The addresses whose port 53 is answered; `None` is every address, as on networks with a pool.
    pub resolvers: Option<Vec<IpAddr>>,
    /// Where questions are forwarded to (direct).
    pub upstream_resolvers: Vec<SocketAddr>,
    /// How long one dial may take.
    pub connect_timeout: std::time::Duration,
    /// The limits of what datagrams leave behind here. Whether they are carried at all is the stack's `datagrams.carried`.
    pub datagrams: Limits,
    /// The other workers of the same jail, if there are any.
    pub siblings: Option<Siblings>,
    /// The stack's limits and secrets. Its `datagrams.resolvers` is set from `resolvers`.
    pub stack: stack::Config,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Records that could not be delivered.
    pub unsent: usize,
}
