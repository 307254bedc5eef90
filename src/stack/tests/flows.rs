//! The bytes of a flow, their order, and who waits for whom.

use super::super::commands::GROWN;
use super::*;
use smoltcp::iface::SocketHandle;

/// A byte stream that tells where it is.
fn pattern(at: usize, room: &mut [u8]) {
    for (i, byte) in room.iter_mut().enumerate() {
        let at = at + i;
        *byte = (at ^ (at >> 8) ^ (at >> 16)) as u8;
    }
}

#[test]
fn ten_megabytes_each_way_at_once_arrive_byte_for_byte() {
    const TOTAL: usize = 10_000_000;
    for (mtu, v6) in [(1500, false), (1500, true), (65_520, false), (65_520, true)] {
        let mut lab = Lab::new(mtu);
        let (handle, flow) = lab.connected(v6);
        let (mut up_sent, mut up_got, mut down_sent, mut down_got) = (0, 0, 0, 0);
        let mut expected = vec![0; 256 * 1024];
        let mut rounds = 0;
        while up_got < TOTAL || down_got < TOTAL {
            rounds += 1;
            assert!(rounds < 5_000, "stuck at {up_sent} {up_got} {down_sent} {down_got} with MTU {mtu}");
            let socket = lab.sockets.get_mut::<tcp::Socket<'static>>(handle);
            while up_sent < TOTAL && socket.can_send() {
                up_sent += socket
                    .send(|room| {
                        let n = room.len().min(TOTAL - up_sent);
                        pattern(up_sent, &mut room[..n]);
                        (n, n)
                    })
                    .unwrap();
            }
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        pattern(down_got, &mut expected[..bytes.len()]);
                        assert!(bytes == &expected[..bytes.len()], "damaged near {down_got}");
                        down_got += bytes.len();
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            while down_sent < TOTAL && lab.stack.wants_fill(flow) {
                let n = lab.stack.fill(lab.now, flow, |room| {
                    let n = room.len().min(TOTAL - down_sent);
                    pattern(down_sent, &mut room[..n]);
                    n
                });
                down_sent += n;
            }
            while let Drained::Some { .. } = lab.stack.drain(lab.now, flow, |bytes| {
                pattern(up_got, &mut expected[..bytes.len()]);
                assert!(bytes == &expected[..bytes.len()], "damaged near {up_got}");
                up_got += bytes.len();
                bytes.len()
            }) {}
            lab.step();
        }
        assert_eq!((up_got, down_got), (TOTAL, TOTAL));
    }
}

#[test]
fn a_stalled_reader_holds_one_ring_and_asks_for_nothing() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    let data = vec![9; 1 << 20];
    // Nobody drains: the window closes after one ring, and the client keeps the rest.
    let mut sent = 0;
    for _ in 0..100 {
        sent += lab.client(handle).send_slice(&data).unwrap();
        lab.step();
    }
    assert!(sent <= 2 * 256 * 1024, "{sent}");
    lab.events.clear();
    for _ in 0..100 {
        lab.step();
    }
    assert_eq!(lab.events, [], "a stalled flow is not ready again and again");
    // It opens again when somebody does. (The window counts in units of eight bytes.)
    let (got, _) = lab.drain(flow);
    assert!((256 * 1024 - 8..=256 * 1024).contains(&got.len()), "{}", got.len());
    lab.step();
    lab.step();
    assert!(!lab.drain(flow).0.is_empty());
}

