use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::super::pool::{CAPACITY, OWN_V4};
use super::super::testing::{Read, allow, deny, host, question, raw_question, read, with_opt};
use super::super::wire::{UDP_LARGEST, reply_matches, rtype::*};
use super::super::{Asked, Outcome, TTL};
use super::*;

const MX: u16 = 15;
const TXT: u16 = 16;
const AXFR: u16 = 252;

fn names() -> Names {
    with(|_| {})
}

fn with(change: impl FnOnce(&mut Config)) -> Names {
    let carries = Carries { onion: true, i2p: true };
    let mut config = Config { own: host("box"), families: NameFamilies::V4, carries, forwards: false };
    change(&mut config);
    Names::new(Arc::new(Pool::new(4711)), config)
}

/// Asks over UDP with everything allowed, and returns the rule and the reply.
fn ask(names: &Names, query: &[u8]) -> (Rule, Read) {
    let mut out = vec![1, 2, 3];
    let answered = names.answer(query, Transport::Udp, &mut allow, &mut out);
    let read = read(query, &out);
    assert_eq!(answered.outcome, Outcome::Reply(read.rcode));
    (answered.rule, read)
}

/// Whether the question is answered with a pool address.
fn pooled(names: &Names, query: &[u8]) -> bool {
    let (rule, reply) = ask(names, query);
    rule == Rule::AnsweredHere
        && reply.rcode == rcode::NOERROR
        && reply.answers.iter().any(|a| a.starts_with("A 198.1"))
}

fn nodata() -> Read {
    Read { rcode: rcode::NOERROR, truncated: false, answers: vec![], denied_for: Some(TTL), opt: None }
}

fn missing() -> Read {
    Read { rcode: rcode::NXDOMAIN, ..nodata() }
}

fn bare(rcode: u16) -> Read {
    Read { rcode, denied_for: None, ..nodata() }
}

fn records(records: &[String]) -> Read {
    Read { answers: records.to_vec(), denied_for: None, ..nodata() }
}

#[test]
fn a_name_is_answered_with_its_pool_address_and_that_with_the_name() {
    let names = names();
    let (rule, reply) = ask(&names, &question("www.Example.com", A));
    let pair = names.pool().assign(&host("www.example.com")).unwrap();
    assert_eq!((rule, reply), (Rule::AnsweredHere, records(&[format!("A {}", pair.v4)])));
    assert_eq!(ask(&names, &question("WWW.example.COM", A)).1.answers, [format!("A {}", pair.v4)]);
    assert_eq!(names.pool().len(), 1);
}

#[test]
fn aaaa_is_nodata_unless_both_families_are_wanted() {
    let names = names();
    assert_eq!(ask(&names, &question("a.example", AAAA)), (Rule::AnsweredHere, nodata()));
    assert_eq!(names.pool().len(), 0, "no address is spent on it");
    let names = with(|config| config.families = NameFamilies::Both);
    let pair = names.pool().assign(&host("a.example")).unwrap();
    assert_eq!(
        ask(&names, &question("a.example", AAAA)),
        (Rule::AnsweredHere, records(&[format!("AAAA {}", pair.v6)]))
    );
    assert_eq!(names.pool().name(pair.v6.into()), Some(&host("a.example")));
    let both = [format!("A {}", pair.v4), format!("AAAA {}", pair.v6)];
    assert_eq!(ask(&names, &question("a.example", ANY)), (Rule::AnsweredHere, records(&both)));
}

#[test]
fn onion_names_go_only_to_an_overlay_that_carries_them() {
    for (zone, carries) in
        [("onion", Carries { onion: true, i2p: false }), ("i2p", Carries { onion: false, i2p: true })]
    {
        let name = format!("abcdef.{zone}");
        let can = with(|config| (config.carries, config.forwards) = (carries, true));
        assert!(pooled(&can, &question(&name, A)));
        assert_eq!(ask(&can, &question(&name, TXT)), (Rule::AnsweredHere, bare(rcode::NOTIMP)), "never to a resolver");
        let can_not = with(|config| {
            config.carries = Carries { onion: !carries.onion, i2p: !carries.i2p };
            config.forwards = true;
        });
        for qtype in [A, AAAA, TXT, HTTPS] {
            assert_eq!(ask(&can_not, &question(&name, qtype)), (Rule::UnroutableName, missing()));
        }
    }
    assert!(pooled(&names(), &question("onion", A)));
    assert!(pooled(&with(|c| c.carries.onion = false), &question("not-onion.example", A)));
}

