//! Many datagrams for one system call: sendmmsg(2), recvmmsg(2), and the super-datagrams of udp(7).
//!
//! A super-datagram is what the kernel and network cards call several datagrams to one peer, all of one length but the last,
//! that pass through the stack as one and are cut at its end. Whether datagrams make one is decided here, for both directions
//! ([`Train`]); the rest is in [`sender`] and [`receiver`], whose buffers are made once and live while there is a mapping.

mod receiver;
mod sender;

use crate::overlay::socks5::datagram::LONGEST_HEADER;

pub(super) use receiver::{Incoming, Receiver};
pub(super) use sender::{Cut, Exit, Outgoing, Sender, Way};

/// The most bytes of a super-datagram, and the most datagrams in one (UDP_MAX_SEGMENTS before Linux 6.9).
const LARGEST: usize = 65_000;
const SEGMENTS: usize = 64;

/// The longest datagram of all, with room for the kernel's own limit to be 65,527.
const LONGEST: usize = 0x1_0000;

const _: () =
    assert!(LARGEST + LONGEST_HEADER <= LONGEST, "a train behind a relay's header fits where one datagram does");

/// Datagrams that stand one behind the other: all have the length of the first but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Train {
    /// Bytes of all of them.
    pub length: usize,
    /// The length of the first.
    pub piece: usize,
    pub count: usize,
}

impl Train {
    /// So many bytes, cut after each `segment`; 0 is one datagram.
    pub fn new(length: usize, segment: usize) -> Self {
        if segment == 0 || segment >= length {
            return Self { length, piece: length, count: 1 };
        }
        Self { length, piece: segment, count: length.div_ceil(segment) }
    }

    /// Where to cut; 0 for one datagram.
    pub fn segment(&self) -> usize {
        if self.count > 1 { self.piece } else { 0 }
    }

    /// Each datagram in its bytes.
    pub fn pieces<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // An empty datagram has no chunks.
        let empty = bytes.is_empty().then_some(bytes);
        bytes.chunks(self.piece.max(1)).chain(empty)
    }

    /// Hangs others behind the last one, if they may follow; false if not.
    pub fn couple(&mut self, next: &Self) -> bool {
        let full = self.piece > 0 && self.length == self.piece * self.count;
        let fits = next.length > 0 && next.piece <= self.piece && (next.count == 1 || next.piece == self.piece);
        let (length, count) = (self.length + next.length, self.count + next.count);
        if !full || !fits || length > LARGEST || count > SEGMENTS {
            return false;
        }
        (self.length, self.count) = (length, count);
        true
    }
}

/// A control message with one number: 16 bytes of header, the number, and what aligns the next one.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 40]);

impl Control {
    const NONE: Self = Self([0; 40]);

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

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of single datagrams of these lengths, one after the other.
    fn coupled(lengths: &[usize]) -> Vec<Train> {
        let mut trains: Vec<Train> = Vec::new();
        for next in lengths.iter().map(|length| Train::new(*length, 0)) {
            if !trains.last_mut().is_some_and(|last| last.couple(&next)) {
                trains.push(next);
            }
        }
        trains
    }

    fn train(length: usize, piece: usize, count: usize) -> Train {
        Train { length, piece, count }
    }

    #[test]
    fn only_the_last_datagram_of_a_train_is_shorter_and_none_is_empty() {
        assert_eq!(coupled(&[9, 9, 9]), [train(27, 9, 3)]);
        assert_eq!(coupled(&[9, 9, 5, 5]), [train(23, 9, 3), train(5, 5, 1)]);
        assert_eq!(coupled(&[5, 9]), [train(5, 5, 1), train(9, 9, 1)]);
        assert_eq!(coupled(&[9, 0, 0, 9]), [9, 0, 0, 9].map(|length| train(length, length, 1)));
        assert_eq!(coupled(&[1; SEGMENTS + 1]), [train(SEGMENTS, 1, SEGMENTS), train(1, 1, 1)]);
        assert_eq!(coupled(&[LARGEST / 2, LARGEST / 2, 1]), [train(LARGEST, LARGEST / 2, 2), train(1, 1, 1)]);
    }

    #[test]
    fn a_train_hangs_behind_another_one_of_the_same_size_alone() {
        let (mut first, same, other) = (Train::new(2000, 1000), Train::new(2500, 1000), Train::new(1200, 600));
        assert!(!first.couple(&other) && first.couple(&same));
        assert_eq!(first, train(4500, 1000, 5));
        assert!(!first.couple(&Train::new(1000, 0)), "nothing behind a shorter one");
        assert_eq!((Train::new(1000, 1000).segment(), first.segment()), (0, 1000));
    }

    #[test]
    fn the_pieces_of_a_train_are_its_datagrams() {
        let lengths = |bytes: &[u8], segment| {
            let train = Train::new(bytes.len(), segment);
            train.pieces(bytes).map(<[u8]>::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[7; 25], 10), [10, 10, 5]);
        assert_eq!(lengths(&[7; 25], 0), [25]);
        assert_eq!(lengths(&[], 0), [0], "an empty datagram is one");
    }
}
