//! TCP servers that behave in one exact way and keep a record of what each connection did.
//!
//! The same behaviours serve a listener of their own ([`Server`]) or a connection that the scripted proxy has accepted
//! ([`super::proxy`]), so that a property can be tested without a second hop that might hide it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

#[path = "../tools/probe/bulk.rs"]
pub mod bulk;

/// What a server does with a connection.
#[derive(Clone)]
pub enum Behaviour {
    /// Sends back what comes; closes at EOF.
    Echo,
    /// Reads to EOF, then says `had N` and closes.
    ReplyAtEof,
    /// Says `bye`, closes its half, then reads to the end.
    ByeFirst,
    /// Resets after the first bytes.
    ResetAfterData,
    /// Says something and closes.
    Banner(&'static str),
    /// Reads nothing until the gate opens, then reads to EOF and says `had N`.
    Stall(Gate),
    /// Reads and writes nothing until the peer is gone.
    Hold,
    /// The pattern both ways at once (see `bulk.rs`): MiB and seed.
    Bulk(u64, u64),
    /// Takes the pattern (MiB and seed) slowly: a block of 64 KiB, then a pause of so many microseconds.
    Slow(u64, u64, u64),
    /// Sends zeros for ever.
    Flood,
    /// Answers an HTTP request with this text, once it has come.
    Page(&'static str),
    /// Says who is calling, and closes.
    WhoAmI,
}

/// Opened once, for all who wait.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(open, Duration::from_secs(120), |open| !*open).unwrap());
    }
}

/// How a connection went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub peer: String,
    pub bytes: usize,
    /// The first bytes that came.
    pub head: Vec<u8>,
    /// `eof`, `reset`, or the text of another error; empty while it lasts.
    pub end: String,
}

/// Connections in the order of their arrival.
#[derive(Clone, Default)]
pub struct Record(Arc<(Mutex<Vec<Seen>>, Condvar)>);

impl Record {
    pub fn all(&self) -> Vec<Seen> {
        self.0.0.lock().unwrap().clone()
    }

    fn open(&self, peer: String) -> usize {
        let mut all = self.0.0.lock().unwrap();
        all.push(Seen { peer, ..Seen::default() });
        self.0.1.notify_all();
        all.len() - 1
    }

    fn change(&self, at: usize, with: impl FnOnce(&mut Seen)) {
        with(&mut self.0.0.lock().unwrap()[at]);
        self.0.1.notify_all();
    }

    /// Waits until the record satisfies the closure.
    pub fn wait(&self, what: &str, until: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let all = self.0.0.lock().unwrap();
        let (all, late) = self.0.1.wait_timeout_while(all, Duration::from_secs(20), |all| !until(all)).unwrap();
        assert!(!late.timed_out(), "waited in vain for {what}: {all:?}");
        all.clone()
    }

    /// Waits for the end of the connection `at`, and says how it ended.
    pub fn end_of(&self, at: usize) -> Seen {
        self.wait("the end of a connection", |all| all.len() > at && !all[at].end.is_empty())[at].clone()
    }
}

/// A listener with a behaviour.
pub struct Server {
    pub addr: SocketAddr,
    pub record: Record,
}

impl Server {
    /// On the IPv4 loopback.
    pub fn v4(behaviour: Behaviour) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), behaviour)
    }

    /// On the IPv6 loopback.
    pub fn v6(behaviour: Behaviour) -> Self {
        Self::on(TcpListener::bind("[::1]:0").unwrap(), behaviour)
    }

    /// On a listener that somebody else made, in another namespace perhaps.
    pub fn on(listener: TcpListener, behaviour: Behaviour) -> Self {
        let addr = listener.local_addr().unwrap();
        let record = Record::default();
        let kept = record.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (behaviour, record) = (behaviour.clone(), kept.clone());
                small_thread(move || serve(stream, &behaviour, &record));
            }
        });
        Self { addr, record }
    }
}

/// A thousand of these fit into little memory.
pub fn small_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap();
}