#[test]
fn a_reader_that_stalls_in_the_jail_stops_the_filling_and_loses_nothing() {
    let mut lab = Lab::new(1500);
    let handle = lab.dial_with(false, 8192);
    let flow = lab.opened();
    lab.accept(flow, b"");
    let mut sent = 0;
    let mut wakeups = 0;
    while sent < 300_000 {
        let mut data = vec![0; 300_000 - sent];
        pattern(sent, &mut data);
        let n = lab.fill(flow, &data);
        if n == 0 {
            break;
        }
        sent += n;
        lab.step();
    }
    assert!((256 * 1024..=256 * 1024 + 8192).contains(&sent), "{sent}");
    assert!(!lab.stack.wants_fill(flow));
    for _ in 0..100 {
        let Some(next) = lab.stack.next_deadline() else { break };
        lab.advance(next.max(lab.now + Duration::from_millis(1)) - lab.now);
        wakeups += 1;
    }
    assert!(lab.now > Instant::from_secs(120), "{wakeups} wake-ups in {:?}", lab.now);
    let mut got = Vec::new();
    for _ in 0..1000 {
        got.extend(lab.received(handle));
        lab.step();
    }
    let mut expected = vec![0; sent];
    pattern(0, &mut expected);
    assert!(got == expected, "{} of {sent}", got.len());
}

/// What a flow's transmit ring takes while the client reads nothing, beside the 8 KiB that the client itself has room for.
fn stalled(lab: &mut Lab, flow: FlowId) -> usize {
    let mut taken = 0;
    loop {
        let count = if lab.stack.wants_fill(flow) { lab.fill(flow, &[3; 4096]) } else { 0 };
        lab.step();
        taken += count;
        if count == 0 {
            return taken;
        }
    }
}

/// Brings so many bytes to a client that reads.
fn moved(lab: &mut Lab, handle: SocketHandle, flow: FlowId, total: usize) {
    let (mut put, mut got) = (0, 0);
    while got < total {
        put += lab.fill(flow, &[5; 4096][..(total - put).min(4096)]);
        lab.step();
        got += lab.received(handle).len();
    }
}

#[test]
fn only_a_client_that_reads_may_use_all_of_its_ring_and_few_may_at_once() {
    const PART: usize = 16 << 10;
    const WHOLE: usize = 64 << 10;
    const WINDOW: usize = 8 << 10;
    let config = Config { receive: PART, transmit: WHOLE, idle: Duration::from_secs(1), ..Config::default() };
    let mut lab = Lab::with(1500, config);
    let part = PART / 2..=PART + WINDOW;
    let whole = WHOLE / 2..=WHOLE + WINDOW;
    let mut flows = Vec::new();
    for index in 0..GROWN + 1 {
        let handle = lab.dial_with(index % 2 == 1, WINDOW);
        let flow = lab.opened();
        lab.accept(flow, b"");
        let before = stalled(&mut lab, flow);
        assert!(part.contains(&before), "{before} bytes for one that has read nothing");
        lab.received(handle);
        moved(&mut lab, handle, flow, 2 * WHOLE);
        let after = stalled(&mut lab, flow);
        let room = if index < GROWN { &whole } else { &part };
        assert!(room.contains(&after), "flow {index}: {after} bytes");
        flows.push((handle, flow));
    }
    // Who rests has to begin again, and another one may have its place.
    let (handle, flow) = flows[0];
    while !lab.received(handle).is_empty() {
        lab.step();
    }
    (0..30).for_each(|_| lab.advance(Duration::from_millis(100)));
    let rested = stalled(&mut lab, flow);
    assert!(part.contains(&rested), "{rested} bytes after a rest");
    let (handle, flow) = flows[GROWN];
    while !lab.received(handle).is_empty() {
        lab.step();
    }
    moved(&mut lab, handle, flow, 2 * WHOLE);
    let grown = stalled(&mut lab, flow);
    assert!(whole.contains(&grown), "{grown} bytes in the place of the one that rests");
    // So has one that ends.
    lab.abort(flows[1].1);
    assert_eq!(lab.stack.grown, GROWN - 1);
}

