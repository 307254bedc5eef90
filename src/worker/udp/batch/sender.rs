//! What goes out: datagrams wait for the end of the turn's batch, each copied once, next to its neighbours. Those of one program's
//! socket to one peer that make a [`Train`] leave as one super-datagram.
//!
//! A socket of our own (direct) names the peer, and where to cut, beside each message: one sendmmsg(2) for many. A socket that is connected to
//! a proxy's relay may not be given messages (see `jail::seccomp::roles`), so it is told where to cut before ([`Cut`]), and written to. Where the
//! kernel does not cut, or not at this length, each datagram goes by itself.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrLike, SockaddrStorage, send, sendto, setsockopt, sockopt};

use super::super::id::MappingId;
use super::{Control, Train};

/// The most messages of one system call.
const MESSAGES: usize = 32;
/// Bytes of all datagrams that wait to go out.
const OUT: usize = 256 * 1024;

/// One message on its way out.
#[derive(Clone, Copy)]
pub(in super::super) struct Outgoing {
    pub mapping: MappingId,
    /// The peer, as the program knows it.
    pub to: SocketAddr,
    /// How many bytes of each datagram are the relay's, and not the program's.
    pub header: usize,
    train: Train,
    start: usize,
}

/// How a mapping's messages leave.
pub(in super::super) enum Way<'a> {
    /// Each to its own peer.
    Addressed(BorrowedFd<'a>),
    /// All to whom the socket is connected to.
    Connected(BorrowedFd<'a>, &'a mut Cut),
}

/// Whose the sockets are.
pub(in super::super) trait Exit {
    /// A mapping's way out, while it has one.
    fn way(&mut self, mapping: MappingId) -> Option<Way<'_>>;

    /// Hears of a datagram that could not go, its header included, and why; says whether to try that one again, once.
    fn failed(&mut self, message: &Outgoing, datagram: &[u8], errno: Errno, again: bool) -> bool;
}

/// Where a connected socket cuts what is written to it (UDP_SEGMENT).
#[derive(Debug)]
pub(in super::super) struct Cut {
    /// What the socket was told last; 0 is nowhere.
    told: usize,
    /// The longest datagram of a train that the way takes, as far as is known.
    longest: usize,
}

impl Cut {
    pub fn new() -> Self {
        Self { told: 0, longest: usize::MAX }
    }

    /// Whether datagrams of this length may make a train.
    pub fn takes(&self, length: usize) -> bool {
        length <= self.longest
    }

    /// Sends a train, or a single datagram. After an error that [`is_about_cutting`] the train's datagrams may go by themselves.
    fn send(&mut self, fd: BorrowedFd<'_>, bytes: &[u8], train: &Train) -> nix::Result<()> {
        let outcome = self.write(fd, bytes, train);
        let Err(errno) = outcome else { return Ok(()) };
        if !is_about_cutting(errno) || (train.count == 1 && self.told == 0) {
            return outcome;
        }
        if train.count > 1 {
            // Too long for the way's MTU; or nothing is cut on it, or by this kernel.
            self.longest = if matches!(errno, Errno::EINVAL | Errno::EMSGSIZE) { train.piece - 1 } else { 0 };
        }
        if self.told > 0 {
            self.tell(fd, 0)?;
        }
        if train.count == 1 { self.write(fd, bytes, train) } else { outcome }
    }

    fn write(&mut self, fd: BorrowedFd<'_>, bytes: &[u8], train: &Train) -> nix::Result<()> {
        // What is not longer than a piece is not cut.
        let whole = train.count == 1 && bytes.len() <= self.told;
        if !whole && train.segment() != self.told {
            self.tell(fd, train.segment())?;
        }
        send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    fn tell(&mut self, fd: BorrowedFd<'_>, segment: usize) -> nix::Result<()> {
        setsockopt(&fd, sockopt::UdpGsoSegment, &(segment as i32))?;
        self.told = segment;
        Ok(())
    }
}

/// Whether an error can mean that a train does not go whose datagrams would: the way's MTU (EMSGSIZE since Linux 6.14), a way that
/// encrypts (EIO), a kernel that does not cut.
fn is_about_cutting(errno: Errno) -> bool {
    matches!(errno, Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO | Errno::ENOPROTOOPT | Errno::EPERM)
}

/// Datagrams that wait for the end of the batch.
pub(in super::super) struct Sender {
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

