//! A real Tor network behind the jail: names and onions by name only, circuits apart, honest errnos.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

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

/// What a program is called, and its line that gets the page at `$1`.
const PROGRAMS: [(&str, &str); 5] = [
    ("curl", "curl -sS --max-time 50 $1"),
    ("python3", "python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=50).read())' $1"),
    ("node", "node -e 'require(\"http\").get(process.argv[1], r => r.pipe(process.stdout))' $1"),
    ("go", "./get $1"),
    ("java", "java -Xmx64m -XX:TieredStopAtLevel=1 Get.java $1"),
];

const GO: &str = r#"package main

import ("io"; "net/http"; "os")

func main() {
	r, err := http.Get(os.Args[1])
	if err != nil { panic(err) }
	io.Copy(os.Stdout, r.Body)
}
"#;

const JAVA: &str = "public class Get { public static void main(String[] a) throws Exception {
    System.out.print(new String(new java.net.URL(a[0]).openStream().readAllBytes()));
} }";

#[test]
fn one_connection_of_any_program_is_one_stream_on_one_circuit() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    for (program, line) in PROGRAMS {
        let Some(path) = lab::program(program) else {
            lab::skip(
                &format!("one_connection_of_any_program_is_one_stream_on_one_circuit({program})"),
                "not installed",
            );
            continue;
        };
        let web = Server::v4(Behaviour::Page("hello\n"));
        // So slow that who races both families would dial twice (RFC 8305 has 250 ms).
        let tap = Tap::new(tor.socks, Duration::from_secs(1));
        let jail = Jail::socks5(tap.addr, "isolate_streams: true, connect_timeout: 60s");
        if program == "go" {
            std::fs::write(jail.work().join("get.go"), GO).unwrap();
            let mut build = Command::new(path);
            build.args(["build", "-o", "get", "get.go"]).current_dir(jail.work()).env("CGO_ENABLED", "0");
            build.env("GO111MODULE", "off").env("GOCACHE", lab::real::cache().join("go")).env("HOME", jail.home());
            lab::Running::start(build).finish_within(Duration::from_secs(180)).good();
        }
        std::fs::write(jail.work().join("Get.java"), JAVA).unwrap();
        let mut watch = tor.watch();
        let url = format!("http://both.test:{}/", web.addr.port());
        let done = jail.run("app:proxy", &["sh", "-c", line, "sh", &url]).good();
        assert!(done.out.contains("hello"), "{program}: {done:?}");
        let (streams, circuits) = watch.streams(web.addr.port());
        assert_eq!((streams.len(), circuits.len()), (1, 1), "{program}: streams {streams:?}, circuits {circuits:?}");
        assert_eq!(web.record.all().len(), 1, "{program}");
    }
}

/// In front of tor: says how long tor took for its last word, from the moment the connection came.
struct Tap {
    addr: SocketAddr,
    took: Arc<Mutex<Vec<Duration>>>,
}

impl Tap {
    /// Every message of tor's but the first, which chooses the login, is held for `pause`: a slow circuit.
    fn new(tor: SocketAddr, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tap = Self { addr: listener.local_addr().unwrap(), took: Arc::default() };
        let took = Arc::clone(&tap.took);
        std::thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                let (took, begun) = (Arc::clone(&took), Instant::now());
                std::thread::spawn(move || pass_on(here, tor, pause, || took.lock().unwrap().push(begun.elapsed())));
            }
        });
        tap
    }
}

fn pass_on(mut here: TcpStream, tor: SocketAddr, pause: Duration, spoken: impl Fn()) {
    let mut there = TcpStream::connect(tor).unwrap();
    let (mut up, mut to) = (here.try_clone().unwrap(), there.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut buffer, mut greeted) = ([0; 4096], false);
    while let Ok(n @ 1..) = there.read(&mut buffer) {
        spoken();
        // Not a wait for a state: the pause is the property.
        std::thread::sleep(if greeted { pause } else { Duration::ZERO });
        greeted = true;
        let _ = here.write_all(&buffer[..n]);
    }
    let _ = here.shutdown(Shutdown::Both);
}