/// An address that refuses connections: bound once and released.
pub fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Plays the behaviour on a connection, to its end.
pub fn serve(mut stream: TcpStream, behaviour: &Behaviour, record: &Record) {
    let peer = stream.peer_addr().map(|a| a.to_string()).unwrap_or_default();
    let at = record.open(peer.clone());
    let _ = stream.set_nodelay(true);
    let outcome = play(&mut stream, behaviour, record, at);
    let end = match outcome {
        Ok(()) => "eof".to_owned(),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(e) => e.to_string(),
    };
    record.change(at, |seen| seen.end = end);
}

fn play(stream: &mut TcpStream, behaviour: &Behaviour, record: &Record, at: usize) -> std::io::Result<()> {
    match behaviour {
        Behaviour::Echo => {
            let mut buffer = [0; 16384];
            loop {
                let n = stream.read(&mut buffer)?;
                if n == 0 {
                    return Ok(());
                }
                note(record, at, &buffer[..n]);
                stream.write_all(&buffer[..n])?;
            }
        }
        Behaviour::ReplyAtEof => {
            let n = read_to_end(stream, record, at)?;
            stream.write_all(format!("had {n}").as_bytes())
        }
        Behaviour::ByeFirst => {
            stream.write_all(b"bye")?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(stream, record, at).map(drop)
        }
        Behaviour::ResetAfterData => {
            let mut buffer = [0; 16384];
            let n = stream.read(&mut buffer)?;
            note(record, at, &buffer[..n]);
            linger_zero(stream);
            Ok(())
        }
        Behaviour::Banner(text) => {
            stream.write_all(text.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(stream, record, at).map(drop)
        }
        Behaviour::Stall(gate) => {
            gate.wait();
            let n = read_to_end(stream, record, at)?;
            stream.write_all(format!("had {n}").as_bytes())
        }
        Behaviour::Hold => read_to_end(stream, record, at).map(drop),
        Behaviour::Bulk(mib, seed) => bulk_both_ways(stream, *mib, *seed),
        Behaviour::Slow(mib, seed, pause) => {
            let paced = Paced(stream, Duration::from_micros(*pause));
            bulk::receive(paced, *mib, *seed).and_then(|()| bulk::end(stream)).map_err(std::io::Error::other)
        }
        Behaviour::Flood => {
            let zeros = vec![0; 65536];
            loop {
                stream.write_all(&zeros)?;
            }
        }
        Behaviour::Page(text) => {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                let n = stream.read(&mut buffer)?;
                if n == 0 {
                    return Ok(());
                }
                note(record, at, &buffer[..n]);
                request.extend_from_slice(&buffer[..n]);
            }
            let length = text.len();
            stream.write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}").as_bytes(),
            )?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(stream, record, at).map(drop)
        }
        Behaviour::WhoAmI => {
            let peer = stream.peer_addr()?.ip();
            stream.write_all(format!("you are {peer}\n").as_bytes())
        }
    }
}

/// A reader that takes its time.
struct Paced<'a>(&'a TcpStream, Duration);

impl Read for Paced<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        // The pace is the property here, not a wait for anything.
        std::thread::sleep(self.1);
        Ok(n)
    }
}

fn bulk_both_ways(stream: &TcpStream, mib: u64, seed: u64) -> std::io::Result<()> {
    let down = stream.try_clone()?;
    let sender = std::thread::spawn(move || bulk::send(&down, mib, seed + 1));
    let received = bulk::receive(stream, mib, seed);
    let sent = sender.join().unwrap();
    let _ = stream.shutdown(Shutdown::Write);
    received.and_then(|()| bulk::end(stream)).map_err(std::io::Error::other)?;
    sent
}

fn read_to_end(stream: &mut TcpStream, record: &Record, at: usize) -> std::io::Result<usize> {
    let mut buffer = [0; 65536];
    let mut total = 0;
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(total);
        }
        total += n;
        note(record, at, &buffer[..n]);
    }
}

fn note(record: &Record, at: usize, bytes: &[u8]) {
    record.change(at, |seen| {
        seen.bytes += bytes.len();
        let room = 256usize.saturating_sub(seen.head.len());
        seen.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    });
}

/// Makes the coming close a reset.
pub fn linger_zero(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}
