//! A worker between a real kernel and real servers, in namespaces that the test makes itself and without any privilege.
//!
//! Three processes, all this test binary: the test; *the host*, in a network namespace whose loopback has public-looking
//! addresses, with the worker, the servers and a warden in threads; and *the jail*, with a TUN and a script of system calls
//! whose results it asserts. `in_namespaces` is the only test that does nothing by itself: it is what the other two run.

mod datagrams;
mod idle;
mod proxies;
mod questions;
mod speed;
mod streams;

use std::io::{ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration as Span;

use super::*;
use crate::control::channel::pair;
use crate::log::{End, Kind, Record};
use crate::names::answer::{Carries, Config, Names};
use crate::names::frame::append;
use crate::names::hosts::{HostNames, HostsTable};
use crate::names::pool::Pool;
use crate::names::testing;
use crate::overlay::DialError;
use crate::registry::{Id, NameFamilies};
use crate::stack;

const HOST4: &str = "203.0.113.7";
const HOST6: &str = "2001:db8::7";
const ROLE: &str = "NETJAIL_TEST_ROLE";
const CHANNEL: &str = "NETJAIL_TEST_CHANNEL";
const PATIENCE: Span = Span::from_secs(20);

/// Looks until something is so.
fn await_state(what: &str, is_so: impl Fn() -> bool) {
    let begun = Clock::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        thread::sleep(Span::from_millis(10)); // between two looks
    }
}

/// A scenario's name, what happens on the host, and what happens in the jail.
type Scenario = (&'static str, fn(&str), fn());

const SCENARIOS: [Scenario; 9] = [
    ("direct", streams::direct_outside, streams::direct_inside),
    ("socks", proxies::socks_outside, proxies::socks_inside),
    ("down", proxies::down_outside, proxies::down_inside),
    ("questions", questions::questions_outside, questions::questions_inside),
    ("forwarded", questions::forwarded_outside, questions::forwarded_inside),
    ("datagrams", datagrams::datagrams_outside, datagrams::datagrams_inside),
    ("idle", idle::idle_outside, idle::idle_inside),
    ("stalled", idle::stalled_outside, idle::stalled_inside),
    ("speed", speed::speed_outside, speed::speed_inside),
];

/// Starts this binary again in a user and network namespace of its own.
fn spawn(role: &str, channel: Option<&OwnedFd>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "worker::tests::in_namespaces", "--nocapture"]).env(ROLE, role);
    let inherited = channel.map(AsRawFd::as_raw_fd);
    if let Some(fd) = inherited {
        command.env(CHANNEL, fd.to_string());
    }
    let (users, groups) = (format!("0 {} 1", nix::unistd::geteuid()), format!("0 {} 1", nix::unistd::getegid()));
    // SAFETY: between fork and exec only system calls are made, and memory made before the fork is read.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNET)?;
            std::fs::write("/proc/self/uid_map", &users)?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/gid_map", &groups)?;
            if let Some(fd) = inherited {
                libc::fcntl(fd, libc::F_SETFD, 0);
            }
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("user and network namespaces (see `netjail doctor`)")
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip of iproute2 is needed");
    assert!(status.success(), "ip {arguments}");
}

fn check(scenario: &str) {
    assert!(spawn(&format!("host:{scenario}"), None).wait().unwrap().success(), "{scenario}: see above");
}

#[test]
fn in_namespaces() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (side, scenario) = role.split_once(':').unwrap();
    let (name, mtu) = scenario.split_once('@').unwrap_or((scenario, "65520"));
    let (_, outside, inside) = SCENARIOS.iter().find(|known| known.0 == name).expect(name);
    match side {
        "host" => {
            ip("link set lo up");
            ip(&format!("addr add {HOST4}/32 dev lo"));
            ip(&format!("addr add {HOST6}/128 dev lo nodad"));
            outside(scenario);
        }
        _ => {
            let queues = tun::open(tun::Source::Path("/dev/net/tun".as_ref()), "nj0", 1).unwrap();
            ip("link set lo up");
            ip("addr add 198.18.0.2/30 dev nj0");
            ip("addr add fd00:6e6a::2/64 dev nj0 nodad");
            ip(&format!("link set nj0 mtu {mtu} txqueuelen 10000 up"));
            ip("route add default via 198.18.0.1");
            ip("route add default via fd00:6e6a::1 dev nj0");
            let _ = std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
            let channel = channel_of_the_host();
            channel.send_with(&0, &[queues[0].as_fd()]).unwrap();
            drop(queues);
            channel.receive().unwrap();
            inside();
        }
    }
}

/// A resolver whose pool has given one address out: 198.18.1.80 is n80.test.
fn names() -> Resolver {
    let name = testing::host("n80.test");
    let from = Pool::new(0).assign(&name).unwrap().v4.to_bits();
    let pool = Pool::new(Ipv4Addr::new(198, 18, 1, 80).to_bits() - from);
    assert_eq!(pool.assign(&name).unwrap().v4.to_string(), "198.18.1.80");
    let carries = Carries { onion: true, i2p: true };
    let config = Config { own: testing::host("jail"), families: NameFamilies::V4, carries, forwards: false };
    Resolver::Pool(Names::new(Arc::new(pool), config))
}

