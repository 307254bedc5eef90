//! Jails that live for days: what changes around them meanwhile (`docs/long-lived.md`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::net::TcpListener;
use std::os::fd::AsRawFd;

use lab::host::Host;
use lab::proxy::Manner;
use lab::{Answer, Behaviour, Jail, Proxy};

/// Nobody listens there any more, whoever else holds the descriptor.
fn close(listener: &TcpListener) {
    // SAFETY: shutdown only changes the socket's state.
    assert_eq!(unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) }, 0);
}

#[test]
fn a_proxy_that_changes_its_address_is_found_again() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let serving = |addr: &str| {
        Proxy::on(host.listen("internet", addr), Manner::default(), |_| Answer::Serve(Behaviour::Banner("hello")))
    };
    let names = |addr: &str| host.write("hosts", &format!("127.0.0.1 localhost\n{addr} proxy.lab\n"));
    let listener = host.listen("internet", "203.0.113.5:1080");
    let old =
        Proxy::on(listener.try_clone().unwrap(), Manner::default(), |_| Answer::Serve(Behaviour::Banner("hello")));
    names("203.0.113.5");
    let jail = Jail::new().entry("{name: proxy, kind: network.socks5, host: proxy.lab, port: 1080}").inside(&host);
    let probe = lab::tool("probe");
    let line = format!(
        "{probe} connect some.test:80; echo first; read x; {probe} connect some.test:80; echo second
         until {probe} connect some.test:80 | grep -q ^connected; do :; done; echo third"
    );
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    assert!(running.until("first").contains("connected"));
    let before = old.accepted();
    // The old address answers no more, and the name leads elsewhere.
    let new = serving("203.0.113.80:1080");
    names("203.0.113.80");
    close(&listener);
    running.say("on\n");
    running.until("third");
    assert!(new.accepted() > 0 && old.accepted() >= before);
    assert!(new.asked().iter().all(|asked| asked.host == "some.test"), "{:?}", new.asked());
    running.finish().good();
}

#[test]
fn the_next_address_of_a_proxy_is_tried_when_one_fails() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    // Whichever of the two is tried first: once it is the one where nobody listens.
    for alive in ["203.0.113.5:1080", "203.0.113.80:1080"] {
        host.write("hosts", "127.0.0.1 localhost\n203.0.113.5 proxy.lab\n203.0.113.80 proxy.lab\n");
        let listener = host.listen("internet", alive);
        let kept = listener.try_clone().unwrap();
        let proxy = Proxy::on(kept, Manner::default(), |_| Answer::Serve(Behaviour::Banner("hello")));
        let jail = Jail::new().entry("{name: proxy, kind: network.socks5, host: proxy.lab, port: 1080}").inside(&host);
        let probe = lab::tool("probe");
        let line = format!("{probe} connect some.test:80; {probe} connect some.test:80");
        let done = jail.shell("app:proxy", &line).good();
        let last = done.out.lines().last().unwrap();
        assert!(last.starts_with("connected"), "{alive}: the second dial is another one: {done:?}");
        assert!(proxy.accepted() > 0);
        close(&listener);
    }
}

#[test]
fn the_far_side_of_an_idle_flow_is_asked_whether_it_lives() {
    let proxy = Proxy::serving(Behaviour::Hold);
    let jail = Jail::socks5(proxy.addr, "");
    let _running = jail.start_probe(&["read", "some.test:80"]);
    proxy.record.wait("a flow", |all| all.len() == 1);
    // The client's side of that connection in proc(5)'s net/tcp: timer 2 is the keep-alive's, and when it is due in
    // hundredths of a second.
    let remote = format!("0100007F:{:04X}", proxy.addr.port());
    let due = lab::wait_for("the keep-alive timer", std::time::Duration::from_secs(20), || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let timers: Vec<Vec<String>> = table
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .filter(|words| words.get(2) == Some(&remote))
            .collect();
        timers.iter().find_map(|words| u64::from_str_radix(words[5].strip_prefix("02:")?, 16).ok())
    });
    assert!(due <= 15 * 60 * 100, "after {} s", due / 100);
}

#[test]
fn every_promise_of_the_page_has_a_test_of_its_name() {
    let page = std::fs::read_to_string(lab::source("docs/long-lived.md")).unwrap();
    let tree = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["tests/long_lived.rs", "tests/direct.rs", "src/stack/tests/ends.rs", "src/roles/warden/dialler.rs"];
    let Ok(source) = files.iter().map(|file| std::fs::read_to_string(tree.join(file))).collect::<Result<String, _>>()
    else {
        // An ordinary user may not read the tree; the run as root has looked.
        return;
    };
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let name = row.trim_end_matches("` |").rsplit('`').next().unwrap();
        assert!(source.contains(&format!("fn {name}()")), "{name}");
    }
}