#[test]
fn localhost_and_the_jails_own_name_are_the_loopback() {
    let names = names();
    for name in ["localhost", "LocalHost", "x.y.localhost", "box", "BOX"] {
        assert_eq!(ask(&names, &question(name, A)), (Rule::AnsweredHere, records(&["A 127.0.0.1".into()])), "{name}");
        assert_eq!(ask(&names, &question(name, AAAA)), (Rule::AnsweredHere, records(&["AAAA ::1".into()])));
        assert_eq!(ask(&names, &question(name, TXT)), (Rule::AnsweredHere, nodata()));
    }
    assert!(pooled(&names, &question("notlocalhost", A)));
    assert!(pooled(&names, &question("x.box", A)));
}

#[test]
fn names_that_ask_after_the_host_do_not_exist() {
    let names = with(|config| config.forwards = true);
    for name in
        ["_gateway", "_GATEWAY", "x._gateway", "_outbound", "_localdnsstub", "_localdnsproxy", "_dns.resolver.arpa"]
    {
        for qtype in [A, AAAA, SVCB, TXT] {
            assert_eq!(ask(&names, &question(name, qtype)), (Rule::SpecialName, missing()), "{name}");
        }
    }
    assert_eq!(names.pool().len(), 0);
}

#[test]
fn what_a_proxy_could_read_as_an_address_is_no_name() {
    let names = names();
    for name in
        ["127.0.0.1", "1", "0x7f.1", "a.0X7F", "10.example.017", "a b.example", "a\u{e4}.example", "a%b.c", "a/b"]
    {
        assert_eq!(ask(&names, &question(name, A)), (Rule::MalformedName, missing()), "{name}");
    }
    for labels in [&[b"a.b".as_slice(), b"example"], &[b"127.0.0.1".as_slice(), b"x"], &[b"nul\0".as_slice(), b"x"]] {
        assert_eq!(ask(&names, &raw_question(labels, A)), (Rule::MalformedName, missing()));
    }
    assert_eq!(names.pool().len(), 0);
}

#[test]
fn single_labels_and_local_are_the_overlays_to_judge() {
    let names = names();
    for name in ["intranet", "printer.local", "wpad", "a_b-c.test", "_sip._tcp.example"] {
        assert!(pooled(&names, &question(name, A)), "{name}");
    }
}

#[test]
fn the_log_sees_odd_names_escaped_and_host_names_in_lower_case() {
    let asked = |query: &[u8]| names().answer(query, Transport::Udp, &mut allow, &mut vec![]).name;
    assert_eq!(asked(&question("WWW.Example", A)), Asked::Host(host("www.example")));
    let odd = raw_question(&[b"\x1b[31m", b"a.b\\", b"\xff \x7f"], A);
    assert_eq!(asked(&odd).to_string(), r"\027[31m.a\.b\\.\255\032\127");
    assert_eq!(asked(&question("", A)).to_string(), ".");
}

#[test]
fn a_denied_name_is_refused_whatever_the_type_and_gets_no_address() {
    let names = with(|config| config.forwards = true);
    for qtype in [A, AAAA, ANY, TXT, HTTPS, MX] {
        let (query, mut out) = (question("denied.example", qtype), vec![]);
        let answered = names.answer(&query, Transport::Udp, &mut deny, &mut out);
        assert_eq!((answered.outcome, answered.rule), (Outcome::Reply(rcode::REFUSED), Rule::Private));
        assert_eq!(read(&query, &out), bare(rcode::REFUSED));
    }
    assert_eq!(names.pool().len(), 0);
}

#[test]
fn the_policy_sees_the_name_and_the_type_once() {
    let mut seen = vec![];
    names().answer(
        &question("Seen.Example", AAAA),
        Transport::Tcp,
        &mut |name, qtype| {
            seen.push((name.to_string(), qtype));
            allow(name, qtype)
        },
        &mut vec![],
    );
    assert_eq!(seen, [("seen.example".to_owned(), AAAA)]);
}

