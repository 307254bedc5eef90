//! Starts a client under a launcher, as the ordinary user that launchers are for, and talks with it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::FAILED;
use crate::figures::Lack;
use crate::processes::{self, Clock};
use crate::variants::Variant;

/// Where and as whom launchers run, and for how long.
pub struct Place {
    /// With the bench's own program in it, and a `home` that the user may write to.
    pub folder: PathBuf,
    /// Whom they run as, if root measures.
    pub uid: Option<u32>,
    /// How long a client measures.
    pub window: Duration,
}

/// Whatever hangs is ended by timeout(1), which stands before every client and ends all that was started: seconds, for a
/// client that measures and for one that holds flows.
const TIME_LIMITS: (&str, &str) = ("15", "120");

/// How long a launcher may take to end behind its client.
const END: Duration = Duration::from_millis(500);

impl Place {
    fn command(&self, words: &[String]) -> Command {
        let home = self.folder.join("home");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&home);
        command.env("HOME", &home).env("XDG_STATE_HOME", home.join("state")).env_remove("XDG_RUNTIME_DIR");
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// The client's words for a mode.
    pub fn client(&self, variant: &Variant, mode: &str, streams: usize) -> Vec<String> {
        let program = self.folder.join("bench").display().to_string();
        let window = self.window.as_secs_f64().to_string();
        let mut words: Vec<String> =
            [&program, "client", mode, variant.host, "--seconds", &window, "--streams", &streams.to_string()]
                .map(str::to_owned)
                .into();
        if let Some(port) = variant.socks {
            words.extend(["--socks".into(), format!("127.0.0.1:{port}")]);
        }
        words
    }

    /// So many whole lives of `LAUNCHER true`, one after another.
    pub fn lives(&self, variant: &Variant, count: usize) -> Result<Vec<Duration>, Lack> {
        let words = [variant.launcher.as_slice(), &["true".to_owned()]].concat();
        let mut command = self.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        (0..count)
            .map(|_| {
                let start = Instant::now();
                let status = ends_in_time(&mut command.spawn()?)?;
                let life = start.elapsed();
                if status.success() { Ok(life) } else { Err(Lack::Failed(format!("true ended with {status}"))) }
            })
            .collect()
    }
}

/// How long a whole life may take.
const LIFE: Duration = Duration::from_secs(5);

/// Waits for the leader of a group, which is killed if that takes too long; nothing stands before it that would cost time.
fn ends_in_time(child: &mut Child) -> io::Result<ExitStatus> {
    let group = Pid::from_raw(child.id() as i32);
    let (ended, end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(LIFE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = killpg(group, Signal::SIGKILL);
            }
        });
        let status = child.wait();
        drop(ended);
        status
    })
}

/// One client that runs under a launcher.
pub struct Running {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
    /// What launcher and client complain about.
    complaints: PathBuf,
}

impl Running {
    pub fn start(place: &Place, variant: &Variant, mode: &str, streams: usize) -> Result<Self, Lack> {
        let holds = ["idle", "unread", "untaken", "burst"].contains(&mode);
        let limit = if holds { TIME_LIMITS.1 } else { TIME_LIMITS.0 };
        let limit = ["timeout", "-k", "1", limit].map(str::to_owned);
        let words = [&limit, variant.launcher.as_slice(), &place.client(variant, mode, streams)].concat();
        let complaints = place.folder.join("stderr");
        let mut command = place.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&complaints)?);
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or_else(|| Lack::Failed("no standard output".into()))?;
        Ok(Self { child, lines: BufReader::new(output).lines(), complaints })
    }

    /// Reads on to the line that begins with `word`, and gives what follows it.
    pub fn expect(&mut self, word: &str) -> Result<String, Lack> {
        for line in self.lines.by_ref() {
            let line = line?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
            if let Some(why) = line.strip_prefix(FAILED) {
                self.kill()?;
                return Err(Lack::Failed(why.trim().to_owned()));
            }
        }
        let said = std::fs::read_to_string(&self.complaints).unwrap_or_default();
        let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let status = self.child.wait()?;
        let status = if status.code() == Some(124) { "too slow, and ended".into() } else { status.to_string() };
        Err(Lack::Failed(format!("{said} ({status})")))
    }

    pub fn number(&mut self, word: &str) -> Result<f64, Lack> {
        let text = self.expect(word)?;
        text.parse().map_err(|_| Lack::Failed(format!("{word} {text}: not a number")))
    }

    /// Lets the client go on.
    pub fn go_on(&mut self) -> Result<(), Lack> {
        if let Some(input) = &mut self.child.stdin {
            input.write_all(b"\n")?;
        }
        Ok(())
    }

    /// CPU time of the launcher and of the client up to now.
    pub fn clock(&self) -> Clock {
        Clock::read(self.child.id())
    }

    /// Memory of the launcher, bytes; `None` where it can not be read.
    pub fn memory(&self) -> Option<f64> {
        processes::memory(self.child.id()).map(|bytes| bytes as f64)
    }

    fn kill(&mut self) -> Result<(), Lack> {
        // timeout(1) made a group of its own; that it has ended meanwhile is as good.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        self.child.wait()?;
        Ok(())
    }

    /// Ends the client by the end of its input, and waits for the launcher; what does not end by itself is killed.
    pub fn end(mut self) -> Result<(), Lack> {
        drop(self.child.stdin.take());
        let over = Instant::now();
        while self.child.try_wait()?.is_none() {
            if over.elapsed() > END {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
