//! What people and scripts meet before there is a jail: completions, manual pages, colour, JSON, exit statuses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::path::PathBuf;

use lab::pty::Pty;
use lab::{Finished, Jail};

/// The completion script of a shell, in a file.
fn script(jail: &Jail, shell: &str) -> PathBuf {
    let file = jail.work().join(format!("completions.{shell}"));
    std::fs::write(&file, netjail(jail, &["completions", shell]).good().out).unwrap();
    file
}

fn netjail(jail: &Jail, words: &[&str]) -> Finished {
    lab::child::run(jail.netjail(words))
}

#[test]
fn bash_completes_a_subcommand_and_a_flag() {
    require!(lab::program("bash").is_some(), "no bash");
    let jail = Jail::new();
    let file = script(&jail, "bash");
    // What bash does at the Tab key.
    let line = format!(
        "source {} || exit 9; COMP_WORDS=(netjail che); COMP_CWORD=1; _netjail netjail che netjail; echo \"${{COMPREPLY[@]}}\"
         COMP_WORDS=(netjail run --netw); COMP_CWORD=2; _netjail netjail --netw run; echo \"${{COMPREPLY[@]}}\"
         complete -p netjail",
        file.display()
    );
    let done = lab::child::run(jail.command("/bin/bash".as_ref(), &["--norc", "-c", &line])).good();
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines[..2], ["check", "--network"], "{done:?}");
    assert!(lines[2].contains("_netjail"), "{done:?}");
    assert_eq!(done.err, "");
}

#[test]
fn fish_completes_a_subcommand_and_a_flag() {
    let fish = lab::program("fish");
    require!(fish.is_some(), "no fish");
    let jail = Jail::new();
    let file = script(&jail, "fish");
    let line = format!("source {}; complete -C 'netjail che'; complete -C 'netjail run --netw'", file.display());
    let done = lab::child::run(jail.command(&fish.unwrap(), &["--no-config", "-c", &line])).good();
    let words: Vec<&str> = done.out.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!((words.as_slice(), done.err.as_str()), (&["check", "--network"][..], ""), "{done:?}");
}

#[test]
fn zsh_completes_a_subcommand_at_the_tab_key() {
    let zsh = lab::program("zsh");
    require!(zsh.is_some(), "no zsh");
    let jail = Jail::new();
    let file = script(&jail, "zsh");
    let mut pty = Pty::start(jail.command(&zsh.unwrap(), &["-f", "-i"]));
    pty.send(&format!(
        "unsetopt zle_bracketed_paste; autoload -U compinit && compinit -D -u && source {} && PS1='rea''dy> '\r",
        file.display()
    ));
    pty.expect("ready> ");
    pty.send("netjail netw\t");
    pty.expect("orks");
    pty.send("--js\t");
    pty.expect("on");
}

#[test]
fn every_manual_page_is_rendered_without_a_warning() {
    require!(lab::program("man").is_some() && lab::program("groff").is_some(), "no man-db or no groff");
    let jail = Jail::new();
    let folder = jail.work().join("man");
    netjail(&jail, &["man", folder.to_str().unwrap()]).good();
    let pages: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let words = ["--warnings=all", "-l", page.to_str().unwrap()];
        let mut man = jail.command(&lab::program("man").unwrap(), &words);
        man.env("MANPAGER", "cat").env("MANWIDTH", "80").env("MAN_DISABLE_SECCOMP", "1");
        let done = lab::child::run(man).good();
        assert_eq!(done.err, "", "{}", page.display());
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION"] {
            assert!(done.out.lines().any(|line| line == heading), "{}: {}", page.display(), done.out);
        }
    }
}

#[test]
fn every_subcommand_has_help_and_a_wrong_word_is_its_usage_error() {
    let jail = Jail::new();
    let help = netjail(&jail, &["--help"]).good();
    let commands = help.out.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 10 && names.contains(&"probe"), "{names:?}");
    for name in names {
        assert!(netjail(&jail, &[name, "--help"]).good().out.contains("Usage:"), "{name}");
        let own = matches!(name, "run" | "shell" | "exec");
        let done = netjail(&jail, &[name, "--no-such-flag"]);
        assert_eq!((done.code(), done.out.as_str()), (if own { 125 } else { 2 }, ""), "{name}: {done:?}");
    }
    let done = netjail(&jail, &["--network", "app:tor", "curl", "-s"]);
    assert_eq!(done.code(), 2);
    assert!(done.err.contains("netjail run --network app:tor -- curl -s"), "{done:?}");
}

