//! What a jail does not reach. Each attack succeeds in a plain `unshare -Urn` first.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libc::{AF_UNIX, SOCK_STREAM};
use nix::poll::{PollFd, PollFlags, poll};

use super::jail::*;
use crate::jail::seccomp::Options;
use crate::mediate::FromMediator;

#[test]
fn a_path_socket_of_the_host_is_out_of_reach_and_the_warden_hears_of_it() {
    let outer = folder();
    let path = outer.path().join("victim");
    let _victim = UnixListener::bind(&path).unwrap();
    symlink(&path, outer.path().join("link")).unwrap();
    std::fs::hard_link(&path, outer.path().join("hard")).unwrap();
    let attack = || {
        std::env::set_current_dir(outer.path()).unwrap();
        ["victim", "link", "hard", "./victim", "/proc/self/cwd/victim"].map(|p| reach(p.as_ref())).to_vec()
    };
    unmediated(|| {
        same!(attack(), vec![0; 5]);
        Ok(())
    })
    .good();
    let jail = Jail::new();
    jail.run(|| {
        same!(attack(), vec![libc::EACCES; 5]);
        Ok(())
    });
    assert!(matches!(jail.event(), Some(FromMediator::Refused { path, .. }) if path == b"victim"));
}

#[test]
fn a_new_host_socket_at_the_path_of_one_bound_inside_is_out_of_reach() {
    let outer = folder();
    let path = outer.path().join("s");
    let go = outer.path().join("go");
    let jail = Jail::new();
    let child = jail.start(|| {
        let _server = UnixListener::bind(&path).unwrap();
        same!(reach(&path), 0);
        std::fs::write(outer.path().join("bound"), "").unwrap();
        check!(eventually(|| go.exists()));
        same!(reach(&path), libc::EACCES);
        Ok(())
    });
    assert!(eventually(|| outer.path().join("bound").exists()));
    std::fs::remove_file(&path).unwrap();
    let _host = UnixListener::bind(&path).unwrap();
    std::fs::write(&go, "").unwrap();
    child.good();
}

#[test]
fn an_abstract_socket_of_the_host_is_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("netjail-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _victim = UnixListener::bind_addr(&address).unwrap();
    Jail::new().run(|| {
        let bytes = unix_address(format!("\0{name}").as_bytes());
        let fd = socket(AF_UNIX, SOCK_STREAM);
        same!(connect(fd.as_raw_fd(), &bytes, bytes.len() as u32), libc::ECONNREFUSED);
        Ok(())
    });
}

#[test]
fn a_socket_of_the_hosts_network_is_refused() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = inet_address(server.local_addr().unwrap().port());
    let stolen = socket(libc::AF_INET, SOCK_STREAM);
    let attack = || connect(stolen.as_raw_fd(), &address, 16);
    Jail::new().run(|| {
        same!(attack(), libc::EACCES);
        Ok(())
    });
    unmediated(|| {
        same!(attack(), 0);
        Ok(())
    })
    .good();
}

/// Two threads swap the path in the address while a third connects; how often the host's socket was reached.
fn hammer(inside: &[u8], victim: &[u8], time: Duration) -> u64 {
    assert_eq!(inside.len(), victim.len());
    let (a, b) = (unix_address(inside), unix_address(victim));
    let shared = a.clone().leak() as *mut [u8] as *mut u8 as usize;
    let stop = AtomicBool::new(false);
    let length = a.len();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for address in [&a, &b] {
                    // SAFETY: the buffer is leaked and as long as both; the race is the point of the test.
                    unsafe { std::ptr::copy_nonoverlapping(address.as_ptr(), shared as *mut u8, length) };
                }
            }
        });
        let end = Instant::now() + time;
        let mut hits = 0;
        while Instant::now() < end {
            let fd = socket(AF_UNIX, SOCK_STREAM | libc::SOCK_NONBLOCK);
            // SAFETY: as above.
            if unsafe { libc::connect(fd.as_raw_fd(), shared as *const _, length as u32) } == 0 {
                // The victim greets, the one inside does not.
                let mut byte = 0u8;
                // SAFETY: a live buffer of one byte.
                let got = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
                let mut name = nix::sys::socket::getpeername::<nix::sys::socket::UnixAddr>(fd.as_raw_fd());
                let outside = name.as_mut().is_ok_and(|n| n.path().is_some_and(|p| p.as_os_str().as_bytes() == victim));
                hits += u64::from(got == 1 || outside);
            }
        }
        stop.store(true, Ordering::Relaxed);
        hits
    })
}

