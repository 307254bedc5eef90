//! Files that were handed in open for reading stay so.
//!
//! /proc/self/fd opens a descriptor's file anew, through the mount that the descriptor was opened on: a file that the caller
//! opened for reading, even one that the jail's view hides or shows read-only, could be opened for writing there. So such a
//! descriptor is replaced by one on a copy of that mount which is read-only. What is open for writing is the caller's gift
//! and stays what it is; a file without a name belongs to nobody else.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};
use nix::unistd::{AccessFlags, Whence, faccessat, lseek};

use super::calls::{READ_ONLY, Reach, clone_tree, set_attributes};

/// Why a descriptor can not be made safe.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {number} ({}) can not be kept read-only: {why}; pass it through a pipe instead: cat FILE | netjail run …", path.display())]
pub struct ReopenError {
    number: RawFd,
    path: PathBuf,
    why: Errno,
}

/// Replaces `number` if it is a regular file that is open for reading only. To be called in the jail's own mount namespace,
/// with its capabilities, while the host's mounts are still there.
pub fn read_only(number: RawFd) -> Result<(), ReopenError> {
    let path = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
    replace(number, &path).map_err(|why| ReopenError { number, path, why })
}

/// Whether [`read_only`] has something to do about this descriptor.
pub fn is_open_for_reading_only(fd: BorrowedFd<'_>) -> bool {
    let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) else { return false };
    let Ok(found) = fstat(fd) else { return false };
    let regular = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
    regular && OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY && found.st_nlink > 0
}

fn replace(number: RawFd, path: &Path) -> Result<(), Errno> {
    // SAFETY: the number is only looked at; one that is not open is EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    if !is_open_for_reading_only(fd) {
        return Ok(());
    }
    let found = fstat(fd)?;
    match reopened(path, &found) {
        Ok(new) => {
            let offset = lseek(fd, 0, Whence::SeekCur)?;
            lseek(&new, offset, Whence::SeekSet)?;
            // SAFETY: the number belongs to the command that will be executed; no owner in this process knows it.
            Errno::result(unsafe { libc::dup3(new.as_raw_fd(), number, 0) }).map(drop)
        }
        // Whoever may not write the file can not open it for writing by any way round.
        Err(_) if faccessat(fd, c"", AccessFlags::W_OK, AtFlags::AT_EMPTY_PATH) == Err(Errno::EACCES) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The same file on a read-only copy of its mount; ENOENT where the path leads to another one.
fn reopened(path: &Path, file: &FileStat) -> Result<OwnedFd, Errno> {
    let same = |other: &FileStat| (other.st_dev, other.st_ino) == (file.st_dev, file.st_ino);
    if !same(&stat(path)?) {
        return Err(Errno::ENOENT);
    }
    let tree = clone_tree(path)?;
    if !same(&fstat(&tree)?) {
        return Err(Errno::ENOENT);
    }
    set_attributes(&tree, READ_ONLY, Reach::Mount)?;
    let at = format!("/proc/self/fd/{}", tree.as_raw_fd());
    open(at.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
}
