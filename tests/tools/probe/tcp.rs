//! What a TCP connection did: errno of the dial, bytes, and the way it ended.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::errno_name;

const PATIENCE: Duration = Duration::from_secs(20);

/// Tries every address in turn, as most programs do, and returns the first that answers. Prints the errno of each failure.
fn dial(addrs: &[SocketAddr]) -> Option<TcpStream> {
    for addr in addrs {
        let begun = Instant::now();
        match TcpStream::connect(addr) {
            Ok(stream) => {
                println!("connected {addr} ms {}", begun.elapsed().as_millis());
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                return Some(stream);
            }
            Err(e) => println!("failed {} {addr} ms {}", errno_name(&e), begun.elapsed().as_millis()),
        }
    }
    None
}

/// Reads to the end and says how it ended.
fn drain(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => {
                println!("end eof");
                return all;
            }
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(e) => {
                println!("end {}", errno_name(&e));
                return all;
            }
        }
    }
}

fn show(bytes: &[u8]) {
    println!("got {} {}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).escape_default());
}

/// Only the dial.
pub fn connect(addrs: &[SocketAddr]) {
    drop(dial(addrs));
}

/// A dial that is given up after `ms`, by closing the socket while it is still connecting.
pub fn hold(addrs: &[SocketAddr], ms: u64) {
    match TcpStream::connect_timeout(&addrs[0], Duration::from_millis(ms)) {
        Ok(_) => println!("connected {}", addrs[0]),
        Err(e) => println!("failed {}", errno_name(&e)),
    }
    println!("given up");
}

/// One line out, the same line back.
pub fn echo(addrs: &[SocketAddr], text: &str) {
    let Some(mut stream) = dial(addrs) else { return };
    if let Err(e) = stream.write_all(text.as_bytes()) {
        println!("write {}", errno_name(&e));
    }
    let mut back = vec![0; text.len()];
    match stream.read_exact(&mut back) {
        Ok(()) => show(&back),
        Err(e) => println!("end {}", errno_name(&e)),
    }
}

/// Sends, closes its own half, and only then reads the reply.
pub fn halfclose(addrs: &[SocketAddr]) {
    let Some(mut stream) = dial(addrs) else { return };
    stream.write_all(b"request").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let reply = drain(&mut stream);
    show(&reply);
}

/// Reads until the server has closed its half, and sends `bytes` bytes only after that.
pub fn late(addrs: &[SocketAddr], bytes: u64) {
    let Some(mut stream) = dial(addrs) else { return };
    let first = drain(&mut stream);
    show(&first);
    match stream.write_all(&vec![b'x'; bytes as usize]) {
        Ok(()) => println!("sent {bytes}"),
        Err(e) => println!("write {}", errno_name(&e)),
    }
}

/// Sends `bytes` bytes and ends at once, as `nc -N` does: the kernel has them and is to deliver them.
pub fn send(addrs: &[SocketAddr], bytes: u64) {
    let Some(mut stream) = dial(addrs) else { return };
    match stream.write_all(&vec![b's'; bytes as usize]) {
        Ok(()) => println!("sent {bytes}"),
        Err(e) => println!("write {}", errno_name(&e)),
    }
}

/// Resets the connection after one byte.
pub fn reset(addrs: &[SocketAddr]) {
    let Some(mut stream) = dial(addrs) else { return };
    stream.write_all(b"x").unwrap();
    // The byte is echoed, so that the reset finds an established connection at the other end.
    stream.read_exact(&mut [0]).unwrap();
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
    println!("reset");
}

/// Connects and reads nothing until it is told to on stdin.
pub fn idle(addrs: &[SocketAddr]) {
    let Some(stream) = dial(addrs) else { return };
    println!("idle");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(stream);
}

/// Reads whatever comes and says how it ended.
pub fn read(addrs: &[SocketAddr]) {
    let Some(mut stream) = dial(addrs) else { return };
    let all = drain(&mut stream);
    show(&all);
}

/// An urgent byte between two plain ones, to a server that echoes what it reads and closes at EOF.
pub fn out_of_band(addrs: &[SocketAddr]) {
    let Some(mut stream) = dial(addrs) else { return };
    stream.write_all(b"a").unwrap();
    // SAFETY: one byte from a live buffer to an open socket.
    let sent = unsafe { libc::send(stream.as_raw_fd(), b"b".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1, "MSG_OOB");
    stream.write_all(b"c").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let all = drain(&mut stream);
    show(&all);
}

/// Writes until nothing more is taken for a second, then says how much that was and waits for a word to go on with.
pub fn stall(addrs: &[SocketAddr]) {
    let Some(mut stream) = dial(addrs) else { return };
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let chunk = vec![b'z'; 65536];
    let mut taken = 0u64;
    while taken < 1 << 30 {
        match stream.write(&chunk) {
            Ok(n) => taken += n as u64,
            Err(_) => break,
        }
    }
    println!("taken {taken}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let reply = drain(&mut stream);
    show(&reply);
}

/// `n` connections open at once, each with one echoed word.
pub fn many(addrs: &[SocketAddr], n: u64) {
    raise_descriptor_limit();
    let begun = Instant::now();
    let mut streams = Vec::new();
    for i in 0..n {
        match TcpStream::connect(addrs[0]) {
            Ok(stream) => streams.push(stream),
            Err(e) => {
                println!("failed {} at {i}", errno_name(&e));
                break;
            }
        }
    }
    println!("open {} ms {}", streams.len(), begun.elapsed().as_millis());
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if let Err(e) = stream.write_all(format!("{i:08}").as_bytes()) {
            println!("write {} at {i}", errno_name(&e));
        }
    }
    let mut good = 0;
    for (i, stream) in streams.iter_mut().enumerate() {
        let mut back = [0; 8];
        match stream.read_exact(&mut back) {
            Ok(()) if back == format!("{i:08}").as_bytes() => good += 1,
            Ok(()) => println!("wrong bytes at {i}"),
            Err(e) => println!("end {} at {i}", errno_name(&e)),
        }
    }
    println!("echoed {good}");
}

/// `n` connections that have each had an echoed byte and are idle, until a word comes.
pub fn crowd(addrs: &[SocketAddr], n: u64) {
    raise_descriptor_limit();
    let mut streams = Vec::new();
    for _ in 0..n {
        let mut stream = TcpStream::connect(addrs[0]).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        streams.push(stream);
        if streams.len() == 1 {
            println!("first");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
    }
    println!("crowd {}", streams.len());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// `n` connections one after the other; waits for a word at the end, so that the test can count descriptors.
pub fn sequence(addrs: &[SocketAddr], n: u64) {
    let mut good = 0;
    for i in 0..n {
        let once = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(addrs[0])?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"hi")?;
            let mut back = [0; 2];
            stream.read_exact(&mut back)
        };
        match once() {
            Ok(()) => good += 1,
            Err(e) => println!("failed {} at {i}", errno_name(&e)),
        }
    }
    println!("good {good}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