#[test]
fn a_thread_that_swaps_the_address_gains_nothing() {
    let outer = folder();
    let (inside, victim) = (outer.path().join("inner"), outer.path().join("outer"));
    let host = UnixListener::bind(&victim).unwrap();
    host.set_nonblocking(true).unwrap();
    let drain = || std::iter::from_fn(|| host.accept().ok()).count();
    let attack = |time| {
        let _ = std::fs::remove_file(&inside);
        let server = UnixListener::bind(&inside).unwrap();
        server.set_nonblocking(true).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    while server.accept().is_ok() {}
                    let _ = poll(&mut [PollFd::new(server.as_fd(), PollFlags::POLLIN)], 10u16);
                }
            });
            let hits = hammer(inside.as_os_str().as_bytes(), victim.as_os_str().as_bytes(), time);
            stop.store(true, Ordering::Relaxed);
            hits
        })
    };
    unmediated(|| {
        check!(attack(Duration::from_millis(500)) > 0);
        Ok(())
    })
    .good();
    assert!(drain() > 0);
    Jail::new().run(|| {
        same!(attack(Duration::from_secs(5)), 0);
        Ok(())
    });
    assert_eq!(drain(), 0);
}

#[test]
fn a_thread_that_swaps_the_descriptor_gains_nothing() {
    // A socket of the host's network, which connects where the host's does, changes places with one of the jail's.
    let victim = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    victim.set_nonblocking(true).unwrap();
    let address = inet_address(victim.local_addr().unwrap().port());
    let stolen: Vec<_> = (0..16).map(|_| socket(libc::AF_INET, SOCK_STREAM | libc::SOCK_NONBLOCK)).collect();
    let attack = |time: Duration| {
        let slot = 500;
        let own = socket(libc::AF_INET, SOCK_STREAM | libc::SOCK_NONBLOCK);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for fd in stolen.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    // SAFETY: the number is this test's own.
                    unsafe {
                        libc::dup2(own.as_raw_fd(), slot);
                        libc::dup2(fd.as_raw_fd(), slot);
                    }
                }
            });
            let end = Instant::now() + time;
            while Instant::now() < end {
                connect(slot, &address, 16);
            }
            stop.store(true, Ordering::Relaxed);
        });
    };
    Jail::new().run(|| {
        attack(Duration::from_secs(2));
        Ok(())
    });
    assert!(victim.accept().is_err());
    let gains = || {
        unmediated(|| {
            attack(Duration::from_millis(300));
            Ok(())
        })
        .good();
        victim.accept().is_ok()
    };
    assert!((0..20).any(|_| gains()), "the attack works where nobody mediates");
}

#[test]
fn the_mediator_is_no_deputy_for_netlink() {
    Jail::new().run(|| {
        for (port, groups) in [(0u32, 1u32), (1, 0), (7, 7)] {
            let mut address = (libc::AF_NETLINK as u32).to_ne_bytes().to_vec();
            address.extend(port.to_ne_bytes());
            address.extend(groups.to_ne_bytes());
            let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW);
            same!(connect(fd.as_raw_fd(), &address, 12), libc::EPERM);
        }
        // Connected to the kernel, a dump works, and the port number is the program's own.
        let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW);
        let address = [&(libc::AF_NETLINK as u32).to_ne_bytes()[..], &[0; 8]].concat();
        same!(connect(fd.as_raw_fd(), &address, 12), 0);
        let mut request = vec![0u8; 20];
        request[..4].copy_from_slice(&20u32.to_ne_bytes());
        request[4..6].copy_from_slice(&libc::RTM_GETADDR.to_ne_bytes());
        request[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
        same!(nix::sys::socket::send(fd.as_raw_fd(), &request, nix::sys::socket::MsgFlags::empty()), Ok(20));
        let mut answer = [0; 4096];
        let got = nix::sys::socket::recv(fd.as_raw_fd(), &mut answer, nix::sys::socket::MsgFlags::empty());
        check!(got.is_ok_and(|n| n > 20));
        let name = nix::sys::socket::getsockname::<nix::sys::socket::NetlinkAddr>(fd.as_raw_fd()).unwrap();
        same!(name.pid(), std::process::id());
        Ok(())
    });
}

#[test]
fn an_allowed_socket_is_reached_and_its_neighbour_is_not() {
    let outer = folder();
    let at = |name: &str| outer.path().join(name);
    std::fs::create_dir_all(at("all/below")).unwrap();
    let mut hosts: Vec<_> =
        ["one", "other", "all/a", "all/below/b"].iter().map(|n| UnixListener::bind(at(n)).unwrap()).collect();
    // "later" is not bound yet, and one that is bound anew stays allowed.
    let jail = Jail::with(Options::default(), &[at("one"), at("later"), at("all")]);
    hosts.push(UnixListener::bind(at("later")).unwrap());
    std::fs::remove_file(at("one")).unwrap();
    hosts.push(UnixListener::bind(at("one")).unwrap());
    // What is said later counts as well, and what can not be allowed is said.
    hosts.push(UnixListener::bind(at("said")).unwrap());
    jail.allow(&at("nowhere/at/all"), false);
    jail.allow(&at("said"), false);
    assert!(matches!(jail.event(), Some(FromMediator::CannotAllow { errno: libc::ENOENT, .. })));
    jail.run(|| {
        same!(reach(&at("said")), 0);
        for name in ["one", "later", "all/a", "all/below/b"] {
            same!((name, reach(&at(name))), (name, 0));
        }
        same!(reach(&at("other")), libc::EACCES);
        // Neither a link in the allowed folder nor one in the place of an allowed name leads to the neighbour.
        symlink(at("other"), at("all/link")).unwrap();
        same!(reach(&at("all/link")), libc::EACCES);
        std::fs::remove_file(at("later")).unwrap();
        symlink(at("other"), at("later")).unwrap();
        same!(reach(&at("later")), libc::EACCES);
        Ok(())
    });
}

