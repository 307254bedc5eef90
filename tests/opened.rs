//! What a flag opens is open, and nothing beside it: unix sockets and the parts of a user's session.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::{Finished, Jail, Running};

/// A server outside that says its name to whoever connects.
fn listen(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let own = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        // Ends with the process: the tests need no end of it.
        for stream in own.incoming().flatten() {
            let _ = (&stream).write_all(name.as_bytes());
        }
    });
    listener
}

/// A jail whose proxy is not there: only sockets matter.
fn jail() -> Jail {
    Jail::socks5("127.0.0.1:9".parse().unwrap(), "")
}

/// What connecting from a jail gives.
fn reach(jail: &Jail, network: &str, path: &Path) -> String {
    let target = format!("unix:{}", path.display());
    let done = jail.run(network, &[&lab::jail::binary(), "demo-client", &target]);
    let said = done.out.trim().strip_prefix("netjail-demo: ").unwrap_or_else(|| panic!("{done:?}"));
    said.to_owned()
}

#[test]
fn a_socket_is_allowed_by_the_command_line() {
    let jail = jail();
    let (one, other) = (jail.work().join("one"), jail.work().join("other"));
    let (_one, _other) = (listen(&one), listen(&other));
    assert!(reach(&jail, "app:proxy", &one).starts_with("failed EACCES"), "the control");
    let jail = jail.with(&["--allow-socket", one.to_str().unwrap()]);
    assert_eq!(reach(&jail, "app:proxy", &one), "answered one");
    assert!(reach(&jail, "app:proxy", &other).starts_with("failed EACCES"));
    let missing = jail.with(&["--allow-socket", "/no/such/folder/s"]).run("app:proxy", &["true"]);
    assert!(missing.code() == 125 && missing.err.contains("/no/such/folder/s"), "{missing:?}");
}

#[test]
fn a_socket_is_allowed_by_the_entry_of_a_network() {
    let jail = jail();
    let (one, other) = (jail.work().join("one"), jail.work().join("other"));
    let (_one, _other) = (listen(&one), listen(&other));
    let entry = |name: &str, socket: &str| {
        format!("{{name: {name}, kind: network.socks5, host: 127.0.0.1, port: 9, allow_sockets: [\"{socket}\"]}}")
    };
    let folder = jail.work();
    let relative = format!("../{}/one", folder.file_name().unwrap().to_str().unwrap());
    let jail = jail.entry(&entry("opens", one.to_str().unwrap())).entry(&entry("relative", &relative));
    let jail = jail.entry(&entry("wrong", "/etc/passwd"));
    for network in ["app:opens", "app:relative"] {
        assert_eq!(reach(&jail, network, &one), "answered one");
        assert!(reach(&jail, network, &other).starts_with("failed EACCES"));
    }
    assert!(reach(&jail, "app:proxy", &one).starts_with("failed EACCES"), "another network of the same registry");
    let file = jail.registry_file();
    let words = ["networks".as_ref(), "--registry".as_ref(), file.as_os_str()];
    let listed = lab::child::run(jail.netjail(&words)).good();
    assert!(listed.out.contains(&format!("opens {}", one.display())), "{listed:?}");
    let wrong = jail.run("app:wrong", &["true"]);
    assert!(wrong.code() == 125 && wrong.err.contains("allow_sockets of app:wrong: /etc/passwd"), "{wrong:?}");
    // The stricter word wins over the registry's, and two words of one command line must agree.
    let closed = jail.with(&["--sockets", "none"]);
    assert!(reach(&closed, "app:opens", &one).starts_with("failed EAFNOSUPPORT"));
    let both = closed.with(&["--allow-socket", one.to_str().unwrap()]).run("app:proxy", &["true"]);
    assert!(both.code() == 125 && both.err.contains("--sockets none"), "{both:?}");
}

#[test]
fn an_allowed_socket_below_tmp_is_seen_alone_and_followed_when_its_server_restarts() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let (path, other) = (folder.path().join("served"), folder.path().join("other"));
    let (server, _other) = (listen(&path), listen(&other));
    let jail = jail().with(&["--allow-socket", path.to_str().unwrap()]);
    let client = format!("{} demo-client unix:{}", lab::jail::binary(), path.display());
    let line =
        format!("{client}; echo first; read x; {client}; {} demo-client unix:{}", lab::jail::binary(), other.display());
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    running.until("first");
    drop(server);
    std::fs::remove_file(&path).unwrap();
    let _again = listen(&path);
    running.say("go\n");
    let done = running.finish();
    assert_eq!(done.out.matches("answered served").count(), 2, "{done:?}");
    assert!(done.out.contains("failed ECONNREFUSED"), "its neighbour: {done:?}");
}

