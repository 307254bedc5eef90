//! `netjail demo` holds what it shows, wherever it is started, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::path::Path;

use lab::{Finished, Jail};

fn demo(jail: &Jail, program: &Path) -> Finished {
    lab::child::run(jail.command(program, &["demo"]))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn everything_in_the_demo_is_as_it_should_be() {
    let finished = demo(&Jail::new(), Path::new(&lab::jail::binary())).good();
    assert!(finished.out.contains("ok  the server saw 127.0.0.77"), "{finished:#?}");
    assert!(finished.out.contains("ok  the child was told: ENETUNREACH"), "{finished:#?}");
    assert!(finished.out.ends_with("\neverything was as it should be\n"), "{finished:#?}");
    assert!(!finished.out.contains('\x1b'), "no colour into a pipe: {finished:#?}");
    assert_eq!(finished.err, "");
}

#[test]
fn the_demo_leaves_nothing_behind_and_writes_nothing_of_the_users() {
    let temporary = tempfile::tempdir().unwrap();
    let jail = Jail::new().env("TMPDIR", temporary.path().to_str().unwrap());
    let before = names(&jail.home());
    demo(&jail, Path::new(&lab::jail::binary())).good();
    assert!(names(temporary.path()).is_empty());
    assert_eq!(names(&jail.home()), before);
}

#[test]
fn a_program_file_in_tmp_can_run_the_demo() {
    let temporary = tempfile::Builder::new().prefix("netjail-test-").tempdir_in("/tmp").unwrap();
    let copy = temporary.path().join("netjail");
    lab::copy(lab::jail::binary(), &copy);
    demo(&Jail::new(), &copy).good();
}

#[test]
fn what_can_not_be_shown_is_netjails_own_failure() {
    let jail = Jail::new().env("TMPDIR", "/nonexistent");
    let finished = demo(&jail, Path::new(&lab::jail::binary()));
    assert_eq!(finished.code(), 125, "{finished:#?}");
    assert!(finished.err.contains("/nonexistent"), "{finished:#?}");
}
