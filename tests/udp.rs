//! Datagrams: carried from the host itself (direct) or through a proxy's relay, each as it was, from and to whom it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};

use lab::Jail;
use lab::host::{Host, PROXY, WEB, WEB6};

/// Every datagram that came: from whom, and its length.
type Seen = Arc<Mutex<Vec<(SocketAddr, usize)>>>;

/// Answers each datagram with what `answer` makes of it and of whom it is from.
fn serve(socket: UdpSocket, answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static) -> Seen {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            kept.lock().unwrap().push((from, n));
            let _ = socket.send_to(&answer(from, &buffer[..n]), from);
        }
    });
    seen
}

fn echo(_: SocketAddr, data: &[u8]) -> Vec<u8> {
    data.to_vec()
}

fn who(from: SocketAddr, _: &[u8]) -> Vec<u8> {
    format!("you are {from}").into_bytes()
}

#[test]
fn datagrams_of_every_size_go_there_and_back_in_both_families() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    serve(host.datagrams("internet", &format!("{WEB}:4000")), echo);
    serve(host.datagrams("internet", &format!("[{WEB6}]:4000")), echo);
    for mtu in lab::MTUS {
        let jail = Jail::new().inside(&host).with(&["--mtu", mtu]);
        let sizes = ["0", "1", "1200", "1472", "1473", "9000", "32768", "65507"];
        for target in [format!("{WEB}:4000"), format!("[{WEB6}]:4000")] {
            let mut words = vec!["udp", "echo", target.as_str()];
            words.extend(sizes);
            if target.starts_with('[') {
                words.push("65527");
            }
            let done = jail.probe_on("nil", &words).good();
            assert_eq!(done.facts("echoed"), words[3..], "MTU {mtu}: {done:?}");
        }
    }
}

#[test]
fn one_socket_is_one_outside_port_whomever_it_is_for_and_with_any_number_of_workers() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let mut targets = Vec::new();
    for port in 4000..4016 {
        serve(host.datagrams("internet", &format!("{WEB}:{port}")), who);
        targets.push(format!("{WEB}:{port}"));
    }
    for workers in ["1", "2"] {
        let jail = Jail::new().inside(&host).with(&["--workers", workers]);
        let mut words = vec!["udp", "many"];
        words.extend(targets.iter().map(String::as_str));
        let done = jail.probe_on("nil", &words).good();
        let lines = done.facts("from");
        assert_eq!(lines.len(), 16, "{workers} workers: {done:?}");
        let mut outside: Vec<&str> = Vec::new();
        for (line, target) in lines.iter().zip(&targets) {
            let (from, said) = line.split_once(" said you are ").unwrap();
            assert_eq!(from, format!("{target} asked {target}"), "the answer is from whom was asked");
            outside.push(said);
        }
        assert!(outside[0].starts_with("192.0.2.2:"), "{outside:?}");
        outside.dedup();
        assert_eq!(outside.len(), 1, "{workers} workers: {outside:?}");
    }
}

/// A SOCKS5 proxy that can be told to misbehave: what it answers to UDP ASSOCIATE, and what its relay sends back.
struct Scripted {
    addr: SocketAddr,
    /// The user name of each association.
    users: Arc<Mutex<Vec<String>>>,
    /// Their connections, to be dropped.
    held: Arc<Mutex<Vec<TcpStream>>>,
    /// What came to the relay.
    seen: Seen,
}

impl Scripted {
    /// `bound`: what the reply says, of a relay at this port. `answer`: what the relay sends for a datagram.
    fn new(
        bound: impl Fn(u16) -> SocketAddr + Send + 'static,
        answer: impl Fn(&UdpSocket, SocketAddr, &[u8]) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            addr: listener.local_addr().unwrap(),
            users: Arc::default(),
            held: Arc::default(),
            seen: Seen::default(),
        };
        let (users, held, seen) = (Arc::clone(&proxy.users), Arc::clone(&proxy.held), Arc::clone(&proxy.seen));
        let bound = bound(relay.local_addr().unwrap().port());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let user = greet(&mut stream, bound);
                users.lock().unwrap().push(user);
                held.lock().unwrap().push(stream);
            }
        });
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while let Ok((n, from)) = relay.recv_from(&mut buffer) {
                seen.lock().unwrap().push((from, n));
                answer(&relay, from, &buffer[..n]);
            }
        });
        proxy
    }
}