#[test]
fn a_jail_gets_no_other_socket_under_the_name_of_an_allowed_one_that_was_restarted() {
    let jail = jail();
    let (path, other) = (jail.work().join("served"), jail.work().join("other"));
    let (server, _other) = (listen(&path), listen(&other));
    let jail = jail.with(&["--allow-socket", path.to_str().unwrap()]);
    let line =
        format!("echo up; read x; mv -f other served && {} demo-client unix:{}", lab::jail::binary(), path.display());
    let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
    running.until("up");
    // This takes the mount off that keeps the name in the jail.
    drop(server);
    std::fs::remove_file(&path).unwrap();
    running.say("go\n");
    let done = running.finish();
    assert!(done.out.contains("failed EACCES"), "{done:?}");
}

#[test]
fn a_project_opens_no_socket_of_the_user_until_that_is_allowed() {
    let jail = jail();
    let outside = jail.home().join("agent");
    let _agent = listen(&outside);
    std::fs::create_dir(jail.work().join("src")).unwrap();
    std::fs::write(
        jail.work().join("src/_index.yaml"),
        format!(
            "namespace: app\nentries:\n  - {{name: x, kind: network.socks5, host: h, port: 1, allow_sockets: {}}}\n",
            outside.display()
        ),
    )
    .unwrap();
    let run = || lab::child::run(jail.netjail(&["run", "--network", "app:x", "--", "true"]));
    let refused = run();
    assert_eq!(refused.code(), 125, "{refused:?}");
    assert!(refused.err.contains("netjail allow") && refused.err.contains("agent"), "{refused:?}");
    assert_eq!(run().code(), 125, "not believed by trying twice");
    lab::child::run(jail.netjail(&["allow"])).good();
    run().good();
}

/// The server of a session, outside, in the session's environment.
fn serve(jail: &Jail, program: &str, words: &[&str]) -> Running {
    Running::start(jail.command(&lab::program(program).unwrap(), words))
}

fn until_socket(path: &Path) {
    lab::wait_for(&path.display().to_string(), Duration::from_secs(60), || path.exists().then_some(()));
}

/// A session folder with a short name: a socket's path holds 107 bytes.
fn session_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("nj").tempdir_in("/var/tmp").unwrap()
}

fn in_session(folder: &Path) -> Jail {
    jail().env("XDG_RUNTIME_DIR", folder.to_str().unwrap())
}

fn client(jail: &Jail, words: &[&str]) -> Finished {
    jail.run("app:proxy", words)
}

#[test]
fn a_program_reaches_the_x_display_with_the_sessions_cookie() {
    require!(lab::program("Xvfb").is_some() && lab::program("xdpyinfo").is_some(), "no Xvfb and xdpyinfo");
    let folder = session_folder();
    let authority = folder.path().join("authority");
    let display = x_server(&authority);
    let number = display.1.to_string();
    write_cookie(&authority, &number, b"0123456789abcdef");
    let session = || {
        in_session(folder.path()).env("DISPLAY", &format!(":{number}.0")).env("XAUTHORITY", authority.to_str().unwrap())
    };
    let closed = client(&session(), &["xdpyinfo", "-display", &format!(":{number}")]);
    assert_ne!(closed.code(), 0, "the control: {closed:?}");
    let seen = client(&session().with(&["--allow", "display"]), &["xdpyinfo"]).good();
    assert!(seen.out.contains(&format!("name of display:    :{number}.0")), "{seen:?}");
    let shown = client(&session().with(&["--allow", "display"]), &["sh", "-c", "cat \"$XAUTHORITY\""]).good();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(
        !shown.out.contains(&host) && shown.out.contains("0123456789abcdef"),
        "the cookie names no host: {shown:?}"
    );
    // The server does ask for the cookie.
    let wrong = folder.path().join("wrong");
    write_cookie(&wrong, &number, b"not the cookie!!");
    let session = || session().env("XAUTHORITY", wrong.to_str().unwrap()).with(&["--allow", "display"]);
    assert_ne!(client(&session(), &["xdpyinfo"]).code(), 0);
    let remote = client(&session().env("DISPLAY", "localhost:1"), &["true"]);
    assert!(remote.code() == 125 && remote.err.contains("over the network"), "{remote:?}");
}

