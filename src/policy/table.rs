//! The immutable table that [`decide`](super::Table::decide) reads.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Request, Verdict};
use crate::registry::Id;

/// One generation's rules, made by the warden, read by the relay's workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// A hash of the canonical registry: wardens with the same registry agree on it without talking.
    pub generation: u64,
    /// The network of this jail.
    pub network: Id,
    /// Whether that network is *direct*, so that the host's own addresses must be out of reach.
    pub direct: bool,
    /// `--allow-lan`.
    pub allow_lan: bool,
    /// The addresses of the host's interfaces with their on-link prefixes (direct only).
    pub host: Vec<OwnAddress>,
}

/// An address of the host, with the prefix that is on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// What the interface reaches without a router.
    pub on_link: IpNet,
}

impl Table {
    /// Decides one request.
    pub fn decide(&self, _request: &Request<'_>) -> Verdict {
        Verdict::Allow { network: self.network.clone(), rule: "default" }
    }
}
