//! Questions, datagrams, pings, and the errors that answer them.

use super::*;

#[test]
fn a_question_is_an_event_and_its_answer_comes_from_the_address_asked() {
    for v6 in [false, true] {
        let mut stack = fresh();
        let (sent, events) = give(&mut stack, Instant::ZERO, &udp_packet(v6, (5000, 53), b"question"));
        assert!(sent.is_empty());
        let Event::Query { client, server, data } = events[0].clone() else { panic!("{events:?}") };
        assert_eq!(data, b"question");
        let mut answer = Vec::new();
        stack.answer(client, server, b"answer", &mut |frame: &[u8]| answer = frame.to_vec());
        let Some(Parsed::Packet(packet)) = packet::parse(&answer) else { panic!() };
        assert!(packet.intact());
        assert_eq!((packet.destination, packet.source), pair(v6));
        assert_eq!(packet.payload()[8..], *b"answer");
    }
}

#[test]
fn other_datagrams_and_pings_are_refused_at_once_with_their_own_error() {
    for v6 in [false, true] {
        let mut stack = Stack::new(
            Config { datagrams: Datagrams { refusal: Refusal::Refused, ..Datagrams::default() }, ..Config::default() },
            Instant::ZERO,
        );
        let ip = if v6 { 40 } else { 20 };
        let (sent, events) = give(&mut stack, Instant::ZERO, &udp_packet(v6, (5000, 443), b"hello"));
        assert_eq!(sent[0][ip..ip + 2], if v6 { [1, 4] } else { [3, 3] });
        assert!(matches!(events[..], [Event::DatagramRefused { .. }]));

        let (client, server) = pair(v6);
        let echo = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 1, 42];
        let ping = framed(client, server, if v6 { ICMP6 } else { ICMP }, 2, echo);
        let (sent, events) = give(&mut stack, Instant::ZERO, &ping);
        assert_eq!(sent[0][ip..ip + 2], if v6 { [1, 1] } else { [3, 13] });
        assert_eq!(events, [Event::EchoRefused { client, server }]);
    }
}

fn carrying() -> Stack {
    let datagrams = Datagrams { carried: true, sources: vec![CLIENT4, pair(true).0], ..Datagrams::default() };
    Stack::new(Config { datagrams, ..Config::default() }, Instant::ZERO)
}

#[test]
fn a_datagram_is_the_caller_s_where_it_lies_and_a_forged_one_is_dropped() {
    for v6 in [false, true] {
        let mut stack = carrying();
        let frame = udp_packet(v6, (5000, 443), b"hello");
        let datagram = stack.receive(Instant::ZERO, &frame, &mut |_: &[u8]| panic!("nothing is sent")).unwrap();
        assert_eq!((datagram.client.ip(), datagram.server.ip()), pair(v6));
        assert_eq!((datagram.client.port(), datagram.server.port(), datagram.segment), (5000, 443, 0));
        assert_eq!(datagram.data(&frame), b"hello");
        assert_eq!(stack.next_event(), None);
        // Questions are still answered here.
        assert!(stack.receive(Instant::ZERO, &udp_packet(v6, (5000, 53), b"q"), &mut |_: &[u8]| {}).is_none());
        assert!(matches!(stack.next_event(), Some(Event::Query { .. })));
        // From an address that is not the jail's; with no port; longer than it is.
        let stranger = if v6 { "2001:db8:77::1" } else { "203.0.113.99" }.parse().unwrap();
        let forged = framed(stranger, pair(v6).1, UDP, 6, frame[VNET_HEADER + if v6 { 40 } else { 20 }..].to_vec());
        let mut long = frame.clone();
        long[VNET_HEADER + if v6 { 40 } else { 20 } + 4] = 0xff;
        long[0] = NEEDS_CHECKSUM;
        for bad in [forged, udp_packet(v6, (0, 443), b"x"), long] {
            assert!(stack.receive(Instant::ZERO, &bad, &mut |_: &[u8]| panic!("no answer to a forgery")).is_none());
        }
        assert_eq!(stack.counts().dropped, 3);
    }
}

