//! Nothing gets out of a jail, and the attacks that show it do get out elsewhere.
//!
//! Runs the leak matrix of `netjail selftest` as root and as an ordinary user, and once under a launcher that
//! protects little, so that an attack that has gone blind is seen.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::User;
use serde_json::Value;

/// How many attacks must get out of a plain `unshare -Urn`, as a user: fewer means that attacks no longer attack.
const LEAKS_OF_UNSHARE: usize = 30;

/// Those among them that depend on nothing that machines differ in.
const LEAKS_EVERYWHERE: [&str; 24] = [
    "inherited-tcp-socket",
    "inherited-folder",
    "stdin-connection",
    "stdin-datagram",
    "stdin-pidfd",
    "socket-in-working-folder",
    "socket-in-home",
    "socket-in-tmp",
    "socket-by-symlink",
    "socket-by-descriptor",
    "socket-swap-race",
    "socket-seqpacket",
    "datagram-by-path",
    "datagram-by-pair",
    "fifo",
    "proc-list",
    "kill",
    "pidfd-kill",
    "prlimit",
    "no-new-privs",
    "shared-memory",
    "host-name",
    "environment",
    "search-proc",
];

/// The program where every user can execute it.
fn program(folder: &Path) -> String {
    let copy = folder.join("netjail");
    lab::copy(lab::jail::binary(), &copy);
    for path in [folder, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy.to_str().unwrap().to_owned()
}

fn matrix(user: Option<&User>, arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = program(folder.path());
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("runuser");
            let home = user.dir.to_str().unwrap();
            command.args(["-u", &user.name, "--", "env", &format!("HOME={home}"), &program]).current_dir(home);
            command
        }
        None => Command::new(&program),
    };
    let output = command.arg("selftest").arg("--json").args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("no matrix ({e}): {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    })
}

fn with(cases: &[Value], verdict: &str) -> Vec<String> {
    cases
        .iter()
        .filter(|case| case["verdict"] == verdict)
        .map(|case| format!("{}: {}", case["name"].as_str().unwrap(), case["inside"].as_str().unwrap()))
        .collect()
}

fn nothing_leaks(user: Option<&User>) {
    let cases = matrix(user, &[]);
    assert_eq!(with(&cases, "leaked"), Vec::<String>::new());
    assert_eq!(with(&cases, "undecided"), Vec::<String>::new());
    assert!(with(&cases, "blocked").len() >= 40, "too few attacks work outside: {:?}", with(&cases, "not-applicable"));
}

/// The user to become, as root.
fn somebody() -> Option<User> {
    lab::is_root().then(lab::ordinary_user).flatten()
}

#[test]
fn nothing_gets_out_of_roots_jail() {
    root_only!();
    nothing_leaks(None);
}

#[test]
fn nothing_gets_out_of_an_ordinary_users_jail() {
    require!(!lab::is_root() || somebody().is_some(), "no ordinary user to become");
    nothing_leaks(somebody().as_ref());
}

#[test]
fn the_same_attacks_get_out_of_a_plain_namespace() {
    require!(!lab::is_root() || somebody().is_some(), "no ordinary user to become");
    let cases = matrix(somebody().as_ref(), &["--launcher", "unshare -Urn --"]);
    let leaked = with(&cases, "leaked");
    assert!(leaked.len() >= LEAKS_OF_UNSHARE, "only {} leaked: {leaked:#?}", leaked.len());
    let blind: Vec<_> =
        LEAKS_EVERYWHERE.iter().filter(|name| !leaked.iter().any(|l| l.starts_with(&format!("{name}:")))).collect();
    assert!(blind.is_empty(), "these no longer attack: {blind:?}");
}
