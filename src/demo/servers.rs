//! The servers of the demo, all on the host: each answers whoever connects with one line and remembers from where it was
//! reached.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A list that threads add to.
#[derive(Clone, Debug, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    /// Adds a line.
    pub fn write(&self, line: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.into());
    }

    /// Takes everything that was written since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// "What is my address": answers with the address it was reached from.
#[derive(Debug)]
pub struct WhoAmI {
    /// Where it listens.
    pub address: SocketAddr,
    /// From where it was reached.
    pub visitors: Diary,
}

impl WhoAmI {
    /// Starts it on 127.0.0.1, at a free port.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = Self { address: listener.local_addr()?, visitors: Diary::default() };
        let visitors = server.visitors.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Ok(peer) = stream.peer_addr() else { continue };
                visitors.write(peer.ip().to_string());
                let _ = writeln!(stream, "you come from {}", peer.ip());
            }
        });
        Ok(server)
    }
}

/// Services of the host that no jail may reach.
#[derive(Debug)]
pub struct Secrets {
    /// On 127.0.0.1.
    pub tcp: SocketAddr,
    /// The name of an abstract unix socket.
    pub abstract_name: String,
    /// Who came.
    pub visitors: Diary,
}

/// What they answer.
pub const SECRET: &str = "a secret of the host";

impl Secrets {
    /// Starts three services: TCP on the loopback, an abstract unix socket, and a unix socket at `path`.
    pub fn start(path: &Path, abstract_name: String) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let secrets = Self { tcp: listener.local_addr()?, abstract_name, visitors: Diary::default() };
        let visitors = secrets.visitors.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                visitors.write("tcp");
                let _ = writeln!(stream, "{SECRET}");
            }
        });
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&secrets.abstract_name)?;
        for (what, listener) in [("path", UnixListener::bind(path)?), ("abstract", UnixListener::bind_addr(&name)?)] {
            let visitors = secrets.visitors.clone();
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    visitors.write(what);
                    let _ = writeln!(stream, "{SECRET}");
                }
            });
        }
        Ok(secrets)
    }
}
