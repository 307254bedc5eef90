//! The direct network: dialled from the host, but never the host itself, nor what is next to it unless that is allowed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use lab::host::{Host, WEB, WEB6};
use lab::{Behaviour, Finished, Jail, Server};

/// Addresses that are refused whatever is allowed: (address, why).
const NEVER: &[(&str, &str)] = &[
    ("192.0.2.2:80", "the host's own address"),
    ("10.20.0.2:80", "the host's other address"),
    ("[2001:db8:1::2]:80", "the host's own IPv6 address"),
    ("[::ffff:192.0.2.2]:80", "the host's own address in IPv6 clothes"),
    ("[fd20::2]:80", "the host's other IPv6 address"),
    ("169.254.169.254:80", "the cloud's metadata"),
    ("169.254.7.7:80", "link-local"),
    ("224.0.0.251:80", "multicast"),
    ("[ff02::fb]:80", "multicast"),
    ("255.255.255.255:80", "broadcast"),
    ("192.0.2.255:80", "the link's broadcast"),
];

/// Live listeners that are refused unless `--allow-lan` is given.
const NEARBY: &[&str] = &[
    "10.20.0.1:80",
    "192.0.2.1:80",
    "172.16.9.9:80",
    "100.64.9.9:80",
    "[fd20::1]:80",
    "[fd99::9]:80",
    "[2001:db8:1::1]:80",
];

fn expect_never(done: &Finished, what: &str) {
    assert!(done.facts("connected").is_empty(), "{what}: {done:?}");
    assert!(done.fact("failed").starts_with("ENETUNREACH"), "{what}: {done:?}");
}

/// Listeners on the host that nobody in a jail may reach, in each family.
fn victims(host: &Host) -> Vec<Server> {
    ["0.0.0.0:80", "[::1]:81"]
        .iter()
        .map(|addr| Server::on(host.listen("host", addr), Behaviour::Banner("victim")))
        .collect()
}

#[test]
fn the_internet_is_reached_in_both_families_and_by_name() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("dnsmasq").is_some(), "no dnsmasq");
    let host = Host::new();
    let _resolver = host.resolver();
    let _web = Server::on(host.listen("internet", &format!("{WEB}:80")), Behaviour::WhoAmI);
    let _web6 = Server::on(host.listen("internet", &format!("[{WEB6}]:80")), Behaviour::WhoAmI);
    let jail = Jail::new().inside(&host);
    let v4 = "you are 192.0.2.2";
    for (target, said) in [
        (format!("{WEB}:80"), v4),
        (format!("[{WEB6}]:80"), "you are 2001:db8:1::2"),
        ("hostsfile.lab:80".into(), v4),
        ("web.lab:80".into(), "you are "),
    ] {
        let done = jail.probe_on("nil", &["read", &target]);
        assert!(done.out.contains(said), "{target}: {done:?}");
    }
    let done = jail.probe_on("nil", &["resolve", "web.lab"]);
    let addresses = done.facts("address");
    assert!(addresses.contains(&WEB.to_owned()) && addresses.contains(&WEB6.to_owned()), "real addresses: {done:?}");
}

#[test]
fn questions_of_every_type_are_the_hosts_resolvers_to_answer() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("dnsmasq").is_some(), "no dnsmasq");
    let host = Host::new();
    let _resolver = host.resolver();
    let jail = Jail::new().inside(&host);
    let done = jail.probe_on("nil", &["ask", "198.18.0.1", "text.lab", "TXT"]);
    assert_eq!((done.fact("rcode"), done.fact("answers")), ("NOERROR".into(), "1".into()), "{done:?}");
    let done = jail.probe_on("nil", &["ask", "198.18.0.1", "nowhere.lab", "A"]);
    assert_eq!(done.fact("rcode"), "NXDOMAIN", "{done:?}");
    let done = jail.probe_on("nil", &["ask", "198.18.0.1", "abc.onion", "A"]);
    assert_eq!(done.fact("rcode"), "NXDOMAIN", "direct can not carry an onion: {done:?}");
}

