//! The laws of the data plane, read off the running relay: bytes per system call, no locks, memory only for what is used,
//! and nothing spent on what stands still. (That 3,000 connections leave no descriptor behind is in `tcp_load`.)
//!
//! netjail's processes can not be looked into, so all of this is for root.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use lab::child::role;
use lab::servers::Gate;
use lab::{Behaviour, Jail, MTUS, Proxy, Running, TARGETS};

nix::ioctl_read_bad!(
    /// The interface of a queue.
    interface_of, 0x8004_54d2u32, libc::ifreq); // TUNGETIFF
nix::ioctl_read_bad!(
    /// The bytes before each packet.
    header_of, 0x8004_54d7u32, libc::c_int); // TUNGETVNETHDRSZ

/// The descriptors of a process that are queues of a TUN.
fn queues(pid: i32) -> Vec<i32> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    all.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("net/tun")))
        .map(|fd| fd.file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

/// A copy of another process's descriptor.
fn copy(pid: i32, fd: i32) -> OwnedFd {
    // SAFETY: both calls take integers; each makes a descriptor that nobody else owns.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(process as i32);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0);
        assert!(copy >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(copy as i32)
    }
}

#[test]
fn every_queue_of_the_tun_carries_super_segments_behind_a_virtio_header() {
    root_only!();
    for workers in [1, 2] {
        let proxy = Proxy::serving(Behaviour::Hold);
        let jail = Jail::socks5(proxy.addr, "").with(&["--workers", &workers.to_string()]);
        let running = jail.start_probe(&["idle", TARGETS[0]]);
        proxy.wait_asked(1);
        let relay = role(running.pid(), "nj-relay");
        let queues = queues(relay);
        assert_eq!(queues.len(), workers);
        for queue in queues {
            let copy = copy(relay, queue);
            // SAFETY: an all-zero ifreq is a valid value, and both calls write no more than what they are given.
            let (flags, size) = unsafe {
                let (mut request, mut size): (libc::ifreq, i32) = (std::mem::zeroed(), 0);
                interface_of(copy.as_raw_fd(), &raw mut request).unwrap();
                header_of(copy.as_raw_fd(), &raw mut size).unwrap();
                (i32::from(request.ifr_ifru.ifru_flags), size)
            };
            assert_ne!(flags & libc::IFF_VNET_HDR, 0);
            assert_ne!(flags & libc::IFF_NO_PI, 0);
            assert_eq!(flags & libc::IFF_MULTI_QUEUE != 0, workers > 1);
            assert_eq!(size, 10);
        }
    }
}

/// strace(1) on all threads of a process; what it wrote is read at the end.
struct Trace {
    strace: Running,
    file: tempfile::TempPath,
}

impl Trace {
    fn of(pid: i32, calls: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-e", &format!("trace={calls}"), "-e", "signal=none", "-s", "0", "-o"]).arg(&file);
        let strace = Running::start({
            command.args(["-p", &pid.to_string()]);
            command
        });
        lab::wait_for("strace", Duration::from_secs(10), || strace.err().contains("attached").then_some(()));
        Self { strace, file }
    }

    fn end(self) -> String {
        self.strace.signal(nix::sys::signal::Signal::SIGINT);
        self.strace.finish();
        std::fs::read_to_string(&self.file).unwrap()
    }
}

/// What the relay of a jail calls while a probe moves bytes.
struct Moved {
    said: String,
    calls: String,
    queues: Vec<i32>,
}

impl Moved {
    /// Runs one probe in a jail and follows the relay's `calls` meanwhile.
    fn by(jail: &Jail, probe: &str, calls: &str) -> Self {
        let line = format!("echo up; read x; {} {probe}; echo moved; read x", lab::tool("probe"));
        let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
        running.until("up");
        let relay = role(running.pid(), "nj-relay");
        let queues = queues(relay);
        let trace = Trace::of(relay, calls);
        running.say("go\n");
        let said = running.until("moved");
        let calls = trace.end();
        running.say("end\n");
        running.finish().good();
        Self { said, calls, queues }
    }

    /// What each such call on a queue of the TUN returned.
    fn returned(&self, call: &str) -> Vec<i64> {
        let is_ours = |line: &&str| self.queues.iter().any(|queue| line.contains(&format!(" {call}({queue}, ")));
        let number = |line: &str| line.rsplit_once("= ")?.1.split(' ').next()?.parse().ok();
        self.calls.lines().filter(is_ours).filter_map(number).collect()
    }
}

#[test]
fn bulk_is_read_in_pieces_of_more_than_thirty_kilobytes_and_without_a_lock() {
    root_only!();
    require!(lab::program("strace").is_some(), "no strace");
    for mtu in MTUS {
        let proxy = Proxy::serving(Behaviour::Slow(200, 3, 0));
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", mtu, "--workers", "2"]);
        let moved = Moved::by(&jail, &format!("upload {} 200 3", TARGETS[0]), "read,futex");
        assert_eq!(proxy.record.end_of(0).end, "eof");
        let reads: Vec<i64> = moved.returned("read").into_iter().filter(|count| *count >= 0).collect();
        let bytes: i64 = reads.iter().sum();
        assert!(bytes > 190 << 20, "{bytes} bytes in {} reads:\n{:.2000}", reads.len(), moved.calls);
        let mean = bytes / reads.len() as i64;
        assert!(mean > 30 << 10, "MTU {mtu}: {mean} bytes a read");
        assert!(!moved.calls.contains("futex("), "MTU {mtu}: a worker waits for a lock");
    }
}

#[test]
fn bulk_reaches_the_program_in_packets_longer_than_ip_can_say() {
    root_only!();
    require!(lab::program("strace").is_some(), "no strace");
    require!(netjail::tun::longest_packet() > 65_535, "Linux before 6.3 takes no longer packets");
    for (target, mtu) in TARGETS[..2].iter().flat_map(|target| MTUS.map(|mtu| (target, mtu))) {
        let proxy = Proxy::serving(Behaviour::Bulk(40, 7));
        let jail = Jail::socks5(proxy.addr, "").with(&["--mtu", mtu]);
        let moved = Moved::by(&jail, &format!("bulk {target} 40 7"), "write");
        assert!(moved.said.contains("down good"), "{target}, MTU {mtu}: {}", moved.said);
        let written = moved.returned("write");
        let longest = written.iter().max().unwrap();
        assert!(*longest > 100_000, "{target}, MTU {mtu}: {longest} bytes at most");
        assert!(written.iter().all(|count| *count > 0), "the kernel refused a packet");
    }
}

/// The proportional share of memory, in bytes.
fn memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Minor page faults so far.
fn faults(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold blanks; minflt is the 10th field, the 8th after it.
    text.rsplit_once(") ").unwrap().1.split(' ').nth(7).unwrap().parse().unwrap()
}

#[test]
fn two_thousand_idle_flows_cost_three_kilobytes_each_and_few_page_faults() {
    root_only!();
    const FLOWS: u64 = 2000;
    lab::raise_descriptor_limit();
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::socks5(proxy.addr, "");
    let mut running = jail.start_probe(&["crowd", TARGETS[0], &FLOWS.to_string()]);
    running.until("first");
    let relay = role(running.pid(), "nj-relay");
    let (before, faults_before) = (memory(relay), faults(relay));
    running.say("go\n");
    running.until("crowd");
    let per_flow = (faults(relay) - faults_before) as f64 / FLOWS as f64;
    let spent = || memory(relay).saturating_sub(before) / FLOWS;
    // Rings that were touched are given back after a second of silence.
    lab::wait_for("an idle flow to cost 3 KB", Duration::from_secs(10), || (spent() <= 3 << 10).then_some(()));
    assert!(per_flow < 8.0, "{per_flow} page faults a flow");
    println!("{} bytes and {per_flow:.1} page faults a flow", spent());
    running.say("end\n");
    running.finish().good();
}

/// CPU time of all threads, in ns.
fn spent(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .map(|task| std::fs::read_to_string(task.path().join("schedstat")).unwrap())
        .map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Waits until the relay is still for a while, which is the property: a flow that can not move costs nothing.
fn assert_still(relay: i32, what: &str) {
    lab::wait_for(what, Duration::from_secs(15), || {
        let before = spent(relay);
        std::thread::sleep(Duration::from_secs(2));
        (spent(relay) - before < 10_000_000).then_some(())
    });
}

#[test]
fn a_stalled_reader_on_either_side_costs_no_cpu() {
    root_only!();
    let proxy = Proxy::serving(Behaviour::Flood);
    let jail = Jail::socks5(proxy.addr, "");
    let running = jail.start_probe(&["idle", TARGETS[0]]);
    proxy.wait_asked(1);
    assert_still(role(running.pid(), "nj-relay"), "peace behind a program that reads nothing");

    let proxy = Proxy::serving(Behaviour::Stall(Gate::default()));
    let jail = Jail::socks5(proxy.addr, "");
    let mut running = jail.start_probe(&["stall", TARGETS[0]]);
    running.until("taken");
    assert_still(role(running.pid(), "nj-relay"), "peace behind a server that reads nothing");
}
