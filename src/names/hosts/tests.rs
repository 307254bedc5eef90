use proptest::prelude::*;

use super::super::testing::{Read, allow, deny, host, question, read, with_opt};
use super::super::wire::{UDP_LARGEST, reply_matches, rtype::*};
use super::super::{Asked, Outcome};
use super::*;

const FILE: &str = "\
# a comment
127.0.0.1 localhost localhost.localdomain
127.0.1.1 box.example.org box build-alias
::1 ip6-localhost ip6-loopback
192.0.2.1\tweb.example WEB2.Example # why
192.0.2.2 web.example
2001:db8::1 web.example
192.168.1.10 nas nas.lan
0.0.0.0 ads.example tracker.example
127.0.0.1 blocked.example
fe80::1%eth0 scoped.example
bogus name.example
192.0.2.9
192.0.2.3 12345 bad%name good-name
8.8.8.8 quad.example
10.9.9.9 box.local
\u{fffd}";

fn names(allow_lan: bool) -> HostNames {
    HostNames::new(HostsTable::parse(FILE.as_bytes(), "box.example.org"), host("jail"), own_addresses(), allow_lan)
}

fn own_addresses() -> Vec<OwnAddress> {
    let own = |address: &str, on_link: &str| OwnAddress {
        address: address.parse::<std::net::IpAddr>().unwrap().into(),
        on_link: on_link.parse().unwrap(),
    };
    vec![own("203.0.113.5", "203.0.113.0/29"), own("192.0.2.3", "192.0.2.3/32")]
}

fn ask(names: &HostNames, name: &str, qtype: u16) -> (Rule, Outcome, Vec<String>) {
    let (query, mut out) = (question(name, qtype), vec![1]);
    let answered = names.answer(&query, Transport::Udp, &mut allow, &mut out);
    let answers = match answered.outcome {
        Outcome::Reply(_) => read(&query, &out).answers,
        _ => {
            assert!(out.is_empty());
            vec![]
        }
    };
    (answered.rule, answered.outcome, answers.iter().map(|a| a.trim_end_matches('.').to_owned()).collect())
}

fn found(answers: &[&str]) -> (Rule, Outcome, Vec<String>) {
    (Rule::AnsweredHere, Outcome::Reply(rcode::NOERROR), answers.iter().map(|a| (*a).to_owned()).collect())
}

const FORWARDED: (Rule, Outcome, Vec<String>) = (Rule::Default, Outcome::Forward, vec![]);

fn missing(rule: Rule) -> (Rule, Outcome, Vec<String>) {
    (rule, Outcome::Reply(rcode::NXDOMAIN), vec![])
}

#[test]
fn the_hosts_file_answers_in_its_order() {
    let names = names(false);
    assert_eq!(ask(&names, "Web.Example", A), found(&["A 192.0.2.1", "A 192.0.2.2"]));
    assert_eq!(ask(&names, "web.example", AAAA), found(&["AAAA 2001:db8::1"]));
    assert_eq!(ask(&names, "web.example", ANY).2.len(), 3);
    assert_eq!(ask(&names, "web2.example", AAAA), found(&[]), "one family in the file: none of the other");
    assert_eq!(ask(&names, "web.example", HTTPS), found(&[]), "no hint goes round the file");
    assert_eq!(ask(&names, "ads.example", A), found(&["A 0.0.0.0"]));
    assert_eq!(ask(&names, "blocked.example", A), found(&["A 127.0.0.1"]));
    assert_eq!(ask(&names, "scoped.example", AAAA), found(&["AAAA fe80::1"]));
    assert_eq!(ask(&names, "good-name", A), found(&["A 192.0.2.3"]));
    assert_eq!(ask(&names, "ip6-loopback", AAAA), found(&["AAAA ::1"]));
}

