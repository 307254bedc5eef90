//! Bad input gets an error that names file, line, column, what was expected and what to do; it starts nothing and shows
//! no secret.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use lab::{Behaviour, Finished, Jail, Proxy};

/// `netjail check` and `netjail run` on a registry of this text; both must refuse.
fn refuse(text: &str) -> Finished {
    let jail = Jail::new();
    std::fs::write(jail.registry_file(), text).unwrap();
    let file = jail.registry_file().display().to_string();
    let check = lab::child::run(jail.netjail(&["check", "--registry", &file]));
    assert_eq!(check.code(), 1, "check: {check:?}");
    let run = jail.run("app:proxy", &["touch", "started"]);
    assert_eq!(run.code(), 125, "run: {run:?}");
    assert!(!jail.work().join("started").exists());
    assert!(run.err.contains("_index.yaml"), "the file: {run:?}");
    run
}

fn entries(yaml: &str) -> String {
    format!("version: \"1.0\"\nnamespace: app\nentries:\n{yaml}")
}

const GOOD: &str = "  - name: proxy\n    kind: network.socks5\n    host: 127.0.0.1\n    port: 1080\n";

#[test]
fn a_syntax_error_has_its_line() {
    let done = refuse("version: \"1.0\"\nnamespace: app\nentries: [\n  {name: proxy\n");
    assert!(done.err.contains(":4:") || done.err.contains(":5:"), "{done:?}");
}

#[test]
fn unknown_fields_and_kinds_of_networks_are_errors_with_the_nearest_word() {
    let done = refuse(&entries(&format!("{GOOD}    isolate_stream: true\n")));
    assert!(done.err.contains("isolate_streams") && done.err.contains(":8:5"), "{done:?}");
    let done = refuse(&entries("  - name: proxy\n    kind: network.socks\n    host: a\n    port: 1\n"));
    assert!(done.err.contains("network.socks5") && done.err.contains(":5:11"), "{done:?}");
}

#[test]
fn bad_values_say_what_was_expected() {
    for (line, expected) in [
        ("    port: 0\n", "65535"),
        ("    port: 65536\n", "65535"),
        ("    port: many\n", "65535"),
        ("    port: 1\n    connect_timeout: soon\n", "connect_timeout"),
        ("    port: 1\n    names: v6\n", "both"),
        ("    port: 1\n    isolate_streams: maybe\n", "jail"),
        ("", "port"),
    ] {
        let text = entries(&format!("  - name: proxy\n    kind: network.socks5\n    host: 127.0.0.1\n{line}"));
        let done = refuse(&text);
        assert!(done.err.contains(expected), "{line:?}: {done:?}");
    }
}

#[test]
fn all_errors_of_a_file_are_told_at_once() {
    let done = refuse(&entries(
        "  - {name: proxy, kind: network.socks5, host: a, port: 0}\n  - {name: other, kind: network.socks9, host: a}\n  \
         - {name: third, kind: network.socks5, host: a, port: 1, colour: red}\n",
    ));
    for word in ["65535", "network.socks9", "colour"] {
        assert!(done.err.contains(word), "{word}: {done:?}");
    }
}

#[test]
fn a_duplicate_id_names_both_places() {
    let done = refuse(&entries(&format!("{GOOD}{GOOD}")));
    assert!(done.err.contains("app:proxy") && done.err.contains(":4:") && done.err.contains(":8:"), "{done:?}");
}

#[test]
fn isolation_with_a_login_is_an_error() {
    let done = refuse(&entries(&format!("{GOOD}    username: u\n    password: p\n    isolate_streams: true\n")));
    assert!(done.err.contains("isolate_streams"), "{done:?}");
}

#[test]
fn an_unknown_network_is_refused_with_the_nearest_one() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let done = Jail::socks5(proxy.addr, "").run("app:proxi", &["true"]);
    assert_eq!(done.code(), 125);
    assert!(done.err.contains("app:proxi") && done.err.contains("app:proxy"), "{done:?}");
}

#[test]
fn an_unreadable_or_missing_registry_is_named() {
    let jail = Jail::new();
    for path in ["/nonexistent/registry.yaml", "/dev/null/x"] {
        let done = lab::child::run(jail.netjail(&["run", "--registry", path, "--network", "app:proxy", "--", "true"]));
        assert_eq!(done.code(), 125, "{done:?}");
        assert!(done.err.contains(path), "{done:?}");
    }
    if !lab::is_root() {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(jail.registry_file(), std::fs::Permissions::from_mode(0o0)).unwrap();
        let done = jail.run("app:proxy", &["true"]);
        assert_eq!(done.code(), 125);
        assert!(done.err.contains("_index.yaml") && done.err.to_lowercase().contains("permission"), "{done:?}");
    }
}