/// The proxy's side of RFC 1928 and RFC 1929, as far as a good client needs it; returns the user name.
fn greet(stream: &mut TcpStream, bound: SocketAddr) -> String {
    let mut take = |n: usize| {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    };
    let count = usize::from(take(2)[1]);
    let login = take(count).contains(&2);
    stream.write_all(&[5, if login { 2 } else { 0 }]).unwrap();
    let mut user = String::new();
    if login {
        let mut take = |n: usize| {
            let mut bytes = vec![0; n];
            stream.read_exact(&mut bytes).unwrap();
            bytes
        };
        let length = usize::from(take(2)[1]);
        user = String::from_utf8(take(length)).unwrap();
        let length = usize::from(take(1)[0]);
        take(length);
        stream.write_all(&[1, 0]).unwrap();
    }
    let mut request = [0; 10];
    stream.read_exact(&mut request).unwrap();
    assert_eq!(request, [5, 3, 0, 1, 0, 0, 0, 0, 0, 0], "UDP ASSOCIATE from an unknown address");
    let mut reply = vec![5, 0, 0];
    match bound.ip() {
        IpAddr::V4(ip) => reply.extend([&[1][..], &ip.octets()].concat()),
        IpAddr::V6(ip) => reply.extend([&[4][..], &ip.octets()].concat()),
    }
    reply.extend(bound.port().to_be_bytes());
    stream.write_all(&reply).unwrap();
    user
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Sends each datagram back as it came, header and all.
fn mirror(relay: &UdpSocket, from: SocketAddr, datagram: &[u8]) {
    relay.send_to(datagram, from).unwrap();
}

#[test]
fn a_real_proxy_carries_datagrams_by_address_and_by_name() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("danted").is_some(), "no danted");
    let host = Host::new();
    let hosts = format!("{WEB} web.test other.test\n");
    let dante = lab::real::dante_knowing(&host, &format!("{PROXY}:1080"), &hosts);
    let seen = serve(host.datagrams("internet", &format!("{WEB}:4000")), echo);
    serve(host.datagrams("internet", &format!("{WEB}:4001")), who);
    serve(host.datagrams("internet", &format!("{WEB}:4002")), who);
    let jail = Jail::socks5(dante.addr, "").inside(&host);
    let capture = host.capture();
    for target in [format!("{WEB}:4000"), "web.test:4000".to_owned()] {
        let words = ["udp", "echo", &target, "0", "1", "1200", "1452", "9000", "32768"];
        let done = jail.probe(&words).good();
        assert_eq!(done.facts("echoed"), words[3..], "{done:?} {}", dante.running.err());
    }
    assert!(seen.lock().unwrap().iter().all(|(from, _)| from.ip().to_string() == PROXY));
    // One socket: what is asked by name answers by the name's address, and each address by itself.
    let done = jail.probe(&[
        "udp",
        "many",
        &format!("{WEB}:4001"),
        "web.test:4001",
        "other.test:4002",
        &format!("{WEB}:4002"),
    ]);
    let lines = done.facts("from");
    assert_eq!(lines.len(), 4, "{done:?}");
    let mut outside = Vec::new();
    for line in &lines {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], words[2], "{line}");
        outside.push(words[6]);
    }
    assert_eq!(outside[0], outside[3], "one outside port for all addresses: {outside:?}");
    // Nothing but the proxy was spoken to.
    let stray: Vec<_> = capture
        .packets()
        .into_iter()
        .filter(|p| {
            let proxy = |addr: &SocketAddr| addr.ip().to_string() == PROXY;
            !(proxy(&p.from) || proxy(&p.to))
        })
        .collect();
    assert!(stray.is_empty(), "{stray:#?}");
}

#[test]
fn a_proxy_that_refuses_is_asked_once_and_its_reason_is_said_once() {
    require!(lab::program("microsocks").is_some(), "no microsocks");
    let proxy = lab::real::microsocks(lab::real::At::Loopback, None);
    let jail = Jail::socks5(proxy.addr, "").with(&["-v", "--log", "log"]);
    let probe = lab::tool("probe");
    let line = format!("for i in 1 2 3; do {probe} udp 203.0.113.9:443; {probe} udp some.test:443; done");
    let done = jail.shell("app:proxy", &line);
    let failed = done.facts("failed");
    assert_eq!(failed.len(), 6, "{done:?}");
    assert!(failed.iter().all(|line| line.starts_with("EHOSTUNREACH")), "{done:?}");
    assert_eq!(done.err.matches("carries no datagrams").count(), 1, "{done:?}");
    assert!(done.err.contains("0x07"), "with the reason: {done:?}");
    let log = std::fs::read_to_string(jail.work().join("log")).unwrap();
    assert!(log.contains("\"close\":\"socks-command\""), "{log}");
}

