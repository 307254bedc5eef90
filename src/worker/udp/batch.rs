//! Many datagrams for one system call: sendmmsg(2) and recvmmsg(2), with the segment sizes of udp(7) beside them.
//!
//! The buffers are made once and live while there is a mapping. What goes out is copied once, next to its neighbours: equal
//! datagrams to one peer that follow each other become one super-datagram (UDP_SEGMENT), which the kernel or the network card
//! cuts. What comes in lies where [`wrap`](crate::stack::udp::wrap) can write headers before it, a super-datagram (UDP_GRO) in one piece.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use super::id::MappingId;
use crate::stack::udp::HEADROOM;

/// The most messages of one system call.
const MESSAGES: usize = 32;
/// Bytes of all datagrams that wait to go out.
const OUT: usize = 256 * 1024;
/// The most bytes of a super-datagram, and the most datagrams in one (UDP_MAX_SEGMENTS before Linux 6.9).
const LARGEST: usize = 65_000;
const SEGMENTS: usize = 64;
/// Room for what comes in one message: the longest datagram, and the headers that are written before it.
const SLOT: usize = HEADROOM + 0x1_0000;
const SLOTS: usize = 16;

/// A control message with one number: 16 bytes of header, the number, and what aligns the next one.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 40]);

/// One message on its way out.
pub(super) struct Outgoing {
    pub mapping: MappingId,
    pub to: SocketAddr,
    fd: RawFd,
    start: usize,
    length: usize,
    /// The length of each datagram, if there are several.
    segment: usize,
    count: usize,
}

/// Datagrams that wait for the end of the batch.
pub(super) struct Sender {
    bytes: Box<[u8]>,
    used: usize,
    messages: Vec<Outgoing>,
}

impl Sender {
    pub fn new() -> Self {
        Self { bytes: vec![0; OUT].into_boxed_slice(), used: 0, messages: Vec::with_capacity(MESSAGES) }
    }

    /// Whether a datagram of so many bytes finds room; if not, [`Sender::flush`] first.
    pub fn has_room(&self, length: usize) -> bool {
        self.messages.len() < MESSAGES && self.used + length <= OUT
    }

    /// Adds a datagram, or a super-datagram whose parts have the length `segment`.
    pub fn push(&mut self, mapping: MappingId, fd: RawFd, to: SocketAddr, data: &[u8], segment: usize) {
        let start = self.used;
        let Some(room) = self.bytes.get_mut(start..start + data.len()) else { return };
        room.copy_from_slice(data);
        self.used += data.len();
        let count = if segment == 0 { 1 } else { data.len().div_ceil(segment) };
        let size = if segment == 0 { data.len() } else { segment };
        if let Some(last) = self.messages.last_mut()
            && last.fd == fd
            && last.to == to
            && last.takes(data.len(), size, count)
        {
            last.segment = if last.segment == 0 { last.length } else { last.segment };
            last.length += data.len();
            last.count += count;
            return;
        }
        let length = data.len();
        self.messages.push(Outgoing { mapping, to, fd, start, length, segment, count });
    }

    /// Sends everything. `failed` hears of each datagram that could not go: to whom, its bytes, and why; it says whether to
    /// try that one again, once.
    pub fn flush(&mut self, mut failed: impl FnMut(&Outgoing, &[u8], Errno, bool) -> bool) {
        let mut at = 0;
        while at < self.messages.len() {
            let fd = self.messages[at].fd;
            let run = self.messages[at..].iter().take_while(|message| message.fd == fd).count();
            let end = at + run;
            while at < end {
                match self.send(fd, at, end) {
                    Ok(sent) => at += sent.max(1),
                    Err(Errno::EINTR) => {}
                    Err(errno) => {
                        self.repair(at, errno, &mut failed);
                        at += 1;
                    }
                }
            }
        }
        self.messages.clear();
        self.used = 0;
    }

