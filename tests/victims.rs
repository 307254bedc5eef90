//! Real services outside, each of which would act for whoever reaches its socket: every attack works from a plain user and
//! network namespace (`unshare -Ucn`, so that the attack can fail) and does not work from a jail.
//!
//! `netjail selftest` attacks stand-ins on any machine (tests/leaks.rs); these are the things that people run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::{Finished, Jail, Running};

const SECRET: &str = "lab-secret-5581";

/// The network namespace of whoever is not jailed: what an attacker's process outside prints of itself.
fn host_network() -> String {
    std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap().to_owned()
}

/// The line in user and network namespaces of its own, which hold back packets and nothing else. The user keeps his uid:
/// D-Bus compares what a client says of itself with what the kernel says.
fn in_plain_namespaces(jail: &Jail, line: &str) -> Finished {
    lab::child::run(jail.command(Path::new("unshare"), &["-Ucn", "--", "sh", "-c", line]))
}

/// The attack succeeds without a jail, and not with one; `got_out` looks at what came of it and takes it away.
fn assert_contained(jail: &Jail, line: &str, got_out: impl Fn(&Finished) -> bool) {
    let control = in_plain_namespaces(jail, line);
    assert!(got_out(&control), "the attack proves nothing, it fails without a jail: {line}\n{control:#?}");
    let done = jail.shell("nil", line);
    assert!(!got_out(&done), "it got out: {line}\n{done:#?}");
    assert_ne!(done.code(), 125, "{done:#?}");
}

/// What a process outside wrote, if it was made to; the file is removed.
fn was_acted_outside(marker: &Path) -> bool {
    let text = std::fs::read_to_string(marker).unwrap_or_default();
    let _ = std::fs::remove_file(marker);
    text.trim() == host_network()
}

/// A server that the caller started for himself, ready when its socket is there.
fn start(jail: &Jail, program: &str, words: &[&str], socket: &Path) -> Running {
    let mut running = Running::start(jail.command(&lab::program(program).unwrap(), words));
    lab::wait_for(program, Duration::from_secs(20), || {
        assert!(!running.ended(), "{program}: {}{}", running.out(), running.err());
        socket.exists().then_some(())
    });
    running
}

/// Like systemd's `StartTransientUnit`: a call starts a program of the caller's choice, as a child of the daemon.
#[test]
fn a_session_bus_starts_nothing_for_a_jail() {
    require!(lab::program("dbus-daemon").is_some(), "no dbus-daemon");
    let jail = Jail::new();
    let (folder, marker, bus) = (jail.home(), jail.work().join("marker"), jail.home().join("bus"));
    let config = format!(
        "<busconfig><type>session</type><listen>unix:path={}</listen><servicedir>{}</servicedir>\
         <policy context='default'><allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>",
        bus.display(),
        folder.display()
    );
    std::fs::write(folder.join("bus.conf"), config).unwrap();
    let service = format!(
        "[D-BUS Service]\nName=test.Lab\nExec=/bin/sh -c \"readlink /proc/self/ns/net >{}\"\n",
        marker.display()
    );
    std::fs::write(folder.join("test.Lab.service"), service).unwrap();
    let config = format!("--config-file={}", folder.join("bus.conf").display());
    let _bus = start(&jail, "dbus-daemon", &["--nofork", &config], &bus);
    let send = format!("dbus-send --bus=unix:path={} --print-reply --dest", bus.display());
    assert_contained(&jail, &format!("{send}=org.freedesktop.DBus / org.freedesktop.DBus.GetId"), |done| {
        done.out.contains("string")
    });
    assert_contained(&jail, &format!("{send}=test.Lab / test.Lab.Start"), |_| was_acted_outside(&marker));
}

#[test]
fn a_tmux_server_outside_runs_nothing_for_a_jail() {
    require!(lab::program("tmux").is_some(), "no tmux");
    let jail = Jail::new();
    let (socket, marker) = (jail.home().join("tmux.sock"), jail.work().join("marker"));
    let at = socket.to_str().unwrap();
    let server =
        jail.command(&lab::program("tmux").unwrap(), &["-S", at, "-f", "/dev/null", "new-session", "-d", "cat"]);
    lab::child::run(server).good();
    let line = format!("tmux -S {at} run-shell 'readlink /proc/self/ns/net >{}'", marker.display());
    assert_contained(&jail, &line, |_| was_acted_outside(&marker));
    lab::child::run(jail.command(&lab::program("tmux").unwrap(), &["-S", at, "kill-server"])).good();
}

