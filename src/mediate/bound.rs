//! Which unix sockets a jail may connect to: those that were bound inside it, and those that its user named.
//!
//! **Bound inside** is known exactly. When a socket of the jail's network namespace begins to listen, `SIOCUNIXFILE` on a
//! duplicate of it gives an `O_PATH` descriptor of the inode it is bound to, which is kept. As long as it is kept the inode's
//! number is nobody else's, and nobody else can bind *that* inode ever again (bind(2) makes a new one): so device and inode
//! number of a kept descriptor are an identity, on btrfs and overlayfs too, where what sock_diag(7) prints is not.
//!
//! **Named** is a path in the host's view, as the user gave it, looked up anew at each connect (a server may
//! have been restarted). Its folder is resolved once, before the jail runs, and held, so the jail can not lead the name elsewhere
//! with a symbolic link. Where the jail could rename another socket to the name, the name means the one socket that was there
//! at the start. A named folder means everything below it.

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::lookup;

/// `SIOCUNIXFILE` (unix(7)).
const SIOCUNIXFILE: libc::c_ulong = 0x89E0;
/// The most inodes that are held for one jail.
pub const MAX_BOUND: usize = 4096;

/// What names an inode while a descriptor of it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: (u32, u32),
    inode: u64,
}

/// What there is to know of an inode.
#[derive(Clone, Copy, Debug)]
pub struct Inode {
    /// Which it is.
    pub identity: Identity,
    /// Whether it is a socket's.
    pub is_socket: bool,
    /// No name is left of it.
    pub unlinked: bool,
}

/// Looks at an `O_PATH` descriptor without asking a file system's server (`AT_STATX_DONT_SYNC`).
pub fn inspect(fd: BorrowedFd<'_>) -> Result<Inode, Errno> {
    // SAFETY: plain data that the kernel fills in.
    let mut got: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let wanted = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_NLINK;
    // SAFETY: a live descriptor, a live C string and a live structure.
    Errno::result(unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, wanted, &raw mut got) })?;
    Ok(Inode {
        identity: Identity { device: (got.stx_dev_major, got.stx_dev_minor), inode: got.stx_ino },
        is_socket: u32::from(got.stx_mode) & libc::S_IFMT == libc::S_IFSOCK,
        unlinked: got.stx_nlink == 0,
    })
}

/// Whether the object lies on an overlay file system, where the sockets of the layers below are dead to everybody.
pub fn on_overlay(fd: BorrowedFd<'_>) -> bool {
    nix::sys::statfs::fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

/// The inode that a unix socket is bound to; ENOENT for an abstract or unbound one.
///
/// The kernel asks for CAP_NET_ADMIN over the socket's network namespace, which the jail's owner has.
pub fn inode_of(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: a live descriptor and no memory.
    let fd = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE as _, 0) })?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The inodes bound inside, each held by a descriptor.
#[derive(Debug, Default)]
pub struct Bound {
    held: HashMap<(u64, Identity), OwnedFd>,
}

impl Bound {
    /// Holds an inode for the sockets of `network`; false where there is no room, and what is bound there stays unreachable.
    pub fn hold(&mut self, network: u64, fd: OwnedFd) -> Result<bool, Errno> {
        let identity = inspect(fd.as_fd())?.identity;
        if self.held.len() >= MAX_BOUND {
            // An inode without a name is out of reach of connect(2), so nothing is lost with it.
            self.held.retain(|_, fd| inspect(fd.as_fd()).is_ok_and(|inode| !inode.unlinked));
        }
        if self.held.len() >= MAX_BOUND {
            return Ok(false);
        }
        self.held.insert((network, identity), fd);
        Ok(true)
    }

    /// Whether an inode, of which the caller holds a descriptor, is one of these.
    pub fn contains(&self, network: u64, identity: Identity) -> bool {
        self.held.contains_key(&(network, identity))
    }
}

/// A path that the user allowed.
#[derive(Debug)]
pub struct Entry {
    folder: OwnedFd,
    /// Below that folder; none where the folder itself was named.
    name: Option<PathBuf>,
    /// The socket that had the name when the jail was started.
    first: Option<(Identity, OwnedFd)>,
    /// No other socket is meant: the jail could move one to this name.
    only_this: bool,
}

