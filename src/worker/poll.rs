//! epoll(7), edge-triggered for flows, with a name for each descriptor instead of a number.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::udp::id::MappingId;
use crate::stack::{Duration, FlowId};

/// How many events one wait may bring.
const MOST: usize = 256;

/// Whose descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The TUN's.
    Queue,
    /// The warden's.
    Channel,
    /// A flow's upstream.
    Flow(FlowId),
    /// That of the flow that will come next.
    Ready(u32),
    /// A forwarded question's socket: a number of the forwarder's.
    Question(u32),
    /// The socket of a mapping's datagrams.
    Datagrams(MappingId),
    /// The connection that holds a mapping's association at the proxy.
    Association(MappingId),
    /// Where other workers pass datagrams on.
    Sibling,
}

const KIND: u32 = 56;

impl Token {
    /// One byte of kind, 32 bits of generation, 24 bits of slot: a worker has far fewer than 16 million flows.
    fn to_bits(self) -> u64 {
        match self {
            Self::Queue => 0,
            Self::Channel => 1 << KIND,
            Self::Flow(id) => 2 << KIND | pack(id.to_bits()),
            Self::Question(key) => 3 << KIND | u64::from(key),
            Self::Datagrams(id) => 4 << KIND | pack(id.to_bits()),
            Self::Association(id) => 5 << KIND | pack(id.to_bits()),
            Self::Sibling => 6 << KIND,
            Self::Ready(key) => 7 << KIND | u64::from(key),
        }
    }

    fn from_bits(bits: u64) -> Self {
        match bits >> KIND {
            0 => Self::Queue,
            1 => Self::Channel,
            2 => Self::Flow(FlowId::from_bits(unpack(bits))),
            4 => Self::Datagrams(MappingId::of_bits(unpack(bits))),
            5 => Self::Association(MappingId::of_bits(unpack(bits))),
            6 => Self::Sibling,
            7 => Self::Ready(bits as u32),
            _ => Self::Question(bits as u32),
        }
    }
}

fn pack(bits: u64) -> u64 {
    (bits >> 32) << 24 | (bits & 0xff_ffff)
}

fn unpack(bits: u64) -> u64 {
    (bits >> 24 & 0xffff_ffff) << 32 | (bits & 0xff_ffff)
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The other side has closed or failed: read until that is seen.
    pub ending: bool,
}

pub(super) struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poll {
    pub fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); MOST] })
    }

    /// Watches a descriptor for everything; closing it ends that.
    pub fn add(&self, fd: BorrowedFd<'_>, token: Token) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(everything(), token.to_bits()))
    }

    /// Gives a descriptor of [`Poll::add`] another name. What it is ready for is told again, under that one.
    pub fn rename(&self, fd: BorrowedFd<'_>, token: Token) -> nix::Result<()> {
        self.epoll.modify(fd, &mut EpollEvent::new(everything(), token.to_bits()))
    }

    /// Watches a descriptor for what comes, level-triggered, and not for room ([`Poll::want_room`] does). A unix socket tells of room each time that its peer
    /// takes a message, which nobody wants to hear who is not waiting for it.
    pub fn add_readable(&self, fd: BorrowedFd<'_>, token: Token) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.to_bits()))
    }

    /// Whether room is of interest too, for a descriptor of [`Poll::add_readable`]. Room that is there already is told.
    pub fn want_room(&self, fd: BorrowedFd<'_>, token: Token, wanted: bool) -> nix::Result<()> {
        let room = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        let flags = EpollFlags::EPOLLIN | room;
        self.epoll.modify(fd, &mut EpollEvent::new(flags, token.to_bits()))
    }

    /// Waits; `None` is for ever, and less than a millisecond is one.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<impl ExactSizeIterator<Item = (Token, Readiness)> + use<>> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(wait) => {
                let ms = wait.total_micros().div_ceil(1000).min(i32::MAX as u64) as i32;
                EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::ZERO)
            }
        };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let ready: Vec<_> = self.events[..count]
            .iter()
            .map(|event| {
                let flags = event.events();
                let ending = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
                let readable = ending || flags.contains(EpollFlags::EPOLLIN);
                let writable = ending || flags.contains(EpollFlags::EPOLLOUT);
                (Token::from_bits(event.data()), Readiness { readable, writable, ending })
            })
            .collect();
        Ok(ready.into_iter())
    }
}

fn everything() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_way_through_the_kernel() {
        let id = |generation: u64, slot: u64| FlowId::from_bits(generation << 32 | slot);
        for token in [
            Token::Queue,
            Token::Channel,
            Token::Flow(id(0, 0)),
            Token::Flow(id(u64::from(u32::MAX), 0xff_ffff)),
            Token::Flow(id(0x8000_0001, 65_535)),
            Token::Question(u32::MAX),
            Token::Datagrams(MappingId::of_bits(u64::from(u32::MAX) << 32 | 0xff_ffff)),
            Token::Association(MappingId::of_bits(1 << 32 | 3)),
            Token::Sibling,
            Token::Ready(u32::MAX),
        ] {
            assert_eq!(Token::from_bits(token.to_bits()), token);
        }
    }
}
