//! One packet of a SEQPACKET socket, with every descriptor that came beside it.
//!
//! Not by nix: its message has no descriptors left to give once the kernel has cut it short (`MSG_CTRUNC`, recvmsg(2)), but
//! the kernel has installed those that fitted. A peer that sends too many would leave them behind with each message.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

/// The most descriptors that are taken from one packet; of more it is [cut short](Packet::whole).
pub const MAX_DESCRIPTORS: usize = 34;

/// Control messages of [`MAX_DESCRIPTORS`] descriptors, in 64-bit words, which align them.
const ROOM: usize = 24;
// SAFETY: CMSG_SPACE is arithmetic.
const _: () = assert!(unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) } as usize <= ROOM * 8);

/// What came.
#[derive(Debug)]
pub struct Packet {
    /// Bytes; 0 is the end of the channel.
    pub length: usize,
    /// Close-on-exec, if [`MsgFlags::MSG_CMSG_CLOEXEC`] was asked for.
    pub descriptors: Vec<OwnedFd>,
    /// Neither bytes nor descriptors were lost.
    pub whole: bool,
}

/// `recvmsg(2)`; EINTR is an error as any other.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: MsgFlags) -> Result<Packet, Errno> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; ROOM];
    // SAFETY: an all-zero msghdr is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: arithmetic. Exactly the room of so many, so that the kernel, and not this function, leaves further ones out.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) } as _;
    // SAFETY: the header and all that it points to live until after the call, with these lengths.
    let length = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags.bits()) })? as usize;
    let lost = message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0;
    Ok(Packet { length, descriptors: descriptors_of(&message), whole: !lost })
}

/// Takes what the kernel has just installed.
fn descriptors_of(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut all = Vec::new();
    // SAFETY: the kernel has filled the control buffer and its length in; CMSG_NXTHDR stays within them.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: a header within the buffer, which is aligned for it.
        let (level, kind, length) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: arithmetic.
            let payload = length.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            // SAFETY: a message of this kind holds whole descriptors, which nobody else knows the numbers of.
            all.extend((0..payload / size_of::<RawFd>()).map(|index| unsafe {
                OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().add(index).read_unaligned())
            }));
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    all
}
