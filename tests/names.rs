//! Names never leak: they are answered from a pool, dialled by name, and nothing asks the host's resolver.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::net::IpAddr;

use lab::host::{Host, PROXY};
use lab::proxy::Manner;
use lab::{Answer, Behaviour, Finished, Jail, Proxy};

/// The resolver inside every jail.
const GATEWAY: &str = "198.18.0.1";

fn jail(names: &str) -> (Proxy, Jail) {
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::socks5(proxy.addr, &format!("names: {names}"));
    (proxy, jail)
}

/// Several probes in one jail, each with its own output.
fn probes(jail: &Jail, calls: &[&str]) -> Finished {
    let probe = lab::tool("probe");
    let line: Vec<String> = calls.iter().map(|c| format!("{probe} {c}")).collect();
    jail.shell("app:proxy", &line.join("; ")).good()
}

fn in_pool(text: &str) -> bool {
    match text.parse().unwrap() {
        IpAddr::V4(a) => a.octets()[0] == 198 && a.octets()[1] & 0xFE == 18 && u32::from(a) & 0x1_FFFF > 2,
        IpAddr::V6(a) => a.octets()[0] & 0xFE == 0xFC,
    }
}

#[test]
fn a_name_gets_an_address_of_the_pool_and_is_dialled_by_name() {
    let (proxy, jail) = jail("v4");
    let done = probes(&jail, &["resolve some.test", "echo some.test:8080 hello"]);
    let addresses = done.facts("address");
    assert_eq!(addresses.len(), 1, "{done:?}");
    assert!(in_pool(&addresses[0]), "{addresses:?}");
    assert_eq!(done.fact("got"), "5 hello");
    let asked = &proxy.asked()[0];
    assert_eq!((asked.host.as_str(), asked.kind, asked.port), ("some.test", 3, 8080));
    assert_eq!(proxy.accepted(), 1, "a look-up alone dials nothing, and one connect dials once");
}

#[test]
fn names_both_gives_an_address_of_each_family_for_the_same_name() {
    let (proxy, jail) = jail("both");
    let done = probes(&jail, &["resolve some.test", "ask 198.18.0.1 some.test AAAA"]);
    let addresses = done.facts("address");
    assert_eq!(addresses.len(), 2, "{done:?}");
    assert!(addresses.iter().all(|a| in_pool(a)), "{addresses:?}");
    let v6 = addresses.iter().find(|a| a.contains(':')).unwrap();
    assert!(done.out.contains(&format!(" {v6}\n")), "the same address again: {done:?}");
    let done = probes(&jail, &["ask 198.18.0.1 six.test AAAA", "echo six.test:80 hello"]);
    assert_eq!(done.fact("got"), "5 hello");
    assert_eq!(proxy.asked()[0].host, "six.test");
}

#[test]
fn aaaa_is_no_data_unless_both_families_are_wanted() {
    let done = probes(&jail("v4").1, &["ask 198.18.0.1 some.test AAAA"]);
    assert_eq!((done.fact("rcode"), done.fact("answers")), ("NOERROR".into(), "0".into()), "{done:?}");
}

#[test]
fn an_onion_is_asked_for_by_name_in_every_program_that_asks_the_resolver() {
    let (proxy, jail) = jail("v4");
    let onion = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    let done = probes(&jail, &[&format!("echo {onion}:80 hello"), "echo abc.i2p:80 hello"]);
    assert_eq!(done.facts("got").len(), 2, "{done:?}");
    let asked: Vec<String> = proxy.asked().into_iter().map(|a| a.host).collect();
    assert_eq!(asked, [onion, "abc.i2p"]);
}

#[test]
fn a_name_keeps_its_address_in_any_spelling_and_the_question_comes_back_as_it_was_put() {
    let (proxy, jail) = jail("v4");
    let done = probes(
        &jail,
        &[
            "ask 198.18.0.1 some.test A",
            "ask 198.18.0.1 SoMe.TeSt A",
            "ask 198.18.0.1 some.test. A",
            "echo SOME.test:1 x",
        ],
    );
    let addresses: Vec<String> =
        done.facts("answer").iter().map(|a| a.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 3, "{done:?}");
    assert!(addresses.iter().all(|a| *a == addresses[0]), "{addresses:?}");
    assert!(done.facts("question").contains(&"SoMe.TeSt".to_owned()), "0x20: {done:?}");
    assert_eq!(proxy.asked()[0].host, "some.test");
}

#[test]
fn different_names_have_different_addresses() {
    let calls: Vec<String> = (0..30).map(|i| format!("resolve n{i}.test")).collect();
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let mut addresses = probes(&jail("v4").1, &calls).facts("address");
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 30);
}