#[test]
fn an_association_that_the_proxy_ends_is_made_again_with_credentials_of_its_own() {
    let proxy = Scripted::new(loopback, mirror);
    let jail = Jail::socks5(proxy.addr, "isolate_streams: true");
    let mut running = jail.start_probe(&["udp", "talk", "203.0.113.9:443"]);
    running.say("one\n");
    running.until("heard one");
    let held = proxy.held.lock().unwrap().pop().unwrap();
    drop(held);
    // Until the end is seen, and a second after the last beginning, a datagram may be refused: the next one goes.
    let mut sent = 0;
    lab::wait_for("a second association", std::time::Duration::from_secs(20), || {
        sent += 1;
        running.say("again\n");
        lab::wait_for("an answer", std::time::Duration::from_secs(20), || {
            let lines = running.out();
            (lines.matches("heard").count() + lines.matches("failed").count() > sent).then_some(())
        });
        (proxy.users.lock().unwrap().len() == 2).then_some(())
    });
    running.say("two\n");
    running.until("heard two");
    running.say("end\n");
    running.finish().good();
    let users = proxy.users.lock().unwrap().clone();
    assert!(users.len() == 2 && users[0] != users[1] && users.iter().all(|user| user.len() == 32), "{users:?}");
}

#[test]
fn a_proxy_that_sends_datagrams_to_somebody_else_is_refused() {
    let victim = UdpSocket::bind("127.0.0.1:0").unwrap();
    victim.set_nonblocking(true).unwrap();
    let port = victim.local_addr().unwrap().port();
    let elsewhere = [
        SocketAddr::from(([127, 0, 0, 2], port)),
        "127.0.0.1:53".parse().unwrap(),
        "169.254.169.254:80".parse().unwrap(),
        format!("[::1]:{port}").parse().unwrap(),
    ];
    for bound in elsewhere {
        let proxy = Scripted::new(move |_| bound, mirror);
        let jail = Jail::socks5(proxy.addr, "").with(&["--log", "log"]);
        let done = jail.probe(&["udp", "203.0.113.9:443"]);
        assert!(done.fact("failed").starts_with("ENETUNREACH"), "{bound}: {done:?}");
        let log = std::fs::read_to_string(jail.work().join("log")).unwrap();
        assert!(log.contains("\"close\":\"relay-elsewhere\""), "{log}");
    }
    assert!(victim.recv(&mut [0; 9]).is_err(), "a datagram went to somebody who is no proxy");
    // No address is the proxy's own.
    let proxy = Scripted::new(|port| SocketAddr::from(([0, 0, 0, 0], port)), mirror);
    let done = Jail::socks5(proxy.addr, "").probe(&["udp", "203.0.113.9:443"]);
    assert_eq!(done.fact("got"), "ping", "{done:?}");
}

#[test]
fn what_a_hostile_relay_sends_is_dropped_and_the_good_answer_arrives() {
    let proxy = Scripted::new(loopback, |relay, from, datagram| {
        let header = &datagram[..10];
        let send = |parts: &[&[u8]]| assert!(relay.send_to(&parts.concat(), from).is_ok());
        send(&[b""]);
        (1..10).for_each(|cut| send(&[&header[..cut]]));
        send(&[&[0, 0, 1], &header[3..], b"a fragment"]);
        send(&[&[0, 0, 0, 9], &header[4..], b"an unknown kind"]);
        send(&[&[0, 0, 0, 3, 200, b'x'], b"a name that is cut"]);
        send(&[&[0, 0, 0, 3, 9], b"evil.test", &[1, 187], b"a name nobody asked for"]);
        send(&[&[0, 0, 0, 1, 198, 18, 0, 1, 0, 53], b"the jail's own resolver"]);
        send(&[&[0, 0, 0, 1, 198, 18, 7, 7, 1, 187], b"an address of the pool"]);
        send(&[&[0, 0, 0, 1, 224, 0, 0, 1, 1, 187], b"a group"]);
        // Somebody else, with the right header: the kernel drops it.
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&[header, b"not the relay"].concat(), from).unwrap();
        send(&[header, b"good"]);
    });
    let jail = Jail::socks5(proxy.addr, "");
    let done = jail.probe(&["udp", "wait", "203.0.113.9:443", "1"]);
    assert_eq!(done.facts("from"), ["203.0.113.9:443 said good"], "{done:?}");
}

