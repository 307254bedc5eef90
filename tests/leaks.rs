//! Nothing gets out of a jail, and the attacks that show it do get out elsewhere.
//!
//! Runs the leak matrix of `netjail selftest` as root and as the ordinary user `jail` (which scripts/test makes), and once
//! under a launcher that protects little, so that an attack that has gone blind is seen.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// How many attacks must get out of a plain `unshare -Urn`, as a user: fewer means that attacks no longer attack.
const LEAKS_OF_UNSHARE: usize = 30;

/// The program where every user can execute it.
fn program(folder: &Path) -> String {
    let copy = folder.join("netjail");
    // By a program of its own: a thread of this one that forks meanwhile would hold the copy open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_netjail")).arg(&copy).status().unwrap().success());
    for path in [folder, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy.to_str().unwrap().to_owned()
}

fn matrix(user: Option<&str>, arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = program(folder.path());
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--", "env", &format!("HOME=/home/{user}"), &program]);
            command.current_dir(format!("/home/{user}"));
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

fn nothing_leaks(user: Option<&str>) {
    let cases = matrix(user, &[]);
    assert_eq!(with(&cases, "leaked"), Vec::<String>::new());
    assert_eq!(with(&cases, "undecided"), Vec::<String>::new());
    assert!(with(&cases, "blocked").len() >= 40, "too few attacks work outside: {:?}", with(&cases, "not-applicable"));
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn nothing_gets_out_of_roots_jail() {
    if is_root() {
        nothing_leaks(None);
    }
}

#[test]
fn nothing_gets_out_of_an_ordinary_users_jail() {
    nothing_leaks(is_root().then_some("jail"));
}

#[test]
fn the_same_attacks_get_out_of_a_plain_namespace() {
    let cases = matrix(is_root().then_some("jail"), &["--launcher", "unshare -Urn --"]);
    let leaked = with(&cases, "leaked");
    assert!(leaked.len() >= LEAKS_OF_UNSHARE, "only {} leaked: {leaked:#?}", leaked.len());
}
