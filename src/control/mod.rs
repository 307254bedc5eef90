//! What the roles say to each other, and where a jail is found.
//!
//! - [`channel`]: a SEQPACKET socket that carries one typed message a packet, with descriptors.
//! - [`packet`]: one packet as the kernel gives it, with every descriptor.
//! - [`messages`]: the messages, one enum for each direction of each pair of roles.
//! - [`worker`]: the same for a worker of the relay and the warden.
//! - [`rundir`]: the folder where the control sockets of live jails are.

pub mod channel;
pub mod messages;
pub mod packet;
pub mod rundir;
pub mod worker;

#[cfg(test)]
mod tests;
