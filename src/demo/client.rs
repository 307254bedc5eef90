//! What runs in the demo's jails, and outside for comparison: one connection, read to its end, told in one line.

use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use nix::errno::Errno;

/// How long the client waits for bytes.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer it takes, bytes.
const LONGEST: u64 = 4096;

/// Before the line that the demo reads: anything else on standard output is not the client's.
pub const MARK: &str = "netjail-demo:";

/// Connects to `HOST:PORT`, `unix:PATH` or `abstract:NAME`, and says what it got.
pub fn run(target: &str) -> i32 {
    match visit(target) {
        Ok(answer) => {
            println!("{MARK} answered {answer}");
            0
        }
        Err(e) => {
            println!("{MARK} failed {}", describe(&e));
            1
        }
    }
}

/// One attempt: the first line of what came back.
fn visit(target: &str) -> io::Result<String> {
    if let Some(path) = target.strip_prefix("unix:") {
        return first_line(UnixStream::connect(path)?);
    }
    if let Some(name) = target.strip_prefix("abstract:") {
        return first_line(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?);
    }
    let mut last = io::Error::other("the name has no address");
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                return first_line(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn first_line(stream: impl Read) -> io::Result<String> {
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// An error by its name in errno(3), where it has one.
pub fn describe(e: &io::Error) -> String {
    match e.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{errno:?}: {}", errno.desc()),
        None => e.to_string(),
    }
}
