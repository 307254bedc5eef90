//! The programs that people really have: proxies, web server, ssh server, each on a dynamic port, ready when returned.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::child::{Running, run};
use super::host::Host;

/// Where a server is to listen.
#[derive(Clone, Copy)]
pub enum At<'a> {
    /// On 127.0.0.1, on a port of its own.
    Loopback,
    /// In the lab's internet, on this address and port.
    Internet(&'a Host, &'a str),
}

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

impl At<'_> {
    fn addr(&self) -> SocketAddr {
        match self {
            At::Loopback => SocketAddr::from(([127, 0, 0, 1], free_port())),
            At::Internet(_, addr) => addr.parse().unwrap(),
        }
    }

    fn command(&self, name: &str) -> Command {
        let program = super::program(name).unwrap_or_else(|| panic!("{name} is not installed"));
        match self {
            At::Loopback => Command::new(program),
            At::Internet(host, _) => host.in_internet(program.to_str().unwrap()),
        }
    }

    fn accepts(&self, addr: SocketAddr) -> bool {
        match self {
            At::Loopback => TcpStream::connect(addr).is_ok(),
            At::Internet(host, _) => {
                let mut probe = host.in_internet(&super::tool("probe"));
                probe.args(["connect", &addr.to_string()]);
                run(probe).out.contains("connected")
            }
        }
    }
}

/// Starts what `make` describes for an address and a folder, and waits until it accepts connections. Another process can
/// take a port of the loopback in between: then the next one is tried.
fn start(name: &str, at: At, make: impl Fn(SocketAddr, &Path, Command) -> Command) -> Real {
    for _ in 0..5 {
        let (addr, folder) = (at.addr(), tempfile::tempdir().unwrap());
        let mut running = Running::start(make(addr, folder.path(), at.command(name)));
        let up = super::wait_for(name, Duration::from_secs(20), || {
            if running.ended() {
                return Some(false);
            }
            at.accepts(addr).then_some(true)
        });
        if up {
            return Real { addr, folder, running };
        }
        eprintln!("{name} did not start: {}{}", running.out(), running.err());
    }
    panic!("{name} did not start in five tries");
}

fn command(name: &str) -> Command {
    Command::new(super::program(name).unwrap_or_else(|| panic!("{name} is not installed")))
}

/// microsocks, with a login if one is given.
pub fn microsocks(at: At, login: Option<(&str, &str)>) -> Real {
    start("microsocks", at, |addr, _, mut c| {
        c.args(["-i", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
        if let Some((name, password)) = login {
            c.args(["-u", name, "-P", password]);
        }
        c
    })
}

/// dante without a login; its own leave to the loopback is part of the configuration.
pub fn dante(at: At) -> Real {
    start("danted", at, |addr, folder, mut c| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let (ip, port) = (addr.ip(), addr.port());
        let text = format!(
            "logoutput: stderr\ninternal: {ip} port = {port}\nexternal: {ip}\n\
             clientmethod: none\nsocksmethod: none\nuser.privileged: {user}\nuser.unprivileged: {user}\n\
             client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\nsocks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n"
        );
        let file = folder.join("danted.conf");
        std::fs::write(&file, text).unwrap();
        c.arg("-f").arg(file).arg("-p").arg(folder.join("pid"));
        c
    })
}

/// dante in the lab's internet, in both families, with a hosts file of its own.
pub fn dante_knowing(host: &Host, addr: &str, hosts: &str) -> Real {
    start("danted", At::Internet(host, addr), |addr, folder, _| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let (ip, port) = (addr.ip(), addr.port());
        let text = format!(
            "logoutput: stderr\ninternal: {ip} port = {port}\nexternal: {ip}\nexternal: {}\nexternal.rotation: same-same\n\
             clientmethod: none\nsocksmethod: none\nuser.privileged: {user}\nuser.unprivileged: {user}\n\
             client pass {{ from: 0/0 to: 0/0 }}\nsocks pass {{ from: 0/0 to: 0/0 }}\n",
            super::host::PROXY6
        );
        std::fs::write(folder.join("danted.conf"), text).unwrap();
        std::fs::write(folder.join("hosts"), hosts).unwrap();
        let mut c = host.in_internet("unshare");
        let line = "mount --bind \"$0/hosts\" /etc/hosts && exec danted -f \"$0/danted.conf\" -p \"$0/pid\"";
        c.args(["--mount", "sh", "-c", line]).arg(folder);
        c.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        c
    })
}

