//! `netjail probe`: the address that the far side sees, or what was in the way, through each network and no other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use lab::host::{Host, PROXY, WEB};
use lab::proxy::{Greeting, Manner};
use lab::real::{At, Real, dante, whoami_tls};
use lab::{Answer, Behaviour, Finished, Jail, Proxy, Running, Server};
use serde_json::Value;

/// The programs that every test here needs.
fn lack() -> Option<&'static str> {
    ["nginx", "openssl"].into_iter().find(|name| lab::program(name).is_none())
}

/// A jail's user who trusts the server's authority.
fn trusting(jail: Jail, server: &Real) -> Jail {
    jail.env("SSL_CERT_FILE", server.folder.path().join("ca.pem").to_str().unwrap())
}

fn start(jail: &Jail, words: &[&str]) -> Running {
    let registry = jail.registry_file().display().to_string();
    Running::start(jail.netjail(&[&["probe", "--registry", &registry], words].concat()))
}

/// `netjail probe --json WORDS…`: the answers, by network.
fn probe(jail: &Jail, words: &[&str]) -> Vec<Value> {
    answers(&start(jail, &[&["--json"], words].concat()).finish().good())
}

fn answers(done: &Finished) -> Vec<Value> {
    serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"))
}

fn of<'a>(answers: &'a [Value], network: &str) -> &'a Value {
    answers.iter().find(|answer| answer["network"] == network).unwrap_or_else(|| panic!("{network}: {answers:?}"))
}

fn requests(server: &Real) -> String {
    std::fs::read_to_string(server.folder.path().join("access.log")).unwrap()
}

#[test]
fn each_network_shows_the_address_that_the_far_side_sees() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lack().is_none(), "{} is not installed", lack().unwrap());
    require!(lab::program("danted").is_some(), "danted is not installed");
    let host = Host::new();
    let web = whoami_tls(At::Internet(&host, &format!("{WEB}:8443")));
    let proxy = dante(At::Internet(&host, &format!("{PROXY}:1080")));
    let jail = trusting(Jail::socks5(proxy.addr, "").inside(&host), &web);
    let url = format!("https://{WEB}:8443/");
    let answers = probe(&jail, &["--endpoint", &url]);
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!(of(&answers, "nil")["address"], "192.0.2.2", "{answers:?}");
    assert_eq!(of(&answers, "app:proxy")["address"], PROXY, "{answers:?}");
    assert_eq!(of(&answers, "app:proxy")["endpoint"], url);

    // As a table, and only what was named.
    let done = start(&jail, &["proxy", "--endpoint", &url]).finish().good();
    let lines: Vec<Vec<&str>> = done.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NETWORK", "ADDRESS", "ANSWER"], "{done:?}");
    assert_eq!(lines[1][..3], ["app:proxy", PROXY, &format!("{WEB}:8443,")[..]], "{done:?}");
    assert_eq!((lines.len(), done.err.as_str()), (2, ""), "a script reads no progress: {done:?}");
}

#[test]
fn a_proxy_that_is_down_or_refuses_is_said_and_nothing_goes_another_way() {
    require!(lack().is_none(), "{} is not installed", lack().unwrap());
    let web = whoami_tls(At::Loopback);
    let refusing = Proxy::new(|_| Answer::Code(2));
    let login = Proxy::with(Manner { greeting: Greeting::NoneAcceptable, ..Manner::default() }, |_| Answer::Close);
    let jail = Jail::socks5(lab::servers::refusing(), "")
        .with_socks5("refusing", refusing.addr, "")
        .with_socks5("login", login.addr, "")
        .entry("{name: later, kind: network.http, host: a.test, port: 3128}");
    let jail = trusting(jail, &web);
    let url = format!("https://whoami.test:{}/", web.addr.port());
    let networks = ["app:proxy", "refusing", "login", "later"];
    let answers = probe(&jail, &[&["--endpoint", &url], &networks[..]].concat());
    let error = |network: &str| of(&answers, network)["error"].as_str().unwrap().to_owned();
    assert_eq!(error("app:proxy"), "ENETUNREACH: the proxy is down (proxy-refused)");
    assert_eq!(error("app:refusing"), "EHOSTUNREACH: the proxy's rules forbid it (socks-prohibited)");
    assert_eq!(error("app:login"), "EHOSTUNREACH: the proxy wants another login (no-acceptable-method)");
    assert!(error("app:later").contains("is not built into this netjail yet"), "{answers:?}");
    assert!(answers.iter().all(|answer| answer["address"].is_null()));
    assert_eq!(requests(&web), "", "no other way was tried");

    // A rule of netjail's own.
    let answers = probe(&jail, &["nil", "--endpoint", "https://169.254.169.254/"]);
    assert_eq!(answers[0]["error"], "ENETUNREACH: forbidden by the rule `metadata`");

    let words = ["--endpoint", &url, "app:proxy"];
    assert_eq!(start(&jail, &words).finish().code(), 0, "all were asked");
    assert_eq!(start(&jail, &[&words[..], &["--strict"]].concat()).finish().code(), 1);
    assert_eq!(start(&jail, &["app:no-such"]).finish().code(), 2);
}