#[test]
fn the_host_itself_and_what_is_no_host_are_always_refused() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let victims = victims(&host);
    let _metadata = Server::on(host.listen("internet", "169.254.169.254:80"), Behaviour::Banner("secrets"));
    for extra in [&[][..], &["--allow-lan"]] {
        let jail = Jail::new().inside(&host).with(extra);
        for (target, what) in NEVER {
            expect_never(&jail.probe_on("nil", &["connect", target]), &format!("{what} {extra:?}"));
        }
        // Inside a jail these are the jail's own loopback, where nobody listens.
        for target in ["127.0.0.1:80", "[::1]:81", "0.0.0.0:80", "127.8.8.8:80", "[::ffff:127.0.0.1]:80"] {
            let done = jail.probe_on("nil", &["connect", target]);
            assert!(done.facts("connected").is_empty(), "{target}: {done:?}");
        }
    }
    assert!(victims.iter().all(|v| v.record.all().is_empty()), "a listener of the host was reached");
}

#[test]
fn a_name_that_leads_to_the_host_does_not_reach_it() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("dnsmasq").is_some(), "no dnsmasq");
    let host = Host::new();
    let (_resolver, victims) = (host.resolver(), victims(&host));
    let done = Jail::new().inside(&host).probe_on("nil", &["connect", "rebind.lab:80"]);
    assert!(done.facts("connected").is_empty(), "{done:?}");
    assert!(victims.iter().all(|v| v.record.all().is_empty()));
}

#[test]
fn the_neighbourhood_is_refused_unless_it_is_allowed() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let servers: Vec<Server> =
        NEARBY.iter().map(|addr| Server::on(host.listen("internet", addr), Behaviour::Banner("lan"))).collect();
    let closed = Jail::new().inside(&host);
    for target in NEARBY {
        expect_never(&closed.probe_on("nil", &["connect", target]), target);
    }
    assert!(servers.iter().all(|s| s.record.all().is_empty()));
    let open = Jail::new().inside(&host).with(&["--allow-lan"]);
    for target in NEARBY {
        let done = open.probe_on("nil", &["read", target]);
        assert_eq!(done.fact("got"), "3 lan", "{target}: {done:?}");
    }
}

#[test]
fn errnos_of_direct_dials_are_the_real_ones() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let jail = Jail::new().inside(&host);
    for target in [format!("{WEB}:81"), format!("[{WEB6}]:81")] {
        let done = jail.probe_on("nil", &["connect", &target]);
        assert!(done.fact("failed").starts_with("ECONNREFUSED"), "{done:?}");
    }
    for (target, errno) in [
        ("198.51.100.97:80", "EHOSTUNREACH"),
        ("198.51.100.98:80", "EHOSTUNREACH"),
        ("[2001:db8:9::97]:80", "ENETUNREACH"),
        ("[2001:db8:9::98]:80", "EACCES"),
    ] {
        let done = jail.probe_on("nil", &["connect", target]);
        assert!(done.fact("failed").starts_with(errno), "{target}: {done:?}");
    }
}

#[test]
fn direct_by_default_is_said_once_and_direct_by_choice_is_silent() {
    let jail = Jail::new();
    let silent = jail.shell("nil", "true").good();
    assert_eq!(silent.err, "", "--network nil is an explicit choice");
    let said = jail.shell("", "true").good();
    assert_eq!(said.err.lines().filter(|l| l.contains("direct")).count(), 1, "{said:?}");
}

#[test]
fn a_default_network_of_the_settings_is_used_and_nil_clears_it() {
    let proxy = lab::Proxy::serving(Behaviour::Echo);
    let jail = Jail::socks5(proxy.addr, "");
    std::fs::create_dir(jail.work().join("src")).unwrap();
    std::fs::copy(jail.registry_file(), jail.work().join("src/_index.yaml")).unwrap();
    std::fs::write(jail.work().join(".netjail.yaml"), "network_service: {default_network: app:proxy}\n").unwrap();
    let probe = lab::tool("probe");
    let done = lab::child::run(jail.netjail(&["run", "--", &probe, "echo", "some.test:80", "hello"])).good();
    assert_eq!(done.fact("got"), "5 hello", "{done:?}");
    // Refused by direct's own rules, so that nothing leaves this machine; the proxy would have taken it.
    let words = ["run", "--network", "nil", "--", &probe, "connect", "169.254.169.254:80"];
    let done = lab::child::run(jail.netjail(&words)).good();
    assert!(done.fact("failed").starts_with("ENETUNREACH"), "{done:?}");
    assert_eq!(proxy.accepted(), 1);
}