/// nginx serving a folder (`Real::folder` + `www`).
pub fn nginx(at: At) -> Real {
    web_server(at, false)
}

/// The same by TLS; the certificate, which signs itself and names the address, is `Real::folder` + `cert`.
pub fn nginx_tls(at: At) -> Real {
    web_server(at, true)
}

fn web_server(at: At, tls: bool) -> Real {
    start("nginx", at, |addr, folder, mut c| {
        if tls {
            let mut make = command("openssl");
            make.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ]);
            make.args(["-subj", "/CN=lab", "-addext", &format!("subjectAltName=IP:{}", addr.ip())]);
            make.arg("-keyout").arg(folder.join("tls.key")).arg("-out").arg(folder.join("cert"));
            run(make).good();
        }
        let www = folder.join("www");
        std::fs::create_dir_all(&www).unwrap();
        std::fs::write(www.join("index.html"), "hello from nginx\n").unwrap();
        let at = folder.display();
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; {user}\nevents {{}}\n\
             http {{ access_log {at}/access.log; client_body_temp_path {at}/b; proxy_temp_path {at}/p;\n\
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             server {{ listen {addr}{tls}; root {at}/www; autoindex on; }} }}\n",
            tls = if tls {
                format!(" ssl; ssl_certificate {at}/cert; ssl_certificate_key {at}/tls.key")
            } else {
                String::new()
            },
            user = if super::is_root() { "user root;" } else { "" }
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        c.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(file);
        c
    })
}

/// nginx over TLS, for the address itself and `whoami.test`, with an authority of its own in `Real::folder` + `ca.pem`:
/// `/` answers with the caller's address, `/json` with JSON that has it, `/busy` with 503.
pub fn whoami_tls(at: At) -> Real {
    start("nginx", at, |addr, folder, mut c| {
        certificate(folder, &addr.ip().to_string());
        let at = folder.display();
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; {user}\nevents {{}}\n\
             http {{ access_log {at}/access.log; client_body_temp_path {at}/b; proxy_temp_path {at}/p;\n\
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             server {{ listen {addr} ssl; ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;\n\
             location = / {{ return 200 \"$remote_addr\\n\"; }}\n\
             location = /json {{ return 200 '{{\"IP\":\"$remote_addr\"}}'; }}\n\
             location = /busy {{ return 503; }} }} }}\n",
            user = if super::is_root() { "user root;" } else { "" }
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        c.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(file);
        c
    })
}

/// An authority, and a certificate of its for an address and `whoami.test`.
pub fn certificate(folder: &Path, ip: &str) {
    let openssl = |words: &str| {
        let mut c = command("openssl");
        c.current_dir(folder).args(words.split(' '));
        run(c).good();
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=lab"));
    openssl(&format!("req {key} -keyout key.pem -out request.pem -subj /CN=whoami.test"));
    std::fs::write(folder.join("names"), format!("subjectAltName=IP:{ip},DNS:whoami.test\n")).unwrap();
    openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names");
}

/// sshd for the user who runs the tests; the key is `Real::folder` + `key`.
pub fn sshd(at: At) -> Real {
    if super::is_root() {
        let _ = std::fs::create_dir("/run/sshd");
    }
    start("sshd", at, |addr, folder, mut c| {
        for name in ["host", "key"] {
            let mut keygen = command("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name));
            run(keygen).good();
        }
        let at = folder.display();
        let text = format!(
            "ListenAddress {addr}\nHostKey {at}/host\nPidFile {at}/pid\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {at}/key.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nPermitUserRC no\n"
        );
        let file = folder.join("sshd_config");
        std::fs::write(&file, text).unwrap();
        c.args(["-D", "-e", "-f"]).arg(file);
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

/// A folder for build products that outlives a test run.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").filter(|h| !h.is_empty()).map(|h| PathBuf::from(h).join(".cache")));
    let folder = base.unwrap_or_else(std::env::temp_dir).join("netjail-tests");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
