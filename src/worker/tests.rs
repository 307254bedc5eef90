//! A worker between a real kernel and real servers, in namespaces that the test makes itself and without any privilege.
//!
//! Three processes, all this test binary: the test; *the host*, in a network namespace whose loopback has public-looking
//! addresses, with the worker, the servers and a warden in threads; and *the jail*, with a TUN and a script of system calls
//! whose results it asserts. `in_namespaces` is the only test that does nothing by itself: it is what the other two run.

use std::io::{ErrorKind, Read, Write};
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
    match side {
        "host" => {
            ip("link set lo up");
            ip(&format!("addr add {HOST4}/32 dev lo"));
            ip(&format!("addr add {HOST6}/128 dev lo nodad"));
            host(name, scenario);
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
            let fd = std::env::var(CHANNEL).unwrap().parse().unwrap();
            // SAFETY: the parent left this descriptor open for this process alone.
            let channel: Channel<u8, u8> = unsafe { OwnedFd::from_raw_fd(fd) }.into();
            channel.send_with(&0, &[queues[0].as_fd()]).unwrap();
            drop(queues);
            channel.receive().unwrap();
            jail(name);
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

/// A question with this id.
fn question(id: &[u8; 2], name: &str) -> Vec<u8> {
    let mut message = testing::question(name, 1);
    message[..2].copy_from_slice(id);
    message
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
    reset_now(stream.into());
}

fn reset_now(fd: OwnedFd) {
    pump::reset_on_close(&fd);
}

const TOTAL: usize = 64 << 20;

fn byte(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// Sends and receives a pattern at once and checks every byte. The server closes last, so that the client knows that all of
/// its bytes have arrived.
fn both_ways(stream: TcpStream, total: usize, server: bool) {
    let mut writer = stream.try_clone().unwrap();
    let up = thread::spawn(move || {
        let mut at = 0;
        let mut buffer = vec![0; 200_000];
        while at < total {
            let count = buffer.len().min(total - at);
            buffer[..count].iter_mut().enumerate().for_each(|(i, b)| *b = byte(at + i));
            writer.write_all(&buffer[..count]).unwrap();
            at += count;
        }
        if !server {
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut reader = stream;
    let (mut at, mut buffer) = (0, vec![0; 300_000]);
    loop {
        let count = reader.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        assert!(buffer[..count].iter().enumerate().all(|(i, b)| *b == byte(at + i)), "damaged near {at}");
        at += count;
    }
    assert_eq!(at, total);
    up.join().unwrap();
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

/// What happens on the host in each scenario.
fn host(name: &str, scenario: &str) {
    match name {
        "direct" => {
            for address in [HOST4, HOST6] {
                serve((address, 1000), echo);
                serve((address, 1001), |mut stream| {
                    // Answers only after the client's FIN: half-close.
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).unwrap();
                    stream.write_all(&all).unwrap();
                });
                serve((address, 1002), |mut stream| {
                    stream.write_all(b"bye").unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    // The other direction lives on.
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).unwrap();
                    assert_eq!(all, b"still here");
                });
                serve((address, 1003), |mut stream| {
                    stream.read_exact(&mut [0]).unwrap();
                    reset(stream);
                });
                serve((address, 1004), |stream| both_ways(stream, TOTAL, true));
            }
            let (saw, seen) = std::sync::mpsc::channel();
            let saw = Mutex::new(saw);
            serve((HOST4, 1005), move |mut stream| {
                let end = loop {
                    match stream.read(&mut [0; 100]) {
                        Ok(1..) => {}
                        end => break end.map_err(|e| e.kind()),
                    }
                };
                saw.lock().unwrap().send(end).unwrap();
            });
            let host = Host::start(scenario, None, |_| {});
            let records = host.finish();
            let end = seen.recv_timeout(PATIENCE).unwrap();
            assert_eq!(end, Err(ErrorKind::ConnectionReset), "a reset is passed on as one");
            let close = |port, close| {
                records.iter().any(|r| {
                    r.port == Some(port) && r.generation == 7 && r.end.as_ref().map(|end| end.close) == Some(close)
                })
            };
            assert!(close(1000, Close::Finished));
            assert!(close(1003, Close::ResetByPeer));
            assert!(close(1005, Close::ResetByProgram));
            assert!(close(9, Close::Dial(DialError::Direct(libc::ECONNREFUSED))), "{records:?}");
            assert!(records.iter().any(|r| r.rule == Rule::UnknownPoolAddress));
            let bulk: Vec<_> = records.iter().filter(|r| r.port == Some(1004)).filter_map(|r| r.end).collect();
            assert_eq!(bulk.len(), 2);
            assert!(bulk.iter().all(|end| end.bytes_out == TOTAL as u64 && end.bytes_in == TOTAL as u64), "{bulk:?}");
        }
        "socks" => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let proxy = listener.local_addr().unwrap();
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    thread::spawn(move || scripted_proxy(stream));
                }
            });
            let host = Host::start(scenario, Some(proxy), |setup| setup.connect_timeout = Span::from_secs(5));
            let records = host.finish();
            assert!(records.iter().any(|r| r.name.as_deref() == Some("n80.test")));
            assert!(records.iter().any(|r| matches!(r.end, Some(End { close: Close::Dial(DialError::TimedOut), .. }))));
        }
        "down" => {
            let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            Host::start(scenario, Some(unused), |_| {}).finish();
        }
        "questions" => {
            let records = Host::start(scenario, None, |_| {}).finish();
            assert_eq!(records.iter().filter(|r| r.kind == Kind::Question).count(), 6);
        }
        "forwarded" => {
            let silent = UdpSocket::bind((HOST4, 0)).unwrap();
            let resolver = UdpSocket::bind((HOST4, 0)).unwrap();
            let at = resolver.local_addr().unwrap();
            let over_tcp = TcpListener::bind(at).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 600];
                while let Ok((count, from)) = resolver.recv_from(&mut buffer) {
                    buffer[2] |= 0x80;
                    // First a forgery, with another id.
                    let mut forged = buffer[..count].to_vec();
                    forged[0] ^= 1;
                    resolver.send_to(&forged, from).unwrap();
                    resolver.send_to(&buffer[..count], from).unwrap();
                }
            });
            thread::spawn(move || {
                for mut stream in over_tcp.incoming().map_while(Result::ok) {
                    let mut message = vec![0; 2];
                    stream.read_exact(&mut message).unwrap();
                    message.resize(2 + usize::from(message[1]), 0);
                    stream.read_exact(&mut message[2..]).unwrap();
                    message[4] |= 0x80;
                    stream.write_all(&message).unwrap();
                }
            });
            let silent_at = silent.local_addr().unwrap();
            Host::start(scenario, None, |setup| {
                setup.names =
                    Resolver::Host(HostNames::new(HostsTable::default(), testing::host("jail"), vec![], false));
                setup.resolvers = Some(vec!["198.18.0.1".parse().unwrap()]);
                setup.upstream_resolvers = vec![silent_at, at];
            })
            .finish();
            drop(silent);
        }
        "stalled" => {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let stopped = Mutex::new(stopped);
            // Neither reads nor writes until it is told to.
            serve((HOST4, 1000), move |_stream| assert!(stopped.lock().unwrap().recv().is_err()));
            let host = Host::start(scenario, None, |_| {});
            host.go.send(&0).unwrap();
            host.go.receive().expect("the jail's stream is stalled");
            let before = worker_nanoseconds();
            thread::sleep(Span::from_secs(3)); // the property is that nothing happens for a while
            let spent = worker_nanoseconds() - before;
            assert!(spent < 10_000_000, "a stalled flow costs CPU: {spent} ns");
            drop(stop);
            host.finish();
        }
        "datagrams" => {
            let seen: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
            for port in [123, 2000] {
                let (server, seen) = (UdpSocket::bind((HOST4, port)).unwrap(), Arc::clone(&seen));
                thread::spawn(move || {
                    while let Ok((count, from)) = server.recv_from(&mut [0; 9]) {
                        seen.lock().unwrap().push(from);
                        server.send_to(&[0; 9][..count], from).unwrap();
                    }
                });
            }
            let host = Host::start(scenario, None, |setup| {
                setup.stack.datagrams.carried = true;
                setup.table.direct = true;
                let short = Duration::from_millis(500);
                setup.datagrams = Limits { mappings: 20, short, spare: Duration::from_secs(3600), ..Limits::default() };
            });
            host.go.send(&0).unwrap();
            let begun = Clock::now();
            let ended = |close: Close| {
                let records = host.records.lock().unwrap();
                records.iter().filter(|r| r.end.is_some_and(|end| end.close == close)).count()
            };
            while ended(Close::Idle) == 0 {
                assert!(begun.elapsed() < PATIENCE, "an association of one question is forgotten");
                thread::sleep(Span::from_millis(10));
            }
            host.go.send(&0).unwrap();
            host.go.receive().expect("a flood of sockets is over");
            let ports = seen.lock().unwrap().clone();
            assert_ne!(ports[0], ports[1], "a mapping that was forgotten has another port");
            let own = crate::policy::OwnAddress {
                address: HOST4.parse::<IpAddr>().unwrap().into(),
                on_link: HOST4.parse::<IpAddr>().unwrap().into(),
            };
            let (generation, network) = (8, Id::direct());
            let table = Table { generation, network, direct: true, allow_lan: false, host: vec![own] };
            host.warden.send(&FromWarden::Table(table)).unwrap();
            while ended(Close::Limit(Rule::HostAddress)) == 0 {
                assert!(begun.elapsed() < PATIENCE * 2, "what has become the host's own is not sent to any more");
                thread::sleep(Span::from_millis(10));
            }
            let before = seen.lock().unwrap().len();
            host.go.send(&0).unwrap();
            host.go.receive().expect("the last datagram is refused");
            assert_eq!(seen.lock().unwrap().len(), before);
            let records = host.finish();
            assert!(records.iter().any(|r| r.rule == Rule::LimitMappings && r.end.is_none()), "{records:?}");
            let counted = |r: &&Record| r.end.is_some_and(|end| end.bytes_in == 1 && end.bytes_out == 1);
            assert!(records.iter().filter(counted).count() > 10);
        }
        "idle" => {
            raise_limit();
            let listener = TcpListener::bind((HOST4, 1000)).unwrap();
            thread::spawn(move || {
                let mut kept = Vec::new();
                for mut stream in listener.incoming().map_while(Result::ok) {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    if byte[0] == 0 {
                        kept.clear();
                    }
                    stream.write_all(&byte).unwrap();
                    kept.push(stream);
                }
            });
            let host = Host::start(scenario, None, |_| {});
            host.go.send(&0).unwrap();
            host.go.receive().expect("the first flow is there");
            let before = own_memory();
            host.go.receive().expect("all flows are there");
            await_size(before + IDLE * 3 * 1024);
            host.go.send(&0).unwrap();
            host.go.receive().expect("all flows are gone");
            // A fifth, and what the test's own server and warden keep.
            await_size(before + before / 5 + (128 << 10));
            host.finish();
        }
        "speed" => {
            for (port, up) in [(1000, true), (1001, false)] {
                serve((HOST4, port), move |stream| if up { swallow(stream) } else { pour(stream) });
            }
            serve((HOST4, 1002), |stream| {
                stream.set_nodelay(true).unwrap();
                echo(stream);
            });
            measure("no jail", &mut |_| {});
            let host = Host::start(scenario, None, |_| {});
            host.go.send(&0).unwrap();
            for phase in ["up", "down", "round trips", "dials"] {
                let before = worker_nanoseconds();
                host.go.receive().expect("the end of a phase");
                println!("  {phase}: {:.3} s of the worker's CPU", (worker_nanoseconds() - before) as f64 * 1e-9);
            }
            host.finish();
        }
        other => panic!("no scenario {other}"),
    }
}

