//! The demo's SOCKS5 proxy (RFC 1928): no login, CONNECT only, and it leaves from an address of its own.
//!
//! It stands for a proxy far away. So it reaches one server only, under the name and the address that the demo gives it,
//! and resolves that name itself, as Tor would.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::servers::Diary;

/// Where its connections come from: the loopback network has sixteen million addresses, so this needs no set-up.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
/// The name that only it knows; `.test` is for this (RFC 6761).
pub const NAME: &str = "whoami.test";
/// The address that only it can reach (TEST-NET-3, RFC 5737).
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// The port of both.
pub const PORT: u16 = 80;

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const CONNECT: u8 = 1;
const SUCCEEDED: u8 = 0;
const REFUSED: u8 = 5;
const HOST_UNREACHABLE: u8 = 4;
const UNKNOWN_COMMAND: u8 = 7;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it was asked for, as `HOST:PORT`.
    pub asked: Diary,
}

impl Proxy {
    /// Starts it on 127.0.0.1, at a free port, in front of `server`.
    pub fn start(server: SocketAddrV4) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let proxy = Self { address: listener.local_addr()?, asked: Diary::default() };
        let asked = proxy.asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = asked.clone();
                // Whoever gives up in the middle is of no interest.
                thread::spawn(move || drop(serve(stream, server, &asked)));
            }
        });
        Ok(proxy)
    }
}

fn serve(mut client: TcpStream, server: SocketAddrV4, asked: &Diary) -> io::Result<()> {
    let [version, methods] = read(&mut client)?;
    let mut offered = vec![0; usize::from(methods)];
    client.read_exact(&mut offered)?;
    if version != VERSION || !offered.contains(&NO_LOGIN) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    client.write_all(&[VERSION, NO_LOGIN])?;

    let [_, command, _, kind] = read(&mut client)?;
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(&mut client)?).to_string(),
        4 => Ipv6Addr::from(read::<16>(&mut client)?).to_string(),
        _ => {
            let [length] = read(&mut client)?;
            let mut name = vec![0; usize::from(length)];
            client.read_exact(&mut name)?;
            String::from_utf8_lossy(&name).into_owned()
        }
    };
    let port = u16::from_be_bytes(read(&mut client)?);
    asked.write(format!("{host}:{port}"));
    if command != CONNECT {
        return answer(&mut client, UNKNOWN_COMMAND);
    }
    let known = host.eq_ignore_ascii_case(NAME) || host.parse() == Ok(IpAddr::V4(ADDRESS));
    if !known || port != PORT {
        return answer(&mut client, HOST_UNREACHABLE);
    }
    match dial(server) {
        Ok(upstream) => {
            answer(&mut client, SUCCEEDED)?;
            both_ways(client, upstream)
        }
        Err(_) => answer(&mut client, REFUSED),
    }
}

fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn answer(client: &mut TcpStream, reply: u8) -> io::Result<()> {
    client.write_all(&[VERSION, reply, 0, 1, 0, 0, 0, 0, 0, 0])
}

/// A connection that comes from [`SOURCE`].
fn dial(server: SocketAddrV4) -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(SOURCE, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(server))?;
    Ok(fd.into())
}

fn both_ways(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (client_in, server_out) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || one_way(client_in, server_out));
    one_way(server, client);
    let _ = up.join();
    Ok(())
}

/// Bytes, and then the end of file.
fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
