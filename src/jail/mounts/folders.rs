//! The caller's own folders: home, the working folder, `--ro`, `--rw`, and the command's file.
//!
//! All of them are binds on top of the host's tree, parents before children, so that the deepest path decides. Those that lie
//! below a view of netjail's own (the working folder in /tmp) are bound after that view, all others before it: `--rw /var`
//! must not bring the host's /var/log back.

use std::fs;
use std::path::{Path, PathBuf};

use super::calls::{NO_DEV, NO_SUID, READ_ONLY};
use super::error::{Context, MountError, Stage};
use super::plan::{HomeView, Note, TmpView};
use super::system::HIDDEN_BELOW_VAR;
use super::view::{VIEWS, View};

/// Folders that are the system's: root's payload can't write them, even as its working folder, nor what lies above them.
const SYSTEM: [&str; 29] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/opt",
    "/proc",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/usr",
    "/usr/local",
    "/usr/src",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/mail",
    "/var/spool",
    "/usr/local/src",
    "/mnt",
    "/media",
];

/// Folders below which all is the system's as well.
const SYSTEM_TREES: [&str; 26] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/proc",
    "/run/dbus",
    "/run/systemd",
    "/run/udev",
    "/sbin",
    "/sys",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/sbin",
    "/usr/share",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/var/spool",
];

/// Whether `path` is, lies above, or lies deep in what belongs to the system.
pub fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|s| Path::new(s).starts_with(path)) || SYSTEM_TREES.iter().any(|s| path.starts_with(s))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// An empty folder of the jail's own.
    Empty,
}

/// What is to be bound, parents first.
pub struct Folders {
    list: Vec<(PathBuf, Access)>,
    /// Allowed sockets that could not be shown.
    lacking: Vec<PathBuf>,
}

impl Folders {
    /// Reads the plan. Notes for the caller are left in the view by the bind steps.
    pub fn new(view: &View<'_>) -> Result<Self, MountError> {
        let plan = view.plan;
        let mut list = Vec::new();
        if let Some(home) = &view.home {
            let below = strictly_below_view(home);
            match plan.home {
                HomeView::Temporary => list.push((home.clone(), Access::Empty)),
                HomeView::ReadOnly => list.push((home.clone(), Access::Read)),
                HomeView::Host if below && !plan.started_as_root && view.caller_writes(home) => {
                    list.push((home.clone(), Access::Write));
                }
                HomeView::Host => {}
            }
        }
        let mut asked = Vec::new();
        for (paths, access, flag) in
            [(&plan.read_only, Access::Read, "--ro"), (&plan.read_write, Access::Write, "--rw")]
        {
            for path in paths {
                // Named as it is first: the scratch space lies over /proc by now.
                let real = if is_forbidden(path) {
                    path.clone()
                } else {
                    path.canonicalize().at(Stage::Folders, "finding", path)?
                };
                if is_forbidden(&real) {
                    return Err(MountError::NotToBeShown { flag, path: real });
                }
                asked.push((real, access));
            }
        }
        if let Some(access) = cwd_access(view, &asked) {
            list.push((view.cwd.clone(), access));
        }
        let mut lacking = Vec::new();
        for socket in &plan.sockets {
            let real = if is_forbidden(socket) { Some(socket.clone()) } else { socket.canonicalize().ok() };
            match real {
                Some(path) if is_forbidden(&path) => {
                    return Err(MountError::NotToBeShown { flag: "--allow-socket", path });
                }
                Some(path) => list.push((path.clone(), socket_access(view, &asked, &path))),
                None if strictly_below_view(socket) => lacking.push(socket.clone()),
                None => {} // it shows up where it is
            }
        }
        list.extend(asked);
        list.sort_by_key(|(path, _)| path.components().count());
        Ok(Self { list, lacking })
    }

    /// Binds what lies outside netjail's own views.
    pub fn bind_outside_views(&self, view: &mut View<'_>) -> Result<(), MountError> {
        for (path, access) in self.list.iter().filter(|(path, _)| !strictly_below_view(path)) {
            bind(view, path, *access)?;
        }
        Ok(())
    }

    /// Binds what lies below one of them, and the command where its folder is hidden by now.
    pub fn bind_inside_views(&self, view: &mut View<'_>) -> Result<(), MountError> {
        for (path, access) in self.list.iter().filter(|(path, _)| strictly_below_view(path)) {
            bind(view, path, *access)?;
        }
        for path in &self.lacking {
            view.note(Note::NoSocket { path: path.clone() });
        }
        let private = view.replaces(&view.cwd) && view.plan.home != HomeView::Temporary;
        if private {
            view.note(Note::PrivateWorkingFolder { path: view.cwd.clone() });
        }
        if view.plan.started_as_root && is_system(&view.cwd) && !private {
            view.note(Note::ReadOnlyWorkingFolder { path: view.cwd.clone() });
        }
        let Some(command) = view.command.clone() else { return Ok(()) };
        if fs::symlink_metadata(View::inside(&command)).is_err() {
            bind(view, &command, Access::Read)?;
        }
        Ok(())
    }
}

