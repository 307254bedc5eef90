//! One measurement, in a jail or not, said line by line to who started it.
//!
//! `bench client MODE HOST [--socks ADDRESS:PORT] [--streams N] [--seconds S]`
//!
//! | mode | `result` |
//! |---|---|
//! | `up`, `down` | bytes a second, over N streams; `begin` before, `bytes` behind the time that is measured |
//! | `rtt` | seconds, the median of 64-byte round trips on one connection |
//! | `connect` | seconds, the median of connect + 64-byte echo + close |
//! | `storm` | connect + echo + close a second, N at a time |
//! | `udp` | 64-byte datagrams echoed a second, 16 outstanding; with `--socks` in an association of the client's own |
//! | `dns` | answers a second to A questions over 100,000 names, 64 outstanding |
//!
//! `idle`, `unread`, `untaken` and `burst` hold flows instead ([`held`]). Before a time is measured the same is done for a
//! part of it and thrown away.

mod held;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::{ECHO_PORTS, PATIENCE, SINK_PORT, SOURCE_PORT, STALL_PORT};

const MESSAGE: usize = 64;

#[derive(Clone)]
struct Options {
    host: String,
    socks: Option<SocketAddr>,
    streams: usize,
    time: Duration,
}

impl Options {
    /// What is thrown away before a measurement begins.
    fn warm_up(&self) -> Duration {
        self.time.mul_f64(0.4)
    }
}

/// Runs one measurement; `arguments` are those behind `client`.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let [mode, host, rest @ ..] = arguments else { return Err(io::Error::other("client MODE HOST")) };
    let mut options = Options { host: host.clone(), socks: None, streams: 1, time: Duration::from_secs(1) };
    for pair in rest.chunks(2) {
        let [key, value] = pair else { return Err(io::Error::other("an option without its value")) };
        let bad = |_| io::Error::other(format!("{key} {value}: not understood"));
        match key.as_str() {
            "--socks" => options.socks = Some(value.parse().map_err(|_| bad(()))?),
            "--streams" => options.streams = value.parse().map_err(|_| bad(()))?,
            "--seconds" => options.time = Duration::from_secs_f64(value.parse().map_err(|_| bad(()))?),
            _ => return Err(bad(())),
        }
    }
    let result = match mode.as_str() {
        "up" => bulk(&options, UP, measured),
        "down" => bulk(&options, DOWN, measured),
        "rtt" => round_trips(&options),
        "connect" => connects(&options),
        "storm" => storm(&options),
        "udp" => datagrams(&options),
        "dns" => questions(&options),
        "idle" => return held::idle(&options),
        "unread" => return held::stalled(&options, SOURCE_PORT),
        "untaken" => return held::stalled(&options, STALL_PORT),
        "burst" => return held::burst(&options),
        _ => Err(io::Error::other(format!("{mode}: no such mode"))),
    }?;
    println!("result {result}");
    Ok(())
}

/// Until who started it says so, or ends.
fn wait_for_a_word() -> io::Result<()> {
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// Connects as the options say; the SOCKS5 handshake is the plain one, a message and its answer at a time.
fn dial(options: &Options, port: u16) -> io::Result<TcpStream> {
    let Some(proxy) = options.socks else {
        let stream = TcpStream::connect((options.host.as_str(), port))?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    };
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[5, 1, 0])?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer[..2])?;
    let mut request = vec![5, 1, 0];
    match options.host.parse() {
        Ok(std::net::IpAddr::V4(v4)) => {
            request.push(1);
            request.extend(v4.octets());
        }
        Ok(std::net::IpAddr::V6(v6)) => {
            request.push(4);
            request.extend(v6.octets());
        }
        Err(_) => {
            request.extend([3, options.host.len() as u8]);
            request.extend(options.host.bytes());
        }
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request)?;
    stream.read_exact(&mut answer)?;
    if answer[1] != 0 {
        return Err(io::Error::other(format!("the proxy answered {}", answer[1])));
    }
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut message = [7; MESSAGE];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)
}

/// A service of the target's, and what a thread does with it again and again.
type Bulk = (u16, fn(&mut TcpStream, &mut [u8]) -> io::Result<usize>);
const UP: Bulk = (SINK_PORT, |stream, buffer| stream.write(buffer));
const DOWN: Bulk = (SOURCE_PORT, |stream, buffer| stream.read(buffer));

/// Moves bytes, a thread for each stream, as long as `meanwhile` takes, which sees how many there were.
fn bulk<T>(
    options: &Options,
    (port, step): Bulk,
    meanwhile: impl FnOnce(&Options, &AtomicU64) -> io::Result<T>,
) -> io::Result<T> {
    let (moved, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let streams = (0..options.streams).map(|_| dial(options, port)).collect::<io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for mut stream in streams {
            let (moved, stop) = (&moved, &stop);
            scope.spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while !stop.load(Relaxed) {
                    match step(&mut stream, &mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => moved.fetch_add(count as u64, Relaxed),
                    };
                }
                // Before the join, so that a thread that waits for bytes is not waited for.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
        }
        let outcome = meanwhile(options, &moved);
        stop.store(true, Relaxed);
        outcome
    })
}

fn measured(options: &Options, moved: &AtomicU64) -> io::Result<f64> {
    std::thread::sleep(options.warm_up());
    println!("begin");
    let (before, start) = (moved.load(Relaxed), Instant::now());
    std::thread::sleep(options.time);
    let (bytes, time) = (moved.load(Relaxed) - before, start.elapsed());
    println!("bytes {bytes}");
    // The launcher's CPU time is read now, while all of its processes live.
    wait_for_a_word()?;
    if bytes == 0 { Err(io::Error::other("no byte moved")) } else { Ok(bytes as f64 / time.as_secs_f64()) }
}

