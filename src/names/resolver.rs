//! A jail's resolver, of whichever kind its network needs.

use std::net::IpAddr;

use super::answer::Names;
use super::hosts::HostNames;
use super::{Answered, Decide, Transport, pool};
use crate::flow::HostName;

/// Which names a jail has.
#[derive(Debug)]
pub enum Resolver {
    /// Names stand behind pool addresses; the overlay resolves them.
    Pool(Names),
    /// Names have the addresses that the host's files and resolvers give them.
    Host(HostNames),
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Itself.
    Address,
    /// A name that this jail asked for.
    Name(HostName),
    /// A pool's address that was never given out: no dial.
    Unknown,
}

impl Resolver {
    /// What a program means that dials `address`.
    pub fn lookup(&self, address: IpAddr) -> Lookup {
        match self {
            Self::Pool(names) if pool::is_ours(address) => {
                names.pool().name(address).cloned().map_or(Lookup::Unknown, Lookup::Name)
            }
            _ => Lookup::Address,
        }
    }

    /// Answers one message; see [`Names::answer`].
    pub fn answer(&self, query: &[u8], transport: Transport, decide: Decide<'_, '_>, out: &mut Vec<u8>) -> Answered {
        match self {
            Self::Pool(names) => names.answer(query, transport, decide, out),
            Self::Host(names) => names.answer(query, transport, decide, out),
        }
    }
}

/// The addresses of the jail's own resolver.
pub fn gateways() -> Vec<IpAddr> {
    vec![pool::GATEWAY_V4.into(), pool::GATEWAY_V6.into()]
}