    /// One message was refused: its datagrams are tried one by one.
    fn repair(&self, at: usize, errno: Errno, failed: &mut impl FnMut(&Outgoing, &[u8], Errno, bool) -> bool) {
        let message = &self.messages[at];
        let whole = &self.bytes[message.start..message.start + message.length];
        let single = message.segment == 0;
        let pieces = whole.chunks(if single { whole.len().max(1) } else { message.segment });
        let to = SockaddrStorage::from(message.to);
        let send =
            |piece: &[u8]| nix::sys::socket::sendto(message.fd, piece, &to, nix::sys::socket::MsgFlags::MSG_NOSIGNAL);
        let mut errno = if single { Some(errno) } else { None };
        // An empty datagram has no pieces.
        for piece in pieces.chain(std::iter::once(whole).filter(|whole| whole.is_empty())) {
            let outcome = errno.take().map_or_else(|| send(piece), Err);
            if let Err(errno) = outcome
                && failed(message, piece, errno, false)
                && let Err(errno) = send(piece)
            {
                failed(message, piece, errno, true);
            }
        }
    }

    /// One sendmmsg(2) of messages to one descriptor: how many went.
    fn send(&self, fd: RawFd, from: usize, to: usize) -> Result<usize, Errno> {
        let messages = &self.messages[from..to];
        // SAFETY: all-zero values of these plain C structures are valid.
        let (mut headers, mut vectors, mut controls): ([libc::mmsghdr; MESSAGES], [libc::iovec; MESSAGES], _) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), [Control([0; 40]); MESSAGES]) };
        let mut names = [SockaddrStorage::from(SocketAddr::from(([0, 0, 0, 0], 0))); MESSAGES];
        for (index, message) in messages.iter().enumerate().take(MESSAGES) {
            names[index] = SockaddrStorage::from(message.to);
            let bytes = &self.bytes[message.start..message.start + message.length];
            vectors[index] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = names[index].as_ptr().cast_mut().cast();
            header.msg_namelen = names[index].len();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            if message.segment > 0 {
                controls[index].say_segment(message.segment as u16);
                header.msg_control = controls[index].0.as_mut_ptr().cast();
                header.msg_controllen = control_space(size_of::<u16>()) as _;
            }
        }
        let count = messages.len().min(MESSAGES);
        // SAFETY: the first `count` headers point at an iovec, a name and a control buffer each, which live until the call
        // returns and are only read by it.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_NOSIGNAL as _) };
        Errno::result(sent).map(|sent| sent as usize)
    }
}

impl Outgoing {
    /// Whether datagrams of this size may follow in the same message: only the last one may be shorter than the others.
    fn takes(&self, length: usize, size: usize, count: usize) -> bool {
        let own = if self.segment == 0 { self.length } else { self.segment };
        own > 0
            && size > 0
            && size <= own
            && (count == 1 || size == own)
            && self.length.is_multiple_of(own)
            && self.length + length <= LARGEST
            && self.count + count <= SEGMENTS
    }
}

fn control_space(length: usize) -> usize {
    // SAFETY: CMSG_SPACE only computes.
    unsafe { libc::CMSG_SPACE(length as libc::c_uint) as usize }
}

impl Control {
    /// The control message UDP_SEGMENT.
    fn say_segment(&mut self, segment: u16) {
        // SAFETY: CMSG_LEN only computes.
        let length = unsafe { libc::CMSG_LEN(size_of::<u16>() as libc::c_uint) } as usize;
        let header = size_of::<libc::cmsghdr>();
        self.0[..8].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        self.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        self.0[header..header + 2].copy_from_slice(&segment.to_ne_bytes());
    }

    /// The number of the control message UDP_GRO, if that is what the first one is.
    fn segment(&self, length: usize) -> usize {
        let header = size_of::<libc::cmsghdr>();
        let word = |at: usize| self.0[at..].first_chunk::<4>().map_or(0, |word| i32::from_ne_bytes(*word));
        let said = length >= header + 4 && word(8) == libc::SOL_UDP && word(12) == libc::UDP_GRO;
        if said { usize::try_from(word(header)).unwrap_or_default() } else { 0 }
    }
}

const _: () = assert!(size_of::<libc::cmsghdr>() == 16, "64-bit Linux: a length of 8 bytes, level and type of 4");

/// One message that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub from: Option<SocketAddr>,
    /// Where its bytes begin in [`Receiver::buffer`]; [`HEADROOM`] lies before them.
    pub at: usize,
    pub length: usize,
    /// The length of each datagram, if there are several.
    pub segment: usize,
}

