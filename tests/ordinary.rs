//! Programs that talk to their own parts through sockets, descriptors, memory and signals work inside, with no flag at all.
//!
//! What they have in common is that each needs something that a jail watches or takes away: unix sockets that the mediator
//! connects, peers whose identity is asked for, descriptors that are passed, ptrace, sandboxes of their own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use lab::{Finished, Jail};

/// Runs a shell's line in a jail without a way out; what it prints is the proof.
fn inside(jail: &Jail, line: &str) -> Finished {
    jail.shell("nil", line).good()
}

#[track_caller]
fn assert_says(done: &Finished, words: &[&str]) {
    for word in words {
        assert!(done.out.contains(word), "{word:?} is missing: {done:#?}");
    }
}

/// PostgreSQL asks the kernel who is at the other end, which is the mediator: it must have the caller's uid.
#[test]
fn postgresql_with_peer_authentication() {
    let folder = "/usr/lib/postgresql";
    require!(std::path::Path::new(folder).exists(), "no PostgreSQL in {folder}");
    // It refuses to run as root.
    let jail = Jail::of_an_ordinary_user();
    require!(jail.is_some(), "no ordinary user to become");
    let line = format!(
        r#"set -e; PATH=$PATH:$(echo {folder}/*/bin); me=$(id -un)
        initdb -D pg -A peer -N -E UTF8 --no-locale >initdb.log
        pg_ctl -D pg -s -w -o "-k $PWD -h ''" -l log start || {{ cat log; exit 1; }}
        psql -h $PWD -d postgres -Atc "select 'i am ' || current_user"
        psql -h $PWD -d postgres -U nobody -Atc 'select 1' 2>&1 | grep -o 'Peer authentication failed'
        echo "expected $me"; pg_ctl -D pg -s -m fast stop"#
    );
    let done = inside(&jail.unwrap(), &line);
    let me = done.fact("expected");
    assert_says(&done, &[&format!("i am {me}\n"), "Peer authentication failed"]);
}

/// EXTERNAL authentication by the peer's uid, and a method call that goes through the daemon.
#[test]
fn a_dbus_session() {
    require!(lab::program("dbus-run-session").is_some(), "no dbus-daemon");
    let line = "echo uid $(id -u); dbus-run-session -- dbus-send --session --print-reply --dest=org.freedesktop.DBus / \
                org.freedesktop.DBus.GetConnectionUnixUser string:org.freedesktop.DBus";
    let done = inside(&Jail::new(), line);
    assert_says(&done, &[&format!("uint32 {}", done.fact("uid"))]);
}

#[test]
fn tmux() {
    require!(lab::program("tmux").is_some(), "no tmux");
    let line = "tmux new-session -d -s s 'echo in-tmux >out; tmux wait-for -S written; exec cat' && \
                tmux wait-for written && cat out && tmux list-sessions && tmux kill-server && echo killed";
    assert_says(&inside(&Jail::new(), line), &["in-tmux\n", "s: 1 windows", "killed\n"]);
}

const MULTIPROCESSING: &str = r#"
import multiprocessing, os

def child(queue, pipe):
    queue.put(os.getpid())
    pipe.send("through a pipe")

if __name__ == "__main__":
    for how in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(how)
        queue, (here, there) = context.Queue(), context.Pipe()
        process = context.Process(target=child, args=(queue, there))
        process.start()
        assert queue.get() == process.pid and here.recv() == "through a pipe"
        process.join()
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        with context.Manager() as manager:
            shared = manager.dict(a=1)
            assert shared["a"] == 1
        print("works:", how, process.exitcode)
"#;

#[test]
fn python_multiprocessing_by_every_start_method() {
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let jail = Jail::new();
    std::fs::write(jail.work().join("m.py"), MULTIPROCESSING).unwrap();
    let done = inside(&jail, &format!("{} m.py", python.unwrap().display()));
    assert_says(&done, &["works: fork 0", "works: spawn 0", "works: forkserver 0"]);
}

