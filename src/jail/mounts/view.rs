//! The half-built view: the scratch tmpfs, what has been attached so far, and the last step that makes it the root.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::unistd::{AccessFlags, access, chdir, fchdir, pivot_root};

use super::calls::{self, Attributes, NO_DEV, NO_SUID, READ_ONLY, Reach};
use super::error::{Context, MountError, Stage};
use super::plan::{HomeView, Note, Notes, Plan, ProcView, TmpView};
use super::table::Table;

/// Host folders that are never shown as they are.
pub const VIEWS: [&str; 8] = ["/etc", "/run", "/dev", "/sys", "/proc", "/var/log", "/tmp", "/var/tmp"];

/// An empty folder on the scratch tmpfs, bound wherever something is to be empty.
pub const EMPTY_FOLDER: &str = "masks/empty";
/// An empty file on the scratch tmpfs.
pub const EMPTY_FILE: &str = "masks/empty-file";
/// A file with the jail's own boot id.
pub const BOOT_ID: &str = "masks/boot-id";

/// A character device 0:0, which is what overlay(5) calls a whiteout.
const WHITEOUT: &str = "whiteout";

/// The view while it is built.
pub struct View<'a> {
    /// What it is to become.
    pub plan: &'a Plan,
    /// The working folder without symbolic links.
    pub cwd: PathBuf,
    /// The home folder without symbolic links; none where it does not exist or is `/`.
    pub home: Option<PathBuf>,
    /// The command's file without symbolic links.
    pub command: Option<PathBuf>,
    /// The mounts outside.
    pub table: Table,
    /// What the caller should know.
    pub notes: Notes,
    /// The outer /proc, kept only for `--proc host-masked`.
    pub outer_proc: Option<OwnedFd>,
    points: HashSet<PathBuf>,
    close_for_writes: Vec<OwnedFd>,
    old_mask: Mode,
    host_name: String,
}

/// What the jail can't do without must not lie where somebody outside answers.
fn refuse_foreign(
    table: &Table,
    plan: &Plan,
    cwd: &Path,
    home: Option<&Path>,
    command: Option<&Path>,
) -> Result<(), MountError> {
    if plan.allow_netfs {
        return Ok(());
    }
    let home = home.filter(|_| plan.home != HomeView::Temporary);
    for (role, path) in [("the working folder", Some(cwd)), ("the home folder", home), ("the command", command)] {
        let Some(path) = path else { continue };
        if let Some(mount) = table.containing(path).filter(|m| m.is_foreign()) {
            let (mount, kind) = (mount.point.clone(), mount.kind.clone());
            return Err(MountError::NetworkFilesystem { role, path: path.to_owned(), mount, kind });
        }
    }
    Ok(())
}

/// The sources that name the host and that a jail sees (a clone keeps the source of the mount it was made from): local file
/// systems, since others are left out or are netjail's own.
fn named_sources<'t>(table: &'t Table, host_name: &str) -> impl Iterator<Item = String> + 't {
    // device-mapper doubles the hyphens of a volume group's name. Short or general names would match by chance.
    let name = host_name.split('.').next().unwrap_or_default().replace('-', "--");
    let telling = name.len() >= 4 && !["localhost", "debian", "ubuntu", "fedora", "host"].contains(&name.as_str());
    let shown = |point: &Path| !VIEWS.iter().any(|v| point.starts_with(v)) && !point.starts_with("/boot");
    table
        .mounts()
        .iter()
        .filter(move |m| telling && m.source.contains(&name) && shown(&m.point) && !m.is_foreign())
        .map(|m| m.source.clone())
}

/// What was done, or nothing where `may_lack` is not there. That is looked for only after a failure: mostly it is there.
pub fn if_there(done: Result<(), MountError>, may_lack: impl AsRef<Path>) -> Result<(), MountError> {
    match done {
        Err(MountError::Call { errno: Errno::ENOENT, .. }) if fs::symlink_metadata(may_lack).is_err() => Ok(()),
        done => done,
    }
}

