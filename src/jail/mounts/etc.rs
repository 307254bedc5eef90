//! /etc: the host's, read-only, under files of the jail's own, without what names the host or its networks.
//!
//! Three layers of a read-only overlay(5): own files, whiteouts, the host's folder. A name that has own contents *and* a
//! whiteout (ssh) shows only the own contents, with no need for extended attributes. Since names are looked up in the jail's
//! layers first, nothing that is renamed over a file outside can show through, and it does not matter whether the host's
//! resolv.conf is a file or a link into /run.
//!
//! Where the kernel refuses the overlay (something is mounted below /etc, as containers do; overlays on overlays on overlays),
//! the view is put together from copies of the top-level files and binds of the folders.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::calls::READ_ONLY;
use super::error::{Context, MountError, Stage};
use super::plan::Note;
use super::view::{EMPTY_FOLDER, View};
use crate::jail::identity::nsswitch_conf;

/// What names the host, its addresses, its servers or its network settings.
const HIDDEN: [&str; 84] = [
    ".hostname",
    "HOSTNAME",
    "NetworkManager",
    "X0.hosts",
    "aliases",
    "auto.master",
    "auto.master.d",
    "auto.misc",
    "auto.net",
    "auto.smb",
    "autofs.conf",
    "avahi",
    "bind",
    "chrony",
    "chrony.conf",
    "cloud",
    "connman",
    "cups",
    "defaultdomain",
    "dhcp",
    "dhclient.conf",
    "dhcpcd.conf",
    "dnsmasq.conf",
    "dnsmasq.d",
    "dracut.conf.d",
    "email-addresses",
    "ethers",
    "exim4",
    "exports",
    "exports.d",
    "fstab",
    "grub.d",
    "hostid",
    "hostname",
    "hosts",
    "hosts.allow",
    "hosts.deny",
    "idmapd.conf",
    "ifplugd",
    "initramfs-tools",
    "iscsi",
    "iwd",
    "krb5.keytab",
    "lldpd.conf",
    "lldpd.d",
    "lvm",
    "machine-id",
    "machine-info",
    "mailname",
    "mdadm",
    "mdadm.conf",
    "motd",
    "mtab",
    "multipath",
    "netctl",
    "netplan",
    "network",
    "nfs.conf",
    "nfs.conf.d",
    "nsswitch.conf",
    "ntp.conf",
    "ntpsec",
    "openvpn",
    "postfix",
    "ppp",
    "printcap",
    "resolv.conf",
    "resolv.conf.head",
    "resolvconf",
    "resolvconf.conf",
    "resolv.conf.tail",
    "salt",
    "samba",
    "smbnetfs",
    "ssh",
    "sssd",
    "sysconfig",
    "udev",
    "wicked",
    "wireguard",
    "wpa_supplicant",
    "yp.conf",
    "zerotier",
    "puppet",
];

/// The same, where the host need not have it yet: settings that come with a network.
const HIDDEN_ALWAYS: [&str; 12] = [
    "HOSTNAME",
    "NetworkManager",
    "cloud",
    "dhcp",
    "dhcpcd.conf",
    "mailname",
    "machine-info",
    "netplan",
    "network",
    "ssh",
    "resolvconf",
    "wireguard",
];

/// Names below folders that stay; those of one folder stand together.
const HIDDEN_BELOW: [&str; 13] = [
    "conf.d/hostname",
    "conf.d/net",
    "default/grub",
    "default/grub.d",
    "default/keepalived",
    "default/netdata",
    "default/isc-dhcp-server",
    "ssl/certs/ssl-cert-snakeoil.pem",
    "ssl/private",
    "systemd/network",
    "systemd/resolved.conf",
    "systemd/resolved.conf.d",
    "systemd/timesyncd.conf",
];

/// Of /etc/ssh, what a client needs. Host keys name the host for ever; moduli (half a megabyte) is the server's.
const SSH: [&str; 3] = ["ssh_config", "ssh_config.d", "ssh_known_hosts"];

const OWN: &str = "etc-own";
const HIDE: &str = "etc-hide";

/// Builds /etc.
pub fn build(view: &mut View<'_>) -> Result<(), MountError> {
    own_files(view)?;
    view.folder(Stage::Etc, HIDE, 0o755)?;
    for name in hidden_names()? {
        view.whiteout(Stage::Etc, format!("{HIDE}/{name}"))?;
    }
    let mut last = ("", false);
    for path in HIDDEN_BELOW {
        let Some((folder, _)) = path.rsplit_once('/') else { continue };
        if last.0 != folder {
            // A folder that the host lacks must not appear; one that is a link would be replaced by a folder.
            last = (folder, is_folder(&Path::new("/etc").join(folder)));
            if last.1 {
                view.folders(Stage::Etc, format!("{HIDE}/{folder}"))?;
            }
        }
        if last.1 {
            view.whiteout(Stage::Etc, format!("{HIDE}/{path}"))?;
        }
    }
    for secret in &view.plan.secret_files {
        if let Ok(real) = secret.canonicalize()
            && real.parent() == Some(Path::new("/etc"))
            && let Some(name) = real.file_name()
        {
            view.whiteout(Stage::Etc, Path::new(HIDE).join(name))?;
        }
    }
    view.folder(Stage::Etc, "root/etc", 0o755)?;
    let layers = format!("lowerdir={OWN}:{HIDE}:/etc");
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match mount(Some("overlay"), "root/etc", Some("overlay"), flags, Some(layers.as_str())) {
        Ok(()) => Ok(()),
        Err(_) => {
            copy(view)?;
            let instead = "a copy of its files, with its folders bound".to_owned();
            view.note(Note::NoOverlay { path: "/etc".into(), instead });
            Ok(())
        }
    }
}

