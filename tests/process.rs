//! A command in a jail is the command: its status, streams, signals, limits and folder are what they are without one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::time::Duration;

use lab::{Jail, Running};
use nix::sys::signal::Signal;

/// Needs no proxy: these tests open no connection.
fn jail() -> Jail {
    Jail::socks5(lab::servers::refusing(), "")
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let jail = jail();
    for code in [0, 1, 2, 42, 124, 255] {
        assert_eq!(jail.shell("app:proxy", &format!("exit {code}")).status.code(), Some(code));
    }
}

#[test]
fn codes_126_127_and_125_are_a_shells_and_netjails_own() {
    let jail = jail();
    let plain = jail.work().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    assert_eq!(jail.run("app:proxy", &[plain.to_str().unwrap()]).code(), 126, "not executable");
    assert_eq!(jail.run("app:proxy", &["/"]).code(), 126, "a folder");
    let done = jail.run("app:proxy", &["no-such-command"]);
    assert_eq!(done.code(), 127);
    assert!(done.err.contains("no-such-command"), "{done:?}");
    assert_eq!(jail.run("app:proxy", &[""]).code(), 127, "no name at all");
    assert_eq!(jail.run("app:nowhere", &["true"]).code(), 125, "an unknown network");
    let none: [&str; 0] = [];
    assert_eq!(lab::child::run(jail.netjail(&["run", "--no-such-flag"])).code(), 125, "usage");
    assert_ne!(lab::child::run(jail.netjail(&none)).code(), 0);
}

#[test]
fn a_death_by_signal_is_the_same_death_outside() {
    let jail = jail();
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGINT, Signal::SIGPIPE] {
        let line = format!("ulimit -c 0; kill -{} $$", signal as i32);
        let done = jail.shell("app:proxy", &line);
        assert_eq!(done.status.signal(), Some(signal as i32), "{done:?}");
    }
}

#[test]
fn signals_sent_to_netjail_reach_the_command() {
    let jail = jail();
    for name in ["TERM", "HUP", "USR1", "USR2"] {
        let line = format!("trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done");
        let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
        running.until("ready");
        running.signal(format!("SIG{name}").parse().unwrap());
        let done = running.finish();
        assert!(done.out.contains(&format!("got {name}")), "{done:?}");
        assert_eq!(done.code(), 7);
    }
}

#[test]
fn every_signal_that_a_program_can_catch_reaches_it_through_netjail() {
    const CATCH: &str = "import os, signal, sys
number = int(sys.argv[1])
def caught(*_):
    os._exit(7)
signal.signal(number, caught)
print('ready', flush=True)
while True:
    signal.pause()
";
    let jail = jail();
    let numbers =
        [libc::SIGINT, libc::SIGALRM, libc::SIGWINCH, libc::SIGCONT, libc::SIGPIPE, libc::SIGIO, libc::SIGABRT];
    for number in numbers.into_iter().chain([libc::SIGRTMIN(), libc::SIGRTMIN() + 1, libc::SIGRTMAX()]) {
        let mut running = jail.start("app:proxy", &["python3", "-c", CATCH, &number.to_string()]);
        running.until("ready");
        // SAFETY: kill takes two integers; the process is a child of this one.
        unsafe { libc::kill(running.pid(), number) };
        let done = running.finish();
        assert_eq!(done.code(), 7, "signal {number}: {done:?}");
    }
}

#[test]
fn a_death_by_a_real_time_signal_is_the_same_death_outside() {
    let number = libc::SIGRTMIN() + 6;
    let done = jail().shell("app:proxy", &format!("kill -{number} $$"));
    assert_eq!(done.status.signal(), Some(number), "{done:?}");
}

#[test]
fn a_signal_during_the_start_ends_it_whatever_the_stage() {
    let jail = jail();
    for delay in (0..30).map(Duration::from_millis) {
        let running = jail.start("app:proxy", &["sleep", "30"]);
        // No state to wait for: the moment is the point.
        std::thread::sleep(delay);
        running.signal(Signal::SIGTERM);
        let done = running.finish_within(Duration::from_secs(10));
        assert_eq!(done.status.signal(), Some(Signal::SIGTERM as i32), "after {delay:?}: {done:?}");
    }
}

