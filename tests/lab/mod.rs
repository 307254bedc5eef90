//! What the tests stand on: real servers, a scripted proxy, namespaces, a terminal, and netjail itself as a child with a
//! deadline.
//!
//! Nothing here waits for a length of time where it can wait for a state, and nothing waits without a deadline. Every
//! process that is started dies with the test's process, however that ends. All traffic stays on loopback (dynamic ports)
//! or in namespaces made here.

#![allow(dead_code, unused_imports, reason = "each test file is a program of its own and uses a part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken lab is a failed test")]

pub mod child;
pub mod host;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod jail;
pub mod proxy;
pub mod pty;
pub mod real;
pub mod servers;
pub mod systemd;
pub mod tor;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use child::{Finished, Running};
pub use jail::Jail;
pub use proxy::{Answer, Proxy};
pub use servers::{Behaviour, Server};

/// Skips the test, loudly and counted, where the machine lacks something; in CI (`CI=true`) a lack is a failure.
#[macro_export]
macro_rules! require {
    ($condition:expr, $($why:tt)*) => {
        if !$condition {
            fn here() {}
            $crate::lab::skip(std::any::type_name_of_val(&here), &format!($($why)*));
            return;
        }
    };
}

/// See [`require!`]. `scripts/test` counts the lines of the file that NETJAIL_SKIPS names.
pub fn skip(place: &str, why: &str) {
    let test = place.trim_end_matches("::here");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test} can not run here: {why}");
    note_skip(place, why);
}

/// See [`root_only!`].
pub fn note_skip(place: &str, why: &str) {
    let test = place.trim_end_matches("::here");
    // Not eprintln!: that is captured, and a skip must be seen.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {test}: {why}");
    if let Ok(path) = std::env::var("NETJAIL_SKIPS") {
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

/// A file of the source tree. `scripts/test` names another place where an ordinary user can read it.
pub fn source(path: &str) -> PathBuf {
    let tree = std::env::var_os("NETJAIL_SOURCE").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(tree).join(path)
}

/// Is there such a program in PATH (or in the folders that an ordinary user's PATH leaves out)?
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin"])
        .map(|folder| PathBuf::from(folder).join(name))
        // What lies in root's home (pyenv's and rustup's shims) is not for a jail to depend on.
        .find(|file| !file.starts_with("/root") && file.is_file())
}

/// Skips what is about root's own doings; the run as root has it, so this is no lack even in CI.
#[macro_export]
macro_rules! root_only {
    () => {
        if !$crate::lab::is_root() {
            fn here() {}
            $crate::lab::note_skip(
                std::any::type_name_of_val(&here),
                "it is about what root does, and part of the run as root",
            );
            return;
        }
    };
}

/// Is this process root?
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The ordinary user whom a run as root may become: the one whom NETJAIL_TEST_USER names (`scripts/test` makes one).
pub fn ordinary_user() -> Option<nix::unistd::User> {
    let name = std::env::var("NETJAIL_TEST_USER").unwrap_or_else(|_| "netjail-test".into());
    nix::unistd::User::from_name(&name).unwrap()
}

/// One of the helper programs of `tests/tools`, which `cargo test` builds beside the tests.
pub fn tool(name: &str) -> String {
    let tests = std::env::current_exe().unwrap();
    let file = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(file.is_file(), "{} is missing: cargo build --example {name}", file.display());
    file.to_str().unwrap().to_owned()
}

/// Copies a program by a process of its own: a thread of this one that forks meanwhile would hold the copy open for writing, and
/// nobody could execute it (ETXTBSY).
pub fn copy(from: impl AsRef<std::ffi::OsStr>, to: &std::path::Path) {
    assert!(std::process::Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap().success());
}

/// Waits until the closure gives something; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut state: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = state() {
            return value;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// The smallest usual MTU and the default one: properties of the stack are tested at both.
pub const MTUS: [&str; 2] = ["65520", "1500"];

/// A literal of each family and a name: the three ways to say where to. No such machine exists.
pub const TARGETS: [&str; 3] = ["203.0.113.10:80", "[2001:db8:9::10]:80", "some.test:80"];
