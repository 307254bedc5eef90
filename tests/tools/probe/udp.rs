//! Datagrams: what of them arrives, from whom, and which errno tells that one did not.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::{addrs, errno_name, number};

pub const USAGE: &str = "udp ADDR | udp echo ADDR SIZE... | udp many ADDR... | udp wait ADDR N | udp segments ADDR SIZE COUNT | \
                         udp talk ADDR | udp flood ADDR N | udp errno ADDR SIZE [connect] | \
                         udp bursts connected|loose|whole ADDR N SIZE...";

pub fn run(words: &[&str]) {
    match words {
        ["echo", addr, sizes @ ..] => echo(addrs(addr)[0], sizes),
        ["many", all @ ..] => many(&all.iter().map(|addr| addrs(addr)[0]).collect::<Vec<_>>()),
        ["wait", addr, n] => wait(addrs(addr)[0], number(n)),
        ["segments", addr, size, count] => segments(addrs(addr)[0], number(size) as usize, number(count) as usize),
        ["talk", addr] => talk(addrs(addr)[0]),
        ["flood", addr, n] => flood(addrs(addr)[0], number(n)),
        ["bursts", how, addr, n, sizes @ ..] => bursts(how, addrs(addr)[0], number(n), sizes),
        ["errno", addr, size] => errno(addrs(addr)[0], number(size) as usize),
        [addr] => once(addrs(addr)[0]),
        _ => panic!("{USAGE}"),
    }
}

fn socket(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn connected(to: SocketAddr) -> UdpSocket {
    let socket = socket(to);
    socket.connect(to).unwrap();
    socket
}

/// One datagram; the answer, or the errno of an ICMP error.
fn once(to: SocketAddr) {
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    let socket = connected(to);
    let outcome = socket.send(b"ping").and_then(|_| socket.recv(&mut buffer));
    match outcome {
        Ok(n) => println!("got {}", String::from_utf8_lossy(&buffer[..n])),
        Err(e) => println!("failed {} ms {}", errno_name(&e), begun.elapsed().as_millis()),
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at ^ (at >> 8) ^ size) as u8).collect()
}

/// Datagrams of each size, there and back, and what became of each.
fn echo(to: SocketAddr, sizes: &[&str]) {
    let socket = connected(to);
    let mut buffer = vec![0; 70_000];
    for size in sizes {
        let sent = pattern(number(size) as usize);
        match socket.send(&sent).and_then(|_| socket.recv(&mut buffer)) {
            Ok(n) if buffer[..n] == sent => println!("echoed {size}"),
            Ok(n) => println!("damaged {size} {n}"),
            Err(e) => println!("failed {size} {}", errno_name(&e)),
        }
    }
}

/// One socket, many servers: who answered what, by the addresses that were asked.
fn many(servers: &[SocketAddr]) {
    let socket = socket(servers[0]);
    let mut buffer = [0; 2048];
    for server in servers {
        match socket.send_to(b"who am I?", server).and_then(|_| socket.recv_from(&mut buffer)) {
            Ok((n, from)) => println!("from {from} asked {server} said {}", String::from_utf8_lossy(&buffer[..n])),
            Err(e) => println!("failed {server} {}", errno_name(&e)),
        }
    }
}

/// Says something to one, and hears whoever speaks.
fn wait(to: SocketAddr, n: u64) {
    let socket = socket(to);
    socket.send_to(b"open", to).unwrap();
    let mut buffer = [0; 2048];
    for _ in 0..n {
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => println!("from {from} said {}", String::from_utf8_lossy(&buffer[..n])),
            Err(e) => println!("failed {}", errno_name(&e)),
        }
        std::io::stdout().flush().unwrap();
    }
}

