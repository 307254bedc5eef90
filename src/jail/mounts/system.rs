//! /dev, /sys, /run and the corners of /var that name the host: small private folders with an allow-list of binds.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::isatty;

use super::calls::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::error::{Context, MountError, Stage};
use super::plan::Note;
use super::view::{View, if_there};

/// The only device nodes. Never net/tun (a payload could attach to its jail's own queue), fuse or a disk, under any flag.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Folders of sysfs that programs size themselves by (C library, Go, Java, allocators), and the jail's own interfaces.
const SYSFS: [&str; 4] = ["devices/system", "devices/virtual/net", "class/net", "kernel/mm"];
/// Those of them that are the same in every network namespace.
const SYSFS_ANY: [&str; 2] = ["devices/system", "kernel/mm"];

/// What programs find through /run on NixOS; the rest of /run is sockets, leases, resolvers and secrets.
const RUN: [&str; 4] = ["current-system", "booted-system", "opengl-driver", "opengl-driver-32"];

/// Folders of leases, instance data, ids, crash reports and servers' names; empty in the jail.
pub const HIDDEN_BELOW_VAR: [&str; 27] = [
    "/var/account",
    "/var/crash",
    "/var/db/dhclient",
    "/var/lib/NetworkManager",
    "/var/lib/amazon",
    "/var/lib/bluetooth",
    "/var/lib/cloud",
    "/var/lib/cni",
    "/var/lib/connman",
    "/var/lib/dbus",
    "/var/lib/dhclient",
    "/var/lib/dhcp",
    "/var/lib/dhcpcd",
    "/var/lib/iscsi",
    "/var/lib/iwd",
    "/var/lib/libvirt",
    "/var/lib/lldpd",
    "/var/lib/misc",
    "/var/lib/nfs",
    "/var/lib/samba",
    "/var/lib/systemd/network",
    "/var/lib/tailscale",
    "/var/lib/waagent",
    "/var/lib/wicked",
    "/var/lib/zerotier-one",
    "/var/yp",
    "/var/lib/netplan",
];

/// Builds /dev: six devices, a pty instance of its own, private shared memory, and the links programs expect.
pub fn dev(view: &mut View<'_>) -> Result<(), MountError> {
    view.folder(Stage::Dev, "dev", 0o755)?;
    view.folder(Stage::Dev, "shm", 0o1777)?;
    view.folder(Stage::Dev, "root/dev", 0o755)?;
    for name in DEVICES {
        view.file(Stage::Dev, format!("dev/{name}"), "")?;
    }
    view.folder(Stage::Dev, "dev/pts", 0o755)?;
    view.folder(Stage::Dev, "dev/shm", 0o1777)?;
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (to, name) in links {
        symlink(to, format!("dev/{name}")).at(Stage::Dev, "making the link", Path::new("/dev").join(name))?;
    }
    if let Some(log) = &view.plan.log_socket {
        symlink(log, "dev/log").at(Stage::Dev, "making the link", "/dev/log")?;
    }
    let terminal = terminal();
    if terminal.is_some() {
        view.file(Stage::Dev, "dev/console", "")?;
    }
    view.bind_closing(Stage::Dev, "dev", "/dev")?;
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        // The inode is the host's own, and root's payload owns it: on a read-only mount a device can be read and written,
        // but not chmod(2)ed (`chmod 600 /dev/null` reached every process outside).
        view.bind(Stage::Dev, &path, &path, READ_ONLY)?;
    }
    if let Some(terminal) = terminal {
        // ttyname(3) finds the caller's terminal here, since its number means nothing in the jail's own devpts. A terminal
        // that can't be bound (another devpts) costs only that name.
        let _ = view.bind(Stage::Dev, terminal, "/dev/console", READ_ONLY);
    }
    view.bind(Stage::Dev, "shm", "/dev/shm", NO_SUID | NO_DEV)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=0620";
    mount(Some("devpts"), "root/dev/pts", Some("devpts"), flags, Some(options)).at(
        Stage::Dev,
        "mounting devpts on",
        "/dev/pts",
    )
}

fn terminal() -> Option<PathBuf> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .find(|fd| isatty(fd).unwrap_or(false))
        .and_then(|fd| nix::unistd::ttyname(fd).ok())
}

