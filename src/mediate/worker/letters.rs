//! What programs write to the jail's own /dev/log and NOTIFY_SOCKET.
//!
//! A datagram may bring descriptors. They are received without room for them, and so closed by the kernel in this process,
//! which a descriptor that blocks may cost its life, as any other of the jail's.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv};

use super::super::messages::FromMediator;
use super::{LETTERBOX, Worker};
use crate::jail::letterbox::LONGEST;

/// How many datagrams of an ended jail are read.
const MOST_LEFT: usize = 256;

/// Lets the loop tell of what arrives.
pub fn watch(epoll: &Epoll, letterbox: &[OwnedFd]) -> Result<(), Errno> {
    letterbox
        .iter()
        .zip(LETTERBOX)
        .try_for_each(|(fd, token)| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)))
}

impl Worker {
    /// One datagram, if there is one; what is left tells again.
    pub(super) fn read_letter(&mut self, which: usize) -> bool {
        let Some(socket) = self.state.letterbox.get(which) else { return false };
        let mut buffer = [0; LONGEST];
        let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) else { return false };
        let text = buffer[..length].to_vec();
        self.say(if which == 0 { FromMediator::Logged { text } } else { FromMediator::Notified { text } });
        true
    }

    /// What a jail that has ended has left: a queue holds net.unix.max_dgram_qlen datagrams, 10 by default.
    pub(super) fn read_all_letters(&mut self) {
        for which in 0..LETTERBOX.len() {
            for _ in 0..MOST_LEFT {
                if !self.read_letter(which) {
                    break;
                }
            }
        }
        self.say(FromMediator::LettersRead);
    }
}
