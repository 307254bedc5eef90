//! Views built for real, in namespaces of their own: as an ordinary user, and as root where the tests run as root.
//!
//! Every test forks, and the fork makes its own mount namespace before anything is mounted: the machine is left as it was.

mod options;
mod outside;
mod world;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;

use super::*;
use world::World;

fn errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.err().and_then(|e| e.raw_os_error()).unwrap_or(0))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn etc_names_the_jail_and_not_the_host() {
    let hosts_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hosts_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |notes| {
            assert!(!notes.iter().any(|n| matches!(n, Note::NoOverlay { .. })), "{notes:?}");
            assert_eq!(read("/etc/resolv.conf"), "nameserver 198.18.0.1\nsearch .\n");
            assert_eq!(read("/etc/hostname"), "localhost\n");
            assert!(read("/etc/nsswitch.conf").contains("hosts: files dns\n"));
            assert!(read("/etc/hosts").starts_with("127.0.0.1\tlocalhost\n"));
            let id = read("/etc/machine-id");
            assert_eq!(id.trim().len(), 32);
            assert_ne!(id, hosts_id);
            assert_ne!(read("/proc/sys/kernel/random/boot_id"), hosts_boot);
            assert_eq!(read("/proc/cmdline"), "");
            for gone in
                ["/etc/netplan", "/etc/mailname", "/etc/network", "/etc/dhcp", "/etc/ssh/ssh_host_ed25519_key.pub"]
            {
                assert!(!Path::new(gone).exists(), "{gone}");
            }
            assert_eq!(errno(fs::write("/etc/new", "")), Errno::EROFS);
            assert_eq!(errno(fs::write("/etc/resolv.conf", "")), Errno::EROFS);
            assert!(Path::new("/etc/passwd").exists() && Path::new("/etc/ssl/certs").exists());
        });
    }
}

#[test]
fn only_six_devices_a_pty_and_shared_memory_exist() {
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |_| {
            for gone in ["/dev/net", "/dev/fuse", "/dev/kmsg", "/dev/vda", "/dev/mem"] {
                assert!(!Path::new(gone).exists(), "{gone}");
            }
            fs::write("/dev/null", "x").unwrap();
            // Root's payload owns the host's inode.
            for device in ["/dev/null", "/dev/tty", "/dev/urandom"] {
                let mode = fs::metadata(device).unwrap().permissions();
                assert_eq!(errno(fs::set_permissions(device, mode)), Errno::EROFS, "{device}");
            }
            assert_eq!(fs::File::open("/dev/urandom").unwrap().read(&mut [0; 8]).unwrap(), 8);
            fs::write("/dev/shm/x", "x").unwrap();
            assert_eq!(errno(fs::write("/dev/new", "")), Errno::EROFS);
            let pty = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
            assert!(nix::unistd::isatty(&pty).unwrap());
        });
    }
}

#[test]
fn the_working_folder_below_tmp_is_the_real_one_and_the_rest_of_tmp_is_private() {
    for world in World::each() {
        let plan = world.plan();
        let readable = world.write("beside", "outside");
        let inside_only = world.path("made-inside");
        let real = world.path("work/made");
        world.jail(&plan, |_| {
            assert_eq!(fs::read_to_string(&readable).unwrap(), "outside");
            fs::write(&readable, "changed").unwrap();
            fs::write(&inside_only, "x").unwrap();
            fs::write("made", "x").unwrap();
            assert_eq!(std::env::current_dir().unwrap(), plan.cwd);
        });
        assert_eq!(fs::read_to_string(&readable).unwrap(), "outside");
        assert!(!inside_only.exists());
        assert_eq!(fs::read_to_string(real).unwrap(), "x");
    }
}