/// What to hide: what the host has, and a few names that may come while the jail lives.
fn hidden_names() -> Result<Vec<&'static str>, MountError> {
    let mut names = HIDDEN_ALWAYS.to_vec();
    for entry in fs::read_dir("/etc").at(Stage::Etc, "listing", "/etc")? {
        let entry = entry.at(Stage::Etc, "listing", "/etc")?;
        let name = entry.file_name();
        names.extend(HIDDEN.iter().find(|h| name == **h));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn own_files(view: &View<'_>) -> Result<(), MountError> {
    let identity = &view.plan.identity;
    view.folder(Stage::Etc, OWN, 0o755)?;
    let put = |name: &str, text: &str| view.file(Stage::Etc, format!("{OWN}/{name}"), text);
    put("resolv.conf", &identity.resolv_conf())?;
    put("hosts", &identity.hosts())?;
    put("hostname", &identity.hostname_file())?;
    put("machine-id", &identity.machine_id_file())?;
    put("nsswitch.conf", &nsswitch_conf(&fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default()))?;
    put("fstab", "")?;
    std::os::unix::fs::symlink("/proc/self/mounts", format!("{OWN}/mtab")).at(Stage::Etc, "making", "/etc/mtab")?;
    if let Some(passwd) = passwd(view) {
        put("passwd", &passwd)?;
    }
    if is_folder(Path::new("/etc/ssh")) {
        view.folder(Stage::Etc, format!("{OWN}/ssh"), 0o755)?;
        for name in SSH {
            copy_tree(view, &Path::new("/etc/ssh").join(name), &Path::new(OWN).join("ssh").join(name), 2)?;
        }
    }
    Ok(())
}

/// /etc/passwd with a line for the caller, where the host's file has none: the service that knows the name lies outside.
fn passwd(view: &View<'_>) -> Option<String> {
    let caller = &view.plan.caller;
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let uid = caller.uid.to_string();
    let safe = |s: &str| !s.is_empty() && !s.contains([':', '\n']);
    let (home, shell) = (caller.home.to_str()?, caller.shell.to_str()?);
    if text.lines().any(|l| l.split(':').nth(2) == Some(&uid)) || ![&caller.name, home, shell].iter().all(|s| safe(s)) {
        return None;
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Some(format!("{text}{end}{}:x:{uid}:{}::{home}:{shell}\n", caller.name, caller.gid))
}

/// The view without an overlay, on the layer of own files.
fn copy(view: &mut View<'_>) -> Result<(), MountError> {
    let entries = fs::read_dir("/etc").at(Stage::Etc, "listing", "/etc")?;
    view.bind_closing(Stage::Etc, OWN, "/etc")?;
    for entry in entries {
        let entry = entry.at(Stage::Etc, "listing", "/etc")?;
        let (path, name) = (entry.path(), entry.file_name());
        let target = Path::new(OWN).join(&name);
        let hidden = name.to_str().is_some_and(|n| HIDDEN.contains(&n));
        let secret = view.plan.secret_files.iter().any(|s| s.canonicalize().is_ok_and(|s| s == path));
        if hidden || secret || fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        if entry.file_type().at(Stage::Etc, "looking at", &path)?.is_dir() {
            view.folder(Stage::Etc, &target, 0o755)?;
            view.bind(Stage::Etc, &path, &path, READ_ONLY)?;
        } else {
            copy_tree(view, &path, &target, 1)?;
        }
    }
    for path in HIDDEN_BELOW {
        let path: PathBuf = Path::new("/etc").join(path);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => view.bind(Stage::Etc, EMPTY_FOLDER, &path, READ_ONLY)?,
            Ok(found) if found.is_file() => view.bind(Stage::Etc, super::view::EMPTY_FILE, &path, READ_ONLY)?,
            _ => {}
        }
    }
    Ok(())
}

/// Copies what the caller can read, links as links, `depth` levels deep; small files only, since this is configuration.
fn copy_tree(view: &View<'_>, from: &Path, to: &Path, depth: u32) -> Result<(), MountError> {
    const LARGEST: u64 = 1 << 20;
    let Ok(found) = fs::symlink_metadata(from) else { return Ok(()) };
    if found.is_symlink() {
        let link = fs::read_link(from).at(Stage::Etc, "reading the link", from)?;
        return std::os::unix::fs::symlink(link, to).at(Stage::Etc, "making the link", to);
    }
    if found.is_dir() && depth > 1 {
        view.folder(Stage::Etc, to, 0o755)?;
        for entry in fs::read_dir(from).into_iter().flatten().flatten() {
            copy_tree(view, &entry.path(), &to.join(entry.file_name()), depth - 1)?;
        }
        return Ok(());
    }
    if !found.is_file() || found.size() > LARGEST {
        return Ok(());
    }
    match fs::read(from) {
        Ok(text) => view.file(Stage::Etc, to, text),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error).at(Stage::Etc, "reading", from),
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}
