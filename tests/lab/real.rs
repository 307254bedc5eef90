//! The programs that people really have: proxies, web server, ssh server, each on a dynamic port, ready when returned.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::child::{Running, run};

/// A server with its folder; both go when it is dropped.
pub struct Real {
    pub addr: SocketAddr,
    pub folder: tempfile::TempDir,
    pub running: Running,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts what `make` describes for a port and a folder, and waits until it accepts connections. Another process can take
/// the port in between: then the next one is tried.
fn start(name: &str, make: impl Fn(u16, &Path) -> Command) -> Real {
    for _ in 0..5 {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let mut running = Running::start(make(port, folder.path()));
        let up = super::wait_for(name, Duration::from_secs(20), || {
            if running.ended() {
                return Some(false);
            }
            TcpStream::connect(addr).is_ok().then_some(true)
        });
        if up {
            return Real { addr, folder, running };
        }
        eprintln!("{name} did not start: {}{}", running.out(), running.err());
    }
    panic!("{name} did not start on five ports");
}

fn command(name: &str) -> Command {
    Command::new(super::program(name).unwrap_or_else(|| panic!("{name} is not installed")))
}

/// microsocks, with a login if one is given.
pub fn microsocks(login: Option<(&str, &str)>) -> Real {
    start("microsocks", |port, _| {
        let mut c = command("microsocks");
        c.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
        if let Some((name, password)) = login {
            c.args(["-u", name, "-P", password]);
        }
        c
    })
}

/// dante without a login; its own leave to the loopback is part of the configuration.
pub fn dante() -> Real {
    start("danted", |port, folder| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let text = format!(
            "logoutput: stderr\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nexternal: ::1\n\
             clientmethod: none\nsocksmethod: none\nuser.privileged: {user}\nuser.unprivileged: {user}\n\
             client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\nsocks pass {{ from: 127.0.0.0/8 to: ::/0 }}\n"
        );
        let file = folder.join("danted.conf");
        std::fs::write(&file, text).unwrap();
        let mut c = command("danted");
        c.arg("-f").arg(file).arg("-p").arg(folder.join("pid"));
        c
    })
}

/// nginx serving a folder (`Real::folder` + `www`).
pub fn nginx() -> Real {
    start("nginx", |port, folder| {
        let www = folder.join("www");
        std::fs::create_dir_all(&www).unwrap();
        std::fs::write(www.join("index.html"), "hello from nginx\n").unwrap();
        let at = folder.display();
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; {user}\nevents {{}}\n\
             http {{ access_log {at}/access.log; client_body_temp_path {at}/b; proxy_temp_path {at}/p;\n\
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             server {{ listen 127.0.0.1:{port}; root {at}/www; autoindex on; }} }}\n",
            user = if super::is_root() { "user root;" } else { "" }
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut c = command("nginx");
        c.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(file);
        c
    })
}

/// A git repository with one commit, to be served over plain HTTP from a folder.
pub fn git_repository(www: &Path) {
    let work = tempfile::tempdir().unwrap();
    let git = |at: &Path, words: &[&str]| {
        let mut c = command("git");
        c.current_dir(at).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", at);
        for (key, value) in [("NAME", "lab"), ("EMAIL", "lab@lab.test")] {
            c.env(format!("GIT_AUTHOR_{key}"), value).env(format!("GIT_COMMITTER_{key}"), value);
        }
        run(c).good();
    };
    git(work.path(), &["init", "-q", "-b", "main", "."]);
    std::fs::write(work.path().join("file"), "cloned\n").unwrap();
    git(work.path(), &["add", "file"]);
    git(work.path(), &["commit", "-q", "-m", "one"]);
    git(www, &["clone", "-q", "--bare", work.path().to_str().unwrap(), "repository.git"]);
    git(&www.join("repository.git"), &["update-server-info"]);
}

/// sshd for the user who runs the tests; the key is `Real::folder` + `key`.
pub fn sshd() -> Real {
    if super::is_root() {
        let _ = std::fs::create_dir("/run/sshd");
    }
    start("sshd", |port, folder| {
        for name in ["host", "key"] {
            let mut c = command("ssh-keygen");
            c.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name));
            run(c).good();
        }
        let at = folder.display();
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nPidFile {at}/pid\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {at}/key.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nPermitUserRC no\n"
        );
        let file = folder.join("sshd_config");
        std::fs::write(&file, text).unwrap();
        let mut c = command("sshd");
        c.args(["-D", "-e", "-f"]).arg(file);
        c
    })
}

/// A folder for build products that outlives a test run.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").filter(|h| !h.is_empty()).map(|h| PathBuf::from(h).join(".cache")));
    let folder = base.unwrap_or_else(std::env::temp_dir).join("netjail-tests");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