/// Where datagrams are received.
pub(super) struct Receiver {
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
        let (mut headers, mut vectors, mut names, mut controls): (
            [libc::mmsghdr; SLOTS],
            [libc::iovec; SLOTS],
            [libc::sockaddr_storage; SLOTS],
            _,
        ) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed(), [Control([0; 40]); SLOTS]) };
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
            let segment = controls[index].segment(control);
            let segment = if segment < length { segment } else { 0 };
            let from = address(&names[index]);
            self.messages.push(Incoming { from, at: index * SLOT + HEADROOM, length, segment });
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::super::id::MappingId;
    use super::*;

    fn id() -> MappingId {
        MappingId::of_bits(0)
    }

    fn pair() -> (UdpSocket, UdpSocket) {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        (bind(), bind())
    }

    #[test]
    fn datagrams_arrive_as_they_were_whatever_is_put_together() {
        let (a, b) = pair();
        let to = b.local_addr().unwrap();
        let sizes = [0, 1, 1200, 1200, 1200, 700, 700, 1200, 0, 5, 60_000, 9000, 9000, 1];
        let mut sender = Sender::new();
        for (index, size) in sizes.into_iter().enumerate() {
            assert!(sender.has_room(size));
            sender.push(id(), a.as_raw_fd(), to, &vec![index as u8; size], 0);
        }
        assert!(sender.messages.len() < sizes.len(), "equal neighbours go together");
        // One that was a super-datagram already.
        sender.push(id(), a.as_raw_fd(), to, &[77; 2500], 1000);
        sender.flush(|message, _, errno, _| panic!("{errno} to {}", message.to));
        assert!(sender.messages.is_empty() && sender.has_room(OUT));
        let mut buffer = vec![0; 65_536];
        for (index, size) in sizes.into_iter().enumerate() {
            let count = b.recv(&mut buffer).unwrap();
            assert_eq!(count, size, "datagram {index}");
            assert!(buffer[..count].iter().all(|byte| *byte == index as u8));
        }
        assert_eq!([0; 3].map(|_| b.recv(&mut buffer).unwrap()), [1000, 1000, 500]);
    }

    #[test]
    fn a_super_datagram_is_received_in_one_piece_and_from_whom() {
        let (a, b) = pair();
        nix::sys::socket::setsockopt(&b, nix::sys::socket::sockopt::UdpGroSegment, &true).unwrap();
        let mut sender = Sender::new();
        (0..40).for_each(|n| sender.push(id(), a.as_raw_fd(), b.local_addr().unwrap(), &[n; 1000], 0));
        sender.flush(|_, _, errno, _| panic!("{errno}"));
        let mut receiver = Receiver::new();
        assert!(!receiver.receive(b.as_raw_fd()).unwrap());
        let [one] = receiver.messages[..] else { panic!("{:?}", receiver.messages) };
        assert_eq!((one.length, one.segment, one.from), (40_000, 1000, Some(a.local_addr().unwrap())));
        let bytes = &receiver.buffer[one.at..one.at + one.length];
        assert!(bytes.chunks(1000).enumerate().all(|(n, piece)| piece.iter().all(|byte| *byte == n as u8)));
        assert!(!receiver.receive(b.as_raw_fd()).unwrap() && receiver.messages.is_empty());
    }

    #[test]
    fn one_that_can_not_go_takes_none_with_it() {
        let (a, b) = pair();
        let to = b.local_addr().unwrap();
        let mut sender = Sender::new();
        // No route to there: a broadcast without leave.
        let bad = SocketAddr::from(([255, 255, 255, 255], 9));
        for to in [to, bad, to] {
            sender.push(id(), a.as_raw_fd(), to, b"x", 0);
        }
        let mut failures = Vec::new();
        sender.flush(|message, data, errno, again| {
            failures.push((message.to, data.len(), errno, again));
            !again
        });
        assert_eq!(failures, [(bad, 1, Errno::EACCES, false), (bad, 1, Errno::EACCES, true)]);
        b.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!([0; 2].map(|_| b.recv(&mut [0; 9]).unwrap()), [1, 1]);
    }
}