#[test]
fn the_pool_begins_somewhere_else_in_each_jail() {
    let first: Vec<String> = (0..3).map(|_| probes(&jail("v4").1, &["resolve some.test"]).fact("address")).collect();
    assert!(first.iter().any(|a| *a != first[0]), "{first:?}");
}

#[test]
fn ptr_is_answered_for_names_that_this_jail_resolved_and_no_others() {
    let (_proxy, jail) = jail("v4");
    let line = "a=$(PROBE resolve some.test | cut -d' ' -f2); IFS=.; set -- $a; \
                PROBE ask 198.18.0.1 $4.$3.$2.$1.in-addr.arpa PTR; PROBE ask 198.18.0.1 9.9.9.9.in-addr.arpa PTR";
    let done = jail.shell("app:proxy", &line.replace("PROBE", &lab::tool("probe"))).good();
    let answers = done.facts("answer");
    assert_eq!(answers.len(), 1, "{done:?}");
    assert!(answers[0].ends_with(" some.test"), "{answers:?}");
    assert_eq!(done.facts("rcode")[1], "NXDOMAIN", "{done:?}");
}

#[test]
fn https_and_svcb_are_empty_and_other_types_are_not_implemented() {
    let (proxy, jail) = jail("v4");
    for kind in ["HTTPS", "SVCB"] {
        let done = probes(&jail, &[&format!("ask {GATEWAY} some.test {kind}")]);
        assert_eq!((done.fact("rcode"), done.fact("answers")), ("NOERROR".into(), "0".into()), "{kind}: {done:?}");
    }
    for kind in ["MX", "TXT", "SRV", "NS", "65280"] {
        let done = probes(&jail, &[&format!("ask {GATEWAY} some.test {kind}")]);
        assert_eq!(done.fact("rcode"), "NOTIMP", "{kind}: {done:?}");
    }
    assert_eq!(proxy.accepted(), 0);
}

#[test]
fn questions_over_tcp_and_with_edns_are_answered() {
    let (_proxy, jail) = jail("v4");
    let done = probes(&jail, &["ask 198.18.0.1 some.test A tcp"]);
    assert_eq!((done.fact("rcode"), done.fact("answers")), ("NOERROR".into(), "1".into()), "{done:?}");
    let done = probes(&jail, &["ask 198.18.0.1 some.test A udp edns 1232"]);
    assert_eq!((done.fact("answers"), done.fact("additional")), ("1".into(), "1".into()), "{done:?}");
    let done = probes(&jail, &["ask 198.18.0.1 some.test A"]);
    assert_eq!(done.fact("additional"), "0", "no OPT to who sent none (RFC 6891, 6.1.1): {done:?}");
}

#[test]
fn port_53_of_any_address_is_the_jails_own_resolver() {
    let (proxy, jail) = jail("v4");
    for server in ["8.8.8.8", "203.0.113.53", "[2001:4860:4860::8888]:53"] {
        for transport in ["udp", "tcp"] {
            let done = probes(&jail, &[&format!("ask {server} some.test A {transport}")]);
            let answer = done.fact("answer");
            assert!(in_pool(answer.rsplit(' ').next().unwrap()), "{server} {transport}: {done:?}");
        }
    }
    assert_eq!(proxy.accepted(), 0);
}

#[test]
fn loopback_names_are_the_loopback() {
    let (proxy, jail) = jail("v4");
    for name in ["localhost", "foo.localhost", "localhost."] {
        let done = probes(&jail, &[&format!("ask {GATEWAY} {name} A")]);
        assert!(done.fact("answer").ends_with(" 127.0.0.1"), "{name}: {done:?}");
    }
    let done = jail.shell("app:proxy", "getent ahosts $(hostname)").good();
    let first = done.out.split_whitespace().next().unwrap();
    assert!(first == "127.0.0.1" || first == "::1", "the jail's own name: {done:?}");
    assert_eq!(proxy.accepted(), 0);
}

#[test]
fn names_that_could_be_read_as_addresses_or_are_no_names_do_not_exist() {
    let (proxy, jail) = jail("v4");
    for name in ["127.0.0.1", "0x7f.1", "some.0x7f", "a.123", "_gateway", "_outbound", "bad!name.test", "sp ace.test"] {
        let call = format!("ask {GATEWAY} '{name}' A");
        assert_eq!(probes(&jail, &[&call]).fact("rcode"), "NXDOMAIN", "{name}");
    }
    for name in ["intranet", "printer.local", "_srv.test", "a-b.test"] {
        let call = format!("ask {GATEWAY} {name} A");
        assert_eq!(probes(&jail, &[&call]).fact("rcode"), "NOERROR", "{name} is the overlay's to judge");
    }
    assert_eq!(proxy.accepted(), 0);
}

