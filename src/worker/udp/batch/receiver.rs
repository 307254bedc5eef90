//! What came: recvmmsg(2), a super-datagram (UDP_GRO) in one piece.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use nix::errno::Errno;

use super::{Control, LONGEST, Train};
use crate::stack::udp::HEADROOM;

/// Room for what comes in one message: the longest datagram, and the headers that are written before it.
const SLOT: usize = HEADROOM + LONGEST;
const SLOTS: usize = 16;

/// One message that came.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Incoming {
    /// Whom it is from: the peer, or the relay.
    pub from: Option<SocketAddr>,
    /// Where its bytes begin in [`Receiver::buffer`]; [`HEADROOM`] lies before them, so that
    /// [`wrap`](crate::stack::udp::wrap) can write headers there.
    pub at: usize,
    pub train: Train,
}

impl Incoming {
    /// Moves another one's bytes behind its own, if they make one train.
    pub fn couple(&mut self, next: &Self, buffer: &mut [u8]) -> bool {
        let end = self.at + self.train.length;
        let coupled = self.from == next.from && self.train.couple(&next.train);
        if coupled {
            buffer.copy_within(next.at..next.at + next.train.length, end);
        }
        coupled
    }
}

/// Where datagrams are received.
pub(in super::super) struct Receiver {
    pub buffer: Box<[u8]>,
    pub messages: Vec<Incoming>,
}

impl Receiver {
    pub fn new() -> Self {
        Self { buffer: vec![0; SLOT * SLOTS].into_boxed_slice(), messages: Vec::with_capacity(SLOTS) }
    }

    /// One recvmmsg(2): what came is in [`Receiver::messages`]; true if there may be more.
    pub fn receive(&mut self, fd: RawFd) -> io::Result<bool> {
        self.messages.clear();
        // SAFETY: all-zero values of these plain C structures are valid.
        let (mut headers, mut vectors, mut names): (
            [libc::mmsghdr; SLOTS],
            [libc::iovec; SLOTS],
            [libc::sockaddr_storage; SLOTS],
        ) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        let mut controls = [Control::NONE; SLOTS];
        for index in 0..SLOTS {
            let room = &mut self.buffer[index * SLOT + HEADROOM..(index + 1) * SLOT];
            vectors[index] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        let nowhere: *mut libc::timespec = std::ptr::null_mut();
        // SAFETY: each header points at a buffer, a name and a control buffer of its own, of the lengths that it says, which
        // live until the call returns.
        let count = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), SLOTS as libc::c_uint, libc::MSG_DONTWAIT as _, nowhere)
        };
        let count = match Errno::result(count) {
            Ok(count) => count as usize,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        for index in 0..count {
            let header = &headers[index];
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                continue;
            }
            let (length, control) = (header.msg_len as usize, header.msg_hdr.msg_controllen);
            let train = Train::new(length, controls[index].segment(control));
            let from = address(&names[index]);
            self.messages.push(Incoming { from, at: index * SLOT + HEADROOM, train });
        }
        Ok(count == SLOTS)
    }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is as large and as aligned as any address, and the kernel wrote this family.
            let v4: &libc::sockaddr_in = unsafe { &*std::ptr::from_ref(name).cast() };
            Some(SocketAddr::from((u32::from_be(v4.sin_addr.s_addr).to_be_bytes(), u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6: &libc::sockaddr_in6 = unsafe { &*std::ptr::from_ref(name).cast() };
            Some(SocketAddr::from((v6.sin6_addr.s6_addr, u16::from_be(v6.sin6_port))))
        }
        _ => None,
    }
}
