//! Jails made by hand, as an ordinary user or as root: what a program sees with the mediator must be what it sees without,
//! but for the sockets of the host.

mod calls;
mod closed;
mod faults;
mod identity;
mod jail;
mod waits;
