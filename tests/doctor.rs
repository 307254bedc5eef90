//! `doctor` on machines that lack something: each lack is made for real, in a namespace or by a filter, and `doctor` names it
//! with its remedy; where it is required, the status says so and `run` refuses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::os::unix::process::CommandExt;
use std::process::Command;

use lab::{Finished, Jail};
use serde_json::Value;

/// A shell's line as this user, with netjail as `$0`.
fn shell(jail: &Jail, launcher: &[&str], line: &str) -> Finished {
    let binary = lab::jail::binary();
    let words = [&launcher[1..], &["sh", "-c", line, &binary]].concat();
    lab::child::run(jail.command(&lab::program(launcher[0]).unwrap(), &words))
}

/// One row of `doctor --json`.
fn row(out: &str, name: &str) -> Value {
    let rows: Vec<Value> = serde_json::from_str(out).unwrap_or_else(|e| panic!("{e}: {out}"));
    rows.into_iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}: {out}"))
}

/// The row is missing, with a remedy that holds a word.
fn assert_missing(out: &str, name: &str, remedy: &str) {
    let row = row(out, name);
    assert_eq!(row["state"], "missing", "{row}");
    assert!(row["remedy"].as_str().unwrap().contains(remedy), "{row}");
}

/// A user namespace and a mount namespace of its own: what an ordinary user may change there.
const APART: [&str; 2] = ["unshare", "-Urm"];

#[test]
fn on_this_machine_every_required_row_is_there() {
    let done = lab::child::run(Jail::new().netjail(&["doctor"])).good();
    assert!(done.out.contains("jails can be built here"), "{done:?}");
    let nothing = lab::child::run(Jail::new().netjail(&["doctor", "--fix"]));
    let restricted = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricted.is_ok_and(|text| text.trim() == "1") {
        return lab::note_skip("--fix without a need", "AppArmor restricts user namespaces here");
    }
    assert!(nothing.code() == 0 && nothing.err.contains("nothing to repair"), "{nothing:?}");
}

#[test]
fn without_user_namespaces() {
    let jail = Jail::new();
    let line = "echo 0 >/proc/sys/user/max_user_namespaces && \"$0\" doctor --json";
    let done = shell(&jail, &APART, line);
    assert_eq!(done.code(), 1, "{done:?}");
    assert_missing(&done.out, "max-user-namespaces", "user.max_user_namespaces=");
    assert_eq!(row(&done.out, "user-namespace")["state"], "missing");
    let run = shell(&jail, &APART, "echo 0 >/proc/sys/user/max_user_namespaces && \"$0\" run --network nil -- true");
    assert!(run.code() == 125 && run.err.contains("max-user-namespaces"), "{run:?}");
}

#[test]
fn without_the_tun_device() {
    let jail = Jail::new();
    let hide = "mount -t tmpfs t /dev/net";
    let done = shell(&jail, &APART, &format!("{hide} && \"$0\" doctor --json"));
    assert_eq!(done.code(), 1, "{done:?}");
    assert_missing(&done.out, "tun-device", "modprobe tun");
    let run = shell(&jail, &APART, &format!("{hide} && \"$0\" run --network nil -- true"));
    assert!(run.code() == 125 && run.err.contains("modprobe tun"), "{run:?}");
}

#[test]
fn with_a_tun_device_that_is_closed_to_this_user() {
    root_only!();
    require!(nix::unistd::User::from_name("nobody").unwrap().is_some(), "there is no user nobody");
    let place = lab::real::cache().join("closed");
    std::fs::create_dir_all(&place).unwrap();
    let folder = tempfile::tempdir_in("/opt").or_else(|_| tempfile::tempdir()).unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.path().join("netjail");
    lab::copy(lab::jail::binary(), &copy);
    let line = format!(
        "mount -t tmpfs t /dev/net && mknod -m 600 /dev/net/tun c 10 200 && cd / && \
         setpriv --reuid nobody --regid nogroup --clear-groups env HOME=/ {} doctor --json",
        copy.display()
    );
    let done = shell(&Jail::new(), &["unshare", "-m"], &line);
    assert_eq!(done.code(), 1, "{done:?}");
    assert_missing(&done.out, "tun-device", "chmod 0666 /dev/net/tun");
    assert!(row(&done.out, "tun-device")["found"].as_str().unwrap().contains("0600"));
}

