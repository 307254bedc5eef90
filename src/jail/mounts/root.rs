//! The new root's own level: the host's top-level folders, bound one by one, and its links.
//!
//! A folder with a network file system, or a proc of some chroot, below it can't be bound as it is: mounts from outside are locked together in a
//! user namespace (mount_namespaces(7)), so the foreign one can be neither taken off nor left out. Such a folder is taken
//! apart instead: a folder of the new root's own, into which everything but the foreign mount is bound. That only works where
//! the caller could not make new files anyway.

use std::fs::{self, FileType};
use std::path::{Path, PathBuf};

use super::calls::READ_ONLY;
use super::error::{Context, MountError, Stage};
use super::plan::{HomeView, Note};
use super::view::View;

/// Top-level names that are not shown: /boot and /efi hold the kernel's command line.
const LEFT_OUT: [&str; 3] = ["/boot", "/efi", "/lost+found"];

/// Fills the new root.
pub fn build(view: &mut View<'_>) -> Result<(), MountError> {
    for (path, kind) in entries(Path::new("/"))? {
        if LEFT_OUT.iter().any(|l| path == Path::new(l)) {
            continue;
        }
        if kind.is_dir() || kind.is_symlink() {
            place(view, &path, kind)?;
        }
    }
    Ok(())
}

fn place(view: &mut View<'_>, path: &Path, kind: FileType) -> Result<(), MountError> {
    let target = View::inside(path);
    if kind.is_symlink() {
        let to = fs::read_link(path).at(Stage::Root, "reading the link", path)?;
        return std::os::unix::fs::symlink(&to, &target).at(Stage::Root, "making the link", path);
    }
    if kind.is_dir() {
        view.folder(Stage::Root, &target, 0o755)?;
        return if view.replaces(path) { Ok(()) } else { expose(view, path) };
    }
    if kind.is_file() {
        view.file(Stage::Root, &target, "")?;
        return bind(view, path);
    }
    Ok(()) // sockets, pipes and devices of a folder that was taken apart are of no use to a jail
}

fn expose(view: &mut View<'_>, path: &Path) -> Result<(), MountError> {
    let allow = view.plan.allow_netfs;
    let Some(unwanted) = view.table.unwanted_below(path, allow).next().cloned() else { return bind(view, path) };
    if view.table.unwanted_below(path, allow).any(|m| m.point == path) {
        view.note(Note::LeftOut { path: path.to_owned(), kind: unwanted.kind });
        return Ok(());
    }
    let read_only_home =
        view.plan.home == HomeView::ReadOnly && view.home.as_ref().is_some_and(|home| path.starts_with(home));
    if !view.plan.started_as_root && !read_only_home && view.caller_writes(path) {
        return Err(MountError::below(path, &unwanted));
    }
    // A folder that the caller can't list holds nothing that the caller could name.
    for (entry, kind) in entries(path).unwrap_or_default() {
        place(view, &entry, kind)?;
    }
    Ok(())
}

fn bind(view: &mut View<'_>, path: &Path) -> Result<(), MountError> {
    let shared = path == Path::new("/tmp"); // bound at all only with --share-tmp
    let attributes = if view.plan.started_as_root && !shared { READ_ONLY } else { 0 };
    view.bind(Stage::Root, path, path, attributes)
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, FileType)>, MountError> {
    let list = || -> std::io::Result<Vec<(PathBuf, FileType)>> {
        fs::read_dir(folder)?.map(|entry| entry.and_then(|e| Ok((e.path(), e.file_type()?)))).collect()
    };
    list().at(Stage::Root, "listing", folder)
}