/// An X server that wants the cookie, and its number.
fn x_server(authority: &Path) -> (Running, u32) {
    write_cookie(authority, "", b"0123456789abcdef");
    let mut command = Command::new(lab::program("Xvfb").unwrap());
    command.args(["-displayfd", "1", "-nolisten", "tcp", "-auth"]).arg(authority);
    let mut server = Running::start(command);
    let number = server.until("\n").trim().parse().unwrap();
    (server, number)
}

/// An authority file (Xau(3)) with a cookie of this host.
fn write_cookie(file: &Path, display: &str, cookie: &[u8]) {
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let mut entry = 256u16.to_be_bytes().to_vec();
    for field in [host.as_bytes(), display.as_bytes(), b"MIT-MAGIC-COOKIE-1", cookie] {
        entry.extend((field.len() as u16).to_be_bytes());
        entry.extend(field);
    }
    std::fs::write(file, entry).unwrap();
}

#[test]
fn a_program_reaches_the_wayland_compositor() {
    require!(lab::program("weston").is_some() && lab::program("wayland-info").is_some(), "no weston and wayland-info");
    let folder = session_folder();
    let session = || in_session(folder.path()).env("WAYLAND_DISPLAY", "lab-wayland");
    let words = ["--backend=headless-backend.so", "--socket=lab-wayland", "--idle-time=0", "--no-config"];
    // The compositor is not to be a client of the one that the variable names.
    let _weston = serve(&in_session(folder.path()), "weston", &words);
    until_socket(&folder.path().join("lab-wayland"));
    assert_ne!(client(&session(), &["env", "WAYLAND_DISPLAY=lab-wayland", "wayland-info"]).code(), 0, "the control");
    let seen = client(&session().with(&["--allow", "wayland"]), &["wayland-info"]).good();
    assert!(seen.out.contains("wl_compositor"), "{seen:?}");
}

#[test]
fn a_program_reaches_the_sound_server() {
    require!(lab::program("pulseaudio").is_some() && lab::program("pactl").is_some(), "no pulseaudio and pactl");
    let folder = session_folder();
    let session = || in_session(folder.path());
    let words = ["--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes", "-n", "-L"];
    let native = format!("module-native-protocol-unix socket={}", folder.path().join("pulse/native").display());
    std::fs::create_dir(folder.path().join("pulse")).unwrap();
    let _pulse = serve(&session(), "pulseaudio", &[&words[..], &[&native, "-L", "module-null-sink"]].concat());
    until_socket(&folder.path().join("pulse/native"));
    let server = format!("PULSE_SERVER=unix:{}", folder.path().join("pulse/native").display());
    assert_ne!(client(&session(), &["env", &server, "pactl", "info"]).code(), 0, "the control");
    let seen = client(&session().with(&["--allow", "audio"]), &["pactl", "info"]).good();
    assert!(seen.out.contains("Server Name: pulseaudio"), "{seen:?}");
}

#[test]
fn a_program_reaches_the_session_bus() {
    require!(lab::program("dbus-daemon").is_some() && lab::program("dbus-send").is_some(), "no dbus");
    let folder = session_folder();
    let address = format!("unix:path={}", folder.path().join("bus").display());
    let _bus = serve(&in_session(folder.path()), "dbus-daemon", &["--session", "--nofork", "--address", &address]);
    until_socket(&folder.path().join("bus"));
    let session = || in_session(folder.path()).env("DBUS_SESSION_BUS_ADDRESS", &address);
    let ask =
        ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.GetId"];
    let by_hand = format!("DBUS_SESSION_BUS_ADDRESS={address}");
    assert_ne!(client(&session(), &[&["env", &by_hand][..], &ask].concat()).code(), 0, "the control");
    let seen = client(&session().with(&["--allow", "dbus"]), &ask).good();
    assert!(seen.out.contains("method return"), "{seen:?}");
    let both = client(&session().with(&["--allow", "dbus", "--sockets", "none"]), &["true"]);
    assert_eq!(both.code(), 125, "{both:?}");
}

#[test]
fn the_sessions_folder_in_run_is_private_and_holds_the_one_socket() {
    root_only!();
    // An ordinary user's folder there is made by the login; root can make it.
    let base = PathBuf::from("/run/user");
    std::fs::create_dir_all(&base).unwrap();
    let folder = tempfile::Builder::new().prefix("lab").tempdir_in(base).unwrap();
    let (_bus, _other) = (listen(&folder.path().join("bus")), listen(&folder.path().join("other")));
    let jail = in_session(folder.path()).with(&["--allow", "dbus"]);
    let seen = client(&jail, &["sh", "-c", "ls \"$XDG_RUNTIME_DIR\"; stat -c %a \"$XDG_RUNTIME_DIR\""]).good();
    assert_eq!(seen.out, "bus\n700\n");
    assert_eq!(reach(&jail, "app:proxy", &folder.path().join("bus")), "answered bus");
}

