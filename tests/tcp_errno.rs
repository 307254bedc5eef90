//! A dial that fails says why, at once, with the errno of the table in `docs/errno.md`; it never opens and then dies.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::time::Duration;

use lab::proxy::{Greeting, Manner};
use lab::{Answer, Behaviour, Jail, Proxy};

const V4: &str = "203.0.113.10:80";
const V6: &str = "[2001:db8:9::10]:80";

/// Expects the dial to fail with this errno, quickly, in each family.
fn expect(jail: &Jail, what: &str, v4: &str, v6: &str) {
    for (target, errno) in [(V4, v4), (V6, v6)] {
        let done = jail.probe(&["connect", target]);
        assert!(done.facts("connected").is_empty(), "{what}: a connection that opens and dies: {done:?}");
        let failed = done.fact("failed");
        let words: Vec<&str> = failed.split(' ').collect();
        assert_eq!(words[0], errno, "{what}, {target}: {done:?}");
        let ms: u64 = words.last().unwrap().parse().unwrap();
        assert!(ms < 4000, "{what} took {ms} ms");
    }
}

/// The rows of the documented table that are SOCKS5 replies: (code, errno on IPv4, errno on IPv6).
fn documented() -> Vec<(u8, String, String)> {
    let file = lab::source("docs/errno.md");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut rows = Vec::new();
    for line in text.lines().filter(|l| l.starts_with("| reply ") || l.starts_with("| any other reply")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let word = cells[1].split(' ').nth(1).unwrap();
        let code = u8::from_str_radix(word, 16).unwrap_or(0x55);
        let (v4, v6) = match cells[3].split_once(" (IPv6: ") {
            Some((v4, v6)) => (v4, v6.trim_end_matches(')')),
            None => (cells[3], cells[3]),
        };
        rows.push((code, v4.to_owned(), v6.to_owned()));
    }
    rows
}

#[test]
fn each_reply_code_has_its_documented_errno() {
    let rows = documented();
    assert!(rows.len() >= 17, "replies 1 to 8, F0 to F7 and any other: {rows:?}");
    for (code, v4, v6) in rows {
        let proxy = Proxy::new(move |_| Answer::Code(code));
        expect(&Jail::socks5(proxy.addr, ""), &format!("reply {code:#x}"), &v4, &v6);
    }
}

#[test]
fn the_errnos_that_programs_rely_on_are_the_usual_ones() {
    for (code, v4, v6) in [
        (1, "ECONNREFUSED", "ECONNREFUSED"),
        (2, "EHOSTUNREACH", "EACCES"),
        (3, "ENETUNREACH", "ENETUNREACH"),
        (4, "EHOSTUNREACH", "EHOSTUNREACH"),
        (5, "ECONNREFUSED", "ECONNREFUSED"),
    ] {
        let proxy = Proxy::new(move |_| Answer::Code(code));
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", "1500"]);
        expect(&jail, &format!("reply {code}"), v4, v6);
    }
}

#[test]
fn a_proxy_that_is_down_is_an_unreachable_network_and_the_command_runs() {
    let jail = Jail::socks5(lab::servers::refusing(), "");
    expect(&jail, "a proxy that is down", "ENETUNREACH", "ENETUNREACH");
}

#[test]
fn a_proxy_that_closes_or_resets_before_it_answers_is_an_unreachable_network() {
    for answer in [Answer::Close, Answer::Reset, Answer::Bytes(vec![5]), Answer::Bytes(vec![5, 0, 0, 3, 200, 1])] {
        let proxy = Proxy::new(move |_| answer.clone());
        expect(&Jail::socks5(proxy.addr, ""), "no whole reply", "ENETUNREACH", "ENETUNREACH");
    }
}

#[test]
fn garbage_instead_of_a_reply_is_an_unreachable_network() {
    for bytes in [b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), vec![4, 90, 0, 0, 0, 0, 0, 0], vec![5, 0, 0, 9, 9, 9]] {
        let proxy = Proxy::new(move |_| Answer::Bytes(bytes.clone()));
        expect(&Jail::socks5(proxy.addr, ""), "garbage", "ENETUNREACH", "ENETUNREACH");
    }
    let manner = Manner { greeting: Greeting::Bytes(b"220 mail.test ESMTP\r\n".to_vec()), ..Manner::default() };
    let proxy = Proxy::with(manner, |_| Answer::Close);
    expect(&Jail::socks5(proxy.addr, ""), "another protocol", "ENETUNREACH", "ENETUNREACH");
}