#[test]
fn ptr_is_answered_for_what_this_jail_resolved_and_itself_only() {
    let names = with(|config| config.families = NameFamilies::Both);
    let pair = names.pool().assign(&host("known.example")).unwrap();
    let known = (Rule::AnsweredHere, records(&["PTR known.example.".into()]));
    // However the reader prints a name's end.
    let either = |reply: (Rule, Read)| {
        let answers = reply.1.answers.iter().map(|a| a.trim_end_matches('.').to_owned() + ".").collect();
        (reply.0, Read { answers, ..reply.1 })
    };
    for address in [IpAddr::from(pair.v4), pair.v6.into()] {
        assert_eq!(either(ask(&names, &question(&reverse_name(address), PTR))), known);
        assert_eq!(ask(&names, &question(&reverse_name(address), A)), (Rule::AnsweredHere, nodata()));
    }
    for (address, name) in [(IpAddr::from(Ipv4Addr::LOCALHOST), "localhost."), (OWN_V4.into(), "box.")] {
        let reply = either(ask(&names, &question(&reverse_name(address), PTR)));
        assert_eq!(reply.1.answers, [format!("PTR {name}")]);
    }
    let unknown = Ipv4Addr::from_bits(pair.v4.to_bits() + 1).into();
    for address in [unknown, "198.18.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap()] {
        let asked = question(&reverse_name(address), PTR);
        assert_eq!(ask(&names, &asked), (Rule::AnsweredHere, missing()), "{address}");
    }
    for name in ["168.192.in-addr.arpa", "ip6.arpa", "1.ip6.arpa"] {
        assert_eq!(ask(&names, &question(name, PTR)), (Rule::AnsweredHere, missing()), "{name}");
    }
}

fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles: Vec<String> = format!("{:032x}", v6.to_bits()).chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", nibbles.join("."))
        }
    }
}

#[test]
fn service_bindings_are_empty_and_other_types_not_implemented_or_forwarded() {
    let names = names();
    for qtype in [HTTPS, SVCB] {
        assert_eq!(ask(&names, &question("a.example", qtype)), (Rule::AnsweredHere, nodata()));
    }
    for qtype in [0, SOA, MX, TXT, OPT, AXFR, 65535] {
        assert_eq!(ask(&names, &question("a.example", qtype)), (Rule::AnsweredHere, bare(rcode::NOTIMP)), "{qtype}");
    }
    let names = with(|config| config.forwards = true);
    let mut out = vec![9];
    let answered = names.answer(&question("a.example", MX), Transport::Udp, &mut allow, &mut out);
    assert_eq!((answered.outcome, answered.rule, out.len()), (Outcome::Forward, Rule::Default, 0));
    for qtype in [0, OPT, AXFR] {
        assert_eq!(ask(&names, &question("a.example", qtype)), (Rule::AnsweredHere, bare(rcode::NOTIMP)));
    }
    for qtype in [HTTPS, AAAA] {
        assert_eq!(ask(&names, &question("a.example", qtype)).1, nodata());
    }
}

#[test]
fn the_root_has_no_address() {
    assert_eq!(ask(&names(), &question("", A)), (Rule::AnsweredHere, nodata()));
    assert_eq!(ask(&with(|c| c.forwards = true), &question("", 2)), (Rule::AnsweredHere, bare(rcode::NOTIMP)));
}

#[test]
fn a_full_pool_fails_new_names_and_keeps_the_old() {
    let names = names();
    let old = ask(&names, &question("old.example", A));
    for number in 1..CAPACITY {
        names.pool().assign(&host(&format!("n{number}.example"))).unwrap();
    }
    assert_eq!(ask(&names, &question("new.example", A)), (Rule::LimitNames, bare(rcode::SERVFAIL)));
    assert_eq!(ask(&names, &question("OLD.example", A)), old);
}

#[test]
fn edns_is_answered_with_ours() {
    let names = names();
    let query = with_opt(question("a.example", A), 4096, 0, true);
    let reply = ask(&names, &query).1;
    assert_eq!((reply.opt, reply.answers.len()), (Some((UDP_LARGEST as u16, 0, true)), 1));
    let newer = with_opt(question("a.example", A), 4096, 1, false);
    let (rule, reply) = ask(&names, &newer);
    assert_eq!((rule, reply.rcode, reply.answers.len()), (Rule::AnsweredHere, rcode::BADVERS, 0));
    assert_eq!(reply.opt, Some((UDP_LARGEST as u16, 0, false)));
    // Options are passed over.
    let mut padded = with_opt(question("a.example", A), 1232, 0, false);
    let length = padded.len();
    padded[length - 1] = 6;
    padded.extend_from_slice(&[0, 12, 0, 2, 0, 0]);
    assert!(pooled(&names, &padded));
}

