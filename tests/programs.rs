//! The programs that people run: each reaches a real server through a real proxy, and nothing else leaves the host.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::path::Path;

use lab::host::{Host, PROXY, WEB};
use lab::real::{At, Real};
use lab::{Finished, Jail};

/// A host, a proxy and a web server in the internet.
struct World {
    host: Host,
    proxy: Real,
    web: Real,
    _resolver: lab::Running,
}

impl World {
    fn lack() -> Option<String> {
        Host::lack().or_else(|| {
            ["microsocks", "nginx", "dnsmasq"]
                .iter()
                .find(|p| lab::program(p).is_none())
                .map(|p| format!("{p} is not installed"))
        })
    }

    fn new() -> Self {
        let host = Host::new();
        let proxy = lab::real::microsocks(At::Internet(&host, &format!("{PROXY}:1080")), None);
        let web = lab::real::nginx(At::Internet(&host, &format!("{WEB}:80")));
        let resolver = host.resolver();
        Self { host, proxy, web, _resolver: resolver }
    }

    fn jail(&self) -> Jail {
        Jail::socks5(self.proxy.addr, "").inside(&self.host)
    }

    /// Runs a line in a jail and asserts that nothing went past the proxy.
    fn run(&self, jail: &Jail, line: &str) -> Finished {
        let capture = self.host.capture();
        let done = jail.shell("app:proxy", line).good();
        capture.assert_only(self.proxy.addr);
        done
    }
}

/// A name that the proxy's own hosts file or resolver would know; microsocks runs with the machine's resolver, so the
/// address is used where no name can be.
fn page() -> String {
    format!("http://{WEB}/")
}

/// Builds a program outside and puts it into the working folder.
fn build(jail: &Jail, file: &str, source: &str, compiler: &Path, words: &[&str]) {
    std::fs::write(jail.work().join(file), source).unwrap();
    let mut command = std::process::Command::new(compiler);
    command.args(words).current_dir(jail.work()).env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
    command
        .env("HOME", jail.home())
        .env("GOCACHE", lab::real::cache().join("go"))
        .env("GOPATH", jail.home().join("go"));
    lab::Running::start(command).finish_within(std::time::Duration::from_secs(180)).good();
}

#[test]
fn curl() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("curl").is_some(), "no curl");
    let world = World::new();
    let done = world.run(&world.jail(), &format!("curl -sS --max-time 30 {}", page()));
    assert_eq!(done.out, "hello from nginx\n");
}

#[test]
fn git_over_http() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("git").is_some(), "no git");
    let world = World::new();
    lab::real::git_repository(&world.web.folder.path().join("www"));
    let line = format!("git clone -q {}repository.git copy && cat copy/file", page());
    assert_eq!(world.run(&world.jail(), &line).out, "cloned\n");
}

#[test]
fn git_over_https() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("git").is_some() && lab::program("openssl").is_some(), "no git or no openssl");
    let world = World::new();
    let web = lab::real::nginx_tls(At::Internet(&world.host, &format!("{WEB}:443")));
    lab::real::git_repository(&web.folder.path().join("www"));
    let jail = world.jail();
    std::fs::copy(web.folder.path().join("cert"), jail.work().join("cert")).unwrap();
    let line = format!(
        "git clone -q https://{WEB}/repository.git bad 2>&1; git -c http.sslCAInfo=$PWD/cert clone -q https://{WEB}/repository.git copy && \
         cat copy/file"
    );
    let done = world.run(&jail, &line);
    assert!(done.out.contains("certificate") && done.out.ends_with("cloned\n"), "{done:?}");
}

/// A server in the internet, and a jail with its key in the working folder.
fn with_ssh() -> (World, Real, Jail) {
    let world = World::new();
    let sshd = lab::real::sshd(At::Internet(&world.host, &format!("{WEB}:22")));
    let jail = world.jail();
    std::fs::copy(sshd.folder.path().join("key"), jail.work().join("key")).unwrap();
    (world, sshd, jail)
}

/// Neither the user's configuration nor his known hosts.
const SSH: &str = "ssh -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
                   -o IdentitiesOnly=yes -i key";

#[test]
fn ssh() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("sshd").is_some() && lab::program("ssh").is_some(), "no openssh");
    let (world, _sshd, jail) = with_ssh();
    assert_eq!(world.run(&jail, &format!("{SSH} {WEB} 'cat; echo over-ssh'")).out, "over-ssh\n");
}