/// A super-datagram each way: all that was sent comes back, and the largest piece of it that one call brought.
fn segments(to: SocketAddr, size: usize, count: usize) {
    let socket = connected(to);
    setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
    setsockopt(&socket, sockopt::UdpGsoSegment, &(size as i32)).unwrap();
    let sent: Vec<u8> = (0..size * count).map(|at| (at / size) as u8).collect();
    socket.send(&sent).unwrap();
    let (mut got, mut largest, mut buffer) = (Vec::new(), 0, vec![0; 70_000]);
    while got.len() < sent.len() {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                largest = largest.max(n);
                got.extend_from_slice(&buffer[..n]);
            }
            Err(e) => return println!("failed {} after {}", errno_name(&e), got.len()),
        }
    }
    println!("whole {} largest {largest}", got == sent);
}

/// One datagram for each line of the standard input.
fn talk(to: SocketAddr) {
    let socket = connected(to);
    let mut buffer = [0; 2048];
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        if line == "end" {
            return;
        }
        match socket.send(line.as_bytes()).and_then(|_| socket.recv(&mut buffer)) {
            Ok(n) => println!("heard {}", String::from_utf8_lossy(&buffer[..n])),
            Err(e) => println!("failed {}", errno_name(&e)),
        }
        std::io::stdout().flush().unwrap();
    }
}

/// One datagram from each of `n` sockets, all open at once; then one more answer is waited for.
fn flood(to: SocketAddr, n: u64) {
    super::tcp::raise_descriptor_limit();
    let sockets: Vec<UdpSocket> = (0..n).map(|_| connected(to)).collect();
    let mut refused = 0;
    for socket in &sockets {
        refused += u64::from(socket.send(b"x").is_err());
    }
    println!("flooded {n} refused {refused}");
}

/// What a socket is told of a datagram that is too large.
fn errno(to: SocketAddr, size: usize) {
    let socket = connected(to);
    let mut buffer = [0; 2048];
    let outcome = socket.send(&pattern(size)).and_then(|_| socket.recv(&mut buffer));
    println!("outcome {}", outcome.map_or_else(|e| errno_name(&e), |n| n.to_string()));
}

/// `n` times a datagram of each size, numbered and without a pause: whether all that went come back whole, in order and from whom
/// was asked; which errors there were; and the most bytes that one call brought. `how` is the socket's: connected, not
/// connected (`loose`), or taking super-datagrams (`whole`).
fn bursts(how: &str, to: SocketAddr, n: u64, sizes: &[&str]) {
    let socket = if how == "loose" { socket(to) } else { connected(to) };
    setsockopt(&socket, sockopt::UdpGroSegment, &(how == "whole")).unwrap();
    let (mut number_of, mut in_order, mut returned, mut largest) = (0u64, true, 0, 0);
    let (mut failed, mut buffer) = (Vec::new(), vec![0; 70_000]);
    for _ in 0..n {
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let before = failed.len();
        for size in sizes {
            let mut datagram = pattern(number(size) as usize);
            let length = datagram.len().min(8);
            datagram[..length].copy_from_slice(&number_of.to_be_bytes()[..length]);
            number_of += 1;
            // An error is an earlier datagram's: this one has not gone yet.
            while let Err(e) = if how == "loose" { socket.send_to(&datagram, to) } else { socket.send(&datagram) } {
                failed.push(errno_name(&e));
            }
            sent.push(datagram);
        }
        let (mut expected, mut got) = (sent.iter(), 0);
        while got + failed.len() - before < sent.len() {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    largest = largest.max(length);
                    let mut rest = &buffer[..length];
                    in_order &= from == to;
                    while got == 0 || !rest.is_empty() || length == 0 {
                        // Those that failed are passed over, and nothing else.
                        let Some(next) = expected.find(|one| rest.starts_with(one)) else { break };
                        (rest, got) = (&rest[next.len()..], got + 1);
                        if rest.is_empty() {
                            break;
                        }
                    }
                    if !rest.is_empty() {
                        return println!("damaged after {returned}");
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    return println!("lost after {}", returned + got);
                }
                Err(e) => failed.push(errno_name(&e)),
            }
        }
        returned += got;
    }
    println!("returned {returned} {in_order}");
    println!("largest {largest}");
    failed.iter().for_each(|name| println!("failed {name}"));
}