#[test]
fn malformed_questions_get_formerr() {
    let good = question("a.example", A);
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut query = good.clone();
        edit(&mut query);
        query
    };
    let cases = [
        ("no question", edited(&|q| q[5] = 0)),
        ("no question at all", edited(&|q| (q[5] = 0, q.truncate(12)).0)),
        ("two questions", edited(&|q| (q[5] = 2, q.extend_from_within(12..)).0)),
        ("65,535 questions", edited(&|q| (q[4], q[5]) = (255, 255))),
        ("an answer", edited(&|q| q[7] = 1)),
        ("an authority", edited(&|q| q[9] = 1)),
        ("an additional that is not there", edited(&|q| q[11] = 1)),
        ("65,535 additionals", edited(&|q| (q[10], q[11]) = (255, 255))),
        ("a byte behind it", edited(&|q| q.push(0))),
        ("cut in the type", edited(&|q| q.truncate(q.len() - 3))),
        ("cut in the name", edited(&|q| q.truncate(15))),
        ("header only", edited(&|q| q.truncate(12))),
        ("two OPT records", with_opt(with_opt(good.clone(), 512, 0, false), 512, 0, false)),
        ("an OPT below the root", {
            let mut query = with_opt(good.clone(), 512, 0, false);
            let at = good.len();
            query.splice(at..=at, [1, b'x', 0]);
            query
        }),
        ("an OPT that is longer than the message", {
            let mut query = with_opt(good.clone(), 512, 0, false);
            let last = query.len() - 1;
            query[last] = 9;
            query
        }),
        ("a name that points at itself", raw_name(&[0xC0, 12])),
        ("a name that points at its tail", raw_name(&[1, b'a', 0xC0, 14])),
        ("two pointers in a circle", raw_name(&[0xC0, 14, 0xC0, 12])),
        ("a name that points into the header", raw_name(&[0xC0, 0])),
        ("a pointer forward", raw_name(&[0xC0, 0xFF])),
        ("half a pointer", raw_name(&[0xC0])[..13].to_vec()),
        ("a label of 64 bytes", raw_name(&[&[64; 65][..], &[0]].concat())),
        ("an extended label", raw_name(&[0x41, 1, 0])),
        (
            "a name of 256 bytes",
            raw_question(&[[b'a'; 62].as_slice(); 4], A)[..12].iter().copied().chain(long_name(256)).collect(),
        ),
    ];
    let names = names();
    for (what, query) in cases {
        assert_eq!(ask_raw(&names, &query), (Rule::MalformedQuestion, rcode::FORMERR), "{what}");
    }
    let longest: Vec<u8> = good[..12].iter().copied().chain(long_name(255)).collect();
    assert!(pooled(&names, &longest), "255 bytes are allowed");
    assert_eq!(names.pool().len(), 1);
}

fn raw_name(name: &[u8]) -> Vec<u8> {
    let mut query = question("", A);
    query.splice(12..13, name.iter().copied());
    query
}

/// A name of so many bytes, with type and class.
fn long_name(bytes: usize) -> Vec<u8> {
    let mut name = vec![];
    while name.len() + 64 < bytes - 1 {
        name.push(63);
        name.extend([b'a'; 63]);
    }
    let rest = bytes - 2 - name.len();
    name.push(rest as u8);
    name.extend(vec![b'a'; rest]);
    name.extend([0, 0, A as u8, 0, 1]);
    assert_eq!(name.len(), bytes + 4);
    name
}

fn ask_raw(names: &Names, query: &[u8]) -> (Rule, u16) {
    let mut out = vec![];
    let answered = names.answer(query, Transport::Udp, &mut allow, &mut out);
    let read = read(query, &out);
    assert!(read.answers.is_empty());
    (answered.rule, read.rcode)
}

