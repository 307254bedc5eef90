//! Probes that build a piece of a jail: namespaces, mounts, the device.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::finding::Finding;
use super::machine;
use super::trial::{Caller, Failure, Outcome, check, in_child, in_jail_namespaces, step};
use crate::jail::counters;
use crate::tun;

const USERNS_REMEDY: &str = "sudo sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 (for good: the same lines in /etc/sysctl.d/60-netjail.conf); in a container the seccomp profile has to allow unshare and clone";

/// The remedy of a row that says nothing of its own.
pub const EARLIER: &str = "repair the namespaces first (rows above)";

fn restricted() -> bool {
    machine::read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
}

pub fn apparmor() -> Finding {
    if !restricted() {
        return Finding::ok("not restricted");
    }
    // A profile with the rule `userns,` shows as this process's own label.
    match network() {
        finding if finding.is_ok() => Finding::ok("restricted, and lifted for this program"),
        _ => Finding::missing(
            "1, and no profile lifts it for this program",
            "sudo netjail doctor --fix (writes /etc/apparmor.d/netjail), or sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
}

/// Whether this is the refusal that AppArmor's restriction causes: a user namespace that can do nothing.
fn is_apparmor(errno: Errno) -> bool {
    restricted() && matches!(errno, Errno::EPERM | Errno::EACCES) && !nix::unistd::Uid::effective().is_root()
}

fn finding(outcome: Outcome, works: &str, remedy: &str) -> Finding {
    match outcome {
        Ok(()) => Finding::ok(works),
        Err(failure) if is_apparmor(failure.errno) => {
            Finding::missing(format!("{failure} (AppArmor restricts user namespaces)"), "sudo netjail doctor --fix")
        }
        Err(failure) if failure.errno == Errno::EAGAIN => Finding::missing(failure, counters::TOO_MANY_PROCESSES),
        Err(failure) if failure.is_earlier() => Finding::missing(failure, EARLIER),
        Err(failure) => Finding::missing(failure, remedy),
    }
}

pub fn user() -> Finding {
    let caller = Caller::new();
    let outcome = in_child(|| {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(step("make the namespaces"))?;
        caller.map_self()
    });
    match outcome {
        Err(failure) if failure.errno == Errno::ENOENT => Finding::missing(
            format!("{failure} (there is no /proc)"),
            "sudo mount -t proc proc /proc; in a chroot: mount one into it",
        ),
        // Here they are made for the first time: no earlier row is to be repaired.
        Err(failure) if failure.is_earlier() && !is_apparmor(failure.errno) && failure.errno != Errno::EAGAIN => {
            Finding::missing(failure, USERNS_REMEDY)
        }
        other => finding(other, "made", USERNS_REMEDY),
    }
}

fn with_user(flag: CloneFlags, name: &str) -> Finding {
    let caller = Caller::new();
    let outcome = in_child(|| {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(step("make the namespaces"))?;
        caller.map_self()?;
        unshare(flag).map_err(step(&format!("make a {name} namespace")))
    });
    let remedy = format!(
        "raise its limit: sudo sysctl -w user.max_{}_namespaces=15000; EINVAL: use a kernel that has it",
        match name {
            "network" => "net",
            "mount" => "mnt",
            other => other,
        }
    );
    finding(outcome, "made", &remedy)
}

pub fn network() -> Finding {
    with_user(CloneFlags::CLONE_NEWNET, "network")
}

pub fn mounts() -> Finding {
    with_user(CloneFlags::CLONE_NEWNS, "mount")
}

pub fn pid() -> Finding {
    with_user(CloneFlags::CLONE_NEWPID, "pid")
}

pub fn uts() -> Finding {
    with_user(CloneFlags::CLONE_NEWUTS, "uts")
}

pub fn ipc() -> Finding {
    with_user(CloneFlags::CLONE_NEWIPC, "ipc")
}

pub fn cgroup() -> Finding {
    with_user(CloneFlags::CLONE_NEWCGROUP, "cgroup")
}

/// clone3(2) with all of them at once, and the second user namespace below.
pub fn nested() -> Finding {
    let caller = Caller::new();
    let outcome = in_jail_namespaces(|| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(step("make the second user namespace"))?;
        caller.map_self()
    });
    finding(outcome, "clone3 makes all at once, and a second user namespace below", USERNS_REMEDY)
}

pub fn tun_works() -> Finding {
    let outcome = in_jail_namespaces(|| {
        let opened = tun::open(tun::Source::Path(Path::new("/dev/net/tun")), "tun0", 1);
        opened.map(drop).map_err(|e| {
            let errno = match &e {
                tun::TunError::Missing { .. } => Errno::ENOENT,
                tun::TunError::Forbidden { .. } => Errno::EACCES,
                tun::TunError::Setup { source, .. } | tun::TunError::Open { source, .. } => {
                    Errno::from_raw(source.raw_os_error().unwrap_or(libc::EIO))
                }
                tun::TunError::Argument { .. } => Errno::EINVAL,
            };
            Failure { step: "make a TUN device in a new network namespace".into(), errno }
        })
    });
    finding(outcome, "a device was made in a new network namespace", "sudo modprobe tun; sudo chmod 0666 /dev/net/tun")
}

const PROC_REMEDY: &str = "docker: --security-opt systempaths=unconfined; podman: --security-opt unmask=ALL; Kubernetes: procMount: Unmasked with hostUsers: false; systemd unit: ProtectKernelTunables=no ProtectKernelLogs=no ProtectProc=default ProcSubset=all; systemd-nspawn: umount what covers parts of /proc";

pub fn fresh_proc() -> Finding {
    let outcome = in_jail_namespaces(|| {
        private()?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).map_err(step("mount a fresh /proc"))
    });
    let covered = machine::covered_proc();
    let remedy = if covered.is_empty() { PROC_REMEDY.to_owned() } else { format!("{PROC_REMEDY}. Covered: {covered}") };
    finding(outcome, "mounted", &remedy)
}