/// Addresses that are refused whatever is allowed.
const NEVER: &[&str] = &[
    "192.0.2.2:4000",
    "10.20.0.2:4000",
    "[2001:db8:1::2]:4000",
    "[fd20::2]:4000",
    "169.254.169.254:4000",
    "169.254.7.7:4000",
    "192.0.2.255:4000",
    "198.18.0.1:4000",
];

/// Servers that are refused unless `--allow-lan` is given.
const NEARBY: &[&str] = &["10.20.0.1:4000", "192.0.2.1:4000", "172.16.9.9:4000", "[fd20::1]:4000", "[fd99::9]:4000"];

#[test]
fn no_datagram_of_a_direct_jail_reaches_the_host_or_its_neighbours() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let victims = [serve(host.datagrams("host", "[::]:4000"), who)];
    let _metadata = serve(host.datagrams("internet", "169.254.169.254:4000"), who);
    let near: Vec<Seen> = NEARBY.iter().map(|addr| serve(host.datagrams("internet", addr), who)).collect();
    let probe = lab::tool("probe");
    for extra in [&[][..], &["--allow-lan"]] {
        let jail = Jail::new().inside(&host).with(extra).with(&["--log", "log"]);
        let refused = |target: &str| {
            let done = jail.probe_on("nil", &["udp", target]);
            let expected = if target.starts_with('[') { "EACCES" } else { "ENETUNREACH" };
            assert!(done.fact("failed").starts_with(expected), "{target} {extra:?}: {done:?}");
        };
        NEVER.iter().for_each(|target| refused(target));
        for target in NEARBY {
            if extra.is_empty() {
                refused(target);
            } else {
                let done = jail.probe_on("nil", &["udp", target]);
                assert!(done.fact("got").starts_with("you are"), "{target}: {done:?}");
            }
        }
        // Without a socket that asks: still nothing leaves, and a refusal is in the log once.
        let line = format!("for i in 1 2 3; do {probe} udp flood 192.0.2.2:4000 20; done");
        jail.shell("nil", &line).good();
        let log = std::fs::read_to_string(jail.work().join("log")).unwrap();
        assert!(log.contains("\"rule\":\"host-address\"") && log.contains("\"rule\":\"metadata\""), "{log}");
    }
    assert!(victims.iter().all(|seen| seen.lock().unwrap().is_empty()), "a datagram reached the host");
    assert!(near.iter().all(|seen| seen.lock().unwrap().len() == 1), "{near:?}");
}

#[test]
fn anybody_may_answer_but_the_host_and_its_neighbours() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let asked = host.datagrams("internet", &format!("{WEB}:4000"));
    let stranger = host.datagrams("internet", &format!("{PROXY}:4001"));
    let forbidden = [
        host.datagrams("host", "127.0.0.1:0"),
        host.datagrams("host", "192.0.2.2:0"),
        host.datagrams("internet", "10.20.0.1:0"),
        host.datagrams("internet", "192.0.2.1:0"),
    ];
    let jail = Jail::new().inside(&host).with(&["--log", "log"]);
    let mut running = jail.start("nil", &[&lab::tool("probe"), "udp", "wait", &format!("{WEB}:4000"), "2"]);
    let (n, outside) = asked.recv_from(&mut [0; 100]).unwrap();
    assert_eq!(n, 4);
    for socket in &forbidden {
        // The host's own sockets know the port from /proc, a neighbour from his cable.
        for ip in ["127.0.0.1", "192.0.2.2"] {
            let to = SocketAddr::new(ip.parse().unwrap(), outside.port());
            let _ = socket.send_to(b"forbidden", to);
        }
    }
    stranger.send_to(b"from afar", outside).unwrap();
    running.until("from afar");
    asked.send_to(b"answer", outside).unwrap();
    let done = running.finish().good();
    let expected = [format!("{PROXY}:4001 said from afar"), format!("{WEB}:4000 said answer")];
    assert_eq!(done.facts("from"), expected, "{done:?}");
    let log = std::fs::read_to_string(jail.work().join("log")).unwrap();
    let records: Vec<&str> = log.lines().filter(|line| line.contains("\"protocol\":\"udp\"")).collect();
    let count = |of: &str| records.iter().filter(|line| line.contains(of)).count();
    let conversation = format!("\"address\":\"{WEB}\",\"port\":4000,\"network\":\"netjail:direct\"");
    assert_eq!((records.len(), count(&conversation)), (2, 1), "{log}");
    assert_eq!(count("\"bytes_out\":4,\"bytes_in\":6,\"datagrams_out\":1,\"datagrams_in\":1"), 1, "{log}");
    assert_eq!(count("\"bytes_out\":0,\"bytes_in\":9,\"datagrams_out\":0,\"datagrams_in\":1"), 1, "{log}");
    assert_eq!(count("\"close\":\"jail-ended\""), 2, "{log}");
}

