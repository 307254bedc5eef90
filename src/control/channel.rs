//! One typed message a packet over a `SOCK_SEQPACKET` pair, with descriptors beside it.
//!
//! The peer may be hostile (a relay parses packets): a message has a bounded size, an unknown one is an error and never a
//! panic, and a truncated control message (`MSG_CTRUNC`) is a refusal, not a message without its descriptors.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, send, sendmsg, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::packet;

/// The largest message, in bytes. Batches of records are cut to fit.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Room for a message, and more than what malloc takes from its own heap: such memory comes from the kernel as zeroes, page
/// by page as it is written, so a role that receives a few small messages pays for one page and clears nothing.
const RECEIVE_ROOM: usize = 256 * 1024;
const _: () = assert!(RECEIVE_ROOM > MAX_MESSAGE);

thread_local! {
    /// Where a message is received: clearing 64 KiB for each would cost more than the rest of a dial's message.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What can go wrong between two roles.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer has gone.
    #[error("the other side has closed the channel")]
    Closed,
    /// A non-blocking channel has nothing to read, or no room to write.
    #[error("the channel would block")]
    WouldBlock,
    /// Bytes that are no message of this direction, too many of them, or lost descriptors.
    #[error("not a message: {0}")]
    Malformed(String),
    /// The kernel's own error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<nix::Error> for ChannelError {
    fn from(errno: nix::Error) -> Self {
        match errno {
            nix::Error::EAGAIN => Self::WouldBlock,
            nix::Error::EPIPE | nix::Error::ECONNRESET => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

/// One end: sends `Out`, receives `In`.
#[derive(Debug)]
pub struct Channel<Out, In> {
    fd: OwnedFd,
    direction: PhantomData<fn(Out) -> In>,
}

/// Makes both ends of a channel; close-on-exec, blocking.
pub fn pair<A, B>() -> io::Result<(Channel<A, B>, Channel<B, A>)> {
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel::from(a), Channel::from(b)))
}

impl<Out, In> From<OwnedFd> for Channel<Out, In> {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, direction: PhantomData }
    }
}

impl<Out, In> From<Channel<Out, In>> for OwnedFd {
    fn from(channel: Channel<Out, In>) -> OwnedFd {
        channel.fd
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<Out, In> AsRawFd for Channel<Out, In> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// Sends one message.
    pub fn send(&self, message: &Out) -> Result<(), ChannelError> {
        self.send_with(message, &[])
    }

    /// Sends one message if there is room for it now, whether or not the channel is a blocking one.
    pub fn try_send(&self, message: &Out) -> Result<(), ChannelError> {
        self.send_flagged(message, &[], MsgFlags::MSG_DONTWAIT)
    }

    /// Sends one message with descriptors, which stay the caller's own as well.
    pub fn send_with(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_flagged(message, descriptors, MsgFlags::empty())
    }

    fn send_flagged(&self, message: &Out, descriptors: &[BorrowedFd<'_>], flags: MsgFlags) -> Result<(), ChannelError> {
        let bytes = postcard::to_stdvec(message).map_err(|e| ChannelError::Malformed(e.to_string()))?;
        if bytes.len() > MAX_MESSAGE {
            return Err(ChannelError::Malformed(format!("{} bytes are more than {MAX_MESSAGE}", bytes.len())));
        }
        if descriptors.is_empty() {
            return self.send_bytes(&bytes, flags);
        }
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        loop {
            match sendmsg::<()>(
                self.fd.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                &rights,
                MsgFlags::MSG_NOSIGNAL | flags,
                None,
            ) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Without sendmsg(2), which a relay may not have: it could name an address behind a pointer.
    fn send_bytes(&self, bytes: &[u8], flags: MsgFlags) -> Result<(), ChannelError> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | flags) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives one message and the descriptors beside it (close-on-exec).
    pub fn receive(&self) -> Result<(In, Vec<OwnedFd>), ChannelError> {
        BUFFER.with_borrow_mut(|buffer| self.receive_into(buffer))
    }

    fn receive_into(&self, buffer: &mut Vec<u8>) -> Result<(In, Vec<OwnedFd>), ChannelError> {
        if buffer.is_empty() {
            *buffer = vec![0; RECEIVE_ROOM];
        }
        let packet = loop {
            match packet::receive(self.fd.as_fd(), &mut buffer[..MAX_MESSAGE + 1], MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(Errno::EINTR) => {}
                // The peer closed without having read everything. What it had said before that is still there; the kernel
                // tells this once and first (net/unix/af_unix.c, unix_release_sock).
                Err(Errno::ECONNRESET) => {}
                got => break got?,
            }
        };
        if !packet.whole {
            return Err(ChannelError::Malformed("it was cut short".into()));
        }
        if packet.length == 0 {
            return Err(ChannelError::Closed);
        }
        let message =
            postcard::from_bytes(&buffer[..packet.length]).map_err(|e| ChannelError::Malformed(e.to_string()))?;
        Ok((message, packet.descriptors))
    }
}
