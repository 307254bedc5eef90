//! What the options make of home, /tmp, root's file system and secrets.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;

use super::super::*;
use super::world::World;
use super::{errno, read};

#[test]
fn home_can_be_read_only_or_temporary_while_the_working_folder_stays() {
    for world in World::each() {
        world.write("home/file", "mine");
        fs::create_dir(world.path("home/project")).unwrap();
        world.give(&world.path("home/project"));
        for (home, sees, write) in
            [(HomeView::ReadOnly, true, Errno::EROFS), (HomeView::Temporary, false, Errno::UnknownErrno)]
        {
            let plan = Plan { home, cwd: world.path("home/project"), ..world.plan() };
            world.jail(&plan, |_| {
                assert_eq!(world.path("home/file").exists(), sees, "{home:?}");
                assert_eq!(errno(fs::write(world.path("home/new"), "x")), write, "{home:?}");
                fs::write("made", "x").unwrap();
            });
            assert!(!world.path("home/new").exists());
            fs::remove_file(world.path("home/project/made")).unwrap();
        }
    }
}

#[test]
fn the_commands_own_file_stays_runnable_where_its_folder_is_hidden() {
    for world in World::each() {
        let tool = world.write("home/tool", "#!/bin/sh\nexit 7\n");
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let plan = Plan { home: HomeView::Temporary, tmp: TmpView::Empty, command: Some(tool.clone()), ..world.plan() };
        world.jail(&plan, |_| {
            assert_eq!(std::process::Command::new(&tool).status().unwrap().code(), Some(7));
            assert!(!world.path("home/.local").exists());
        });
    }
}

#[test]
fn an_empty_tmp_is_empty_and_a_shared_one_is_shared() {
    for world in World::each() {
        world.write("beside", "outside");
        let plan = Plan { tmp: TmpView::Empty, ..world.plan() };
        world.jail(&plan, |_| {
            assert!(!world.path("beside").exists());
            fs::write("/tmp/made", "x").unwrap();
            fs::write("/var/tmp/made", "x").unwrap();
        });
        let plan = Plan { tmp: TmpView::Shared, ..world.plan() };
        world.jail(&plan, |_| fs::write(world.path("shared"), "x").unwrap());
        assert!(world.path("shared").exists());
        assert!(!Path::new("/tmp/made").exists() && !Path::new("/var/tmp/made").exists());
    }
}

#[test]
fn a_working_folder_that_is_tmp_itself_stays_private_and_that_is_said() {
    for world in World::each() {
        let plan = Plan { cwd: "/tmp".into(), ..world.plan() };
        world.jail(&plan, |notes| {
            assert!(notes.contains(&Note::PrivateWorkingFolder { path: "/tmp".into() }), "{notes:?}");
            fs::write("netjail-made-in-tmp", "x").unwrap();
        });
        assert!(!Path::new("/tmp/netjail-made-in-tmp").exists());
    }
}

#[test]
fn the_private_layer_of_tmp_behaves_like_a_file_system() {
    for world in World::each() {
        fs::create_dir(world.path("old")).unwrap();
        world.give(&world.path("old"));
        world.write("old/file", "1");
        let plan = world.plan();
        world.jail(&plan, |_| {
            fs::remove_dir_all(world.path("old")).unwrap();
            fs::create_dir(world.path("old")).unwrap();
            assert_eq!(fs::read_dir(world.path("old")).unwrap().count(), 0);
            fs::write(world.path("a"), "x").unwrap();
            fs::rename(world.path("a"), world.path("b")).unwrap();
            let listener = UnixListener::bind(world.path("own.sock")).unwrap();
            UnixStream::connect(world.path("own.sock")).unwrap();
            drop(listener);
            assert!(fs::symlink_metadata(world.path("own.sock")).unwrap().file_type().is_socket());
        });
        assert_eq!(fs::read_to_string(world.path("old/file")).unwrap(), "1");
        assert!(!world.path("own.sock").exists());
    }
}

#[test]
fn ro_and_rw_are_decided_by_the_deepest_path() {
    for world in World::each() {
        for folder in ["work/a", "work/a/b"] {
            fs::create_dir(world.path(folder)).unwrap();
            world.give(&world.path(folder));
        }
        let plan =
            Plan { read_only: vec![world.path("work/a")], read_write: vec![world.path("work/a/b")], ..world.plan() };
        world.jail(&plan, |_| {
            fs::write("x", "").unwrap();
            assert_eq!(errno(fs::write("a/x", "")), Errno::EROFS);
            fs::write("a/b/x", "").unwrap();
        });
        let inner = Plan { cwd: world.path("work/a/b"), read_only: vec![world.path("work")], ..world.plan() };
        world.jail(&inner, |_| assert_eq!(errno(fs::write("y", "")), Errno::EROFS));
        for forbidden in ["/", "/dev", "/dev/null", "/proc/sys", "/sys", "/run", "/etc"] {
            let plan = Plan { read_write: vec![forbidden.into()], ..world.plan() };
            world.try_jail(&plan, |built| {
                assert!(matches!(built, Err(MountError::NotToBeShown { flag: "--rw", .. })), "{forbidden}");
            });
        }
    }
}

