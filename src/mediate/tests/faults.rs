//! A jail that turns on its mediator, and a mediator that dies.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::jail::*;
use super::waits::Full;
use crate::mediate::FromMediator;
use crate::mediate::flight::MAX_PENDING;

#[test]
fn a_dead_mediator_is_a_refusal() {
    let outer = folder();
    let (ready, dead) = (outer.path().join("ready"), outer.path().join("dead"));
    let jail = Jail::new();
    let child = jail.start(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        same!(errno(TcpStream::connect(to)), 0);
        std::fs::write(&ready, "").unwrap();
        check!(eventually(|| dead.exists()));
        check!(eventually(|| errno(TcpStream::connect(to)) == libc::ENOSYS));
        Ok(())
    });
    assert!(eventually(|| ready.exists()));
    nix::sys::signal::kill(jail.mediator, nix::sys::signal::Signal::SIGKILL).unwrap();
    std::fs::write(&dead, "").unwrap();
    child.good();
}

#[test]
fn the_mediator_ends_with_the_warden() {
    let mut jail = Jail::new();
    jail.run(|| Ok(()));
    let (other, _) = crate::control::channel::pair().unwrap();
    jail.warden = other;
    let status = nix::sys::wait::waitpid(jail.mediator, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(jail.mediator, 0));
    // Nothing is left to be ended by the fixture.
    std::mem::forget(jail);
}

/// Stops the worker, as a jail that has blocked it for ever would, in the middle of a call.
#[test]
fn a_blocked_worker_is_replaced_and_remembers_what_was_bound() {
    let outer = folder();
    let path = outer.path().join("s");
    let jail = Jail::new();
    let child = jail.start(|| {
        let _server = UnixListener::bind(&path).unwrap();
        same!(reach(&path), 0);
        let full = Full::tcp();
        let stop = AtomicBool::new(false);
        let aborted = AtomicU32::new(0);
        let flipped = AtomicI32::new(-1);
        std::thread::scope(|scope| {
            // One thread keeps taking O_NONBLOCK away from a socket that another one connects: sooner or later the worker's
            // own connect blocks.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: no memory is passed.
                    unsafe { libc::fcntl(flipped.load(Ordering::Relaxed), libc::F_SETFL, 0) };
                }
            });
            // A signal every 20 ms ends the attempts that were not unlucky.
            super::waits::catch_alarms(Duration::from_millis(20), 0);
            let end = Instant::now() + Duration::from_secs(60);
            while Instant::now() < end && aborted.load(Ordering::Relaxed) == 0 {
                let fd = full.socket();
                flipped.store(fd.as_raw_fd(), Ordering::Relaxed);
                if full.connect(&fd) == libc::ECONNABORTED {
                    aborted.store(1, Ordering::Relaxed);
                }
            }
            super::waits::catch_alarms(Duration::ZERO, 0);
            stop.store(true, Ordering::Relaxed);
        });
        check!(aborted.load(Ordering::Relaxed) == 1);
        same!(reach(&path), 0);
        same!(errno(TcpStream::connect(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())), 0);
        Ok(())
    });
    child.good();
    assert_eq!(jail.event(), Some(FromMediator::Replaced));
}

#[test]
fn a_lingering_socket_does_not_hold_the_mediator() {
    let jail = Jail::new();
    jail.run(|| {
        // The peer reads nothing, so that bytes stay unsent: the last close of such a socket waits for its linger time.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = inet_address(server.local_addr().unwrap().port());
        for _ in 0..20 {
            let fd = socket(libc::AF_INET, libc::SOCK_STREAM);
            setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 30 }).unwrap();
            same!(connect(fd.as_raw_fd(), &to, 16), 0);
            let (served, _) = server.accept().unwrap();
            // SAFETY: no memory is passed; a full buffer ends the loop.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
            let bytes = [0u8; 65536];
            while nix::sys::socket::send(fd.as_raw_fd(), &bytes, nix::sys::socket::MsgFlags::empty()).is_ok() {}
            // A second connect hands the mediator a duplicate at the moment at which all others are closed.
            let raw = fd.as_raw_fd();
            let closer = std::thread::spawn(move || drop((fd, served)));
            connect(raw, &to, 16);
            drop(closer);
        }
        let begin = Instant::now();
        same!(connect(socket(libc::AF_INET, libc::SOCK_STREAM).as_raw_fd(), &to, 16), 0);
        check!(begin.elapsed() < Duration::from_secs(8));
        // Threads that linger in their close are not waited for.
        Ok(())
    });
}

