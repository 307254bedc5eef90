//! The cages of netjail's own processes, seen from inside: a running role is made to try what somebody who had taken it over
//! would try. The same attempts are made in a process that is not caged, where they must be more than refused.
//!
//! For root, and for x86-64, whose registers the injector knows.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use lab::child::{role, tree};
use lab::inject::{Arg, Injected, Outcome};
use lab::{Behaviour, Jail, Proxy, TARGETS};
use nix::errno::Errno;

/// `struct sockaddr_in` of 127.0.0.1, port 9.
const ADDRESS: [u8; 16] = [2, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

/// What is tried; `other` is a process that could be harmed, `socket` a connected TCP socket of the process, or -1.
fn attempts(process: &mut Injected, other: i32, socket: i32) -> Vec<(&'static str, Outcome)> {
    use Arg::{Bytes, Number as N};
    let (other, socket) = (i64::from(other), i64::from(socket));
    let path = b"/etc/hostname\0";
    let mut all = Vec::new();
    let mut attempt = |name, number: libc::c_long, arguments: &[Arg<'_>]| {
        all.push((name, process.call(number, arguments)));
    };
    attempt("openat", libc::SYS_openat, &[N(-100), Bytes(path), N(0)]);
    attempt("open", libc::SYS_open, &[Bytes(path), N(0)]);
    attempt("openat2", libc::SYS_openat2, &[N(-100), Bytes(path), Bytes(&[0; 24]), N(24)]);
    // No such file: natively ENOENT, so that nothing is executed where it is allowed.
    attempt("execve", libc::SYS_execve, &[Bytes(b"/nonexistent\0"), N(0), N(0)]);
    attempt("execveat", libc::SYS_execveat, &[N(-100), Bytes(b"/nonexistent\0"), N(0), N(0), N(0)]);
    for (name, family, kind) in
        [("tcp", 2, 1), ("udp", 2, 2), ("tcp6", 10, 1), ("unix", 1, 1), ("netlink", 16, 3), ("packet", 17, 3)]
    {
        attempt(name, libc::SYS_socket, &[N(family), N(kind), N(0)]);
    }
    attempt("socketpair", libc::SYS_socketpair, &[N(1), N(1), N(0), Bytes(&[0; 8])]);
    attempt("kill", libc::SYS_kill, &[N(other), N(0)]);
    attempt("tgkill", libc::SYS_tgkill, &[N(other), N(other), N(0)]);
    attempt("pidfd_open", libc::SYS_pidfd_open, &[N(other), N(0)]);
    // Neither exists; natively ESRCH.
    attempt("ptrace", libc::SYS_ptrace, &[N(0x4206), N(0x3fff_fff0), N(0), N(0)]);
    attempt("process_vm_readv", libc::SYS_process_vm_readv, &[N(0x3fff_fff0), N(0), N(0), N(0), N(0), N(0)]);
    // Bad flags; natively EINVAL.
    attempt("clone", libc::SYS_clone, &[N(0x800), N(0), N(0), N(0), N(0)]);
    attempt("setns", libc::SYS_setns, &[N(-1), N(0)]);
    attempt("unshare", libc::SYS_unshare, &[N(0)]);
    attempt("mount", libc::SYS_mount, &[N(0), N(0), N(0), N(0), N(0)]);
    attempt("io_uring_setup", libc::SYS_io_uring_setup, &[N(1), N(0)]);
    attempt("bpf", libc::SYS_bpf, &[N(0), N(0), N(0)]);
    attempt("memory to execute", libc::SYS_mmap, &[N(0), N(4096), N(7), N(0x22), N(-1), N(0)]);
    attempt("prctl", libc::SYS_prctl, &[N(libc::PR_GET_DUMPABLE.into()), N(0), N(0), N(0), N(0)]);
    attempt("connect", libc::SYS_connect, &[N(socket), Bytes(&ADDRESS), N(16)]);
    attempt("bind", libc::SYS_bind, &[N(socket), Bytes(&ADDRESS), N(16)]);
    attempt("listen", libc::SYS_listen, &[N(socket), N(1)]);
    attempt("accept4", libc::SYS_accept4, &[N(socket), N(0), N(0), N(0)]);
    let fast_open = i64::from(libc::MSG_FASTOPEN);
    attempt("fast open", libc::SYS_sendto, &[N(socket), Bytes(b"x"), N(1), N(fast_open), Bytes(&ADDRESS), N(16)]);
    attempt("fast open by message", libc::SYS_sendmsg, &[N(socket), Bytes(&[0; 56]), N(fast_open)]);
    attempt("an address by message", libc::SYS_sendmsg, &[N(socket), Bytes(&[0; 56]), N(0)]);
    attempt("addresses by messages", libc::SYS_sendmmsg, &[N(socket), Bytes(&[0; 64]), N(1), N(0)]);
    attempt("fast open by option", libc::SYS_setsockopt, &[N(socket), N(6), N(30), Bytes(&[1, 0, 0, 0]), N(4)]);
    attempt("another device", libc::SYS_setsockopt, &[N(socket), N(1), N(25), Bytes(b"lo\0\0"), N(4)]);
    attempt("an address", libc::SYS_sendto, &[N(socket), Bytes(b"x"), N(0), N(0), Bytes(&ADDRESS), N(16)]);
    attempt("an interface", libc::SYS_ioctl, &[N(-1), N(0x4004_54ca), N(0)]);
    all
}

fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Errno::EPERM))
}