#[test]
fn secrets_are_masked_by_their_folder_or_refused() {
    for world in World::each() {
        fs::create_dir(world.path("home/secrets")).unwrap();
        world.give(&world.path("home/secrets"));
        let secret = world.write("home/secrets/tor", "hush");
        let plan = Plan { secret_files: vec![secret.clone()], read_write: vec![world.path("home")], ..world.plan() };
        world.jail(&plan, |_| {
            assert!(!secret.exists());
            let moved = fs::rename(world.path("home/secrets"), world.path("home/moved"));
            assert_eq!(errno(moved), Errno::EBUSY);
        });
        let open = world.write("work/tor", "hush");
        let plan = Plan { secret_files: vec![open], ..world.plan() };
        world.try_jail(&plan, |built| {
            assert!(matches!(built, Err(MountError::SecretInOpenFolder { .. })));
        });
    }
}

#[test]
fn keys_above_the_working_folder_are_an_error() {
    for world in World::each() {
        let plan = Plan { masked_folders: vec![world.path("work")], ..world.plan() };
        world.try_jail(&plan, |built| assert!(matches!(built, Err(MountError::KeysInWorkingFolder { .. }))));
    }
}

#[test]
fn a_masked_folder_that_does_not_exist_yet_is_made_outside_and_masked() {
    for world in World::each() {
        let folder = world.path("work/.wippy/net");
        fs::create_dir(world.path("work/.wippy")).unwrap();
        world.give(&world.path("work/.wippy"));
        let plan = Plan { masked_folders: vec![folder.clone()], ..world.plan() };
        world.jail(&plan, |_| {
            assert_eq!(errno(fs::write(folder.join("key"), "")), Errno::EROFS);
            assert_eq!(errno(fs::rename(".wippy", "other")), Errno::EBUSY);
        });
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn roots_payload_writes_its_working_folder_and_private_places_only() {
    for world in World::each().iter().filter(|w| w.uid == 0) {
        let other = world.path("home");
        let plan = Plan { read_write: vec![other.clone()], tmp: TmpView::Empty, ..world.plan() };
        world.jail(&plan, |_| {
            for path in
                ["/usr/x", "/x", "/root/x", "/var/x", "/var/lib/x", "/opt/x", "/home/x", "/etc/x", "/dev/x", "/sys/x"]
            {
                assert_eq!(errno(fs::write(path, "")), Errno::EROFS, "{path}");
            }
            for path in ["made".into(), "/tmp/x".into(), "/dev/shm/x".into(), "/run/x".into(), other.join("x")] {
                fs::write(path, "").unwrap();
            }
            let irq = fs::OpenOptions::new().write(true).open("/proc/irq/default_smp_affinity");
            assert!(matches!(errno(irq), Errno::EROFS | Errno::ENOENT));
            assert_eq!(errno(fs::OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")), Errno::EROFS);
            assert!(read("/proc/self/status").contains("CapEff:\t0000000000000000"));
        });
        for system in ["/", "/usr", "/var/lib", "/etc", "/usr/bin"] {
            let plan = Plan { cwd: system.into(), ..world.plan() };
            world.jail(&plan, |notes| {
                assert_eq!(errno(fs::write("netjail-x", "")), Errno::EROFS, "{system}");
                let said =
                    |n: &Note| matches!(n, Note::ReadOnlyWorkingFolder { .. } | Note::PrivateWorkingFolder { .. });
                assert!(notes.iter().any(said), "{system}: {notes:?}");
            });
        }
        let plan = Plan { nested_sandbox: true, ..world.plan() };
        world.try_jail(&plan, |built| assert!(matches!(built, Err(MountError::NestedSandboxAsRoot))));
    }
}

#[test]
fn a_nested_sandbox_can_mount_its_own_proc_when_it_is_allowed() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    for world in World::each().iter().filter(|w| w.uid != 0) {
        for (nested_sandbox, expected) in [(true, Errno::UnknownErrno), (false, Errno::EPERM)] {
            let plan = Plan { nested_sandbox, ..world.plan() };
            world.jail(&plan, |_| {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).unwrap();
                // SAFETY: the child ends in _exit.
                match unsafe { nix::unistd::fork() }.unwrap() {
                    nix::unistd::ForkResult::Child => {
                        let mounted = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>);
                        let code = mounted.err().map_or(0, |e| e as i32);
                        // SAFETY: ends this process only.
                        unsafe { libc::_exit(code) }
                    }
                    nix::unistd::ForkResult::Parent { child } => {
                        let status = nix::sys::wait::waitpid(child, None).unwrap();
                        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, expected as i32));
                    }
                }
            });
        }
    }
}