/// Docker's way to speak: HTTP over a unix socket.
#[test]
fn an_http_service_on_a_unix_socket_does_not_answer_a_jail() {
    require!(lab::program("curl").is_some(), "no curl");
    let jail = Jail::new();
    let socket = jail.home().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{SECRET}", SECRET.len());
        }
    });
    symlink(&socket, jail.work().join("link.sock")).unwrap();
    std::fs::hard_link(&socket, jail.work().join("hard.sock")).unwrap();
    for path in [socket.to_str().unwrap(), "link.sock", "hard.sock", "../home/docker.sock"] {
        let line = format!("curl -sS --max-time 30 --unix-socket {path} http://docker/containers/json");
        assert_contained(&jail, &line, |done| done.out.contains(SECRET));
    }
}

#[test]
fn an_ssh_agent_outside_shows_no_key_to_a_jail() {
    require!(lab::program("ssh-agent").is_some(), "no ssh-agent");
    let jail = Jail::new();
    let (socket, key) = (jail.home().join("agent.sock"), jail.home().join("key"));
    let (at, file) = (socket.to_str().unwrap(), key.to_str().unwrap());
    let _agent = start(&jail, "ssh-agent", &["-D", "-a", at], &socket);
    let run = |program: &str, words: &[&str]| {
        let mut command = jail.command(&lab::program(program).unwrap(), words);
        command.env("SSH_AUTH_SOCK", at);
        lab::child::run(command).good();
    };
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", SECRET, "-f", file]);
    run("ssh-add", &[file]);
    std::fs::remove_file(&key).unwrap();
    assert_contained(&jail, &format!("SSH_AUTH_SOCK={at} ssh-add -l"), |done| done.out.contains(SECRET));
}

/// A jail that plays the user's own server in /tmp would receive his terminal, or his keys' use.
#[test]
fn a_fake_server_in_tmp_catches_no_client_outside() {
    require!(lab::program("tmux").is_some() && lab::program("ssh-agent").is_some(), "no tmux or no ssh-agent");
    let names = tempfile::tempdir_in("/tmp").unwrap();
    let at = |name: &str| format!("{}.{name}", names.path().display());
    let (tmux, agent) = (at("tmux"), at("agent"));
    let line = format!(
        "tmux -S {tmux} -f /dev/null new-session -d -s caught cat && ssh-agent -a {agent} && \
         tmux -S {tmux} ls && SSH_AUTH_SOCK={agent} ssh-add -l; echo up; read x; tmux -S {tmux} kill-server; kill $SSH_AGENT_PID"
    );
    let jail = Jail::new();
    let clients = || {
        let mut list = Command::new("tmux");
        list.args(["-S", &tmux, "ls"]);
        let mut keys = Command::new("ssh-add");
        keys.arg("-l").env("SSH_AUTH_SOCK", &agent);
        // ssh-add: 1 is an agent without keys, 2 is no agent.
        (lab::child::run(list).out.contains("caught"), lab::child::run(keys).code() == 1)
    };
    let mut plain =
        Running::start(jail.command(Path::new("unshare"), &["-Ucnpf", "--kill-child", "--", "sh", "-c", &line]));
    plain.until("up");
    assert_eq!(clients(), (true, true), "nobody is caught without a jail: {}", plain.err());
    plain.say("end\n");
    plain.finish();
    for path in [&tmux, &agent] {
        let _ = std::fs::remove_file(path);
    }
    let mut inside = jail.start("nil", &["sh", "-c", &line]);
    let said = inside.until("up");
    assert!(said.contains("caught") && said.contains("no identities"), "both work inside: {said}");
    assert_eq!(clients(), (false, false), "somebody was caught");
    assert!(!Path::new(&tmux).exists() && !Path::new(&agent).exists());
    inside.say("end\n");
    inside.finish();
}