#[test]
fn a_pointer_behind_the_question_is_stepped_over_and_not_followed() {
    let mut query = question("a.example", A);
    query[11] = 1;
    let own_place = query.len() as u8;
    query.extend_from_slice(&[0xC0, own_place, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(pooled(&names(), &query));
}

#[test]
fn replies_and_stumps_are_dropped_in_silence() {
    let names = names();
    let mut reply = question("a.example", A);
    reply[2] |= 0x80;
    for message in [&reply[..], &reply[..11], &[], &[0xAB]] {
        let mut out = vec![1];
        let answered = names.answer(message, Transport::Tcp, &mut allow, &mut out);
        assert_eq!((answered.outcome, answered.rule), (Outcome::Drop, Rule::MalformedQuestion));
        assert!(out.is_empty());
    }
}

#[test]
fn other_opcodes_and_classes_are_not_answered() {
    let names = names();
    for opcode in [1, 2, 4, 5, 15] {
        let mut query = question("a.example", A);
        query[2] |= opcode << 3;
        assert_eq!(ask_raw(&names, &query), (Rule::AnsweredHere, rcode::NOTIMP));
    }
    for class in [0, 3, 4, 254, 255] {
        let mut query = question("version.bind", TXT);
        *query.last_mut().unwrap() = class;
        assert_eq!(ask_raw(&names, &query), (Rule::AnsweredHere, rcode::REFUSED));
    }
    assert_eq!(names.pool().len(), 0);
}

proptest! {
    #[test]
    fn letter_case_is_echoed_and_does_not_matter(name in "[a-zA-Z][a-zA-Z0-9_-]{0,20}(\\.[a-zA-Z]{1,9}){0,4}") {
        let names = with(|config| config.own = host("never.asked.for"));
        prop_assume!(!name.to_ascii_lowercase().ends_with("localhost"));
        let first = ask(&names, &question(&name, A));
        prop_assert_eq!(first.0, Rule::AnsweredHere);
        prop_assert_eq!(ask(&names, &question(&name.to_ascii_uppercase(), A)), first);
    }

    #[test]
    fn no_message_makes_it_panic_or_talk_too_much(message in prop::collection::vec(any::<u8>(), 0..700)) {
        never_too_much(&message)?;
    }

    #[test]
    fn no_damage_to_a_question_makes_it_panic_or_talk_too_much(
        name in "([a-z0-9_.-]|localhost|onion){0,80}",
        qtype in prop::sample::select(vec![A, AAAA, ANY, PTR, HTTPS, MX, OPT]),
        payload in any::<Option<u16>>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let labels: Vec<_> = name.split('.').filter(|l| !l.is_empty() && l.len() < 64).map(str::as_bytes).collect();
        let mut message = raw_question(&labels, qtype);
        if let Some(payload) = payload {
            message = with_opt(message, payload, 0, false);
        }
        for (at, byte) in damage {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if let Some(cut) = cut {
            message.truncate(cut.index(message.len()));
        }
        never_too_much(&message)?;
    }
}

/// Whatever came: a reply has the question's identification, is within its bound, and is no larger than a question needs.
fn never_too_much(message: &[u8]) -> Result<(), TestCaseError> {
    let names = with(|config| config.families = NameFamilies::Both);
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut out = vec![];
        let answered = names.answer(message, transport, &mut allow, &mut out);
        prop_assert!(out.len() <= 512);
        prop_assert!(answered.name.to_string().chars().all(|c| c.is_ascii_graphic()));
        match answered.outcome {
            Outcome::Reply(_) => {
                prop_assert_eq!(&out[..2], &message[..2]);
                prop_assert_eq!(out[2] & 0x80, 0x80);
                read(message, &out);
                let rejected = [Rule::MalformedQuestion, Rule::AnsweredHere].contains(&answered.rule);
                prop_assert!(rejected || reply_matches(message, &out));
            }
            Outcome::Forward | Outcome::Drop => prop_assert!(out.is_empty()),
        }
    }
    prop_assert!(names.pool().len() <= 1);
    Ok(())
}

/// By hand, optimised: `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test --lib answers_per_second -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a property"]
fn answers_per_second() {
    let names = names();
    let queries: Vec<_> =
        (0..100_000).map(|n| with_opt(question(&format!("host-{n}.example.com"), A), 1232, 0, false)).collect();
    let mut out = vec![];
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
    };
    println!("before: {}", resident());
    for round in ["new names", "known names", "known names"] {
        let start = std::time::Instant::now();
        for query in &queries {
            names.answer(query, Transport::Udp, &mut allow, &mut out);
        }
        println!("{round}: {:.0}/s", queries.len() as f64 / start.elapsed().as_secs_f64());
    }
    println!("after: {}", resident());
    let pool = names.pool();
    let address = pool.assign(&host("host-1.example.com")).unwrap().v4.into();
    let start = std::time::Instant::now();
    for _ in 0..10_000_000 {
        std::hint::black_box(pool.name(std::hint::black_box(address)));
    }
    println!("address to name: {:?} each", start.elapsed() / 10_000_000);
}
