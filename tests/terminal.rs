//! At a terminal a jail is a job like any other: Ctrl-C, Ctrl-Z, fg, window size, pipelines, exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::time::Duration;

use lab::Jail;
use lab::pty::Pty;

/// An interactive bash in which `$J` is `netjail run … --`.
fn shell(jail: &Jail) -> Pty {
    let run = jail.run_command("app:proxy", &[]);
    let mut command = jail.command("/bin/bash".as_ref(), &["--norc", "--noprofile", "-i"]);
    let words: Vec<&str> =
        std::iter::once(run.get_program()).chain(run.get_args()).map(|w| w.to_str().unwrap()).collect();
    command.env("J", words.join(" "));
    Pty::bash(command)
}

fn jail() -> Jail {
    Jail::socks5(lab::servers::refusing(), "")
}

fn code(bash: &mut Pty) -> String {
    bash.talk("echo co''de-$?.\r", &["code-"]);
    let text = bash.expect(".");
    bash.expect("ready> ");
    text.trim_end_matches('.').to_owned()
}

#[test]
fn ctrl_c_ends_the_command_with_130_and_the_loop_of_the_shell() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("while :; do $J sh -c 'echo up-$((40+2)); exec sleep 1000'; done\r", &["up-42"]);
    bash.talk("\x03", &["ready> "]);
    assert_eq!(code(&mut bash), "130");
}

#[test]
fn ctrl_backslash_ends_the_command_with_131() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("ulimit -c 0; $J sh -c 'echo up-$((40+2)); exec sleep 1000'\r", &["up-42"]);
    bash.talk("\x1c", &["ready> "]);
    assert_eq!(code(&mut bash), "131");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("$J sh -c 'echo up-$((40+2)); read line; echo read-$line-$((1+1)); exit 6'\r", &["up-42"]);
    bash.talk("\x1a", &["Stopped", "ready> "]);
    bash.talk("jobs\r", &["Stopped", "ready> "]);
    bash.send("fg\r");
    bash.await_foreground_other_than(bash.pid());
    bash.talk("word\r", &["read-word-2", "ready> "]);
    assert_eq!(code(&mut bash), "6");
}

#[test]
fn a_stopped_job_continues_in_the_background() {
    let jail = jail();
    let mut bash = shell(&jail);
    // No forks: a shell that waits for its child's exec(2) while both are stopped is never seen to stop (vfork(2)).
    bash.talk("$J sh -c 'echo up-$((40+2)); while [ ! -e go ]; do :; done; echo done-$((50+5))'\r", &["up-42"]);
    bash.talk("\x1a", &["Stopped", "ready> "]);
    bash.talk("bg\r", &["ready> "]);
    std::fs::write(jail.work().join("go"), "").unwrap();
    bash.expect("done-55");
}

#[test]
fn a_reader_in_the_background_stops_once_and_fg_lets_it_read() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("$J sh -c 'read line; echo read-$line-$((1+1))' &\r", &["ready> "]);
    lab::wait_for("the reader to stop", Duration::from_secs(10), || {
        bash.send("jobs\r");
        bash.expect("ready> ").contains("Stopped").then_some(())
    });
    bash.send("fg\r");
    bash.await_foreground_other_than(bash.pid());
    bash.talk("word\r", &["read-word-2", "ready> "]);
}

#[test]
fn exec_has_a_terminal_of_the_callers_size_from_its_first_moment() {
    let jail = jail().with(&["--name", "lab-size"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo ready; exec sleep 600"]);
    running.until("ready");
    for _ in 0..10 {
        let mut pty = Pty::start(jail.netjail(&["exec", "lab-size", "--", "stty", "size"]));
        pty.expect("24 80");
        assert_eq!(pty.finish().code(), Some(0));
    }
}

#[test]
fn ctrl_c_ends_netjail_at_its_own_question() {
    let jail = jail();
    let project = jail.work().join("src/_index.yaml");
    std::fs::create_dir_all(project.parent().unwrap()).unwrap();
    let write = |port: u16| {
        let entry = format!("{{name: proxy, kind: network.socks5, host: 127.0.0.1, port: {port}}}");
        std::fs::write(&project, format!("version: \"1.0\"\nnamespace: app\nentries:\n  - {entry}\n")).unwrap();
    };
    let words = ["run", "--network", "app:proxy", "--", "true"];
    write(9);
    lab::child::run(jail.netjail(&words)).good();
    write(10);
    let mut pty = Pty::start(jail.netjail(&words));
    pty.expect("[y/N]");
    pty.send("\x03");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&pty.finish()), Some(libc::SIGINT));
}

