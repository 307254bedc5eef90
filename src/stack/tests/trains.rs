//! Packets that leave as one.

use proptest::prelude::*;

use super::super::device::LONGEST;
use super::super::packet::{IPV4_HEADER, IPV6_HEADER, add, fold};
use super::super::train::{Long, Train, Way};
use crate::tun::VNET_HEADER;

const MOST: usize = 256 * 1024;
const SEGMENT: u16 = 1460;
const ACK: u8 = 16;
const PSH: u8 = 8;
const FIN: u8 = 1;

/// One segment as smoltcp writes it.
#[derive(Clone, Debug)]
struct Segment {
    v6: bool,
    port: u16,
    sequence: u32,
    flags: u8,
    window: u16,
    data: Vec<u8>,
}

fn segment(v6: bool, sequence: u32, length: usize) -> Segment {
    let data = (0..length).map(|at| (sequence as usize + at) as u8).collect();
    Segment { v6, port: 1000, sequence, flags: ACK, window: 100, data }
}

impl Segment {
    fn packet(&self) -> Vec<u8> {
        let tcp = 20 + self.data.len();
        let mut packet = vec![0; if self.v6 { IPV6_HEADER } else { IPV4_HEADER }];
        if self.v6 {
            packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            packet[4..6].copy_from_slice(&(tcp as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&[6, 64]);
            packet[8..40].fill(7);
        } else {
            packet[..2].copy_from_slice(&[0x45, 0]);
            packet[2..4].copy_from_slice(&((IPV4_HEADER + tcp) as u16).to_be_bytes());
            packet[8..10].copy_from_slice(&[64, 6]);
            packet[12..20].fill(7);
            let sum = !fold(add(0, &packet));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend_from_slice(&80u16.to_be_bytes());
        packet.extend_from_slice(&self.port.to_be_bytes());
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 9, 5 << 4, self.flags]);
        packet.extend_from_slice(&self.window.to_be_bytes());
        packet.extend_from_slice(&[0; 4]);
        packet.extend_from_slice(&self.data);
        packet
    }
}

/// What a frame says of itself, checked against its length, and the segment in it.
fn read(frame: &[u8]) -> Segment {
    let (header, packet) = frame.split_at(VNET_HEADER);
    let word = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let v6 = packet[0] == 0x60;
    let long = |field: usize| usize::from(u16::from_be_bytes([packet[field], packet[field + 1]]));
    let ip = if v6 {
        if packet[6] == 0 {
            assert_eq!((long(4), &packet[40..44]), (0, &[6, 0, 0xc2, 4][..]));
            let payload = u32::from_be_bytes(packet[44..48].try_into().unwrap());
            assert_eq!(payload as usize, packet.len() - IPV6_HEADER);
            assert!(payload > 0xffff + 8, "RFC 2675: a jumbo payload is no short one");
            IPV6_HEADER + 8
        } else {
            assert_eq!((packet[6], long(4)), (6, packet.len() - IPV6_HEADER));
            IPV6_HEADER
        }
    } else {
        assert_eq!(long(2), if packet.len() > LONGEST { 0 } else { packet.len() });
        assert_eq!(fold(add(0, &packet[..IPV4_HEADER])), 0xffff, "the IPv4 header's checksum");
        IPV4_HEADER
    };
    let tcp = &packet[ip..];
    let data = &tcp[usize::from(tcp[12] >> 4) * 4..];
    assert_eq!((header[0], word(6), word(8)), (1, ip, 16), "where the checksum begins and belongs");
    if data.len() > usize::from(SEGMENT) {
        assert_eq!((header[1], word(2), word(4)), (if v6 { 4 } else { 1 }, ip + 20, usize::from(SEGMENT)));
    } else {
        assert_eq!(header[1..6], [0; 5]);
    }
    Segment {
        v6,
        port: u16::from_be_bytes([tcp[2], tcp[3]]),
        sequence: u32::from_be_bytes(tcp[4..8].try_into().unwrap()),
        flags: tcp[13],
        window: u16::from_be_bytes([tcp[14], tcp[15]]),
        data: data.to_vec(),
    }
}

/// What leaves when these are sent in one row.
fn sent(train: &mut Train, long: &mut Long, segments: &[Segment]) -> Vec<Segment> {
    let mut frames = Vec::new();
    let mut sink = |frame: &[u8]| frames.push(frame.to_vec());
    let mut way = Way { sink: &mut sink, segment: SEGMENT, long };
    for segment in segments {
        let packet = segment.packet();
        train.add(packet.len(), &mut way, |room| room.copy_from_slice(&packet));
    }
    train.depart(&mut way);
    frames.iter().map(|frame| read(frame)).collect()
}

fn alone(segments: &[Segment]) -> Vec<Segment> {
    sent(&mut Train::new(MOST), &mut Long::default(), segments)
}

