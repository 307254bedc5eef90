//! What the roles say to each other, and where a jail is found.
//!
//! - [`channel`]: a SEQPACKET socket that carries one typed message a packet, with descriptors.
//! - [`worker`]: what a worker of the relay and the warden say to each other.

pub mod channel;
pub mod worker;
