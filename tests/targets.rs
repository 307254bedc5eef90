//! netjail's own processes, and what its user shares with a jail: neither is a payload's to take away.
//!
//! Floods are judged by counts, never by time: while a jail holds all that it could get, another jail starts and connects, and
//! the same user's own programs get what they ask for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::Command;

use lab::child::tree;
use lab::{Behaviour, Jail, Proxy, Running, TARGETS};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// All of netjail's own processes: `nj-connect` is the mediator's worker.
const ROLES: [&str; 6] = ["netjail", "nj-warden", "nj-relay", "nj-mediator", "nj-connect", "nj-init"];

/// A jail that stays, and the pids of its roles.
fn standing() -> (Running, Vec<(i32, String)>) {
    let jail = Jail::new();
    // The mediator has a worker from the first connect on.
    let line = format!("{} connect 127.0.0.1:1 >/dev/null 2>&1; echo up; read x", lab::tool("probe"));
    let mut running = jail.start("nil", &["sh", "-c", &line]);
    running.until("up");
    let roles = lab::wait_for("the roles", std::time::Duration::from_secs(20), || {
        let all: Vec<_> = tree(running.pid()).into_iter().filter(|(_, name)| ROLES.contains(&name.as_str())).collect();
        let names: BTreeSet<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        (names.len() == ROLES.len()).then_some(all)
    });
    (running, roles)
}

fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap().trim().to_owned()
}

/// Front and init have no filter: what they start would inherit it. Front parses nothing of a jail's, and init, which has
/// the jail's capabilities and nothing outside, reads only its own supervisors.
#[test]
fn every_role_is_held_to_its_row() {
    let _alone = alone();
    let (mut running, roles) = standing();
    for (pid, name) in &roles {
        assert_eq!(status(*pid, "NoNewPrivs"), "1", "{name}");
        let filter = if ["netjail", "nj-init"].contains(&name.as_str()) { "0" } else { "2" };
        assert_eq!(status(*pid, "Seccomp"), filter, "{name}");
        // What root starts keeps capabilities in front alone, which writes the id maps.
        if !["netjail", "nj-init"].contains(&name.as_str()) {
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                assert_eq!(status(*pid, set), "0000000000000000", "{name} {set}");
            }
        }
    }
    running.say("end\n");
    running.finish().good();
}

/// What a process of the same user may try on another one; each with what it got.
fn attempts(pid: i32) -> Vec<(&'static str, Result<(), Errno>)> {
    let read = |file: &str| {
        let mut byte = [0];
        let path = format!("/proc/{pid}/{file}");
        std::fs::File::open(path)
            .and_then(|mut f| f.read(&mut byte))
            .map(drop)
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
    };
    let open = |file: &str, write: bool| {
        let opened = std::fs::File::options().read(true).write(write).open(format!("/proc/{pid}/{file}"));
        opened.map(drop).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
    };
    let folder = |name: &str| {
        let listed = std::fs::read_dir(format!("/proc/{pid}/{name}"));
        listed.map(drop).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
    };
    let link = |name: &str| {
        let read = std::fs::read_link(format!("/proc/{pid}/{name}"));
        read.map(drop).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
    };
    // SAFETY: a pidfd of a process that lives; descriptors are closed again.
    let stolen = unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        let got = Errno::result(libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) as i32);
        libc::close(pidfd);
        got.map(|fd| {
            libc::close(fd);
        })
    };
    let mut byte = 0u8;
    let here = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Any address: the right to look is checked first, and an unmapped one is EFAULT.
    let there = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x1000), iov_len: 1 };
    // SAFETY: both vectors are live.
    let taken = Errno::result(unsafe { libc::process_vm_readv(pid, &here, 1, &there, 1, 0) });
    let taken = match taken {
        Ok(_) | Err(Errno::EFAULT) => Ok(()),
        Err(errno) => Err(errno),
    };
    let traced = ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty());
    if traced.is_ok() {
        ptrace::interrupt(Pid::from_raw(pid)).unwrap();
        nix::sys::wait::waitpid(Pid::from_raw(pid), None).unwrap();
        ptrace::detach(Pid::from_raw(pid), None).unwrap();
    }
    vec![
        ("read environ", read("environ")),
        ("open mem", open("mem", true)),
        ("read maps", read("maps")),
        ("list descriptors", folder("fd")),
        ("look at the root", link("root")),
        ("look at the working folder", link("cwd")),
        ("look at the program", link("exe")),
        ("open its network", open("ns/net", false)),
        ("take a descriptor", stolen),
        ("read its memory", taken),
        ("trace it", traced),
    ]
}

