//! Whatever dies, the jail closes: no survivors, no network, never a packet past the proxy.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::time::{Duration, Instant};

use lab::child::{all_gone, tree};
use lab::host::{Host, PROXY, WEB};
use lab::proxy::Manner;
use lab::real::At;
use lab::{Answer, Behaviour, Jail, Proxy, Running, Server, TARGETS};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// By the names they give themselves; the front keeps its own, since that is what `ps` shows in the shell's session.
const ROLES: [&str; 5] = ["netjail", "nj-warden", "nj-relay", "nj-init", "nj-mediator"];

fn slay(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The roles of a running jail, all five.
fn roles(running: &Running) -> Vec<(i32, String)> {
    lab::wait_for("the five roles", Duration::from_secs(10), || {
        let found = tree(running.pid());
        ROLES.iter().all(|role| found.iter().any(|(_, comm)| comm == role)).then_some(found)
    })
}

#[test]
fn the_death_of_any_role_leaves_no_survivor_and_no_network() {
    for role in ROLES {
        let proxy = Proxy::serving(Behaviour::Hold);
        let jail = Jail::socks5(proxy.addr, "");
        let line = format!(
            "trap '' TERM HUP; {p} idle {t} <&0 & echo up; wait; exec sleep 987",
            p = lab::tool("probe"),
            t = TARGETS[0]
        );
        let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
        running.until("up");
        proxy.wait_asked(1);
        let all = roles(&running);
        let victim = all.iter().find(|(_, comm)| comm == role).unwrap().0;
        slay(victim);
        all_gone(&format!("the jail whose {role} was killed"), &all);
        proxy.record.end_of(0);
        let done = running.finish();
        assert_ne!(done.code(), 0, "{role}: {done:?}");
    }
}

#[test]
fn a_mediators_worker_that_dies_is_replaced_and_the_jail_goes_on() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::socks5(proxy.addr, "");
    // There is a worker from the first connect on.
    let line = format!(
        "{p} echo {t} first; echo up; read x; {p} echo {t} back; echo done",
        p = lab::tool("probe"),
        t = TARGETS[0]
    );
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    running.until("up");
    let worker = |not: i32| {
        lab::wait_for("a worker of the mediator", Duration::from_secs(10), || {
            tree(running.pid()).iter().find(|(pid, comm)| comm == "nj-connect" && *pid != not).map(|(pid, _)| *pid)
        })
    };
    let first = worker(0);
    slay(first);
    worker(first);
    running.say("go\n");
    running.until("back");
    running.until("done");
}

#[test]
fn a_role_killed_at_any_moment_of_the_start_leaves_no_survivor() {
    let proxy = Proxy::serving(Behaviour::Hold);
    let jail = Jail::socks5(proxy.addr, "");
    for role in ROLES {
        for delay in 0..12 {
            let running = jail.start("app:proxy", &["sleep", "987"]);
            let begun = Instant::now();
            // The moments are spread over a start that takes some ten milliseconds.
            while begun.elapsed() < Duration::from_millis(delay * 2) {
                std::hint::spin_loop();
            }
            let Some(victim) = lab::wait_for("the role, or the end", Duration::from_secs(10), || {
                let found = tree(running.pid());
                let role = found.iter().find(|(_, comm)| comm == role).map(|(pid, _)| *pid);
                (role.is_some() || found.is_empty()).then_some(role)
            }) else {
                continue;
            };
            slay(victim);
            let all = tree(running.pid());
            all_gone(&format!("{role} killed {delay}"), &all);
        }
    }
}

#[test]
fn a_killed_proxy_is_an_error_at_once_and_a_new_one_is_used_by_the_next_dial() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("microsocks").is_some(), "no microsocks");
    let host = Host::new();
    let web = Server::on(host.listen("internet", &format!("{WEB}:80")), Behaviour::Flood);
    let _echo = Server::on(host.listen("internet", &format!("{WEB}:7")), Behaviour::Echo);
    let at = format!("{PROXY}:1080");
    let proxy = lab::real::microsocks(At::Internet(&host, &at), None);
    let addr = proxy.addr;
    let jail = Jail::socks5(addr, "").inside(&host);
    let capture = host.capture();
    let probe = lab::tool("probe");
    let line = format!(
        "{probe} read {WEB}:80; echo first; read x; {probe} connect {WEB}:7; echo second; read x; {probe} echo {WEB}:7 back"
    );
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    web.record.wait("the transfer", |all| !all.is_empty());
    let killed = Instant::now();
    drop(proxy);
    running.until("first");
    assert!(killed.elapsed() < Duration::from_secs(5), "a live stream ends with its proxy");
    running.say("on\n");
    let out = running.until("second");
    assert!(out.contains("failed ENETUNREACH"), "{out}");
    let _proxy = lab::real::microsocks(At::Internet(&host, &at), None);
    running.say("on\n");
    let done = running.finish().good();
    assert_eq!(done.facts("got").last().unwrap(), "4 back", "{done:?}");
    capture.assert_only(addr);
}