#[test]
fn sockets_of_the_host_in_tmp_cannot_be_connected_to() {
    for world in World::each() {
        let plan = world.plan();
        let path = world.path("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        world.give(&path);
        UnixStream::connect(&path).expect("the control outside");
        world.jail(&plan, |_| {
            assert!(path.exists(), "the name can be read");
            assert_eq!(errno(UnixStream::connect(&path)), Errno::ECONNREFUSED);
        });
    }
}

#[test]
fn keys_stay_masked_whatever_is_renamed_inside() {
    for world in World::each() {
        let mut plan = world.plan();
        let state = world.path("home/.local/state/netjail");
        world.write("home/.local/state/netjail/key", "secret");
        plan.masked_folders = vec![state.clone()];
        plan.read_write = vec![world.path("home")];
        world.jail(&plan, |_| {
            assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
            assert_eq!(errno(fs::write(state.join("x"), "")), Errno::EROFS);
            for folder in ["home/.local/state/netjail", "home/.local/state", "home/.local", "home", ""] {
                let from = world.path(folder);
                let from = Path::new(from.to_str().unwrap().trim_end_matches('/'));
                let renamed = fs::rename(from, from.with_extension("moved"));
                assert_eq!(errno(renamed), Errno::EBUSY, "{folder}");
            }
            fs::write(world.path("home/.local/state/other"), "x").unwrap();
        });
        assert!(state.join("key").exists());
        assert!(world.path("home/.local/state/other").exists(), "the rest of that folder is the real one");
    }
}

#[test]
fn the_log_in_the_working_folder_is_not_the_jails_to_read_or_change() {
    for world in World::each() {
        let log = world.write("work/log.json", "record\n");
        let plan = Plan { log_file: Some(log.clone()), ..world.plan() };
        let mut outside = fs::OpenOptions::new().append(true).open(&log).unwrap();
        world.jail(&plan, |_| {
            assert_eq!(read(log.to_str().unwrap()), "");
            assert_eq!(errno(fs::write(&log, "forged")), Errno::EROFS);
            assert_eq!(errno(fs::remove_file(&log)), Errno::EBUSY);
            assert_eq!(errno(fs::rename(&log, "other")), Errno::EBUSY);
            assert_eq!(errno(fs::rename(log.parent().unwrap(), world.path("moved"))), Errno::EBUSY);
            assert_eq!(errno(fs::hard_link(&log, "link")), Errno::EXDEV);
            outside.write_all(b"more\n").unwrap();
        });
        assert_eq!(fs::read_to_string(&log).unwrap(), "record\nmore\n");
    }
}

#[test]
fn no_other_socket_gets_the_name_of_an_allowed_one_that_was_started_again() {
    for world in World::each() {
        fs::create_dir(world.path("work/agent")).unwrap();
        world.give(&world.path("work/agent"));
        let (allowed, other) = (world.path("work/agent/s"), world.write("work/other", ""));
        let first = UnixListener::bind(&allowed).unwrap();
        let plan = Plan { sockets: vec![allowed.clone()], read_write: vec![allowed.clone()], ..world.plan() };
        world.jail(&plan, |_| {
            let again = world.path("work/agent/again");
            assert_eq!(errno(fs::hard_link(&other, &again)), Errno::EXDEV);
            assert_eq!(errno(fs::rename(&other, &again)), Errno::EXDEV);
            assert_eq!(errno(fs::rename(world.path("work/agent"), world.path("work/moved"))), Errno::EBUSY);
        });
        drop(first);
    }
}

#[test]
fn sys_and_proc_show_this_network_and_cannot_be_written() {
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |_| {
            let links: Vec<_> = fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(links, ["lo"]);
            assert!(Path::new("/sys/devices/system/cpu/online").exists());
            for gone in
                ["/sys/class/dmi", "/sys/devices/pci0000:00", "/sys/firmware", "/sys/kernel/debug", "/sys/block"]
            {
                assert!(!Path::new(gone).exists(), "{gone}");
            }
            for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"] {
                let opened = fs::OpenOptions::new().write(true).open(path);
                assert!(matches!(errno(opened), Errno::EROFS | Errno::EACCES | Errno::ENOENT), "{path}");
            }
            assert_eq!(fs::read_dir("/proc/bus").unwrap().count(), 0);
            assert_eq!(read("/proc/keys"), "");
        });
    }
}

#[test]
fn mountinfo_holds_nothing_of_the_old_root() {
    for world in World::each() {
        let plan = world.plan();
        world.jail(&plan, |_| {
            let table = Table::read().unwrap();
            assert_eq!(table.mounts().iter().filter(|m| m.point == Path::new("/")).count(), 1);
            let text = read("/proc/self/mountinfo");
            assert!(!text.contains("devtmpfs /"), "{text}");
            assert!(
                text.lines().all(|l| l.split(' ').nth(4).is_none_or(|p| !p.starts_with("/sys/fs/cgroup/"))),
                "{text}"
            );
        });
    }
}

/// Not a property but a measure: `cargo test --release --lib -- --ignored --nocapture build_takes`.
#[test]
#[ignore = "prints times"]
fn build_takes() {
    for world in World::each() {
        let mut plan = world.plan();
        plan.masked_folders = vec![world.path("home/.local/state/netjail")];
        let mut times: Vec<u64> = (0..50)
            .map(|_| {
                let (mut here, there) = UnixStream::pair().unwrap();
                let plan = Plan { cwd: world.path("work"), ..plan.clone() };
                world.timed(&plan, &there);
                drop(there);
                let mut text = String::new();
                here.read_to_string(&mut text).unwrap();
                text.parse().unwrap()
            })
            .collect();
        times.sort_unstable();
        eprintln!("uid {}: p50 {} us, p90 {} us of processor time", world.uid, times[25], times[45]);
    }
}