#[test]
fn the_commands_own_stop_stops_the_job() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("$J sh -c 'kill -STOP $$; echo again-$((40+2))'\r", &["Stopped", "ready> "]);
    bash.talk("fg\r", &["again-42", "ready> "]);
    assert_eq!(code(&mut bash), "0");
}

#[test]
fn the_window_size_and_its_changes_are_seen_inside() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("$J bash --norc -c 'trap \"stty size; exit 3\" WINCH; stty size; echo up-$((40+2)); while :; do sleep 0.05; done'\r", &["24 80", "up-42"]);
    bash.resize(100, 50);
    bash.expect("50 100");
    bash.expect("ready> ");
    assert_eq!(code(&mut bash), "3");
}

#[test]
fn an_interactive_shell_inside_has_job_control_and_leaves_the_terminal_as_it_was() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.send("$J bash --norc --noprofile -i\r");
    bash.talk("PS1='in''side> '\r", &["inside> "]);
    let shell_inside = bash.foreground();
    bash.talk("sh -c 'echo up-$((40+2)); exec sleep 1000'\r", &["up-42"]);
    bash.talk("\x1a", &["Stopped", "inside> "]);
    bash.send("fg\r");
    bash.await_foreground_other_than(shell_inside);
    bash.talk("\x03", &["inside> "]);
    bash.talk("exit 4\r", &["ready> "]);
    assert_eq!(code(&mut bash), "4");
    assert_eq!(bash.foreground(), bash.pid(), "the terminal belongs to the outer shell again");
    bash.talk("tty >/dev/null && echo fi''ne\r", &["fine"]);
}

#[test]
fn pipelines_of_two_jails_work_and_end_together() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk("$J sh -c 'echo ab' | $J tr a-z A-Z\r", &["AB", "ready> "]);
    bash.talk("$J yes | $J head -1; echo \"st${x}atus ${PIPESTATUS[*]}\"\r", &["status 141 0"]);
}

#[test]
fn the_command_has_the_terminal_as_its_own() {
    let jail = jail();
    let mut bash = shell(&jail);
    bash.talk(
        "$J sh -c 'tty; echo to-the-tty-$((1+1)) >/dev/tty; ps -o tpgid= -p $$ >/dev/null; exit 0'\r",
        &["/dev/", "to-the-tty-2", "ready> "],
    );
}

#[test]
fn netjail_shell_is_the_users_shell_in_a_jail() {
    let jail = jail();
    let registry = jail.registry_file().display().to_string();
    let words = ["shell", "--registry", &registry, "--network", "app:proxy"];
    let mut command = jail.netjail(&words);
    command.env("SHELL", "/bin/bash");
    let mut pty = Pty::start(command);
    pty.talk("echo sh''ell-$((40+2)); readlink /proc/self/ns/net; exit 8\r", &["shell-42", "net:["]);
    assert_eq!(pty.finish().code(), Some(8));
}

#[test]
fn exec_in_the_background_runs_on_and_takes_the_terminal_when_it_is_brought_forward() {
    let jail = jail().with(&["--name", "lab-back"]);
    let mut running = jail.start("app:proxy", &["sh", "-c", "echo ready; exec sleep 600"]);
    running.until("ready");
    let mut bash = shell(&jail);
    let exec = format!("{} exec lab-back --", lab::jail::binary());
    // Nothing stops it: neither its start nor its end touches a terminal that is the shell's.
    bash.talk(
        &format!("{exec} sh -c 'echo from-$((40+2))' & wait $!; echo en''ded-$?\r"),
        &["from-42", "ended-0", "ready> "],
    );
    bash.talk(&format!("{exec} sh -c 'echo up-$((40+2)); read word; echo word-$word' &\r"), &["up-42"]);
    bash.send("fg\r");
    bash.await_foreground_other_than(bash.pid());
    bash.talk("hello\r", &["word-hello", "ready> "]);
}
