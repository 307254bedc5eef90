//! A held SYN: accepted, refused, given up, limited.

use super::*;

#[test]
fn a_syn_is_held_until_the_overlay_has_connected() {
    for v6 in [false, true] {
        let mut lab = Lab::new(65_520);
        let handle = lab.dial(v6);
        let flow = lab.opened();
        for _ in 0..500 {
            lab.step();
        }
        assert_eq!(lab.client(handle).state(), State::SynSent);
        assert_eq!(lab.stack.counts(), Counts { pending: 1, live: 0, dropped: 0 });
        lab.accept(flow, b"early");
        assert_eq!(lab.client(handle).state(), State::Established);
        assert_eq!(lab.received(handle), b"early");
    }
}

#[test]
fn a_retransmitted_syn_replaces_the_held_one_and_makes_no_second_dial() {
    let mut lab = Lab::new(65_520);
    let handle = lab.dial(false);
    let flow = lab.opened();
    for _ in 0..4 {
        lab.advance(Duration::from_secs(1));
    }
    assert_eq!(lab.event(), None);
    lab.accept(flow, b"");
    assert_eq!(lab.client(handle).state(), State::Established);
}

#[test]
fn each_refusal_is_the_packet_that_gives_its_errno() {
    // (refusal, ICMP type and code of IPv4, of IPv6)
    for (refusal, v4, v6) in [
        (Refusal::HostUnreachable, [3, 1], [1, 3]),
        (Refusal::NetUnreachable, [3, 0], [1, 0]),
        (Refusal::Prohibited, [3, 13], [1, 1]),
    ] {
        for six in [false, true] {
            let mut stack = fresh();
            let syn = segment(six, (4000, 80), 77, 2, &[]);
            let (sent, events) = give(&mut stack, Instant::ZERO, &syn);
            assert!(sent.is_empty());
            let Event::Open { flow, .. } = events[0] else { panic!("{events:?}") };
            let mut reply = Vec::new();
            stack.refuse(flow, refusal, &mut |frame: &[u8]| reply = frame[VNET_HEADER..].to_vec());
            let (source, destination) = addresses(&reply);
            assert_eq!((destination, source), pair(six), "the error comes from the dialled address");
            let ip = if six { 40 } else { 20 };
            assert_eq!(reply[ip..ip + 2], if six { v6 } else { v4 });
            let seed = if six { pseudo(source, destination, ICMP6, reply.len() - ip) } else { 0 };
            assert_eq!(fold(add(seed, &reply[ip..])), 0xffff);
            let quoted = &reply[ip + 8..];
            assert_eq!(addresses(quoted), pair(six));
            assert_eq!(quoted[ip..ip + 8], syn[VNET_HEADER + ip..VNET_HEADER + ip + 8], "it quotes the held SYN");
            assert_eq!(stack.counts().pending, 0);
        }
    }
}

#[test]
fn a_refused_dial_is_a_reset() {
    for v6 in [false, true] {
        let mut lab = Lab::new(1500);
        let handle = lab.dial(v6);
        let flow = lab.opened();
        let kernel = &mut lab.kernel;
        lab.stack.refuse(flow, Refusal::Refused, &mut |frame: &[u8]| kernel.deliver(frame));
        lab.step();
        assert_eq!(lab.client(handle).state(), State::Closed);
    }
}

#[test]
fn a_reset_from_the_client_cancels_the_dial() {
    let mut stack = fresh();
    let (_, events) = give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 77, 2, &[]));
    let Event::Open { flow, .. } = events[0] else { panic!() };
    let (sent, events) = give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 78, 4, &[]));
    assert_eq!((sent.len(), events), (0, vec![Event::DialAbandoned { flow }]));
    assert_eq!(stack.counts().pending, 0);
}

#[test]
fn a_client_that_stops_sending_syns_has_given_up() {
    let mut stack = fresh();
    let mut now = Instant::ZERO;
    let syn = segment(false, (4000, 80), 77, 2, &[]);
    let (_, events) = give(&mut stack, now, &syn);
    let Event::Open { flow, .. } = events[0] else { panic!() };
    // As Linux does: 1, 2, 4 … seconds; then silence.
    for gap in [1, 2, 4, 8] {
        now += Duration::from_secs(gap);
        stack.expire(now, &mut |_: &[u8]| {});
        assert_eq!(give(&mut stack, now, &syn), (vec![], vec![]));
    }
    now += Duration::from_secs(33);
    stack.expire(now, &mut |_: &[u8]| {});
    assert_eq!(stack.next_event(), None);
    now += Duration::from_secs(2);
    stack.expire(now, &mut |_: &[u8]| {});
    assert_eq!(stack.next_event(), Some(Event::DialAbandoned { flow }));
}

#[test]
fn a_segment_of_no_flow_is_reset_and_a_reset_is_not_answered() {
    let mut stack = fresh();
    let (sent, events) = give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 77, 16, b"?"));
    assert_eq!((sent.len(), events.len()), (1, 0));
    assert_eq!(sent[0][33] & 4, 4);
    assert_eq!(give(&mut stack, Instant::ZERO, &segment(false, (4000, 80), 77, 4, &[])), (vec![], vec![]));
}

#[test]
fn limits_refuse_at_once_and_say_which() {
    let mut stack = Stack::new(Config { flows: 3, pending: 2, ..Config::default() }, Instant::ZERO);
    let now = Instant::ZERO;
    let dial = |stack: &mut Stack, port| give(stack, now, &segment(false, (port, 80), 1, 2, &[]));
    let (_, first) = dial(&mut stack, 1000);
    dial(&mut stack, 1001);
    let (sent, events) = dial(&mut stack, 1002);
    assert!(matches!(events[..], [Event::Limited { limit: Limit::Pending, .. }]), "{events:?}");
    assert_eq!(sent[0][20..22], [3, 1]);
    let Event::Open { flow, .. } = first[0] else { panic!() };
    stack.accept(now, flow, b"", &mut |_: &[u8]| {}).unwrap();
    dial(&mut stack, 1003);
    let (sent, events) = dial(&mut stack, 1004);
    assert!(matches!(events[..], [Event::Limited { limit: Limit::Flows, .. }]), "{events:?}");
    assert_eq!(sent.len(), 1);
    assert_eq!(stack.counts(), Counts { pending: 2, live: 1, dropped: 0 });
}

#[test]
fn fifty_thousand_flows_live_at_once_and_each_is_heard() {
    const FLOWS: u16 = 50_000;
    let mut stack = fresh();
    for port in 1..=FLOWS {
        let (_, events) = give(&mut stack, Instant::ZERO, &segment(false, (port, 80), 77, 2, &[]));
        let Event::Open { flow, .. } = events[0] else { panic!("{events:?}") };
        stack.accept(Instant::ZERO, flow, &[], &mut |_: &[u8]| {}).unwrap();
    }
    assert_eq!((stack.counts().live, stack.counts().pending), (usize::from(FLOWS), 0));
    for port in [1, 777, FLOWS] {
        let (_, events) = give(&mut stack, Instant::ZERO, &segment(false, (port, 80), 78, 4, &[]));
        assert!(matches!(events[..], [Event::Closed { reason: Closed::ClientReset, .. }]), "{port}: {events:?}");
    }
    assert_eq!(stack.counts().live, usize::from(FLOWS) - 3);
}
