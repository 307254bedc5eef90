//! The control socket: `ps`, `exec` and `stop` of the user who started the jail.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::socket::{SockFlag, accept4, getsockopt, sockopt};
use nix::unistd::{Uid, getppid};

use super::prepare::Chosen;
use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{ClientAnswer, ClientRequest, JailStatus};
use crate::control::rundir::Listener;
use crate::escape::escape;
use crate::roles::RunOptions;

/// Connections that may be open at once.
const MOST_CLIENTS: usize = 32;

/// Dials that may wait for the proxy's name to be looked up.
pub const MOST_WAITING: usize = 4096;

/// What a client wants that the warden must do.
#[derive(Debug)]
pub enum Wish {
    /// End the jail within so many ms; the client waits for its connection to close.
    Stop(u32),
    /// Start a command: the mediator takes the connection.
    Exec(OwnedFd),
}

type Client = Channel<ClientAnswer, ClientRequest>;

/// The listening socket and who is connected to it.
#[derive(Debug)]
pub struct Clients {
    listener: Option<Listener>,
    connected: Vec<Client>,
    status: JailStatus,
}

impl Clients {
    /// Takes the jail's name in the run folder, which must exist.
    pub fn bind(options: &RunOptions, chosen: &Chosen) -> Result<Self, String> {
        let listener = Listener::bind(&chosen.run_folder, &chosen.jail).map_err(|e| e.to_string())?;
        let words: Vec<String> =
            options.command.iter().map(|word| escape(&word.to_string_lossy()).into_owned()).collect();
        let status = JailStatus {
            name: chosen.jail.clone(),
            pid: getppid().as_raw(),
            network: chosen.network.id.clone(),
            generation: chosen.generation,
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            command: words.join(" ").chars().take(512).collect(),
            records: 0,
        };
        Ok(Self { listener: Some(listener), connected: Vec::new(), status })
    }

    /// The socket that clients connect to.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|listener| listener.fd().as_fd())
    }

    /// The clients, in their order.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.connected.iter().map(AsFd::as_fd)
    }

    /// Takes one connection, if it is of the same user.
    pub fn accept(&mut self) {
        let Some(listener) = self.listener() else { return };
        let Ok(fd) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) else { return };
        // SAFETY: accept4 has just made it, and nobody else knows its number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let same_user =
            getsockopt(&fd, sockopt::PeerCredentials).is_ok_and(|peer| Uid::from_raw(peer.uid()) == Uid::effective());
        if same_user && self.connected.len() < MOST_CLIENTS {
            self.connected.push(fd.into());
        }
    }

    /// One request; what the warden must do about it.
    pub fn hear(&mut self, index: usize, records: u64) -> Option<Wish> {
        match self.connected[index].receive() {
            Ok((ClientRequest::Status, _)) => {
                self.status.records = records;
                let _ = self.connected[index].send(&ClientAnswer::Status(self.status.clone()));
                None
            }
            Ok((ClientRequest::Stop { grace }, _)) => {
                let _ = self.connected[index].send(&ClientAnswer::Stopping);
                Some(Wish::Stop(grace))
            }
            Ok((ClientRequest::Exec, _)) => Some(Wish::Exec(self.connected.remove(index).into())),
            Err(ChannelError::WouldBlock) => None,
            Err(_) => {
                drop(self.connected.remove(index));
                None
            }
        }
    }

    /// Gives the name back and closes the connections: whoever waits for the jail's end hears it.
    pub fn close(&mut self) {
        self.listener = None;
        self.connected.clear();
    }
}
