//! Runs inside a jail and says exactly what happened to it, one fact per line.
//!
//! Python or curl would blur what the tests are about: which errno `connect(2)` gave, whether the end of a stream was an
//! EOF or a reset, what a DNS answer holds byte for byte. Every subcommand prints its findings to stdout and ends with
//! status 0 when it could find out, whatever it found; 2 means that the call was wrong.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "probe/bulk.rs"]
mod bulk;
#[path = "probe/dns.rs"]
mod dns;
#[path = "probe/tcp.rs"]
mod tcp;
#[path = "probe/udp.rs"]
mod udp;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

const USAGE: &str = "probe connect ADDR | hold ADDR MS | echo ADDR TEXT | halfclose ADDR | late ADDR BYTES | send ADDR BYTES | rst ADDR | \
                     idle ADDR | read ADDR | oob ADDR | stall ADDR | bulk ADDR MIB SEED | upload ADDR MIB SEED | many ADDR N | crowd ADDR N | sequence ADDR N | udp … (see probe/udp.rs) | \
                     resolve NAME | ask SERVER NAME TYPE [udp|tcp] [edns BYTES] | raw SERVER HEX [udp|tcp]";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["connect", addr] => tcp::connect(&addrs(addr)),
        ["hold", addr, ms] => tcp::hold(&addrs(addr), number(ms)),
        ["echo", addr, text] => tcp::echo(&addrs(addr), text),
        ["halfclose", addr] => tcp::halfclose(&addrs(addr)),
        ["late", addr, bytes] => tcp::late(&addrs(addr), number(bytes)),
        ["send", addr, bytes] => tcp::send(&addrs(addr), number(bytes)),
        ["rst", addr] => tcp::reset(&addrs(addr)),
        ["idle", addr] => tcp::idle(&addrs(addr)),
        ["read", addr] => tcp::read(&addrs(addr)),
        ["oob", addr] => tcp::out_of_band(&addrs(addr)),
        ["stall", addr] => tcp::stall(&addrs(addr)),
        ["bulk", addr, mib, seed] => bulk::both_ways(&addrs(addr), number(mib), number(seed)),
        ["upload", addr, mib, seed] => bulk::upload(&addrs(addr), number(mib), number(seed)),
        ["many", addr, n] => tcp::many(&addrs(addr), number(n)),
        ["crowd", addr, n] => tcp::crowd(&addrs(addr), number(n)),
        ["sequence", addr, n] => tcp::sequence(&addrs(addr), number(n)),
        ["udp", rest @ ..] => udp::run(rest),
        ["resolve", name] => dns::resolve(name),
        ["ask", server, name, kind, rest @ ..] => dns::ask(server, name, kind, rest),
        ["raw", server, hex, rest @ ..] => dns::raw(server, hex, rest),
        _ => {
            eprintln!("usage: {USAGE}");
            std::process::exit(2);
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

/// `HOST:PORT` as getaddrinfo(3) sees it; a failed look-up is a finding, not an error.
fn addrs(text: &str) -> Vec<SocketAddr> {
    match text.to_socket_addrs() {
        Ok(all) => all.collect(),
        Err(e) => {
            println!("unresolved {e}");
            std::process::exit(0);
        }
    }
}

/// The symbol of an errno, or the text of an error that carries none.
fn errno_name(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
        None => format!("{:?}", e.kind()),
    }
}
