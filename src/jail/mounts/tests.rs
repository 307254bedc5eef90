//! Views built for real, in namespaces of their own: as an ordinary user, and as root where the tests run as root.
//!
//! Every test forks, and the fork makes its own mount namespace before anything is mounted: the machine is left as it was.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, chown, fork, geteuid, setgroups, setresgid, setresuid};

use super::*;
use crate::jail::identity::Identity;

const UNPRIVILEGED: u32 = 1001;

/// A caller with a home of its own below /var/lib or /tmp, and folders that outlive no test.
struct World {
    uid: u32,
    base: tempfile::TempDir,
}

impl World {
    /// One world for each kind of caller that this run can be.
    fn each() -> Vec<World> {
        let own = geteuid().as_raw();
        let mut all = vec![Self::new(own)];
        if own == 0 {
            all.push(Self::new(UNPRIVILEGED));
        } else {
            eprintln!("this run covers the ordinary user only; run the tests as root to cover both");
        }
        all
    }

    fn new(uid: u32) -> Self {
        let base = tempfile::Builder::new().prefix("netjail-view-").tempdir_in("/tmp").unwrap();
        for folder in ["home", "home/.local", "home/.local/state", "home/.local/state/netjail", "work"] {
            fs::create_dir(base.path().join(folder)).unwrap();
        }
        let world = Self { uid, base };
        for folder in ["", "home", "home/.local", "home/.local/state", "home/.local/state/netjail", "work"] {
            world.give(&world.path(folder));
        }
        world
    }

    fn path(&self, below: &str) -> PathBuf {
        self.base.path().join(below)
    }

    fn give(&self, path: &Path) {
        if geteuid().is_root() {
            chown(path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.uid))).unwrap();
        }
    }

    fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        fs::write(&path, text).unwrap();
        self.give(&path);
        path
    }

    fn plan(&self) -> Plan {
        let caller = Caller {
            uid: self.uid,
            gid: self.uid,
            name: "caller".into(),
            shell: "/bin/sh".into(),
            home: self.path("home"),
        };
        let identity = Identity::new("localhost", vec!["198.18.0.1".parse().unwrap()]).unwrap();
        Plan::new(caller, self.path("work"), identity)
    }

    /// Builds the view in a fresh jail and runs `inside` there; a panic inside fails the test with its message.
    fn jail(&self, plan: &Plan, inside: impl FnOnce(Notes)) {
        self.try_jail(plan, |built| inside(built.unwrap_or_else(|e| panic!("not built: {e}"))));
    }

    fn timed(&self, plan: &Plan, to: &UnixStream) {
        self.fork_jail(plan, Some(to), |built| drop(built.unwrap()));
    }

    fn try_jail(&self, plan: &Plan, inside: impl FnOnce(Result<Notes, MountError>)) {
        self.fork_jail(plan, None, inside);
    }

    fn fork_jail(&self, plan: &Plan, timed: Option<&UnixStream>, inside: impl FnOnce(Result<Notes, MountError>)) {
        let (mut unshared, unshared_there) = UnixStream::pair().unwrap();
        let (mut report, report_there) = UnixStream::pair().unwrap();
        // SAFETY: the child uses the C library's allocator only, which is ready after fork, and ends in _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop((unshared, report));
                let failed =
                    catch_unwind(AssertUnwindSafe(|| self.child(plan, timed, unshared_there, &report_there, inside)));
                say(&report_there, failed.err());
                // SAFETY: ends this process only.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop((unshared_there, report_there));
                let mut byte = [0];
                if self.uid == 0 && unshared.read(&mut byte).unwrap() == 1 {
                    for map in ["uid_map", "gid_map"] {
                        fs::write(format!("/proc/{child}/{map}"), "0 0 4294967295").unwrap();
                    }
                    unshared.write_all(b"m").unwrap();
                }
                let mut text = String::new();
                report.read_to_string(&mut text).unwrap();
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "uid {}: {text}", self.uid);
                assert!(text == "done", "as uid {}: {text}", self.uid);
            }
        }
    }

    fn child(
        &self,
        plan: &Plan,
        timed: Option<&UnixStream>,
        mut parent: UnixStream,
        report: &UnixStream,
        inside: impl FnOnce(Result<Notes, MountError>),
    ) {
        if geteuid().as_raw() != self.uid {
            setgroups(&[]).unwrap();
            setresgid(self.uid.into(), self.uid.into(), self.uid.into()).unwrap();
            setresuid(self.uid.into(), self.uid.into(), self.uid.into()).unwrap();
            nix::sys::prctl::set_dumpable(true).unwrap();
        }
        unshare(
            CloneFlags::CLONE_NEWUSER
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWCGROUP,
        )
        .expect(
            "these tests need user namespaces: kernel.unprivileged_userns_clone, apparmor_restrict_unprivileged_userns",
        );
        if self.uid == 0 {
            parent.write_all(b"u").unwrap();
            parent.read_exact(&mut [0]).unwrap();
        } else {
            fs::write("/proc/self/setgroups", "deny").unwrap();
            fs::write("/proc/self/uid_map", format!("{0} {0} 1", self.uid)).unwrap();
            fs::write("/proc/self/gid_map", format!("{0} {0} 1", self.uid)).unwrap();
        }
        // SAFETY: as above; this child is pid 1 of the new pid namespace.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let failed = catch_unwind(AssertUnwindSafe(|| {
                    let start = Instant::now();
                    let built = build(plan);
                    if let Some(mut to) = timed {
                        let _ = write!(to, "{}", start.elapsed().as_micros());
                    }
                    if built.is_ok() {
                        become_payload();
                    }
                    inside(built);
                }));
                say(report, failed.err());
                // SAFETY: ends this process only.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                waitpid(child, None).unwrap();
                // The grandchild has reported.
                // SAFETY: ends this process only.
                unsafe { libc::_exit(0) }
            }
        }
    }
}