/// Builds /sys: a few folders of a fresh sysfs, which shows the network namespace of its mounter, and this cgroup's own.
pub fn sys(view: &mut View<'_>) -> Result<(), MountError> {
    for folder in
        ["sys", "sysfs", "sys/devices", "sys/devices/virtual", "sys/class", "sys/kernel", "sys/fs", "sys/fs/cgroup"]
    {
        view.folder(Stage::Sys, folder, 0o755)?;
    }
    for folder in SYSFS {
        view.folder(Stage::Sys, format!("sys/{folder}"), 0o755)?;
    }
    view.folder(Stage::Sys, "root/sys", 0o755)?;
    view.bind_closing(Stage::Sys, "sys", "/sys")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let fresh = mount(Some("sysfs"), "sysfs", Some("sysfs"), flags, None::<&str>).is_ok();
    let (source, shown): (&Path, &[&str]) =
        if fresh { (Path::new("sysfs"), &SYSFS) } else { (Path::new("/sys"), &SYSFS_ANY) };
    if !fresh {
        view.note(Note::NoSys { path: "/sys/class/net".into() });
    }
    for folder in shown {
        let (from, to) = (source.join(folder), Path::new("/sys").join(folder));
        if_there(view.bind(Stage::Sys, &from, to, READ_ONLY | NO_SUID | NO_DEV | NO_EXEC), &from)?;
    }
    // Programs read their memory and processor limits here. Its own cgroup namespace shows no names of the host's; a host
    // without cgroup v2, or a kernel that refuses, leaves it empty.
    view.folder(Stage::Sys, "cgroup", 0o755)?;
    if mount(Some("cgroup2"), "cgroup", Some("cgroup2"), flags, None::<&str>).is_ok() {
        view.bind(Stage::Sys, "cgroup", "/sys/fs/cgroup", READ_ONLY)?;
    }
    Ok(())
}

/// Builds /run: private, with what NixOS needs.
pub fn run(view: &mut View<'_>) -> Result<(), MountError> {
    view.folder(Stage::Run, "run", 0o755)?;
    view.folder(Stage::Run, "run/lock", 0o1777)?;
    view.folder(Stage::Run, "root/run", 0o755)?;
    view.bind(Stage::Run, "run", "/run", NO_SUID | NO_DEV)?;
    session(view)?;
    for name in RUN {
        let path = Path::new("/run").join(name);
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_symlink() {
            let to = fs::read_link(&path).at(Stage::Run, "reading the link", &path)?;
            symlink(to, Path::new("run").join(name)).at(Stage::Run, "making the link", &path)?;
        } else if found.is_dir() {
            view.folder(Stage::Run, Path::new("run").join(name), 0o755)?;
            view.bind(Stage::Run, &path, &path, READ_ONLY)?;
        }
    }
    Ok(())
}

/// What `--allow display` and its kind put into /run: a private folder for XDG_RUNTIME_DIR, and files such as an X cookie.
fn session(view: &View<'_>) -> Result<(), MountError> {
    let private = |folder: &Path| -> Result<(), MountError> {
        if let Some(parent) = folder.parent() {
            view.folders(Stage::Run, View::inside(parent))?;
        }
        view.folder(Stage::Run, View::inside(folder), 0o700)
    };
    let below = |path: &&Path| path.starts_with("/run") && *path != Path::new("/run");
    if let Some(folder) = view.plan.runtime_folder.as_deref().filter(below) {
        private(folder)?;
    }
    for (path, text) in &view.plan.session_files {
        let Some(folder) = path.parent().filter(below) else { continue };
        private(folder)?;
        view.file(Stage::Run, View::inside(path), text)?;
    }
    Ok(())
}

/// Empties /var/log (every line of a syslog names the host; `--ro` shows a folder of it) and the folders that name the host.
pub fn var(view: &mut View<'_>) -> Result<(), MountError> {
    for path in ["/var/log"].iter().chain(&HIDDEN_BELOW_VAR) {
        // Most do not exist; of those that do, not where it is hidden already, or where a link leads somewhere else.
        if fs::symlink_metadata(path).is_err() {
            continue;
        }
        let Ok(real) = Path::new(path).canonicalize() else { continue };
        if real == Path::new(path) && fs::symlink_metadata(View::inside(&real)).is_ok() {
            // A mount point for what `--ro` or the working folder binds below it has to be made while it can be written.
            let name = real.to_string_lossy().replace('/', "-");
            let folder = format!("var{name}");
            view.folder(Stage::Run, &folder, 0o755)?;
            view.bind_closing(Stage::Run, &folder, path)?;
        }
    }
    Ok(())
}
