//! DNS by hand: questions built and answers taken apart without a library, so that malformed ones can be sent too.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::errno_name;

/// getaddrinfo(3)'s addresses, each once, in its order.
pub fn resolve(name: &str) {
    match (name, 0).to_socket_addrs() {
        Ok(all) => {
            let mut seen: Vec<IpAddr> = Vec::new();
            for addr in all {
                if !seen.contains(&addr.ip()) {
                    seen.push(addr.ip());
                    println!("address {}", addr.ip());
                }
            }
        }
        Err(e) => println!("unresolved {e}"),
    }
}

/// One well-formed question; prints the code, the flags and every answer.
pub fn ask(server: &str, name: &str, kind: &str, options: &[&str]) {
    let mut edns = None;
    let mut tcp = false;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match *word {
            "tcp" => tcp = true,
            "edns" => edns = words.next().and_then(|n| n.parse().ok()),
            _ => {}
        }
    }
    let question = question(0x4242, name, kind_number(kind), edns);
    match exchange(server, &question, tcp) {
        Ok(answer) => explain(&answer),
        Err(e) => println!("failed {}", errno_name(&e)),
    }
}

/// Any bytes as a question; prints the answer's bytes, or that none came.
pub fn raw(server: &str, hex: &str, options: &[&str]) {
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    match exchange(server, &bytes, options.contains(&"tcp")) {
        Ok(answer) => {
            let shown: String = answer.iter().map(|b| format!("{b:02x}")).collect();
            println!("answer {shown}");
            if answer.len() >= 12 {
                println!("rcode {}", answer[3] & 15);
            }
        }
        Err(e) => println!("failed {}", errno_name(&e)),
    }
}

fn exchange(server: &str, question: &[u8], tcp: bool) -> std::io::Result<Vec<u8>> {
    let server: SocketAddr = if server.parse::<SocketAddr>().is_ok() {
        server.parse().unwrap()
    } else {
        SocketAddr::new(server.parse().unwrap(), 53)
    };
    let patience = Some(Duration::from_secs(2));
    let mut answer = vec![0; 65536];
    if tcp {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(patience)?;
        let mut framed = (question.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(question);
        stream.write_all(&framed)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        answer.truncate(u16::from_be_bytes(length) as usize);
        stream.read_exact(&mut answer)?;
        return Ok(answer);
    }
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(patience)?;
    socket.connect(server)?;
    socket.send(question)?;
    let n = socket.recv(&mut answer)?;
    answer.truncate(n);
    Ok(answer)
}

fn kind_number(kind: &str) -> u16 {
    match kind {
        "A" => 1,
        "NS" => 2,
        "SOA" => 6,
        "PTR" => 12,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        "SVCB" => 64,
        "HTTPS" => 65,
        "ANY" => 255,
        other => other.parse().expect("a record type"),
    }
}

fn question(id: u16, name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    for label in name.trim_end_matches('.').split('.').filter(|l| !l.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    }
    out
}

fn explain(message: &[u8]) {
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    if message.len() < 12 {
        return println!("short answer of {} bytes", message.len());
    }
    let code = message[3] & 15;
    let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    println!("id {:04x}", word(0));
    println!("rcode {}", names.get(code as usize).unwrap_or(&"other"));
    println!("truncated {}", message[2] & 2 != 0);
    println!("answers {}", word(6));
    let mut at = 12;
    for _ in 0..word(4) {
        let (name, next) = read_name(message, at);
        println!("question {name}");
        at = next + 4;
    }
    for _ in 0..word(6) {
        let (name, next) = read_name(message, at);
        let (kind, ttl) = (word(next), u32::from(word(next + 4)) << 16 | u32::from(word(next + 6)));
        let length = word(next + 8) as usize;
        let data = &message[next + 10..next + 10 + length];
        let shown = match (kind, length) {
            (1, 4) => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            (28, 16) => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            (5 | 12, _) => read_name(message, next + 10).0,
            _ => format!("{length} bytes"),
        };
        println!("answer {name} type {kind} ttl {ttl} {shown}");
        at = next + 10 + length;
    }
    println!("additional {}", word(10));
}

/// The name at `at`, pointers followed at most 20 times, and where it ends in place.
fn read_name(message: &[u8], mut at: usize) -> (String, usize) {
    let mut name = String::new();
    let mut end = None;
    for _ in 0..150 {
        let length = message[at] as usize;
        if length >= 0xC0 {
            end.get_or_insert(at + 2);
            at = (length & 0x3F) << 8 | message[at + 1] as usize;
        } else if length == 0 {
            return (name, end.unwrap_or(at + 1));
        } else {
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&String::from_utf8_lossy(&message[at + 1..at + 1 + length]));
            at += 1 + length;
        }
    }
    (name, end.unwrap_or(at))
}
