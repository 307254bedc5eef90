//! The attacks of the leak matrix, one file for each door by which code in a jail could get out.
//!
//! An attack runs in a process of its own (`netjail selftest-attack NAME CONTEXT`), inside a jail or outside of one, and
//! knows its victims from a [`Context`] file in the working folder. It gives `Ok` with evidence if it got out, and `Err` with
//! what stopped it. Evidence is, wherever possible, the [`Context::token`]: a secret that only the victim could have given it.
//!
//! Attacks are harmless outside: what would change the machine is only opened, or asked for with arguments that the kernel
//! refuses after it has checked for permission.

mod call;
mod descriptors;
mod files;
mod identity;
mod kernel;
mod keys;
mod network;
mod privileges;
mod processes;
mod search;
mod sockets;

pub use call::ends_within;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Evidence of having got out, or what stopped it.
pub type Outcome = Result<String, String>;

/// What an attack is given besides its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gift {
    /// Nothing.
    Nothing,
    /// A descriptor at number [`INHERITED`].
    Inherited(Object),
    /// A descriptor as standard input.
    Input(Object),
    /// A terminal as standard input, of a session that it controls.
    Terminal,
    /// The victim's process group.
    Group,
}

/// A descriptor of the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A TCP socket that is not connected.
    TcpSocket,
    /// A TCP connection to somebody outside.
    TcpConnection,
    /// A unix stream connection to the victim process.
    UnixConnection,
    /// A unix datagram socket.
    UnixDatagram,
    /// A folder outside, opened with O_PATH, that holds the file `secret`.
    Folder,
    /// The network namespace outside.
    NetworkNamespace,
    /// A unix stream socket that is not connected; abstract names are those of the namespace it was made in.
    UnixSocket,
    /// The TUN device, opened outside.
    TunDevice,
    /// A pidfd of the victim process.
    Pidfd,
    /// A file of the hidden folder, opened for reading only.
    HiddenFile,
}

/// The number of an inherited descriptor.
pub const INHERITED: i32 = 9;

/// How it is known that an attack got out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The attack's own evidence.
    Told,
    /// Something arrived outside.
    Arrived,
    /// The victim process was ended.
    VictimDied,
    /// A file that the attack made is to be seen outside.
    Planted,
}

/// The way out of the jail that an attack is tried against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A SOCKS5 proxy that is not there: nothing may get out at all.
    Closed,
    /// A direct network: the host itself must stay out of reach.
    Direct,
}

/// One row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its name, for people and scripts.
    pub name: &'static str,
    /// What it tries, in words.
    pub what: &'static str,
    /// What it is given.
    pub gift: Gift,
    /// How success is known.
    pub proof: Proof,
    /// Against which network.
    pub way: Way,
    run: fn(&Context) -> Outcome,
}

impl Attack {
    const fn new(name: &'static str, what: &'static str, run: fn(&Context) -> Outcome) -> Self {
        Self { name, what, gift: Gift::Nothing, proof: Proof::Told, way: Way::Closed, run }
    }

    const fn given(self, gift: Gift) -> Self {
        Self { gift, ..self }
    }

    const fn proven(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }

    const fn over(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// Tries it, in this process.
    pub fn run(&self, context: &Context) -> Outcome {
        (self.run)(context)
    }
}

/// A door and its attacks.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Its name.
    pub name: &'static str,
    /// Its attacks.
    pub attacks: &'static [Attack],
}

/// The whole matrix.
pub const DOORS: &[Door] = &[
    Door { name: "descriptors", attacks: descriptors::ATTACKS },
    Door { name: "unix sockets", attacks: sockets::ATTACKS },
    Door { name: "processes", attacks: processes::ATTACKS },
    Door { name: "privileges", attacks: privileges::ATTACKS },
    Door { name: "kernel", attacks: kernel::ATTACKS },
    Door { name: "keys and ipc", attacks: keys::ATTACKS },
    Door { name: "files", attacks: files::ATTACKS },
    Door { name: "identity", attacks: identity::ATTACKS },
    Door { name: "network", attacks: network::ATTACKS },
];

/// The attack of that name.
pub fn find(name: &str) -> Option<&'static Attack> {
    DOORS.iter().flat_map(|door| door.attacks).find(|attack| attack.name == name)
}

/// Where the victims are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Context {
    /// What victims tell whoever reaches them.
    pub token: String,
    /// A TCP listener on every address of the host.
    pub tcp: u16,
    /// A UDP server on every address of the host.
    pub udp: u16,
    /// A UDP socket that only counts what arrives.
    pub silent_udp: u16,
    /// The host's addresses but the loopbacks.
    pub addresses: Vec<IpAddr>,
    /// The host's interfaces that have a hardware address: name, address.
    pub interfaces: Vec<(String, String)>,
    /// Listening unix stream sockets: where, path.
    pub streams: Vec<(String, PathBuf)>,
    /// A listening SEQPACKET socket.
    pub seqpacket: PathBuf,
    /// A datagram socket.
    pub datagram: PathBuf,
    /// Abstract names: stream and datagram.
    pub abstract_stream: String,
    /// As above.
    pub abstract_datagram: String,
    /// A process outside of the same user.
    pub victim: Victim,
    /// The System V key of shared memory and of a message queue.
    pub ipc_key: i32,
    /// A POSIX message queue.
    pub message_queue: String,
    /// A key in the user keyring.
    pub key: String,
    /// A folder that netjail hides (its state), in which the file `secret` lies.
    pub hidden: PathBuf,
    /// The host's strings: what, text.
    pub strings: Vec<(String, String)>,
    /// Texts that were put into environment variables that name the host or its sockets.
    pub environment: Vec<String>,
    /// The host's own name.
    pub hostname: String,
    /// A path outside that does not exist, where something may be planted.
    pub plant: PathBuf,
    /// FIFOs that somebody outside reads.
    pub fifos: Vec<PathBuf>,
    /// This program.
    pub program: PathBuf,
    /// Where this context lies.
    pub file: PathBuf,
}

/// A process outside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Victim {
    /// Its pid outside.
    pub pid: i32,
    /// Where the token lies in its memory.
    pub address: u64,
    /// Its descriptor of a file that holds the token.
    pub file: i32,
    /// Its TCP listener.
    pub listener: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_there_are_enough_of_them() {
        let names: Vec<_> = DOORS.iter().flat_map(|d| d.attacks).map(|a| a.name).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.len() >= 40, "{}", names.len());
    }
}
