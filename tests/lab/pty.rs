//! A terminal with a program on it: send keys, expect text.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::child::PATIENCE;

/// The master side; what the program printed is consumed by `expect`.
pub struct Pty {
    child: Child,
    master: std::fs::File,
    seen: Arc<Mutex<Vec<u8>>>,
    consumed: usize,
}

impl Pty {
    /// Starts the command as leader of a new session with a terminal of 80 by 24.
    pub fn start(mut command: Command) -> Self {
        let pair = nix::pty::openpty(Some(&size(80, 24)), None).unwrap();
        nix::fcntl::fcntl(&pair.master, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).unwrap();
        command.stdin(Stdio::from(pair.slave.try_clone().unwrap()));
        command.stdout(Stdio::from(pair.slave.try_clone().unwrap()));
        command.stderr(Stdio::from(pair.slave));
        // SAFETY: setsid and ioctl are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = super::child::spawn(command).unwrap();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let mut reader = std::fs::File::from(pair.master.try_clone().unwrap());
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                kept.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self { child, master: pair.master.into(), seen, consumed: 0 }
    }

    /// An interactive bash without anybody's settings, ready for input. `env` holds what its commands need.
    pub fn bash(command: Command) -> Self {
        let mut pty = Self::start(command);
        pty.send("PS1='rea''dy> '; bind 'set enable-bracketed-paste off' 2>/dev/null\r");
        pty.expect("ready> ");
        pty
    }

    /// Types the text; `\r` is Return, `\x03` Ctrl-C, `\x1a` Ctrl-Z.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Types the text, and waits for each of these in turn.
    pub fn talk(&mut self, keys: &str, shown: &[&str]) {
        self.send(keys);
        for text in shown {
            self.expect(text);
        }
    }

    /// Waits until the text appears after what was consumed before, and consumes up to its end.
    pub fn expect(&mut self, text: &str) -> String {
        self.expect_within(text, PATIENCE)
    }

    pub fn expect_within(&mut self, text: &str, limit: Duration) -> String {
        let begun = Instant::now();
        let mut ended = None;
        loop {
            {
                let seen = self.seen.lock().unwrap();
                let fresh = &seen[self.consumed..];
                if let Some(at) = fresh.windows(text.len()).position(|w| w == text.as_bytes()) {
                    let end = at + text.len();
                    let part = String::from_utf8_lossy(&fresh[..end]).into_owned();
                    self.consumed += end;
                    return part;
                }
                // What it printed last may still be on its way when it has ended.
                if self.child.try_wait().unwrap().is_some() {
                    ended.get_or_insert_with(Instant::now);
                }
                if begun.elapsed() > limit || ended.is_some_and(|at| at.elapsed() > limit / 12) {
                    panic!("the terminal did not show {text:?}: {}", String::from_utf8_lossy(&seen).escape_debug());
                }
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// What was printed and not yet consumed.
    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()[self.consumed..]).into_owned()
    }

    /// Changes the window's size; the foreground job gets SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = size(columns, rows);
        // SAFETY: the pointer is to a live winsize; the descriptor is open.
        let rc = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(rc, 0, "TIOCSWINSZ");
    }

    /// The terminal's foreground process group.
    pub fn foreground(&self) -> i32 {
        nix::unistd::tcgetpgrp(&self.master).unwrap().as_raw()
    }

    /// Waits until another process group than this one is in the foreground.
    pub fn await_foreground_other_than(&self, group: i32) {
        super::wait_for("the job in the foreground", PATIENCE, || (self.foreground() != group).then_some(()));
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for the program's end.
    pub fn finish(mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "no end: {}", self.rest().escape_debug());
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> nix::pty::Winsize {
    nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
