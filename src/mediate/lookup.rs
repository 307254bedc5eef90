//! Paths as the caller sees them: its root, its working folder, its mounts.
//!
//! `/proc/TID/root` leads into the caller's mount namespace, and openat2(2) walks from there with `RESOLVE_IN_ROOT`, so that
//! neither `..` nor a symbolic link leads out of what the caller could reach. Magic links are refused, for they would be
//! the *mediator's*; the ones that programs do put into socket paths, `/proc/self/fd/N/…`, `/proc/self/cwd/…` and
//! `/proc/self/root/…` (to fit a long path into 108 bytes), are translated.
//!
//! The result is an `O_PATH` descriptor of the object itself. What is checked and what is connected to is that object,
//! whatever happens to its name meanwhile.
//!
//! A walk may hang on a FUSE or network file system of the jail's. In the loop only [`Effort::Cached`] is tried, which answers
//! EAGAIN rather than ask a file system; the walk is then made by a thread with a deadline.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::target::{Descriptors, Status};

/// How far a look-up may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Only what the kernel has in memory (`RESOLVE_CACHED`, Linux 5.12); EAGAIN otherwise.
    Cached,
    /// Ask file systems, which may take for ever.
    Full,
}

/// A path split into where the walk begins and the way from there.
#[derive(Debug)]
pub struct Walk {
    tid: i32,
    start: Start,
    rest: Vec<u8>,
}

#[derive(Debug)]
enum Start {
    Root,
    WorkingFolder,
    Folder(OwnedFd),
}

/// Prepares a look-up of `path` for thread `tid`. A descriptor that the path names is copied now.
pub fn prepare(tid: i32, path: &[u8], descriptors: &mut Descriptors) -> Result<Walk, Errno> {
    let walk = |start, rest: &[u8]| Ok(Walk { tid, start, rest: rest.to_vec() });
    let own = path.strip_prefix(b"/proc/self/").or_else(|| path.strip_prefix(b"/proc/thread-self/"));
    let Some(own) = own else {
        return walk(if path.first() == Some(&b'/') { Start::Root } else { Start::WorkingFolder }, path);
    };
    if let Some(rest) = own.strip_prefix(b"cwd/") {
        return walk(Start::WorkingFolder, rest);
    }
    if let Some(rest) = own.strip_prefix(b"root/") {
        return walk(Start::Root, rest);
    }
    if let Some(rest) = own.strip_prefix(b"fd/") {
        let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
        let number = std::str::from_utf8(&rest[..end]).ok().and_then(|n| n.parse().ok()).ok_or(Errno::ENOENT)?;
        let folder = match descriptors.copy(tid, number) {
            Err(Errno::EBADF) => return Err(Errno::ENOENT),
            other => other?,
        };
        return walk(Start::Folder(folder), rest[end..].strip_prefix(b"/").unwrap_or_default());
    }
    let mut translated = format!("/proc/{}/", Status::read(tid)?.own_number).into_bytes();
    translated.extend_from_slice(own);
    walk(Start::Root, &translated)
}

impl Walk {
    /// Walks; the errno is the one that the caller's own walk would have met.
    pub fn resolve(&self, effort: Effort) -> Result<OwnedFd, Errno> {
        let folder = match &self.start {
            Start::Root => return open_in(&self.root()?, &self.rest, libc::RESOLVE_IN_ROOT, effort),
            Start::WorkingFolder => open_folder(&format!("/proc/{}/cwd", self.tid))?,
            Start::Folder(folder) if self.rest.is_empty() => return folder.try_clone().map_err(from_io),
            Start::Folder(folder) => folder.try_clone().map_err(from_io)?,
        };
        match open_in(&folder, &self.rest, libc::RESOLVE_BENEATH, effort) {
            // The way leads up, or along an absolute link: it must be walked from the root.
            Err(Errno::EXDEV) => self.by_way_of_root(&folder, effort),
            other => other,
        }
    }

    fn root(&self) -> Result<OwnedFd, Errno> {
        open_folder(&format!("/proc/{}/root", self.tid))
    }

    /// The way from the root to `folder` is what the kernel prints for it, if that leads there.
    fn by_way_of_root(&self, folder: &OwnedFd, effort: Effort) -> Result<OwnedFd, Errno> {
        let root = self.root()?;
        let (root_name, name) = (name_of(&root)?, name_of(folder)?);
        let inside = name.strip_prefix(&root_name).map_err(|_| Errno::EACCES)?.as_os_str().as_bytes();
        let found = open_in(&root, if inside.is_empty() { b"." } else { inside }, libc::RESOLVE_IN_ROOT, effort)?;
        let (a, b) = (nix::sys::stat::fstat(&found)?, nix::sys::stat::fstat(folder)?);
        if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
            return Err(Errno::EACCES);
        }
        let mut whole = inside.to_vec();
        whole.push(b'/');
        whole.extend_from_slice(&self.rest);
        open_in(&root, &whole, libc::RESOLVE_IN_ROOT, effort)
    }
}

fn from_io(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn name_of(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(from_io)
}

fn open_folder(path: &str) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{OFlag, open};
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

fn open_in(folder: &impl AsFd, path: &[u8], scope: u64, effort: Effort) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: open_how is plain data for which zero is the documented default.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = scope | libc::RESOLVE_NO_MAGICLINKS;
    if effort == Effort::Cached {
        how.resolve |= libc::RESOLVE_CACHED;
    }
    let mut tries = 0;
    loop {
        // SAFETY: a live descriptor, a live C string and a live structure whose size is passed.
        let got = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                folder.as_fd().as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match Errno::result(got) {
            // SAFETY: the kernel has just made this descriptor for this call.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            // With EAGAIN a scoped walk says that a rename was on its way meanwhile.
            Err(Errno::EAGAIN) if effort == Effort::Full && tries < 32 => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// Opens the object `path` below `folder` of the mediator's own view: neither up nor along any symbolic link.
pub fn open_beneath(folder: &impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let scope = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    open_in(folder, path.as_os_str().as_bytes(), scope, Effort::Full)
}
