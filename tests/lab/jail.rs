//! netjail as a user runs it: the built binary, a home and configuration of its own, a registry in a file.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::{Finished, Running};
use super::host::Host;

/// The program under test: the one just built, or the one that NETJAIL_UNDER_TEST names (an installed one, a release, or a
/// stand-in that shows what a test expects of no jail at all).
pub fn binary() -> String {
    std::env::var("NETJAIL_UNDER_TEST").unwrap_or_else(|_| env!("CARGO_BIN_EXE_netjail").to_owned())
}

/// A user's home with a registry in it, and the ways to call netjail there.
pub struct Jail {
    folder: tempfile::TempDir,
    registry: String,
    /// Where netjail runs: the machine itself, or the lab's host namespace.
    place: Option<(i32, bool)>,
    extra: Vec<String>,
    env: Vec<(String, String)>,
}

impl Default for Jail {
    fn default() -> Self {
        Self::new()
    }
}

impl Jail {
    /// An empty registry.
    pub fn new() -> Self {
        // Not /tmp: a jail writes to a private layer over that, and these folders stand for a user's real ones.
        Self::below(&super::real::cache().join("t"))
    }

    /// What an ordinary user would start: the one who runs this, or, as root, one whom netjail is told to become (`--user`).
    pub fn of_an_ordinary_user() -> Option<Self> {
        if !super::is_root() {
            return Some(Self::new());
        }
        let user = super::ordinary_user()?;
        let jail = Self::below(&user.dir).with(&["--user", &user.name]);
        for folder in [jail.folder.path(), &jail.home(), &jail.work()] {
            std::os::unix::fs::chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        Some(jail)
    }

    fn below(base: &Path) -> Self {
        std::fs::create_dir_all(base).unwrap();
        let folder = tempfile::Builder::new().prefix("j").tempdir_in(base).unwrap();
        for name in ["home", "run", "work", "registry"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let jail = Self { folder, registry: String::new(), place: None, extra: Vec::new(), env: Vec::new() };
        jail.write_registry("");
        jail
    }

    /// One `network.socks5` entry `app:proxy`; `fields` are further ones, comma separated YAML flow style.
    pub fn socks5(proxy: SocketAddr, fields: &str) -> Self {
        Self::new().with_socks5("proxy", proxy, fields)
    }

    /// Adds a `network.socks5` entry.
    pub fn with_socks5(self, name: &str, proxy: SocketAddr, fields: &str) -> Self {
        let comma = if fields.is_empty() { "" } else { ", " };
        self.entry(&format!(
            "{{name: {name}, kind: network.socks5, host: \"{}\", port: {}{comma}{fields}}}",
            proxy.ip(),
            proxy.port()
        ))
    }

    /// Adds an entry in YAML's flow style.
    pub fn entry(mut self, yaml: &str) -> Self {
        self.registry.push_str(&format!("  - {yaml}\n"));
        let text = self.registry.clone();
        self.write_registry(&text);
        self
    }

    /// Runs netjail in the lab's host namespace.
    pub fn inside(mut self, host: &Host) -> Self {
        self.place = Some((host.pid(), !super::is_root()));
        self
    }

    /// Adds words to every `run`: `--mtu`, `1500`.
    pub fn with(mut self, words: &[&str]) -> Self {
        self.extra.extend(words.iter().map(|w| (*w).to_owned()));
        self
    }

    /// Sets a variable of netjail's own environment.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The user's home.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The folder that commands are started in.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// The registry's file.
    pub fn registry_file(&self) -> PathBuf {
        self.folder.path().join("registry/_index.yaml")
    }

    fn write_registry(&self, entries: &str) {
        let entries = if entries.is_empty() { "  []\n" } else { entries };
        let text = format!("version: \"1.0\"\nnamespace: app\nentries:\n{entries}");
        std::fs::write(self.registry_file(), text).unwrap();
    }

    /// `netjail WORDS…` as this user, in the working folder.
    pub fn netjail(&self, words: &[impl AsRef<OsStr>]) -> Command {
        self.command(Path::new(&binary()), words)
    }

    /// Any program as this user in the same place: what netjail is compared with.
    pub fn command(&self, program: &Path, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = match self.place {
            None => Command::new(program),
            Some((pid, user)) => {
                let mut enter = Command::new("nsenter");
                if user {
                    enter.arg(format!("--user=/proc/{pid}/ns/user")).arg("--preserve-credentials");
                }
                enter.arg(format!("--net=/proc/{pid}/ns/net")).arg(format!("--mount=/proc/{pid}/ns/mnt"));
                enter.arg(format!("--wd={}", self.work().display())).arg("--").arg(program);
                enter
            }
        };
        let home = self.home();
        command
            .args(words)
            .current_dir(self.work())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", &home)
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm")
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// `netjail run --registry … --network NETWORK EXTRA -- WORDS…`, not yet started.
    pub fn run_command(&self, network: &str, words: &[&str]) -> Command {
        let mut all: Vec<String> = vec!["run".into()];
        all.extend(["--registry".into(), self.registry_file().display().to_string()]);
        if !network.is_empty() {
            all.extend(["--network".into(), network.into()]);
        }
        all.extend(self.extra.iter().cloned());
        all.push("--".into());
        all.extend(words.iter().map(|w| (*w).to_owned()));
        self.netjail(&all)
    }

    /// Starts a command in a jail.
    pub fn start(&self, network: &str, words: &[&str]) -> Running {
        Running::start(self.run_command(network, words))
    }

    /// Runs a command in a jail to its end.
    pub fn run(&self, network: &str, words: &[&str]) -> Finished {
        self.start(network, words).finish()
    }

    /// Runs the probe in a jail behind `app:proxy`; netjail's own failure fails the test.
    pub fn probe(&self, words: &[&str]) -> Finished {
        self.probe_on("app:proxy", words)
    }

    /// Runs the probe in a jail on a network.
    pub fn probe_on(&self, network: &str, words: &[&str]) -> Finished {
        let tool = super::tool("probe");
        let mut all = vec![tool.as_str()];
        all.extend(words);
        self.run(network, &all).good()
    }

    /// Starts the probe in a jail behind `app:proxy`.
    pub fn start_probe(&self, words: &[&str]) -> Running {
        let tool = super::tool("probe");
        let mut all = vec![tool.as_str()];
        all.extend(words);
        self.start("app:proxy", &all)
    }

    /// A shell's line in a jail.
    pub fn shell(&self, network: &str, line: &str) -> Finished {
        self.run(network, &["sh", "-c", line])
    }
}