/// All but these are refused.
fn assert_refused(who: &str, outcomes: &[(&str, Outcome)], open: &[&str]) {
    let passed: Vec<_> = outcomes.iter().filter(|(name, outcome)| !refused(outcome) && !open.contains(name)).collect();
    assert!(passed.is_empty(), "{who} can: {passed:?}");
}

/// A TCP socket of a process.
fn socket_of(pid: i32) -> i32 {
    lab::wait_for("a TCP socket of the relay", std::time::Duration::from_secs(10), || {
        let all = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
        all.into_iter().find_map(|fd| {
            let link = std::fs::read_link(fd.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned();
            tcp.contains(&format!(" {inode} ")).then(|| fd.file_name().to_str().unwrap().parse().unwrap())
        })
    })
}

#[test]
fn a_process_without_a_cage_is_refused_none_of_it() {
    root_only!();
    let mut command = std::process::Command::new("sleep");
    command.arg("100");
    let bare = lab::Running::start(command);
    // Its last wait is the sleep itself.
    lab::wait_for("sleep", std::time::Duration::from_secs(5), || {
        let text = std::fs::read_to_string(format!("/proc/{}/syscall", bare.pid())).ok()?;
        text.starts_with(&libc::SYS_clock_nanosleep.to_string()).then_some(())
    });
    let outcomes = attempts(&mut Injected::stop(bare.pid()), bare.pid(), -1);
    // mount and bpf depend on the capabilities that the machine leaves to root.
    let same: Vec<_> = outcomes
        .iter()
        .filter(|(name, outcome)| refused(outcome) && !["mount", "bpf", "io_uring_setup", "packet"].contains(name))
        .collect();
    assert!(same.is_empty(), "these prove nothing: {same:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(bare.pid()), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn the_relay_of_a_proxy_can_open_execute_make_and_reach_nothing() {
    root_only!();
    for workers in ["1", "2"] {
        let proxy = Proxy::serving(Behaviour::Echo);
        let jail = Jail::socks5(proxy.addr, "").with(&["--workers", workers]);
        let line =
            format!("sleep 1000 | {p} idle {t} & read x; {p} echo {t} alive", p = lab::tool("probe"), t = TARGETS[0]);
        let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
        proxy.wait_asked(1);
        let relay = role(running.pid(), "nj-relay");
        let socket = socket_of(relay);
        for task in std::fs::read_dir(format!("/proc/{relay}/task")).unwrap().flatten() {
            let task: i32 = task.file_name().to_str().unwrap().parse().unwrap();
            let outcomes = attempts(&mut Injected::stop(task), running.pid(), socket);
            assert_refused(&format!("a relay with {workers} workers"), &outcomes, &[]);
        }
        let mut command = std::process::Command::new("nsenter");
        command.args([&format!("--net=/proc/{relay}/ns/net"), "ip", "-o", "link"]);
        let links = lab::child::run(command).good().out;
        assert_eq!(links.lines().count(), 1, "{links}");
        assert!(links.contains(" lo:") && links.contains("state DOWN") && !links.contains("UP"), "{links}");
        // It was stopped and made to try all that, and goes on.
        running.say("go\n");
        let done = running.finish().good();
        assert!(done.out.contains("5 alive"), "{done:?}");
    }
}

#[test]
fn the_relay_of_direct_can_only_dial() {
    root_only!();
    let jail = Jail::new();
    let mut running = jail.start("nil", &["sh", "-c", "echo up; read x"]);
    running.until("up");
    let relay = role(running.pid(), "nj-relay");
    let outcomes = attempts(&mut Injected::stop(relay), running.pid(), -1);
    assert_refused(
        "a direct relay",
        &outcomes,
        &["tcp", "udp", "tcp6", "connect", "an address", "addresses by messages"],
    );
    running.say("end\n");
    running.finish().good();
}

#[test]
fn the_mediator_and_its_worker_execute_nothing_and_make_no_socket() {
    root_only!();
    let jail = Jail::new();
    let mut running = jail.start("nil", &["sh", "-c", "echo up; read x"]);
    running.until("up");
    let front = running.pid();
    role(front, "nj-mediator");
    for (pid, name) in tree(front).into_iter().filter(|(_, name)| name == "nj-mediator") {
        let outcomes = attempts(&mut Injected::stop(pid), front, -1);
        // It looks paths up, connects on behalf of the jail, and its supervisor replaces its worker.
        let open = [
            "openat",
            "openat2",
            "socketpair",
            "kill",
            "tgkill",
            "pidfd_open",
            "process_vm_readv",
            "clone",
            "prctl",
            "connect",
            "another device",
            "an address by message",
            "an interface",
            "io_uring_setup",
        ];
        assert_refused(&name, &outcomes, &open);
    }
    running.say("end\n");
    running.finish().good();
}