/// How the working folder has to be bound, or none where the host's tree shows it already.
fn cwd_access(view: &View<'_>, asked: &[(PathBuf, Access)]) -> Option<Access> {
    let (plan, cwd) = (view.plan, &view.cwd);
    let deepest = asked.iter().filter(|(p, _)| cwd.starts_with(p)).max_by_key(|(p, _)| p.components().count());
    if view.replaces(cwd) || deepest.is_some_and(|(p, _)| p == cwd) || cwd == Path::new("/") {
        return None;
    }
    if plan.started_as_root && is_system(cwd) {
        return None;
    }
    // Views of /etc, /dev, /sys and /proc have no private folders below them to bind into.
    if ["/etc", "/dev", "/sys", "/proc"].iter().any(|v| cwd.starts_with(v)) {
        return None;
    }
    if let Some((_, access)) = deepest {
        return Some(*access);
    }
    let home = view.home.as_ref().filter(|_| plan.home != HomeView::Host);
    if home == Some(cwd) {
        return None; // --home says what it is
    }
    let hidden = strictly_below_view(cwd) || home.is_some_and(|h| cwd.starts_with(h)) || cwd.starts_with("/boot");
    (hidden || plan.started_as_root).then_some(Access::Write)
}

/// How an allowed socket, or a folder of them, is bound: connecting needs no more than to see it, so the bind opens nothing
/// for writing that would not be open anyway.
fn socket_access(view: &View<'_>, asked: &[(PathBuf, Access)], path: &Path) -> Access {
    let deepest = asked.iter().filter(|(p, _)| path.starts_with(p)).max_by_key(|(p, _)| p.components().count());
    if let Some((_, access)) = deepest {
        return *access;
    }
    let root = view.plan.started_as_root;
    if path.starts_with(&view.cwd) && !view.replaces(&view.cwd) && !(root && is_system(&view.cwd)) {
        return Access::Write;
    }
    let hidden_home = view.plan.home != HomeView::Host && view.home.as_ref().is_some_and(|home| path.starts_with(home));
    if root || hidden_home || strictly_below_view(path) { Access::Read } else { Access::Write }
}

fn bind(view: &mut View<'_>, path: &Path, access: Access) -> Result<(), MountError> {
    let target = View::inside(path);
    if access == Access::Empty {
        view.folder(Stage::Folders, "home", 0o700)?;
        view.folders(Stage::Folders, &target)?;
        return view.bind(Stage::Folders, "home", path, 0);
    }
    if view.plan.tmp == TmpView::Shared && path == Path::new("/tmp") {
        return Ok(());
    }
    if let Some(error) = unwanted(view, path) {
        return Err(error);
    }
    view.mount_point(Stage::Folders, path, &target)?;
    let writes = if access == Access::Read { READ_ONLY } else { 0 };
    view.bind(Stage::Folders, path, path, writes | NO_SUID | NO_DEV)
}

fn unwanted(view: &View<'_>, path: &Path) -> Option<MountError> {
    let allow = view.plan.allow_netfs;
    if let Some(mount) = view.table.containing(path).filter(|m| !allow && m.is_foreign()) {
        let (mount, kind) = (mount.point.clone(), mount.kind.clone());
        return Some(MountError::NetworkFilesystem { role: "the folder", path: path.to_owned(), mount, kind });
    }
    view.table.unwanted_below(path, allow).next().map(|mount| MountError::below(path, mount))
}

/// Whether the path lies below, and is not itself, a folder that netjail makes a view of.
fn strictly_below_view(path: &Path) -> bool {
    VIEWS.iter().chain(&HIDDEN_BELOW_VAR).any(|v| path.starts_with(v) && path != Path::new(v))
}

/// What no flag shows: /dev would bring the TUN device, /proc and /sys the host's, /etc and /run its name and its sockets.
fn is_forbidden(path: &Path) -> bool {
    path == Path::new("/")
        || ["/etc", "/run"].iter().any(|v| path == Path::new(v))
        || ["/dev", "/sys", "/proc"].iter().any(|v| path.starts_with(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_folders_and_what_lies_above_them_are_told_from_data() {
        for system in
            ["/", "/usr", "/etc", "/etc/cron.d", "/var", "/var/lib", "/usr/bin", "/var/spool/cron", "/home", "/run"]
        {
            assert!(is_system(Path::new(system)), "{system}");
        }
        for data in [
            "/root",
            "/root/x",
            "/home/a",
            "/srv/www",
            "/var/lib/app",
            "/opt/app",
            "/usr/local/src/x",
            "/tmp/x",
            "/data",
        ] {
            assert!(!is_system(Path::new(data)), "{data}");
        }
    }
}