#[test]
fn an_address_of_the_pool_that_nobody_was_given_is_refused_without_a_dial() {
    let (proxy, jail) = jail("both");
    let done = probes(&jail, &["connect 198.19.200.201:80", "connect 198.18.0.1:80", "connect 198.18.0.1:9050"]);
    assert!(done.facts("failed").iter().all(|f| f.starts_with("ECONNREFUSED")), "{done:?}");
    assert_eq!(done.facts("failed").len(), 3, "{done:?}");
    assert_eq!(proxy.accepted(), 0);
}

/// Headers that lie, names that loop, labels that overrun, and plain noise.
const MALFORMED: &[&str] = &[
    "",
    "00",
    "424201000001",
    "424201000001000000000000",
    "4242010000010000000000000c",
    "424201000001000000000000c00c00010001",
    "42420100000100000000000003777777c00c00010001",
    "4242010000010000000000003f616263",
    "4242010000010000000000008061626300000100 01",
    "424201000001000000000000c0ff00010001",
    "42420100ffffffffffffffff0161000001000100",
    "4242810000010000000000000161000001 0001",
    "4242790000010000000000000161000001 0001",
    "42420100000200000000000001610000010001016200000100 01",
    "4242010000010000000000010161000001000100002904d000000000ffff",
    "424201000001000000000002016100000100010000290400000000000000002904000000000000",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

#[test]
fn malformed_questions_are_answered_with_an_error_or_not_at_all_and_hurt_nobody() {
    let (proxy, jail) = jail("v4");
    for transport in ["udp", "tcp"] {
        let mut line = String::new();
        for hex in MALFORMED {
            let hex = hex.replace(' ', "");
            line.push_str(&format!("timeout 5 PROBE raw {GATEWAY} '{hex}' {transport} & "));
        }
        line.push_str("wait; PROBE ask 198.18.0.1 some.test A; PROBE echo some.test:80 alive");
        let done = jail.shell("app:proxy", &line.replace("PROBE", &lab::tool("probe"))).good();
        assert_eq!(done.fact("got"), "5 alive", "{done:?}");
        for code in done.facts("rcode").iter().filter(|c| c.parse::<u8>().is_ok()) {
            assert_ne!(code, "0", "{done:?}");
        }
    }
    assert_eq!(proxy.accepted(), 2);
}

#[test]
fn the_jails_resolver_configuration_names_nothing_of_the_hosts() {
    let (_proxy, jail) = jail("v4");
    let done = jail.shell("app:proxy", "cat /etc/resolv.conf; cat /etc/nsswitch.conf").good();
    let servers: Vec<&str> = done.out.lines().filter_map(|l| l.strip_prefix("nameserver ")).collect();
    assert_eq!(servers, [GATEWAY], "{done:?}");
    assert!(
        done.out.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == ["hosts:", "files", "dns"]),
        "{done:?}"
    );
}

#[test]
fn no_question_leaves_the_host_and_nothing_goes_past_the_proxy() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("dnsmasq").is_some(), "no dnsmasq");
    let host = Host::new();
    let resolver = host.resolver();
    let proxy = Proxy::on(host.listen("internet", &format!("{PROXY}:1080")), Manner::default(), |asked| {
        if asked.host.starts_with("no") { Answer::Code(4) } else { Answer::Serve(Behaviour::Echo) }
    });
    let jail = Jail::socks5(proxy.addr, "names: both").inside(&host);
    let capture = host.capture();
    let done = probes(
        &jail,
        &[
            "echo web.lab:80 hello",
            "connect nowhere.lab:80",
            "ask 8.8.8.8 web.lab A",
            "ask 198.51.100.53 web.lab A tcp",
            "udp 198.51.100.53:5353",
            "udp 203.0.113.80:123",
            "connect 203.0.113.80:80",
            "ask 198.18.0.1 text.lab TXT",
            "resolve hostsfile.lab",
        ],
    );
    assert_eq!(done.fact("got"), "5 hello", "{done:?}");
    capture.assert_only(proxy.addr);
    assert!(!resolver.err().contains("query["), "{}", resolver.err());
}

#[test]
fn a_proxy_given_by_name_is_resolved_outside_and_dialled() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::new()
        .entry(&format!("{{name: proxy, kind: network.socks5, host: localhost, port: {}}}", proxy.addr.port()));
    assert_eq!(jail.probe(&["echo", "some.test:80", "hello"]).fact("got"), "5 hello");
}