#[test]
fn a_proxy_that_wants_another_login_says_so() {
    let proxy = Proxy::with(Manner { greeting: Greeting::NoneAcceptable, ..Manner::default() }, |_| Answer::Close);
    expect(&Jail::socks5(proxy.addr, ""), "no acceptable method", "EHOSTUNREACH", "EACCES");
    let proxy = Proxy::with(Manner { greeting: Greeting::Other(1), ..Manner::default() }, |_| Answer::Close);
    expect(&Jail::socks5(proxy.addr, ""), "a method that was not offered", "ENETUNREACH", "ENETUNREACH");
}

#[test]
fn a_login_is_sent_as_it_was_written_and_a_wrong_one_is_a_refusal() {
    let manner = || Manner { greeting: Greeting::Login("alice".into(), "öpen sesame".into()), ..Manner::default() };
    let proxy = Proxy::with(manner(), |_| Answer::Serve(Behaviour::Echo));
    let jail = Jail::socks5(proxy.addr, "username: alice, password: \"öpen sesame\"");
    assert_eq!(jail.probe(&["echo", V4, "in"]).fact("got"), "2 in");
    let jail = Jail::socks5(proxy.addr, "username: alice, password: wrong");
    expect(&jail, "a wrong password", "EHOSTUNREACH", "EACCES");
}

#[test]
fn a_proxy_that_never_answers_is_a_time_out_after_the_configured_time() {
    for greeting in [Greeting::Silence, Greeting::Open] {
        let proxy = Proxy::with(Manner { greeting, ..Manner::default() }, |_| Answer::Silence);
        let jail = Jail::socks5(proxy.addr, "connect_timeout: 1s");
        expect(&jail, "silence", "EHOSTUNREACH", "EHOSTUNREACH");
        // And the proxy's connection does not linger.
        proxy.wait_left();
    }
}

#[test]
fn a_dial_that_a_program_gives_up_closes_the_proxys_connection_while_the_program_lives_on() {
    const GIVE_UP: &str = "import socket, sys
for n, family, host in ((1, socket.AF_INET, '203.0.113.10'), (2, socket.AF_INET6, '2001:db8::10')):
    dial = socket.socket(family)
    dial.setblocking(False)
    dial.connect_ex((host, 80))
    print('dialled', n, flush=True)
    sys.stdin.readline()
    dial.close()
    print('closed', n, flush=True)
    sys.stdin.readline()
";
    let proxy = Proxy::new(|_| Answer::Silence);
    // So long that nothing but the program's own word can be what closes it.
    let jail = Jail::socks5(proxy.addr, "connect_timeout: 10m");
    let mut running = jail.start("app:proxy", &["python3", "-c", GIVE_UP]);
    for asked in 1..=2 {
        running.until(&format!("dialled {asked}"));
        proxy.wait_asked(asked);
        running.say("\n");
        running.until(&format!("closed {asked}"));
        proxy.wait_nth_left(asked);
        running.say("\n");
    }
    assert_eq!(running.finish().code(), 0);
}

#[test]
fn isolation_sends_fresh_credentials_for_every_dial_or_every_jail() {
    for (isolate, different) in [("true", 3), ("jail", 1)] {
        let manner = Manner { greeting: Greeting::Login(String::new(), String::new()), ..Manner::default() };
        let proxy = Proxy::with(manner, |_| Answer::Serve(Behaviour::Echo));
        let jail = Jail::socks5(proxy.addr, &format!("isolate_streams: {isolate}"));
        jail.probe(&["sequence", V4, "3"]);
        let mut logins: Vec<_> = proxy.wait_asked(3).into_iter().map(|a| a.login.expect("credentials")).collect();
        logins.sort();
        logins.dedup();
        assert_eq!(logins.len(), different, "isolate_streams: {isolate}: {logins:?}");
        assert!(logins.iter().all(|(name, _)| !name.starts_with("<torS0X>")), "tor reads these specially");
    }
}

#[test]
fn a_failure_is_immediate_even_while_another_dial_hangs() {
    let proxy = Proxy::new(|asked| if asked.port == 81 { Answer::Silence } else { Answer::Code(5) });
    let jail = Jail::socks5(proxy.addr, "connect_timeout: 30s");
    let probe = lab::tool("probe");
    let line = format!("{probe} connect 203.0.113.10:81 & {probe} connect 203.0.113.10:82");
    let begun = std::time::Instant::now();
    let done = jail.shell("app:proxy", &line).good();
    assert!(done.fact("failed").starts_with("ECONNREFUSED"), "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
