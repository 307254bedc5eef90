//! What the mediator and the warden say to each other, and how a command's filter gets here.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::jail::seccomp::Installed;

/// From the warden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMediator {
    /// A command is about to start. Beside it: one end of a SEQPACKET pair whose other end has the payload side, which
    /// calls [`hand_over`] on it.
    Command,
    /// Beside it: an `O_PATH` descriptor of a socket that netjail bound for the jail (the broker's). Connecting to it is allowed.
    AllowInode,
    /// `--allow-socket` and `allow_sockets`: a socket or folder in the host's view. To be sent before the first
    /// [`Command`](Self::Command), since its folder is resolved when it arrives.
    AllowPath {
        /// As the user gave it, absolute.
        path: Vec<u8>,
        /// The jail can move other sockets to this name: only the one that is there now is meant.
        only_this: bool,
    },
    /// `--allow-datagrams`, likewise.
    AllowDatagrams,
    /// Beside it: the jail's /dev/log and its socket for notifications, to be read.
    Letterbox,
    /// The jail has ended: read what is left there, and say [`FromMediator::LettersRead`].
    ReadLetters,
}

/// To the warden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMediator {
    /// A connect to a socket by path was refused; said once for each path. The bytes are the jail's: escape them.
    Refused {
        /// The process, in the pid namespace of the host.
        pid: i32,
        /// As the process wrote it.
        path: Vec<u8>,
    },
    /// A program of another architecture (32-bit, x32) got ENOSYS; said once.
    ForeignArchitecture {
        /// The process, in the pid namespace of the host.
        pid: i32,
    },
    /// The program's file may not be read by anybody in the jail, so neither may its memory be; said once.
    Unreadable {
        /// The process, in the pid namespace of the host.
        pid: i32,
    },
    /// A path of [`ToMediator::AllowPath`] can not be allowed.
    CannotAllow {
        /// As it was given.
        path: Vec<u8>,
        /// What its look-up said.
        errno: i32,
    },
    /// A program wrote to the jail's /dev/log. The bytes are the jail's: escape them.
    Logged {
        /// What it wrote, cut.
        text: Vec<u8>,
    },
    /// A program wrote to the jail's NOTIFY_SOCKET, likewise.
    Notified {
        /// What it wrote, cut.
        text: Vec<u8>,
    },
    /// To [`ToMediator::ReadLetters`].
    LettersRead,
    /// More sockets were bound inside than are kept track of; said once.
    TooManyBound,
    /// The jail had blocked its mediator, which was replaced; connects under way have failed with ECONNABORTED.
    Replaced,
}

/// The byte that says that calls of this filter are answered from now on.
const MEDIATING: u8 = b'm';
/// The byte beside a listener whose calls only a fatal signal interrupts, and beside another.
const KILLABLE: u8 = b'k';
const INTERRUPTIBLE: u8 = b'i';

/// The payload side's half: passes the listener of its filter, and a socket that shows which network is the jail's, then
/// waits until calls are answered. Called after the filter is installed and before exec.
///
/// Errors: EINVAL without a listener; EPIPE where the mediator has gone; then connect would answer ENOSYS for ever, and the command must not start.
pub fn hand_over(channel: BorrowedFd<'_>, installed: Installed) -> Result<(), Errno> {
    let listener = installed.listener.ok_or(Errno::EINVAL)?;
    let witness = nix::sys::socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .or_else(|_| {
            nix::sys::socket::socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        })?;
    let rights = [listener.as_raw_fd(), witness.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(
        channel.as_raw_fd(),
        &[IoSlice::new(&[if installed.killable { KILLABLE } else { INTERRUPTIBLE }])],
        &message,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    drop(listener);
    let mut answer = [0u8];
    loop {
        match nix::sys::socket::recv(channel.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            Ok(1) if answer == [MEDIATING] => return Ok(()),
            Ok(_) => return Err(Errno::EPIPE),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The mediator's half: the listener and the witness. EPROTO for anything else.
pub(super) fn receive_listener(channel: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd, bool), Errno> {
    let mut byte = [0u8];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([i32; 4]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let got = recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just installed these descriptors for this call; nobody else knows their numbers.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let whole = !got.flags.contains(MsgFlags::MSG_CTRUNC);
    match <[OwnedFd; 2]>::try_from(descriptors) {
        Ok([listener, witness]) if whole => Ok((listener, witness, byte == [KILLABLE])),
        _ => Err(Errno::EPROTO),
    }
}

/// Says "mediating" to the payload side.
pub(super) fn acknowledge(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    nix::sys::socket::send(channel.as_fd().as_raw_fd(), &[MEDIATING], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}