/// What happens in the jail.
fn jail(name: &str) {
    match name {
        "direct" => {
            for host in [HOST4, HOST6] {
                let mut stream = dial(host, 1000).unwrap();
                stream.write_all(b"hello").unwrap();
                let mut answer = [0; 5];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"hello");
                drop(stream);

                let mut stream = dial(host, 1001).unwrap();
                stream.write_all(b"question").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "question");

                let mut stream = dial(host, 1002).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "bye");
                stream.write_all(b"still here").unwrap();
                drop(stream);

                let mut stream = dial(host, 1003).unwrap();
                stream.write_all(b"x").unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
                both_ways(dial(host, 1004).unwrap(), TOTAL, false);
                assert_eq!(errno(dial(host, 9)), libc::ECONNREFUSED);
            }
            let mut stream = dial(HOST4, 1005).unwrap();
            stream.write_all(b"x").unwrap();
            reset(stream);
            assert_eq!(errno(dial("198.18.7.7", 80)), libc::ECONNREFUSED, "a pool address that was never given out");
            // Whatever is no question is refused at once.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((HOST4, 443)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"hello").unwrap();
            assert_eq!(socket.recv(&mut [0; 10]).unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));
        }
        "socks" => {
            // By name, and with bytes of the server right behind the reply.
            let mut stream = dial("198.18.1.80", 80).unwrap();
            let mut early = [0; 9];
            stream.read_exact(&mut early).unwrap();
            assert_eq!(&early, b"n80.test!");
            stream.write_all(b"ping").unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"ping");
            for (port, expected) in [
                (5, libc::ECONNREFUSED),
                (4, libc::EHOSTUNREACH),
                (3, libc::ENETUNREACH),
                (2, libc::EHOSTUNREACH),
                (1, libc::ECONNREFUSED),
                (200, libc::ENETUNREACH),  // garbage
                (201, libc::ENETUNREACH),  // end of file
                (202, libc::EHOSTUNREACH), // silence
            ] {
                assert_eq!(errno(dial(HOST4, port)), expected, "reply {port}");
            }
            for mut stream in (0..200).map(|_| dial("198.18.1.80", 80).unwrap()).collect::<Vec<_>>() {
                stream.read_exact(&mut early).unwrap();
            }
        }
        "down" => {
            for _ in 0..3 {
                assert_eq!(errno(dial(HOST4, 80)), libc::ENETUNREACH);
            }
        }
        "questions" => {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for server in ["198.18.0.1", "8.8.8.8"] {
                socket.send_to(&question(b"01", "n80.test"), (server, 53)).unwrap();
                let mut answer = [0; 100];
                let (count, from) = socket.recv_from(&mut answer).unwrap();
                assert_eq!((&answer[..2], from.to_string()), (&b"01"[..], format!("{server}:53")));
                assert!(answer[..count].ends_with(&[198, 18, 1, 80]));
                // Two in one segment, the second in two pieces.
                let mut stream = dial(server, 53).unwrap();
                let mut messages = Vec::new();
                append(&question(b"ab", "n80.test"), &mut messages).unwrap();
                append(&question(b"cd", "other.test"), &mut messages).unwrap();
                let (head, tail) = messages.split_at(messages.len() - 7);
                stream.write_all(head).unwrap();
                stream.write_all(tail).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answers = Vec::new();
                stream.read_to_end(&mut answers).unwrap();
                let second = 2 + usize::from(answers[1]);
                assert_eq!((&answers[2..4], &answers[second + 2..second + 4]), (&b"ab"[..], &b"cd"[..]));
                assert_eq!(answers.len(), second + 2 + usize::from(answers[second + 1]));
            }
        }
        "forwarded" => {
            let mut question = question(b"ab", "elsewhere.test");
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(&question, ("198.18.0.1", 53)).unwrap();
            let mut answer = [0; 100];
            let (count, _) = socket.recv_from(&mut answer).unwrap();
            question[2] |= 0x80;
            assert_eq!(&answer[..count], question, "the second resolver's, under the program's id");
            assert_eq!(errno(dial("8.8.8.8", 53)), libc::ENETUNREACH, "port 53 elsewhere is a flow like others");
        }
        "stalled" => {
            let mut stream = dial(HOST4, 1000).unwrap();
            stream.set_nonblocking(true).unwrap();
            let data = vec![1; 1 << 20];
            let mut refused = 0;
            while refused < 50 {
                let written = stream.write(&data).map_err(|error| error.kind());
                refused = if written == Err(ErrorKind::WouldBlock) { refused + 1 } else { 0 };
                thread::sleep(Span::from_millis(10)); // the buffers of two kernels fill up
            }
            let channel = channel_of_the_host();
            channel.send(&0).unwrap();
            channel.receive().unwrap();
            std::mem::forget(channel);
        }
        "datagrams" => {
            let channel = channel_of_the_host();
            let socket = |port: u16| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((HOST4, port)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            };
            let ask = |socket: &UdpSocket| socket.send(b"x").and_then(|_| socket.recv(&mut [0; 9]));
            let clock = socket(123);
            assert_eq!(ask(&clock).unwrap(), 1);
            channel.receive().unwrap();
            // Forgotten, and begun anew.
            assert_eq!(ask(&clock).unwrap(), 1);
            let many: Vec<UdpSocket> = (0..50).map(|_| socket(2000)).collect();
            let refused = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
            let answered = many.iter().filter(|socket| ask(socket).map_err(refused).is_ok()).count();
            assert!((10..=20).contains(&answered), "{answered} of 50, where 20 may be");
            channel.send(&0).unwrap();
            channel.receive().unwrap();
            // The address is the host's own now.
            let error = ask(&many[0]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
            channel.send(&0).unwrap();
            channel.receive().unwrap();
            std::mem::forget(channel);
        }
        "idle" => {
            raise_limit();
            let channel = channel_of_the_host();
            let flow = |byte| {
                let mut stream = dial(HOST4, 1000).unwrap();
                stream.write_all(&[byte]).unwrap();
                stream.read_exact(&mut [0]).unwrap();
                stream
            };
            let first = flow(1);
            channel.send(&0).unwrap();
            let flows: Vec<_> = (0..IDLE).map(|_| flow(1)).collect();
            channel.send(&0).unwrap();
            channel.receive().unwrap();
            drop((first, flows));
            flow(0);
            channel.send(&0).unwrap();
            channel.receive().unwrap();
            std::mem::forget(channel);
        }
        "speed" => {
            let channel = channel_of_the_host();
            measure("netjail", &mut |bytes| {
                println!("  {:.3} GB", bytes as f64 * 1e-9);
                channel.send(&0).unwrap();
            });
            channel.receive().unwrap();
            std::mem::forget(channel);
        }
        other => panic!("no scenario {other}"),
    }
}