#[test]
fn addresses_get_the_first_name_of_the_file() {
    let names = names(false);
    assert_eq!(ask(&names, "1.2.0.192.in-addr.arpa", PTR), found(&["PTR web.example"]));
    let nas = "10.1.168.192.in-addr.arpa";
    assert_eq!(ask(&self::names(false), nas, PTR), missing(Rule::Private), "it can not be dialled");
    assert_eq!(ask(&self::names(true), nas, PTR), found(&["PTR nas"]));
    assert_eq!(ask(&names, "8.8.8.8.in-addr.arpa", PTR), found(&["PTR quad.example"]));
    assert_eq!(ask(&names, "1.0.0.127.in-addr.arpa", PTR), found(&["PTR localhost"]));
    assert_eq!(ask(&names, "2.0.18.198.in-addr.arpa", PTR), found(&["PTR jail"]));
}

#[test]
fn what_is_not_in_the_file_is_forwarded() {
    let names = names(false);
    for (name, qtype) in [
        ("example.com", A),
        ("example.com", AAAA),
        ("example.com", HTTPS),
        ("example.com", 16),
        ("example.com", ANY),
        ("printer.local", A),
        ("intranet", A),
        ("web.example", 15),
        ("9.9.9.9.in-addr.arpa", PTR),
        ("name.example", A),
    ] {
        assert_eq!(ask(&names, name, qtype), FORWARDED, "{name}");
    }
    for qtype in [0, OPT, 252] {
        assert_eq!(ask(&names, "example.com", qtype).1, Outcome::Reply(rcode::NOTIMP));
    }
}

#[test]
fn the_hosts_own_names_do_not_exist_and_its_addresses_tell_nothing() {
    for allow_lan in [false, true] {
        let names = names(allow_lan);
        for name in ["box", "BOX.example.org", "build-alias", "box.local"] {
            for qtype in [A, AAAA, 16] {
                assert_eq!(ask(&names, name, qtype), missing(Rule::SpecialName), "{name}");
            }
        }
        for (address, rule) in [
            ("1.1.0.127", Rule::HostLoopback),
            ("0.0.0.0", Rule::Unspecified),
            ("1.0.254.169", Rule::LinkLocal),
            ("5.113.0.203", Rule::HostAddress),
            ("3.2.0.192", Rule::HostAddress),
            ("1.0.18.198", Rule::JailRange),
        ] {
            assert_eq!(ask(&names, &format!("{address}.in-addr.arpa"), PTR), missing(rule), "{address}");
        }
        assert_eq!(ask(&names, "_gateway", A), missing(Rule::SpecialName));
        assert_eq!(ask(&names, "_dns.resolver.arpa", SVCB), missing(Rule::SpecialName));
        assert_eq!(ask(&names, "x.onion", A), missing(Rule::UnroutableName));
        assert_eq!(ask(&names, "x.localhost", A).2, ["A 127.0.0.1"]);
        assert_eq!(ask(&names, "jail", A).2, ["A 127.0.0.1"]);
        assert_eq!(ask(&names, "0x7f.1", A), missing(Rule::MalformedName));
    }
}

#[test]
fn names_of_the_lan_are_asked_only_where_the_lan_may_be_reached() {
    let (shut, open) = (names(false), names(true));
    for name in [
        "1.0.0.10.in-addr.arpa",
        "5.1.16.172.in-addr.arpa",
        "7.1.168.192.in-addr.arpa",
        "1.0.64.100.in-addr.arpa",
        "168.192.in-addr.arpa",
        "4.113.0.203.in-addr.arpa",
        "lb._dns-sd._udp.0.1.168.192.in-addr.arpa",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
    ] {
        let rule = if name.contains("203") { Rule::OnLink } else { Rule::Private };
        assert_eq!(ask(&shut, name, PTR), missing(rule), "{name}");
        assert_eq!(ask(&open, name, PTR), FORWARDED, "{name}");
    }
}

#[test]
fn a_denied_name_is_refused_and_not_forwarded() {
    for name in ["example.com", "web.example"] {
        let (query, mut out) = (question(name, A), vec![]);
        let answered = names(false).answer(&query, Transport::Udp, &mut deny, &mut out);
        assert_eq!((answered.outcome, answered.rule), (Outcome::Reply(rcode::REFUSED), Rule::Private));
        assert_eq!(answered.name, Asked::Host(host(name)));
    }
}