#[test]
fn a_command_of_exec_finds_what_the_jail_was_opened_to() {
    let folder = session_folder();
    let _bus = listen(&folder.path().join("bus"));
    let jail = in_session(folder.path()).with(&["--allow", "dbus", "--name", "opened"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo up; read x"]);
    running.until("up");
    let words: [&OsStr; 5] = ["exec", "opened", "--", "sh", "-c"].map(OsStr::new);
    let line = OsStr::new("echo \"$DBUS_SESSION_BUS_ADDRESS\"");
    let said = lab::child::run(jail.netjail(&[&words[..], &[line]].concat())).good();
    assert_eq!(said.out.trim(), format!("unix:path={}", folder.path().join("bus").display()));
}

#[test]
fn syslog_stays_in_the_jail_and_becomes_lines_of_netjails() {
    require!(lab::program("logger").is_some(), "no logger");
    let jail = jail();
    let line = ["logger", "-t", "lab", "hello \u{1b}[31mred"];
    let closed = client(&jail, &line);
    assert!(!closed.err.contains("hello"), "the control: {closed:?}");
    let open = client(&jail.with(&["--allow-datagrams"]), &line).good();
    let said = open.err.lines().find(|l| l.contains("hello")).unwrap_or_else(|| panic!("{open:?}"));
    assert!(said.starts_with("netjail: log: ") && said.contains("lab"), "{open:?}");
    assert!(!said.contains('\u{1b}') && !said.contains("<13>"), "{open:?}");
}

#[test]
fn a_notification_reaches_the_service_manager_from_the_pid_that_it_knows() {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
    require!(lab::program("systemd-notify").is_some(), "no systemd-notify");
    let folder = session_folder();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(lab::child::PATIENCE)).unwrap();
    setsockopt(&manager, sockopt::PassCred, &true).unwrap();
    let jail = jail().env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "30000000");
    let jail = jail.with(&["--allow-datagrams"]);
    let line = "systemd-notify --ready --status='it runs' && echo $WATCHDOG_USEC; read x";
    let mut running = jail.start("app:proxy", &["sh", "-c", line]);
    running.until("30000000");
    let mut buffer = [0; 512];
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(nix::libc::ucred);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&manager);
    let got = recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty()).unwrap();
    let sender = got.cmsgs().unwrap().find_map(|part| match part {
        ControlMessageOwned::ScmCredentials(who) => Some(who.pid()),
        _ => None,
    });
    assert_eq!(sender, Some(running.pid()));
    let length = got.bytes;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(text.contains("READY=1") && text.contains("STATUS=it runs") && !text.contains("MAINPID"), "{text}");
    running.say("go\n");
    running.finish().good();
}

#[test]
fn a_command_that_failed_for_want_of_what_a_jail_does_not_give_is_told_of_the_flag() {
    let jail = jail();
    let socket = jail.work().join("agent");
    let _agent = listen(&socket);
    let ask = [&lab::jail::binary(), "demo-client", &format!("unix:{}", socket.display())];
    let flag = format!("--allow-socket {}", socket.display());
    let refused = jail.run("app:proxy", &ask);
    assert!(refused.code() == 1 && refused.err.contains(&flag), "{refused:?}");
    let quiet = Jail::socks5("127.0.0.1:9".parse().unwrap(), "").with(&["-q"]).run("app:proxy", &ask);
    assert_eq!(quiet.err, "", "{quiet:?}");
    let fine = jail.shell("app:proxy", &format!("{} demo-client unix:{}; true", ask[0], socket.display())).good();
    assert!(!fine.err.contains("--allow"), "it did not fail: {fine:?}");
    // A program by its name, and one by its libraries; each only where the variable was dropped.
    require!(lab::program("dbus-send").is_some() && lab::program("xdpyinfo").is_some(), "no dbus-send and xdpyinfo");
    let session = || self::jail().env("DISPLAY", ":77").env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus");
    let bus = ["dbus-send", "--session", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.GetId"];
    assert!(session().run("app:proxy", &bus).err.contains("--allow dbus"));
    assert!(!self::jail().run("app:proxy", &bus).err.contains("--allow"));
    assert!(session().run("app:proxy", &["xdpyinfo"]).err.contains("--allow display"));
    assert!(!session().run("app:proxy", &["false"]).err.contains("--allow"));
}
