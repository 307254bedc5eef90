//! What a connect gives.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use libc::{AF_INET, AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM};

use nix::sys::socket::{setsockopt, sockopt};

use super::jail::*;
use crate::jail::seccomp::Options;

#[test]
fn loopback_tcp_and_udp_work() {
    Jail::new().run(|| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(address).map_err(|e| e.to_string())?;
            let to = server.local_addr().unwrap();
            let mut client = TcpStream::connect(to).map_err(|e| e.to_string())?;
            let (mut served, from) = server.accept().unwrap();
            same!(client.local_addr().unwrap(), from);
            client.write_all(b"ping").unwrap();
            let mut got = [0; 4];
            served.read_exact(&mut got).unwrap();
            same!(&got, b"ping");
            drop(server);
            same!(errno(TcpStream::connect(to)), libc::ECONNREFUSED);
        }
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).map_err(|e| e.to_string())?;
        client.send(b"x").unwrap();
        same!(server.recv_from(&mut [0; 9]).unwrap().1, client.local_addr().unwrap());
        Ok(())
    });
}

#[test]
fn a_blocking_socket_is_blocking_again_afterwards() {
    Jail::new().run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        // SAFETY: no memory is passed.
        let flags = unsafe { libc::fcntl(client.as_raw_fd(), libc::F_GETFL) };
        same!(flags & libc::O_NONBLOCK, 0);
        Ok(())
    });
}

/// Every odd thing a program can say to connect, and what it gets.
fn oddities(folder: &Path) -> Vec<(String, i32)> {
    let mut got = Vec::new();
    let mut note = |name: &str, errno: i32| got.push((name.to_string(), errno));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let good = inet_address(port);
    let path = folder.join("bound");
    let _ = std::fs::remove_file(&path);
    let _unix = UnixListener::bind(&path).unwrap();
    let unix = unix_address(path.as_os_str().as_bytes());
    let tcp = || socket(AF_INET, SOCK_STREAM);
    note("bad descriptor", connect(-1, &good, 16));
    note("closed descriptor", connect(999, &good, 16));
    let file = std::fs::File::open("/dev/null").unwrap();
    note("no socket", connect(file.as_raw_fd(), &good, 16));
    for length in [0, 1, 2, 3, 8, 15, 16, 28, 110, 111, 128, 129, 1 << 20, u32::MAX] {
        let padded = [&good[..], &[0; 300]].concat();
        note(&format!("inet, {length} bytes"), connect(tcp().as_raw_fd(), &padded, length));
    }
    for length in [0, 1, 2, 3, 110, 111, 128, u32::MAX] {
        let padded = [&unix[..], &[0; 300]].concat();
        let fd = socket(AF_UNIX, SOCK_STREAM);
        note(&format!("unix, {length} bytes"), connect(fd.as_raw_fd(), &padded, length));
    }
    for (name, address) in [("null", 0usize), ("unmapped", 0x1000), ("kernel", usize::MAX - 4096)] {
        // SAFETY: the kernel answers EFAULT to a bad pointer.
        let got = unsafe { libc::connect(tcp().as_raw_fd(), address as *const _, 16) };
        note(name, if got == 0 { 0 } else { nix::errno::Errno::last_raw() });
    }
    let fd = tcp();
    note("unspecified first", connect(fd.as_raw_fd(), &[0; 16], 16));
    note("then good", connect(fd.as_raw_fd(), &good, 16));
    note("again", connect(fd.as_raw_fd(), &good, 16));
    note("unspecified", connect(fd.as_raw_fd(), &[0; 16], 16));
    note("good once more", connect(fd.as_raw_fd(), &good, 16));
    note("unix address on tcp", connect(tcp().as_raw_fd(), &unix, unix.len() as u32));
    note("inet address on unix", connect(socket(AF_UNIX, SOCK_STREAM).as_raw_fd(), &good, 16));
    let fd = socket(AF_INET, SOCK_STREAM | libc::SOCK_NONBLOCK);
    note("non-blocking", connect(fd.as_raw_fd(), &good, 16));
    note("non-blocking again", connect(fd.as_raw_fd(), &good, 16));
    note("a listener", connect(server.as_raw_fd(), &good, 16));
    let mut far = good.clone();
    far[4] = 10;
    note("no route", connect(tcp().as_raw_fd(), &far, 16));
    note("unix stream", reach(&path));
    note("type mismatch", connect(socket(AF_UNIX, SOCK_SEQPACKET).as_raw_fd(), &unix, unix.len() as u32));
    note("no such path", reach(&folder.join("absent")));
    note("no such folder", reach(&folder.join("absent/x")));
    note("under a socket", reach(&path.join("x")));
    std::fs::write(folder.join("file"), "").unwrap();
    note("a plain file", reach(&folder.join("file")));
    note("a folder", reach(folder));
    let dead = folder.join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    note("a dead socket", reach(&dead));
    let abstract_name = unix_address(b"\0nobody");
    note("abstract", connect(socket(AF_UNIX, SOCK_STREAM).as_raw_fd(), &abstract_name, abstract_name.len() as u32));
    let fd = socket(AF_UNIX, SOCK_STREAM);
    note("unix once", connect(fd.as_raw_fd(), &unix, unix.len() as u32));
    note("unix twice", connect(fd.as_raw_fd(), &unix, unix.len() as u32));
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM);
    note("udp", connect(fd.as_raw_fd(), &good, 16));
    note("udp again", connect(fd.as_raw_fd(), &good, 16));
    note("udp unspecified", connect(fd.as_raw_fd(), &[0; 16], 16));
    let netlink = [&(libc::AF_NETLINK as u32).to_ne_bytes()[..], &[0; 8]].concat();
    let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW);
    note("netlink to the kernel", connect(fd.as_raw_fd(), &netlink, 12));
    note("netlink unspecified", connect(fd.as_raw_fd(), &[0; 12], 12));
    note("netlink, wrong family", connect(fd.as_raw_fd(), &good, 16));
    note("netlink, short", connect(fd.as_raw_fd(), &netlink, 8));
    got
}