#[test]
fn netjails_own_processes_can_be_ended_by_their_alarms() {
    let jail = jail();
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo ready; exec sleep 600"]);
    running.until("ready");
    for (pid, name) in lab::child::tree(running.pid()).iter().filter(|(_, name)| name.starts_with("nj-")) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
        let blocked = u64::from_str_radix(blocked, 16).unwrap();
        assert_eq!(blocked & (1 << (libc::SIGALRM - 1)), 0, "{name} blocks SIGALRM");
    }
}

#[test]
fn exec_does_not_get_the_variables_that_hold_secrets() {
    let jail = jail()
        .with_socks5("login", lab::servers::refusing(), "username: me, password: \"${env:PROXY_PASSWORD_HERE}\"")
        .env("PROXY_PASSWORD_HERE", "correct-horse")
        .with(&["--name", "lab-secret"]);
    let mut running = jail.start("app:login", &["sh", "-c", "env; echo ready; exec sleep 600"]);
    let seen = running.until("ready");
    let done = lab::child::run(jail.netjail(&["exec", "lab-secret", "--", "env"])).good();
    assert!(done.out.contains("PATH="), "{done:?}");
    for text in [seen, done.out] {
        assert!(!text.contains("PROXY_PASSWORD_HERE") && !text.contains("correct-horse"), "{text}");
    }
}

#[test]
fn streams_pass_through_unchanged_and_apart() {
    let jail = jail();
    let mut running = jail.start("app:proxy", &["sh", "-c", "cat; echo oops >&2"]);
    running.say("one\ntwo\0\u{1}\n");
    let done = running.finish().good();
    assert_eq!((done.out.as_str(), done.err.as_str()), ("one\ntwo\0\u{1}\n", "oops\n"));
}

#[test]
fn a_megabyte_through_stdin_and_stdout_is_the_same_megabyte() {
    let jail = jail();
    let mut running = jail.start("app:proxy", &["sha256sum"]);
    running.say(&"0123456789abcdef".repeat(65536));
    let inside = running.finish().good().out;
    let mut outside = Running::start(std::process::Command::new("sha256sum"));
    outside.say(&"0123456789abcdef".repeat(65536));
    assert_eq!(inside, outside.finish().good().out);
}

#[test]
fn streams_may_be_files_or_dev_null() {
    let jail = jail();
    let (from, to) = (jail.work().join("from"), jail.work().join("to"));
    std::fs::write(&from, "text").unwrap();
    let netjail = jail.run_command("app:proxy", &["cat"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$@\" <from >to 2>/dev/null", "sh"]).arg(netjail.get_program()).args(netjail.get_args());
    command.current_dir(jail.work());
    lab::child::run(command).good();
    assert_eq!(std::fs::read_to_string(to).unwrap(), "text");
}

#[test]
fn a_folder_on_stdin_is_refused_by_name() {
    let jail = jail();
    let netjail = jail.run_command("app:proxy", &["true"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$@\" <.", "sh"]).arg(netjail.get_program()).args(netjail.get_args());
    command.current_dir(jail.work());
    let done = lab::child::run(command);
    assert_eq!(done.code(), 125, "{done:?}");
    assert!(done.err.contains("directory") || done.err.contains("folder"), "{done:?}");
}

#[test]
fn folder_mask_and_limits_are_the_callers() {
    let jail = jail();
    let mut command =
        jail.run_command("app:proxy", &["sh", "-c", "pwd; umask; ulimit -Sn; ulimit -c; ulimit -Ss; id -u"]);
    // SAFETY: umask and setrlimit are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            use nix::sys::resource::{Resource, setrlimit};
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
            setrlimit(Resource::RLIMIT_NOFILE, 333, 4096)?;
            setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
            Ok(setrlimit(Resource::RLIMIT_STACK, 4 << 20, 8 << 20)?)
        });
    }
    let done = lab::child::run(command).good();
    let lines: Vec<&str> = done.out.lines().collect();
    let uid = nix::unistd::getuid().to_string();
    assert_eq!(lines, [jail.work().to_str().unwrap(), "0027", "333", "0", "4096", &uid], "{done:?}");
}

