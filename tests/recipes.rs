//! `docs/recipes.md`, run: its files are written, its servers started on the lab's internet, its commands typed on the lab's
//! host, and what they print is compared with the page.
//!
//! A block of the page is a file (the second word of its first line is the path), `server` (runs on 203.0.113.5) or
//! `console` (runs here). The page is taken as it stands, but for what no lab can have: the name of a real onion, and the
//! ids of accounts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::host::Host;
use lab::real::At;
use lab::{Behaviour, Jail, Running, Server};

/// The onion of the page: the Tor Project's.
const ONION: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// One recipe.
struct Recipe {
    /// Path and text.
    files: Vec<(String, String)>,
    /// What runs on the server.
    server: Option<String>,
    /// Each command with what it is to print.
    commands: Vec<(String, String)>,
}

/// The section of the page with this heading.
fn recipe(heading: &str) -> Recipe {
    let page = std::fs::read_to_string(lab::source("docs/recipes.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("docs/recipes.md has no recipe `{heading}`"));
    let mut recipe = Recipe { files: Vec::new(), server: None, commands: Vec::new() };
    for block in section.split("\n```").skip(1).step_by(2) {
        let (info, text) = block.split_once('\n').unwrap();
        match info.split_once(' ') {
            Some((_, path)) => recipe.files.push((path.to_owned(), format!("{text}\n"))),
            None if info == "server" => recipe.server = Some(text.trim_start_matches("$ ").to_owned()),
            None => {
                assert_eq!(info, "console", "a block that is neither file, server nor console");
                for command in format!("\n{text}\n").split("\n$ ").skip(1) {
                    let (line, printed) = command.split_once('\n').unwrap_or((command, ""));
                    let printed = if printed.is_empty() { String::new() } else { format!("{}\n", printed.trim_end()) };
                    recipe.commands.push((line.to_owned(), printed));
                }
            }
        }
    }
    assert!(!recipe.commands.is_empty() && !recipe.files.is_empty(), "{heading}: nothing was found");
    recipe
}

impl Recipe {
    fn write(&self, jail: &Jail) {
        for (path, text) in &self.files {
            let path = match path.strip_prefix("~/") {
                Some(below) => jail.home().join(below),
                None => jail.work().join(path),
            };
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    /// The port that the registry names.
    fn port(&self) -> u16 {
        let text = &self.files.iter().find(|(path, _)| path == "src/_index.yaml").unwrap().1;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("port: ")).unwrap();
        line.parse().unwrap()
    }

    /// Types the commands into a shell on the lab's host. A line that ends with `&` is awaited until its port answers, as a
    /// person would; all of them end with the shell.
    fn run(&self, jail: &Jail) {
        let mut script = String::new();
        for (line, _) in &self.commands {
            script.push_str("echo '=='\n");
            match line.strip_suffix(" &") {
                Some(command) => script.push_str(&format!(
                    "setpriv --pdeathsig KILL {command} >>background 2>&1 &\n\
                     until (exec 3<>/dev/tcp/127.0.0.1/{}) 2>/dev/null; do kill -0 $! || exit 9; sleep 0.02; done\n",
                    self.port()
                )),
                None => script.push_str(&format!("{line} || exit 8\n")),
            }
        }
        script.push_str("echo '=='\nkill $(jobs -p) 2>/dev/null; true\n");
        let tools = jail.work().join("tools");
        std::fs::create_dir_all(&tools).unwrap();
        let program = lab::jail::binary();
        tool(&tools.join("netjail"), &format!("exec {program} \"$@\""));
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", tools.display());
        let mut shell = jail.command("/bin/bash".as_ref(), &["--norc", "-c", &script]);
        shell.env("PATH", path);
        let done = Running::start(shell).finish_within(Duration::from_secs(120));
        let background = std::fs::read_to_string(jail.work().join("background")).unwrap_or_default();
        assert_eq!(done.code(), 0, "{done:#?}\n{background}");
        let printed: Vec<&str> = done.out.split("==\n").skip(1).collect();
        for ((line, wanted), printed) in self.commands.iter().zip(printed) {
            assert_eq!(printed, wanted, "$ {line}\n{done:#?}\n{background}");
        }
    }
}

fn tool(path: &Path, line: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The web server of the page, in the lab's internet.
fn web(host: &Host) -> Server {
    Server::on(host.listen("internet", "203.0.113.80:80"), Behaviour::Page("hello from the server\n"))
}

/// Waits until a server in the internet accepts connections.
fn await_server(host: &Host, addr: &str, server: &mut Running) {
    lab::wait_for(addr, Duration::from_secs(20), || {
        assert!(!server.ended(), "{addr}: {}{}", server.out(), server.err());
        let mut probe = host.in_internet(&lab::tool("probe"));
        probe.args(["connect", addr]);
        lab::child::run(probe).out.contains("connected").then_some(())
    });
}

/// What all recipes need, and these programs.
fn lack(programs: &[&str]) -> Option<String> {
    let missing = programs.iter().chain(&["curl", "setpriv", "bash"]).find(|name| lab::program(name).is_none());
    Host::lack().or_else(|| missing.map(|name| format!("{name} is not installed")))
}

#[test]
fn tor() {
    require!(lack(&[]).is_none(), "{}", lack(&[]).unwrap());
    require!(lab::tor::lack().is_none(), "{}", lab::tor::lack().unwrap());
    let tor = lab::tor::network();
    let page = Server::v4(Behaviour::Page("hello from the onion\n"));
    let onion = tor.onion(80, page.addr);
    let host = Host::new();
    // The Tor network lives on the machine itself: its port is brought to where the page expects it.
    let socks = tor.socks;
    bring(host.listen("host", "127.0.0.1:9050"), socks);
    let jail = Jail::new().inside(&host);
    let mut recipe = recipe("Tor");
    recipe.commands.iter_mut().for_each(|(line, _)| *line = line.replace(ONION, &onion));
    recipe.write(&jail);
    recipe.run(&jail);
}

fn bring(listener: TcpListener, to: SocketAddr) {
    std::thread::spawn(move || {
        for here in listener.incoming().map_while(Result::ok) {
            let there = TcpStream::connect(to).unwrap();
            for (mut from, mut to) in
                [(here.try_clone().unwrap(), there.try_clone().unwrap()), (there.try_clone().unwrap(), here)]
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn ssh_d() {
    require!(lack(&["ssh", "sshd"]).is_none(), "{}", lack(&["ssh", "sshd"]).unwrap());
    let host = Host::new();
    let _web = web(&host);
    let sshd = lab::real::sshd(At::Internet(&host, "203.0.113.5:22"));
    let jail = Jail::new().inside(&host);
    let recipe = recipe("ssh -D");
    recipe.write(&jail);
    // What a person has in ~/.ssh: ssh asks the account for its home, not the environment.
    let config = format!(
        "IdentityFile {}/key\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n",
        sshd.folder.path().display()
    );
    let file = jail.home().join("ssh_config");
    std::fs::write(&file, config).unwrap();
    std::fs::create_dir_all(jail.work().join("tools")).unwrap();
    tool(&jail.work().join("tools/ssh"), &format!("exec /usr/bin/ssh -F {} \"$@\"", file.display()));
    recipe.run(&jail);
}

#[test]
fn dante_with_a_login() {
    require!(lack(&["danted", "openssl"]).is_none(), "{}", lack(&["danted", "openssl"]).unwrap());
    let host = Host::new();
    let _web = web(&host);
    let jail = Jail::new().inside(&host);
    let mut recipe = recipe("dante with a login");
    // Here nobody but root can be had without an account of the machine.
    recipe.files.iter_mut().for_each(|(_, text)| *text = text.replace("unprivileged: nobody", "unprivileged: root"));
    recipe.write(&jail);
    let password = std::fs::read_to_string(jail.home().join(".config/netjail/secrets/dante")).unwrap();
    let mut hash = Command::new("openssl");
    hash.args(["passwd", "-6", "-salt", "lab", password.trim_end()]);
    let hash = lab::child::run(hash).good().out;
    // The server's accounts, in a mount namespace of its own.
    let accounts = "root:x:0:0::/:/bin/sh\nalice:x:0:0::/:/bin/false\n";
    std::fs::write(jail.home().join("passwd"), accounts).unwrap();
    std::fs::write(jail.home().join("shadow"), format!("root:*:1::::::\nalice:{}:1::::::\n", hash.trim())).unwrap();
    let line = format!(
        "mount --bind {home}/passwd /etc/passwd && mount --bind {home}/shadow /etc/shadow && cd {work} && \
         exec {server} -p {home}/danted.pid",
        home = jail.home().display(),
        work = jail.work().display(),
        server = recipe.server.as_ref().unwrap()
    );
    let mut server = host.in_internet("unshare");
    if !lab::is_root() {
        server.arg("--map-root-user");
    }
    server.args(["--mount", "sh", "-c", &line]);
    let mut server = Running::start(server);
    await_server(&host, "203.0.113.5:1080", &mut server);
    recipe.run(&jail);
    // And the login counts: with another password there is no way.
    let probe = lab::tool("probe");
    let words =
        ["run", "--registry", "src/_index.yaml", "--network", "app:dante", "--", &probe, "connect", "203.0.113.80:80"];
    let mut wrong = jail.netjail(&words);
    wrong.env("DANTE_PASSWORD", "wrong");
    let done = lab::child::run(wrong).good();
    assert!(done.fact("failed").starts_with("EHOSTUNREACH"), "{done:?}");
}

#[test]
fn a_userspace_tunnel() {
    require!(lack(&["ss-local", "ss-server"]).is_none(), "{}", lack(&["ss-local", "ss-server"]).unwrap());
    let host = Host::new();
    let _web = web(&host);
    let jail = Jail::new().inside(&host);
    let recipe = recipe("A userspace tunnel: shadowsocks");
    recipe.write(&jail);
    let mut server = host.in_internet("sh");
    server.args(["-c", &format!("cd {} && exec {}", jail.work().display(), recipe.server.as_ref().unwrap())]);
    let mut server = Running::start(server);
    await_server(&host, "203.0.113.5:8388", &mut server);
    recipe.run(&jail);
}

#[test]
fn every_recipe_of_the_page_has_a_test() {
    let page = std::fs::read_to_string(lab::source("docs/recipes.md")).unwrap();
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings, ["Tor", "ssh -D", "dante with a login", "A userspace tunnel: shadowsocks"]);
}