#[test]
fn a_port_where_nobody_listens_is_refused_as_without_a_jail() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let jail = Jail::new().inside(&host);
    for target in [format!("{WEB}:4009"), format!("[{WEB6}]:4009")] {
        let done = jail.probe_on("nil", &["udp", &target]);
        assert!(done.fact("failed").starts_with("ECONNREFUSED"), "{target}: {done:?}");
    }
}

#[test]
fn what_is_larger_than_a_relay_carries_is_said_and_not_cut() {
    let proxy = Scripted::new(loopback, mirror);
    let jail = Jail::socks5(proxy.addr, "");
    // 65,507 bytes less the header of ten.
    let done = jail.probe(&["udp", "echo", "203.0.113.9:443", "65497", "65498", "100"]);
    assert_eq!(done.facts("echoed"), ["65497", "100"], "{done:?}");
    assert_eq!(done.facts("failed"), ["65498 EMSGSIZE"], "{done:?}");
    assert!(proxy.seen.lock().unwrap().iter().all(|(_, n)| [65_507, 110].contains(n)));
}

#[test]
fn super_datagrams_pass_both_ways_and_are_cut_where_they_must() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    // The server sees datagrams of the size that was said, and answers with super-datagrams.
    let server = host.datagrams("internet", &format!("{WEB}:4000"));
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let kept = Arc::clone(&sizes);
    std::thread::spawn(move || {
        use nix::sys::socket::{setsockopt, sockopt};
        setsockopt(&server, sockopt::RcvBuf, &(4 << 20)).unwrap();
        setsockopt(&server, sockopt::UdpGsoSegment, &1200).unwrap();
        let (mut buffer, mut all) = (vec![0; 70_000], Vec::new());
        while let Ok((n, from)) = server.recv_from(&mut buffer) {
            kept.lock().unwrap().push(n);
            all.extend_from_slice(&buffer[..n]);
            if all.len() == 48_000 {
                server.send_to(&all, from).unwrap();
                all.clear();
            }
        }
    });
    for workers in ["1", "2"] {
        let jail = Jail::new().inside(&host).with(&["--workers", workers]);
        let done = jail.probe_on("nil", &["udp", "segments", &format!("{WEB}:4000"), "1200", "40"]);
        let whole = done.fact("whole");
        assert!(whole.starts_with("true largest "), "{done:?}");
        let largest: usize = whole.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(largest > 1200, "one call brings many: {done:?}");
    }
    assert!(sizes.lock().unwrap().iter().all(|n| *n == 1200), "{:?}", sizes.lock().unwrap());
    // A proxy's relay knows no super-datagrams: each has its own header.
    let proxy = Scripted::new(loopback, mirror);
    let done = Jail::socks5(proxy.addr, "").probe(&["udp", "segments", "203.0.113.9:443", "1200", "40"]);
    assert!(done.fact("whole").starts_with("true"), "{done:?}");
    assert!(proxy.seen.lock().unwrap().iter().all(|(_, n)| *n == 1210));
}

#[test]
fn datagrams_in_bursts_stay_what_they_were_in_order_and_whoever_receives_them() {
    let proxy = Scripted::new(loopback, mirror);
    let jail = Jail::socks5(proxy.addr, "").with(&["--log", "log"]);
    // Runs of one size, a shorter one behind them, and sizes that change with every datagram.
    let sizes =
        ["64", "64", "64", "64", "9", "1200", "1200", "1200", "700", "64", "1201", "64", "1201", "8", "64", "64"];
    for target in ["203.0.113.9:443", "[2001:db8::9]:443", "some.test:443"] {
        for how in ["connected", "loose", "whole"] {
            let done = jail.probe(&[&["udp", "bursts", how, target, "64"], &sizes[..]].concat()).good();
            assert_eq!(done.fact("returned"), "1024 true", "{target} {how}: {done:?}");
            let largest: usize = done.fact("largest").parse().unwrap();
            assert!(how == "whole" || largest == 1201, "{done:?}");
        }
    }
    let log = std::fs::read_to_string(jail.work().join("log")).unwrap();
    let each: usize = sizes.iter().map(|size| size.parse::<usize>().unwrap()).sum();
    let counts = format!("\"bytes_out\":{0},\"bytes_in\":{0},\"datagrams_out\":1024,\"datagrams_in\":1024", each * 64);
    assert_eq!(log.matches(&counts).count(), 9, "{log}");
}

