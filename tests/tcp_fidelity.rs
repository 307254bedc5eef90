//! What TCP promises a program holds through the jail: every way a connection can begin and end.
//!
//! The far end is the scripted proxy itself, so nothing between the jail and the assertion can hide a fault.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::time::{Duration, Instant};

use lab::proxy::{Asked, Manner};
use lab::servers::Gate;
use lab::{Answer, Behaviour, Jail, MTUS, Proxy, TARGETS};

fn jail(proxy: &Proxy, mtu: &str) -> Jail {
    Jail::socks5(proxy.addr, "names: v4").with(&["--mtu", mtu])
}

#[test]
fn a_client_that_closes_its_half_still_gets_the_reply() {
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::ReplyAtEof);
        let jail = jail(&proxy, mtu);
        for target in TARGETS {
            let done = jail.probe(&["halfclose", target]);
            assert_eq!((done.fact("end"), done.fact("got")), ("eof".into(), "5 had 7".into()), "{done:?}");
        }
    }
}

#[test]
fn a_server_that_closes_its_half_still_gets_the_rest() {
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::ByeFirst);
        let jail = jail(&proxy, mtu);
        for (at, target) in TARGETS.iter().enumerate() {
            let done = jail.probe(&["late", target, "300000"]);
            assert_eq!((done.fact("got"), done.fact("sent")), ("3 bye".into(), "300000".into()), "{done:?}");
            let seen = proxy.record.end_of(at);
            assert_eq!((seen.bytes, seen.end.as_str()), (300_000, "eof"));
        }
    }
}

#[test]
fn what_a_program_sent_before_it_ended_arrives() {
    for mtu in MTUS {
        for bytes in [1, 300_000, 3_000_000] {
            let proxy = Proxy::serving(Behaviour::Hold);
            jail(&proxy, mtu).probe(&["send", TARGETS[0], &bytes.to_string()]);
            let seen = proxy.record.end_of(0);
            assert_eq!((seen.bytes, seen.end.as_str()), (bytes, "eof"), "MTU {mtu}");
        }
    }
}

#[test]
fn what_a_program_sent_before_it_ended_arrives_at_a_server_that_is_slow_to_read() {
    for bytes in [1, 1_000_000] {
        let gate = Gate::default();
        let proxy = Proxy::serving(Behaviour::Stall(gate.clone()));
        let jail = jail(&proxy, MTUS[0]);
        let mut running = jail.start_probe(&["send", TARGETS[0], &bytes.to_string()]);
        running.until("sent");
        // Not a wait for a state: the server is to be slower than the end of the command.
        std::thread::sleep(Duration::from_millis(300));
        gate.open();
        let seen = proxy.record.end_of(0);
        assert_eq!((seen.bytes, running.finish().code()), (bytes, 0), "{}", seen.end);
    }
}

#[test]
fn a_reset_by_the_client_is_a_reset_at_the_server() {
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::Echo);
        jail(&proxy, mtu).probe(&["rst", TARGETS[0]]);
        assert_eq!(proxy.record.end_of(0).end, "reset");
        jail(&proxy, mtu).probe(&["rst", TARGETS[1]]);
        assert_eq!(proxy.record.end_of(1).end, "reset");
    }
}

#[test]
fn a_reset_by_the_server_is_a_reset_at_the_client() {
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::ResetAfterData);
        for target in TARGETS {
            let done = jail(&proxy, mtu).probe(&["echo", target, "hello"]);
            assert_eq!(done.fact("end"), "ECONNRESET", "{done:?}");
        }
    }
}

#[test]
fn a_slow_dial_is_one_dial_and_the_connect_waits_for_it() {
    let gate = Gate::default();
    let opened = gate.clone();
    let proxy = Proxy::new(move |_: &Asked| Answer::After(opened.clone(), Box::new(Answer::Serve(Behaviour::Echo))));
    let jail = Jail::socks5(proxy.addr, "");
    let running = jail.start_probe(&["echo", TARGETS[0], "hello"]);
    proxy.wait_asked(1);
    let asked = Instant::now();
    // Longer than the client's first two retransmissions of its SYN, after 1 s and 3 s.
    while asked.elapsed() < Duration::from_millis(3300) {
        assert!(!running.out().contains("connected"), "a connect may not succeed before the overlay has");
        std::thread::sleep(Duration::from_millis(20));
    }
    gate.open();
    let done = running.finish().good();
    assert_eq!(done.fact("got"), "5 hello", "{done:?}");
    assert_eq!(proxy.asked().len(), 1, "a repeated SYN must not dial again");
}

