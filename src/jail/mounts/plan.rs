//! What a jail's files are to look like, decided before any process of the jail exists.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::jail::identity::Identity;

/// `--home`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HomeView {
    /// The caller's own, writable: what is written there can be run outside later (rc files, user units, git hooks).
    #[default]
    Host,
    /// The caller's own, read-only.
    ReadOnly,
    /// Empty, private, gone at the end.
    Temporary,
}

/// `--tmp` and `--share-tmp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TmpView {
    /// The host's files can be read; writes and sockets stay inside.
    #[default]
    ReadThrough,
    /// Empty and private.
    Empty,
    /// The host's own.
    Shared,
}

/// `--proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcView {
    /// A fresh one of the jail's own processes.
    #[default]
    Fresh,
    /// The outer one, where a container covers parts of it: shows the processes outside.
    HostMasked,
}

/// Who the caller is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// User id, the same outside and inside.
    pub uid: u32,
    /// Group id, the same outside and inside.
    pub gid: u32,
    /// The name, for a passwd line where /etc/passwd has none (LDAP, sssd, homed).
    pub name: String,
    /// The login shell, for the same line.
    pub shell: PathBuf,
    /// The home folder, absolute.
    pub home: PathBuf,
}

/// Everything that [`super::build`] has to know. Paths are absolute; symbolic links in them are resolved by `build`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Who asked for the jail.
    pub caller: Caller,
    /// The working folder, which stays the real one.
    pub cwd: PathBuf,
    /// The file that will be executed, so that it stays runnable where its folder is hidden.
    pub command: Option<PathBuf>,
    /// Resolver, host name, machine id.
    pub identity: Identity,
    /// Folders that hold netjail's state, run files and log: empty in the jail, made if they do not exist.
    pub masked_folders: Vec<PathBuf>,
    /// Files that the registry reads secrets from; the folder of each is masked.
    pub secret_files: Vec<PathBuf>,
    /// The log that is being written: neither read nor changed by the jail that it is about.
    pub log_file: Option<PathBuf>,
    /// `--allow-socket` and `allow_sockets`: shown where they are, and no other socket can be moved or linked to one of these
    /// names from another folder.
    pub sockets: Vec<PathBuf>,
    /// What /dev/log leads to.
    pub log_socket: Option<PathBuf>,
    /// Where XDG_RUNTIME_DIR leads in the jail: made private if it lies below /run.
    pub runtime_folder: Option<PathBuf>,
    /// Small files below /run that only the caller can read, with their text.
    pub session_files: Vec<(PathBuf, Vec<u8>)>,
    /// What home is.
    pub home: HomeView,
    /// `--ro PATH`.
    pub read_only: Vec<PathBuf>,
    /// `--rw PATH`.
    pub read_write: Vec<PathBuf>,
    /// What /tmp and /var/tmp are.
    pub tmp: TmpView,
    /// What /proc is.
    pub proc: ProcView,
    /// `--allow-netfs`.
    pub allow_netfs: bool,
    /// `--allow-nested-sandbox`: nothing is mounted over files of /proc.
    pub nested_sandbox: bool,
    /// The payload is host uid 0: the file system is read-only but for the working folder, /tmp and `--rw`.
    pub started_as_root: bool,
}

impl Plan {
    /// The plan with every option at its default: no masks, files as they are.
    pub fn new(caller: Caller, cwd: PathBuf, identity: Identity) -> Self {
        let started_as_root = caller.uid == 0;
        Self {
            caller,
            cwd,
            command: None,
            identity,
            masked_folders: Vec::new(),
            secret_files: Vec::new(),
            log_file: None,
            sockets: Vec::new(),
            log_socket: None,
            runtime_folder: None,
            session_files: Vec::new(),
            home: HomeView::default(),
            read_only: Vec::new(),
            read_write: Vec::new(),
            tmp: TmpView::default(),
            proc: ProcView::default(),
            allow_netfs: false,
            nested_sandbox: false,
            started_as_root,
        }
    }
}

/// Something that the person who started the jail should know, though nothing failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// An overlay was refused; the path has a plainer private view.
    NoOverlay {
        /// Which path.
        path: PathBuf,
        /// What it is instead.
        instead: String,
    },
    /// The working folder is one of netjail's own views, so what is written there does not last.
    PrivateWorkingFolder {
        /// The working folder.
        path: PathBuf,
    },
    /// Root's working folder is, or lies above, a system folder.
    ReadOnlyWorkingFolder {
        /// The working folder.
        path: PathBuf,
    },
    /// A network file system is left out.
    LeftOut {
        /// Where it is mounted outside.
        path: PathBuf,
        /// Its type.
        kind: String,
    },
    /// An allowed socket is not there, and lies where the jail sees nothing of what is made later.
    NoSocket {
        /// Which.
        path: PathBuf,
    },
    /// A part of /sys is not there.
    NoSys {
        /// Which.
        path: PathBuf,
    },
    /// The source of a mount (a volume group is often called after its host) shows the host's name in mountinfo.
    HostNameInMounts {
        /// The source.
        source: String,
    },
}

/// All notes of one build, in order.
pub type Notes = Vec<Note>;

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoOverlay { path, instead } => {
                write!(f, "{} can't be an overlay on this kernel; it is {instead}", path.display())
            }
            Self::PrivateWorkingFolder { path } => write!(
                f,
                "the working folder {} is private to the jail and what is written there is gone at its end; start from a folder below it, or use --share-tmp for /tmp",
                path.display()
            ),
            Self::ReadOnlyWorkingFolder { path } => write!(
                f,
                "the working folder {} is a system folder or lies above one, so it is read-only for root; use another folder, --rw PATH or --user NAME",
                path.display()
            ),
            Self::LeftOut { path, kind } => {
                write!(f, "{} ({kind}) is not in the jail; --allow-netfs shows it", path.display())
            }
            Self::NoSocket { path } => write!(
                f,
                "the allowed socket {} is not there, and the jail will not see it when it comes; start its server first",
                path.display()
            ),
            Self::NoSys { path } => {
                write!(f, "{} is not in the jail: the kernel refused a fresh sysfs", path.display())
            }
            Self::HostNameInMounts { source } => write!(
                f,
                "the mount source {source} carries this host's name, and a jail can read it in /proc/self/mountinfo; rename the volume group or label"
            ),
        }
    }
}
