//! Processes with a deadline: their output is collected while they run, and shown when they are killed for being late.
//!
//! All are started by one thread that lives as long as the test's process. PDEATHSIG fires when the *thread* that forked
//! ends, so a child started by a test's own thread could outlive or underlive the test; this way it dies exactly with the
//! process, even if that is killed.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long anything may take unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a command that dies with the test's process.
pub fn spawn(mut command: Command) -> std::io::Result<Child> {
    static NURSERY: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    // SAFETY: prctl and pthread_sigmask are async-signal-safe and touch no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        });
    }
    let (sender, reply) = channel();
    nursery.lock().unwrap().send((command, sender)).unwrap();
    reply.recv().unwrap()
}

/// One of netjail's processes, by the name it gives itself (`nj-relay`), below the front with this pid.
pub fn role(front: i32, name: &str) -> i32 {
    super::wait_for(name, Duration::from_secs(10), || {
        tree(front).into_iter().find(|(_, comm)| comm == name).map(|(pid, _)| pid)
    })
}

/// A child whose output is being collected.
pub struct Running {
    child: Child,
    name: String,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// What is left of a child.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Finished {
    /// The exit code, or 128+n after signal n, as a shell shows it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails the test unless the command ended well.
    pub fn good(self) -> Self {
        assert_eq!(self.code(), 0, "{self:#?}");
        self
    }

    /// The lines of stdout that begin with `key` and a blank, without these.
    pub fn facts(&self, key: &str) -> Vec<String> {
        self.out.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix(' ')).map(str::to_owned).collect()
    }

    /// The one such line.
    pub fn fact(&self, key: &str) -> String {
        let all = self.facts(key);
        assert_eq!(all.len(), 1, "one line that begins with {key:?}: {self:#?}");
        all[0].clone()
    }
}

impl Running {
    /// Starts the command with its output collected; stdin is a pipe that [`Running::say`] writes to.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = format!("{command:?}");
        let mut child = spawn(command).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (out, err) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().unwrap(), Arc::clone(&out)),
            collect(child.stderr.take().unwrap(), Arc::clone(&err)),
        ];
        Self { child, name, out, err, readers }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What was printed so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.lock().unwrap()).into_owned()
    }

    /// What was complained of so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.lock().unwrap()).into_owned()
    }

    /// Waits until stdout holds the text.
    pub fn until(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let out = self.out();
            if out.contains(text) {
                return out;
            }
            let gone = self.child.try_wait().unwrap();
            if gone.is_some() || begun.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("{}: no {text:?}\nstatus {gone:?}\nstdout: {out}\nstderr: {}", self.name, self.err());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes to its stdin.
    pub fn say(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("stdin is open").write_all(text.as_bytes()).unwrap();
    }

    /// Closes its stdin.
    pub fn hush(&mut self) {
        self.child.stdin = None;
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end, at most [`PATIENCE`].
    pub fn finish(self) -> Finished {
        self.finish_within(PATIENCE)
    }

    /// Waits for the end; a child that is late is killed and the test fails with all it printed.
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        self.hush();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > limit {
                let _ = self.child.kill();
                panic!("{} took more than {limit:?}\nstdout: {}\nstderr: {}", self.name, self.out(), self.err());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // A descendant that kept the pipe open must not hang the test.
        let grace = Instant::now();
        while self.readers.iter().any(|r| !r.is_finished()) && grace.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Finished { status, out: self.out(), err: self.err() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub fn run(command: Command) -> Finished {
    Running::start(command).finish()
}

fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..n]);
        }
    })
}

/// The process and everything below it, as (pid, comm), found by parenthood in /proc.
pub fn tree(root: i32) -> Vec<(i32, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if let Some((comm, parent)) = stat(pid) {
            all.push((pid, comm, parent));
        }
    }
    let mut found: Vec<(i32, String)> =
        all.iter().filter(|(pid, ..)| *pid == root).map(|(pid, comm, _)| (*pid, comm.clone())).collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next].0;
        found.extend(all.iter().filter(|(_, _, p)| *p == parent).map(|(pid, comm, _)| (*pid, comm.clone())));
        next += 1;
    }
    found
}

/// Name and parent of a process that is not a zombie.
pub fn stat(pid: i32) -> Option<(String, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    Some((comm, fields.next()?.parse().ok()?))
}

/// Waits until none of these processes lives.
pub fn all_gone(what: &str, processes: &[(i32, String)]) {
    super::wait_for(&format!("the end of {what}: {processes:?}"), Duration::from_secs(10), || {
        processes.iter().all(|(pid, comm)| stat(*pid).is_none_or(|(now, _)| now != *comm)).then_some(())
    });
}