#[test]
fn a_flood_of_waiting_connects_is_refused_at_a_limit_and_forgotten_with_its_threads() {
    let outer = folder();
    let jail = Jail::new();
    jail.run(|| {
        let full = Full::unix(&outer.path().join("full"));
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let flood = spawn(|| {
            let refused = AtomicU32::new(0);
            let over = AtomicBool::new(false);
            let threads = MAX_PENDING + 50;
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    let one = || {
                        if full.connect(&full.socket()) == libc::ENOBUFS {
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    };
                    std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, one).unwrap();
                }
                over.store(eventually(|| refused.load(Ordering::SeqCst) == 50), Ordering::SeqCst);
                // The rest waits for ever: this process ends with them.
                // SAFETY: ends this process.
                unsafe { libc::_exit(i32::from(!over.load(Ordering::SeqCst))) }
            })
        });
        flood.good();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        check!(eventually(|| errno(TcpStream::connect(to)) == 0));
        Ok(())
    });
}

#[test]
fn the_mediators_processes_are_out_of_reach() {
    let jail = Jail::new();
    jail.run(|| Ok(()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", jail.mediator)).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_string();
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{}/fd", jail.mediator)).unwrap());
    assert_eq!(owner, 0, "an undumpable process belongs to root");
}

/// What a hostile program can put into the real input: any bytes as an address, any number as a descriptor.
#[test]
fn random_addresses_and_descriptors_neither_stop_nor_grow_the_mediator() {
    let calls = std::env::var("NETJAIL_FUZZ_CALLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000u32);
    let outer = folder();
    let jail = Jail::new();
    let child = jail.start(|| {
        std::env::set_current_dir(outer.path()).unwrap();
        let _server = UnixListener::bind("s").unwrap();
        let fds: Vec<_> = [(libc::AF_INET, 1), (libc::AF_INET6, 2), (libc::AF_UNIX, 1), (libc::AF_UNIX, 5), (16, 3)]
            .map(|(family, kind)| socket(family, kind | libc::SOCK_NONBLOCK))
            .into();
        let heads: [&[u8]; 8] = [
            b"",
            b"/proc/self/",
            b"/proc/self/fd/",
            b"/proc/self/fd/3/",
            b"/proc/thread-self/cwd/",
            b"/",
            b"../",
            b"\0",
        ];
        let mut bytes = [0u8; 4096];
        for call in 0..calls {
            if call % 32 == 0 {
                getrandom::fill(&mut bytes).unwrap();
            }
            let random = &bytes[(call % 32) as usize * 128..][..128];
            let family = [libc::AF_UNIX, libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK, libc::AF_UNSPEC];
            let family = if random[1] < 16 { i32::from(random[2]) } else { family[usize::from(random[3]) % 5] };
            let address = [&(family as u16).to_ne_bytes(), heads[usize::from(random[4]) % 8], &random[8..]].concat();
            let fd =
                if random[5] < 32 { i32::from(random[6]) + 100 } else { fds[usize::from(random[6]) % 5].as_raw_fd() };
            connect(fd, &address, u32::from(random[7]) % 112);
        }
        same!(reach("s".as_ref()), 0);
        Ok(())
    });
    let worker = || {
        let children = format!("/proc/{0}/task/{0}/children", jail.mediator);
        std::fs::read_to_string(children).unwrap_or_default().trim().to_string()
    };
    let memory = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap_or("0 kB").to_string();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    assert!(eventually(|| !worker().is_empty()));
    let (first, before) = (worker(), memory(&worker()));
    child.good();
    assert_eq!(worker(), first, "the worker was replaced");
    let after = memory(&first);
    assert!(after < before + 2048, "the worker grew from {before} to {after} kB");
}