#[test]
fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let text: String = (0..200).map(|n| format!("2001:db8::{n:x} many.example\n")).collect();
    let names = HostNames::new(HostsTable::parse(text.as_bytes(), "box"), host("jail"), vec![], false);
    let ask = |query: &[u8], transport| {
        let mut out = vec![];
        names.answer(query, transport, &mut allow, &mut out);
        (out.len(), read(query, &out))
    };
    let plain = question("many.example", AAAA);
    for (query, limit) in [
        (plain.clone(), 512),
        (with_opt(plain.clone(), 0, 0, false), 512),
        (with_opt(plain.clone(), 900, 0, false), 900),
        (with_opt(plain.clone(), 65535, 0, false), UDP_LARGEST),
    ] {
        let (length, Read { truncated, answers, denied_for, .. }) = ask(&query, Transport::Udp);
        assert!(truncated && denied_for.is_none());
        assert!(length <= limit && length + 28 > limit, "{length} of {limit}");
        assert_eq!(answers.len(), (length - query.len()) / 28);
    }
    let (_, whole) = ask(&plain, Transport::Tcp);
    assert_eq!((whole.truncated, whole.answers.len()), (false, MOST_ADDRESSES));
}

#[test]
fn a_huge_file_is_read_within_its_bounds() {
    let line = "0.0.0.0 a.example b.example c.example d.example\n";
    let table = HostsTable::parse(line.repeat(LONGEST_TEXT / line.len() + 10).as_bytes(), "box");
    assert!(table.len() <= MOST_NAMES + 4);
    assert!(table.reverse.is_empty());
    // A line that the bound cuts is not read at all: `10.0.0.12` must not become `10.0.0.1`.
    assert_eq!(lines(b"one\ntwo\nthree", 10).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(lines(b"one line", 3).count(), 1);
    assert_eq!(lines(b"one\xff\ntwo", 100).collect::<Vec<_>>(), ["two"]);
}

#[test]
fn a_forwarded_reply_must_answer_its_question() {
    let query = question("Some.Example", A);
    let reply = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut reply = query.clone();
        reply[2] |= 0x80;
        edit(&mut reply);
        reply_matches(&query, &reply)
    };
    assert!(reply(&|_| {}));
    assert!(reply(&|r| r[12..].make_ascii_lowercase()), "a server may normalise the name");
    assert!(reply(&|r| r.extend_from_slice(&[0xC0, 12, 0, 1])), "records are the program's to read");
    assert!(!reply(&|r| r[0] ^= 1), "identification");
    assert!(!reply(&|r| r[2] &= 0x7F), "a question");
    assert!(!reply(&|r| r[2] |= 0x08), "opcode");
    assert!(!reply(&|r| r[13] ^= 1), "name");
    assert!(!reply(&|r| *r.last_mut().unwrap() = 3), "class");
    assert!(!reply(&|r| r.truncate(20)), "cut");
    assert!(!reply(&|r| r[5] = 2), "two questions");
    assert!(!reply(&|r| (r[5] = 0, r.truncate(12)).0), "no question, no error");
    assert!(reply(&|r| (r[5] = 0, r[3] = 1, r.truncate(12)).0), "FORMERR without a question");
    assert!(!reply(&|r| (r[5] = 0, r[3] = 3, r.truncate(12)).0), "NXDOMAIN without a question");
    // HTTPS is 65 = 'A', and 97 = 'a' is another type.
    let (https, mut other) = (question("some.example", 65), question("some.example", 97));
    other[2] |= 0x80;
    assert!(!reply_matches(&https, &other));
    assert!(!reply_matches(&[], &[]) && !reply_matches(&query, &[]));
}

proptest! {
    #[test]
    fn no_file_makes_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..400), tail in "[a-z0-9 .:#%\n]{0,300}") {
        let table = HostsTable::parse(&[&text[..], tail.as_bytes()].concat(), &tail);
        prop_assert!(table.len() <= 700);
    }

    #[test]
    fn no_reply_makes_the_check_panic(query in prop::collection::vec(any::<u8>(), 0..60), reply in prop::collection::vec(any::<u8>(), 0..60)) {
        reply_matches(&query, &reply);
        let mut back = query.clone();
        if back.len() > 2 {
            back[2] |= 0x80;
            reply_matches(&query, &back);
        }
    }
}