#[test]
fn ssh_shares_a_connection_through_its_control_socket() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("sshd").is_some() && lab::program("ssh").is_some(), "no openssh");
    let (world, sshd, jail) = with_ssh();
    let line = format!(
        "ssh='{SSH} -o ControlMaster=auto -o ControlPath=control -o ControlPersist=60'; \
         $ssh {WEB} 'echo first' && $ssh {WEB} 'echo second' && $ssh -O check {WEB} 2>&1 && $ssh -O exit {WEB}"
    );
    let done = world.run(&jail, &line);
    assert!(done.out.starts_with("first\nsecond\nMaster running"), "{done:?}");
    assert_eq!(sshd.running.err().matches("Accepted publickey").count(), 1, "{}", sshd.running.err());
}

#[test]
fn git_over_ssh() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("sshd").is_some() && lab::program("git").is_some(), "no sshd or no git");
    let (world, sshd, jail) = with_ssh();
    lab::real::git_repository(sshd.folder.path());
    let repository = sshd.folder.path().join("repository.git");
    let line = format!("GIT_SSH_COMMAND='{SSH}' git clone -q {WEB}:{} copy && cat copy/file", repository.display());
    assert_eq!(world.run(&jail, &line).out, "cloned\n");
}

#[test]
fn python() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let world = World::new();
    let line = format!(
        "{} -c 'import urllib.request; print(urllib.request.urlopen(\"{}\", timeout=30).read())'",
        python.unwrap().display(),
        page()
    );
    assert_eq!(world.run(&world.jail(), &line).out, "b'hello from nginx\\n'\n");
}

#[test]
fn node() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("node").is_some(), "no node");
    let world = World::new();
    let line = format!("node -e 'require(\"http\").get(\"{}\", r => r.pipe(process.stdout))'", page());
    assert_eq!(world.run(&world.jail(), &line).out, "hello from nginx\n");
}

/// A wheel is a zip with a few texts, an index is a folder with links.
const WHEEL: &str = r#"
import sys, zipfile
info = "hello-1.0.dist-info/"
with zipfile.ZipFile(sys.argv[1] + "/hello-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("hello.py", "word = 'from a wheel'\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "".join(n + ",,\n" for n in ("hello.py", info + "METADATA", info + "WHEEL", info + "RECORD")))
"#;

#[test]
fn a_python_environment_and_pip() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let python = python.unwrap();
    let mut try_it = std::process::Command::new(&python);
    try_it.args(["-c", "import venv, ensurepip"]);
    require!(lab::child::run(try_it).code() == 0, "python3 has no venv (Debian: python3-venv)");
    let world = World::new();
    let index = world.web.folder.path().join("www/simple/hello");
    std::fs::create_dir_all(&index).unwrap();
    let mut make = std::process::Command::new(&python);
    make.args(["-c", WHEEL]).arg(&index);
    lab::child::run(make).good();
    let line = format!(
        "{} -m venv v && v/bin/pip install -q --disable-pip-version-check --no-cache-dir --trusted-host {WEB} \
         --index-url http://{WEB}/simple/ hello && v/bin/python -c 'import hello; print(hello.word)'",
        python.display()
    );
    assert_eq!(world.run(&world.jail(), &line).out, "from a wheel\n");
}

#[test]
fn npm_installs_a_package() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("npm").is_some(), "no npm");
    let world = World::new();
    let www = world.web.folder.path().join("www");
    let package = www.join("package");
    std::fs::create_dir(&package).unwrap();
    std::fs::write(package.join("package.json"), r#"{"name": "hello", "version": "1.0.0", "main": "hello.js"}"#)
        .unwrap();
    std::fs::write(package.join("hello.js"), "module.exports = 'from a package';\n").unwrap();
    let mut pack = std::process::Command::new("tar");
    pack.arg("-C").arg(&www).args(["-czf", "hello.tgz", "package"]).current_dir(&www);
    lab::child::run(pack).good();
    let line = format!(
        "export HOME=$PWD; npm install --silent --no-audit --no-fund --no-update-notifier {}hello.tgz >npm.log 2>&1 || cat npm.log; \
         node -p 'require(\"hello\")'",
        page()
    );
    assert_eq!(world.run(&world.jail(), &line).out, "from a package\n");
}