#[test]
fn a_stopped_proxy_is_a_time_out_and_works_again_when_continued() {
    require!(lab::program("microsocks").is_some(), "no microsocks");
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let _echo = Server::on(host.listen("internet", &format!("{WEB}:7")), Behaviour::Echo);
    let proxy = lab::real::microsocks(At::Internet(&host, &format!("{PROXY}:1080")), None);
    let jail = Jail::socks5(proxy.addr, "connect_timeout: 1s").inside(&host);
    let capture = host.capture();
    proxy.running.signal(Signal::SIGSTOP);
    let done = jail.probe(&["connect", &format!("{WEB}:7")]);
    assert!(done.fact("failed").starts_with("EHOSTUNREACH"), "{done:?}");
    proxy.running.signal(Signal::SIGCONT);
    assert_eq!(jail.probe(&["echo", &format!("{WEB}:7"), "back"]).fact("got"), "4 back");
    capture.assert_only(proxy.addr);
}

#[test]
fn nothing_is_dialled_in_place_of_a_proxy_that_is_down() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let web = Server::on(host.listen("internet", &format!("{WEB}:80")), Behaviour::WhoAmI);
    let addr = format!("{PROXY}:1080").parse().unwrap();
    let jail = Jail::socks5(addr, "").inside(&host);
    let capture = host.capture();
    for target in [format!("{WEB}:80"), "hostsfile.lab:80".into(), "10.20.0.1:80".into(), "[2001:db8:9::80]:80".into()]
    {
        let done = jail.probe(&["connect", &target]);
        assert!(done.fact("failed").starts_with("ENETUNREACH"), "{target}: {done:?}");
    }
    assert!(web.record.all().is_empty());
    capture.assert_only(addr);
}

#[test]
fn a_proxy_that_resets_in_the_middle_is_a_reset() {
    let proxy = Proxy::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), Manner::default(), |_| {
        Answer::Serve(Behaviour::ResetAfterData)
    });
    let done = Jail::socks5(proxy.addr, "").probe(&["echo", TARGETS[0], "hello"]);
    assert_eq!(done.fact("end"), "ECONNRESET");
}

#[test]
fn a_netjail_that_is_stopped_and_continued_loses_nothing() {
    let proxy = Proxy::serving(Behaviour::Bulk(30, 3));
    let jail = Jail::socks5(proxy.addr, "");
    let running = jail.start_probe(&["bulk", TARGETS[0], "30", "3"]);
    proxy.wait_asked(1);
    running.signal(Signal::SIGTSTP);
    running.signal(Signal::SIGCONT);
    let done = running.finish().good();
    assert_eq!((done.fact("down"), done.fact("up")), ("good".into(), "sent".into()), "{done:?}");
}

#[test]
fn ten_jails_killed_at_once_leave_nothing() {
    let proxy = Proxy::serving(Behaviour::Hold);
    let jail = Jail::socks5(proxy.addr, "");
    let all: Vec<Running> = (0..10).map(|_| jail.start_probe(&["idle", TARGETS[0]])).collect();
    proxy.wait_asked(10);
    let trees: Vec<_> = all.iter().map(|r| tree(r.pid())).collect();
    all.iter().for_each(|r| slay(r.pid()));
    for tree in &trees {
        all_gone("a killed jail", tree);
    }
}

#[test]
fn a_jail_that_ends_while_its_front_is_stopped_leaves_nothing_running() {
    let proxy = Proxy::serving(Behaviour::Hold);
    let jail = Jail::socks5(proxy.addr, "");
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo up; exec sleep 987"]);
    running.until("up");
    let all = roles(&running);
    let of = |name: &str| all.iter().find(|(_, comm)| comm == name).unwrap().0;
    running.signal(Signal::SIGSTOP);
    slay(of("nj-init"));
    let rest: Vec<_> = all.iter().filter(|(pid, _)| *pid != running.pid() && *pid != of("nj-init")).cloned().collect();
    lab::wait_for("warden, relay and mediator to end", Duration::from_secs(60), || {
        rest.iter().all(|(pid, comm)| lab::child::stat(*pid).is_none_or(|(now, _)| now != *comm)).then_some(())
    });
    running.signal(Signal::SIGCONT);
    let done = running.finish();
    assert_eq!(done.code(), 125, "{done:?}");
}