const NODE: &str = r#"
const { fork } = require('child_process'), cluster = require('cluster'), net = require('net');
if (process.argv[2] === 'child') {
    // The server arrives as a descriptor.
    process.on('message', (m, server) => {
        server.on('connection', s => s.end('from the child'));
        process.send(m + 1);
    });
} else if (cluster.isPrimary) {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
        const child = fork(__filename, ['child']);
        child.on('message', m => {
            console.log('fork', m);
            const port = server.address().port;
            server.close();
            net.connect(port, '127.0.0.1').on('data', d => {
                console.log(String(d));
                child.kill();
                const worker = cluster.fork();
                cluster.on('listening', (_, a) => net.connect(a.port, '127.0.0.1').on('data', d => {
                    console.log(String(d));
                    worker.kill();
                }));
            });
        });
        child.send(1, server);
    });
    const local = net.createServer(s => s.end('by path')).listen('./node.sock', () =>
        net.connect('./node.sock').on('data', d => { console.log(String(d)); local.close(); }));
} else {
    net.createServer(s => s.end('from the cluster')).listen(0, '127.0.0.1');
}
"#;

#[test]
fn node_ipc_and_cluster() {
    require!(lab::program("node").is_some(), "no node");
    let jail = Jail::new();
    std::fs::write(jail.work().join("ipc.js"), NODE).unwrap();
    let done = inside(&jail, "node ipc.js");
    assert_says(&done, &["fork 2\n", "from the child\n", "by path\n", "from the cluster\n"]);
}

#[test]
fn gpg_and_its_agent() {
    require!(lab::program("gpg-agent").is_some(), "no gpg-agent");
    // A jail of root's has no writable home.
    let line = "mkdir -m 700 g && export GNUPGHOME=$PWD/g && echo text >f && \
                gpg -q --batch --pinentry-mode loopback --passphrase '' --quick-gen-key a@b.test ed25519 sign never && \
                gpg -q --batch -s f && gpg --batch --verify f.gpg 2>&1 && gpg-connect-agent 'GETINFO pid' /bye && \
                gpgconf --kill all";
    assert_says(&inside(&Jail::new(), line), &["Good signature", "OK\n"]);
}

/// The server makes its socket by itself where it may; the client takes whichever there is.
#[test]
fn an_x_server_and_a_client() {
    require!(lab::program("Xvfb").is_some() && lab::program("xdpyinfo").is_some(), "no Xvfb or no xdpyinfo");
    let line = "Xvfb -displayfd 3 -screen 0 642x481x24 -nolisten tcp 3>display 2>log & \
                until [ -s display ]; do kill -0 $! || { cat log; exit 1; }; sleep 0.05; done; \
                DISPLAY=:$(cat display) xdpyinfo | grep dimensions; kill $!; wait";
    assert_says(&inside(&Jail::new(), line), &["642x481 pixels"]);
}

const DEBUGGED: &str = "#include <stdio.h>\nint add(int a) {\n    return a + 1;\n}\n\
                        int main(void) {\n    printf(\"result %d\\n\", add(41));\n    return 0;\n}\n";

#[test]
fn gdb_changes_what_a_program_computes() {
    require!(lab::program("gdb").is_some() && lab::program("cc").is_some(), "no gdb or no C compiler");
    let jail = Jail::new();
    std::fs::write(jail.work().join("a.c"), DEBUGGED).unwrap();
    let line = "cc -g -O0 -o a a.c && ./a && gdb -batch -nx -ex 'break add' -ex run -ex bt -ex 'set var a=98' \
                -ex continue ./a 2>&1";
    assert_says(&inside(&jail, line), &["result 42\n", "#1 ", "result 99\n"]);
}