fn median(mut times: Vec<Duration>) -> io::Result<f64> {
    times.sort_unstable();
    times.get(times.len() / 2).map(Duration::as_secs_f64).ok_or_else(|| io::Error::other("nothing was measured"))
}

fn timed(options: &Options, mut once: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut times = Vec::new();
    let warm = Instant::now();
    while warm.elapsed() < options.warm_up() {
        once()?;
    }
    let start = Instant::now();
    while start.elapsed() < options.time {
        let at = Instant::now();
        once()?;
        times.push(at.elapsed());
    }
    median(times)
}

fn round_trips(options: &Options) -> io::Result<f64> {
    let mut stream = dial(options, ECHO_PORTS.start)?;
    timed(options, || echo(&mut stream))
}

/// Two dials, and time enough for a proxy that minds connections that are made ahead to close the next one's.
fn acquaint(options: &Options) -> io::Result<()> {
    for _ in 0..2 {
        echo(&mut dial(options, ECHO_PORTS.start)?)?;
    }
    std::thread::sleep(2 * PATIENCE);
    Ok(())
}

fn connects(options: &Options) -> io::Result<f64> {
    acquaint(options)?;
    let mut ports = ECHO_PORTS.cycle();
    timed(options, || echo(&mut dial(options, ports.next().unwrap_or(ECHO_PORTS.start))?))
}

fn storm(options: &Options) -> io::Result<f64> {
    acquaint(options)?;
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.streams)
            .map(|at| {
                let (done, stop) = (&done, &stop);
                scope.spawn(move || -> io::Result<()> {
                    let mut ports = ECHO_PORTS.cycle().skip(at % ECHO_PORTS.len());
                    while !stop.load(Relaxed) {
                        echo(&mut dial(options, ports.next().unwrap_or(ECHO_PORTS.start))?)?;
                        done.fetch_add(1, Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(options.warm_up());
        let (before, start) = (done.load(Relaxed), Instant::now());
        std::thread::sleep(options.time);
        let rate = (done.load(Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        for worker in workers {
            worker.join().map_err(|_| io::Error::other("a thread died"))??;
        }
        Ok(rate)
    })
}

fn datagrams(options: &Options) -> io::Result<f64> {
    let target = (options.host.as_str(), ECHO_PORTS.start);
    let (socket, head, _association) = match options.socks {
        None => {
            let socket = UdpSocket::bind(if options.host.contains(':') { "[::]:0" } else { "0.0.0.0:0" })?;
            socket.connect(target)?;
            (socket, Vec::new(), None)
        }
        Some(proxy) => {
            let mut stream = TcpStream::connect(proxy)?;
            stream.write_all(&[5, 1, 0])?;
            let mut answer = [0; 10];
            stream.read_exact(&mut answer[..2])?;
            stream.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
            stream.read_exact(&mut answer)?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((proxy.ip(), u16::from_be_bytes([answer[8], answer[9]])))?;
            let Ok(std::net::IpAddr::V4(v4)) = options.host.parse() else {
                return Err(io::Error::other("only IPv4 in an association"));
            };
            let mut head = vec![0, 0, 0, 1];
            head.extend(v4.octets());
            head.extend(ECHO_PORTS.start.to_be_bytes());
            (socket, head, Some(stream))
        }
    };
    let message = [head, vec![7; MESSAGE]].concat();
    exchange(options, &socket, 16, || socket.send(&message))
}

/// How many datagrams are answered a second, with so many outstanding. One that is lost is sent again after a while, so that
/// a loss costs what it should.
fn exchange(
    options: &Options,
    socket: &UdpSocket,
    outstanding: usize,
    mut ask: impl FnMut() -> io::Result<usize>,
) -> io::Result<f64> {
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    for _ in 0..outstanding {
        ask()?;
    }
    let mut answer = [0; 2048];
    let (mut answers, mut start, mut losses) = (0u64, None, 0);
    let warm = Instant::now();
    loop {
        match socket.recv(&mut answer) {
            Ok(_) => answers += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && losses < 50 => losses += 1,
            Err(error) => return Err(error),
        }
        ask()?;
        match start {
            None if warm.elapsed() > options.warm_up() => (answers, start) = (0, Some(Instant::now())),
            Some(start) if start.elapsed() >= options.time => return Ok(answers as f64 / start.elapsed().as_secs_f64()),
            _ => {}
        }
    }
}

fn questions(options: &Options) -> io::Result<f64> {
    let resolver =
        (options.host.as_str(), 53).to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no resolver"))?;
    let socket = UdpSocket::bind(if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(resolver)?;
    let mut asked: u32 = 0;
    // Long enough for all of the names.
    let options = Options { time: 3 * options.time, ..options.clone() };
    exchange(&options, &socket, 64, || {
        let name = format!("n{}", asked % 100_000);
        let mut question = vec![0; 12];
        question[..2].copy_from_slice(&(asked as u16).to_be_bytes());
        question[2] = 1; // recursion desired
        question[5] = 1; // one question
        question.push(name.len() as u8);
        question.extend(name.bytes());
        question.extend(b"\x05bench\x04test\x00\x00\x01\x00\x01");
        asked = asked.wrapping_add(1);
        socket.send(&question)
    })
}
