//! The programs of `scripts/bench`: servers and a client that are faster than what is measured, and the plan.
//!
//! - `bench server ADDRESS...`: echo, sink and source ([`server`]).
//! - `bench proxy ADDRESS`: SOCKS5 ([`proxy`]).
//! - `bench client ...`: one measurement ([`client`]). This is what is started inside a jail.
//! - `bench run ...`: all of it, to be run in a network namespace of its own, as `scripts/bench` does. [`table`] says what is
//!   measured and what must be reached, [`variants`] on whom; [`plan`] is the order, [`launch`] starts a client under a
//!   launcher, [`probes`] makes figures of what it says and of what its launcher costs ([`processes`]); [`figures`] are
//!   summed up by [`report`]. [`machine`] is what they are measured on.

mod client;
mod figures;
mod launch;
mod machine;
mod plan;
mod probes;
mod processes;
mod proxy;
mod reactor;
mod report;
mod server;
mod table;
mod variants;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

/// The target. A literal that no machine has; the bench's namespace gives it to its loopback.
pub const TARGET_V4: &str = "203.0.113.7";
/// The same services over IPv6.
pub const TARGET_V6: &str = "2001:db8:7::7";
/// The same services behind a veth pair, for networks that refuse the host's own addresses.
pub const FAR_V4: &str = "203.0.113.8";
/// The name that the proxy knows.
pub const NAME: &str = "bench.test";
/// Where the proxy listens.
pub const PROXY_PORT: u16 = 1080;
/// Where it closes a connection that has been greeted and asks for nothing within [`PATIENCE`].
pub const MINDING_PORT: u16 = 1081;
/// Much longer than a client takes from the greeting to its request.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);
/// What a client's line begins with that says why there is no figure.
pub const FAILED: &str = "failed";
/// The jail's resolver.
pub const RESOLVER: &str = "198.18.0.1";
/// Several, so that connections that were just closed do not use up a port's 4-tuples.
pub const ECHO_PORTS: std::ops::Range<u16> = 7000..7008;
/// Takes everything.
pub const SINK_PORT: u16 = 9000;
/// Sends for ever.
pub const SOURCE_PORT: u16 = 9001;
/// Never reads.
pub const STALL_PORT: u16 = 9002;

fn socket_address(ip: &str, port: u16) -> io::Result<SocketAddr> {
    let ip: IpAddr = ip.parse().map_err(|_| io::Error::other(format!("{ip}: not an address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// A listener with room for a burst, which may have others of its kind beside it: a process holds only so many descriptors.
fn listen(ip: &str, port: u16) -> io::Result<TcpListener> {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let address = socket_address(ip, port)?;
    let open = || -> nix::Result<TcpListener> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::ReusePort, &true)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        listen(&fd, Backlog::new(4096)?)?;
        Ok(fd.into())
    };
    open().map_err(|error| io::Error::other(format!("listen at {address}: {error}")))
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["server", _, ..] => server::run(&arguments[1..]).map(|()| true),
        ["proxy", address] => proxy::run(address).map(|()| true),
        ["client", ..] => client::run(&arguments[1..]).inspect_err(|error| println!("{FAILED} {error}")).map(|()| true),
        ["run", ..] => plan::run(&arguments[1..]),
        _ => Err(io::Error::other("usage: bench server|proxy|client|run ...; scripts/bench starts it as it should be")),
    };
    match outcome {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            std::process::ExitCode::from(2)
        }
    }
}