pub fn fresh_sysfs() -> Finding {
    let outcome = in_jail_namespaces(|| {
        private()?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).map_err(step("mount a fresh /sys"))
    });
    finding(outcome, "mounted", "uncover /sys, as for fresh-proc")
}

pub fn overlay() -> Finding {
    let outcome = in_jail_namespaces(|| {
        private()?;
        mount(Some("tmpfs"), "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(step("mount a tmpfs"))?;
        for folder in ["/proc/u", "/proc/w", "/proc/m"] {
            std::fs::create_dir(folder).map_err(step("make a folder"))?;
        }
        let options = "lowerdir=/etc,upperdir=/proc/u,workdir=/proc/w,userxattr";
        mount(Some("overlay"), "/proc/m", Some("overlay"), MsFlags::empty(), Some(options))
            .map_err(step("mount an overlay over /etc"))
    });
    finding(outcome, "mounted in a user namespace", "sudo modprobe overlay, or use Linux 5.11 or later")
}

pub fn mount_api() -> Finding {
    let outcome = in_jail_namespaces(|| {
        private()?;
        // SAFETY: the name is a terminated string.
        let context = check("fsopen", unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1) })?;
        // SAFETY: CREATE (6) takes neither key nor value.
        check("fsconfig", unsafe { libc::syscall(libc::SYS_fsconfig, context, 6, 0, 0, 0) })?;
        // SAFETY: plain integers.
        let tree = check("fsmount", unsafe { libc::syscall(libc::SYS_fsmount, context, 1, 0) })?;
        let read_only =
            libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        // SAFETY: the structure has the size passed and the empty path is terminated.
        check("mount_setattr", unsafe {
            let size = size_of::<libc::mount_attr>();
            libc::syscall(libc::SYS_mount_setattr, tree, c"".as_ptr(), libc::AT_EMPTY_PATH, &raw const read_only, size)
        })?;
        // SAFETY: both paths are terminated strings.
        check("move_mount", unsafe {
            let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
            libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, c"/proc".as_ptr(), flags)
        })?;
        Ok(())
    });
    finding(
        outcome,
        "fsopen, mount_setattr and move_mount work",
        "use Linux 5.12 or later, or a seccomp profile that allows them",
    )
}

/// Nothing that a trial mounts may be seen outside.
fn private() -> Outcome {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(step("close the propagation of mounts"))
}