/// As a process of the same user outside would. Root can look into every process, and that is no promise of netjail's.
#[test]
fn the_same_user_outside_reaches_into_no_role() {
    let _alone = alone();
    if lab::is_root() {
        return lab::note_skip(
            "the_same_user_outside_reaches_into_no_role",
            "it is about users, and part of their run",
        );
    }
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let mut sleep = sleep.spawn().unwrap();
    let control: Vec<_> = attempts(sleep.id() as i32).into_iter().filter(|(_, got)| got.is_err()).collect();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(control.is_empty(), "the attempts prove nothing: {control:?}");
    let (mut running, roles) = standing();
    for (pid, name) in &roles {
        let got_in: Vec<_> = attempts(*pid).into_iter().filter(|(_, got)| got.is_ok()).map(|(what, _)| what).collect();
        assert!(got_in.is_empty(), "{name} can be attacked: {got_in:?}");
    }
    running.say("end\n");
    running.finish().good();
}

/// The flood's own words: `HAVE` is what it got, in numbers, and it holds all of it until it is told to end.
const FLOODS: &str = r#"
import array, ctypes, os, resource, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
kept, count = [], 0

def until_refused(get):
    global count
    while count < 400000:
        try:
            got = get()
        except (OSError, RuntimeError):
            return
        kept.append(got)
        count += 1

def all_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

def in_flight():
    # Descriptors that lie in sockets' queues count for the user, not for the process.
    all_descriptors()
    null = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 200)
    pairs = []
    def send():
        try:
            return pairs[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, null)])
        except (BlockingIOError, IndexError):
            pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
            pairs[-1][0].setblocking(False)
            return send()
    kept.append(pairs)
    until_refused(send)

def inotify(watches):
    def instance():
        fd = libc.inotify_init1(0)
        if fd < 0:
            raise OSError
        return fd
    all_descriptors()
    until_refused(instance)
    if watches:
        names = [b"w%d" % n for n in range(4000)]
        for name in names:
            open(name, "w").close()
        def watch(pairs=((fd, name) for fd in list(kept) for name in names)):
            fd, name = next(pairs, (-1, b""))
            if libc.inotify_add_watch(fd, name, 2) < 0:
                raise OSError
        until_refused(watch)

def pending():
    # A listener that never accepts, with no room in its queue.
    all_descriptors()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("full")
    listener.listen(0)
    threading.stack_size(65536)
    refused = threading.Semaphore(0)
    def connect():
        s = socket.socket(socket.AF_UNIX)
        kept.append(s)
        try:
            s.connect("full")
        except OSError as e:
            refused.release()
    global count
    for _ in range(1200):
        threading.Thread(target=connect, daemon=True).start()
        count += 1
    # The limit is 1,000 that wait.
    for _ in range(150):
        refused.acquire()

def processes():
    def fork():
        pid = os.fork()
        if pid == 0:
            import signal
            signal.pause()
        return pid
    until_refused(fork)

def terminals():
    all_descriptors()
    until_refused(os.openpty)

def pipes():
    all_descriptors()
    def pipe():
        r, w = os.pipe2(os.O_NONBLOCK)
        try:
            os.write(w, bytes(65536))
        except BlockingIOError:
            pass
        return r, w
    until_refused(pipe)

{"in-flight": in_flight, "instances": lambda: inotify(False), "watches": lambda: inotify(True), "pending": pending,
 "processes": processes, "terminals": terminals, "pipes": pipes}[sys.argv[1]]()
os.write(1, b"HAVE %d\n" % count)
os.read(0, 1)
os._exit(0)
"#;

/// One test at a time: two floods have two halves of what the user may have.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Starts the flood and waits until it has all that it can get; how much that is.
fn flood(jail: &Jail, kind: &str, prepare: impl FnOnce(&mut Command)) -> Option<(Running, u64)> {
    let python = lab::program("python3")?;
    std::fs::write(jail.work().join("flood.py"), FLOODS).unwrap();
    let mut command = jail.run_command("nil", &[python.to_str().unwrap(), "flood.py", kind]);
    prepare(&mut command);
    let mut running = Running::start(command);
    let out = running.until("HAVE ");
    let out = if out.ends_with('\n') { out } else { running.until("\n") };
    let have = out.lines().find_map(|line| line.strip_prefix("HAVE ")?.parse().ok()).unwrap();
    Some((running, have))
}

/// A new jail starts, passes descriptors between its roles, connects by TCP and by a unix socket, and ends.
fn another_jail_works() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::socks5(proxy.addr, "");
    assert_eq!(jail.probe(&["echo", TARGETS[0], "alive"]).fact("got"), "5 alive");
}

/// The user's own programs.
fn the_user_goes_on() {
    // SAFETY: a call without memory; the descriptor is closed.
    let inotify = unsafe { libc::inotify_init1(0) };
    assert!(inotify >= 0, "inotify: {}", Errno::last());
    // SAFETY: a terminated path, and descriptors of this function.
    unsafe {
        assert!(libc::inotify_add_watch(inotify, c"/".as_ptr(), libc::IN_MODIFY) >= 0, "a watch: {}", Errno::last());
        libc::close(inotify);
    }
    nix::pty::openpty(None, None).expect("a terminal");
    let mut apart = Command::new("unshare");
    apart.args(["-Urnm", "true"]);
    lab::child::run(apart).good();
    // The kernel compares what all of the user's processes have in flight with the sender's own soft limit: a program with a
    // lower one than the jail's hard limit is refused while such a flood lasts (docs/processes.md).
    lab::raise_descriptor_limit();
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let rights = [null.as_raw_fd()];
    let message = [nix::sys::socket::ControlMessage::ScmRights(&rights)];
    let slices = [std::io::IoSlice::new(b"x")];
    nix::sys::socket::sendmsg::<()>(a.as_raw_fd(), &slices, &message, nix::sys::socket::MsgFlags::empty(), None)
        .expect("a descriptor in flight");
    drop(b);
}