#[test]
fn a_secret_is_in_no_message_argument_or_environment() {
    let secret = "hunter2-very-secret";
    for extra in ["    port: 0\n", "    colour: red\n", "    port: 1080\n    isolate_streams: true\n"] {
        let text = entries(&format!(
            "  - name: proxy\n    kind: network.socks5\n    host: 127.0.0.1\n    username: u\n    password: {secret}\n{extra}"
        ));
        let done = refuse(&text);
        assert!(!done.err.contains(secret) && !done.out.contains(secret), "{done:?}");
    }
    let jail = Jail::socks5(lab::servers::refusing(), &format!("username: u, password: {secret}"));
    let line =
        format!("{} connect 203.0.113.1:80; env; cat /proc/*/cmdline /proc/*/environ 2>/dev/null", lab::tool("probe"));
    let done = jail.with(&["-v", "--log", "-"]).shell("app:proxy", &line);
    assert!(!done.err.contains(secret) && !done.out.contains(secret), "{done:?}");
}

#[test]
fn secrets_from_the_environment_and_from_files_are_used_and_not_shown_inside() {
    use lab::proxy::{Greeting, Manner};
    let manner = || Manner { greeting: Greeting::Login("u".into(), "s3cr3t".into()), ..Manner::default() };
    let proxy = Proxy::with(manner(), |_| lab::Answer::Serve(Behaviour::Echo));
    let jail = Jail::socks5(proxy.addr, "username: u, password: \"${env:LAB_SECRET}\"").env("LAB_SECRET", "s3cr3t");
    let line = format!("{} echo some.test:80 hello; env", lab::tool("probe"));
    let done = jail.shell("app:proxy", &line).good();
    assert_eq!(done.fact("got"), "5 hello");
    assert!(!done.out.contains("s3cr3t"), "{done:?}");
    let jail = Jail::new();
    let folder = jail.home().join(".config/netjail/secrets");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("proxy");
    std::fs::write(&file, "s3cr3t\n").unwrap();
    let jail =
        jail.with_socks5("proxy", proxy.addr, &format!("username: u, password: \"${{file:{}}}\"", file.display()));
    assert_eq!(jail.probe(&["echo", "some.test:80", "hello"]).fact("got"), "5 hello");
    let jail = Jail::socks5(proxy.addr, "username: u, password: \"${env:LAB_MISSING}\"");
    let done = jail.run("app:proxy", &["true"]);
    assert_eq!(done.code(), 125);
    assert!(done.err.contains("LAB_MISSING"), "{done:?}");
}

#[test]
fn a_network_that_is_not_built_yet_loads_and_can_not_be_chosen() {
    let jail = Jail::new()
        .entry("{name: hidden, kind: network.i2p}")
        .entry("{name: node, kind: network.tailscale, hostname: n, auth_key: k}");
    let file = jail.registry_file().display().to_string();
    lab::child::run(jail.netjail(&["check", "--registry", &file])).good();
    for id in ["app:hidden", "app:node"] {
        let done = jail.run(id, &["true"]);
        assert_eq!(done.code(), 125, "{done:?}");
        assert!(done.err.contains("not built"), "{done:?}");
    }
}

#[test]
fn a_wippy_project_loads_unchanged() {
    let proxy = Proxy::serving(Behaviour::Echo);
    let jail = Jail::new();
    let source = jail.work().join("src");
    std::fs::create_dir_all(source.join("net")).unwrap();
    std::fs::write(jail.work().join("wippy.lock"), "directories:\n  modules: .wippy\n  src: ./src\n").unwrap();
    std::fs::write(
        source.join("_index.yaml"),
        "version: \"1.0\"\nnamespace: app\n\nentries:\n  - name: processes\n    kind: process.host\n    meta: {comment: x}\n    \
         host: {workers: 4}\n    lifecycle: {auto_start: true}\n  - name: terminal\n    kind: terminal.host\n    \
         lifecycle: {auto_start: true}\n  - name: main\n    kind: process.lua\n    source: file://main.lua\n    \
         method: main\n    modules: [io]\n  - name: web\n    kind: http.service\n    addr: \":8080\"\n    \
         timeouts: {read: 5s, write: 5s, idle: 60s}\n    host: {buffer_size: 1024, worker_count: 2}\n    \
         lifecycle: {auto_start: true, security: {actor: {id: x}, policies: [app:p]}}\n  - name: p\n    \
         kind: security.policy\n    policy: {actions: \"*\", resources: \"*\", effect: allow}\n    groups: [admin]\n",
    )
    .unwrap();
    std::fs::write(
        source.join("net/_index.yaml"),
        format!(
            "version: \"1.0\"\nnamespace: app.net\nentries:\n  - {{name: tor, kind: network.socks5, host: 127.0.0.1, port: {}, meta: {{comment: y}}}}\n",
            proxy.addr.port()
        ),
    )
    .unwrap();
    let check = lab::child::run(jail.netjail(&["check"])).good();
    assert!(
        check.out.contains("process.lua") || check.err.contains("process.lua"),
        "passed over with a note: {check:?}"
    );
    let probe = lab::tool("probe");
    let words = ["run", "--network", "app.net:tor", "--", &probe, "echo", "some.test:80", "hello"];
    let done = lab::child::run(jail.netjail(&words)).good();
    assert_eq!((done.fact("got").as_str(), done.err.as_str()), ("5 hello", ""), "{done:?}");
    let networks = lab::child::run(jail.netjail(&["networks"])).good();
    assert!(networks.out.contains("app.net:tor"), "{networks:?}");
}