#[test]
fn a_name_in_a_folder_that_the_jail_can_write_means_the_socket_that_was_there() {
    let outer = folder();
    let at = |name: &str| outer.path().join(name);
    let listen = |name: &str| UnixListener::bind(at(name)).unwrap();
    let (_one, _two, _other) = (listen("one"), listen("two"), listen("other"));
    let jail = Jail::new();
    for name in ["one", "two", "later"] {
        jail.allow(&at(name), true);
    }
    jail.run(|| {
        same!((reach(&at("one")), reach(&at("two")), reach(&at("other"))), (0, 0, libc::EACCES));
        // The sibling gets the name.
        std::fs::rename(at("other"), at("one")).unwrap();
        same!(reach(&at("one")), libc::EACCES);
        std::fs::rename(at("one"), at("later")).unwrap();
        same!(reach(&at("later")), libc::EACCES);
        Ok(())
    });
    // A server that was started again can not be told from that.
    std::fs::remove_file(at("two")).unwrap();
    let _two = listen("two");
    jail.run(|| {
        same!(reach(&at("two")), libc::EACCES);
        Ok(())
    });
}

#[test]
fn a_socket_that_was_bound_into_a_folder_of_the_jails_leads_to_its_servers_successor() {
    let outer = folder();
    let at = |name: &str| outer.path().join(name);
    let first = UnixListener::bind(at("one")).unwrap();
    let jail = Jail::with(Options::default(), &[at("one")]);
    // What a bind mount in the jail goes on showing: the first inode, under another name.
    std::fs::hard_link(at("one"), at("bound")).unwrap();
    jail.run(|| {
        same!(reach(&at("bound")), 0);
        Ok(())
    });
    std::fs::remove_file(at("one")).unwrap();
    let second = UnixListener::bind(at("one")).unwrap();
    second.set_nonblocking(true).unwrap();
    jail.run(|| {
        same!(reach(&at("bound")), 0);
        Ok(())
    });
    assert!(second.accept().is_ok(), "it is the second server that was reached");
    drop(first);
}

#[test]
fn an_inode_that_the_warden_allows_is_reached() {
    use std::os::fd::AsFd;
    let outer = folder();
    let path = outer.path().join("broker");
    let _broker = UnixListener::bind(&path).unwrap();
    let jail = Jail::new();
    let inode = nix::fcntl::open(&path, nix::fcntl::OFlag::O_PATH, nix::sys::stat::Mode::empty()).unwrap();
    jail.warden.send_with(&crate::mediate::ToMediator::AllowInode, &[inode.as_fd()]).unwrap();
    jail.run(|| {
        same!(reach(&path), 0);
        Ok(())
    });
}

#[test]
fn datagrams_are_refused_unless_allowed() {
    let outer = folder();
    let path = outer.path().join("log");
    let _host = UnixDatagram::bind(&path).unwrap();
    let refused = Some(libc::ESOCKTNOSUPPORT);
    Jail::new().run(|| {
        same!(UnixDatagram::unbound().err().and_then(|e| e.raw_os_error()), refused);
        same!(UnixDatagram::pair().err().and_then(|e| e.raw_os_error()), refused);
        Ok(())
    });
    Jail::with(Options { allow_datagrams: true, ..Options::default() }, &[]).run(|| {
        let socket = UnixDatagram::unbound().map_err(|e| e.to_string())?;
        socket.connect(&path).map_err(|e| e.to_string())?;
        socket.send(b"x").map_err(|e| e.to_string())?;
        Ok(())
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_call_gets_enosys_and_is_said_once() {
    let jail = Jail::new();
    jail.run(|| {
        for _ in 0..3 {
            let mut eax = 362; // connect
            // SAFETY: with zero arguments the call touches no memory; rbx is LLVM's and is restored.
            unsafe {
                std::arch::asm!("push rbx", "xor ebx, ebx", "int 0x80", "pop rbx", inout("eax") eax,
                    in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0);
            }
            same!(eax, -libc::ENOSYS);
        }
        Ok(())
    });
    assert!(matches!(jail.event(), Some(FromMediator::ForeignArchitecture { .. })));
}