/// The connect is traced although another process executes it.
#[test]
fn strace_sees_a_connect() {
    let python = lab::program("python3");
    require!(lab::program("strace").is_some() && python.is_some(), "no strace or no python3");
    let line = format!(
        "strace -f -e trace=connect -o trace {} -c 'import socket; s = socket.socket(); print(s.connect_ex((\"127.0.0.1\", 9)))'; \
         cat trace",
        python.unwrap().display()
    );
    assert_says(&inside(&Jail::new(), &line), &["111\n", "sin_port=htons(9)", "ECONNREFUSED"]);
}

const JAVA: &str = r#"
import java.net.*; import java.nio.*; import java.nio.channels.*; import java.nio.charset.*;
public class Local {
    public static void main(String[] words) throws Exception {
        var address = UnixDomainSocketAddress.of("java.sock");
        var server = ServerSocketChannel.open(StandardProtocolFamily.UNIX).bind(address);
        var client = SocketChannel.open(address);
        try (var served = server.accept()) { served.write(ByteBuffer.wrap("by path".getBytes())); }
        var buffer = ByteBuffer.allocate(16);
        client.read(buffer);
        System.out.println(new String(buffer.array(), 0, buffer.position()));
        var inet = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        new Socket(inet.getInetAddress(), inet.getLocalPort()).close();
        System.out.println("by port");
    }
}
"#;

#[test]
fn java_compiles_and_runs() {
    require!(lab::program("javac").is_some(), "no JDK");
    let jail = Jail::new();
    std::fs::write(jail.work().join("Local.java"), JAVA).unwrap();
    assert_says(&inside(&jail, "javac Local.java && java -cp . Local"), &["by path\nby port\n"]);
}

#[test]
fn go_builds() {
    let go = lab::program("go");
    require!(go.is_some(), "no go");
    let jail = Jail::new();
    std::fs::write(jail.work().join("a.go"), "package main\n\nfunc main() { println(\"built\") }\n").unwrap();
    let line = format!(
        "GOCACHE=$PWD/cache GOPATH=$PWD/path GO111MODULE=off GOTOOLCHAIN=local {} build -o a a.go && ./a 2>&1",
        go.unwrap().display()
    );
    let done = jail.start("nil", &["sh", "-c", &line]).finish_within(std::time::Duration::from_secs(240)).good();
    assert_says(&done, &["built\n"]);
}

/// A crate with a vendored dependency and a build script. Cargo is the one that built this test, wherever that lies.
#[test]
fn cargo_builds_with_a_vendored_crate() {
    let cargo = std::path::Path::new(env!("CARGO"));
    if std::fs::File::open(cargo).is_err() {
        return lab::note_skip("cargo_builds_with_a_vendored_crate", "cargo lies where this user may not look");
    }
    let jail = Jail::new();
    let write = |name: &str, text: &str| {
        let file = jail.work().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    let package = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n{more}")
    };
    write("Cargo.toml", &package("app", "[dependencies]\ndep = \"1\"\n"));
    write("build.rs", "fn main() { println!(\"cargo:rustc-env=MADE=by-a-build-script\"); }\n");
    write("src/main.rs", "fn main() { println!(\"{} {}\", dep::WORD, env!(\"MADE\")); }\n");
    write(".cargo/config.toml", "[source.crates-io]\nreplace-with = \"v\"\n[source.v]\ndirectory = \"vendor\"\n");
    write("vendor/dep/Cargo.toml", &package("dep", ""));
    write("vendor/dep/src/lib.rs", "pub const WORD: &str = \"vendored\";\n");
    write("vendor/dep/.cargo-checksum.json", "{\"files\":{}}");
    let line = format!(
        "PATH={}:$PATH CARGO_HOME=$PWD/home exec {} run -q --offline",
        cargo.parent().unwrap().display(),
        cargo.display()
    );
    let done = jail.start("nil", &["sh", "-c", &line]).finish_within(std::time::Duration::from_secs(240)).good();
    assert_says(&done, &["vendored by-a-build-script\n"]);
}
