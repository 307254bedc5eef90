//! The flags of `run` that open or close something, each through the program itself: closed without, open with, and no more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use lab::{Finished, Jail, Running};

/// A jail whose proxy is not there: only files and processes matter.
fn jail(flags: &[&str]) -> Jail {
    Jail::socks5("127.0.0.1:9".parse().unwrap(), "").with(flags)
}

fn shell(jail: &Jail, line: &str) -> Finished {
    jail.shell("app:proxy", line)
}

/// The caller's folders, as a jail of that flag has them.
fn in_home(flags: &[&str], line: &str) -> (Jail, Finished) {
    let jail = jail(flags);
    std::fs::write(jail.home().join("mine"), "mine\n").unwrap();
    let done = shell(&jail, line);
    (jail, done)
}

#[test]
fn home_is_the_callers_own() {
    let (jail, done) = in_home(&[], "cat \"$HOME/mine\"; echo x >\"$HOME/new\"");
    assert_eq!(done.out, "mine\n");
    // Root's jails write their working folder alone.
    assert_eq!(jail.home().join("new").exists(), !lab::is_root(), "{done:?}");
}

#[test]
fn home_ro_can_be_read_and_not_written() {
    let (jail, done) =
        in_home(&["--home", "ro"], "cat \"$HOME/mine\"; echo x >\"$HOME/new\"; echo w >work && cat work");
    assert_eq!(done.out, "mine\nw\n", "the working folder stays: {done:?}");
    assert!(done.err.contains("Read-only") && !jail.home().join("new").exists(), "{done:?}");
}

#[test]
fn home_tmp_is_empty_and_gone_at_the_end() {
    let line = "ls -A \"$HOME\"; echo x >\"$HOME/new\" && cat \"$HOME/new\"; echo w >work && cat work";
    let (jail, done) = in_home(&["--home", "tmp"], line);
    assert_eq!(done.out, "x\nw\n", "{done:?}");
    assert!(!jail.home().join("new").exists() && jail.home().join("mine").exists());
    assert!(jail.work().join("work").exists(), "the working folder is the real one");
}

#[test]
fn ro_closes_a_folder() {
    let jail = jail(&[]);
    std::fs::create_dir(jail.work().join("kept")).unwrap();
    let jail = jail.with(&["--ro", "kept"]);
    let done = shell(&jail, "echo x >kept/new; echo y >new && cat new");
    assert_eq!(done.out, "y\n");
    assert!(done.err.contains("Read-only") && !jail.work().join("kept/new").exists(), "{done:?}");
}

#[test]
fn rw_opens_a_folder_that_would_be_read_only() {
    let jail = jail(&["--home", "ro"]);
    let folder = jail.home().join("open");
    std::fs::create_dir(&folder).unwrap();
    let line = format!("echo x >{}/new", folder.display());
    shell(&jail, &line);
    assert!(!folder.join("new").exists(), "the control");
    let jail = jail.with(&["--rw", folder.to_str().unwrap()]);
    let done = shell(&jail, &line).good();
    assert!(folder.join("new").exists(), "{done:?}");
}

#[test]
fn tmp_is_empty_and_private() {
    let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let name = file.path().display();
    let line = format!("cat {name}; ls -A /tmp | grep -c . ; echo x >/tmp/nj-made-inside && cat /tmp/nj-made-inside");
    std::fs::write(file.path(), "outside\n").unwrap();
    assert!(shell(&jail(&[]), &line).out.starts_with("outside\n"), "the control: the host's files can be read");
    let done = shell(&jail(&["--tmp"]), &line);
    assert_eq!(done.out, "0\nx\n", "{done:?}");
    assert!(!std::path::Path::new("/tmp/nj-made-inside").exists());
}

#[test]
fn share_tmp_is_the_hosts_own() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let line = format!("echo x >{}/made", folder.path().display());
    shell(&jail(&[]), &line).good();
    assert!(!folder.path().join("made").exists(), "the control: what is written stays inside");
    shell(&jail(&["--share-tmp"]), &line).good();
    assert!(folder.path().join("made").exists());
}