/// Idle flows of the test of their memory.
const IDLE: u64 = 2000;

fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// The memory that this process has made, in bytes. Not the proportional size, in which the share of the program's own text
/// grows whenever another test program ends.
fn own_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Waits until memory has gone down so far.
fn await_size(most: u64) {
    let begun = Clock::now();
    while own_memory() > most {
        assert!(begun.elapsed() < Span::from_secs(8), "{} bytes, {most} expected", own_memory());
        thread::sleep(Span::from_millis(100)); // between two looks
    }
    println!("{} bytes after {:?}, at most {most} expected", own_memory(), begun.elapsed());
}

/// A second owner of the channel of `in_namespaces`, to be forgotten at the end.
fn channel_of_the_host() -> Channel<u8, u8> {
    let fd = std::env::var(CHANNEL).unwrap().parse().unwrap();
    // SAFETY: the descriptor lives until this process ends, and this owner of it is forgotten.
    unsafe { OwnedFd::from_raw_fd(fd) }.into()
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

/// A SOCKS5 server that does what the port says: 80 connects, below 100 is a reply code, the rest is misbehaviour.
fn scripted_proxy(mut stream: TcpStream) {
    let mut head = [0; 3];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head, [5, 1, 0]);
    stream.write_all(&[5, 0]).unwrap();
    let mut request = [0; 4];
    if stream.read_exact(&mut request).is_err() {
        return; // made ahead, and never needed
    }
    let name = match request[3] {
        1 => {
            let mut address = [0; 4];
            stream.read_exact(&mut address).unwrap();
            String::new()
        }
        3 => {
            let mut length = [0];
            stream.read_exact(&mut length).unwrap();
            let mut name = vec![0; usize::from(length[0])];
            stream.read_exact(&mut name).unwrap();
            String::from_utf8(name).unwrap()
        }
        other => panic!("address type {other}"),
    };
    let mut port = [0; 2];
    stream.read_exact(&mut port).unwrap();
    match u16::from_be_bytes(port) {
        80 => {
            let reply = [&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name.as_bytes(), b"!"].concat();
            stream.write_all(&reply).unwrap();
            echo(stream);
        }
        200 => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap(),
        201 => {}
        202 => drop(stream.read(&mut [0])),
        code => stream.write_all(&[5, code as u8, 0, 0]).unwrap(),
    }
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    let _ = stream.write_all(b"!");
}