fn lengths(segments: &[Segment]) -> Vec<usize> {
    segments.iter().map(|segment| segment.data.len()).collect()
}

#[test]
fn neighbours_leave_as_one_with_all_their_bytes() {
    for v6 in [false, true] {
        // Its sequence numbers wrap in the middle.
        let first = u32::MAX - 70_000;
        let row: Vec<Segment> = (0..4).map(|n| segment(v6, first.wrapping_add(n * 65_000), 65_000)).collect();
        let [one] = &alone(&row)[..] else { panic!("one frame") };
        assert_eq!(one.sequence, first);
        assert_eq!(one.data, row.iter().flat_map(|one| one.data.clone()).collect::<Vec<_>>());
        // A fifth finds no room.
        let row: Vec<Segment> = (0..5).map(|n| segment(v6, n * 65_000, 65_000)).collect();
        assert_eq!(lengths(&alone(&row)), [260_000, 65_000]);
    }
}

#[test]
fn every_length_round_64_kib_is_said() {
    for v6 in [false, true] {
        for length in 65_400..65_560 {
            let row = [segment(v6, 0, 65_000), segment(v6, 65_000, length - 65_000)];
            assert_eq!(lengths(&alone(&row)), [length]);
        }
    }
}

#[test]
fn the_newer_header_holds() {
    let mut row = [segment(false, 0, 50), segment(false, 50, 10)];
    (row[1].window, row[1].flags) = (77, ACK | PSH);
    let [one] = &alone(&row)[..] else { panic!("one frame") };
    assert_eq!((one.window, one.flags), (77, ACK | PSH));
}

#[test]
fn what_does_not_follow_goes_by_itself() {
    let changes: [fn(&mut Segment); 5] = [
        |next| next.sequence += 1,
        |next| next.sequence -= 1,
        |next| next.port += 1,
        |next| next.flags |= FIN,
        |next| *next = segment(true, next.sequence, next.data.len()),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut row = vec![segment(false, 0, 3000), segment(false, 3000, 2000), segment(false, 5000, 100)];
        change(&mut row[1]);
        assert_eq!(lengths(&alone(&row)), [3000, 2000, 100], "change {index}");
    }
    let small = [segment(true, 0, 59), segment(true, 59, 59), segment(true, 118, 60), segment(true, 178, 1)];
    assert_eq!(lengths(&alone(&small)), [59, 59, 61], "a header would fall upon the first one's");
    let empty = [segment(false, 0, 30), segment(false, 30, 0), segment(false, 30, 5)];
    assert_eq!(lengths(&alone(&empty)), [30, 0, 5]);
}

#[test]
fn a_long_train_that_is_sent_again_was_the_flows_last() {
    let row: Vec<Segment> = (0..2).map(|n| segment(false, n * 60_000, 60_000)).collect();
    let next: Vec<Segment> = (2..4).map(|n| segment(false, n * 60_000, 60_000)).collect();
    let (mut train, mut long) = (Train::new(MOST), Long::default());
    assert_eq!(lengths(&sent(&mut train, &mut long, &row)), [120_000]);
    assert_eq!(lengths(&sent(&mut train, &mut long, &next)), [120_000], "what comes behind is nothing sent again");
    assert_eq!(lengths(&sent(&mut train, &mut long, &next[1..])), [60_000]);
    assert_eq!(long, Long::Never);
    assert_eq!(lengths(&sent(&mut train, &mut long, &next)), [60_000, 60_000]);
    assert_eq!(lengths(&sent(&mut train, &mut Long::default(), &next)), [120_000], "another flow has its own");
}

#[test]
fn where_the_kernel_takes_none_there_is_none() {
    let row = [segment(false, 0, 10), segment(false, 10, 10)];
    assert_eq!(lengths(&sent(&mut Train::new(LONGEST), &mut Long::default(), &row)), [10, 10]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is sent, all of it leaves, in order, and each byte at its sequence number.
    #[test]
    fn nothing_is_lost_or_moved(
        steps in prop::collection::vec((prop_oneof![0usize..100, 0usize..40_000], 0u8..12, any::<u32>(), any::<bool>()), 1..20),
    ) {
        let (mut next, mut row) = (u32::MAX - 50_000, Vec::new());
        for (length, kind, elsewhere, v6) in steps {
            let at = if kind == 0 { elsewhere } else { next };
            let mut one = segment(v6 && kind == 1, at, length);
            one.flags |= if kind == 2 { FIN } else { 0 };
            one.port += u16::from(kind == 3);
            next = at.wrapping_add(length as u32);
            row.push(one);
        }
        let ends = |row: &[Segment]| -> Vec<(bool, u16, u32, u8)> {
            row.iter().flat_map(|s| s.data.iter().zip(0u32..).map(|(byte, n)| (s.v6, s.port, s.sequence.wrapping_add(n), *byte))).collect()
        };
        prop_assert_eq!(ends(&alone(&row)), ends(&row));
    }
}