    /// Adds a datagram with its relay's header, or, without one, a super-datagram whose parts have the length `segment`.
    /// `alone`: it is to be no part of a train.
    pub fn push(&mut self, to: (MappingId, SocketAddr), header: &[u8], data: &[u8], segment: usize, alone: bool) {
        let (start, length) = (self.used, header.len() + data.len());
        let Some(room) = self.bytes.get_mut(start..start + length) else { return };
        let (before, behind) = room.split_at_mut(header.len());
        before.copy_from_slice(header);
        behind.copy_from_slice(data);
        self.used += length;
        let train = Train::new(length, segment);
        if let Some(last) = self.messages.last_mut()
            && !alone
            && (last.mapping, last.to) == to
            && last.train.couple(&train)
        {
            return;
        }
        self.messages.push(Outgoing { mapping: to.0, to: to.1, header: header.len(), train, start });
    }

    /// Sends everything, in order.
    pub fn flush(&mut self, exit: &mut impl Exit) {
        let mut at = 0;
        while let Some(first) = self.messages.get(at) {
            let outcome = match exit.way(first.mapping) {
                Some(Way::Addressed(fd)) => {
                    let same = self.messages[at..].iter().take_while(|message| message.mapping == first.mapping);
                    self.send_many(fd, at, at + same.count())
                }
                Some(Way::Connected(fd, cut)) => cut.send(fd, self.bytes_of(first), &first.train).map(|()| 1),
                None => Err(Errno::ENOTCONN),
            };
            at += match outcome {
                Ok(sent) => sent.max(1),
                Err(Errno::EINTR) => 0,
                Err(errno) => {
                    self.repair(first, errno, exit);
                    1
                }
            };
        }
        self.messages.clear();
        self.used = 0;
    }

    fn bytes_of(&self, message: &Outgoing) -> &[u8] {
        &self.bytes[message.start..message.start + message.train.length]
    }

    /// One message was refused: its datagrams are tried one by one.
    fn repair(&self, message: &Outgoing, errno: Errno, exit: &mut impl Exit) {
        let bytes = self.bytes_of(message);
        // Where it is not about cutting, it is about the first one.
        let mut known = (message.train.count == 1 || !is_about_cutting(errno)).then_some(errno);
        for datagram in message.train.pieces(bytes) {
            let outcome = known.take().map_or_else(|| send_one(message, datagram, exit), Err);
            if let Err(errno) = outcome
                && exit.failed(message, datagram, errno, false)
                && let Err(errno) = send_one(message, datagram, exit)
            {
                exit.failed(message, datagram, errno, true);
            }
        }
    }

