//! A host that systemd has booted, in a container of its own, for netjail as a unit.
//!
//! Root only: systemd-nspawn(1) boots a Debian tree that mmdebstrap(1) made once and that is kept as a tar in the cache.
//! The whole boot, the commands and the power-off take a few seconds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::child::{Finished, Running};

/// Why there can be none here, if so.
pub fn lack() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    ["systemd-nspawn", "mmdebstrap"]
        .iter()
        .find(|name| super::program(name).is_none())
        .map(|name| format!("{name} is not installed"))
        .or_else(|| tree().err())
}

const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session,iproute2,microsocks,curl";

/// The cached tar of the host's tree, made now if it is not there.
fn tree() -> Result<PathBuf, String> {
    let tar = super::real::cache().join("systemd-host.tar");
    if tar.exists() {
        return Ok(tar);
    }
    let fresh = tar.with_file_name("systemd-host-new.tar");
    let mut make = Command::new("mmdebstrap");
    make.args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&fresh);
    let done = Running::start(make).finish_within(Duration::from_secs(300));
    if done.code() != 0 {
        let last = done.err.lines().last().unwrap_or_default().to_owned();
        return Err(format!("mmdebstrap could not make a Debian tree: {last}"));
    }
    std::fs::rename(&fresh, &tar).map_err(|e| format!("{}: {e}", tar.display()))?;
    Ok(tar)
}

/// Boots a host in which a unit runs the script (as root, with `/netjail`, `/probe` and the given files), and stops it.
/// What is returned is what the script printed.
pub fn boot(script: &str, files: &[(&str, &str)]) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let mut unpack = Command::new("tar");
    unpack.arg("-C").arg(&root).arg("-xf").arg(tree().unwrap());
    super::child::run(unpack).good();
    super::copy(super::jail::binary(), &root.join("netjail"));
    super::copy(super::tool("probe"), &root.join("probe"));
    for (name, text) in files {
        std::fs::write(root.join(name.trim_start_matches('/')), text).unwrap();
    }
    std::fs::write(root.join("script"), format!("{UNMASK}\n{script}\n")).unwrap();
    std::fs::write(
        root.join("etc/systemd/system/script.service"),
        "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\n\
         ExecStart=/bin/sh -c 'sh /script >/result 2>&1; echo status $? >>/result'\n\
         [Install]\nWantedBy=default.target\n",
    )
    .unwrap();
    // With version 1 of the control groups, systemd in a container may not see that a unit's group has become empty after
    // its main process ended, and would wait for a minute and a half.
    std::fs::create_dir(root.join("etc/systemd/system.conf.d")).unwrap();
    std::fs::write(root.join("etc/systemd/system.conf.d/stop.conf"), "[Manager]\nDefaultTimeoutStopSec=3s\n").unwrap();
    let wants = root.join("etc/systemd/system/default.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink("/etc/systemd/system/script.service", wants.join("script.service")).unwrap();
    // Boots run side by side, and the name is also that of a folder of nspawn's.
    static BOOTS: AtomicU32 = AtomicU32::new(0);
    let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.env("SYSTEMD_SECCOMP", "0").env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
    nspawn.arg("-q").arg("-D").arg(&root);
    nspawn.args(["-b", "--private-network", "--register=no", "--keep-unit", "--capability=all", "--console=pipe"]);
    nspawn.args(["--bind=/dev/net/tun", &format!("--machine=netjail-test-{}-{boot}", std::process::id())]);
    let mut host = Running::start(nspawn);
    let end = std::time::Instant::now() + Duration::from_secs(120);
    let out = loop {
        let out = std::fs::read_to_string(root.join("result")).unwrap_or_default();
        if out.lines().any(|line| line.starts_with("status ")) {
            break out;
        }
        assert!(!host.ended(), "the host went down; the script printed {out:?}");
        if std::time::Instant::now() > end {
            stop(&host);
            panic!("the script did not end; it printed {out:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stop(&host);
    Finished { out, ..host.finish() }
}

/// Pulls the host's plug: a power-off may wait for an event that a container never sees. The host would outlive nspawn.
fn stop(host: &Running) {
    for (pid, _) in super::child::tree(host.pid()).into_iter().filter(|(_, comm)| comm == "systemd") {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// nspawn mounts over parts of /proc, and the kernel then refuses a fresh proc in a user namespace.
const UNMASK: &str = "for m in /proc/sys/net /proc/sys /proc/acpi /proc/bus /proc/fs /proc/irq /proc/scsi /proc/kcore \
/proc/keys /proc/sysrq-trigger /proc/timer_list /proc/sys/kernel/random/boot_id /proc/kmsg; do \
while umount $m 2>/dev/null; do :; done; done";
