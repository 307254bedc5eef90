//! A registry that a payload can write does not choose the payload's way out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::path::PathBuf;

use lab::pty::Pty;
use lab::{Behaviour, Finished, Jail, Proxy, Running};

/// A project whose registry lies in `src/_index.yaml` of the working folder.
struct Project {
    jail: Jail,
    file: PathBuf,
}

fn text(proxy: &Proxy) -> String {
    let (host, port) = (proxy.addr.ip(), proxy.addr.port());
    format!(
        "version: \"1.0\"\nnamespace: app\nentries:\n  - {{name: proxy, kind: network.socks5, host: {host}, port: {port}}}\n"
    )
}

impl Project {
    fn new(proxy: &Proxy) -> Self {
        let jail = Jail::new();
        std::fs::create_dir(jail.work().join("src")).unwrap();
        let file = jail.work().join("src/_index.yaml");
        std::fs::write(&file, text(proxy)).unwrap();
        Self { jail, file }
    }

    fn echo(&self) -> Finished {
        let probe = lab::tool("probe");
        let words = ["run", "--network", "app:proxy", "--", &probe, "echo", "some.test:80", "hello"];
        lab::child::run(self.jail.netjail(&words))
    }
}

#[test]
fn a_project_registry_is_believed_at_its_first_use() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let project = Project::new(&proxy);
    assert_eq!(project.echo().good().fact("got"), "5 hello");
    assert_eq!(project.echo().good().fact("got"), "5 hello");
}

#[test]
fn the_first_use_at_a_terminal_says_where_the_network_dials() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let project = Project::new(&proxy);
    let mut pty = Pty::start(project.jail.netjail(&["run", "--network", "app:proxy", "--", "true"]));
    pty.expect(&proxy.addr.port().to_string());
    assert_eq!(pty.finish().code(), Some(0));
    // And only the first.
    let pty = Pty::start(project.jail.netjail(&["run", "--network", "app:proxy", "--", "echo", "quiet"]));
    let mut pty = pty;
    let all = pty.expect("quiet");
    assert!(!all.contains(&proxy.addr.port().to_string()), "{all}");
    assert_eq!(pty.finish().code(), Some(0));
}

#[test]
fn a_project_that_is_sent_a_key_of_the_users_says_so_at_its_first_use_also_without_a_terminal() {
    let evil = Proxy::serving(Behaviour::Echo);
    let mut project = Project::new(&evil);
    let login = "username: u, password: \"${env:LAB_SECRET}\"}";
    let other = "  - {name: other, kind: network.socks5, host: 127.0.0.1, port: 1}\n";
    std::fs::write(&project.file, text(&evil).replace('}', &format!(", {login}")) + other).unwrap();
    project.jail = project.jail.env("LAB_SECRET", "s3cr3t");
    let run =
        |network| lab::child::run(project.jail.netjail(&["run", "-q", "--network", network, "--", "true"])).good();
    let first = run("app:other");
    let port = evil.addr.port().to_string();
    assert!(first.err.contains("LAB_SECRET") && first.err.contains(&port), "whichever network is chosen: {first:?}");
    assert!(!first.err.contains("s3cr3t"), "{first:?}");
    assert_eq!(run("app:proxy").err, "", "said once");
}

#[test]
fn a_registry_that_the_payload_rewrote_is_refused_until_it_is_allowed() {
    let (honest, evil) = (Proxy::serving(Behaviour::Echo), Proxy::serving(Behaviour::Echo));
    let project = Project::new(&honest);
    project.echo().good();
    let rewrite = format!("cat >src/_index.yaml <<'END'\n{}END\n", text(&evil));
    let words = ["run", "--network", "app:proxy", "--", "sh", "-c", &rewrite];
    lab::child::run(project.jail.netjail(&words)).good();
    assert_eq!(std::fs::read_to_string(&project.file).unwrap(), text(&evil), "the payload could write it");
    let refused = project.echo();
    assert_eq!(refused.code(), 125, "{refused:?}");
    assert!(refused.err.contains("netjail allow"), "the remedy: {refused:?}");
    assert!(refused.err.contains(project.jail.work().to_str().unwrap()), "the project: {refused:?}");
    assert_eq!(evil.accepted(), 0);
    lab::child::run(project.jail.netjail(&["allow"])).good();
    assert_eq!(project.echo().good().fact("got"), "5 hello");
    assert_eq!(evil.accepted(), 1);
}

#[test]
fn an_explicit_registry_is_the_users_word() {
    let (honest, other) = (Proxy::serving(Behaviour::Echo), Proxy::serving(Behaviour::Echo));
    let project = Project::new(&honest);
    project.echo().good();
    std::fs::write(&project.file, text(&other)).unwrap();
    let file = project.file.to_str().unwrap().to_owned();
    let probe = lab::tool("probe");
    let words = ["run", "--registry", &file, "--network", "app:proxy", "--", &probe, "echo", "some.test:80", "hello"];
    lab::child::run(project.jail.netjail(&words)).good();
    assert_eq!(other.accepted(), 1);
}

#[test]
fn a_live_jail_keeps_its_network_whatever_it_writes() {
    let (honest, evil) = (Proxy::serving(Behaviour::Echo), Proxy::serving(Behaviour::Echo));
    let project = Project::new(&honest);
    let line = format!("echo up; read x; {} echo some.test:80 hello", lab::tool("probe"));
    let mut running = Running::start(project.jail.netjail(&["run", "--network", "app:proxy", "--", "sh", "-c", &line]));
    running.until("up");
    std::fs::write(&project.file, text(&evil)).unwrap();
    running.say("go\n");
    assert_eq!(running.finish().good().fact("got"), "5 hello");
    assert_eq!((honest.accepted(), evil.accepted()), (1, 0));
}

#[test]
fn what_was_allowed_can_not_be_forged_from_inside() {
    let (honest, evil) = (Proxy::serving(Behaviour::Echo), Proxy::serving(Behaviour::Echo));
    let project = Project::new(&honest);
    project.echo().good();
    // The payload looks for netjail's state everywhere in the home, and tries to call `allow` itself.
    let binary = lab::jail::binary();
    let line = format!(
        "cat >src/_index.yaml <<'END'\n{}END\n{binary} allow; find \"$HOME\" -type f -exec sh -c ': >>\"$1\"' sh {{}} \\; -print; true",
        text(&evil)
    );
    let words = ["run", "--network", "app:proxy", "--", "sh", "-c", &line];
    let inside = lab::child::run(project.jail.netjail(&words)).good();
    let seen: Vec<&str> = inside.out.lines().filter(|l| l.starts_with('/')).collect();
    assert!(seen.is_empty(), "files of netjail's state that the jail could write: {seen:?}");
    assert_eq!(project.echo().code(), 125);
}
