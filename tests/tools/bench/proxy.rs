//! A SOCKS5 proxy (RFC 1928) that is never the bottleneck: bulk is moved with splice(2) and not copied.
//!
//! At one of its ports it **minds**: a client that makes connections ahead of its requests is told so by their end.
//! The name `bench.test` stands for the target; every other name is refused, and literals are dialled as they are.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::reactor::{Connection, Next, Shared};
use crate::{MINDING_PORT, NAME, PATIENCE, PROXY_PORT, TARGET_V4};

const ASSOCIATE: u8 = 3;

/// A copy that fills this much is bulk, and from then on spliced.
const COPY: usize = 32 << 10;
const PIPE: usize = 1 << 20;
const BUDGET: usize = 8 << 20;

/// A pipe, empty when it is in the pool.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> std::io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
        Ok(Self { read, write })
    }
}

#[derive(Default)]
struct Way {
    pipe: Option<Pipe>,
    piped: usize,
    rest: Vec<u8>,
    bulk: bool,
    ended: bool,
    done: bool,
}

enum Step {
    Greeting,
    Request,
    Open(TcpStream),
    /// Datagrams are relayed as long as this connection lives, and by a thread that lives longer: it is a bench.
    Associated,
}

struct Client {
    stream: TcpStream,
    step: Step,
    minds: bool,
    /// Runs out if there is no request in time.
    patience: Option<TimerFd>,
    input: Vec<u8>,
    up: Way,
    down: Way,
}

impl Connection for Client {
    fn accepted(stream: TcpStream, port: u16) -> Self {
        let minds = port == MINDING_PORT;
        Self {
            stream,
            step: Step::Greeting,
            minds,
            patience: None,
            input: Vec::new(),
            up: Way::default(),
            down: Way::default(),
        }
    }

    fn ready(&mut self, shared: &mut Shared, watch: &dyn Fn(BorrowedFd<'_>)) -> Next {
        if !matches!(self.step, Step::Open(_)) {
            match self.handshake(watch) {
                Ok(true) => {}
                Ok(false) => return Next::Wait,
                Err(_) => return Next::End,
            }
        }
        let Step::Open(target) = &self.step else { return Next::Wait };
        let up = self.up.pump(&self.stream, target, shared);
        let down = self.down.pump(target, &self.stream, shared);
        match (up, down) {
            (Err(_), _) | (_, Err(_)) => Next::End,
            _ if self.up.done && self.down.done => Next::End,
            (Ok(true), _) | (_, Ok(true)) => Next::Again,
            _ => Next::Wait,
        }
    }
}

impl Client {
    /// True when it is done.
    fn handshake(&mut self, watch: &dyn Fn(BorrowedFd<'_>)) -> std::io::Result<bool> {
        let mut piece = [0; 512];
        loop {
            if matches!(self.step, Step::Associated) && !matches!(self.stream.peek(&mut piece), Ok(0)) {
                return Ok(false);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let ended =
                        self.patience.as_ref().is_some_and(|timer| timer.get().is_ok_and(|left| left.is_none()));
                    return if ended { Err(ErrorKind::TimedOut.into()) } else { Ok(false) };
                }
                Err(error) => return Err(error),
            }
            if matches!(self.step, Step::Greeting) {
                let Some(&methods) = self.input.get(1) else { continue };
                let length = 2 + usize::from(methods);
                if self.input.len() < length {
                    continue;
                }
                self.input.drain(..length);
                self.stream.write_all(&[5, 0])?;
                self.step = Step::Request;
                if self.minds {
                    self.patience = Some(patience(watch)?);
                }
            }
            let Some((target, length)) = request(&self.input) else { continue };
            self.patience = None;
            let associate = self.input[1] == ASSOCIATE;
            self.input.drain(..length);
            if associate {
                self.stream.write_all(&associate_reply(self.stream.local_addr()?.ip())?)?;
                // Its end shows, and nothing else comes on it.
                self.step = Step::Associated;
                return Ok(false);
            }
            let Some(target) = target.and_then(|target| TcpStream::connect(target).ok()) else {
                self.stream.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0])?;
                return Err(ErrorKind::ConnectionRefused.into());
            };
            target.set_nodelay(true)?;
            target.set_nonblocking(true)?;
            watch(target.as_fd());
            self.stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            self.up.rest = std::mem::take(&mut self.input);
            self.step = Step::Open(target);
            return Ok(true);
        }
    }
}