    /// One sendmmsg(2) of messages to one descriptor: how many went.
    fn send_many(&self, fd: BorrowedFd<'_>, from: usize, to: usize) -> nix::Result<usize> {
        let messages = &self.messages[from..to];
        // SAFETY: all-zero values of these plain C structures are valid.
        let (mut headers, mut vectors): ([libc::mmsghdr; MESSAGES], [libc::iovec; MESSAGES]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut controls = [Control::NONE; MESSAGES];
        let mut names = [SockaddrStorage::from(SocketAddr::from(([0, 0, 0, 0], 0))); MESSAGES];
        for (index, message) in messages.iter().enumerate().take(MESSAGES) {
            names[index] = SockaddrStorage::from(message.to);
            let bytes = self.bytes_of(message);
            vectors[index] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = names[index].as_ptr().cast_mut().cast();
            header.msg_namelen = names[index].len();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            if message.train.count > 1 {
                controls[index].say_segment(message.train.piece as u16);
                header.msg_control = controls[index].0.as_mut_ptr().cast();
                header.msg_controllen = control_space(size_of::<u16>()) as _;
            }
        }
        let count = messages.len().min(MESSAGES);
        // SAFETY: the first `count` headers point at an iovec, a name and a control buffer each, which live until the call
        // returns and are only read by it.
        let sent = unsafe {
            libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_NOSIGNAL as _)
        };
        Errno::result(sent).map(|sent| sent as usize)
    }
}

fn send_one(message: &Outgoing, datagram: &[u8], exit: &mut impl Exit) -> nix::Result<()> {
    match exit.way(message.mapping).ok_or(Errno::ENOTCONN)? {
        Way::Addressed(fd) => {
            let to = SockaddrStorage::from(message.to);
            sendto(fd.as_raw_fd(), datagram, &to, MsgFlags::MSG_NOSIGNAL).map(drop)
        }
        Way::Connected(fd, cut) => cut.send(fd, datagram, &Train::new(datagram.len(), 0)),
    }
}

fn control_space(length: usize) -> usize {
    // SAFETY: CMSG_SPACE only computes.
    unsafe { libc::CMSG_SPACE(length as libc::c_uint) as usize }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use nix::sys::socket::getsockopt;

    use super::super::Receiver;
    use super::*;

    /// A datagram that did not go: to whom, its length, why, and whether it was tried again.
    type Failure = (SocketAddr, usize, Errno, bool);

    /// One mapping, with one socket; `cut` where it is connected.
    struct Lone {
        socket: Option<UdpSocket>,
        cut: Option<Cut>,
        failures: Vec<Failure>,
    }

    impl Exit for Lone {
        fn way(&mut self, _: MappingId) -> Option<Way<'_>> {
            let fd = self.socket.as_ref()?.as_fd();
            Some(match &mut self.cut {
                Some(cut) => Way::Connected(fd, cut),
                None => Way::Addressed(fd),
            })
        }

        fn failed(&mut self, message: &Outgoing, datagram: &[u8], errno: Errno, again: bool) -> bool {
            self.failures.push((message.to, datagram.len(), errno, again));
            if self.cut.is_some() && errno == Errno::ECONNREFUSED {
                self.socket = None;
            }
            self.cut.is_none() && !again
        }
    }

    fn id() -> MappingId {
        MappingId::of_bits(0)
    }

    /// A way out, and where it leads to.
    fn pair(connected: bool) -> (Lone, UdpSocket, SocketAddr) {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (socket, server) = (bind(), bind());
        let to = server.local_addr().unwrap();
        if connected {
            socket.connect(to).unwrap();
        }
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let cut = connected.then(Cut::new);
        (Lone { socket: Some(socket), cut, failures: Vec::new() }, server, to)
    }

    #[test]
    fn datagrams_arrive_as_they_were_whatever_is_put_together() {
        let sizes = [0, 1, 1200, 1200, 1200, 700, 700, 1200, 0, 5, 60_000, 9000, 9000, 1];
        for connected in [false, true] {
            let (mut lone, server, to) = pair(connected);
            let mut sender = Sender::new();
            for (index, size) in sizes.into_iter().enumerate() {
                assert!(sender.has_room(size));
                sender.push((id(), to), b"", &vec![index as u8; size], 0, false);
            }
            assert!(sender.messages.len() < sizes.len(), "equal neighbours go together");
            // One that was a super-datagram already.
            sender.push((id(), to), b"", &[77; 2500], 1000, false);
            sender.flush(&mut lone);
            assert!(sender.messages.is_empty() && sender.has_room(OUT));
            assert_eq!(lone.failures, [], "connected: {connected}");
            let mut buffer = vec![0; 65_536];
            for (index, size) in sizes.into_iter().enumerate() {
                let count = server.recv(&mut buffer).unwrap();
                assert_eq!(count, size, "datagram {index}");
                assert!(buffer[..count].iter().all(|byte| *byte == index as u8));
            }
            assert_eq!([0; 3].map(|_| server.recv(&mut buffer).unwrap()), [1000, 1000, 500]);
        }
    }

    #[test]
    fn a_header_stands_before_every_datagram_of_a_train() {
        let (mut lone, server, to) = pair(true);
        let mut sender = Sender::new();
        (0..5).for_each(|n| sender.push((id(), to), b"head", &[n; 9], 0, false));
        assert_eq!(sender.messages.len(), 1);
        sender.flush(&mut lone);
        for n in 0..5 {
            let mut buffer = [0; 99];
            assert_eq!(server.recv(&mut buffer).unwrap(), 13);
            assert_eq!(buffer[..13], [&b"head"[..], &[n; 9]].concat());
        }
    }

