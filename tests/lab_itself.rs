//! The lab keeps its own promises: without these, a green test of netjail would mean little.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::process::Command;
use std::time::Duration;

use lab::child::{Running, run};
use lab::host::{Host, PROXY, WEB};
use lab::proxy::{Greeting, Manner};
use lab::real::At;
use lab::{Answer, Behaviour, Proxy, Server};

fn curl(proxy: &Proxy, url: &str) -> lab::Finished {
    let mut c = Command::new("curl");
    c.args(["-sS", "--max-time", "20", "--noproxy", "", "-x", &format!("socks5h://{}", proxy.addr), url]);
    run(c)
}

fn probe(words: &[&str]) -> lab::Finished {
    let mut c = Command::new(lab::tool("probe"));
    c.args(words);
    run(c).good()
}

#[test]
fn the_scripted_proxy_speaks_socks5_as_curl_does() {
    let web = Server::v4(Behaviour::Page("hello\n"));
    let to = web.addr;
    let proxy = Proxy::new(move |_| Answer::Relay(to));
    assert_eq!(curl(&proxy, "http://some.name.onion/").good().out, "hello\n");
    let asked = &proxy.asked()[0];
    assert_eq!((asked.host.as_str(), asked.kind, asked.port, asked.command), ("some.name.onion", 3, 80, 1));
}

#[test]
fn the_scripted_proxy_checks_a_login_and_records_it() {
    let manner =
        Manner { greeting: Greeting::Login("u".into(), "p".into()), single_bytes: true, bound: 4, ..Manner::default() };
    let proxy = Proxy::with(manner, |_| Answer::Serve(Behaviour::Page("in\n")));
    let mut c = Command::new("curl");
    c.args(["-sS", "--max-time", "20", "-x", &format!("socks5h://u:p@{}", proxy.addr), "http://x.test/"]);
    assert_eq!(run(c).good().out, "in\n");
    assert_eq!(proxy.asked()[0].login, Some(("u".into(), "p".into())));
}

#[test]
fn the_scripted_proxy_sends_the_code_it_was_told() {
    let proxy = Proxy::new(|_| Answer::Code(4));
    let done = curl(&proxy, "http://x.test/");
    assert_eq!(done.code(), 97, "curl's CURLE_PROXY: {done:?}");
}

#[test]
fn servers_see_halfclose_reset_and_bulk_without_a_jail() {
    let server = Server::v4(Behaviour::ReplyAtEof);
    assert!(probe(&["halfclose", &server.addr.to_string()]).out.contains("got 5 had 7"));
    assert_eq!(server.record.end_of(0).bytes, 7);

    let server = Server::v6(Behaviour::ByeFirst);
    let done = probe(&["late", &server.addr.to_string(), "100000"]);
    assert!(done.out.contains("end eof") && done.out.contains("sent 100000"), "{done:?}");
    assert_eq!(server.record.end_of(0).bytes, 100_000);

    let server = Server::v4(Behaviour::Echo);
    probe(&["rst", &server.addr.to_string()]);
    assert_eq!(server.record.end_of(0).end, "reset");

    let server = Server::v4(Behaviour::Bulk(8, 3));
    let done = probe(&["bulk", &server.addr.to_string(), "8", "3"]);
    assert!(done.out.contains("down good") && done.out.contains("up sent"), "{done:?}");
    assert_eq!(server.record.end_of(0).end, "eof");

    let server = Server::v4(Behaviour::Bulk(1, 4));
    let done = probe(&["bulk", &server.addr.to_string(), "1", "3"]);
    assert!(done.out.contains("down differs at byte 0"), "a wrong pattern must not pass: {done:?}");
}

#[test]
fn the_probe_names_errnos() {
    assert!(probe(&["connect", &lab::servers::refusing().to_string()]).out.contains("failed ECONNREFUSED"));
    assert!(probe(&["connect", "255.255.255.255:1"]).out.contains("failed ENETUNREACH"));
}

#[test]
fn a_child_that_hangs_is_killed_and_shown() {
    let caught = std::panic::catch_unwind(|| {
        let mut c = Command::new("sh");
        c.args(["-c", "echo before; exec sleep 1000"]);
        let mut child = Running::start(c);
        child.until("before");
        child.finish_within(Duration::from_millis(100))
    });
    let text = *caught.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("before"), "{text}");
}

#[test]
fn microsocks_and_dante_relay() {
    require!(lab::program("microsocks").is_some() && lab::program("danted").is_some(), "no microsocks or dante");
    let web = Server::v4(Behaviour::Page("hello\n"));
    for real in [lab::real::microsocks(At::Loopback, None), lab::real::dante(At::Loopback)] {
        let mut c = Command::new("curl");
        c.args(["-sS", "--max-time", "20", "--noproxy", "", "-x", &format!("socks5://{}", real.addr)]);
        c.arg(format!("http://{}/", web.addr));
        assert_eq!(run(c).good().out, "hello\n");
    }
}

