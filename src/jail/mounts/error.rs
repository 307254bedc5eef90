//! What can go wrong while a jail's files are built.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::calls::errno_of;
use super::table::Mount;

/// A part of the view, in the order in which they are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Propagation, the private scratch space, reading the mount table.
    Scratch,
    /// The new root and the caller's own folders in it.
    Root,
    /// /etc.
    Etc,
    /// /proc.
    Proc,
    /// /dev.
    Dev,
    /// /sys.
    Sys,
    /// /run, /var/log and what names the host below /var.
    Run,
    /// /tmp and /var/tmp.
    Tmp,
    /// Home, working folder, command, `--ro` and `--rw`.
    Folders,
    /// The folders that hold keys.
    Masks,
    /// Making the new root the only one.
    Pivot,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scratch => "the private file system",
            Self::Root => "the root folder",
            Self::Etc => "/etc",
            Self::Proc => "/proc",
            Self::Dev => "/dev",
            Self::Sys => "/sys",
            Self::Run => "/run",
            Self::Tmp => "/tmp",
            Self::Folders => "the caller's folders",
            Self::Masks => "the masks over keys",
            Self::Pivot => "the change of root",
        })
    }
}

/// Why a jail's files could not be built. The jail is not started then.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A system call failed.
    #[error("cannot build {stage}: {what} {}: {errno}; {remedy}", path.display())]
    Call {
        /// The part that was being built.
        stage: Stage,
        /// What was tried, as a verb.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file that is needed lies on a file system behind which an outside process or server acts.
    #[error(
        "{role} {} lies on {} ({kind}), and reading it makes a process or server outside act for the jail; start from a local folder, or accept that with --allow-netfs", path.display(), mount.display()
    )]
    NetworkFilesystem {
        /// What the path is to the jail.
        role: &'static str,
        /// The path.
        path: PathBuf,
        /// Where that file system is mounted.
        mount: PathBuf,
        /// Its type.
        kind: String,
    },
    /// Such a file system lies below a folder that the caller can write: the kernel lets an unprivileged namespace neither
    /// take it off nor leave it out.
    #[error(
        "{} ({kind}) is mounted below your folder {} and can't be left out of the jail: unmount it first, hide the folder (--home tmp), or accept it with --allow-netfs", mount.display(), folder.display()
    )]
    NetworkFilesystemBelow {
        /// The writable folder.
        folder: PathBuf,
        /// Where that file system is mounted.
        mount: PathBuf,
        /// Its type.
        kind: String,
    },
    /// A proc, sysfs or device file system lies below a folder that the caller can write.
    #[error(
        "{} ({kind}) is mounted below your folder {} and would show the host's devices or addresses in the jail: unmount it first, or hide the folder (--home tmp)", mount.display(), folder.display()
    )]
    KernelFilesystemBelow {
        /// The writable folder.
        folder: PathBuf,
        /// Where that file system is mounted.
        mount: PathBuf,
        /// Its type.
        kind: String,
    },
    /// The kernel refuses a fresh /proc, since parts of the one outside are covered.
    #[error(
        "cannot mount a fresh /proc ({errno}): parts of the /proc outside are covered ({covered}). docker: --security-opt systempaths=unconfined; podman: --security-opt unmask=ALL; Kubernetes: procMount: Unmasked with hostUsers: false; systemd unit: ProtectKernelTunables=no, ProtectKernelLogs=no, ProtectProc=default, ProcSubset=all; systemd-nspawn: umount the listed paths. --proc host-masked accepts the outer /proc, which shows the processes outside"
    )]
    ProcRefused {
        /// The kernel's answer.
        errno: Errno,
        /// The covered paths, as far as they can be seen.
        covered: String,
    },
    /// A secret's file lies in a folder that the jail has to see.
    #[error(
        "the secret file {} lies in {}, which the jail can see: a mask over a single file comes off when the file is replaced. Move it to a folder of its own (for example ~/.config/netjail/secrets), or name an environment variable instead", path.display(), folder.display()
    )]
    SecretInOpenFolder {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// A folder of keys that the jail would need for itself.
    #[error(
        "{} holds netjail's own keys and is also the jail's working folder or lies above it: start from another folder, or move state_dir", path.display()
    )]
    KeysInWorkingFolder {
        /// The folder.
        path: PathBuf,
    },
    /// `--ro` or `--rw` of something that no flag shows.
    #[error(
        "{flag} {} would show the host's own devices, names or sockets: name a folder below it instead (never /dev, /sys or /proc)", path.display()
    )]
    NotToBeShown {
        /// The flag.
        flag: &'static str,
        /// The path, without symbolic links.
        path: PathBuf,
    },
    /// Root's payload owns root's files in /proc; without masks nothing would keep it from writing them.
    #[error(
        "--allow-nested-sandbox leaves /proc/sys unmasked, which root could write: run it as a user, with --user NAME"
    )]
    NestedSandboxAsRoot,
}

impl MountError {
    /// The error for a mount that a jail must not have, below a folder that it needs.
    pub(super) fn below(folder: &Path, mount: &Mount) -> Self {
        let (folder, kind, kernels) = (folder.to_owned(), mount.kind.clone(), mount.is_kernels());
        let mount = mount.point.clone();
        if kernels {
            Self::KernelFilesystemBelow { folder, mount, kind }
        } else {
            Self::NetworkFilesystemBelow { folder, mount, kind }
        }
    }
}

/// Attaches stage, path and remedy to a failed call.
pub(super) trait Context<T> {
    fn at(self, stage: Stage, what: &'static str, path: impl AsRef<Path>) -> Result<T, MountError>;
}

impl<T> Context<T> for nix::Result<T> {
    fn at(self, stage: Stage, what: &'static str, path: impl AsRef<Path>) -> Result<T, MountError> {
        self.map_err(|errno| MountError::Call {
            stage,
            what,
            path: path.as_ref().to_owned(),
            errno,
            remedy: remedy(errno),
        })
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn at(self, stage: Stage, what: &'static str, path: impl AsRef<Path>) -> Result<T, MountError> {
        self.map_err(|error| errno_of(&error)).at(stage, what, path)
    }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "the user namespace has no right to mount here: run `netjail doctor`, which names the security module or setting"
        }
        Errno::ENOSYS => {
            "the mount API of Linux 5.12 is needed: use a newer kernel, or allow these calls in the container's seccomp profile"
        }
        Errno::ENODEV => "the kernel lacks this file system: load its module or use another kernel",
        Errno::ENOSPC => "the limit of mounts is reached: raise /proc/sys/fs/mount-max",
        Errno::ENOENT | Errno::ENOTDIR => "check that the path exists, outside, for this user",
        Errno::ENOMEM => "free some memory",
        _ => "run `netjail doctor`, which tests each part alone",
    }
}
