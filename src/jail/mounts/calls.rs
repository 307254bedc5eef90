//! The mount API of Linux 5.2 and later (open_tree(2), move_mount(2), mount_setattr(2), fsopen(2)) as safe functions.
//!
//! A bind is taken as a detached tree, given its attributes while nobody can reach it, and only then attached: there is no
//! moment at which a tree that has to be read-only can be written. Attributes are only ever added, so flags that the kernel
//! locks in a user namespace (nodev, nosuid, noexec, atime) stay as they are.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;

/// Attributes of a mount, as mount_setattr(2) names them.
pub type Attributes = u64;

/// No writes through this mount.
pub const READ_ONLY: Attributes = libc::MOUNT_ATTR_RDONLY;
/// Set-user-id bits and file capabilities mean nothing.
pub const NO_SUID: Attributes = libc::MOUNT_ATTR_NOSUID;
/// Device nodes can't be opened.
pub const NO_DEV: Attributes = libc::MOUNT_ATTR_NODEV;
/// Nothing can be executed.
pub const NO_EXEC: Attributes = libc::MOUNT_ATTR_NOEXEC;

const EMPTY: &CStr = c"";

fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let raw = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for this call, and it fits a RawFd.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// A detached copy of the mount at `path` with everything mounted below it. A relative path starts at the working folder.
/// The last component is not followed when it is a symbolic link.
pub fn clone_tree(path: &Path) -> nix::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::O_CLOEXEC as u32
        | libc::AT_RECURSIVE as u32
        | libc::AT_SYMLINK_NOFOLLOW as u32
        | libc::AT_NO_AUTOMOUNT as u32;
    path.with_nix_path(|path| {
        // SAFETY: `path` is a terminated string that outlives the call.
        descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
    })?
}

/// Which mounts a change of attributes reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The one mount.
    Mount,
    /// It and all mounts below it.
    Tree,
}

/// Adds attributes to a mount, or to a whole tree of them.
pub fn set_attributes(tree: impl AsFd, attributes: Attributes, reach: Reach) -> nix::Result<()> {
    let value = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if reach == Reach::Tree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `value` is a mount_attr of the size passed, and the empty path is a terminated string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            &raw const value,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Attaches a detached tree at `path`, on top of what is mounted there. The last component is not followed when it is a
/// symbolic link.
pub fn attach(tree: impl AsFd, path: &Path) -> nix::Result<()> {
    path.with_nix_path(|path| {
        // SAFETY: both paths are terminated strings that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_fd().as_raw_fd(),
                EMPTY.as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(result).map(drop)
    })?
}

/// A new tmpfs that is attached nowhere; files, folders and further mounts are made below its descriptor.
pub fn new_tmpfs(attributes: Attributes) -> nix::Result<OwnedFd> {
    const SET_STRING: libc::c_uint = 1; // FSCONFIG_SET_STRING
    const CREATE: libc::c_uint = 6; // FSCONFIG_CMD_CREATE
    // SAFETY: the name is a terminated string.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    for (key, value) in [(c"source", c"tmpfs"), (c"mode", c"0755")] {
        // SAFETY: key and value are terminated strings.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), SET_STRING, key.as_ptr(), value.as_ptr(), 0)
        })?;
    }
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, null, null, 0) })?;
    // SAFETY: plain integers.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes as libc::c_uint)
    })
}

/// The errno of an `io::Error` that came from a system call; EIO for the few that did not.
pub fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
