//! /tmp and /var/tmp: the host's files can be read, what the jail writes stays in the jail.
//!
//! A writable shared /tmp would let a payload set up a fake tmux or ssh-agent socket for the caller's own programs to find. An
//! overlay with a private upper layer keeps files readable; the kernel never connects to a socket of its lower layer, so the
//! host's sockets are dead names.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::calls::{NO_DEV, NO_SUID};
use super::error::{MountError, Stage};
use super::plan::{Note, TmpView};
use super::view::View;

const FOLDERS: [(&str, &str, &str); 2] = [("/tmp", "tmp", "tmp-work"), ("/var/tmp", "vartmp", "vartmp-work")];

/// Folders of sockets that programs make where they are not there. The host's would be in their way: another's folder, with
/// dead names that only their owner may remove.
const SOCKET_FOLDERS: [&str; 2] = [".X11-unix", ".ICE-unix"];

/// Builds both.
pub fn build(view: &mut View<'_>) -> Result<(), MountError> {
    for (path, upper, work) in FOLDERS {
        // A link (to /tmp, or into /private) leads to a folder that has its own view or none: only a real folder counts.
        if Path::new(path).canonicalize().is_ok_and(|real| real == Path::new(path)) {
            folder(view, path, upper, work)?;
        }
    }
    Ok(())
}

fn folder(view: &mut View<'_>, path: &str, upper: &str, work: &str) -> Result<(), MountError> {
    let tmp = view.plan.tmp;
    if tmp == TmpView::Shared && path == "/tmp" {
        return Ok(());
    }
    view.folder(Stage::Tmp, upper, 0o1777)?;
    if tmp == TmpView::ReadThrough {
        for secret in &view.plan.secret_files {
            if let Ok(real) = secret.canonicalize()
                && real.parent() == Some(Path::new(path))
                && let Some(name) = real.file_name()
            {
                view.whiteout(Stage::Tmp, Path::new(upper).join(name))?;
            }
        }
        for name in SOCKET_FOLDERS {
            let folder = Path::new(path).join(name);
            if folder.exists() && !view.plan.sockets.iter().any(|socket| socket.starts_with(&folder)) {
                view.whiteout(Stage::Tmp, Path::new(upper).join(name))?;
            }
        }
        view.folder(Stage::Tmp, work, 0o700)?;
        let options = format!("userxattr,lowerdir={path},upperdir={upper},workdir={work}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let target = View::inside(Path::new(path));
        match mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str())) {
            Ok(()) => return Ok(()),
            Err(_) => view.note(Note::NoOverlay { path: path.into(), instead: "empty and private".into() }),
        }
    }
    view.bind(Stage::Tmp, upper, path, NO_SUID | NO_DEV).map_err(|error| match error {
        MountError::Call { stage, what, path, errno, .. } => {
            let remedy = "start with --share-tmp, which accepts the host's own /tmp";
            MountError::Call { stage, what, path, errno, remedy }
        }
        other => other,
    })
}