#[test]
fn an_errno_comes_within_100_ms_of_tors_own_reply() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tap = Tap::new(lab::tor::network().socks, Duration::ZERO);
    let jail = Jail::socks5(tap.addr, "connect_timeout: 60s");
    let refused = format!("web.test:{}", lab::servers::refusing().port());
    let malformed = format!("{}.onion:80", "a".repeat(56));
    for (target, errnos) in [
        ("nowhere.test:80", &["EHOSTUNREACH"][..]),
        (&refused, &["ECONNREFUSED"]),
        ("away.test:80", &["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"]),
        ("2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:80", &["EHOSTUNREACH"]),
        (&malformed, &["ECONNREFUSED", "EHOSTUNREACH"]),
    ] {
        // A busy machine may be late once; a wait of netjail's own would be there each time.
        let late = (0..5).find_map(|_| {
            tap.took.lock().unwrap().clear();
            let said = jail.probe(&["connect", target]).fact("failed");
            let words: Vec<&str> = said.split(' ').collect();
            assert!(errnos.contains(&words[0]), "{target}: {said}");
            let seen: u64 = words[3].parse().unwrap();
            let tors = *tap.took.lock().unwrap().last().expect("a reply of tor's");
            (Duration::from_millis(seen) < tors + Duration::from_millis(100)).then_some(())
        });
        assert!(late.is_some(), "{target}: five times more than 100 ms later than tor's reply");
    }
}

#[test]
fn where_tor_takes_its_time_the_time_out_is_netjails() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    // A full queue: the kernel drops what would begin another connection.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let addr = full.local_addr().unwrap();
    let _fill: Vec<_> =
        (0..4).map_while(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(300)).ok()).collect();
    let jail = Jail::socks5(lab::tor::network().socks, "connect_timeout: 2s");
    let log = jail.work().join("log");
    let jail = jail.with(&["--log", log.to_str().unwrap()]);
    let done = jail.probe(&["connect", &format!("web.test:{}", addr.port())]);
    assert!(done.fact("failed").starts_with("EHOSTUNREACH"), "{done:?}");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("\"close\":\"timed-out\""), "{log}");
}

#[test]
fn tor_killed_stopped_and_restarted_under_load_is_said_honestly_and_heals() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let mut tor = lab::tor::network().another_client("harmed");
    let (flood, web) = (Server::v4(Behaviour::Flood), Server::v4(Behaviour::Hold));
    let jail = Jail::socks5(tor.socks, "connect_timeout: 8s");
    let line = format!(
        "for i in 1 2 3 4; do (cat </dev/tcp/web.test/{} >/dev/null 2>&1; echo load-ended) & done\n\
         while read word; do {} connect web.test:{}; echo \"$word\"; done",
        flood.addr.port(),
        lab::tool("probe"),
        web.addr.port()
    );
    let mut running = jail.start("app:proxy", &["bash", "-c", &line]);
    flood.record.wait("four downloads", |all| all.len() == 4);
    let dial = |running: &mut lab::Running, word: &str| {
        running.say(&format!("{word}\n"));
        let out = running.until(&format!("{word}\n"));
        let lines: Vec<&str> = out.lines().filter(|line| *line != "load-ended").collect();
        lines[lines.len() - 2].to_owned()
    };
    assert!(dial(&mut running, "one").starts_with("connected"));

    tor.kill();
    await_ended(&running, 4);
    let said = dial(&mut running, "two");
    assert!(said.starts_with("failed ENETUNREACH"), "the way out itself is gone: {said}");

    tor.restart();
    let said = dial(&mut running, "three");
    assert!(said.starts_with("connected"), "the same jail dials again: {said}");

    tor.running.signal(Signal::SIGSTOP);
    let said = dial(&mut running, "four");
    assert!(said.starts_with("failed EHOSTUNREACH"), "it accepts and never answers: {said}");
    tor.running.signal(Signal::SIGCONT);
    let said = dial(&mut running, "five");
    assert!(said.starts_with("connected"), "{said}");
    running.finish().good();
}

/// Waits until so many downloads have ended.
fn await_ended(running: &lab::Running, n: usize) {
    lab::wait_for("the end of the downloads", Duration::from_secs(20), || {
        (running.out().matches("load-ended").count() == n).then_some(())
    });
}

#[test]
fn datagrams_are_refused_at_once_because_tor_has_none_and_it_is_asked_once() {
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    let jail = Jail::socks5(tor.socks, "").with(&["-v", "--log", "log"]);
    let probe = lab::tool("probe");
    let done = jail
        .shell("app:proxy", &format!("for i in 1 2 3; do {probe} udp web.test:443; {probe} udp 203.0.113.9:443; done"));
    let failed = done.facts("failed");
    assert!(failed.len() == 6 && failed.iter().all(|line| line.starts_with("EHOSTUNREACH")), "{done:?}");
    let slow = failed.iter().skip(1).filter(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(slow.count(), 0, "{done:?}");
    assert_eq!(done.err.matches("carries no datagrams").count(), 1, "{done:?}");
    let log = std::fs::read_to_string(jail.work().join("log")).unwrap();
    assert!(log.contains("\"close\":\"socks-command\""), "{log}");
}