/// The second user and mount namespace, and no capabilities: what the command gets.
fn become_payload() {
    let (uid, gid) = (geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).unwrap();
    for set in [
        caps::CapSet::Ambient,
        caps::CapSet::Bounding,
        caps::CapSet::Inheritable,
        caps::CapSet::Effective,
        caps::CapSet::Permitted,
    ] {
        caps::clear(None, set).unwrap();
    }
}

fn say(mut to: &UnixStream, failed: Option<Box<dyn std::any::Any + Send>>) {
    let text = failed.map_or("done".to_owned(), |panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "a panic".into())
    });
    let _ = to.write_all(text.as_bytes());
    let _ = to.shutdown(Shutdown::Both);
}

fn errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.err().and_then(|e| e.raw_os_error()).unwrap_or(0))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn etc_names_the_jail_and_not_the_host() {
    let hosts_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hosts_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |notes| {
            assert!(!notes.iter().any(|n| matches!(n, Note::NoOverlay { .. })), "{notes:?}");
            assert_eq!(read("/etc/resolv.conf"), "nameserver 198.18.0.1\nsearch .\n");
            assert_eq!(read("/etc/hostname"), "localhost\n");
            assert!(read("/etc/nsswitch.conf").contains("hosts: files dns\n"));
            assert!(read("/etc/hosts").starts_with("127.0.0.1\tlocalhost\n"));
            let id = read("/etc/machine-id");
            assert_eq!(id.trim().len(), 32);
            assert_ne!(id, hosts_id);
            assert_ne!(read("/proc/sys/kernel/random/boot_id"), hosts_boot);
            assert_eq!(read("/proc/cmdline"), "");
            for gone in
                ["/etc/netplan", "/etc/mailname", "/etc/network", "/etc/dhcp", "/etc/ssh/ssh_host_ed25519_key.pub"]
            {
                assert!(!Path::new(gone).exists(), "{gone}");
            }
            assert_eq!(errno(fs::write("/etc/new", "")), Errno::EROFS);
            assert_eq!(errno(fs::write("/etc/resolv.conf", "")), Errno::EROFS);
            assert!(Path::new("/etc/passwd").exists() && Path::new("/etc/ssl/certs").exists());
        });
    }
}

#[test]
fn only_six_devices_a_pty_and_shared_memory_exist() {
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |_| {
            for gone in ["/dev/net", "/dev/fuse", "/dev/kmsg", "/dev/vda", "/dev/mem"] {
                assert!(!Path::new(gone).exists(), "{gone}");
            }
            fs::write("/dev/null", "x").unwrap();
            assert_eq!(fs::File::open("/dev/urandom").unwrap().read(&mut [0; 8]).unwrap(), 8);
            fs::write("/dev/shm/x", "x").unwrap();
            assert_eq!(errno(fs::write("/dev/new", "")), Errno::EROFS);
            let pty: OwnedFd = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap().into();
            assert!(pty.as_raw_fd() >= 0);
        });
    }
}