fn folder_of_one(folder: &Path, name: &str) -> Result<std::path::PathBuf, String> {
    let path = folder.join(name);
    std::fs::create_dir(&path).map_err(|e| e.to_string())?;
    Ok(path)
}

#[test]
fn every_odd_call_gets_what_it_gets_without_a_mediator() {
    let folder = folder();
    let (native, mediated) = (folder.path().join("native"), folder.path().join("mediated"));
    let write = |path: &Path, list: Vec<(String, i32)>| {
        let text: Vec<String> = list.iter().map(|(name, errno)| format!("{name}: {errno}")).collect();
        std::fs::write(path, text.join("\n")).map_err(|e| e.to_string())
    };
    unmediated(|| write(&native, oddities(folder_of_one(folder.path(), "a")?.as_path()))).good();
    Jail::new().run(|| write(&mediated, oddities(folder_of_one(folder.path(), "b")?.as_path())));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (native, mediated) = (read(&native), read(&mediated));
    let differ: Vec<_> = native.lines().zip(mediated.lines()).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty() && native.lines().count() == mediated.lines().count(), "{differ:#?}");
}

#[test]
fn sockets_bound_inside_are_reached_by_every_way_to_write_their_path() {
    let outer = folder();
    let folder = outer.path();
    std::fs::create_dir(folder.join("sub")).unwrap();
    std::os::unix::fs::symlink("sub", folder.join("link")).unwrap();
    std::os::unix::fs::symlink(folder.join("sub"), folder.join("absolute")).unwrap();
    Jail::new().run(|| {
        let server = UnixListener::bind(folder.join("sub/s")).unwrap();
        std::env::set_current_dir(folder).unwrap();
        let opened = std::fs::File::open(folder.join("sub")).unwrap();
        let by_descriptor = format!("/proc/self/fd/{}/s", opened.as_raw_fd());
        let by_number = format!("/proc/thread-self/fd/{}/s", opened.as_raw_fd());
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        for path in [
            folder.join("sub/s"),
            folder.join("link/s"),
            folder.join("absolute/s"),
            "sub/s".into(),
            "./sub/../sub//s".into(),
            "link/s".into(),
            "absolute/s".into(),
            format!("../{name}/sub/s").into(),
            by_descriptor.into(),
            by_number.into(),
            "/proc/self/cwd/sub/s".into(),
            format!("/proc/self/root{}/sub/s", folder.display()).into(),
        ] {
            let got = reach(&path);
            if got != 0 {
                return Err(format!("{}: errno {got}", path.display()));
            }
            server.accept().unwrap();
        }
        Ok(())
    });
}