#[test]
fn no_descriptor_but_the_streams_crosses() {
    let jail = jail();
    let done = jail.shell("app:proxy", "ls -l /proc/self/fd");
    let kept: Vec<&str> = done
        .out
        .lines()
        .filter_map(|l| l.split_whitespace().rev().nth(2))
        .filter(|fd| fd.parse::<u32>().is_ok_and(|n| n > 2))
        .collect();
    // ls itself has the folder open.
    assert!(kept.len() <= 1, "{done:?}");
}

#[test]
fn the_environment_passes_but_for_what_points_out_of_the_jail() {
    let jail = jail()
        .env("KEPT", "yes")
        .env("SSH_AUTH_SOCK", "/nowhere/agent")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .env("TMUX", "/nowhere/tmux,1,0")
        .env("DOCKER_HOST", "unix:///nowhere")
        .env("https_proxy", "http://127.0.0.1:1")
        .env("ALL_PROXY", "socks5://127.0.0.1:1")
        .env("LISTEN_FDS", "1")
        .env("SSH_CONNECTION", "203.0.113.1 1 203.0.113.2 22")
        .env("KUBERNETES_SERVICE_HOST", "203.0.113.3")
        .env("HOSTNAME", "planted-host");
    let done = jail.run("app:proxy", &["env"]).good();
    let names: Vec<&str> = done.out.lines().filter_map(|l| l.split_once('=')).map(|(k, _)| k).collect();
    for kept in ["KEPT", "HOME", "PATH", "TERM", "LANG"] {
        assert!(names.contains(&kept), "{kept}: {names:?}");
    }
    for dropped in [
        "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS",
        "TMUX",
        "DOCKER_HOST",
        "https_proxy",
        "ALL_PROXY",
        "LISTEN_FDS",
        "SSH_CONNECTION",
        "KUBERNETES_SERVICE_HOST",
        "XDG_RUNTIME_DIR",
    ] {
        assert!(!names.contains(&dropped), "{dropped}: {names:?}");
    }
    assert!(!done.out.contains("planted-host"), "{done:?}");
}

#[test]
fn the_environment_can_be_set_and_emptied() {
    let jail = jail().env("KEPT", "yes").with(&["--env-clear", "--env", "ONE=1"]);
    let done = jail.run("app:proxy", &["/usr/bin/env"]).good();
    assert!(done.out.contains("ONE=1") && !done.out.contains("KEPT"), "{done:?}");
}

#[test]
fn it_works_without_a_runtime_folder_and_without_a_home() {
    let jail = jail();
    let mut command = jail.run_command("app:proxy", &["echo", "fine"]);
    command.env_remove("XDG_RUNTIME_DIR");
    assert_eq!(lab::child::run(command).good().out, "fine\n");
}

#[test]
fn the_tree_ends_with_the_command() {
    let jail = jail();
    let line = "setsid sh -c 'trap \"\" TERM HUP INT; echo deep; exec sleep 987' & while ! false; do sleep 0.1; [ -e go ] && exit 3; done";
    let mut running = jail.start("app:proxy", &["sh", "-c", line]);
    running.until("deep");
    let tree = lab::child::tree(running.pid());
    assert!(tree.iter().any(|(_, comm)| comm == "sleep"), "{tree:?}");
    std::fs::write(jail.work().join("go"), "").unwrap();
    assert_eq!(running.finish().code(), 3);
    lab::child::all_gone("the jail's tree", &tree);
}

#[test]
fn wait_waits_for_daemonised_descendants() {
    let jail = jail().with(&["--wait"]);
    let line = "(setsid sh -c 'sleep 0.7; echo late >late' >/dev/null 2>&1 &) ; exit 5";
    let done = jail.run("app:proxy", &["sh", "-c", line]);
    assert_eq!(done.code(), 5, "{done:?}");
    assert!(jail.work().join("late").exists());
}

#[test]
fn run_is_silent_while_all_is_well() {
    let done = jail().run("app:proxy", &["true"]).good();
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""));
}

#[test]
fn what_the_command_starts_as_pid_and_parent_is_of_the_jail() {
    let done = jail().shell("app:proxy", "readlink /proc/self/ns/pid; ls /proc | grep -c '^[0-9]'").good();
    let lines: Vec<&str> = done.out.lines().collect();
    assert_ne!(lines[0], std::fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap());
    assert!(lines[1].parse::<u32>().unwrap() < 8, "only the jail's own processes are to be seen: {done:?}");
}