#[test]
fn a_kernel_that_refuses_long_packets_after_all_costs_a_flow_one_time_out() {
    for mtu in [1500, 65_520] {
        let mut lab = Lab::with(mtu, Config { seed: [1, 2, 3], longest: 256 * 1024, ..Config::default() });
        let (handle, flow) = lab.connected(mtu == 1500);
        let (mut put, mut got) = (0, Vec::new());
        const TOTAL: usize = 4 << 20;
        let begun = lab.now;
        while got.len() < TOTAL {
            let mut data = vec![0; (TOTAL - put).min(256 * 1024)];
            pattern(put, &mut data);
            put += lab.fill(flow, &data);
            lab.step();
            got.extend(lab.received(handle));
            assert!(lab.now < begun + Duration::from_secs(10), "MTU {mtu}: {} of {TOTAL}", got.len());
        }
        let mut expected = vec![0; TOTAL];
        pattern(0, &mut expected);
        assert!(got == expected, "MTU {mtu}");
        assert!((1..=2).contains(&lab.kernel.refused), "MTU {mtu}: {} were refused", lab.kernel.refused);
    }
}

#[test]
fn an_urgent_byte_is_neither_lost_nor_disturbs_its_neighbours() {
    let mut stack = fresh();
    let now = Instant::ZERO;
    let (_, events) = give(&mut stack, now, &segment(false, (4000, 80), 77, 2, &[]));
    let Event::Open { flow, .. } = events[0] else { panic!() };
    let mut synack = Vec::new();
    stack.accept(now, flow, b"", &mut |frame: &[u8]| synack = frame[VNET_HEADER..].to_vec()).unwrap();
    let ours = u32::from_be_bytes(synack[24..28].try_into().unwrap()).wrapping_add(1);
    let mut data = segment(false, (4000, 80), 78, 16 | 32 | 8, b"ab!cd");
    let tcp = VNET_HEADER + 20;
    data[0] = NEEDS_CHECKSUM;
    data[tcp + 8..tcp + 12].copy_from_slice(&ours.to_be_bytes());
    data[tcp + 19] = 3; // urgent pointer
    give(&mut stack, now, &data);
    let mut got = Vec::new();
    stack.drain(now, flow, |bytes| {
        got = bytes.to_vec();
        bytes.len()
    });
    assert_eq!(got, b"ab!cd");
}

#[test]
fn a_small_requests_acknowledgement_rides_on_the_answer_and_waits_a_millisecond_for_it() {
    let mut lab = Lab::new(1500);
    let (handle, flow) = lab.connected(false);
    /// What the stack sends, on its way to the client.
    fn sent(lab: &mut Lab, mut act: impl FnMut(&mut Stack, Instant, &mut dyn Sink)) -> usize {
        let Lab { stack, kernel, now, .. } = lab;
        let mut count = 0;
        act(stack, *now, &mut |frame: &[u8]| {
            kernel.deliver(frame);
            count += 1;
        });
        count
    }
    let flush = |lab: &mut Lab| {
        sent(lab, |stack, now, sink| {
            stack.flush(now, sink);
            stack.expire(now, sink);
        })
    };
    let request = |lab: &mut Lab, bytes: usize| {
        lab.client(handle).send_slice(&vec![7; bytes]).unwrap();
        let Lab { interface, kernel, sockets, now, .. } = lab;
        interface.poll(*now, kernel, sockets);
        let frames = std::mem::take(&mut lab.kernel.to_stack);
        sent(lab, |stack, now, sink| {
            for frame in &frames {
                stack.receive(now, frame, sink);
            }
        });
        assert_eq!(lab.drain(flow).0.len(), bytes);
        flush(lab)
    };
    assert_eq!(request(&mut lab, 64), 0, "nothing but an acknowledgement was due");
    assert_eq!(lab.fill(flow, b"answer"), 6);
    assert_eq!(flush(&mut lab), 1, "one packet for both");
    lab.step();
    assert_eq!(lab.received(handle), b"answer");
    lab.step();
    assert_eq!(request(&mut lab, 64), 0);
    assert_eq!(flush(&mut lab), 0);
    lab.now += HOLD;
    assert_eq!(flush(&mut lab), 1, "by itself, when nothing came");
    lab.step();
    assert!(request(&mut lab, HOLD_MOST + 1) > 0, "what is no small request is acknowledged at once");
}