#[test]
fn a_datagram_that_is_too_large_takes_none_of_its_burst_with_it() {
    let proxy = Scripted::new(loopback, mirror);
    let jail = Jail::socks5(proxy.addr, "");
    let done =
        jail.probe(&["udp", "bursts", "connected", "203.0.113.9:443", "20", "99", "99", "99", "65500", "99", "99"]);
    assert_eq!(done.fact("returned"), "100 true", "{done:?}");
    assert_eq!(done.facts("failed"), ["EMSGSIZE"; 20], "{done:?}");
}

/// A QUIC server in the lab's internet, and the folder of its certificates.
fn quic_server(host: &Host) -> (lab::Running, tempfile::TempDir) {
    // The client reads its authority's certificate in a jail.
    let folder = tempfile::tempdir_in(lab::real::cache()).unwrap();
    lab::real::certificate(folder.path(), WEB);
    let mut command = host.in_internet(&lab::tool("quic"));
    command.args(["serve", &format!("{WEB}:4433"), "cert.pem", "key.pem"]).current_dir(folder.path());
    let mut server = lab::Running::start(command);
    server.until("serving");
    (server, folder)
}

fn quic_lack() -> Option<&'static str> {
    if lab::program("openssl").is_none() { Some("no openssl") } else { None }
}

fn quic_client(folder: &tempfile::TempDir, mib: &str) -> Vec<String> {
    let ca = folder.path().join("ca.pem").display().to_string();
    [lab::tool("quic").as_str(), "get", &format!("{WEB}:4433"), "whoami.test", &ca, mib].map(str::to_owned).to_vec()
}

fn moved(out: &str) -> usize {
    out.matches("moved 10 MiB both ways").count()
}

#[test]
fn quic_moves_ten_megabytes_with_super_datagrams_and_again_after_a_minute_of_idleness() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(quic_lack().is_none(), "{}", quic_lack().unwrap());
    let host = Host::new();
    let (_server, folder) = quic_server(&host);
    let client = quic_client(&folder, "10");
    let words: Vec<&str> = client.iter().map(String::as_str).collect();
    let jail = Jail::new().inside(&host);
    let mut running = jail.start("nil", &words);
    let out = running.until("calls\n");
    assert_eq!(moved(&out), 1, "{out}");
    // GSO was on in the client: fewer system calls than datagrams.
    let line = out.lines().find(|line| line.starts_with("moved")).unwrap();
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[1] > 2 * numbers[2], "{line}");
    // The idleness is the property: nothing can be awaited.
    std::thread::sleep(std::time::Duration::from_secs(61));
    running.say("again\n");
    lab::wait_for("the second exchange", std::time::Duration::from_secs(60), || {
        assert!(!running.out().contains("failed"), "{}", running.out());
        (moved(&running.out()) == 2).then_some(())
    });
    running.hush();
    running.finish().good();
}

#[test]
fn quic_moves_ten_megabytes_through_a_proxy_and_on_two_workers() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(quic_lack().is_none(), "{}", quic_lack().unwrap());
    require!(lab::program("danted").is_some(), "no danted");
    let host = Host::new();
    let (_server, folder) = quic_server(&host);
    let dante = lab::real::dante_knowing(&host, &format!("{PROXY}:1080"), "");
    let client = quic_client(&folder, "10");
    let words: Vec<&str> = client.iter().map(String::as_str).collect();
    for (network, workers) in [("nil", "2"), ("app:proxy", "1"), ("app:proxy", "2")] {
        let jail = Jail::socks5(dante.addr, "").inside(&host).with(&["--workers", workers]);
        let mut running = jail.start(network, &words);
        running.hush();
        let done = running.finish_within(std::time::Duration::from_secs(120));
        assert_eq!(moved(&done.out), 1, "{network} {workers}: {done:?}");
    }
}