impl Entry {
    /// Resolves a path in the caller's own view.
    pub fn find(path: &Path, only_this: bool) -> Result<Self, Errno> {
        let from_io = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        if path.is_dir() {
            let folder = open_folder(&path.canonicalize().map_err(from_io)?)?;
            return Ok(Self { folder, name: None, first: None, only_this });
        }
        // A server that is not up yet has no socket; its folder must be there.
        let path = path.canonicalize().or_else(|_| {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(folder.canonicalize().map_err(from_io)?.join(path.file_name().ok_or(Errno::EINVAL)?))
        })?;
        let folder = open_folder(path.parent().ok_or(Errno::EINVAL)?)?;
        let name = PathBuf::from(path.file_name().ok_or(Errno::EINVAL)?);
        let first = lookup::open_beneath(&folder, &name).ok().and_then(held);
        Ok(Self { folder, name: Some(name), first, only_this })
    }

    /// What another process needs to have the same entry: the name, and the folder with the socket that is there now.
    pub fn parts(&self) -> (Option<Vec<u8>>, Vec<BorrowedFd<'_>>) {
        let name = self.name.as_ref().map(|name| name.as_os_str().as_bytes().to_vec());
        let first = self.first.iter().map(|(_, fd)| fd.as_fd());
        (name, [self.folder.as_fd()].into_iter().chain(first).collect())
    }

    /// The reverse of [`parts`](Self::parts).
    pub fn from_parts(name: Option<Vec<u8>>, only_this: bool, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let folder = descriptors.next()?;
        let name = name.map(|name| PathBuf::from(OsString::from_vec(name)));
        Some(Self { folder, name, first: descriptors.next().and_then(held), only_this })
    }

    /// Whether the object `identity`, which the caller reached as `path`, is meant: `Some(None)` if it is the one to connect
    /// to, `Some(Some(_))` if another one has taken its place outside.
    fn find_for(&self, identity: Identity, path: &[u8]) -> Option<Option<OwnedFd>> {
        let Some(name) = &self.name else { return below(&self.folder, path, identity).then_some(None) };
        let is_first = self.first.as_ref().is_some_and(|(first, _)| *first == identity);
        if self.only_this {
            return is_first.then_some(None);
        }
        let now = lookup::open_beneath(&self.folder, name).ok().and_then(held);
        match now {
            Some((now, _)) if now == identity => Some(None),
            // A jail that sees the socket alone, bound into a folder of its own, goes on seeing the one of a server that
            // has been started again since.
            Some((_, successor)) if is_first => Some(Some(successor)),
            _ => is_first.then_some(None),
        }
    }
}

/// An object with its identity.
fn held(fd: OwnedFd) -> Option<(Identity, OwnedFd)> {
    let inode = inspect(fd.as_fd()).ok()?;
    Some((inode.identity, fd))
}

/// What `--allow-socket` names, and inodes that netjail itself made for the jail.
#[derive(Debug, Default)]
pub struct Allowed {
    entries: Vec<Entry>,
    inodes: Vec<(Identity, OwnedFd)>,
}

impl Allowed {
    /// Allows a path.
    pub fn add_entry(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Allows one inode, of which `fd` is a descriptor: the broker's socket.
    pub fn add(&mut self, fd: OwnedFd) -> Result<(), Errno> {
        self.inodes.push((inspect(fd.as_fd())?.identity, fd));
        Ok(())
    }

    /// Whether the object that the caller reached as `path`, and of which we hold a descriptor, is allowed; `Some(Some(_))`
    /// is the object that has taken its place.
    pub fn find(&self, identity: Identity, path: &[u8]) -> Option<Option<OwnedFd>> {
        if self.inodes.iter().any(|(allowed, _)| *allowed == identity) {
            return Some(None);
        }
        self.entries.iter().find_map(|entry| entry.find_for(identity, path))
    }
}

/// The end of the path that the caller used, one name, two names and so on, tried below the folder: what is found there
/// must be the very object, so the text of the path proves nothing by itself.
fn below(folder: &OwnedFd, path: &[u8], identity: Identity) -> bool {
    let starts = path.iter().enumerate().rev().filter(|(_, b)| **b == b'/').map(|(at, _)| at + 1);
    starts.chain([0]).any(|start| {
        let tail = Path::new(std::ffi::OsStr::from_bytes(&path[start..]));
        tail.is_relative()
            && !tail.as_os_str().is_empty()
            && lookup::open_beneath(folder, tail).ok().and_then(held).is_some_and(|(found, _)| found == identity)
    })
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a live C string.
    let fd = Errno::result(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
