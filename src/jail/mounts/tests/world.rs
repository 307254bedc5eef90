//! A caller, its folders, and a jail round a closure.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Gid, Uid, chown, fork, geteuid, setgroups, setresgid, setresuid};

use super::super::*;
use crate::jail::identity::Identity;

const UNPRIVILEGED: u32 = 1001;

/// One test forks at a time: a child inherits the locks (of the standard streams, of panics) as they were in other threads.
static FORKING: Mutex<()> = Mutex::new(());
static IN_A_FORK: AtomicBool = AtomicBool::new(false);

fn alone() -> Option<MutexGuard<'static, ()>> {
    (!IN_A_FORK.load(Ordering::Relaxed)).then(|| FORKING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A forked child that hangs is a failure, not a hanging test run.
fn forked() {
    IN_A_FORK.store(true, Ordering::Relaxed);
    nix::unistd::alarm::set(60);
}

/// A caller with a home of its own below /var/lib or /tmp, and folders that outlive no test.
pub struct World {
    /// The caller's user id.
    pub uid: u32,
    base: tempfile::TempDir,
}

impl World {
    /// One world for each kind of caller that this run can be.
    pub fn each() -> Vec<World> {
        let own = geteuid().as_raw();
        let mut all = vec![Self::new(own)];
        if own == 0 {
            all.push(Self::new(UNPRIVILEGED));
        } else {
            eprintln!("this run covers the ordinary user only; run the tests as root to cover both");
        }
        all
    }

    pub fn new(uid: u32) -> Self {
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

    pub fn path(&self, below: &str) -> PathBuf {
        self.base.path().join(below)
    }

    pub fn give(&self, path: &Path) {
        if geteuid().is_root() {
            chown(path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.uid))).unwrap();
        }
    }

    pub fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        fs::write(&path, text).unwrap();
        self.give(&path);
        path
    }

    pub fn plan(&self) -> Plan {
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
    pub fn jail(&self, plan: &Plan, inside: impl FnOnce(Notes)) {
        self.try_jail(plan, |built| inside(built.unwrap_or_else(|e| panic!("not built: {e}"))));
    }

    pub fn timed(&self, plan: &Plan, to: &UnixStream) {
        self.fork_jail(plan, Some(to), |built| drop(built.unwrap()));
    }

    pub fn try_jail(&self, plan: &Plan, inside: impl FnOnce(Result<Notes, MountError>)) {
        self.fork_jail(plan, None, inside);
    }

    fn fork_jail(&self, plan: &Plan, timed: Option<&UnixStream>, inside: impl FnOnce(Result<Notes, MountError>)) {
        let _alone = alone();
        let (mut unshared, unshared_there) = UnixStream::pair().unwrap();
        let (mut report, report_there) = UnixStream::pair().unwrap();
        // SAFETY: the child uses the C library's allocator only, which is ready after fork, and ends in _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                forked();
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
                forked();
                let failed = catch_unwind(AssertUnwindSafe(|| {
                    let start = cpu_time();
                    let built = build(plan);
                    if let Some(mut to) = timed {
                        let _ = write!(to, "{}", (cpu_time() - start).as_micros());
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

/// What this process has used so far: the machine may be busy with other tests.
fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    Duration::from(spent)
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

/// Runs a test in a mount namespace of its own, whose mounts are the "outside" of the jails it makes. Only root can change
/// them, so this says so and does nothing for others.
pub fn outside(test: impl FnOnce()) {
    if !geteuid().is_root() {
        eprintln!("NOT RUN: this property needs mounts outside the jail; run the tests as root");
        return;
    }
    let _alone = alone();
    let (mut report, there) = UnixStream::pair().unwrap();
    // SAFETY: the child uses the C library's allocator only, which is ready after fork, and ends in _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            forked();
            drop(report);
            let failed = catch_unwind(AssertUnwindSafe(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
                test();
            }));
            say(&there, failed.err());
            // SAFETY: ends this process only.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(there);
            let mut text = String::new();
            report.read_to_string(&mut text).unwrap();
            waitpid(child, None).unwrap();
            assert!(text == "done", "{text}");
        }
    }
}

/// A tmpfs of the outside, with what the host had there gone.
pub fn cover(path: &str) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
}

/// The host's folder, writable without touching the host.
pub fn writable_copy(path: &str) {
    let layers = tempfile::Builder::new().prefix("netjail-layers-").tempdir_in("/tmp").unwrap().keep();
    cover(layers.to_str().unwrap());
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let options = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), path, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    nix::mount::umount2(&layers, nix::mount::MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir(&layers).unwrap();
}

/// A FUSE mount whose daemon never answers: whoever looks at it hangs.
pub fn silent_fuse(path: &Path, source: &str) -> fs::File {
    use std::os::fd::AsRawFd;
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    mount(Some(source), path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
    device
}