#[test]
fn a_reply_in_single_bytes_is_a_reply() {
    for bound in [1, 3, 4] {
        let manner = Manner { single_bytes: true, bound, ..Manner::default() };
        let proxy = Proxy::with(manner, |_| Answer::Serve(Behaviour::Echo));
        let done = Jail::socks5(proxy.addr, "").probe(&["echo", TARGETS[2], "hello"]);
        assert_eq!(done.fact("got"), "5 hello", "bound address of type {bound}: {done:?}");
    }
}

#[test]
fn bytes_right_behind_the_reply_belong_to_the_program() {
    for mtu in MTUS {
        let proxy = Proxy::new(|_| Answer::Early(b"SSH-2.0-early ", Behaviour::Banner("and later")));
        for target in TARGETS {
            let done = jail(&proxy, mtu).probe(&["read", target]);
            assert_eq!(done.fact("got"), "23 SSH-2.0-early and later", "{done:?}");
        }
    }
}

#[test]
fn many_bytes_right_behind_the_reply_all_arrive() {
    let bytes: &'static [u8] = Box::leak(vec![b'e'; 200_000].into_boxed_slice());
    let proxy = Proxy::new(move |_| Answer::Early(bytes, Behaviour::Banner("!")));
    let done = Jail::socks5(proxy.addr, "").probe(&["read", TARGETS[0]]);
    assert!(done.fact("got").starts_with("200001 "), "{done:?}");
}

#[test]
fn an_out_of_band_byte_is_neither_lost_nor_in_the_way() {
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::Echo);
        let done = jail(&proxy, mtu).probe(&["oob", TARGETS[0]]);
        assert_eq!(done.fact("got"), "3 abc", "{done:?}");
    }
}

#[test]
fn a_dial_that_was_given_up_is_closed_when_that_can_be_seen() {
    let gate = Gate::default();
    let opened = gate.clone();
    let proxy = Proxy::new(move |_: &Asked| Answer::After(opened.clone(), Box::new(Answer::Serve(Behaviour::Hold))));
    let jail = Jail::socks5(proxy.addr, "");
    let line = format!("{} hold {} 300; exec sleep 60", lab::tool("probe"), TARGETS[0]);
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    running.until("given up");
    // A socket closed in SYN-SENT tells nobody; the reset comes in answer to the SYN-ACK.
    gate.open();
    let opened = Instant::now();
    proxy.record.end_of(0);
    assert!(opened.elapsed() < Duration::from_millis(500), "closed after {:?}", opened.elapsed());
}

#[test]
fn a_connection_closed_by_both_at_once_ends_well() {
    let proxy = Proxy::serving(Behaviour::Banner("bye"));
    let jail = Jail::socks5(proxy.addr, "");
    for at in 0..20 {
        let done = jail.probe(&["halfclose", TARGETS[0]]);
        assert_eq!((done.fact("got"), done.fact("end")), ("3 bye".into(), "eof".into()), "{done:?}");
        assert_eq!(proxy.record.end_of(at).end, "eof");
    }
}

#[test]
fn udp_is_refused_at_once_where_the_registry_says_so() {
    let proxy = Proxy::serving(Behaviour::Echo);
    for target in &TARGETS[..2] {
        let done = Jail::socks5(proxy.addr, "udp: refuse").probe(&["udp", target]);
        let failed = done.fact("failed");
        let ms: u64 = failed.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(ms < 1000 && !failed.starts_with("EAGAIN"), "an immediate ICMP error, not silence: {done:?}");
    }
    assert_eq!(proxy.accepted(), 0);
}
