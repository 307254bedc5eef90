//! The messages, one enum for each direction of each pair of roles.
//!
//! Which descriptors travel beside a message is said at the message; a message with any other number of them is refused by
//! [`take`]. The talk between a worker and the warden is in [`super::worker`].

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::channel::ChannelError;
use crate::jail::counters::Shares;
use crate::jail::payload::StageError;
use crate::policy::Table;
use crate::registry::{Id, NameFamilies, Network};

/// A failure as a person should read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// front -> warden.
#[derive(Debug, Serialize, Deserialize)]
pub enum FrontToWarden {
    /// The person's answer to [`WardenToFront::Ask`].
    Answer(bool),
    /// The jail's processes are gone: see that their last bytes are delivered, finish the log and end.
    Finish {
        /// The command failed: what it was refused last is of use.
        failed: bool,
    },
    /// After [`Finish`](FrontToWarden::Finish): the person does not want to wait for the last bytes.
    Hurry,
}

/// warden -> front.
#[derive(Debug, Serialize, Deserialize)]
pub enum WardenToFront {
    /// A line for the person.
    Say(String),
    /// A question for the person, to be answered by yes or no.
    Ask(String),
    /// The registry is loaded and the network chosen: build the jail.
    Prepared(Prepared),
    /// There will be no jail.
    Refused(Refusal),
    /// A notification of a program in the jail, for the caller's service manager, in lines that may be passed on.
    Notify(String),
    /// The command's last bytes are still on their way; that takes at most
    /// [`DRAIN_MOST`](super::worker::DRAIN_MOST).
    Draining,
    /// The jail was not let to this unix socket; as a program wrote it, escaped.
    SocketRefused(String),
    /// The log is written.
    Finished {
        /// The summary, if one was asked for.
        summary: Option<String>,
        /// Anything came back from the network.
        answered: bool,
    },
}

/// What the jail's builders must know of the registry; no secret among it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// The network's id, for messages.
    pub network: Id,
    /// Which address families the resolver answers with.
    pub names: NameFamilies,
    /// Environment variables that a secret was read from: the jail does not get them.
    pub secret_variables: Vec<String>,
    /// Files that a secret was read from: the jail does not see them.
    pub secret_files: Vec<PathBuf>,
    /// Folders of netjail's own that the jail does not see.
    pub hidden_folders: Vec<PathBuf>,
    /// Unix sockets of the host that it may connect to, and folders of them.
    pub sockets: Vec<PathBuf>,
}

/// init -> front.
#[derive(Debug, Serialize, Deserialize)]
pub enum InitToFront {
    /// Root only: the namespaces exist, write my id maps.
    MapMe,
    /// The id maps are in place and init can no longer be looked into; front may do the same.
    Closed,
    /// What a person may want to know of how the jail was built.
    Notes(Vec<Note>),
    /// A stage failed; there is no jail.
    Failed(Refusal),
    /// The command runs.
    Running,
    /// The command could not be executed.
    NotRun(StageError),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command ended.
    Ended(Ending),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl Ending {
    /// The status as a shell gives it: a signal is 128 plus its number.
    pub fn status(self) -> i32 {
        match self {
            Ending::Exited(status) => status,
            Ending::Signalled(signal) => 128 + signal,
        }
    }
}

/// What a person may want to know of how a jail was built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The text.
    pub text: String,
    /// To be said always: what the person does in the jail may not last, or may be refused.
    pub important: bool,
}

/// front -> init.
#[derive(Debug, Serialize, Deserialize)]
pub enum FrontToInit {
    /// Answers [`InitToFront::MapMe`].
    Mapped,
    /// There will be a jail; what init needs for the rest of it.
    Go(Box<Go>),
    /// Send this signal to the command.
    Signal(i32),
}

/// What init can not find out by itself: it is in other namespaces, and was forked before the registry was read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go {
    /// The warden's word.
    pub prepared: Prepared,
    /// What front asked the machine.
    pub machine: Machine,
}

/// What of the machine decides how a jail is built.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The limits that the jail gets.
    pub shares: Shares,
    /// Who the caller is, where a name service knows.
    pub account: Option<Account>,
    /// See [`core_limit_is_fixed`](crate::jail::seccomp::Options::core_limit_is_fixed).
    pub core_limit_is_fixed: bool,
}

/// A user, as passwd(5) has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The login shell.
    pub shell: PathBuf,
    /// The home folder.
    pub home: PathBuf,
}

/// init -> warden.
#[derive(Debug, Serialize, Deserialize)]
pub enum InitToWarden {
    /// The TUN queues, one descriptor each.
    Queues,
    /// `--allow-datagrams`: the two sockets that [`letterbox::bind`](crate::jail::letterbox::bind) made.
    Letterbox,
    /// A new command; one descriptor, the mediator's end of the pair on which the command hands its filter's listener over.
    Command,
    /// The command has been started: the jail shows up in `ps`.
    Running,
    /// Every process of the jail but init itself has ended and was reaped; init ends now.
    Over {
        /// The command ended with a status that is not 0.
        failed: bool,
    },
}

