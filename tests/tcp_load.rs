//! Much and many: bulk verified byte for byte, stalled peers, a thousand connections, three thousand in sequence.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::os::unix::process::CommandExt;
use std::time::Duration;

use lab::host::{Host, PROXY, WEB};
use lab::real::At;
use lab::servers::Gate;
use lab::{Behaviour, Jail, MTUS, Proxy, Server, TARGETS};

#[test]
fn a_hundred_megabytes_both_ways_at_once_arrive_as_they_were_sent() {
    for (mtu, target) in [(MTUS[0], TARGETS[0]), (MTUS[1], TARGETS[0]), (MTUS[0], TARGETS[1]), (MTUS[1], TARGETS[1])] {
        let proxy = Proxy::serving(Behaviour::Bulk(100, 7));
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", mtu]);
        let done = jail.probe(&["bulk", target, "100", "7"]);
        assert_eq!((done.fact("down"), done.fact("up")), ("good".into(), "sent".into()), "{mtu} {target}: {done:?}");
        assert_eq!(proxy.record.end_of(0).end, "eof", "the server's comparison, MTU {mtu}");
    }
}

#[test]
fn bulk_passes_through_real_proxies() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("microsocks").is_some() && lab::program("danted").is_some(), "no microsocks or dante");
    let host = Host::new();
    let web = Server::on(host.listen("internet", &format!("{WEB}:80")), Behaviour::Bulk(20, 9));
    let first = lab::real::microsocks(At::Internet(&host, &format!("{PROXY}:1080")), None);
    let second = lab::real::microsocks(At::Internet(&host, &format!("{PROXY}:1081")), Some(("u", "p")));
    let third = lab::real::dante(At::Internet(&host, &format!("{PROXY}:1082")));
    for (at, (real, fields)) in [(&first, ""), (&second, "username: u, password: p"), (&third, "")].iter().enumerate() {
        let capture = host.capture();
        let jail = Jail::socks5(real.addr, fields).inside(&host);
        let done = jail.probe(&["bulk", &web.addr.to_string(), "20", "9"]);
        assert_eq!((done.fact("down"), done.fact("up")), ("good".into(), "sent".into()), "{done:?}");
        assert_eq!(web.record.end_of(at).end, "eof");
        capture.assert_only(real.addr);
    }
}

#[test]
fn a_stalled_server_holds_the_program_back_in_bounded_memory_and_loses_nothing() {
    for mtu in MTUS {
        let gate = Gate::default();
        let proxy = Proxy::serving(Behaviour::Stall(gate.clone()));
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", mtu]);
        let mut running = jail.start_probe(&["stall", TARGETS[0]]);
        let out = running.until("taken ");
        let taken = || -> usize {
            running.out().lines().find_map(|l| l.strip_prefix("taken ")).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        lab::wait_for("the count", Duration::from_secs(5), || (taken() > 0).then_some(()));
        // The kernel's own buffers on both sides are a few megabytes each; without back-pressure it would be a gigabyte.
        let taken = taken();
        assert!(taken < 64 << 20, "{out}: {taken} bytes were taken for a server that reads nothing");
        gate.open();
        running.say("go on\n");
        let done = running.finish().good();
        assert!(done.fact("got").ends_with(&format!("had {taken}")), "{done:?}");
    }
}

#[test]
fn a_stalled_program_holds_the_server_back() {
    let proxy = Proxy::serving(Behaviour::Flood);
    let jail = Jail::socks5(proxy.addr, "");
    let mut running = jail.start_probe(&["idle", TARGETS[0]]);
    running.until("idle");
    proxy.wait_asked(1);
    let relay = lab::child::role(running.pid(), "nj-relay");
    let before = rss(relay);
    // The server floods all this time: a state that must *not* come has no event to wait for.
    std::thread::sleep(Duration::from_secs(2));
    let after = rss(relay);
    assert!(after < before + (32 << 10), "the relay grew from {before} to {after} KB behind an idle program");
}

#[test]
fn a_thousand_connections_at_once_all_work() {
    lab::raise_descriptor_limit();
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::Echo);
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", mtu]);
        let done = jail.probe(&["many", TARGETS[0], "1000"]);
        assert_eq!(done.fact("echoed"), "1000", "{done:?}");
        assert!(done.fact("open").starts_with("1000 "), "{done:?}");
    }
}

#[test]
fn one_connection_works_with_several_workers() {
    for workers in ["1", "2", "4"] {
        let proxy = Proxy::serving(Behaviour::Echo);
        let jail = Jail::socks5(proxy.addr, "").with(&["--workers", workers]);
        assert_eq!(jail.probe(&["echo", TARGETS[2], "hello"]).fact("got"), "5 hello");
    }
}

#[test]
fn a_thousand_connections_work_with_several_workers() {
    lab::raise_descriptor_limit();
    for workers in ["2", "4"] {
        let proxy = Proxy::serving(Behaviour::Echo);
        let jail = Jail::socks5(proxy.addr, "").with(&["--workers", workers]);
        let done = jail.probe(&["many", TARGETS[0], "1000"]);
        assert_eq!(done.fact("echoed"), "1000", "{workers} workers: {done:?}");
    }
}

#[test]
fn every_start_with_several_workers_succeeds() {
    let jail = Jail::socks5("127.0.0.1:9".parse().unwrap(), "").with(&["--workers", "4"]);
    for _ in 0..20 {
        assert_eq!(jail.run("app:proxy", &["true"]).good().err, "");
    }
}

#[test]
fn three_thousand_connections_in_sequence_leave_no_descriptor_behind() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::socks5(proxy.addr, "");
    let probe = lab::tool("probe");
    let line = format!("read x; {probe} sequence {t} 3000", t = TARGETS[0]);
    let mut command = jail.run_command("app:proxy", &["sh", "-c", &line]);
    // netjail's processes are not dumpable, so only root may count their descriptors: for an ordinary user the limit does.
    // SAFETY: setrlimit is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            use nix::sys::resource::{Resource, setrlimit};
            Ok(setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024)?)
        });
    }
    let mut running = lab::Running::start(command);
    let roles = || -> Vec<(i32, String)> {
        lab::child::tree(running.pid()).into_iter().filter(|(_, comm)| comm.starts_with("nj-")).collect()
    };
    lab::wait_for("the relay", Duration::from_secs(10), || roles().iter().any(|(_, c)| c == "nj-relay").then_some(()));
    let count = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(|d| d.count()).ok();
    let before: Vec<_> = roles().into_iter().map(|(pid, comm)| (pid, comm, count(pid))).collect();
    running.say("go\n");
    running.until("good 3000");
    for (pid, comm, before) in before {
        if let Some(before) = before {
            lab::wait_for(&format!("{comm} to close what it opened"), Duration::from_secs(10), || {
                (count(pid)? <= before + 8).then_some(())
            });
        }
    }
    running.say("done\n");
    running.finish().good();
}

/// Resident memory in KB.
fn rss(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