/// The host's side: a worker in a thread, with a warden that keeps the records.
struct Host {
    jail: Child,
    go: Channel<u8, u8>,
    warden: Arc<Channel<FromWarden, ToWarden>>,
    worker: thread::JoinHandle<Result<Ended, WorkerError>>,
    records: Arc<Mutex<Vec<Record>>>,
    warden_loop: thread::JoinHandle<()>,
}

impl Host {
    /// `proxy`: the SOCKS5 server's address, or direct.
    fn start(scenario: &str, proxy: Option<SocketAddr>, change: impl FnOnce(&mut Setup)) -> Self {
        let (go, theirs) = pair::<u8, u8>().unwrap();
        let jail = spawn(&format!("jail:{scenario}"), Some(&theirs.into()));
        let (_, mut queues) = go.receive().expect("the jail's TUN");
        let (warden, channel) = pair::<FromWarden, ToWarden>().unwrap();
        let driver = match proxy {
            None => Driver::Direct,
            Some(_) => Driver::Socks5 { login: None, isolate: false },
        };
        let mut setup = Setup {
            queue: queues.remove(0),
            channel,
            table: Table { generation: 7, network: Id::direct(), direct: false, allow_lan: false, host: Vec::new() },
            driver,
            names: names(),
            resolvers: None,
            upstream_resolvers: Vec::new(),
            connect_timeout: Span::from_secs(5),
            datagrams: Limits::default(),
            siblings: None,
            stack: stack::Config::default(),
        };
        change(&mut setup);
        let worker = thread::Builder::new().name("worker".into()).spawn(move || run(setup)).unwrap();
        let (warden, records) = (Arc::new(warden), Arc::new(Mutex::new(Vec::new())));
        let (ours, kept) = (Arc::clone(&warden), Arc::clone(&records));
        let keeps = !scenario.starts_with("idle"); // its memory is measured
        let warden_loop = thread::spawn(move || {
            loop {
                match ours.receive() {
                    Ok((ToWarden::Up | ToWarden::Draining | ToWarden::Unreached | ToWarden::NoDatagrams { .. }, _)) => {
                    }
                    Ok((ToWarden::Relay { id, relay }, _)) => {
                        let socket = UdpSocket::bind((HOST4, 0)).unwrap();
                        socket.connect(relay).unwrap();
                        socket.set_nonblocking(true).unwrap();
                        ours.send_with(&FromWarden::Relay { id }, &[socket.as_fd()]).unwrap();
                    }
                    Ok((ToWarden::Dial { id }, _)) => {
                        let fd = socket_to(proxy.unwrap());
                        match fd {
                            Ok(fd) => ours.send_with(&FromWarden::Dialled { id }, &[fd.as_fd()]).unwrap(),
                            Err(errno) => {
                                let error = DialError::Proxy(errno as i32);
                                ours.send(&FromWarden::DialFailed { id, error }).unwrap();
                            }
                        }
                    }
                    Ok((ToWarden::Ahead { count }, _)) => {
                        let made: Vec<_> = (0..count).map_while(|_| socket_to(proxy?).ok()).collect();
                        let made: Vec<_> = made.iter().map(AsFd::as_fd).collect();
                        ours.send_with(&FromWarden::Ahead, &made).unwrap();
                    }
                    Ok((ToWarden::Records(_), _)) if !keeps => {}
                    Ok((ToWarden::Records(batch), _)) => kept.lock().unwrap().extend(batch.records),
                    Ok((ToWarden::Stopped, _)) | Err(_) => return,
                }
            }
        });
        Self { jail, go, warden, worker, records, warden_loop }
    }

    /// Lets the jail run its script to the end, stops the worker and returns the records.
    fn finish(mut self) -> Vec<Record> {
        self.go.send(&0).unwrap();
        let status = self.jail.wait().unwrap();
        self.warden.send(&FromWarden::Stop).unwrap();
        assert_eq!(self.worker.join().unwrap().unwrap(), Ended { unsent: 0 });
        self.warden_loop.join().unwrap();
        assert!(status.success(), "the jail's script failed: see above");
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

fn socket_to(address: SocketAddr) -> nix::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

/// Serves each connection to `address` in a thread.
fn serve(address: (&str, u16), each: impl Fn(TcpStream) + Send + Sync + 'static) {
    let listener = TcpListener::bind(address).unwrap();
    let each = Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = Arc::clone(&each);
            thread::spawn(move || each(stream));
        }
    });
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn reset(stream: TcpStream) {
    tune::reset_on_close(&stream.into());
}

fn dial(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let address = (host, port).to_socket_addrs()?.next().unwrap();
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn errno(result: std::io::Result<TcpStream>) -> i32 {
    let error = result.expect_err("a dial that must fail");
    error.raw_os_error().unwrap_or_else(|| panic!("no errno: {error:?}"))
}

/// The jail's channel to the host, which lives as long as the process.
fn channel_of_the_host() -> ManuallyDrop<Channel<u8, u8>> {
    let fd = std::env::var(CHANNEL).unwrap().parse().unwrap();
    // SAFETY: the parent left this descriptor open for this process, and no owner of it ever closes it.
    ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// The CPU time of the thread named `worker`, in ns.
fn worker_nanoseconds() -> u64 {
    loop {
        for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            if std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "worker\n") {
                let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap();
                return text.split(' ').next().unwrap().parse().unwrap();
            }
        }
        thread::yield_now(); // it is starting
    }
}
