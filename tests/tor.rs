//! A real Tor network behind the jail: names and onions by name only, circuits apart, honest errnos.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::process::Command;

use lab::{Behaviour, Jail, Server};

#[test]
fn the_lab_network_carries_a_name_and_an_onion() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    let web = Server::v4(Behaviour::Page("hello\n"));
    let onion = tor.onion(80, web.addr);
    for url in [format!("http://web.test:{}/", web.addr.port()), format!("http://{onion}/")] {
        let mut c = Command::new("curl");
        c.args(["-sS", "--max-time", "50", "--noproxy", "", "-x", &format!("socks5h://{}", tor.socks), &url]);
        assert_eq!(lab::child::run(c).good().out, "hello\n");
    }
}

#[test]
fn a_name_and_an_onion_are_reached_from_a_jail() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    let web = Server::v4(Behaviour::Page("hello\n"));
    let onion = tor.onion(80, web.addr);
    let jail = Jail::socks5(tor.socks, "connect_timeout: 60s");
    for url in [format!("http://web.test:{}/", web.addr.port()), format!("http://{onion}/")] {
        let done = jail.run("app:proxy", &["curl", "-sS", "--max-time", "50", &url]);
        assert_eq!(done.out, "hello\n", "{url}: {done:?}");
    }
}

#[test]
fn an_unknown_name_and_a_refused_port_have_their_own_errnos() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    let jail = Jail::socks5(tor.socks, "connect_timeout: 60s");
    let done = jail.probe(&["connect", "nowhere.test:80"]);
    assert!(done.fact("failed").starts_with("EHOSTUNREACH"), "{done:?}");
    let refused = format!("web.test:{}", lab::servers::refusing().port());
    let done = jail.probe(&["connect", &refused]);
    assert!(done.fact("failed").starts_with("ECONNREFUSED"), "{done:?}");
}

#[test]
fn an_onion_without_a_descriptor_is_unreachable_and_a_malformed_one_refused() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let jail = Jail::socks5(lab::tor::network().socks, "connect_timeout: 60s");
    // Well formed (checksum and version are right), but nobody has ever published it.
    let nobody = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:80";
    let done = jail.probe(&["connect", nobody]);
    assert!(done.fact("failed").starts_with("EHOSTUNREACH"), "{done:?}");
    let malformed = format!("{}.onion:80", "a".repeat(56));
    let done = jail.probe(&["connect", &malformed]);
    let errno = done.fact("failed");
    assert!(errno.starts_with("ECONNREFUSED") || errno.starts_with("EHOSTUNREACH"), "{done:?}");
}

#[test]
fn isolated_streams_are_on_circuits_of_their_own() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    for (isolate, circuits) in [("false", 1), ("jail", 1), ("true", 2)] {
        let hold = Server::v4(Behaviour::Hold);
        let jail = Jail::socks5(tor.socks, &format!("isolate_streams: {isolate}, connect_timeout: 60s"));
        let target = format!("web.test:{}", hold.addr.port());
        let line = format!("{p} read {target} & {p} read {target} & wait", p = lab::tool("probe"));
        let running = jail.start("app:proxy", &["sh", "-c", &line]);
        hold.record.wait("two streams", |all| all.len() == 2);
        let mut found: Vec<String> = tor.circuits(&target).into_iter().map(|(_, circuit)| circuit).collect();
        assert_eq!(found.len(), 2, "isolate_streams: {isolate}: {found:?}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), circuits, "isolate_streams: {isolate}: {found:?}");
        drop(running);
    }
}

#[test]
fn two_jails_with_isolation_by_jail_never_share_a_circuit() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    let hold = Server::v4(Behaviour::Hold);
    let target = format!("web.test:{}", hold.addr.port());
    let jails = [0, 1].map(|_| Jail::socks5(tor.socks, "isolate_streams: jail, connect_timeout: 60s"));
    let _running = jails.each_ref().map(|jail| jail.start_probe(&["read", &target]));
    hold.record.wait("two streams", |all| all.len() == 2);
    let circuits = tor.circuits(&target);
    assert_eq!(circuits.len(), 2, "{circuits:?}");
    assert_ne!(circuits[0].1, circuits[1].1);
}