#[test]
fn keep_fd_passes_a_file_on_and_no_socket() {
    let jail = jail(&["--keep-fd", "9"]);
    let file = jail.work().join("given");
    std::fs::write(&file, "given\n").unwrap();
    let run = |fd: i32| {
        let mut command = jail.run_command("app:proxy", &["cat", "/proc/self/fd/9"]);
        // It may be number 9 already, and then keeps the flag that closes it. SAFETY: both calls take integers.
        let nine = move || match unsafe { (libc::dup2(fd, 9), libc::fcntl(9, libc::F_SETFD, 0)) } {
            (9, 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        // SAFETY: dup2 and fcntl take integers, and may be called behind fork.
        unsafe { command.pre_exec(nine) };
        Running::start(command).finish()
    };
    let given = std::fs::File::open(&file).unwrap();
    assert_eq!(run(given.as_raw_fd()).good().out, "given\n");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = run(socket.as_raw_fd());
    assert!(refused.code() == 125 && refused.err.contains("unix stream socket"), "{refused:?}");
}

#[test]
fn user_is_who_the_command_is() {
    root_only!();
    let folder = tempfile::Builder::new().prefix("nj").tempdir_in("/var/tmp").unwrap();
    let copy = folder.path().join("netjail");
    lab::copy(lab::jail::binary(), &copy);
    for path in [folder.path(), &copy] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut command = std::process::Command::new(&copy);
    command.current_dir("/").args(["run", "--user", "nobody", "--network", "nil", "--home", "tmp", "--", "id", "-u"]);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid;
    let done = lab::child::run(command);
    // A user whose home is nowhere has no place for netjail's state, which is said.
    assert!(done.out.trim() == nobody.to_string() || done.code() == 125 && done.err.contains("state"), "{done:?}");
    let mut command = std::process::Command::new(&copy);
    command.args(["run", "--user", "no-such-user", "--", "id"]);
    assert_eq!(lab::child::run(command).code(), 125);
}

#[test]
fn hostname_is_what_the_jail_sees() {
    assert_eq!(shell(&jail(&[]), "uname -n; cat /etc/hostname").good().out, "localhost\nlocalhost\n");
    assert_eq!(shell(&jail(&["--hostname", "there.example"]), "uname -n").good().out, "there.example\n");
    assert_eq!(shell(&jail(&["--hostname", "not a name"]), "true").code(), 125);
}

#[test]
fn sockets_host_reaches_what_the_file_system_shows() {
    let jail = jail(&[]);
    let path = jail.work().join("victim");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let ask = |jail: &Jail| shell(jail, &format!("{} demo-client unix:{}", lab::jail::binary(), path.display())).out;
    assert!(ask(&jail).contains("EACCES"), "the control");
    assert!(ask(&jail.with(&["--sockets", "host"])).contains("answered"));
}

#[test]
fn sockets_none_closes_those_of_the_jail_itself_too() {
    let line = "python3 -c 'import socket; socket.socket(socket.AF_UNIX)' 2>&1 | tail -1";
    require!(lab::program("python3").is_some(), "no python3");
    assert_eq!(shell(&jail(&[]), line).out, "", "the control");
    assert!(shell(&jail(&["--sockets", "none"]), line).out.contains("not supported"));
}

#[test]
fn a_nested_sandbox_runs_where_it_is_allowed() {
    require!(lab::program("bwrap").is_some(), "no bwrap");
    let bwrap = "bwrap --unshare-user --unshare-pid --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp echo nested";
    assert!(!shell(&jail(&[]), bwrap).out.contains("nested"), "the control");
    let open = shell(&jail(&["--allow-nested-sandbox"]), bwrap);
    if lab::is_root() {
        assert!(open.code() == 125 && open.err.contains("--user NAME"), "not for root, who owns /proc/sys: {open:?}");
    } else {
        assert_eq!(open.good().out, "nested\n");
        // What it opens is said; what it must not open stays closed.
        let line = format!(
            "{} 2>&1; echo x >/proc/sys/kernel/core_pattern; ls /dev/net",
            bwrap.replace("echo nested", "umount /etc")
        );
        let closed = shell(&jail(&["--allow-nested-sandbox"]), &line);
        assert!(closed.err.contains("Permission denied") && closed.err.contains("/dev/net"), "{closed:?}");
    }
}

#[test]
fn a_snapshot_that_would_show_what_is_hidden_can_not_be_taken() {
    root_only!();
    require!(
        lab::program("mkfs.btrfs").is_some() && std::path::Path::new("/dev/loop-control").exists(),
        "no btrfs or loop"
    );
    let jail = jail(&[]);
    let image = jail.home().join("image");
    std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    let line = format!(
        "mkfs.btrfs -q {image} && mkdir mnt && mount -o loop {image} mnt && btrfs -q subvolume create mnt/sub && \
         cd mnt/sub && btrfs -q subvolume snapshot . control && echo control; \
         \"$0\" run -q --registry {registry} --network app:proxy -- btrfs -q subvolume snapshot . inside && echo inside",
        image = image.display(),
        registry = jail.registry_file().display()
    );
    // The mount, and with it the loop device, is this namespace's alone.
    let unshare = lab::program("unshare").unwrap();
    let done = lab::child::run(jail.command(&unshare, &["-m", "sh", "-c", &line, &lab::jail::binary()]));
    assert!(done.out.contains("control\n"), "the control: {done:?}");
    assert!(!done.out.contains("inside\n") && done.err.contains("not permitted"), "{done:?}");
}