    #[test]
    fn a_super_datagram_is_received_in_one_piece_and_from_whom() {
        let (mut lone, server, to) = pair(false);
        setsockopt(&server, sockopt::UdpGroSegment, &true).unwrap();
        let mut sender = Sender::new();
        (0..40).for_each(|n| sender.push((id(), to), b"", &[n; 1000], 0, false));
        sender.flush(&mut lone);
        let mut receiver = Receiver::new();
        assert!(!receiver.receive(server.as_raw_fd()).unwrap());
        let [one] = receiver.messages[..] else { panic!("{:?}", receiver.messages) };
        assert_eq!((one.train, one.from), (Train::new(40_000, 1000), lone.socket.map(|a| a.local_addr().unwrap())));
        let bytes = &receiver.buffer[one.at..one.at + one.train.length];
        assert!(bytes.chunks(1000).enumerate().all(|(n, piece)| piece.iter().all(|byte| *byte == n as u8)));
        assert!(!receiver.receive(server.as_raw_fd()).unwrap() && receiver.messages.is_empty());
    }

    #[test]
    fn one_that_can_not_go_takes_none_with_it() {
        let (mut lone, server, to) = pair(false);
        let mut sender = Sender::new();
        // No route to there: a broadcast without leave.
        let bad = SocketAddr::from(([255, 255, 255, 255], 9));
        for to in [to, bad, to] {
            sender.push((id(), to), b"", b"x", 0, false);
        }
        sender.flush(&mut lone);
        assert_eq!(lone.failures, [(bad, 1, Errno::EACCES, false), (bad, 1, Errno::EACCES, true)]);
        assert_eq!([0; 2].map(|_| server.recv(&mut [0; 9]).unwrap()), [1, 1]);
    }

    #[test]
    fn a_train_that_does_not_go_goes_in_pieces_and_its_length_is_remembered() {
        let (mut lone, server, to) = pair(true);
        let mut sender = Sender::new();
        // Longer than loopback's MTU with their headers are the middle ones: the kernel cuts no such train.
        let sizes = [100, 100, 65_500, 65_507, 100, 100];
        assert!(setsockopt(lone.socket.as_ref().unwrap(), sockopt::UdpGsoSegment, &100).is_ok());
        lone.cut = Some(Cut { told: 100, longest: usize::MAX });
        for (n, size) in sizes.into_iter().enumerate() {
            sender.push((id(), to), b"", &vec![n as u8; size], 0, false);
        }
        sender.flush(&mut lone);
        assert_eq!(lone.failures, []);
        let mut buffer = vec![0; 70_000];
        assert_eq!(sizes.map(|_| server.recv(&mut buffer).unwrap()), sizes, "none was cut by what was said for others");

        // A kernel that does not cut at this length, as after the way's MTU has shrunk.
        let mtu = 60_000;
        setsockopt(lone.socket.as_ref().unwrap(), sockopt::RcvBuf, &(1 << 20)).unwrap();
        let cut = lone.cut.as_mut().unwrap();
        let train = Train::new(2 * mtu, mtu);
        let outcome = cut.send(lone.socket.as_ref().unwrap().as_fd(), &vec![0; 2 * mtu], &train);
        assert!(outcome.is_err_and(is_about_cutting), "no datagram is so long: {outcome:?}");
        assert!(!cut.takes(mtu) && cut.takes(mtu - 1));
        assert_eq!(
            getsockopt(lone.socket.as_ref().unwrap(), sockopt::UdpGsoSegment).unwrap(),
            0,
            "nothing is cut by accident"
        );
    }

    #[test]
    fn an_association_that_is_lost_in_the_middle_fails_the_rest_and_sends_nothing_twice() {
        let (mut lone, server, to) = pair(true);
        drop(server);
        let mut sender = Sender::new();
        sender.push((id(), to), b"", b"into nothing", 0, false);
        sender.flush(&mut lone);
        // The kernel has heard of it on loopback before the next call.
        for size in [7, 7, 5, 9] {
            sender.push((id(), to), b"", &vec![0; size], 0, false);
        }
        sender.flush(&mut lone);
        let gone = |size| (to, size, Errno::ENOTCONN, false);
        assert_eq!(lone.failures, [(to, 7, Errno::ECONNREFUSED, false), gone(7), gone(5), gone(9)]);
    }
}
