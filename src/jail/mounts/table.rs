//! The mount table outside: which mounts lie where, and behind which of them somebody else acts.
//!
//! Reading a network file system or a FUSE mount makes a process outside do network work for the jail, and its source in
//! mountinfo names its server. Shares of a hypervisor are local devices to the guest and are fine.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the file system.
    pub device: String,
    /// The folder of that file system which is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// What it was mounted from.
    pub source: String,
    options: String,
}

/// The whole table, in mount order.
#[derive(Clone, Debug, Default)]
pub struct Table {
    mounts: Vec<Mount>,
}

impl Table {
    /// Reads the table of this process's namespace.
    pub fn read() -> std::io::Result<Self> {
        // Room from the start: every read of a small piece would make the kernel walk the table again.
        let mut text = Vec::with_capacity(64 << 10);
        std::fs::File::open("/proc/self/mountinfo")?.read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// Parses mountinfo; a line that is not one is passed over.
    pub fn parse(text: &[u8]) -> Self {
        Self { mounts: text.split(|&b| b == b'\n').filter_map(line).collect() }
    }

    /// All mounts.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount that `path` lies on: the last one of the longest mount point above it.
    pub fn containing(&self, path: &Path) -> Option<&Mount> {
        let mut best: Option<&Mount> = None;
        for mount in self.mounts.iter().filter(|m| path.starts_with(&m.point)) {
            if best.is_none_or(|b| mount.point.as_os_str().len() >= b.point.as_os_str().len()) {
                best = Some(mount);
            }
        }
        best
    }

    /// The mounts at or below `path` that a jail must not have: the kernel's own, and, unless they are accepted, those
    /// behind which somebody outside acts.
    pub fn unwanted_below<'a>(&'a self, path: &'a Path, allow_netfs: bool) -> impl Iterator<Item = &'a Mount> {
        let unwanted = move |m: &&Mount| m.is_kernels() || !allow_netfs && m.is_foreign();
        self.mounts.iter().filter(unwanted).filter(move |m| m.point.starts_with(path))
    }

    /// Every path under which the folder `path` can be reached, itself first: the same file system may be mounted twice.
    pub fn aliases(&self, path: &Path) -> Vec<PathBuf> {
        let mut all = vec![path.to_owned()];
        let Some(home) = self.containing(path) else { return all };
        let Ok(below) = path.strip_prefix(&home.point) else { return all };
        let inside = home.root.join(below);
        for mount in self.mounts.iter().filter(|m| m.device == home.device) {
            if let Ok(rest) = inside.strip_prefix(&mount.root) {
                let alias = if rest.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(rest) };
                if !all.contains(&alias) {
                    all.push(alias);
                }
            }
        }
        all
    }
}

impl Mount {
    /// Whether this shows the kernel, and not files: below /srv or a chroot it would bring the host's addresses and devices in.
    pub fn is_kernels(&self) -> bool {
        const KINDS: [&str; 15] = [
            "bpf",
            "cgroup",
            "cgroup2",
            "configfs",
            "debugfs",
            "devpts",
            "devtmpfs",
            "efivarfs",
            "fusectl",
            "nsfs",
            "proc",
            "pstore",
            "securityfs",
            "sysfs",
            "tracefs",
        ];
        KINDS.contains(&self.kind.as_str())
    }

    /// Whether a server, or a process outside, answers what is read here.
    pub fn is_foreign(&self) -> bool {
        match self.kind.as_str() {
            "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ncpfs" | "afs" | "coda" | "ceph" | "lustre" | "pvfs2"
            | "orangefs" | "beegfs" | "gpfs" | "autofs" | "fuse" | "fuseblk" => true,
            "9p" => self.options.split(',').any(|o| matches!(o, "trans=tcp" | "trans=rdma")),
            other => other.starts_with("fuse."),
        }
    }
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let device = text(fields.nth(2)?);
    let root = PathBuf::from(unescape(fields.next()?));
    let point = PathBuf::from(unescape(fields.next()?));
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = text(rest.next()?);
    let source = text(&unescape(rest.next()?).into_vec());
    let options = text(rest.next().unwrap_or_default());
    Some(Mount { device, root, point, kind, source, options })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(bytes: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4);
        match digits {
            Some(&[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) if byte == b'\\' => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 27 0:40 / /home/a/g\\040d rw shared:3 - fuse.rclone remote: rw,user_id=0\n\
        31 27 0:41 / /mnt/share rw - nfs4 10.1.2.3:/export rw\n\
        32 27 254:0 /home /srv/home rw - ext4 /dev/vda rw\n\
        33 27 0:42 / /win rw - 9p C:\\134 rw,trans=fd\n\
        34 27 0:43 / /net9 rw - 9p 10.0.0.1 rw,trans=tcp,port=564\n\
        garbage\n";

    #[test]
    fn network_file_systems_are_told_from_shares_of_a_hypervisor() {
        let table = Table::parse(TEXT);
        let foreign: Vec<_> = table.unwanted_below(Path::new("/"), false).map(|m| m.point.to_str().unwrap()).collect();
        assert_eq!(foreign, ["/home/a/g d", "/mnt/share", "/net9"]);
        assert_eq!(table.unwanted_below(Path::new("/home/a"), false).count(), 1);
        assert_eq!(table.unwanted_below(Path::new("/home/ab"), false).count(), 0);
    }

    #[test]
    fn a_folder_is_found_under_every_mount_of_its_file_system() {
        let table = Table::parse(TEXT);
        let aliases = table.aliases(Path::new("/home/a/.local/state/netjail"));
        assert_eq!(aliases, [Path::new("/home/a/.local/state/netjail"), Path::new("/srv/home/a/.local/state/netjail")]);
    }

    #[test]
    fn the_last_mount_on_a_path_is_the_one_that_counts() {
        let table =
            Table::parse(b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /h rw - ext4 b rw\n3 2 0:9 / /h rw - nfs s:/x rw\n");
        assert_eq!(table.containing(Path::new("/h/x")).unwrap().kind, "nfs");
        assert_eq!(table.containing(Path::new("/hx")).unwrap().kind, "ext4");
    }
}