fn survived(kind: &str, least: u64, prepare: impl FnOnce(&mut Command)) {
    let jail = Jail::new();
    let Some((mut running, have)) = flood(&jail, kind, prepare) else {
        return lab::skip(&format!("a flood of {kind}"), "no python3 outside of root's home");
    };
    assert!(have >= least, "{have} {kind} are no flood");
    the_user_goes_on();
    another_jail_works();
    // And in the flooded jail itself the processes that hold it are alive; a flood that connects to nothing has no worker.
    let mut roles = ROLES.iter().filter(|role| **role != "nj-connect");
    assert!(roles.all(|role| tree(running.pid()).iter().any(|(_, name)| name == role)), "{kind}: a role died");
    running.say("end\n");
    running.finish();
}

#[test]
fn a_flood_of_descriptors_in_flight_stays_in_its_jail() {
    let _alone = alone();
    survived("in-flight", 10, |_| ());
}

#[test]
fn a_flood_of_inotify_instances_stays_in_its_jail() {
    let _alone = alone();
    survived("instances", 10, |_| ());
}

#[test]
fn a_flood_of_inotify_watches_stays_in_its_jail() {
    let _alone = alone();
    survived("watches", 1000, |_| ());
}

#[test]
fn a_flood_of_pending_connects_stays_in_its_jail() {
    let _alone = alone();
    survived("pending", 1000, |_| ());
}

#[test]
fn a_flood_of_terminals_stays_in_its_jail() {
    let _alone = alone();
    survived("terminals", 100, |_| ());
}

#[test]
fn a_flood_of_full_pipes_stays_in_its_jail() {
    let _alone = alone();
    survived("pipes", 100, |_| ());
}

/// The jail gets half of what its user may have; root is never refused a process by this limit, in a jail or outside.
#[test]
fn a_flood_of_processes_stays_in_its_jail() {
    let _alone = alone();
    if lab::is_root() {
        return lab::note_skip("a_flood_of_processes_stays_in_its_jail", "it is about users, and part of their run");
    }
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // The kernel counts all of a user's processes, other tests' too, and compares each caller's with his own limit.
    use std::os::unix::fs::MetadataExt;
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mine = all.filter(|entry| entry.metadata().is_ok_and(|m| m.uid() == nix::unistd::getuid().as_raw()));
    let threads: usize =
        mine.map(|entry| std::fs::read_dir(entry.path().join("task")).map_or(0, Iterator::count)).sum();
    let limit = 1000 + threads as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    let before = move |command: &mut Command| {
        use std::os::unix::process::CommandExt;
        // SAFETY: setrlimit is async-signal-safe.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NPROC, limit, hard)?)) };
    };
    let jail = Jail::new();
    let Some((mut running, have)) = flood(&jail, "processes", before) else {
        return lab::skip("a_flood_of_processes_stays_in_its_jail", "no python3 outside of root's home");
    };
    assert!(have > 50 && have <= limit / 2, "{have} of {limit}");
    let other_jail = Jail::new();
    let mut other =
        other_jail.run_command("nil", &["sh", "-c", "for i in 1 2 3; do (sleep 0) & done; wait; echo good"]);
    before(&mut other);
    let done = lab::child::run(other).good();
    assert_eq!(done.out, "good\n");
    running.say("end\n");
    running.finish();
}

/// What the kernel counts for each user over all namespaces: a jail may have half of it.
#[test]
fn a_jail_has_half_of_each_of_its_users_namespaces_and_watches() {
    let _alone = alone();
    let line = "cd /proc/sys/user && grep -H . *";
    let outside = lab::child::run(Jail::new().command("sh".as_ref(), &["-c", line])).good();
    let inside = Jail::new().shell("nil", line).good();
    // The second user namespace has limits of its own as well, but the first one's hold for all below it: what counts is
    // what can be had.
    for name in ["max_user_namespaces", "max_inotify_instances", "max_inotify_watches", "max_mnt_namespaces"] {
        assert!(outside.out.contains(name) && inside.out.contains(name), "{inside:?}");
    }
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let most: u64 = std::fs::read_to_string("/proc/sys/user/max_inotify_instances").unwrap().trim().parse().unwrap();
    let jail = Jail::new();
    let (mut running, have) = flood(&jail, "instances", |_| ()).unwrap();
    assert!(have <= most / 2, "{have} of {most}");
    running.say("end\n");
    running.finish();
}
