//! How a flow ends, and how it stays while nothing happens: days of it, in a moment.

use super::*;

#[test]
fn each_direction_closes_by_itself() {
    for client_first in [true, false] {
        let mut lab = Lab::new(65_520);
        let (handle, flow) = lab.connected(false);
        if client_first {
            lab.client(handle).send_slice(b"question").unwrap();
            lab.client(handle).close();
            lab.step();
            assert_eq!(lab.drain(flow), (b"question".to_vec(), Drained::Finished));
            assert_eq!(lab.fill(flow, b"answer"), 6);
            lab.step();
            assert_eq!(lab.received(handle), b"answer");
            lab.stack.finish(lab.now, flow);
        } else {
            assert_eq!(lab.fill(flow, b"greeting"), 8);
            lab.stack.finish(lab.now, flow);
            lab.step();
            assert_eq!(lab.received(handle), b"greeting");
            assert!(!lab.client(handle).may_recv());
            lab.client(handle).send_slice(b"still here").unwrap();
            lab.step();
            assert_eq!(lab.drain(flow), (b"still here".to_vec(), Drained::Empty));
            lab.client(handle).close();
            lab.step();
            assert_eq!(lab.drain(flow), (vec![], Drained::Finished));
        }
        lab.step();
        assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::Finished }));
        assert_eq!(lab.stack.counts().live, 0, "TIME-WAIT is not kept");
    }
}

#[test]
fn a_simultaneous_close_loses_nothing() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    lab.client(handle).send_slice(b"up").unwrap();
    lab.client(handle).close();
    lab.fill(flow, b"down");
    lab.stack.finish(lab.now, flow);
    let kernel = &mut lab.kernel;
    lab.stack.flush(lab.now, &mut |frame: &[u8]| kernel.deliver(frame));
    lab.step();
    assert_eq!(lab.received(handle), b"down");
    for _ in 0..20 {
        lab.step();
    }
    assert_eq!(lab.event(), None, "bytes are still to be taken");
    assert_eq!(lab.drain(flow), (b"up".to_vec(), Drained::Finished));
    lab.step();
    assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::Finished }));
}

#[test]
fn a_reset_passes_in_both_directions() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    lab.client(handle).abort();
    lab.step();
    assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::ClientReset }));

    let (handle, flow) = lab.connected(true);
    lab.abort(flow);
    assert_eq!(lab.client(handle).state(), State::Closed);
    assert_eq!(lab.event(), None);
    assert_eq!(lab.stack.counts().live, 0);
}

#[test]
fn a_half_closed_flow_that_stays_silent_is_reset() {
    let mut lab = Lab::with(65_520, Config { half_close: Duration::from_secs(60), ..Config::default() });
    let (handle, flow) = lab.connected(false);
    lab.client(handle).close();
    lab.step();
    assert_eq!(lab.drain(flow).1, Drained::Finished);
    for _ in 0..10 {
        lab.advance(Duration::from_secs(50));
        assert_eq!(lab.event(), None, "a byte every 50 s keeps it");
        lab.fill(flow, b".");
        lab.step();
    }
    lab.advance(Duration::from_secs(61));
    lab.step();
    assert_eq!(lab.event(), Some(Event::Closed { flow, reason: Closed::HalfCloseLimit }));
    assert_eq!(lab.client(handle).state(), State::Closed);
}

#[test]
fn an_idle_flow_of_24_hours_lives_by_keep_alive_and_ends_when_nobody_answers() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    for minute in 0..24 * 60 {
        lab.advance(Duration::from_secs(60));
        assert_eq!(lab.event(), None, "minute {minute}");
    }
    lab.client(handle).send_slice(b"still there").unwrap();
    lab.step();
    assert_eq!(lab.drain(flow).0, b"still there");
    lab.fill(flow, b"so am I");
    lab.step();
    assert_eq!(lab.received(handle), b"so am I");

    // The program's kernel is gone without a word.
    lab.sockets.remove(handle);
    lab.kernel.to_client.clear();
    lab.interface.update_ip_addrs(|addresses| addresses.clear());
    let mut ended = None;
    for _ in 0..60 {
        lab.advance(Duration::from_secs(60));
        ended = ended.or(lab.event());
    }
    assert!(matches!(ended, Some(Event::Closed { flow: closed, .. }) if closed == flow), "{ended:?}");
}

#[test]
fn the_pages_of_an_idle_flow_go_back_and_the_flow_lives_on() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    for round in 0..3 {
        lab.client(handle).send_slice(b"ping").unwrap();
        lab.step();
        assert_eq!(lab.drain(flow).0, b"ping", "{round}");
        lab.fill(flow, b"pong");
        lab.step();
        assert_eq!(lab.received(handle), b"pong");
        assert!(lab.stack.table.live(flow).unwrap().touched);
        lab.advance(Duration::from_millis(1500));
        assert!(!lab.stack.table.live(flow).unwrap().touched);
    }
}

#[test]
fn the_heap_of_deadlines_is_bounded_by_the_flows() {
    let mut lab = Lab::new(65_520);
    let (handle, flow) = lab.connected(false);
    for _ in 0..20_000 {
        lab.fill(flow, b"x");
        lab.advance(Duration::from_millis(700));
        lab.received(handle);
    }
    assert!(lab.stack.deadlines.len() < 2000, "{}", lab.stack.deadlines.len());
}
