//! Which unix sockets of the host a jail may connect to: those of the command line and those of its network's entry.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

use crate::control::messages::Refusal;
use crate::jail::mounts::{TmpView, is_own_view};
use crate::jail::seccomp::Sockets;
use crate::mediate::ToMediator;
use crate::registry::{Network, escape_path, trust};
use crate::roles::RunOptions;

/// All of them; absolute. `--sockets none` closes those of the registry too.
pub fn opened(options: &RunOptions, network: &Network) -> Result<Vec<PathBuf>, Refusal> {
    if options.filter.sockets == Sockets::None {
        return Ok(Vec::new());
    }
    let flags = options.allow_sockets.iter().map(|path| (path, "--allow-socket".to_owned()));
    let session = options.session.sockets.iter().map(|path| (path, "--allow".to_owned()));
    let entry = network.allow_sockets.iter().map(|path| (path, format!("allow_sockets of {}", network.id)));
    let mut all = Vec::new();
    for (path, origin) in flags.chain(session).chain(entry) {
        if let Some(why) = unfit(path) {
            return Err(Refusal(format!("{origin}: {} {why}", escape_path(path))));
        }
        all.push(path.clone());
    }
    Ok(all)
}

/// Why a path can not be allowed. A server that is not up yet has no socket; its folder must be there.
fn unfit(path: &Path) -> Option<&'static str> {
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() || found.is_dir() => None,
        Ok(_) => Some("is neither a socket nor a folder of sockets"),
        Err(_) if path.parent().is_some_and(Path::is_dir) => None,
        Err(_) => {
            Some("is not there, nor is its folder; name a socket, or the folder in which its server will make it")
        }
    }
}

/// What the mediator has to be told of one of them.
pub fn allow(path: &Path, options: &RunOptions) -> ToMediator {
    // The mediator's cage has no call left that could walk a path with links or dots in it.
    let real = trust::where_it_leads(path);
    let only_this = jail_writes(real.parent().unwrap_or(Path::new("/")), options);
    ToMediator::AllowPath { path: real.into_os_string().into_vec(), only_this }
}

/// Whether the jail may be able to rename a file in this folder. Where in doubt it is.
fn jail_writes(folder: &Path, options: &RunOptions) -> bool {
    let shared = options.view.tmp == TmpView::Shared && folder.starts_with("/tmp");
    if is_own_view(folder) && !shared && !is_shown(folder, options) {
        return false;
    }
    if geteuid().is_root() {
        return shared || is_shown(folder, options);
    }
    let owned = fs::metadata(folder).is_ok_and(|found| found.uid() == geteuid().as_raw() || found.mode() & 0o022 != 0);
    owned || access(folder, AccessFlags::W_OK).is_ok()
}

/// Whether it is the real folder in the jail for being, or lying below, one that is bound there.
fn is_shown(folder: &Path, options: &RunOptions) -> bool {
    let cwd = std::env::current_dir().and_then(|cwd| cwd.canonicalize()).ok();
    let rw = options.view.read_write.iter().filter_map(|path| path.canonicalize().ok());
    rw.chain(cwd).any(|open| folder.starts_with(&open))
}
