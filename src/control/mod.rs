//! What the roles say to each other, and where a jail is found.
//!
//! - [`channel`]: a SEQPACKET socket that carries one typed message a packet, with descriptors.
//! - [`messages`]: the messages, one enum for each direction of each pair.

pub mod channel;