#[test]
fn the_working_folder_below_tmp_is_the_real_one_and_the_rest_of_tmp_is_private() {
    for world in World::each() {
        let plan = world.plan();
        let readable = world.write("beside", "outside");
        let inside_only = world.path("made-inside");
        let real = world.path("work/made");
        world.jail(&plan, |_| {
            assert_eq!(fs::read_to_string(&readable).unwrap(), "outside");
            fs::write(&readable, "changed").unwrap();
            fs::write(&inside_only, "x").unwrap();
            fs::write("made", "x").unwrap();
            assert_eq!(std::env::current_dir().unwrap(), plan.cwd);
        });
        assert_eq!(fs::read_to_string(&readable).unwrap(), "outside");
        assert!(!inside_only.exists());
        assert_eq!(fs::read_to_string(real).unwrap(), "x");
    }
}

#[test]
fn sockets_of_the_host_in_tmp_cannot_be_connected_to() {
    for world in World::each() {
        let plan = world.plan();
        let path = world.path("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        world.give(&path);
        UnixStream::connect(&path).expect("the control outside");
        world.jail(&plan, |_| {
            assert!(path.exists(), "the name can be read");
            assert_eq!(errno(UnixStream::connect(&path)), Errno::ECONNREFUSED);
        });
    }
}

#[test]
fn keys_stay_masked_whatever_is_renamed_inside() {
    for world in World::each() {
        let mut plan = world.plan();
        let state = world.path("home/.local/state/netjail");
        world.write("home/.local/state/netjail/key", "secret");
        plan.masked_folders = vec![state.clone()];
        plan.read_write = vec![world.path("home")];
        world.jail(&plan, |_| {
            assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
            assert_eq!(errno(fs::write(state.join("x"), "")), Errno::EROFS);
            for folder in ["home/.local/state/netjail", "home/.local/state", "home/.local", "home", ""] {
                let from = world.path(folder);
                let from = Path::new(from.to_str().unwrap().trim_end_matches('/'));
                let renamed = fs::rename(from, from.with_extension("moved"));
                assert_eq!(errno(renamed), Errno::EBUSY, "{folder}");
            }
            fs::write(world.path("home/.local/state/other"), "x").unwrap();
        });
        assert!(state.join("key").exists());
        assert!(world.path("home/.local/state/other").exists(), "the rest of that folder is the real one");
    }
}

#[test]
fn sys_and_proc_show_this_network_and_cannot_be_written() {
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |_| {
            let links: Vec<_> = fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(links, ["lo"]);
            assert!(Path::new("/sys/devices/system/cpu/online").exists());
            for gone in
                ["/sys/class/dmi", "/sys/devices/pci0000:00", "/sys/firmware", "/sys/kernel/debug", "/sys/block"]
            {
                assert!(!Path::new(gone).exists(), "{gone}");
            }
            for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"] {
                let opened = fs::OpenOptions::new().write(true).open(path);
                assert!(matches!(errno(opened), Errno::EROFS | Errno::EACCES | Errno::ENOENT), "{path}");
            }
            assert_eq!(fs::read_dir("/proc/bus").unwrap().count(), 0);
            assert_eq!(read("/proc/keys"), "");
        });
    }
}

#[test]
fn mountinfo_holds_nothing_of_the_old_root() {
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |_| {
            let table = Table::read().unwrap();
            assert_eq!(table.mounts().iter().filter(|m| m.point == Path::new("/")).count(), 1);
            let text = read("/proc/self/mountinfo");
            assert!(!text.contains("devtmpfs /"), "{text}");
            assert!(
                text.lines().all(|l| l.split(' ').nth(4).is_none_or(|p| !p.starts_with("/sys/fs/cgroup/"))),
                "{text}"
            );
        });
    }
}

/// Not a property but a measure: `cargo test --release --lib -- --ignored --nocapture build_takes`.
#[test]
#[ignore = "prints times"]
fn build_takes() {
    for world in World::each() {
        let mut plan = world.plan();
        plan.masked_folders = vec![world.path("home/.local/state/netjail")];
        let mut times: Vec<u64> = (0..50)
            .map(|_| {
                let (mut here, there) = UnixStream::pair().unwrap();
                let plan = Plan { cwd: world.path("work"), ..plan.clone() };
                world.timed(&plan, &there);
                drop(there);
                let mut text = String::new();
                here.read_to_string(&mut text).unwrap();
                text.parse().unwrap()
            })
            .collect();
        times.sort_unstable();
        eprintln!("uid {}: p50 {} us, p90 {} us", world.uid, times[25], times[45]);
    }
}
