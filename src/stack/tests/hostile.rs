//! Packets that no honest kernel sends: in pieces, with options, damaged, random.

use proptest::prelude::*;

use super::*;

#[test]
fn fragments_of_a_datagram_are_joined_in_any_order_and_overlaps_are_dropped() {
    let data: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
    let whole = udp_packet(false, (5000, 53), &data);
    let transport = &whole[VNET_HEADER + 20..];
    let piece = |from: usize, to: usize, identification: u8| {
        let mut packet = emit::plain(CLIENT4, SERVER4, UDP, &transport[from..to]);
        let more = if to < transport.len() { 0x20 } else { 0 };
        packet[5] = identification;
        packet[6] = more | ((from / 8) >> 8) as u8;
        packet[7] = (from / 8) as u8;
        packet[10..12].fill(0);
        let sum = !fold(add(0, &packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        [vec![0; VNET_HEADER], packet].concat()
    };
    let mut stack = fresh();
    let mut events = Vec::new();
    for (from, to) in [(1480, 2960), (2960, transport.len()), (0, 1480)] {
        events.extend(give(&mut stack, Instant::ZERO, &piece(from, to, 1)).1);
    }
    assert!(matches!(&events[..], [Event::Query { data: got, .. }] if *got == data), "{events:?}");
    for (from, to) in [(0, 1480), (1472, 2960), (1480, 2960), (2960, transport.len())] {
        assert_eq!(give(&mut stack, Instant::ZERO, &piece(from, to, 2)).1, []);
    }
    // First pieces alone, for ever: bounded.
    for identification in 0..=255 {
        give(&mut stack, Instant::ZERO, &piece(0, 1480, identification));
    }
}

#[test]
fn hop_by_hop_options_are_stepped_over_and_other_extension_headers_dropped() {
    let plain = segment(true, (4000, 80), 77, 2, &[]);
    let extended = |kind: u8, option: [u8; 6]| {
        let mut packet = plain[VNET_HEADER..].to_vec();
        let header = [&[TCP, 0][..], &option].concat();
        packet.splice(40..40, header);
        packet[6] = kind;
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        [vec![0; VNET_HEADER], packet].concat()
    };
    let padding = [1, 4, 0, 0, 0, 0];
    let mut stack = fresh();
    let (_, events) = give(&mut stack, Instant::ZERO, &extended(0, padding));
    let Event::Open { flow, .. } = events[0] else { panic!("{events:?}") };
    let mut synack = Vec::new();
    stack.accept(Instant::ZERO, flow, b"", &mut |frame: &[u8]| synack = frame.to_vec()).unwrap();
    assert_eq!(synack[VNET_HEADER + 40 + 13], 2 | 16);
    for (kind, option) in [(0, [0xc1, 4, 0, 0, 0, 0]), (43, padding), (60, padding), (51, padding)] {
        let mut stack = fresh();
        let (_, events) = give(&mut stack, Instant::ZERO, &extended(kind, option));
        assert!(!events.iter().any(|event| matches!(event, Event::Open { .. })), "{kind} {option:?}");
    }
}

#[test]
fn damaged_packets_are_dropped() {
    let mut stack = fresh();
    for v6 in [false, true] {
        for original in [segment(v6, (4000, 80), 77, 2, &[]), udp_packet(v6, (5000, 53), b"question")] {
            // A wrong checksum, a length beyond the packet, and every truncation.
            let mut wrong = original.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(give(&mut stack, Instant::ZERO, &wrong), (vec![], vec![]));
            for length in 0..original.len() {
                assert_eq!(give(&mut stack, Instant::ZERO, &original[..length]), (vec![], vec![]), "{length}");
            }
        }
    }
    assert_eq!(stack.counts().live + stack.counts().pending, 0);
}

/// A conversation of one flow that random mutations then disturb.
fn script() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for v6 in [false, true] {
        frames.push(segment(v6, (4000, 80), 77, 2, &[]));
        frames.push(segment(v6, (4000, 80), 78, 16, b"data of the client"));
        frames.push(segment(v6, (4000, 80), 96, 1 | 16, &[]));
        frames.push(udp_packet(v6, (5000, 53), b"question"));
        frames.push(segment(v6, (4000, 80), 97, 4, &[]));
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_makes_it_panic_and_memory_stays_bounded(
        changes in prop::collection::vec((0..10usize, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<bool>()), 1..200),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let frames = script();
        let config = Config { flows: 20, pending: 10, receive: 8192, transmit: 8192, ..Config::default() };
        let mut stack = Stack::new(config, Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut sink = |_: &[u8]| {};
        let mut step = |stack: &mut Stack, frame: &[u8], accept: bool| {
            now += Duration::from_millis(300);
            stack.receive(now, frame, &mut sink);
            while let Some(event) = stack.next_event() {
                match event {
                    Event::Open { flow, .. } if accept => stack.accept(now, flow, b"early", &mut sink).unwrap(),
                    Event::Ready { flow } => {
                        stack.drain(now, flow, <[u8]>::len);
                        stack.fill(now, flow, |room| room.len().min(100));
                    }
                    _ => {}
                }
            }
            stack.flush(now, &mut sink);
            stack.expire(now, &mut sink);
        };
        for (which, bytes, accept) in changes {
            let mut frame = frames[which].clone();
            for (at, value) in bytes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            frame[0] |= NEEDS_CHECKSUM; // so that mutations reach the deeper layers
            step(&mut stack, &frame, accept);
        }
        for frame in noise {
            step(&mut stack, &frame, true);
        }
        let counts = stack.counts();
        prop_assert!(counts.live + counts.pending <= 20);
    }
}