#[test]
fn abstract_names_and_peer_credentials_work_inside() {
    Jail::new().run(|| {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(b"inside").unwrap();
        let server = UnixListener::bind_addr(&name).unwrap();
        let mut client = UnixStream::connect_addr(&name).map_err(|e| e.to_string())?;
        let (mut served, _) = server.accept().unwrap();
        client.write_all(b"hi").unwrap();
        let mut got = [0; 2];
        served.read_exact(&mut got).unwrap();
        let peer = nix::sys::socket::getsockopt(&served, nix::sys::socket::sockopt::PeerCredentials).unwrap();
        same!(peer.uid(), nix::unistd::getuid().as_raw());
        Ok(())
    });
}

#[test]
fn a_socket_in_a_further_mount_namespace_is_reached() {
    let outer = folder();
    let options = Options { nested_sandbox: true, ..Options::default() };
    Jail::with(options, &[]).run(|| {
        use nix::mount::{MsFlags, mount};
        enter(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount(Some("none"), outer.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(|e| e.to_string())?;
        let path = outer.path().join("deep");
        let _server = UnixListener::bind(&path).unwrap();
        same!(reach(&path), 0);
        Ok(())
    });
}

/// The command of the test below.
#[test]
#[ignore = "is started in a jail by another test"]
fn an_undumpable_program() {
    if std::env::var_os("NETJAIL_TEST_UNDUMPABLE").is_none() {
        return;
    }
    nix::sys::prctl::set_dumpable(false).unwrap();
    let _server = UnixListener::bind("s").unwrap();
    let here = std::fs::File::open(".").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(errno(TcpStream::connect(tcp.local_addr().unwrap())), 0);
    assert_eq!(reach("s".as_ref()), 0);
    assert_eq!(reach(format!("/proc/self/fd/{}/s", here.as_raw_fd()).as_ref()), 0);
    // A path below /proc/self that is no socket's is walked in the jail's own /proc.
    assert_eq!(reach("/proc/self/status".as_ref()), libc::EACCES);
    assert_eq!(reach("/proc/self/absent".as_ref()), libc::ENOENT);
}

/// Namespaces within namespaces, a pid namespace with its own numbers, and processes that no one may look into.
#[test]
fn undumpable_programs_in_a_second_user_namespace_and_a_pid_namespace_are_served() {
    let outer = folder();
    let jail = Jail::new();
    let init = |confine: &dyn Fn() -> Said| {
        enter_namespaces()?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).map_err(|e| e.to_string())?;
        spawn(|| {
            use nix::mount::{MsFlags, mount};
            same!(std::process::id(), 1);
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).map_err(|e| e.to_string())?;
            spawn(|| {
                enter(nix::sched::CloneFlags::CLONE_NEWNS)?;
                confine()?;
                std::env::set_current_dir(outer.path()).map_err(|e| e.to_string())?;
                // Who may look into a process is settled by the user namespace in which it was executed.
                let program = std::env::current_exe().map_err(|e| e.to_string())?;
                let name = "mediate::tests::calls::an_undumpable_program";
                let mut command = std::process::Command::new(program);
                command.args(["--ignored", "--exact", name]).env("NETJAIL_TEST_UNDUMPABLE", "1");
                let error = std::os::unix::process::CommandExt::exec(&mut command);
                Err(error.to_string())
            })
            .good();
            Ok(())
        })
        .good();
        Ok(())
    };
    jail.start_in(init).good();
}

