//! Properties against an outside that changes, or that is set up as containers and network file systems set it up.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::super::*;
use super::world::{World, cover, outside, silent_fuse, writable_copy};
use super::{errno, read};

const PLANTED: &str = "planted-host-9c1f";

#[test]
fn a_rename_outside_never_shows_through() {
    outside(|| {
        writable_copy("/etc");
        fs::write("/etc/mailname", PLANTED).unwrap();
        for world in World::each() {
            let plan = world.plan();
            let (mut here, mut there) = UnixStream::pair().unwrap();
            let renamer = std::thread::spawn(move || {
                here.read_exact(&mut [0]).unwrap();
                for name in ["resolv.conf", "hosts", "hostname", "machine-id", "nsswitch.conf", "mailname", "netplan"] {
                    fs::write("/etc/new", PLANTED).unwrap();
                    fs::rename("/etc/new", Path::new("/etc").join(name)).unwrap();
                }
                here.write_all(b"x").unwrap();
            });
            world.jail(&plan, |_| {
                assert!(!Path::new("/etc/mailname").exists());
                there.write_all(b"x").unwrap();
                there.read_exact(&mut [0]).unwrap();
                for name in ["resolv.conf", "hosts", "hostname", "machine-id", "nsswitch.conf"] {
                    assert!(!read(&format!("/etc/{name}")).contains(PLANTED), "{name}");
                }
                assert!(!Path::new("/etc/mailname").exists() && !Path::new("/etc/netplan").exists());
            });
            renamer.join().unwrap();
        }
    });
}

/// Everything that can be read below `folder`, with the first path that holds the planted name.
fn search(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let streams = ["kmsg", "kcore", "clear_refs", "pagemap", "mem"].iter().any(|n| path.ends_with(n));
        if path.to_string_lossy().contains(PLANTED) {
            found.push(path.clone());
        }
        if kind.is_dir() && !path.starts_with("/proc/self/task") && !path.starts_with("/proc/thread-self") {
            search(&path, found);
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).unwrap_or_default();
            if link.to_string_lossy().contains(PLANTED) {
                found.push(path);
            }
        } else if kind.is_file() && !streams {
            let mut text = Vec::new();
            let _ = fs::File::open(&path).map(|f| f.take(1 << 20).read_to_end(&mut text));
            if text.windows(PLANTED.len()).any(|w| w == PLANTED.as_bytes()) {
                found.push(path);
            }
        }
    }
}