#[test]
fn a_machine_that_lacks_the_device_or_namespaces_is_told_the_remedy() {
    require!(lab::host::Host::lack().is_none(), "{}", lab::host::Host::lack().unwrap());
    let jail = Jail::socks5(lab::servers::refusing(), "");
    let lacking = |flags: &[&str], line: &str| {
        let netjail = jail.run_command("app:proxy", &["true"]);
        let mut command = std::process::Command::new("unshare");
        command.args(flags).args(["sh", "-c", &format!("{line} && exec \"$@\""), "sh"]);
        command.arg(netjail.get_program()).args(netjail.get_args());
        command.current_dir(jail.work()).env("HOME", jail.home());
        let done = lab::child::run(command);
        assert_eq!(done.code(), 125, "{done:?}");
        done.err
    };
    // Root keeps its own user namespace; an ordinary user needs one to mount anything.
    let user = ["--user", "--map-current-user", "--keep-caps", "--mount"];
    let flags = if lab::is_root() { &user[3..] } else { &user[..] };
    let told = lacking(flags, "mount -t tmpfs none /dev/net");
    assert!(told.contains("/dev/net/tun") && told.contains("modprobe"), "{told}");
    // The number is the namespace's own: nothing outside is changed.
    let told = lacking(&user[..3], "echo 0 >/proc/sys/user/max_user_namespaces");
    assert!(told.contains("user namespace"), "{told}");
}

#[test]
fn root_of_a_small_user_namespace_can_run_a_jail() {
    require!(lab::host::Host::lack().is_none(), "{}", lab::host::Host::lack().unwrap());
    let jail = Jail::socks5(lab::servers::refusing(), "");
    let netjail = jail.run_command("app:proxy", &["echo", "fine"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(netjail.get_program()).args(netjail.get_args());
    command.current_dir(jail.work()).env("HOME", jail.home());
    assert_eq!(lab::child::run(command).good().out, "fine\n");
}

#[test]
fn hostile_text_reaches_the_terminal_escaped() {
    let jail = Jail::new();
    let done = jail.run("app:\u{1b}[31mred\u{202e}", &["true"]);
    assert_eq!(done.code(), 125);
    assert!(!done.err.contains('\u{1b}') && !done.err.contains('\u{202e}'), "{done:?}");
}

#[test]
fn every_lack_of_the_machine_is_named_in_one_message() {
    root_only!();
    let jail = Jail::socks5(lab::servers::refusing(), "");
    let run = jail.run_command("app:proxy", &["true"]);
    // In a mount namespace of its own: no device, and a /proc of which a part is covered.
    let mut command = jail.command(
        "unshare".as_ref(),
        &["-m", "sh", "-c", "mount -t tmpfs none /dev/net && mount --bind /dev/null /proc/kmsg && exec \"$@\"", "sh"],
    );
    command.arg(run.get_program()).args(run.get_args());
    let done = lab::child::run(command);
    assert_eq!(done.code(), 125, "{done:?}");
    for text in ["/dev/net/tun", "modprobe tun", "/proc/kmsg", "--proc host-masked"] {
        assert!(done.err.contains(text), "{text}: {done:?}");
    }
}

#[test]
fn the_nearest_network_is_named_also_for_nil_and_for_a_wrong_namespace() {
    let jail = Jail::socks5(lab::servers::refusing(), "");
    for (given, meant) in [("nul", "nil"), ("ap.net:proxy", "app:proxy"), ("prxoy", "app:proxy")] {
        let done = jail.run(given, &["true"]);
        assert_eq!(done.code(), 125, "{done:?}");
        assert!(done.err.contains(&format!("did you mean {meant}?")), "{done:?}");
    }
}

#[test]
fn a_user_without_a_home_is_told_where_to_put_the_state() {
    let jail = Jail::socks5(lab::servers::refusing(), "");
    let mut command = jail.run_command("app:proxy", &["true"]);
    // Neither can be made by anybody.
    command.env_remove("XDG_RUNTIME_DIR").env("XDG_RUNTIME_DIR", "/proc/none").env("HOME", "/proc/none");
    let done = lab::child::run(command);
    if !lab::is_root() {
        assert_eq!(done.code(), 125, "{done:?}");
        assert!(done.err.contains("XDG_STATE_HOME"), "{done:?}");
    }
}
