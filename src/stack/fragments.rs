//! Reassembly of datagrams that a jail's kernel had to cut: large answers to come, large pings, a learned path MTU.
//!
//! Small on purpose: a few datagrams at a time, each for a few seconds, the oldest making room. An overlap drops the
//! datagram (RFC 5722, RFC 8200 section 4.5). TCP is never reassembled: no kernel fragments its own segments.

use std::net::IpAddr;

use smoltcp::time::{Duration, Instant};

use super::emit;
use super::packet::{Fragment, ICMP, ICMP6, UDP};

const DATAGRAMS: usize = 16;
const PIECES: usize = 64;
/// What the length fields of IP can say about a transport header and its payload: IPv4's counts the header too.
const LARGEST4: usize = 65_515;
const LARGEST6: usize = 65_535;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    begun: Instant,
    pieces: Vec<(usize, Vec<u8>)>,
    length: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: Vec<Partial>,
}

impl Fragments {
    /// Adds a piece; a whole IP packet (with a virtio-net header's worth of nothing before it) if it was the missing one.
    pub fn add(&mut self, now: Instant, piece: &Fragment<'_>) -> Option<Vec<u8>> {
        let largest = if piece.source.is_ipv4() { LARGEST4 } else { LARGEST6 };
        if !matches!(piece.protocol, UDP | ICMP | ICMP6)
            || piece.data.is_empty()
            || piece.offset + piece.data.len() > largest
            || (!piece.last && !piece.data.len().is_multiple_of(8))
        {
            return None;
        }
        self.waiting.retain(|partial| now < partial.begun + PATIENCE);
        let key = Key {
            source: piece.source,
            destination: piece.destination,
            protocol: piece.protocol,
            identification: piece.identification,
        };
        let at = match self.waiting.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => {
                if self.waiting.len() == DATAGRAMS {
                    self.waiting.remove(0);
                }
                self.waiting.push(Partial { key, begun: now, pieces: Vec::new(), length: None });
                self.waiting.len() - 1
            }
        };
        let partial = &mut self.waiting[at];
        let (start, end) = (piece.offset, piece.offset + piece.data.len());
        let overlaps = partial.pieces.iter().any(|(s, data)| start < s + data.len() && *s < end);
        let beyond = match partial.length {
            Some(length) => end > length || piece.last,
            None => piece.last && partial.pieces.iter().any(|(s, data)| s + data.len() > end),
        };
        if overlaps || beyond || partial.pieces.len() == PIECES {
            self.waiting.remove(at);
            return None;
        }
        if piece.last {
            partial.length = Some(end);
        }
        partial.pieces.push((start, piece.data.to_vec()));
        let have: usize = partial.pieces.iter().map(|(_, data)| data.len()).sum();
        if partial.length != Some(have) {
            return None;
        }
        let mut whole = self.waiting.remove(at);
        whole.pieces.sort_unstable_by_key(|(start, _)| *start);
        let transport: Vec<u8> = whole.pieces.into_iter().flat_map(|(_, data)| data).collect();
        Some(emit::plain(whole.key.source, whole.key.destination, whole.key.protocol, &transport))
    }
}