/// With its own sandbox, which it would refuse to start without.
#[test]
fn chromium_loads_a_page_in_its_own_sandbox() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    require!(lab::program("chromium").is_some(), "no chromium");
    let world = World::new();
    let text = "<p id=p></p><script>p.textContent = 'computed ' + 6 * 7</script>";
    std::fs::write(world.web.folder.path().join("www/page.html"), text).unwrap();
    // Chromium itself refuses to have a sandbox as root.
    let jail = Jail::of_an_ordinary_user();
    require!(jail.is_some(), "no ordinary user to become");
    let jail = jail.unwrap().with_socks5("proxy", world.proxy.addr, "").inside(&world.host);
    let line = format!(
        "export HOME=$PWD; chromium --headless --disable-gpu --no-first-run --disable-background-networking --user-data-dir=$PWD/profile \
         --dump-dom {}page.html 2>chromium.log || cat chromium.log",
        page()
    );
    let done = world.run(&jail, &line);
    assert!(done.out.contains(">computed 42</p>"), "{done:?}");
}

const GO: &str = r#"package main

import ("fmt"; "io"; "net/http"; "os")

func main() {
	r, err := http.Get(os.Args[1])
	if err != nil { fmt.Println(err); os.Exit(1) }
	b, _ := io.ReadAll(r.Body)
	fmt.Print(string(b))
}
"#;

#[test]
fn go_without_libc() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    let go = lab::program("go");
    require!(go.is_some(), "no go");
    let world = World::new();
    let jail = world.jail();
    let cgo = Path::new("/usr/bin/env");
    build(&jail, "get.go", GO, cgo, &["CGO_ENABLED=0", go.unwrap().to_str().unwrap(), "build", "-o", "get", "get.go"]);
    assert_eq!(world.run(&jail, &format!("./get {}", page())).out, "hello from nginx\n");
    // Go's own resolver, by name: answered from the pool, asked of the proxy by name. (Go itself refuses .onion.)
    let proxy = lab::Proxy::serving(lab::Behaviour::Page("by name\n"));
    let named = Jail::socks5(proxy.addr, "names: both");
    std::fs::copy(jail.work().join("get"), named.work().join("get")).unwrap();
    assert_eq!(named.shell("app:proxy", "./get http://by.name.test/").good().out, "by name\n");
    assert_eq!(proxy.asked()[0].host, "by.name.test");
}

const STATIC: &str = r#"#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(80) };
    if (argc < 2 || inet_pton(AF_INET, argv[1], &a.sin_addr) != 1) return 2;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(s, (struct sockaddr *)&a, sizeof a)) { perror("connect"); return 1; }
    const char *q = "GET / HTTP/1.0\r\n\r\n";
    if (write(s, q, strlen(q)) < 0) return 1;
    char b[4096]; ssize_t n;
    while ((n = read(s, b, sizeof b)) > 0) if (write(1, b, n) < 0) return 1;
    return 0;
}
"#;

#[test]
fn a_static_binary() {
    require!(World::lack().is_none(), "{}", World::lack().unwrap());
    let cc = lab::program("cc");
    require!(cc.is_some(), "no C compiler");
    let world = World::new();
    let jail = world.jail();
    build(&jail, "get.c", STATIC, &cc.unwrap(), &["-static", "-o", "get", "get.c"]);
    let done = world.run(&jail, &format!("./get {WEB}"));
    assert!(done.out.ends_with("hello from nginx\n"), "{done:?}");
}

#[test]
fn every_resolver_sends_the_name_to_the_proxy() {
    for program in ["curl", "python3", "node", "git", "ssh", "wget", "getent"] {
        let Some(path) = lab::program(program) else {
            lab::skip(&format!("every_resolver_sends_the_name_to_the_proxy({program})"), "not installed");
            continue;
        };
        let proxy = lab::Proxy::serving(lab::Behaviour::Page("hello\n"));
        let name = format!("{program}.some.test");
        let at = path.display();
        let line = match program {
            "curl" => format!("{at} -sS --max-time 20 http://{name}/"),
            "wget" => format!("{at} -q -T 20 -t 1 -O - http://{name}/"),
            "python3" => {
                format!("{at} -c 'import urllib.request as u; u.urlopen(\"http://{name}/\", timeout=20).read()'")
            }
            "node" => format!("{at} -e 'require(\"http\").get(\"http://{name}/\", r => r.resume())'"),
            "git" => format!("timeout 20 {at} ls-remote http://{name}/x.git"),
            "ssh" => format!("{at} -F /dev/null -o BatchMode=yes -o ConnectTimeout=20 {name} true"),
            _ => format!("{at} hosts {name} && {} connect {name}:80", lab::tool("probe")),
        };
        Jail::socks5(proxy.addr, "").shell("app:proxy", &line);
        let asked = proxy.wait_asked(1);
        assert!(asked.iter().all(|a| a.host == name && a.kind == 3), "{program}: {asked:?}");
    }
}