/// Answers questions for users, groups and host names by its own resolver, at a fixed path: in mounts of the test's own.
#[test]
fn a_name_service_cache_answers_no_jail() {
    root_only!();
    require!(lab::program("nscd").is_some(), "no nscd");
    require!(lab::ordinary_user().is_some(), "no ordinary user to become");
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let jail = Jail::of_an_ordinary_user().unwrap();
    let root = Jail::new();
    // Version 2, GETHOSTBYNAME, the length of the name; the answer's fields 2 and 5 are `found` and the count of addresses.
    let ask = "import socket, struct; s = socket.socket(socket.AF_UNIX); s.connect('/run/nscd/socket')\n\
               n = b'secret.lab\\0'; s.sendall(struct.pack('iii', 2, 4, len(n)) + n); d = s.recv(99)\n\
               f = struct.unpack('8i', d[:32]); print('found', f[1]); print(d)\n";
    for folder in [&jail, &root] {
        std::fs::write(folder.work().join("ask.py"), ask).unwrap();
    }
    let hosts = root.home().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n192.0.2.99 secret.lab\n").unwrap();
    let attack = format!("{} ask.py", python.unwrap().display());
    let user = lab::ordinary_user().unwrap().name;
    let netjail = |folder: &Jail, more: &str| {
        format!(
            "cd {} && {} run --registry {} --network nil {more} -- sh -c '{attack}' 2>&1",
            folder.work().display(),
            lab::jail::binary(),
            folder.registry_file().display()
        )
    };
    let script = format!(
        "set -e; mount -t tmpfs none /run; mkdir -p /run/nscd; mount --bind {hosts} /etc/hosts\n\
         nscd -d >/run/log 2>&1 & nscd=$!\n\
         until [ -S /run/nscd/socket ]; do kill -0 $nscd; sleep 0.02; done; set +e\n\
         echo control-root; cd {root_work}; unshare -Ucn sh -c '{attack}' 2>&1\n\
         echo control-user; cd {user_work}; runuser -u {user} -- unshare -Ucn sh -c '{attack}' 2>&1\n\
         echo jail-root; {as_root}\necho jail-user; {as_user}\nkill $nscd",
        hosts = hosts.display(),
        root_work = root.work().display(),
        user_work = jail.work().display(),
        as_root = netjail(&root, ""),
        as_user = netjail(&jail, &format!("--user {user}")),
    );
    let done = lab::child::run(root.command(Path::new("unshare"), &["-m", "--", "bash", "-c", &script]));
    let (controls, jails) = done.out.split_once("jail-root").unwrap_or_else(|| panic!("{done:#?}"));
    assert_eq!(controls.matches("found 1").count(), 2, "{done:#?}");
    assert!(
        !jails.contains("found")
            && jails.matches("ConnectionRefused").count() + jails.matches("FileNotFound").count() == 2,
        "{done:#?}"
    );
}

/// `systemd-run --user` and `systemd-run`: anything at all, outside, as whom one is.
#[test]
fn a_service_manager_starts_nothing_for_a_jail() {
    root_only!();
    require!(lab::systemd::lack().is_none(), "{}", lab::systemd::lack().unwrap());
    let script = r#"
useradd -m u; loginctl enable-linger u; id=$(id -u u)
until [ -S /run/user/$id/bus ] && [ -S /run/user/$id/systemd/private ]; do sleep 0.05; done
env="XDG_RUNTIME_DIR=/run/user/$id DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$id/bus"
mkdir /w; chmod 777 /w; cd /w
as_user() { runuser -u u -- env HOME=/home/u "$@" 2>&1; }
for by in '' "XDG_RUNTIME_DIR=/run/user/$id"; do
    [ -n "$by" ] || by=$env
    attack="env $by systemd-run --user --wait -q touch /w/started"
    as_user unshare -Ucn sh -c "$attack"; [ -e /w/started ] && echo control-user; rm -f /w/started
    as_user /netjail run --network nil -- sh -c "$attack; echo tried-user \$?"
    [ -e /w/started ] && echo STARTED-user; rm -f /w/started
done
attack='systemd-run --wait -q touch /w/started'
unshare -Ucn sh -c "$attack" 2>&1; [ -e /w/started ] && echo control-root; rm -f /w/started
/netjail run --network nil -- sh -c "$attack; echo tried-root \$?" 2>&1
[ -e /w/started ] && echo STARTED-root
true"#;
    let script = format!("cat >/inner <<'EOF'\n{script}\nEOF\nbash /inner");
    let done = lab::systemd::boot(&script, &[]);
    let out = &done.out;
    assert!(out.matches("control-user").count() >= 1 && out.contains("control-root"), "{done:#?}");
    assert!(out.matches("tried-user").count() == 2 && out.contains("tried-root"), "{done:#?}");
    assert!(!out.contains("STARTED") && !out.contains("tried-user 0") && !out.contains("tried-root 0"), "{done:#?}");
}

/// A mirror of a folder, served by a process of the same user.
struct Fuse {
    _server: Running,
    at: PathBuf,
}

impl Fuse {
    fn new(jail: &Jail, at: &Path) -> Self {
        let source = jail.home().join("served");
        std::fs::create_dir_all(&source).unwrap();
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(source.join("file"), SECRET).unwrap();
        let words = ["-f", "--no-allow-other", source.to_str().unwrap(), at.to_str().unwrap()];
        let server = start(jail, "bindfs", &words, &at.join("file"));
        Self { _server: server, at: at.to_owned() }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let mut unmount = Command::new("fusermount3");
        unmount.arg("-uz").arg(&self.at);
        let _ = lab::child::run(unmount);
    }
}

