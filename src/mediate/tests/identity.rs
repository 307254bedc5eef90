//! Which inode is which, on file systems whose numbers mislead.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use super::jail::*;
use crate::jail::seccomp::Options;

fn nested() -> Jail {
    Jail::with(Options { nested_sandbox: true, ..Options::default() }, &[])
}

#[test]
fn on_an_overlay_sockets_bound_inside_are_reached_and_those_below_are_dead() {
    let outer = folder();
    let at = |name: &str| outer.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let _host = UnixListener::bind(at("lower/host")).unwrap();
    let see = |bound: &str| {
        enter(CloneFlags::CLONE_NEWNS)?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={},userxattr",
            at("lower").display(),
            at("upper").display(),
            at("work").display()
        );
        mount(Some("overlay"), &at("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|e| format!("mount: {e}"))?;
        let server = UnixListener::bind(at("merged").join(bound)).map_err(|e| e.to_string())?;
        same!(reach(&at("merged/host")), libc::ECONNREFUSED);
        same!(reach(&at("merged").join(bound)), 0);
        server.accept().map_err(|e| e.to_string())?;
        // The same file by its way through the layer is another inode, which nobody listens on.
        let layer = reach(&at("upper").join(bound));
        check!(layer == libc::ECONNREFUSED || layer == libc::EACCES);
        Ok(())
    };
    unmediated(|| see("native")).good();
    nested().run(|| see("mediated"));
}

fn tool(name: &str, arguments: &[&Path]) -> bool {
    Command::new(name).args(arguments).output().is_ok_and(|out| out.status.success())
}

/// Two subvolumes whose first inodes have the same number: what sock_diag prints of them is the same too.
#[test]
fn on_btrfs_the_same_inode_number_of_another_subvolume_is_another_socket() {
    if !nix::unistd::geteuid().is_root() || !tool("mkfs.btrfs", &["--version".as_ref()]) {
        eprintln!("not applicable: needs root and btrfs-progs");
        return;
    }
    let outer = folder();
    let image = outer.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    assert!(tool("mkfs.btrfs", &["-q".as_ref(), &image]));
    let up = outer.path().join("mnt");
    std::fs::create_dir(&up).unwrap();
    // The mount is this child's alone: it and its loop device end with it.
    spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|e| e.to_string())?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(|e| e.to_string())?;
        if !tool("mount", &["-o".as_ref(), "loop".as_ref(), &image, &up]) {
            eprintln!("not applicable: no loop device");
            return Ok(());
        }
        for name in ["a", "b"] {
            let path = up.join(name);
            check!(tool("btrfs", &["-q".as_ref(), "subvolume".as_ref(), "create".as_ref(), &path]));
        }
        let host = UnixListener::bind(up.join("a/host")).map_err(|e| e.to_string())?;
        let number = |p: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).unwrap());
        let jail = Jail::new();
        jail.run(|| {
            let _inside = UnixListener::bind(up.join("b/inside")).map_err(|e| e.to_string())?;
            same!(number(&up.join("a/host")), number(&up.join("b/inside")));
            same!(reach(&up.join("b/inside")), 0);
            same!(reach(&up.join("a/host")), libc::EACCES);
            Ok(())
        });
        drop((jail, host));
        // The mediator's worker, which inherited all of this test's descriptors, is just ending.
        check!(eventually(|| tool("umount", &[&up])));
        Ok(())
    })
    .good();
}
