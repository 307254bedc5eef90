//! The run folder: where a live jail's control socket is found.
//!
//! `$XDG_RUNTIME_DIR/netjail`, else `/run/netjail` for root who may have it, else `run` in the state folder; 0700, and masked in every jail.
//! A socket that refuses connections belongs to a warden that is gone, and is removed by whoever notices.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::unistd::{AccessFlags, Uid, access};

use super::channel::Channel;
use super::messages::{ClientAnswer, ClientRequest};

/// What can go wrong with the run folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder or a socket in it.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no place for it, as for a service's user without a home.
    #[error(
        "the run folder {path} can not be made: {source}; set XDG_STATE_HOME, or XDG_RUNTIME_DIR, to a folder of yours (a \
         systemd unit: StateDirectory=netjail and Environment=XDG_STATE_HOME=%S/netjail)"
    )]
    Create {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else could put sockets there.
    #[error("{0} belongs to another user or is open to others; make it yours and mode 0700, or remove it")]
    NotPrivate(PathBuf),
    /// The name is taken by a live jail.
    #[error("a jail named {0} is running already; choose another --name, or end it with: netjail stop {0}")]
    Taken(String),
    /// No live jail has this name.
    #[error("there is no running jail named {0}; `netjail ps` lists them")]
    Unknown(String),
    /// Not a name.
    #[error(
        "`{}` is not a jail's name: 1 to 48 letters, digits, `-`, `_` and `.`, not beginning with `-` or `.`", .0.escape_debug()
    )]
    BadName(String),
}

impl RunError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Where the folder is; it may not exist yet.
pub fn path(state: &Path) -> PathBuf {
    if let Some(runtime) = env::var_os("XDG_RUNTIME_DIR").filter(|v| Path::new(v).is_absolute())
        && fs::metadata(&runtime).is_ok_and(|m| m.is_dir() && m.uid() == Uid::effective().as_raw())
    {
        return PathBuf::from(runtime).join("netjail");
    }
    let system = Path::new("/run/netjail");
    if Uid::effective().is_root() && could_be_own(system) { system.to_owned() } else { state.join("run") }
}

/// Root of a user namespace may find that the real root's folder is there, or that it may make none.
fn could_be_own(folder: &Path) -> bool {
    match fs::symlink_metadata(folder) {
        Ok(found) => found.uid() == Uid::effective().as_raw(),
        Err(_) => folder.parent().is_some_and(|parent| access(parent, AccessFlags::W_OK).is_ok()),
    }
}

/// Makes the folder, or checks that it is the caller's alone.
pub fn create(folder: &Path) -> Result<(), RunError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| RunError::Create { path: folder.to_owned(), source })?;
    let found = fs::symlink_metadata(folder).map_err(RunError::io(folder))?;
    if !found.is_dir() || found.uid() != Uid::effective().as_raw() || found.mode() & 0o077 != 0 {
        return Err(RunError::NotPrivate(folder.to_owned()));
    }
    Ok(())
}

/// Whether a text can name a jail; it becomes a file name and is printed.
fn check_name(name: &str) -> Result<(), RunError> {
    let fits = (1..=48).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits { Ok(()) } else { Err(RunError::BadName(name.to_owned())) }
}

/// A name for a jail that was given none: the command's, and four random digits.
pub fn invent_name(command: &str) -> String {
    let base: String = command
        .rsplit('/')
        .next()
        .unwrap_or(command)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
        .take(32)
        .collect();
    let base = if base.is_empty() { "jail" } else { &base };
    format!("{base}-{:04x}", getrandom::u32().unwrap_or_else(|_| std::process::id()) & 0xffff)
}

fn socket_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

fn rename_to_free(from: &Path, to: &Path) -> Result<(), Errno> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)
}

/// A jail's control socket, listening; the file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Takes a name. The socket gets it only once it listens, so that nobody can mistake it for a stale one.
    pub fn bind(folder: &Path, name: &str) -> Result<Self, RunError> {
        check_name(name)?;
        let path = socket_path(folder, name);
        let unnamed = folder.join(format!(".{name}.{}", std::process::id()));
        let failed = |source: Errno| RunError::Io { path: unnamed.clone(), source: source.into() };
        let fd =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
                .map_err(failed)?;
        let _ = fs::remove_file(&unnamed);
        bind(fd.as_raw_fd(), &UnixAddr::new(&unnamed).map_err(failed)?).map_err(failed)?;
        listen(&fd, Backlog::MAXCONN).map_err(failed)?;
        let mut named = rename_to_free(&unnamed, &path);
        if named == Err(Errno::EEXIST) {
            if open(folder, name).is_ok() {
                let _ = fs::remove_file(&unnamed);
                return Err(RunError::Taken(name.to_owned()));
            }
            // Left behind by a warden that was killed; `open` has removed it.
            named = rename_to_free(&unnamed, &path);
        }
        named.map_err(failed)?;
        Ok(Self { fd, path })
    }

    /// The listening socket.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The names of all sockets in the folder, live or not, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|name| check_name(name).is_ok())
        .collect();
    names.sort();
    names
}

/// Connects to a jail's control socket; a stale one is removed.
pub fn open(folder: &Path, name: &str) -> Result<Channel<ClientRequest, ClientAnswer>, RunError> {
    check_name(name)?;
    let path = socket_path(folder, name);
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| RunError::Io { path: path.clone(), source: e.into() })?;
    let address = UnixAddr::new(&path).map_err(|e| RunError::Io { path: path.clone(), source: e.into() })?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => Ok(fd.into()),
        Err(Errno::ENOENT) => Err(RunError::Unknown(name.to_owned())),
        Err(Errno::ECONNREFUSED) => {
            let _ = fs::remove_file(&path);
            Err(RunError::Unknown(name.to_owned()))
        }
        Err(errno) => Err(RunError::Io { path, source: errno.into() }),
    }
}