#[test]
fn nginx_serves_a_git_repository() {
    require!(lab::program("nginx").is_some() && lab::program("git").is_some(), "no nginx or git");
    let nginx = lab::real::nginx(At::Loopback);
    lab::real::git_repository(&nginx.folder.path().join("www"));
    let at = tempfile::tempdir().unwrap();
    let mut c = Command::new("git");
    c.args(["clone", "-q", &format!("http://{}/repository.git", nginx.addr), "copy"]).current_dir(at.path());
    c.env_remove("http_proxy").env("GIT_CONFIG_GLOBAL", "/dev/null");
    run(c).good();
    assert_eq!(std::fs::read_to_string(at.path().join("copy/file")).unwrap(), "cloned\n");
}

#[test]
fn sshd_runs_a_command() {
    require!(lab::program("sshd").is_some(), "no sshd");
    let sshd = lab::real::sshd(At::Loopback);
    let mut c = Command::new("ssh");
    c.args(["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o"]);
    c.args(["IdentitiesOnly=yes", "-p", &sshd.addr.port().to_string(), "-i"]).arg(sshd.folder.path().join("key"));
    c.args(["127.0.0.1", "echo over-ssh"]);
    assert_eq!(run(c).good().out, "over-ssh\n");
}

#[test]
fn the_host_reaches_the_internet_and_the_capture_sees_it() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let web = Server::on(host.listen("internet", &format!("{WEB}:80")), Behaviour::WhoAmI);
    let proxy = Proxy::on(host.listen("internet", &format!("{PROXY}:1080")), Manner::default(), |_| {
        Answer::Serve(Behaviour::Echo)
    });
    let jail = lab::Jail::new().inside(&host);
    let probe = lab::tool("probe");

    let capture = host.capture();
    let done = run(jail.command(probe.as_ref(), &["connect", &proxy.addr.to_string()])).good();
    assert!(done.out.contains("connected"), "{done:?}");
    capture.assert_only(proxy.addr);

    let done = run(jail.command(probe.as_ref(), &["read", &web.addr.to_string()])).good();
    assert!(done.out.contains("you are 192.0.2.2"), "{done:?}");
    let done = run(jail.command(probe.as_ref(), &["connect", "198.51.100.97:80"])).good();
    assert!(done.out.contains("failed EHOSTUNREACH"), "{done:?}");
    let direct = host.capture();
    run(jail.command(probe.as_ref(), &["connect", "10.20.0.1:9"]));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| direct.assert_only(proxy.addr)));
    assert!(caught.is_err(), "the capture must see a direct packet");
}

#[test]
fn real_servers_run_in_the_internet() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("microsocks").is_some() && lab::program("nginx").is_some(), "no microsocks or nginx");
    let host = Host::new();
    let proxy = lab::real::microsocks(At::Internet(&host, "203.0.113.5:1080"), None);
    let web = lab::real::nginx(At::Internet(&host, "203.0.113.80:80"));
    let capture = host.capture();
    let url = format!("http://{}/", web.addr);
    let words = ["-sS", "--max-time", "20", "-x", &format!("socks5://{}", proxy.addr), &url];
    let done = run(lab::Jail::new().inside(&host).command("/usr/bin/curl".as_ref(), &words)).good();
    assert_eq!(done.out, "hello from nginx\n");
    capture.assert_only(proxy.addr);
}

#[test]
fn the_host_has_its_own_resolver_and_hosts_file() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("dnsmasq").is_some(), "no dnsmasq");
    let host = Host::new();
    let resolver = host.resolver();
    let jail = lab::Jail::new().inside(&host);
    let probe = lab::tool("probe");
    let done = run(jail.command(probe.as_ref(), &["resolve", "web.lab"])).good();
    assert!(done.facts("address").contains(&WEB.to_owned()), "{done:?}");
    lab::wait_for("the resolver's own word", Duration::from_secs(10), || {
        resolver.err().contains("query[A] web.lab").then_some(())
    });
    let done = run(jail.command(probe.as_ref(), &["resolve", "hostsfile.lab"])).good();
    assert_eq!(done.fact("address"), WEB);
    let done = run(jail.command(probe.as_ref(), &["ask", "198.51.100.53", "web.lab", "A"])).good();
    assert!(done.out.contains("rcode NOERROR") && done.out.contains(WEB), "{done:?}");
}

#[test]
fn the_terminal_shows_an_interactive_bash() {
    let jail = lab::Jail::new();
    let mut bash = lab::pty::Pty::bash(jail.command("/bin/bash".as_ref(), &["--norc", "--noprofile", "-i"]));
    // Its own word says that it is there: between the group's coming to the foreground and exec, bash's child ignores Ctrl-Z.
    bash.talk("sh -c 'echo up-$((40+2)); exec sleep 1000'\r", &["up-42"]);
    bash.talk("\x1a", &["Stopped"]);
    bash.send("fg\r");
    bash.await_foreground_other_than(bash.pid());
    bash.talk("\x03", &["ready> "]);
    bash.talk("echo code-$?\r", &["code-130"]);
}