#[test]
fn a_hundred_jails_in_a_row_and_ten_at_once_all_work() {
    let jail = jail();
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        jail.run("app:proxy", &["true"]).good();
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let all: Vec<Running> = (0..10).map(|_| jail.start("app:proxy", &["sleep", "0.3"])).collect();
    for running in all {
        running.finish().good();
    }
}

#[test]
fn exec_does_not_carry_the_variable_of_a_secret_into_the_jail() {
    let jail = Jail::socks5(lab::servers::refusing(), "username: u, password: \"${env:LAB_SECRET}\"")
        .env("LAB_SECRET", "s3cr3t")
        .env("LAB_OTHER", "plain")
        .with(&["--name", "lab-secret"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo ready; exec sleep 600"]);
    running.until("ready");
    let inside = lab::child::run(jail.netjail(&["exec", "lab-secret", "--", "env"]));
    assert!(inside.out.contains("LAB_OTHER=plain") && !inside.out.contains("LAB_SECRET"), "{inside:?}");
    running.signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn ps_exec_and_stop_find_a_jail_by_its_name() {
    let jail = jail().with(&["--name", "lab-one"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo ready; exec sleep 600"]);
    running.until("ready");
    let listed = lab::child::run(jail.netjail(&["ps"])).good();
    assert!(listed.out.contains("lab-one"), "{listed:?}");
    let mut inside =
        Running::start(jail.netjail(&["exec", "lab-one", "--", "sh", "-c", "cat; readlink /proc/self/ns/net; exit 9"]));
    inside.say("through exec\n");
    let done = inside.finish();
    assert_eq!(done.code(), 9, "{done:?}");
    assert!(done.out.starts_with("through exec\n"), "{done:?}");
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!done.out.contains(here.to_str().unwrap()), "{done:?}");
    let tree = lab::child::tree(running.pid());
    lab::child::run(jail.netjail(&["stop", "lab-one"])).good();
    assert!(running.finish().code() >= 125);
    lab::child::all_gone("a stopped jail", &tree);
    let listed = lab::child::run(jail.netjail(&["ps"])).good();
    assert!(!listed.out.contains("lab-one"), "{listed:?}");
    assert_ne!(lab::child::run(jail.netjail(&["exec", "lab-one", "--", "true"])).code(), 0);
}

#[test]
fn two_jails_of_one_name_are_refused() {
    let jail = jail().with(&["--name", "lab-twin"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo ready; exec sleep 600"]);
    running.until("ready");
    let done = jail.run("app:proxy", &["true"]);
    assert_eq!(done.code(), 125, "{done:?}");
    assert!(done.err.contains("lab-twin"), "{done:?}");
}

#[test]
fn a_file_that_a_client_of_exec_gives_for_reading_can_not_be_written() {
    let jail = Jail::socks5("127.0.0.1:9".parse().unwrap(), "").with(&["--name", "reads"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo up; read x"]);
    running.until("up");
    let file = jail.home().join("input");
    std::fs::write(&file, "the text\n").unwrap();
    let line = "cat; { echo forged >/proc/self/fd/0; } 2>&1";
    let mut command = jail.netjail(&["exec", "reads", "--", "sh", "-c", line]);
    command.stdin(std::fs::File::open(&file).unwrap());
    let said = command.output().unwrap();
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(out.starts_with("the text\n") && out.contains("Read-only"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "the text\n");
}

#[test]
fn a_jail_does_not_change_the_priority_of_its_callers_process_group() {
    require!(lab::program("python3").is_some(), "no python3");
    let jail = jail();
    // The shell, what it waits for and the jail's command are one process group, as in any script.
    let inside = "import os; os.setpriority(os.PRIO_PGRP, 0, 7)";
    let registry = jail.registry_file();
    let line = format!(
        "sleep 987 & \"$0\" run -q --registry {} --network app:proxy -- python3 -c '{inside}'; ps -o ni= -p $!; kill $!",
        registry.display()
    );
    let sh = lab::program("sh").unwrap();
    let done = lab::child::run(jail.command(&sh, &["-c", &line, &lab::jail::binary()]));
    assert_eq!(done.out.trim(), "0", "{done:?}");
}
