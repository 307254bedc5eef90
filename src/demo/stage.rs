//! The demo's folder, its registry, and how it starts `netjail run`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use nix::unistd::Pid;

use super::client::MARK;
use super::proxy::Proxy;
use super::servers::{Secrets, WhoAmI};

/// How long one child may take before the demo gives it up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the demo cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Something of the demo's own.
    #[error("the demo can not {what}: {source}")]
    Own {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `netjail run` itself failed; its own words follow.
    #[error("no jail could be started here; this is what `netjail run` says:\n{0}")]
    NoJail(String),
    /// A child did not come to an end.
    #[error("`{0}` did not end within {seconds} s and was killed; run it by hand to see why", seconds = PATIENCE.as_secs())]
    Stuck(String),
    /// The person wants it to end.
    #[error("interrupted")]
    Interrupted(i32),
}

fn own(what: impl Into<String>) -> impl FnOnce(io::Error) -> StageError {
    move |source| StageError::Own { what: what.into(), source }
}

/// What became of a client's attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It got this line.
    Answered(String),
    /// It got this error, by its errno's name.
    Failed(String),
}

/// Everything that stands outside the jails.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    program: PathBuf,
    /// "What is my address".
    pub whoami: WhoAmI,
    /// The proxy in front of it.
    pub proxy: Proxy,
    /// What no jail may reach.
    pub secrets: Secrets,
    /// A port that is taken and where nobody listens: a proxy that is down.
    down: (OwnedFd, u16),
}

/// The signal that ended the demo.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

extern "C" fn interrupted(signal: i32) {
    INTERRUPTED.store(signal, Ordering::Relaxed);
}

/// Ctrl-C must not leave the folder behind: it is noticed between two steps. Children have the default action again, for a
/// handler does not outlive exec.
fn notice_signals() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupted), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

impl Stage {
    /// Makes the folder and starts the servers.
    pub fn build() -> Result<Self, StageError> {
        notice_signals().map_err(own("look after signals"))?;
        let program = std::env::current_exe().map_err(own("find its own program file"))?;
        let name =
            format!("netjail-demo-{:08x}", getrandom::u32().map_err(|e| own("make a name")(io::Error::other(e)))?);
        let folder = std::env::temp_dir().join(&name);
        DirBuilder::new().mode(0o700).create(&folder).map_err(own(format!("make {}", folder.display())))?;
        let furnished = furnish(&folder, name);
        match furnished {
            Ok((whoami, proxy, secrets, down)) => Ok(Self { folder, program, whoami, proxy, secrets, down }),
            Err(e) => {
                let _ = fs::remove_dir_all(&folder);
                Err(e)
            }
        }
    }

    /// The registry's file.
    pub fn registry(&self) -> PathBuf {
        registry_path(&self.folder)
    }

    /// The log of the last run.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The unix socket of the host's.
    pub fn socket(&self) -> PathBuf {
        socket_path(&self.folder)
    }

    /// The port where the proxy that is down does not listen.
    pub fn down(&self) -> u16 {
        self.down.1
    }

    /// Runs the client in a jail on `network`.
    pub fn in_jail(&self, network: &str, target: &str) -> Result<Attempt, StageError> {
        let _ = fs::remove_file(self.log());
        let words = ["run", "--network", network, "--registry"].map(OsString::from);
        let mut command = self.netjail();
        command.args(words).arg(self.registry()).arg("--log").arg(self.log());
        command.arg("--").arg(&self.program).args(["demo-client", target]);
        self.attempt(command)
    }

    /// Runs the client without one.
    pub fn outside(&self, target: &str) -> Result<Attempt, StageError> {
        let mut command = self.netjail();
        command.args(["demo-client", target]);
        self.attempt(command)
    }

    /// This program, with every folder that it might read or write in the demo's own.
    fn netjail(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(self.folder.join("work"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (variable, folder) in FOLDERS {
            command.env(variable, self.folder.join(folder));
        }
        command
    }

    fn attempt(&self, mut command: Command) -> Result<Attempt, StageError> {
        let said = format!("{command:?}");
        let child = command.spawn().map_err(own(format!("start {}", self.program.display())))?;
        let pid = child.id();
        let (send, receive) = mpsc::channel();
        thread::spawn(move || send.send(child.wait_with_output()));
        let Ok(output) = receive.recv_timeout(PATIENCE) else {
            // Not reaped yet, so the number is still its own.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            return Err(StageError::Stuck(said));
        };
        match INTERRUPTED.load(Ordering::Relaxed) {
            0 => understand(&output.map_err(own("wait for netjail"))?),
            signal => Err(StageError::Interrupted(signal)),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed lies in the temporary folder, and holds no secret.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Variables that say where netjail keeps things.
const FOLDERS: [(&str, &str); 4] =
    [("HOME", "home"), ("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")];

fn registry_path(folder: &Path) -> PathBuf {
    folder.join("registry.yaml")
}

fn socket_path(folder: &Path) -> PathBuf {
    folder.join("host.sock")
}

type Furniture = (WhoAmI, Proxy, Secrets, (OwnedFd, u16));

fn furnish(folder: &Path, name: String) -> Result<Furniture, StageError> {
    for sub in FOLDERS.iter().map(|(_, folder)| *folder).chain(["work"]) {
        DirBuilder::new().mode(0o700).create(folder.join(sub)).map_err(own("make its folders"))?;
    }
    let whoami = WhoAmI::start().map_err(own("start its server"))?;
    let SocketAddr::V4(server) = whoami.address else {
        return Err(own("start its server")(io::ErrorKind::AddrNotAvailable.into()));
    };
    let proxy = Proxy::start(server).map_err(own("start its proxy"))?;
    let secrets = Secrets::start(&socket_path(folder), name).map_err(own("start its servers"))?;
    let down = port_without_listener().map_err(own("take a port"))?;
    let text = registry_text(proxy.address.port(), down.1);
    fs::write(registry_path(folder), text).map_err(own("write its registry"))?;
    Ok((whoami, proxy, secrets, down))
}

/// A bound socket that does not listen: connections are refused, and nobody else can take the port meanwhile.
fn port_without_listener() -> io::Result<(OwnedFd, u16)> {
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
    let port = getsockname::<SockaddrIn>(fd.as_raw_fd())?.port();
    Ok((fd, port))
}

/// The registry of the demo.
fn registry_text(proxy: u16, down: u16) -> String {
    format!(
        "version: \"1.0\"\n\
         namespace: demo\n\
         entries:\n\
         \x20 - {{name: proxy, kind: network.socks5, host: 127.0.0.1, port: {proxy}}}\n\
         \x20 - {{name: down,  kind: network.socks5, host: 127.0.0.1, port: {down}}}  # nobody listens there\n"
    )
}

/// The client's line, or netjail's own failure.
fn understand(output: &Output) -> Result<Attempt, StageError> {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().find_map(|line| line.strip_prefix(MARK)).map(str::trim);
    match said.and_then(|said| said.split_once(' ')) {
        Some(("answered", line)) => Ok(Attempt::Answered(line.to_owned())),
        Some(("failed", why)) => Ok(Attempt::Failed(why.to_owned())),
        _ => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = if words.trim().is_empty() { "nothing" } else { words.trim() };
            Err(StageError::NoJail(format!("{words}\n(its status: {})", output.status)))
        }
    }
}