#[test]
fn programs_of_one_jail_reach_each_others_sockets_and_a_second_jail_does_not() {
    let outer = folder();
    let path = outer.path().join("s");
    let (jail, other) = (Jail::new(), Jail::new());
    let server = jail.start(|| {
        let server = UnixListener::bind(outer.path().join("s")).unwrap();
        for _ in 0..2 {
            server.accept().unwrap();
        }
        Ok(())
    });
    assert!(eventually(|| path.exists()));
    other.run(|| {
        same!(reach(&path), libc::EACCES);
        Ok(())
    });
    // The harness gives every child a network of its own, so the reachable one is a thread of the server's own network:
    // here it is enough that the inode is known from outside the server's process.
    assert_eq!(reach(&path), 0);
    assert_eq!(reach(&path), 0);
    server.good();
}

#[test]
fn ten_thousand_connects_leave_no_descriptor_behind() {
    let jail = Jail::new();
    jail.run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        for _ in 0..10_000 {
            let client = TcpStream::connect(to).map_err(|e| e.to_string())?;
            let (served, _) = server.accept().unwrap();
            // The server closes first with a reset, so that no port waits in TIME-WAIT.
            setsockopt(&served, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
            drop((served, client));
        }
        Ok(())
    });
    // What is left is what a worker begins with: the listeners of children that have ended go as well.
    assert!(eventually(|| worker_descriptors(&jail) < 20), "{}", worker_descriptors(&jail));
}

/// How many descriptors the worker holds, seen from outside.
fn worker_descriptors(jail: &Jail) -> usize {
    let children = format!("/proc/{0}/task/{0}/children", jail.mediator);
    let worker = std::fs::read_to_string(children).unwrap_or_default().trim().to_string();
    std::fs::read_dir(format!("/proc/{worker}/fd")).map_or(0, Iterator::count)
}

/// Not a test: prints what a connect costs. `cargo test --release --lib figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures() {
    let measure = |name: &'static str| {
        move || {
            let outer = folder();
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = tcp.local_addr().unwrap();
            let path = outer.path().join("s");
            let unix = UnixListener::bind(&path).unwrap();
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..5000 {
                let begin = std::time::Instant::now();
                let client = TcpStream::connect(to).map_err(|e| e.to_string())?;
                times[0].push(begin.elapsed());
                drop((tcp.accept().unwrap(), client));
                let begin = std::time::Instant::now();
                let client = UnixStream::connect(&path).map_err(|e| e.to_string())?;
                times[1].push(begin.elapsed());
                drop((unix.accept().unwrap(), client));
            }
            for (kind, times) in ["tcp", "unix"].iter().zip(&mut times) {
                times.sort_unstable();
                println!("{name} {kind}: p50 {:?} p90 {:?} p99 {:?}", times[2500], times[4500], times[4950]);
            }
            Ok(())
        }
    };
    unmediated(measure("native")).good();
    Jail::new().run(measure("mediated"));
    let throughput = |name: &'static str| {
        move || {
            let begin = std::time::Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
                        let to = tcp.local_addr().unwrap();
                        for _ in 0..3000 {
                            let client = TcpStream::connect(to).unwrap();
                            drop((tcp.accept().unwrap(), client));
                        }
                    });
                }
            });
            println!("{name}, 8 threads: {:.0} connects a second", 24_000.0 / begin.elapsed().as_secs_f64());
            Ok(())
        }
    };
    unmediated(throughput("native")).good();
    Jail::new().run(throughput("mediated"));
}
