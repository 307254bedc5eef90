//! One line on a terminal that says what is being waited for, from the second second on; it is gone when the wait is over.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long nothing is said, and how often the line is renewed.
const PAUSE: Duration = Duration::from_secs(1);

/// A wait that is shown while this lives. On anything but a terminal nothing is written: a script reads no progress.
#[derive(Debug, Default)]
pub struct Progress {
    line: Option<(Sender<String>, JoinHandle<()>)>,
}

impl Progress {
    /// Begins with `what`, on standard error.
    pub fn new(what: &str, quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self::default();
        }
        let (send, receive) = mpsc::channel::<String>();
        let mut what = what.to_owned();
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            let mut shown = false;
            let write = |text: &str| {
                let _ = write!(io::stderr(), "\r\x1b[K{text}");
            };
            loop {
                match receive.recv_timeout(PAUSE) {
                    Ok(now) => what = now,
                    Err(RecvTimeoutError::Timeout) => shown = true,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if shown {
                    write(&format!("{what} ({} s)", begun.elapsed().as_secs()));
                }
            }
            if shown {
                write("");
            }
        });
        Self { line: Some((send, thread)) }
    }

    /// Says something else from now on.
    pub fn say(&self, what: String) {
        if let Some((send, _)) = &self.line {
            let _ = send.send(what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((send, thread)) = self.line.take() {
            drop(send);
            let _ = thread.join();
        }
    }
}