#[test]
fn planted_names_of_the_host_are_not_found_in_the_views() {
    outside(|| {
        writable_copy("/etc");
        for folder in ["/run", "/var/log", "/mnt"] {
            cover(folder);
        }
        writable_copy("/var/lib");
        for folder in [
            "/etc/ssh",
            "/etc/netplan",
            "/etc/NetworkManager",
            "/etc/network",
            "/etc/cloud",
            "/var/lib/dhcp",
            "/var/lib/cloud",
            "/run/systemd",
            "/run/systemd/resolve",
            "/etc/ssl/certs",
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        for name in [
            "/etc/hostname",
            "/etc/hosts",
            "/etc/mailname",
            "/etc/machine-id",
            "/etc/fstab",
            "/etc/netplan/x.yaml",
            "/etc/network/interfaces",
            "/etc/ssh/ssh_host_ed25519_key.pub",
            "/etc/NetworkManager/x",
            "/etc/cloud/cloud.cfg",
            "/etc/ssl/certs/ssl-cert-snakeoil.pem",
            "/run/systemd/resolve/stub-resolv.conf",
            "/run/utmp",
            "/var/log/syslog",
            "/var/log/wtmp",
            "/var/lib/dhcp/dhclient.leases",
            "/var/lib/cloud/id",
        ] {
            let _ = fs::remove_file(name);
            fs::write(name, PLANTED).unwrap();
        }
        let _ = fs::remove_file("/etc/resolv.conf");
        std::os::unix::fs::symlink("/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf").unwrap();
        fs::create_dir("/mnt/share").unwrap();
        let _daemon = silent_fuse(Path::new("/mnt/share"), &format!("{PLANTED}:/export"));
        for world in World::each() {
            let plan = world.plan();
            world.jail(&plan, |notes| {
                let mut found = Vec::new();
                for folder in ["/etc", "/run", "/var/log", "/var/lib/dhcp", "/var/lib/cloud", "/dev", "/sys", "/proc"] {
                    search(Path::new(folder), &mut found);
                }
                assert!(found.is_empty(), "{found:?}");
                assert_eq!(read("/etc/resolv.conf"), plan.identity.resolv_conf());
                assert!(notes.contains(&Note::LeftOut { path: "/mnt/share".into(), kind: "fuse".into() }), "{notes:?}");
                assert_eq!(fs::read_dir("/mnt/share").unwrap().count(), 0, "an empty folder, not a hanging one");
            });
        }
    });
}

#[test]
fn a_network_file_system_that_is_needed_is_named_and_never_touched() {
    outside(|| {
        for world in World::each() {
            let share = world.path("home/share");
            fs::create_dir(&share).unwrap();
            world.give(&share);
            let _daemon = silent_fuse(&share, "server:/x");
            let plan = Plan { cwd: share.clone(), ..world.plan() };
            world.try_jail(&plan, |built| {
                let Err(MountError::NetworkFilesystem { role, path, .. }) = built else { panic!("{built:?}") };
                assert_eq!((role, path), ("the working folder", share.clone()));
            });
            let plan = Plan { read_write: vec![world.path("home")], ..world.plan() };
            world.try_jail(&plan, |built| {
                assert!(matches!(built, Err(MountError::NetworkFilesystemBelow { .. })), "{built:?}");
            });
            let plan = Plan { allow_netfs: true, read_write: vec![world.path("home")], ..world.plan() };
            world.jail(&plan, |_| assert!(read("/proc/self/mountinfo").contains("server:/x")));
            nix::mount::umount2(&share, nix::mount::MntFlags::MNT_DETACH).unwrap(); // so that the folder can be removed
        }
    });
}

#[test]
fn without_an_overlay_etc_keeps_its_promise_and_tmp_is_empty() {
    outside(|| {
        writable_copy("/etc");
        fs::write("/etc/mailname", PLANTED).unwrap();
        fs::write("/etc/hosts", PLANTED).unwrap();
        mount(Some("/etc/passwd"), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        fs::create_dir("/tmp/netjail-locked").unwrap();
        cover("/tmp/netjail-locked");
        for world in World::each() {
            let plan = world.plan();
            world.jail(&plan, |notes| {
                let said =
                    |p: &str| notes.iter().any(|n| matches!(n, Note::NoOverlay { path, .. } if path == Path::new(p)));
                assert!(said("/etc") && said("/tmp"), "{notes:?}");
                assert_eq!(read("/etc/resolv.conf"), plan.identity.resolv_conf());
                assert_eq!(read("/etc/hosts"), plan.identity.hosts());
                assert!(!Path::new("/etc/mailname").exists() && !Path::new("/etc/ssh/sshd_config").exists());
                assert!(read("/etc/passwd").contains("root:") && Path::new("/etc/ssl/certs").exists());
                assert_eq!(errno(fs::write("/etc/x", "")), Errno::EROFS);
                assert_eq!(errno(fs::write("/etc/ssl/x", "")), Errno::EROFS);
                fs::write("/tmp/x", "").unwrap();
                fs::write("made", "").unwrap();
            });
            assert!(world.path("work/made").exists());
        }
    });
    let _ = fs::remove_dir("/tmp/netjail-locked");
}

#[test]
fn a_covered_proc_is_refused_with_its_paths_and_can_be_accepted() {
    outside(|| {
        mount(Some("/dev/null"), "/proc/timer_list", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        for world in World::each() {
            let plan = world.plan();
            world.try_jail(&plan, |built| {
                let text = built.expect_err("a covered /proc is not fully visible").to_string();
                for word in ["/proc/timer_list", "systempaths=unconfined", "unmask=ALL", "--proc host-masked"] {
                    assert!(text.contains(word), "{text}");
                }
            });
            let plan = Plan { proc: ProcView::HostMasked, ..plan };
            world.jail(&plan, |_| {
                assert_eq!(errno(fs::write("/proc/sys/kernel/core_pattern", "x")), Errno::EROFS);
                assert_eq!(read("/proc/cmdline"), "");
                assert!(Path::new("/proc/self/status").exists());
            });
        }
    });
}

#[test]
fn sockets_in_run_are_not_there_and_a_working_folder_in_run_is() {
    outside(|| {
        cover("/run");
        fs::create_dir("/run/service").unwrap();
        let _listener = UnixListener::bind("/run/host.sock").unwrap();
        for world in World::each() {
            world.give(Path::new("/run/service"));
            let plan = Plan { cwd: "/run/service".into(), ..world.plan() };
            world.jail(&plan, |_| {
                assert_eq!(errno(UnixStream::connect("/run/host.sock")), Errno::ENOENT);
                fs::write("pid", "x").unwrap();
            });
            fs::remove_file("/run/service/pid").unwrap();
        }
    });
}

#[test]
fn a_chroots_devices_and_kernel_mounts_do_not_come_in() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    outside(|| {
        cover("/mnt");
        fs::create_dir_all("/mnt/chroot/dev/net").unwrap();
        fs::create_dir("/mnt/chroot/sys").unwrap();
        mknod("/mnt/chroot/dev/net/tun", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200)).unwrap();
        mount(Some("sysfs"), "/mnt/chroot/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
        for world in World::each() {
            for allow_netfs in [false, true] {
                let plan = Plan { allow_netfs, ..world.plan() };
                world.jail(&plan, |notes| {
                    let tun = fs::OpenOptions::new().read(true).open("/mnt/chroot/dev/net/tun");
                    assert_eq!(errno(tun), Errno::EACCES);
                    assert_eq!(fs::read_dir("/mnt/chroot/sys").unwrap().count(), 0);
                    assert!(
                        notes.iter().any(|n| matches!(n, Note::LeftOut { kind, .. } if kind == "sysfs")),
                        "{notes:?}"
                    );
                });
            }
        }
    });
}
