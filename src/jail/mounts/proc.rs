//! /proc: a fresh one of the jail's own pid namespace, in which nothing of the kernel's can be written and nothing names the host.
//!
//! A fresh proc can only be mounted where the outer one is fully visible (fs/namespace.c, `mount_too_revealing`), and for the
//! same reason the masks below make every later mount of proc inside fail. That is what `--allow-nested-sandbox` gives up:
//! with it nothing is mounted over proc, and the kernel command line, the boot id and /proc/bus can be read.
//!
//! Root's payload has no capability but still *owns* root's files here: for it everything that can be written, outside the
//! folders of processes, is read-only.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::calls::READ_ONLY;
use super::error::{Context, MountError, Stage};
use super::plan::ProcView;
use super::view::{BOOT_ID, EMPTY_FILE, EMPTY_FOLDER, View, if_there};

/// Files that show the kernel's command line (addresses, MACs), or keys and servers' names, or reboot the host.
const EMPTY_FILES: [&str; 5] = ["cmdline", "keys", "sysrq-trigger", "kcore", "bootconfig"];
/// Folders with Bluetooth addresses, servers of CIFS and NFS, SMBIOS names, and serial numbers of cards and disks.
const EMPTY_FOLDERS: [&str; 5] = ["bus", "fs", "firmware", "driver", "scsi"];

/// Builds /proc.
pub fn build(view: &mut View<'_>) -> Result<(), MountError> {
    view.folder(Stage::Proc, "root/proc", 0o555)?;
    if view.plan.proc == ProcView::HostMasked
        && let Some(outer) = view.outer_proc.take()
    {
        view.attach(Stage::Proc, &outer, Path::new("/proc"))?;
    } else {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if let Err(errno) = mount(Some("proc"), "root/proc", Some("proc"), flags, None::<&str>) {
            return Err(refused(view, errno));
        }
    }
    if view.plan.nested_sandbox {
        return Ok(());
    }
    view.bind(Stage::Proc, "root/proc/sys", "/proc/sys", READ_ONLY)?;
    cover(view, BOOT_ID, "/proc/sys/kernel/random/boot_id")?;
    for name in EMPTY_FILES {
        cover(view, EMPTY_FILE, Path::new("/proc").join(name))?;
    }
    for name in EMPTY_FOLDERS {
        cover(view, EMPTY_FOLDER, Path::new("/proc").join(name))?;
    }
    if view.plan.started_as_root { close_for_root(view) } else { Ok(()) }
}

fn cover(view: &mut View<'_>, with: &str, path: impl AsRef<Path>) -> Result<(), MountError> {
    let inside = View::inside(path.as_ref());
    if_there(view.bind(Stage::Proc, with, path, 0), inside) // a copy of a read-only mount
}

/// Binds every folder, and every file with a write bit, read-only onto itself.
fn close_for_root(view: &mut View<'_>) -> Result<(), MountError> {
    let entries = fs::read_dir("root/proc").at(Stage::Proc, "listing", "/proc")?;
    for entry in entries {
        let entry = entry.at(Stage::Proc, "listing", "/proc")?;
        let name = entry.file_name();
        let path: PathBuf = Path::new("/proc").join(&name);
        let of_a_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let Ok(found) = entry.metadata() else { continue };
        let can_be_written = found.is_dir() || found.is_file() && found.mode() & 0o222 != 0;
        if of_a_process || !can_be_written || view.is_mount_point(&path) {
            continue;
        }
        view.bind(Stage::Proc, View::inside(&path), &path, READ_ONLY)?;
    }
    Ok(())
}

fn refused(view: &View<'_>, errno: Errno) -> MountError {
    let covered: Vec<String> = view
        .table
        .mounts()
        .iter()
        .filter(|m| m.point.starts_with("/proc") && m.point != Path::new("/proc") && m.kind != "autofs")
        .map(|m| m.point.display().to_string())
        .collect();
    let covered = if covered.is_empty() { "which ones can't be seen from here".to_owned() } else { covered.join(" ") };
    MountError::ProcRefused { errno, covered }
}