impl<'a> View<'a> {
    /// Closes propagation, reads the outer table, and moves into a fresh scratch tmpfs.
    pub fn begin(plan: &'a Plan) -> Result<Self, MountError> {
        if plan.nested_sandbox && plan.started_as_root {
            return Err(MountError::NestedSandboxAsRoot);
        }
        let old_mask = umask(Mode::empty());
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).at(
            Stage::Scratch,
            "closing the propagation of",
            "/",
        )?;
        let table = Table::read().at(Stage::Scratch, "reading", "/proc/self/mountinfo")?;
        // Before anything looks at these paths: a server that has gone would let that hang.
        refuse_foreign(&table, plan, &plan.cwd, Some(&plan.caller.home), plan.command.as_deref())?;
        let cwd = plan.cwd.canonicalize().at(Stage::Folders, "finding the working folder", &plan.cwd)?;
        let home = plan.caller.home.canonicalize().ok().filter(|h| h != Path::new("/"));
        let command = plan.command.as_ref().and_then(|c| c.canonicalize().ok());
        let mut view = Self {
            plan,
            cwd,
            home,
            command,
            table,
            notes: Vec::new(),
            outer_proc: None,
            points: HashSet::new(),
            close_for_writes: Vec::new(),
            old_mask,
            host_name: fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned(),
        };
        refuse_foreign(&view.table, plan, &view.cwd, view.home.as_deref(), view.command.as_deref())?;
        if plan.proc == ProcView::HostMasked {
            let proc = Path::new("/proc");
            view.outer_proc = Some(calls::clone_tree(proc).at(Stage::Proc, "taking", proc)?);
        }
        // The scratch space covers the outer /proc, which nothing needs from here on; it goes with the old root.
        let scratch = calls::new_tmpfs(NO_SUID | NO_DEV).at(Stage::Scratch, "making", "tmpfs")?;
        calls::attach(&scratch, Path::new("/proc")).at(Stage::Scratch, "mounting a tmpfs on", "/proc")?;
        fchdir(&scratch).at(Stage::Scratch, "entering", "tmpfs")?;
        view.folder(Stage::Scratch, "root", 0o755)?;
        view.folder(Stage::Scratch, "masks", 0o755)?;
        view.folder(Stage::Scratch, EMPTY_FOLDER, 0o555)?;
        view.file(Stage::Scratch, EMPTY_FILE, "")?;
        view.file(Stage::Scratch, BOOT_ID, format!("{}\n", plan.identity.boot_id))?;
        // Read-only once; what is bound from here is a copy of this mount, and read-only as well.
        let masks = calls::clone_tree(Path::new("masks")).at(Stage::Scratch, "taking", "masks")?;
        calls::set_attributes(&masks, READ_ONLY, Reach::Mount).at(Stage::Scratch, "closing", "masks")?;
        calls::attach(&masks, Path::new("masks")).at(Stage::Scratch, "mounting", "masks")?;
        mknod(WHITEOUT, SFlag::S_IFCHR, Mode::empty(), 0).at(Stage::Scratch, "making", WHITEOUT)?;
        let root = calls::clone_tree(Path::new("root")).at(Stage::Root, "taking", "root")?;
        calls::attach(&root, Path::new("root")).at(Stage::Root, "mounting", "root")?;
        view.close_for_writes.push(root);
        Ok(view)
    }

    /// Where a host path lies in the new root, as a path relative to the scratch space.
    pub fn inside(path: &Path) -> PathBuf {
        let mut inside = PathBuf::from("root");
        inside.extend(path.components().filter(|c| matches!(c, Component::Normal(_))));
        inside
    }

    /// Whether the view replaces exactly this host folder, so that nothing of the host's own has to be bound there.
    pub fn replaces(&self, path: &Path) -> bool {
        let shared = path == Path::new("/tmp") && self.plan.tmp == TmpView::Shared;
        let temporary_home = self.plan.home == HomeView::Temporary && self.home.as_deref() == Some(path);
        temporary_home || !shared && VIEWS.iter().any(|v| path == Path::new(v))
    }

    /// Whether the caller may change what lies in this host folder. Superset: an owner may give the right to itself.
    pub fn caller_writes(&self, folder: &Path) -> bool {
        fs::symlink_metadata(folder).is_ok_and(|m| m.uid() == self.plan.caller.uid || m.mode() & 0o022 != 0)
            || access(folder, AccessFlags::W_OK).is_ok()
    }

    /// Makes a folder on the scratch space (or in the new root), with this mode.
    pub fn folder(&self, stage: Stage, path: impl AsRef<Path>, mode: u32) -> Result<(), MountError> {
        let path = path.as_ref();
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.at(stage, "making the folder", path),
        }
    }

    /// Makes a folder and all that lead to it.
    pub fn folders(&self, stage: Stage, path: impl AsRef<Path>) -> Result<(), MountError> {
        let path = path.as_ref();
        DirBuilder::new().recursive(true).mode(0o755).create(path).at(stage, "making the folder", path)
    }

    /// Writes a file that everybody can read.
    pub fn file(&self, stage: Stage, path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<(), MountError> {
        let path = path.as_ref();
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
            io::Write::write_all(&mut file, text.as_ref())
        };
        write().at(stage, "writing", path)
    }

    /// Makes an overlay whiteout: the name is absent, whatever the layers below hold.
    pub fn whiteout(&self, stage: Stage, path: impl AsRef<Path>) -> Result<(), MountError> {
        let path = path.as_ref();
        // Links to one whiteout cost a third of as many nodes; overlayfs shares its own in the same way.
        fs::hard_link(WHITEOUT, path).at(stage, "hiding", path)
    }

    /// Makes `path` (in the new root) exist as something that a mount of `source`'s kind fits on.
    pub fn mount_point(&self, stage: Stage, source: &Path, path: &Path) -> Result<(), MountError> {
        if fs::symlink_metadata(path).is_ok() {
            return Ok(());
        }
        if fs::metadata(source).at(stage, "looking at", source)?.is_dir() {
            return self.folders(stage, path);
        }
        if let Some(parent) = path.parent() {
            self.folders(stage, parent)?;
        }
        self.file(stage, path, "")
    }

    /// Binds `source` (absolute: the host's; relative: the scratch space's) with all mounts below it at the host path
    /// `target` of the new root.
    pub fn bind(
        &mut self,
        stage: Stage,
        source: impl AsRef<Path>,
        target: impl AsRef<Path>,
        attributes: Attributes,
    ) -> Result<(), MountError> {
        let (source, target) = (source.as_ref(), target.as_ref());
        let tree = calls::clone_tree(source).at(stage, "taking", source)?;
        if attributes != 0 {
            calls::set_attributes(&tree, attributes, Reach::Tree).at(stage, "setting the attributes of", source)?;
        }
        self.attach(stage, &tree, target)
    }

    /// Binds a folder of the scratch space that is still filled, and closed for writes at the end.
    pub fn bind_closing(&mut self, stage: Stage, source: &str, target: &str) -> Result<(), MountError> {
        let tree = calls::clone_tree(Path::new(source)).at(stage, "taking", source)?;
        self.attach(stage, &tree, Path::new(target))?;
        self.close_for_writes.push(tree);
        Ok(())
    }

    /// Attaches a tree at a host path of the new root.
    pub fn attach(&mut self, stage: Stage, tree: &OwnedFd, target: &Path) -> Result<(), MountError> {
        calls::attach(tree, &Self::inside(target)).at(stage, "mounting on", target)?;
        self.points.insert(target.to_owned());
        Ok(())
    }

    /// Whether something has been attached at exactly this host path.
    pub fn is_mount_point(&self, target: &Path) -> bool {
        self.points.contains(target)
    }

    /// From here on no device node of a host folder can be opened (a chroot's /dev/net/tun lies on an ordinary file system).
    pub fn close_devices(&self) -> Result<(), MountError> {
        let Some(root) = self.close_for_writes.first() else { return Ok(()) };
        calls::set_attributes(root, NO_SUID | NO_DEV, Reach::Tree).at(Stage::Root, "setting nodev on", "/")
    }

    /// Marks what has to be read-only, makes the new root the root, lets go of the old one, and enters the working folder.
    pub fn finish(self) -> Result<Notes, MountError> {
        for tree in &self.close_for_writes {
            calls::set_attributes(tree, READ_ONLY, Reach::Mount).at(Stage::Pivot, "closing", "root")?;
        }
        if let Some(root) = self.close_for_writes.first() {
            calls::set_attributes(root, NO_SUID, Reach::Tree).at(Stage::Pivot, "setting nosuid on", "root")?;
            fchdir(root).at(Stage::Pivot, "entering", "root")?;
        }
        // pivot_root(2): both may be the same folder; the old root then lies on top of the new one, and is taken off.
        pivot_root(".", ".").at(Stage::Pivot, "changing", "/")?;
        umount2(".", MntFlags::MNT_DETACH).at(Stage::Pivot, "letting go of the old", "/")?;
        chdir("/").at(Stage::Pivot, "entering", "/")?;
        chdir(&self.cwd).at(Stage::Pivot, "entering the working folder", &self.cwd)?;
        umask(self.old_mask);
        let mut notes = self.notes;
        notes.extend(named_sources(&self.table, &self.host_name).map(|source| Note::HostNameInMounts { source }));
        notes.dedup();
        Ok(notes)
    }

    /// Records something that the caller should know.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_group_called_after_its_host_is_noticed() {
        let table = Table::parse(
            b"1 0 8:1 / / rw - ext4 /dev/mapper/web--01--vg-root rw\n2 1 0:9 / /run rw - tmpfs web--01 rw\n3 1 8:2 / /home rw - ext4 /dev/sda2 rw\n",
        );
        let named: Vec<_> = named_sources(&table, "web-01.example.org").collect();
        assert_eq!(named, ["/dev/mapper/web--01--vg-root"]);
        for quiet in ["", "vm", "debian", "other-host"] {
            assert_eq!(named_sources(&table, quiet).count(), 0, "{quiet}");
        }
    }
}