#[test]
fn a_refused_datagram_is_quoted_in_an_error_that_a_datagram_socket_is_told_of() {
    let cases = [
        (Refusal::Refused, [3, 3], [1, 4]),
        (Refusal::NetUnreachable, [3, 6], [1, 1]),
        (Refusal::HostUnreachable, [3, 13], [1, 1]),
        (Refusal::Prohibited, [3, 13], [1, 1]),
    ];
    for v6 in [false, true] {
        let (client, server) = pair(v6);
        let (client, server) = (SocketAddr::new(client, 5000), SocketAddr::new(server, 443));
        let mut stack = carrying();
        let mut sent = Vec::new();
        for (refusal, _, _) in cases {
            stack.refuse_datagram(client, server, &[7; 3000], refusal, &mut |frame: &[u8]| sent.push(frame.to_vec()));
        }
        stack.too_big(client, server, &[7; 3000], 1400, &mut |frame: &[u8]| sent.push(frame.to_vec()));
        let wanted = cases.map(|(_, v4_code, v6_code)| if v6 { v6_code } else { v4_code });
        let too_big = if v6 { [2, 0] } else { [3, 4] };
        for (frame, kind) in sent.iter().zip(wanted.into_iter().chain([too_big])) {
            let Some(Parsed::Packet(packet)) = packet::parse(frame) else { panic!() };
            assert!(packet.intact() && (packet.source, packet.destination) == (server.ip(), client.ip()));
            let payload = packet.payload();
            assert_eq!(payload[..2], kind);
            assert_eq!(payload[4..8], if kind == too_big { 1400u32.to_be_bytes() } else { [0; 4] });
            let ports = 8 + if v6 { 40 } else { 20 };
            assert_eq!(payload[ports..ports + 4], [0x13, 0x88, 1, 187], "the quoted ports");
            assert!(packet.bytes.len() <= if v6 { 1280 } else { 576 });
        }
    }
}

#[test]
fn what_comes_in_is_wrapped_where_it_lies_whole_or_cut() {
    use udp::{HEADROOM, bring, longest};
    for v6 in [false, true] {
        let (client, server) = pair(v6);
        let ends = (SocketAddr::new(server, 443), SocketAddr::new(client, 5000));
        let data: Vec<u8> = (0..2500u32).map(|i| (i / 1000) as u8 + 1).collect();
        for (whole, lengths) in [(true, vec![2500]), (false, vec![1000, 1000, 500])] {
            let mut buffer = [vec![0; HEADROOM], data.clone()].concat();
            let mut frames: Vec<Vec<u8>> = Vec::new();
            bring(&mut buffer, HEADROOM..HEADROOM + 2500, ends, 1000, whole, &mut |frame: &[u8]| {
                frames.push(frame.to_vec());
            });
            let mut got = Vec::new();
            for (frame, length) in frames.iter().zip(&lengths) {
                let Some(Parsed::Packet(packet)) = packet::parse(frame) else { panic!() };
                assert_eq!((packet.source, packet.destination), (server, client));
                assert_eq!(packet.segment, if whole { 1000 } else { 0 });
                let payload = packet.payload();
                assert_eq!(payload.len(), 8 + length);
                assert_eq!(payload[..4], [1, 187, 0x13, 0x88]);
                // The partial checksum that NEEDS_CSUM asks for is the pseudo-header's.
                let partial = fold(pseudo(server, client, UDP, payload.len()));
                assert_eq!((frame[0], payload[6..8].to_vec()), (NEEDS_CHECKSUM, partial.to_be_bytes().to_vec()));
                got.extend_from_slice(&payload[8..]);
            }
            assert_eq!((frames.len(), got), (lengths.len(), data.clone()));
        }
        // An empty one is one; one that no packet holds is none.
        for (length, frames) in [(0, 1), (longest(!v6), 1), (longest(!v6) + 1, 0)] {
            let mut buffer = vec![0; HEADROOM + length];
            let mut count = 0;
            bring(&mut buffer, HEADROOM..HEADROOM + length, ends, 0, true, &mut |_: &[u8]| count += 1);
            assert_eq!(count, frames, "{length}");
        }
    }
}
