//! The registry: what the user writes, as typed entries.
//!
//! - [`Id`]: `namespace:name`.
//! - [`Network`]: what a `network.*` entry says, ready to be driven.

mod id;
mod network;

pub use id::{BadId, Id};
pub use network::{Isolation, Kind, Login, NameFamilies, Network, Secret, Socks5};