fn pour(mut stream: TcpStream) {
    let buffer = vec![7; 1 << 20];
    while stream.write_all(&buffer).is_ok() {}
}

/// Figures for people; nothing is asserted.
fn measure(label: &str, phase: &mut dyn FnMut(usize)) {
    let span = Span::from_millis(1500);
    let data = vec![3; 1 << 20];
    let gigabits = |bytes: usize, since: Clock| bytes as f64 * 8e-9 / since.elapsed().as_secs_f64();
    let (mut stream, start, mut bytes) = (dial(HOST4, 1000).unwrap(), Clock::now(), 0);
    while start.elapsed() < span {
        stream.write_all(&data).unwrap();
        bytes += data.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let up = gigabits(bytes, start);
    phase(bytes);
    let (mut stream, start, mut bytes) = (dial(HOST4, 1001).unwrap(), Clock::now(), 0);
    let mut buffer = vec![0; 1 << 20];
    while start.elapsed() < span {
        bytes += stream.read(&mut buffer).unwrap();
    }
    let down = gigabits(bytes, start);
    drop(stream);
    phase(bytes);
    let mut stream = dial(HOST4, 1002).unwrap();
    let mut rounds: Vec<_> = (0..5000)
        .map(|_| {
            let start = Clock::now();
            stream.write_all(&[1; 64]).unwrap();
            stream.read_exact(&mut [0; 64]).unwrap();
            start.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    phase(0);
    let mut dials: Vec<_> = (0..2000)
        .map(|_| {
            let start = Clock::now();
            let mut stream = dial(HOST4, 1002).unwrap();
            stream.write_all(&[1; 64]).unwrap();
            stream.read_exact(&mut [0; 64]).unwrap();
            start.elapsed()
        })
        .collect();
    dials.sort_unstable();
    phase(0);
    println!(
        "{label}: up {up:.1} Gbit/s, down {down:.1} Gbit/s, round trip p50 {:?}, connect+echo p50 {:?}",
        rounds[2500], dials[1000]
    );
}

#[test]
fn a_program_meets_the_real_server_as_if_there_were_no_jail() {
    check("direct");
}

#[test]
fn the_same_holds_at_an_mtu_of_1500() {
    check("direct@1500");
}

#[test]
fn socks5_by_name_and_each_failure_at_once() {
    check("socks");
}

#[test]
fn a_proxy_that_is_down_is_an_unreachable_network() {
    check("down");
}

#[test]
fn questions_to_any_address_are_answered_inside_over_udp_and_tcp() {
    check("questions");
}

#[test]
fn questions_are_forwarded_to_the_next_resolver_and_forgeries_passed_over() {
    check("forwarded");
}

#[test]
fn associations_are_forgotten_bounded_and_judged_again() {
    check("datagrams");
}

#[test]
fn an_idle_flow_costs_three_kilobytes_and_gives_them_back() {
    check("idle");
}

#[test]
fn a_stalled_flow_costs_no_cpu() {
    check("stalled");
}

/// Set NETJAIL_SPEED to see figures.
#[test]
fn speed() {
    if std::env::var_os("NETJAIL_SPEED").is_some() {
        check("speed@65520");
        check("speed@1500");
    }
}