#[test]
fn a_transfer_on_direct_is_whole_at_both_mtus() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    for (mtu, port) in lab::MTUS.iter().zip(["80", "8080"]) {
        let web = Server::on(host.listen("internet", &format!("{WEB}:{port}")), Behaviour::Bulk(50, 5));
        let jail = Jail::new().inside(&host).with(&["--mtu", mtu]);
        let done = jail.probe_on("nil", &["bulk", &web.addr.to_string(), "50", "5"]);
        assert_eq!((done.fact("down"), done.fact("up")), ("good".into(), "sent".into()), "{done:?}");
        assert_eq!(web.record.end_of(0).end, "eof");
    }
}

#[test]
fn a_change_of_the_hosts_names_resolvers_and_addresses_is_followed_by_every_worker() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let asked = host.datagrams("internet", "203.0.113.5:53");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = asked.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            buffer[3] = 3; // NXDOMAIN
            asked.send_to(&buffer[..count], from).unwrap();
        }
    });
    let jail = Jail::new().inside(&host).with(&["--workers", "2", "--log", "log"]);
    let probe = lab::tool("probe");
    // Each loop ends when the change has been seen; ten times in a row is both workers.
    let line = format!(
        "{probe} resolve hostsfile.lab; echo begun; read x
         n=0; while [ $n -lt 10 ]; do case $({probe} resolve hostsfile.lab) in *198.51.100.77*) n=$((n+1));; *) n=0;; esac; done
         echo hosts; read x
         until {probe} ask 198.18.0.1 other.lab A | grep -q -i nxdomain; do :; done
         echo resolver; read x
         until {probe} connect 203.0.113.99:80 | grep -q ENETUNREACH; do :; done"
    );
    let mut running = jail.start("nil", &["sh", "-c", &line]);
    let out = running.until("begun");
    assert!(out.contains(WEB), "{out}");
    host.write("hosts", "127.0.0.1 localhost\n198.51.100.77 hostsfile.lab\n");
    running.say("on\n");
    running.until("hosts");
    host.write("resolv.conf", "nameserver 203.0.113.5\n");
    running.say("on\n");
    running.until("resolver");
    host.act("host", "ip addr add 203.0.113.99/32 dev lo");
    running.say("on\n");
    running.finish().good();
}

/// Asks until a question is answered, and says with which code: nobody outside answers, so it is netjail.
const FLOOD: &str = r#"
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setblocking(False)
for n in range(20000):
    label = b"n%d" % n
    try:
        s.sendto(struct.pack(">6H", n, 256, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\3lab\0\0\1\0\1", ("198.18.0.1", 53))
    except BlockingIOError:
        pass
    try:
        s.recv(512, socket.MSG_PEEK)
        break
    except BlockingIOError:
        pass
s.settimeout(30)
print("code", s.recv(512)[3] & 15, "after", n)
"#;

#[test]
fn one_question_too_many_is_answered_servfail_at_once() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    require!(lab::program("python3").is_some(), "no python3 outside of root's home");
    let host = Host::new();
    // Bound, so that nothing is refused; and never read.
    let _silent = host.datagrams("internet", "198.51.100.53:53");
    let jail = Jail::new().inside(&host);
    let log = jail.work().join("log");
    let jail = jail.with(&["--log", log.to_str().unwrap()]);
    let done = jail.run("nil", &[lab::program("python3").unwrap().to_str().unwrap(), "-c", FLOOD]).good();
    assert!(done.out.starts_with("code 2 after "), "{done:?}");
    let log = std::fs::read_to_string(log).unwrap();
    let full = log.lines().find(|line| line.contains("\"rule\":\"limit-questions\"")).expect("a record of the rule");
    assert!(full.contains("\"answer\":\"SERVFAIL\""), "{full}");
}