#[test]
fn with_a_proc_that_is_covered_as_in_a_container() {
    let jail = Jail::new();
    let cover = "mount --bind /dev/null /proc/timer_list 2>/dev/null || mount --bind /dev/null /proc/kcore";
    let done = shell(&jail, &APART, &format!("{cover}; \"$0\" doctor --json"));
    assert_eq!(done.code(), 1, "{done:?}");
    assert_missing(&done.out, "fresh-proc", "systempaths=unconfined");
    assert_eq!(row(&done.out, "fresh-proc")["accept"], "--proc host-masked");
    let run = |flags: &str| shell(&jail, &APART, &format!("{cover}; \"$0\" run {flags} --network nil -- echo ran"));
    let refused = run("");
    assert!(refused.code() == 125 && refused.err.contains("--proc host-masked"), "{refused:?}");
    assert_eq!(run("--proc host-masked").good().out, "ran\n", "the flag that the row names accepts it");
}

/// The command with one system call that its kernel does not have.
fn without_call(command: Command, number: libc::c_long) -> Command {
    refusing_call(command, number, libc::ENOSYS)
}

/// The command with one system call that always fails.
fn refusing_call(mut command: Command, number: libc::c_long, errno: i32) -> Command {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: only prctl is called between fork and exec, with memory that the closure owns.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            let set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0;
            if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    command
}

#[test]
fn on_a_kernel_or_in_a_container_without_a_required_call() {
    for (number, name) in [
        (libc::SYS_clone3, "clone3"),
        (libc::SYS_close_range, "close-range"),
        (libc::SYS_seccomp, "seccomp-notify"),
        (libc::SYS_pidfd_getfd, "pidfd-getfd"),
        (libc::SYS_process_vm_readv, "process-vm"),
        (libc::SYS_openat2, "openat2"),
        (libc::SYS_fsopen, "mount-api"),
    ] {
        let jail = Jail::new();
        let done = lab::child::run(without_call(jail.netjail(&["doctor", "--json"]), number));
        assert_eq!(done.code(), 1, "{name}: {done:?}");
        let row = row(&done.out, name);
        assert!(row["state"] == "missing" && row["required"] == true && row["remedy"].is_string(), "{row}");
    }
}

#[test]
fn a_limit_of_processes_is_no_lack_of_the_machines() {
    let jail = Jail::new();
    let run = refusing_call(jail.netjail(&["run", "--network", "nil", "--", "true"]), libc::SYS_clone3, libc::EAGAIN);
    let done = lab::child::run(run);
    assert!(done.code() == 125 && done.err.contains("ulimit -u") && done.err.contains("pids.max"), "{done:?}");
    assert!(!done.err.contains("sysctl") && !done.err.contains("netjail doctor"), "{done:?}");
}

#[test]
fn on_a_kernel_without_what_is_one_layer_only() {
    let jail = Jail::new();
    let done = lab::child::run(without_call(jail.netjail(&["doctor", "--json"]), libc::SYS_landlock_create_ruleset));
    assert_eq!(done.code(), 0, "a layer is no requirement: {done:?}");
    assert_eq!(row(&done.out, "landlock")["state"], "missing");
    assert_missing(&done.out, "landlock-scopes", "6.12");
    // And jails are built, with the other answer to signals for the caller's process group.
    let words = ["run", "-q", "--network", "nil", "--", "sh", "-c", "kill 0 && echo killed; echo lives"];
    let run = lab::child::run(without_call(jail.netjail(&words), libc::SYS_landlock_create_ruleset));
    assert!(run.out == "lives\n", "{run:?}");
}
