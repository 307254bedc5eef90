//! Folders that hold keys: netjail's own state and run files, and the folders of the registry's secret files. And the log.
//!
//! A mask is an empty read-only folder mounted over one of the host's. A payload that may rename a folder above it would take
//! the mask away with it, so every such ancestor becomes a mount point of its own: rename(2) answers EBUSY for those. The
//! ancestors that lie in a folder the caller can't change need nothing. The same file system may be mounted twice; every path
//! that leads to the folder is masked.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::{Context, MountError, Stage};
use super::view::{EMPTY_FILE, EMPTY_FOLDER, VIEWS, View};

/// Puts all masks on.
pub fn build(view: &mut View<'_>) -> Result<(), MountError> {
    let plan = view.plan;
    let mut folders = Vec::new();
    for folder in &plan.masked_folders {
        if let Some(real) = existing(folder)? {
            folders.push(real);
        }
    }
    for folder in &folders {
        if view.cwd.starts_with(folder) {
            return Err(MountError::KeysInWorkingFolder { path: folder.clone() });
        }
    }
    for secret in &plan.secret_files {
        let Ok(real) = secret.canonicalize() else { continue };
        if let Some(folder) = secret_folder(view, &real, &folders)? {
            folders.push(folder);
        }
    }
    folders.sort_by_key(|f| f.components().count());
    let mut done: Vec<PathBuf> = Vec::new();
    for folder in &folders {
        for path in view.table.aliases(folder) {
            let is_shown = fs::symlink_metadata(View::inside(&path)).is_ok_and(|m| m.is_dir());
            if is_shown && !done.iter().any(|d| path.starts_with(d)) {
                pin_ancestors(view, &path)?;
                view.bind(Stage::Masks, EMPTY_FOLDER, &path, 0)?; // a copy of a read-only mount
                done.push(path);
            }
        }
    }
    // The name of an allowed socket stands for whatever is bound there, for its server may be started again; that takes the
    // mount over it off. On a mount of its own the folder takes no link and no rename from another one (EXDEV).
    for socket in &plan.sockets {
        if let Ok(real) = socket.canonicalize() {
            pin_ancestors(view, &real)?;
        }
    }
    match plan.log_file.as_ref().and_then(|log| log.canonicalize().ok()) {
        Some(log) => cover_log(view, &log, &done),
        None => Ok(()),
    }
}

/// Covers the log with an empty file: it may lie in the working folder, and what was forged or cut off there would be
/// believed. The jail can not take that off. Somebody outside can, by renaming the log away while the jail runs; whoever
/// does that names a log in a folder that the jail can not write.
fn cover_log(view: &mut View<'_>, log: &Path, masked: &[PathBuf]) -> Result<(), MountError> {
    for path in view.table.aliases(log) {
        let is_shown = fs::symlink_metadata(View::inside(&path)).is_ok_and(|m| m.is_file());
        if is_shown && !masked.iter().any(|m| path.starts_with(m)) {
            pin_ancestors(view, &path)?;
            view.bind(Stage::Masks, EMPTY_FILE, &path, 0)?; // a copy of a read-only mount
        }
    }
    Ok(())
}

/// The folder without symbolic links, made first where it does not exist: a payload must not be the one who makes it. None
/// where the caller can't make it, so that the payload can't either.
fn existing(folder: &Path) -> Result<Option<PathBuf>, MountError> {
    if let Ok(real) = folder.canonicalize() {
        return Ok(Some(real));
    }
    if !folder.exists() && DirBuilder::new().recursive(true).mode(0o700).create(folder).is_err() {
        return Ok(None);
    }
    folder.canonicalize().map(Some).at(Stage::Masks, "finding", folder)
}

/// Which folder has to be masked for a secret's file; none where the file is not shown anyway.
fn secret_folder(view: &View<'_>, file: &Path, masked: &[PathBuf]) -> Result<Option<PathBuf>, MountError> {
    let Some(folder) = file.parent() else { return Ok(None) };
    if masked.iter().any(|m| file.starts_with(m)) || fs::symlink_metadata(View::inside(file)).is_err() {
        return Ok(None);
    }
    let needed = [Some(&view.cwd), view.home.as_ref(), view.command.as_ref()];
    let is_needed = needed.into_iter().flatten().any(|path| path.starts_with(folder));
    if is_needed || VIEWS.iter().any(|v| Path::new(v).starts_with(folder)) || super::folders::is_system(folder) {
        return Err(MountError::SecretInOpenFolder { path: file.to_owned(), folder: folder.to_owned() });
    }
    Ok(Some(folder.to_owned()))
}

fn pin_ancestors(view: &mut View<'_>, path: &Path) -> Result<(), MountError> {
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).filter(|a| a.parent().is_some()).collect();
    ancestors.reverse();
    for ancestor in ancestors {
        let can_be_renamed = ancestor.parent().is_some_and(|parent| view.caller_writes(parent));
        if can_be_renamed && !view.is_mount_point(ancestor) {
            view.bind(Stage::Masks, View::inside(ancestor), ancestor, 0)?;
        }
    }
    Ok(())
}