/// A timer that wakes its connection once.
fn patience(watch: &dyn Fn(BorrowedFd<'_>)) -> std::io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::OneShot(PATIENCE.into()), TimerSetTimeFlags::empty())?;
    watch(timer.as_fd());
    Ok(timer)
}

/// The target of a whole request, and the request's length; an inner `None` is refused.
fn request(input: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let kind = *input.get(3)?;
    let (ip, at): (Option<IpAddr>, usize) = match kind {
        1 => (Some(Ipv4Addr::from(*input.get(4..)?.first_chunk::<4>()?).into()), 8),
        4 => (Some(Ipv6Addr::from(*input.get(4..)?.first_chunk::<16>()?).into()), 20),
        3 => {
            let end = 5 + usize::from(*input.get(4)?);
            let name = input.get(5..end)?;
            ((name == NAME.as_bytes()).then(|| TARGET_V4.parse().ok()).flatten(), end)
        }
        _ => (None, 8),
    };
    let port = u16::from_be_bytes(*input.get(at..)?.first_chunk::<2>()?);
    Some((ip.map(|ip| SocketAddr::new(ip, port)), at + 2))
}

impl Way {
    /// Moves what can be moved; true if there is more to do now.
    fn pump(&mut self, from: &TcpStream, to: &TcpStream, shared: &mut Shared) -> std::io::Result<bool> {
        let mut moved = 0;
        while moved < BUDGET && !self.done {
            let outcome = if !self.rest.is_empty() {
                (&mut &*to).write(&self.rest).inspect(|&sent| drop(self.rest.drain(..sent)))
            } else if self.piped > 0 {
                self.pipe.as_ref().map_or(Ok(0), |pipe| splice(pipe.read.as_fd(), to.as_fd())).inspect(|sent| {
                    self.piped -= sent;
                    if self.piped == 0 {
                        shared.pipes.extend(self.pipe.take());
                    }
                })
            } else if self.ended {
                let _ = to.shutdown(Shutdown::Write);
                self.done = true;
                break;
            } else if self.bulk {
                let pipe = match shared.pipes.pop() {
                    Some(pipe) => pipe,
                    None => Pipe::new()?,
                };
                let outcome = splice(from.as_fd(), pipe.write.as_fd());
                match outcome {
                    Ok(count) if count > 0 => {
                        self.piped = count;
                        self.pipe = Some(pipe);
                        self.bulk = count >= COPY / 2;
                    }
                    _ => shared.pipes.push(pipe),
                }
                outcome.inspect(|&count| self.ended = count == 0)
            } else {
                let outcome = (&mut &*from).read(&mut shared.buffer[..COPY]);
                if let Ok(count) = outcome {
                    self.ended = count == 0;
                    self.bulk = count == COPY;
                    let sent = match (&mut &*to).write(&shared.buffer[..count]) {
                        Ok(sent) => sent,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                        Err(error) => return Err(error),
                    };
                    self.rest.extend_from_slice(&shared.buffer[sent..count]);
                }
                outcome
            };
            match outcome {
                Ok(count) => moved += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(!self.done)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are open for the call, and null offsets are right for a pipe and a socket.
    let count = unsafe {
        libc::splice(from.as_raw_fd(), std::ptr::null_mut(), to.as_raw_fd(), std::ptr::null_mut(), PIPE, flags)
    };
    if count < 0 { Err(std::io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Starts to relay datagrams (RFC 1928 section 7), and gives the reply that says where.
fn associate_reply(ip: IpAddr) -> std::io::Result<Vec<u8>> {
    let inside = UdpSocket::bind((ip, 0))?;
    let mut reply = vec![5, 0, 0];
    push_address(&mut reply, inside.local_addr()?);
    std::thread::spawn(move || {
        let _ = relay_datagrams(&inside);
    });
    Ok(reply)
}

fn push_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(v4) => {
            bytes.push(1);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(4);
            bytes.extend(v6.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

/// One socket to the client, one to the targets, a thread for each way; ends a minute after the last datagram.
fn relay_datagrams(inside: &UdpSocket) -> std::io::Result<()> {
    let idle = Some(std::time::Duration::from_secs(60));
    inside.set_read_timeout(idle)?;
    let outside = UdpSocket::bind("0.0.0.0:0")?;
    outside.set_read_timeout(idle)?;
    let mut buffer = vec![0; 65536];
    let (count, client) = inside.recv_from(&mut buffer)?;
    let send = |bytes: &[u8]| {
        if let Some((Some(target), at)) = request(bytes) {
            let _ = outside.send_to(&bytes[at..], target);
        }
    };
    send(&buffer[..count]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 65536];
            while let Ok((count, from)) = outside.recv_from(&mut buffer) {
                let mut bytes = vec![0, 0, 0];
                push_address(&mut bytes, from);
                bytes.extend_from_slice(&buffer[..count]);
                let _ = inside.send_to(&bytes, client);
            }
        });
        while let Ok((count, from)) = inside.recv_from(&mut buffer) {
            if from == client {
                send(&buffer[..count]);
            }
        }
    });
    Ok(())
}

/// Serves at `address`, for ever.
pub fn run(address: &str) -> std::io::Result<()> {
    let listeners = [PROXY_PORT, MINDING_PORT].map(|port| crate::listen(address, port));
    let listeners = listeners.into_iter().collect::<std::io::Result<_>>()?;
    println!("ready");
    crate::reactor::serve::<Client>(listeners)
}
