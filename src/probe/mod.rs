//! `netjail probe`: which address the far side sees, through each network.
//!
//! What is tested is what programs get: for each network this program starts itself in a real `netjail run --network X`
//! ([`launch`]), and the one inside ([`client`]) asks an endpoint on the internet that answers with the address it was
//! reached from. Nothing outside a jail opens a connection or asks for a name, so that nothing can take another way.
//!
//! Endpoints are asked over TLS alone: whoever carries the bytes could write another answer otherwise. They are asked in
//! their order; the next one begins when one has failed, or has taken its share of the time. The first address is the answer.

pub mod client;
pub mod launch;

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who is asked unless somebody says otherwise: each is run by somebody else, and answers with the address alone, or with
/// JSON that has it.
pub const ENDPOINTS: [&str; 4] = [
    "https://check.torproject.org/api/ip",
    "https://checkip.amazonaws.com/",
    "https://icanhazip.com/",
    "https://api.ipify.org/",
];

/// What became of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its URL.
    pub endpoint: String,
    /// The address that it saw.
    pub address: Option<IpAddr>,
    /// Or why there is none: the dial's errno, `HTTP <status>`, or what was wrong with the answer.
    pub error: Option<String>,
}

/// What became of one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Its id, or `nil`.
    pub network: String,
    /// The address that the far side saw.
    pub address: Option<IpAddr>,
    /// Who said so.
    pub endpoint: Option<String>,
    /// Or why nobody did.
    pub error: Option<String>,
    /// From the jail's start to its end, in milliseconds.
    pub duration_ms: u64,
    /// Every endpoint that was asked, in the order of the answers.
    pub attempts: Vec<Attempt>,
}

impl Answer {
    /// A network that was not asked, and why.
    pub fn not_asked(network: String, why: String) -> Self {
        Self { network, address: None, endpoint: None, error: Some(why), duration_ms: 0, attempts: Vec::new() }
    }
}

/// What a time-out is called, inside and outside.
fn late(timeout: Duration) -> String {
    format!("no answer within {} s", timeout.as_secs())
}