#[test]
fn whatever_lists_something_has_it_as_json() {
    let jail = Jail::socks5(lab::servers::refusing(), "");
    let file = jail.registry_file().display().to_string();
    for words in [
        &["ps"][..],
        &["networks", "--registry", &file],
        &["check", "--registry", &file],
        &["doctor"],
        &["probe", "proxy", "--registry", &file, "--timeout", "2", "--endpoint", "https://whoami.test/"],
    ] {
        let done = netjail(&jail, &[words, &["--json"]].concat());
        let parsed = serde_json::from_str::<serde_json::Value>(&done.out);
        assert!(parsed.is_ok() && !done.out.contains('\x1b'), "{words:?}: {done:?}");
    }
}

#[test]
fn a_check_that_run_would_not_believe_is_a_finding() {
    let jail = Jail::new();
    let write = |port: u16| {
        std::fs::create_dir_all(jail.work().join("src")).unwrap();
        let entry = format!("{{name: proxy, kind: network.socks5, host: 127.0.0.1, port: {port}}}");
        let text = format!("version: \"1.0\"\nnamespace: app\nentries:\n  - {entry}\n");
        std::fs::write(jail.work().join("src/_index.yaml"), text).unwrap();
    };
    let json = || serde_json::from_str::<serde_json::Value>(&netjail(&jail, &["check", "--json"]).out).unwrap();
    write(9);
    assert_eq!(json()["trust"], "first-use");
    netjail(&jail, &["allow"]).good();
    assert_eq!((&json()["trust"], &json()["ok"]), (&"believed".into(), &true.into()));
    assert_eq!(netjail(&jail, &["check", "--quiet"]).good().out, "", "quiet says only what is wrong");
    write(10);
    assert_eq!((&json()["trust"], &json()["ok"]), (&"refused".into(), &false.into()));
    assert_eq!(json()["changes"][0], "app:proxy has changed");
    for words in [&["check"][..], &["check", "-q"]] {
        let done = netjail(&jail, words);
        assert_eq!(done.code(), 1, "{done:?}");
        assert!(done.out.contains("app:proxy has changed"), "{done:?}");
    }
}

/// A terminal on which `netjail run` meets a registry that is wrong, with an environment.
fn wrong_registry_at_a_terminal(variables: &[(&str, &str)]) -> String {
    let jail = Jail::new().entry("{name: a, kind: network.socks5, host: h, port: 0}");
    let mut command = jail.run_command("a", &["true"]);
    command.envs(variables.iter().copied());
    let mut pty = Pty::start(command);
    pty.expect("1 error")
}

#[test]
fn colour_is_only_for_a_terminal_and_never_with_no_color() {
    assert!(wrong_registry_at_a_terminal(&[]).contains("\x1b["));
    assert!(wrong_registry_at_a_terminal(&[("NO_COLOR", "")]).contains("\x1b["), "empty counts as unset");
    assert!(!wrong_registry_at_a_terminal(&[("NO_COLOR", "1")]).contains('\x1b'));
    let jail = Jail::new().entry("{name: a, kind: network.socks5, host: h, port: 0}");
    let done = jail.run("a", &["true"]);
    assert!(done.err.contains("1 error") && !done.err.contains('\x1b'), "{done:?}");
}

#[test]
fn a_wait_at_a_terminal_is_said_and_wiped_away() {
    let proxy = lab::Proxy::new(|_| lab::Answer::Silence);
    let jail = Jail::socks5(proxy.addr, "");
    let file = jail.registry_file().display().to_string();
    let words = ["probe", "proxy", "--registry", &file, "--timeout", "4", "--endpoint", "https://whoami.test/"];
    let mut pty = Pty::start(jail.netjail(&words));
    pty.expect("waiting for app:proxy (");
    let rest = pty.expect("no answer within 4 s");
    assert!(rest.contains("\r\x1b[K"), "{rest:?}");
    pty.finish();
    let mut quiet = Pty::start(jail.netjail(&[&words[..], &["-q"]].concat()));
    assert!(!quiet.expect("no answer within 4 s").contains("waiting"));
}

#[test]
fn stop_says_what_it_waits_for() {
    let jail = Jail::socks5(lab::servers::refusing(), "").with(&["--name", "lab-stubborn"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"]);
    running.until("ready");
    let mut pty = Pty::start(jail.netjail(&["stop", "--grace", "3", "lab-stubborn"]));
    pty.expect("waiting for lab-stubborn to end (");
    assert!(pty.finish().success());
}
