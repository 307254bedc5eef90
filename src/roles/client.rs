//! The side of `ps`, `exec` and `stop` that talks to a live jail.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{
    ClientAnswer, ClientRequest, ClientSignal, Ending, ExecRequest, JailStatus, Refusal, WindowSize,
};
use crate::control::rundir::{self, RunError};
use crate::jail::environment::{self, Choices, host_name};
use crate::jail::payload::{Command, StageError};
use crate::roles::guard;
use crate::roles::signals::Signals;

/// Why a request to a jail came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The jail can not be found or reached.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It does not answer as it should.
    #[error("the jail does not answer: {0}")]
    Channel(#[from] ChannelError),
    /// It said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The command could not be started.
    #[error(transparent)]
    NotRun(StageError),
    /// Something of this process.
    #[error("{what}: {source}")]
    Own {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn own<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ClientError {
    move |source| ClientError::Own { what, source: source.into() }
}

/// Asks every jail in the run folder what it is; those that are gone are forgotten.
pub fn list(folder: &Path) -> Vec<JailStatus> {
    rundir::names(folder).iter().filter_map(|name| status(folder, name).ok()).collect()
}

/// Asks one jail.
pub fn status(folder: &Path, name: &str) -> Result<JailStatus, ClientError> {
    let jail = rundir::open(folder, name)?;
    jail.send(&ClientRequest::Status)?;
    match jail.receive()?.0 {
        ClientAnswer::Status(status) => Ok(status),
        ClientAnswer::Refused(refusal) => Err(ClientError::Refused(refusal)),
        other => Err(unexpected(&other)),
    }
}

/// Asks a jail's command to end, kills the jail if it has not in time, and waits until it is gone.
pub fn stop(folder: &Path, name: &str, grace: Duration) -> Result<(), ClientError> {
    let jail = rundir::open(folder, name)?;
    jail.send(&ClientRequest::Stop { grace: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX) })?;
    loop {
        match jail.receive() {
            Ok((ClientAnswer::Stopping, _)) => {}
            Ok((ClientAnswer::Refused(refusal), _)) => return Err(ClientError::Refused(refusal)),
            Ok((other, _)) => return Err(unexpected(&other)),
            Err(ChannelError::Closed) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

fn unexpected(answer: &ClientAnswer) -> ClientError {
    ChannelError::Malformed(format!("an answer to another question: {answer:?}")).into()
}

/// Runs a command in a live jail, on this process's streams; a terminal is relayed through one of the jail's own.
pub fn exec(folder: &Path, name: &str, command: &Command) -> Result<Ending, ClientError> {
    let jail = rundir::open(folder, name)?;
    jail.send(&ClientRequest::Exec)?;
    match jail.receive()?.0 {
        ClientAnswer::GoOn => {}
        ClientAnswer::Refused(refusal) => return Err(ClientError::Refused(refusal)),
        other => return Err(unexpected(&other)),
    }
    let terminal = (io::stdin().is_terminal() && io::stdout().is_terminal()).then(|| window_size().unwrap_or_default());
    let memory = describe(command)?;
    let guarded = |stream: BorrowedFd<'_>| guard::read_only(stream).map_err(own("keep a file read-only in the jail"));
    let input = guarded(io::stdin().as_fd())?;
    let (output, error) = (guarded(io::stdout().as_fd())?, guarded(io::stderr().as_fd())?);
    let all: [BorrowedFd<'_>; 4] = [memory.as_fd(), input.as_fd(), output.as_fd(), error.as_fd()];
    let talk: Channel<ExecRequest, ClientAnswer> = OwnedFd::from(jail).into();
    talk.send_with(&ExecRequest { terminal }, if terminal.is_some() { &all[..1] } else { &all })?;
    let (answer, mut descriptors) = talk.receive()?;
    match answer {
        ClientAnswer::Running => {}
        ClientAnswer::NotRun(error) => return Err(ClientError::NotRun(error)),
        ClientAnswer::Refused(refusal) => return Err(ClientError::Refused(refusal)),
        other => return Err(unexpected(&other)),
    }
    let jail: Channel<ClientSignal, ClientAnswer> = OwnedFd::from(talk).into();
    Session { jail, terminal: descriptors.pop() }.follow()
}

/// Writes a command into a memory file, for it may be larger than a message.
fn describe(command: &Command) -> Result<OwnedFd, ClientError> {
    let bytes = postcard::to_stdvec(command).map_err(|e| own("describe the command")(io::Error::other(e)))?;
    let memory = memfd_create("netjail-command", MFdFlags::MFD_CLOEXEC).map_err(own("make a memory file"))?;
    let mut file = File::from(memory);
    file.write_all(&bytes).map_err(own("write the command"))?;
    Ok(file.into())
}

/// A command that runs for this client.
struct Session {
    jail: Channel<ClientSignal, ClientAnswer>,
    terminal: Option<OwnedFd>,
}

/// Sent on whoever sends them: the command is in another session, where this terminal's signals do not reach it. Others
/// only if a process sent them.
const ALWAYS: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGALRM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// How often a job in the background looks whether it still is, in milliseconds.
const LOOK: u8 = 100;

impl Session {
    fn follow(self) -> Result<Ending, ClientError> {
        let signals = Signals::block(&[Signal::SIGTTIN, Signal::SIGTTOU]).map_err(own("watch signals"))?;
        let mut raw = RawMode::default();
        if self.terminal.is_some() {
            raw.enter();
        }
        if let Some(terminal) = &self.terminal {
            copy_window_size(terminal);
        }
        self.relay(&signals, &mut raw)
    }

    fn relay(&self, signals: &Signals, raw: &mut RawMode) -> Result<Ending, ClientError> {
        let stdin = io::stdin();
        let mut input_open = true;
        let mut output_open = true;
        let mut ending = None;
        loop {
            let mut polled = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.jail.as_fd(), if ending.is_none() { PollFlags::POLLIN } else { PollFlags::empty() }),
            ];
            if let Some(terminal) = &self.terminal {
                polled.push(PollFd::new(
                    terminal.as_fd(),
                    if output_open { PollFlags::POLLIN } else { PollFlags::empty() },
                ));
                polled.push(PollFd::new(
                    stdin.as_fd(),
                    if input_open && raw.entered() { PollFlags::POLLIN } else { PollFlags::empty() },
                ));
            }
            // A shell that brings a running job to the foreground tells it nothing.
            let in_background = self.terminal.is_some() && !raw.entered();
            let wait = if in_background { PollTimeout::from(LOOK) } else { PollTimeout::NONE };
            match poll(&mut polled, wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(own("wait for events")(errno)),
            }
            let ready: Vec<bool> =
                polled.iter().map(|p| p.revents().is_some_and(|events| !events.is_empty())).collect();
            drop(polled);
            if in_background {
                raw.enter();
            }
            if ready[0] {
                self.pass_signals_on(signals, raw);
            }
            if let Some(terminal) = &self.terminal {
                if ready[2] && output_open {
                    output_open = copy_some(terminal.as_fd(), io::stdout().as_fd());
                }
                if ready[3] && input_open {
                    input_open = copy_some(stdin.as_fd(), terminal.as_fd());
                }
            } else {
                output_open = false;
            }
            if ready[1] && ending.is_none() {
                match self.jail.receive() {
                    Ok((ClientAnswer::Ended(how), _)) => ending = Some(how),
                    // The relayed terminal has its own Ctrl-Z: the command is stopped in its own session.
                    Ok((ClientAnswer::Stopped(_), _)) if self.terminal.is_none() => {
                        // Back by SIGCONT, which is passed on.
                        let _ = raise(Signal::SIGSTOP);
                    }
                    Ok(_) => {}
                    // The jail ended, and everything in it was killed.
                    Err(_) => ending = Some(Ending::Signalled(Signal::SIGKILL as i32)),
                }
            }
            // What the command wrote last is still in the terminal when its end is known.
            if let Some(ending) = ending
                && (!output_open || !ready.get(2).copied().unwrap_or(false))
            {
                return Ok(ending);
            }
        }
    }

    fn pass_signals_on(&self, signals: &Signals, raw: &mut RawMode) {
        while let Some(received) = signals.next() {
            if received.is(Signal::SIGCONT) && self.terminal.is_some() {
                // Back in the foreground, perhaps, where the shell has left the terminal as it likes it.
                raw.enter();
            }
            if received.is(Signal::SIGWINCH) {
                // The jail's terminal tells the command, if its size is another one.
                self.terminal.iter().for_each(copy_window_size);
            } else if received.from_process || ALWAYS.iter().any(|signal| received.is(*signal)) {
                let _ = self.jail.send(&ClientSignal::Signal(received.number));
            }
        }
    }
}

/// Copies what is there; whether more may come.
fn copy_some(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let (Ok(from), Ok(to)) = (from.try_clone_to_owned(), to.try_clone_to_owned()) else { return false };
    match File::from(from).read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => File::from(to).write_all(&buffer[..count]).is_ok(),
        Err(e) => matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
    }
}

fn copy_window_size(terminal: &OwnedFd) {
    let Some(size) = window_size() else { return };
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

/// The size of the caller's terminal.
fn window_size() -> Option<WindowSize> {
    // SAFETY: TIOCGWINSZ writes one winsize, which is plain data.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) == 0).then_some(size)
    }?;
    Some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The caller's terminal in raw mode: every key goes to the jail's terminal, which interprets it. A job in the background
/// leaves the terminal alone, and its keys to the shell: to change it or to read from it would stop the job.
#[derive(Default)]
struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    /// Does nothing in the background; to be called again later, and at each SIGCONT.
    fn enter(&mut self) {
        if !in_foreground() {
            return;
        }
        if self.before.is_none() {
            self.before = tcgetattr(io::stdin()).ok();
        }
        if let Some(mut raw) = self.before.clone() {
            cfmakeraw(&mut raw);
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw);
        }
    }

    fn entered(&self) -> bool {
        self.before.is_some()
    }
}

/// Also where the terminal is not this session's own: nothing stops a job then.
fn in_foreground() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = self.before.as_ref().filter(|_| in_foreground()) {
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// A command as this process would run it.
pub fn command_of_caller(argv: &[OsString], ignored: u64) -> Result<Command, ClientError> {
    use std::os::unix::ffi::OsStrExt;
    let argv = argv
        .iter()
        .map(|argument| std::ffi::CString::new(argument.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|e| own("pass the arguments on")(io::Error::other(e)))?;
    let directory = std::env::current_dir().map_err(own("find the working folder"))?;
    let choices = Choices { host_name: host_name(), ..Choices::default() };
    let environment = environment::build(std::env::vars_os(), &choices).as_execve_wants();
    let attributes = crate::jail::payload::Attributes::of_caller(ignored, 0);
    crate::jail::counters::raise_descriptors();
    Ok(Command { argv, environment, directory, attributes })
}
