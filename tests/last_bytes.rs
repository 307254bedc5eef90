//! What a program wrote before it ended is delivered, as without a jail; a person can have it dropped.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::time::{Duration, Instant};

use lab::servers::Gate;
use lab::{Behaviour, Jail, MTUS, Proxy, TARGETS};
use nix::sys::signal::Signal;

#[test]
fn a_hundred_megabytes_written_by_a_program_that_ends_at_once_all_reach_a_slow_server() {
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::Slow(100, 11, 1500));
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", mtu]);
        let done = jail.probe(&["upload", TARGETS[0], "100", "11"]);
        assert_eq!(done.fact("up"), "sent");
        assert_eq!(proxy.record.end_of(0).end, "eof", "MTU {mtu}: the server's comparison of every byte");
    }
}

#[test]
fn the_last_bytes_of_many_connections_over_several_workers_arrive() {
    let proxy = Proxy::serving(Behaviour::Slow(2, 5, 500));
    let jail = Jail::socks5(proxy.addr, "").with(&["--workers", "2"]);
    let line = format!("for i in 1 2 3 4 5 6 7 8; do {} upload {} 2 5 & done; wait", lab::tool("probe"), TARGETS[0]);
    jail.shell("app:proxy", &line).good();
    for at in 0..8 {
        assert_eq!(proxy.record.end_of(at).end, "eof");
    }
}

#[test]
fn a_server_that_takes_nothing_ends_the_wait_with_a_reset_and_is_logged() {
    let gate = Gate::default();
    let proxy = Proxy::serving(Behaviour::Stall(gate.clone()));
    let jail = Jail::socks5(proxy.addr, "");
    let log = jail.work().join("log");
    let jail = jail.with(&["--log", log.to_str().unwrap()]);
    // More than the kernels on both sides hold: the program is killed in the middle of a write.
    let begun = Instant::now();
    let done = jail.shell("app:proxy", &format!("timeout 3 {} upload {} 64 1", lab::tool("probe"), TARGETS[0]));
    assert_eq!(done.code(), 124, "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "2 s without progress are the limit");
    gate.open();
    assert_eq!(proxy.record.end_of(0).end, "reset");
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains("\"cut-off\""), "{text}");
}

#[test]
fn a_signal_while_the_last_bytes_are_delivered_drops_them_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let proxy = Proxy::serving(Behaviour::Slow(32, 11, 60_000));
        let jail = Jail::socks5(proxy.addr, "");
        let mut running = jail.start_probe(&["upload", TARGETS[0], "8", "11"]);
        running.until("up sent");
        lab::wait_for("the remark", Duration::from_secs(10), || running.err().contains("last bytes").then_some(()));
        let begun = Instant::now();
        running.signal(signal);
        running.finish().good();
        assert!(begun.elapsed() < Duration::from_millis(500), "{signal}: {:?}", begun.elapsed());
        assert_ne!(proxy.record.end_of(0).end, "eof");
    }
}

#[test]
fn an_idle_connection_and_a_pending_dial_do_not_delay_the_end() {
    let gate = Gate::default();
    let held = gate.clone();
    let proxy = Proxy::new(move |asked| match asked.port {
        80 => lab::Answer::Serve(Behaviour::Hold),
        _ => lab::Answer::After(held.clone(), Box::new(lab::Answer::Close)),
    });
    let jail = Jail::socks5(proxy.addr, "");
    let probe = lab::tool("probe");
    let line = format!("sleep 99 | {probe} idle some.test:80 & sleep 99 | {probe} idle some.test:81 & read x");
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    proxy.wait_asked(2);
    let begun = Instant::now();
    running.say("end\n");
    running.finish().good();
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    gate.open();
}
