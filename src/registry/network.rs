//! What a `network.*` entry says, checked and resolved: the shape that the roles drive.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Id;

/// One way out of a jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name in the registry, or [`Id::direct`].
    pub id: Id,
    /// What it dials through.
    pub kind: Kind,
    /// Which address families names are answered with.
    pub names: NameFamilies,
    /// How long one dial may take, from the program's SYN to the overlay's answer.
    pub connect_timeout: Duration,
    /// What becomes of datagrams.
    pub udp: Udp,
    /// `allow_sockets`: unix sockets of the host, or folders of them, that a jail on this network may connect to; absolute.
    pub allow_sockets: Vec<PathBuf>,
    /// Fields that were understood but that this netjail can not carry out yet; choosing the network is an error that lists them.
    pub unbuilt: Vec<String>,
}

/// The drivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Dialled from the host itself.
    Direct,
    /// Through a SOCKS5 proxy (RFC 1928).
    Socks5(Socks5),
    /// A kind of the design that is not built yet, by its registry name.
    Unbuilt(String),
}

/// `network.socks5`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socks5 {
    /// The proxy's host name or address, resolved by the warden.
    pub host: String,
    /// The proxy's TCP port.
    pub port: u16,
    /// RFC 1929 credentials.
    pub login: Option<Login>,
    /// Whether connections are told apart by random credentials (Tor: a circuit for each).
    pub isolate: Isolation,
}

/// A user name and its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// 1 to 255 bytes.
    pub username: String,
    /// 0 to 255 bytes.
    pub password: Secret,
}

/// `isolate_streams`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// `false`: no credentials of ours.
    #[default]
    Off,
    /// `true`: fresh random credentials for each connection.
    Stream,
    /// `jail`: one random set for each jail.
    Jail,
}

/// `udp`: what becomes of a program's datagrams, DNS apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Udp {
    /// `refuse`: an error at once.
    Refuse,
    /// They are carried: from the host itself (direct), or through an association that the proxy is asked for (`associate`).
    #[default]
    Carry,
}

/// `names`: which pool addresses a name is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameFamilies {
    /// A only; AAAA is NODATA, so that a program that races both families dials once.
    #[default]
    V4,
    /// A and AAAA.
    Both,
}

/// A text that no error, log or debug output shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that sends it to where it belongs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
