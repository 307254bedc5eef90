//! Probes that read: sysctls, files, limits, folders.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, Uid, access};

use super::finding::Finding;
use crate::control::rundir;
use crate::jail::core_dumps;
use crate::registry::Search;

/// A file's text without surrounding blanks.
pub fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

pub fn userns_clone() -> Finding {
    match read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() {
        Some("0") if Uid::effective().is_root() => Finding::ok("0: ordinary users can not start jails, root can"),
        Some("0") => Finding::missing("0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        Some(value) => Finding::ok(value),
        None => Finding::ok("this kernel has no such switch"),
    }
}

pub fn max_userns() -> Finding {
    match read("/proc/sys/user/max_user_namespaces").and_then(|text| text.parse::<u64>().ok()) {
        Some(limit @ 0..=1) => Finding::missing(limit, "sudo sysctl -w user.max_user_namespaces=15000"),
        Some(limit @ 2..=63) => {
            Finding::degraded(format!("{limit}: few jails at a time"), "sudo sysctl -w user.max_user_namespaces=15000")
        }
        Some(limit) => Finding::ok(limit),
        None => Finding::ok("no limit is shown"),
    }
}

pub fn tun_device() -> Finding {
    let path = Path::new("/dev/net/tun");
    let Ok(found) = fs::metadata(path) else {
        return Finding::missing(
            "/dev/net/tun does not exist",
            "sudo modprobe tun; in a container: --device /dev/net/tun; without devtmpfs: mkdir -p /dev/net && mknod -m 666 /dev/net/tun c 10 200",
        );
    };
    if !found.file_type().is_char_device() {
        return Finding::missing(
            "/dev/net/tun is no device",
            "sudo rm /dev/net/tun; sudo modprobe -r tun; sudo modprobe tun",
        );
    }
    let mode = found.mode() & 0o7777;
    match access(path, AccessFlags::R_OK | AccessFlags::W_OK) {
        Ok(()) => Finding::ok(format!("mode {mode:04o}")),
        Err(_) => Finding::missing(
            format!("mode {mode:04o} keeps this user out"),
            "sudo chmod 0666 /dev/net/tun (for good: KERNEL==\"tun\", MODE=\"0666\" in /etc/udev/rules.d/60-netjail.rules)",
        ),
    }
}

/// Mounts that cover parts of /proc, which is why the kernel refuses a fresh one.
pub fn covered_proc() -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let covered: Vec<&str> = table
        .lines()
        .filter(|line| !line.contains(" - autofs "))
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with("/proc/"))
        .collect();
    covered.join(" ")
}

/// The mount API, `CLOSE_RANGE_CLOEXEC` and unprivileged overlays are all there from here on.
const OLDEST: (u32, u32) = (5, 12);

pub fn kernel_version() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            Finding::missing(&release, "use Linux 5.12 or later (6.12 for every layer)")
        }
        (Some(_), Some(_)) => Finding::ok(&release),
        _ => Finding::degraded(format!("`{release}` can not be read as a version"), "look at the other rows"),
    }
}

pub fn open_files() -> Finding {
    // netjail keeps 256 for itself; a flow takes one.
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < 1024 => Finding::missing(
            format!("at most {hard} open files"),
            "raise nofile in /etc/security/limits.conf, or LimitNOFILE= of the unit",
        ),
        Ok((_, hard)) if hard < 4096 => Finding::degraded(
            format!("at most {hard} open files, so some {} flows", hard - 512),
            "raise nofile in /etc/security/limits.conf, or LimitNOFILE= of the unit",
        ),
        Ok((_, hard)) => Finding::ok(format!("at most {hard} open files")),
        Err(e) => Finding::degraded(e, "see getrlimit(2)"),
    }
}

pub fn core_pattern() -> Finding {
    let pattern = read("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if core_dumps::limit().is_none() {
        return Finding::ok(format!("`{pattern}`, a plain file"));
    }
    Finding::degraded(
        format!("`{pattern}` starts a program outside, so commands in a jail leave no core dump"),
        "for dumps of jails: sudo sysctl -w kernel.core_pattern=core",
    )
}

pub fn ipv6() -> Finding {
    if Path::new("/proc/sys/net/ipv6").exists() {
        return Finding::ok("available");
    }
    Finding::degraded("this kernel has no IPv6", "boot without ipv6.disable=1, or: sudo modprobe ipv6")
}

pub fn yama() -> Finding {
    match read("/proc/sys/kernel/yama/ptrace_scope").as_deref() {
        Some("3") => Finding::missing(
            "3: nobody may look into another process, the mediator included",
            "boot with kernel.yama.ptrace_scope below 3 in /etc/sysctl.d (it can not be lowered while running)",
        ),
        Some(scope) => Finding::ok(format!("ptrace_scope {scope}")),
        None => Finding::ok("no Yama"),
    }
}

pub fn tiocsti() -> Finding {
    match read("/proc/sys/dev/tty/legacy_tiocsti").as_deref() {
        Some("0") => Finding::ok("the kernel refuses TIOCSTI to everyone"),
        _ => Finding::degraded(
            "the kernel allows TIOCSTI; the jail's filter alone refuses it",
            "sudo sysctl -w dev.tty.legacy_tiocsti=0 (Linux 6.2)",
        ),
    }
}

fn search() -> Result<Search, Finding> {
    Search::from_environment(Vec::new()).map_err(|e| Finding::missing(e, "change to a folder that exists"))
}

pub fn run_folder() -> Finding {
    let folder = match search() {
        Ok(search) => rundir::path(&search.state),
        Err(finding) => return finding,
    };
    match rundir::create(&folder) {
        Ok(()) => Finding::ok(folder.display()),
        Err(e) => Finding::missing(e, format!("make {} yours and mode 0700, or set XDG_RUNTIME_DIR", folder.display())),
    }
}

pub fn state_folder() -> Finding {
    let folder = match search() {
        Ok(search) => search.state,
        Err(finding) => return finding,
    };
    // The folder itself is made by the first jail; what counts is the first one above it that exists.
    let existing = folder.ancestors().find(|f| f.exists()).unwrap_or(Path::new("/"));
    match access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Finding::ok(folder.display()),
        Err(e) => Finding::missing(
            format!("{}: {}", existing.display(), e.desc()),
            format!("make {} writable for you, or set XDG_STATE_HOME", existing.display()),
        ),
    }
}
