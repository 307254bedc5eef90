//! The ways out: how a target is dialled through something, and how a failed dial is told to the program.
//!
//! A dial ends in a connected descriptor or in a [`DialError`]. The worker moves the bytes.
//!
//! - [`error`]: every way a dial can fail, and in one table what the program is told about it (`docs/errno.md`).
//! - [`socks5`]: the client's side of RFC 1928 and RFC 1929 as a state machine over bytes.
//! - [`direct`]: the host's own addresses, which a direct dial must not reach.
//! - [`credentials`]: random logins that keep connections, or jails, on circuits of their own.

pub mod credentials;
pub mod direct;
mod error;
pub mod socks5;

pub use credentials::Credentials;
pub use error::{DialError, Outcome};