fn no_fuse() -> Option<&'static str> {
    if lab::program("bindfs").is_none() || lab::program("fusermount3").is_none() {
        return Some("no bindfs or no fusermount3");
    }
    std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err().then_some("/dev/fuse can't be opened")
}

#[test]
fn a_fuse_server_outside_serves_no_jail_unless_it_is_allowed() {
    require!(no_fuse().is_none(), "{}", no_fuse().unwrap());
    let jail = Jail::new();
    // Not below the home, where every jail that starts meanwhile would be refused.
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = place.path().join("mounted");
    let _mount = Fuse::new(&jail, &at);
    let read = format!("cat {}/file; cat /proc/self/mountinfo", at.display());
    assert_contained(&jail, &read, |done| done.out.contains(SECRET) || done.out.contains("fuse"));
    // In a folder that the jail needs it is not left out silently: the start is refused, with path, type and flag.
    let work_here = |words: &[&str]| {
        let jail = Jail::new().with(words);
        let mut command = jail.run_command("nil", &["cat", "mounted/file"]);
        command.current_dir(place.path());
        lab::child::run(command)
    };
    let done = work_here(&[]);
    assert_eq!(done.code(), 125, "{done:#?}");
    for word in [at.to_str().unwrap(), "fuse", "--allow-netfs"] {
        assert!(done.err.contains(word), "{word}: {done:#?}");
    }
    assert_eq!(work_here(&["--allow-netfs"]).good().out, SECRET);
}

/// Whoever mounts FUSE can make every process that looks there wait for ever, netjail's own as well.
#[test]
fn a_jail_mounts_no_fuse() {
    require!(no_fuse().is_none(), "{}", no_fuse().unwrap());
    let jail = Jail::new();
    std::fs::create_dir_all(jail.work().join("to")).unwrap();
    std::fs::create_dir_all(jail.work().join("from")).unwrap();
    std::fs::write(jail.work().join("from/file"), SECRET).unwrap();
    let line = "bindfs from to; cat to/file; umount to";
    let control = lab::child::run(jail.command(Path::new("unshare"), &["-Urnm", "--", "sh", "-c", line]));
    assert!(control.out.contains(SECRET), "the attack proves nothing: {control:#?}");
    for flags in [&[][..], &["--allow-nested-sandbox"], &["--allow-netfs"]] {
        for inside in [line.to_owned(), format!("unshare -Urm sh -c '{line}'"), format!("unshare -Ucm sh -c '{line}'")]
        {
            // Root is refused this flag.
            let nested = flags.contains(&"--allow-nested-sandbox");
            let jail = if nested { Jail::of_an_ordinary_user() } else { Some(Jail::new()) };
            require!(jail.is_some(), "no ordinary user to become");
            let files = format!("mkdir from to; echo {SECRET} >from/file; {inside}");
            let done = jail.unwrap().with(flags).shell("nil", &files);
            assert!(!done.out.contains(SECRET) && done.code() != 125, "{flags:?}: {done:#?}");
        }
    }
}

/// A payload without any capability can attach to its jail's queue, if it gets at the device.
#[test]
fn no_flag_shows_the_devices_of_tun_and_fuse() {
    require!(Path::new("/dev/net/tun").exists(), "no /dev/net/tun");
    let line = "find /dev /run /tmp /var/tmp /proc/1/root/dev -type c \\( -name tun -o -name fuse -o -name 'vhost*' \\) 2>/dev/null; \
                for d in 10:200 10:229; do mknod node c ${d%:*} ${d#*:} && (: <node) && echo made $d; done; \
                (: <>/dev/net/tun) && echo opened; ls /dev | tr '\\n' ' '";
    let mut all: Vec<Vec<&str>> = [
        "--allow-nested-sandbox",
        "--allow-datagrams",
        "--allow-netfs",
        "--share-tmp",
        "--tmp",
        "--sockets=host",
        "--sockets=none",
        "--home=ro",
        "--home=tmp",
        "--rw=/dev",
        "--ro=/dev",
        "--allow-lan",
        "--proc=host-masked",
        "--allow-socket=/dev",
        "--env-clear",
    ]
    .map(|flag| vec![flag])
    .into();
    all.push(vec![]);
    for flags in all {
        let done = Jail::new().with(&flags).shell("nil", line);
        if done.code() == 125 {
            // Some are refused for a path like /dev, which is as good; but not for want of knowing the flag.
            assert!(!done.err.contains("unexpected argument"), "{flags:?}: {done:#?}");
            continue;
        }
        let devices = done.out.lines().last().unwrap_or_default();
        assert_eq!(done.out.lines().count(), 1, "{flags:?}: {done:#?}");
        assert!(!devices.contains("net") && !devices.contains("fuse"), "{flags:?}: {done:#?}");
    }
}