/// warden -> init.
#[derive(Debug, Serialize, Deserialize)]
pub enum WardenToInit {
    /// The driver is built and the relay is in its cage: start the command.
    Ready,
    /// The relay or the driver failed; there is no jail.
    Failed(Refusal),
    /// End the jail: ask the command to end (SIGTERM), and kill it if it has not done so in time.
    Stop {
        /// How long it has, in ms.
        grace: u32,
    },
    /// Somebody outside wants a command started; one descriptor, init's end of the channel to the [`usher`](crate::roles::usher)
    /// that has looked at what came with the wish.
    Usher,
}

/// warden -> relay, on the channel of the whole process; each worker has another one.
#[derive(Debug, Serialize, Deserialize)]
pub enum WardenToRelay {
    /// Comes first, while the jail is being built: what takes time and needs no packet.
    Prepare {
        /// The network is *direct*: the relay dials for itself, so it stays in the host's network.
        direct: bool,
    },
    /// Build the workers. Descriptors: a memory file with the text of the host's hosts file (it may be larger than a message),
    /// then for each worker its TUN queue and its channel to the warden.
    Begin(Box<RelaySetup>),
}

/// Everything that a relay is built from. It holds the proxy's credentials and nothing else that is secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelaySetup {
    /// The network to drive.
    pub network: Network,
    /// The rules.
    pub table: Table,
    /// The jail's own host name, which resolves to its loopback.
    pub hostname: String,
    /// How many workers there are.
    pub workers: u16,
    /// Bytes.
    pub mtu: u16,
    /// The host's names and resolvers, for networks that answer with real addresses.
    pub host: HostView,
}

/// What a relay must know of the host to answer with real addresses; it opens no file itself. Empty on other networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The host's name, which no jail learns.
    pub name: String,
    /// Where questions are forwarded to, in order.
    pub resolvers: Vec<std::net::SocketAddr>,
}

/// relay -> warden.
#[derive(Debug, Serialize, Deserialize)]
pub enum RelayToWarden {
    /// It could not be built.
    Failed(Refusal),
    /// The last record is sent.
    Finished,
}

/// usher -> init.
#[derive(Debug, Serialize, Deserialize)]
pub enum UsherToInit {
    /// Start a command. Descriptors: the client's connection, a memory file that holds the
    /// [`Command`](crate::jail::payload::Command), and three streams unless a terminal is wanted.
    Start {
        /// Make a terminal in the jail, hand its other side to the client, and start the command in a session on it.
        terminal: Option<WindowSize>,
    },
}

/// A client outside -> the control socket `NAME.sock`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum ClientRequest {
    /// What is this jail?
    Status,
    /// End it: ask the command to end (SIGTERM), and kill it if it has not done so in time.
    Stop {
        /// How long it has, in ms.
        grace: u32,
    },
    /// Start a command: wait for [`ClientAnswer::GoOn`], then send an [`ExecRequest`].
    Exec,
}

/// A client outside -> usher. Descriptors: a memory file with the [`Command`](crate::jail::payload::Command), and
/// three streams unless a terminal is wanted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The streams are one terminal; make one inside.
    pub terminal: Option<WindowSize>,
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct WindowSize {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub columns: u16,
}

/// The jail's side -> a client.
#[derive(Debug, Serialize, Deserialize)]
pub enum ClientAnswer {
    /// To [`ClientRequest::Status`].
    Status(JailStatus),
    /// To [`ClientRequest::Stop`]: it is on its way; the connection closes when it has gone.
    Stopping,
    /// To [`ClientRequest::Exec`]: send the [`ExecRequest`] now.
    GoOn,
    /// The command runs; one descriptor if a terminal was wanted: its other side.
    Running,
    /// The command could not be executed.
    NotRun(StageError),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command ended.
    Ended(Ending),
    /// It is not done, because.
    Refused(Refusal),
}

/// A client -> init, once its command runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum ClientSignal {
    /// Send this signal to the command.
    Signal(i32),
}

/// What `ps` shows of a jail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JailStatus {
    /// Its name.
    pub name: String,
    /// The pid that the shell waits for.
    pub pid: i32,
    /// The network's id.
    pub network: Id,
    /// The registry's generation.
    pub generation: u64,
    /// Unix time, in seconds.
    pub started: u64,
    /// The command, escaped for a terminal.
    pub command: String,
    /// Records so far: flows and questions.
    pub records: u64,
}

/// Checks that exactly `N` descriptors came beside a message.
pub fn take<const N: usize>(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; N], ChannelError> {
    let count = descriptors.len();
    <[OwnedFd; N]>::try_from(descriptors)
        .map_err(|_| ChannelError::Malformed(format!("{count} descriptors beside it, expected {N}")))
}