#[test]
fn the_next_endpoint_is_asked_when_one_fails_and_each_name_goes_to_the_proxy_alone() {
    require!(lack().is_none(), "{} is not installed", lack().unwrap());
    let web = whoami_tls(At::Loopback);
    let addr = web.addr;
    let proxy = Proxy::new(move |_| Answer::Relay(addr));
    let jail = trusting(Jail::socks5(proxy.addr, ""), &web);
    let url = |path: &str| format!("https://whoami.test:{}/{path}", addr.port());
    let answers = probe(&jail, &["proxy", "--endpoint", &url("busy"), "--endpoint", &url("json")]);
    assert_eq!((&answers[0]["address"], &answers[0]["endpoint"]), (&"127.0.0.1".into(), &url("json").into()));
    assert_eq!(answers[0]["attempts"][0]["error"], "HTTP 503", "{answers:?}");
    let asked: Vec<_> = proxy.asked().into_iter().map(|asked| asked.host).collect();
    assert_eq!(asked, ["whoami.test", "whoami.test"]);

    // By the settings and by the environment.
    std::fs::write(
        jail.work().join(".netjail.yaml"),
        format!("network_service: {{probe_endpoints: ['{}']}}\n", url("busy")),
    )
    .unwrap();
    assert_eq!(probe(&jail, &["proxy"])[0]["error"], "HTTP 503");
    let jail = jail.env("NETJAIL_PROBE_ENDPOINTS", &format!("{} {}", url("nothing"), url("")));
    let answers = probe(&jail, &["proxy"]);
    assert_eq!(answers[0]["attempts"][0]["error"], "HTTP 404");
    assert_eq!(answers[0]["address"], "127.0.0.1");
}

#[test]
fn a_certificate_of_a_stranger_is_no_answer() {
    require!(lack().is_none(), "{} is not installed", lack().unwrap());
    let (web, other) = (whoami_tls(At::Loopback), whoami_tls(At::Loopback));
    let addr = web.addr;
    let proxy = Proxy::new(move |_| Answer::Relay(addr));
    let ask =
        |jail: &Jail, url: &str| probe(jail, &["proxy", "--endpoint", url])[0]["error"].as_str().unwrap().to_owned();
    let stranger = trusting(Jail::socks5(proxy.addr, ""), &other);
    let error = ask(&stranger, &format!("https://whoami.test:{}/", addr.port()));
    assert!(error.starts_with("TLS: invalid peer certificate"), "{error}");
    let error = ask(&trusting(Jail::socks5(proxy.addr, ""), &web), &format!("https://other.test:{}/", addr.port()));
    assert!(error.starts_with("TLS: invalid peer certificate"), "{error}");
    assert_eq!(requests(&web), "");
}

#[test]
fn an_endpoint_that_hangs_costs_no_more_than_the_time_out() {
    let proxy = Proxy::serving(Behaviour::Hold);
    let silent = Proxy::new(|_| Answer::Silence);
    let jail = Jail::socks5(proxy.addr, "").with_socks5("silent", silent.addr, "");
    let begun = std::time::Instant::now();
    let answers = probe(&jail, &["proxy", "silent", "--timeout", "3", "--endpoint", "https://whoami.test/"]);
    for answer in &answers {
        // Whichever is noticed first: the dial that does not end, or the whole that takes too long.
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("no answer within 3 s") || error == "connection timed out", "{answers:?}");
    }
    assert!(begun.elapsed().as_secs() < 15, "both at once, not the default");
    // The jails are gone with the answer.
    assert_eq!(lab::child::run(jail.netjail(&["ps"])).good().out, "no jail is running\n");
}

#[test]
fn a_projects_changed_registry_is_refused_before_anything_is_asked() {
    let server = Server::v4(Behaviour::Hold);
    let jail = Jail::new();
    let registry = |port: u16| {
        std::fs::create_dir_all(jail.work().join("src")).unwrap();
        let entry = format!("{{name: proxy, kind: network.socks5, host: 127.0.0.1, port: {port}}}");
        let text = format!("version: \"1.0\"\nnamespace: app\nentries:\n  - {entry}\n");
        std::fs::write(jail.work().join("src/_index.yaml"), text).unwrap();
    };
    let ask = || lab::child::run(jail.netjail(&["probe", "--timeout", "1", "proxy"]));
    registry(lab::servers::refusing().port());
    assert!(ask().good().out.contains("the proxy is down"));
    registry(server.addr.port());
    let done = ask();
    assert_eq!(done.code(), 1, "{done:?}");
    assert!(done.err.contains("is not the one that was allowed: app:proxy has changed"), "{done:?}");
    assert_eq!(server.record.all().len(), 0);
}

#[test]
fn an_endpoint_is_https_or_the_command_line_is_wrong() {
    let jail = Jail::new();
    let done = start(&jail, &["nil", "--endpoint", "http://whoami.test/"]).finish();
    assert_eq!(done.code(), 2, "{done:?}");
    assert!(done.err.contains("begins with https://"), "{done:?}");
}
