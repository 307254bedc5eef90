//! Init: pid 1 of the jail, its builder, and the only process that starts others in it.
//!
//! It stays in the first user namespace (U1) with that namespace's capabilities, out of the payload's reach: the payload is
//! in a user namespace below, and init can not be looked into. It holds no data of anybody.
//!
//! States: *building* (each stage reported to front), *waiting* for the warden's "ready", *running*, *over*. Over begins with
//! the end of whatever else is left in the pid namespace, which is said at once; then pid 1 exits, and takes the mounts along.

//!
//! - [`plan`]: what it is told. [`build`]: the stages of a jail. [`start`]: those of a command.

mod build;
mod plan;
mod start;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::RunOptions;
use super::fork::exit;
use crate::control::channel::Channel;
use crate::control::messages::{
    ClientAnswer, ClientSignal, Ending, FrontToInit, InitToFront, InitToWarden, Refusal, UsherToInit, WardenToInit,
    WindowSize, take,
};
use crate::jail::payload::{self, StageError, Streams};

pub use plan::{Draft, Plan, environment, program};

/// Init's ends of its channels.
#[derive(Debug)]
pub struct Ends {
    /// To front.
    pub front: Channel<InitToFront, FrontToInit>,
    /// To the warden.
    pub warden: Channel<InitToWarden, WardenToInit>,
}

/// The main loop; never returns.
pub fn run(options: &RunOptions, draft: Draft, ends: Ends) -> ! {
    let status = match build::build(options, draft, &ends) {
        Ok((plan, signals)) => Running::new(plan, ends, signals).until_the_end(),
        Err(Refusal(text)) => {
            let _ = ends.front.send(&InitToFront::Failed(Refusal(text)));
            1
        }
    };
    exit(status)
}

/// Who wants to hear of a command.
#[derive(Debug)]
enum Listener {
    /// The command that the jail was made for.
    Front,
    /// `exec`: the client that asked.
    Client(Channel<ClientAnswer, ClientSignal>),
}

/// One command that init started.
#[derive(Debug)]
struct Started {
    pid: Pid,
    listener: Listener,
    /// Open until `exec` has happened or failed.
    errors: Option<OwnedFd>,
    /// The terminal's other side, to be handed to the client with the news that the command runs.
    terminal: Option<OwnedFd>,
    /// It ended before its pipe was read.
    ended: Option<Ending>,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    ends: Ends,
    commands: Vec<Started>,
    /// Of `exec` requests whose command is not started yet.
    ushers: Vec<Channel<(), UsherToInit>>,
    /// How the command that the jail was made for ended; with `--wait` others may go on.
    ending: Option<Ending>,
    /// When a jail that was asked to end is ended.
    killing_at: Option<Instant>,
    /// Signals for a command that is not executed yet: until then it ignores what init ignores.
    held: Vec<i32>,
}

impl Running {
    fn new(plan: Plan, ends: Ends, held: Vec<i32>) -> Self {
        Self { plan, ends, commands: Vec::new(), ushers: Vec::new(), ending: None, killing_at: None, held }
    }

    fn until_the_end(mut self) -> i32 {
        let Ok(children) = watch_children() else { return 1 };
        let command = self.plan.command.clone();
        match start::fork_command(&self.plan, &self.ends, &command, &Streams::Inherited) {
            Ok((pid, errors)) => {
                let listener = Listener::Front;
                self.commands.push(Started { pid, listener, errors: Some(errors), terminal: None, ended: None });
            }
            Err(error) => {
                let _ = self.ends.front.send(&InitToFront::NotRun(error));
                return 1;
            }
        }
        loop {
            match self.turn(&children) {
                Turn::Again => {}
                Turn::Over(status) => return status,
            }
        }
    }

    /// Waits for one round of events and handles it.
    fn turn(&mut self, children: &SignalFd) -> Turn {
        let mut polled = vec![
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ends.front.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ends.warden.as_fd(), PollFlags::POLLIN),
        ];
        let fixed = polled.len();
        for command in &self.commands {
            // poll(2) passes over negative descriptors; a command without a pipe has its client's channel in that place.
            if let Some(errors) = &command.errors {
                polled.push(PollFd::new(errors.as_fd(), PollFlags::POLLIN));
            } else if let Listener::Client(client) = &command.listener {
                polled.push(PollFd::new(client.as_fd(), PollFlags::POLLIN));
            } else {
                polled.push(PollFd::new(children.as_fd(), PollFlags::empty()));
            }
        }
        polled.extend(self.ushers.iter().map(|usher| PollFd::new(usher.as_fd(), PollFlags::POLLIN)));
        let patience = self.killing_at.map_or(PollTimeout::NONE, |at| {
            PollTimeout::try_from(at.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX)
        });
        if !matches!(poll(&mut polled, patience), Ok(_) | Err(Errno::EINTR)) {
            return Turn::Over(1);
        }
        let ready: Vec<bool> = polled.iter().map(|p| p.revents().is_some_and(|events| !events.is_empty())).collect();
        drop(polled);
        let commands = self.commands.len();
        let spoken: Vec<usize> = (0..self.ushers.len()).filter(|index| ready[fixed + commands + index]).collect();

        for index in 0..commands {
            if ready[fixed + index] {
                self.hear_command(index);
            }
        }
        if ready[0] {
            while let Ok(Some(_)) = children.read_signal() {}
            self.reap();
        }
        if ready[1] && !self.hear_front() {
            return Turn::Over(1);
        }
        if ready[2] && !self.hear_warden() {
            return Turn::Over(1);
        }
        for index in spoken.into_iter().rev() {
            let usher = self.ushers.swap_remove(index);
            // One that closes without a word has refused its client.
            if let Ok((UsherToInit::Start { terminal }, descriptors)) = usher.receive() {
                self.start_for_client(terminal, descriptors);
            }
        }
        self.settle()
    }

    /// Forgets the commands that are over, and sees whether the jail is.
    fn settle(&mut self) -> Turn {
        let mut index = 0;
        while index < self.commands.len() {
            let command = &self.commands[index];
            // A command that has ended is reported only once its pipe was read: it may never have been executed.
            if let (Some(ending), None) = (command.ended, &command.errors) {
                let command = self.commands.remove(index);
                match command.listener {
                    Listener::Front => self.ending = Some(ending),
                    Listener::Client(client) => {
                        let _ = client.send(&ClientAnswer::Ended(ending));
                    }
                }
            } else {
                index += 1;
            }
        }
        if self.killing_at.is_some_and(|at| at <= Instant::now()) {
            return self.end(self.ending.unwrap_or(Ending::Signalled(Signal::SIGKILL as i32)));
        }
        match self.ending {
            Some(ending) if !self.plan.wait || !has_children() => self.end(ending),
            _ => Turn::Again,
        }
    }

    /// Ends whatever is left, and says so before this process goes: that takes the kernel a while (its mounts), in which the
    /// warden and the relay can end as well.
    fn end(&self, ending: Ending) -> Turn {
        // As pid 1 this reaches every other process of the namespace; what they leave behind comes here to be reaped.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {}
        let failed = matches!(ending, Ending::Exited(status) if status != 0);
        let _ = self.ends.warden.send(&InitToWarden::Over { failed });
        let _ = self.ends.front.send(&InitToFront::Ended(ending));
        Turn::Over(0)
    }

    fn reap(&mut self) {
        while let Some((pid, news)) = next_child_news() {
            let Some(command) = self.commands.iter_mut().find(|c| c.pid == pid) else { continue };
            match (news, &command.listener) {
                (News::Ended(ending), _) => command.ended = Some(ending),
                (News::Stopped(signal), Listener::Front) => {
                    let _ = self.ends.front.send(&InitToFront::Stopped(signal));
                }
                (News::Stopped(signal), Listener::Client(client)) => {
                    let _ = client.send(&ClientAnswer::Stopped(signal));
                }
                (News::Continued, _) => {}
            }
        }
    }

    /// The error pipe of a command, or a word of its client.
    fn hear_command(&mut self, index: usize) {
        let command = &mut self.commands[index];
        if let Some(errors) = command.errors.take() {
            let error = payload::read_stage_error(errors).unwrap_or_else(|e| {
                Some(StageError::new("start the command", Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))))
            });
            let failed = error.is_some();
            match &command.listener {
                Listener::Front => {
                    let message = error.map_or(InitToFront::Running, InitToFront::NotRun);
                    let _ = self.ends.front.send(&message);
                    let _ = self.ends.warden.send(&InitToWarden::Running);
                    let pid = command.pid;
                    self.held.drain(..).for_each(|number| send_signal(pid, number));
                }
                Listener::Client(client) => {
                    let terminal = command.terminal.take();
                    let message = error.map_or(ClientAnswer::Running, ClientAnswer::NotRun);
                    let descriptors: Vec<BorrowedFd<'_>> =
                        terminal.iter().filter(|_| !failed).map(AsFd::as_fd).collect();
                    let _ = client.send_with(&message, &descriptors);
                }
            }
            return;
        }
        let Listener::Client(client) = &command.listener else { return };
        match client.receive() {
            Ok((ClientSignal::Signal(number), _)) => send_signal(command.pid, number),
            Err(_) => {
                // The client is gone, as a terminal that was closed.
                let _ = kill(command.pid, Signal::SIGHUP);
                let _ = kill(command.pid, Signal::SIGCONT);
                let pid = command.pid;
                self.commands.retain(|c| c.pid != pid);
            }
        }
    }

    fn hear_front(&mut self) -> bool {
        match self.ends.front.receive() {
            Ok((FrontToInit::Signal(number), _)) => {
                self.signal_command(number);
                true
            }
            Ok((FrontToInit::Mapped | FrontToInit::Go(_), _)) => true,
            // Front is gone, and with it whoever answers for this jail.
            Err(_) => false,
        }
    }

    /// Signals the command that the jail was made for.
    fn signal_command(&mut self, number: i32) {
        match self.commands.iter().find(|c| matches!(c.listener, Listener::Front)) {
            Some(command) if command.errors.is_some() => self.held.push(number),
            Some(command) => send_signal(command.pid, number),
            None => {}
        }
    }

    fn hear_warden(&mut self) -> bool {
        match self.ends.warden.receive() {
            Ok((WardenToInit::Usher, descriptors)) => {
                if let Ok([fd]) = take(descriptors) {
                    self.ushers.push(fd.into());
                }
                true
            }
            Ok((WardenToInit::Ready, _)) => true,
            Ok((WardenToInit::Stop { grace }, _)) => {
                self.signal_command(Signal::SIGTERM as i32);
                self.signal_command(Signal::SIGCONT as i32);
                self.killing_at = Some(Instant::now() + Duration::from_millis(grace.into()));
                true
            }
            Ok((WardenToInit::Failed(_), _)) | Err(_) => false,
        }
    }

    fn start_for_client(&mut self, terminal: Option<WindowSize>, mut descriptors: Vec<OwnedFd>) {
        if descriptors.len() != if terminal.is_some() { 2 } else { 5 } {
            return;
        }
        let streams = descriptors.split_off(2);
        let (Some(memory), Some(client)) = (descriptors.pop(), descriptors.pop()) else { return };
        let client = Channel::<ClientAnswer, ClientSignal>::from(client);
        let refuse = |text: String| {
            let _ = client.send(&ClientAnswer::Refused(Refusal(text)));
        };
        let command = match start::read_command(memory) {
            Ok(command) => self.plan.fitted(command),
            Err(text) => return refuse(text),
        };
        let (started, outer) = if let Some(size) = terminal {
            let (outer, inner) = match start::open_terminal(size) {
                Ok(pair) => pair,
                Err(errno) => return refuse(format!("the jail has no terminal to give: {errno}")),
            };
            (start::fork_command(&self.plan, &self.ends, &command, &Streams::Terminal(inner.as_fd())), Some(outer))
        } else {
            let Ok([input, output, error]) = take(streams) else { return refuse("three streams are needed".into()) };
            let streams = Streams::Given([input.as_fd(), output.as_fd(), error.as_fd()]);
            (start::fork_command(&self.plan, &self.ends, &command, &streams), None)
        };
        match started {
            Ok((pid, errors)) => self.commands.push(Started {
                pid,
                listener: Listener::Client(client),
                errors: Some(errors),
                terminal: outer,
                ended: None,
            }),
            Err(error) => {
                let _ = client.send(&ClientAnswer::NotRun(error));
            }
        }
    }
}

enum Turn {
    Again,
    Over(i32),
}

enum News {
    Ended(Ending),
    Stopped(i32),
    Continued,
}

/// One change of one child, without waiting for it. By number, for nix has no names for real-time signals.
fn next_child_news() -> Option<(Pid, News)> {
    let mut status = 0;
    // SAFETY: waitpid writes one integer.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) };
    let news = if libc::WIFEXITED(status) {
        News::Ended(Ending::Exited(libc::WEXITSTATUS(status)))
    } else if libc::WIFSIGNALED(status) {
        News::Ended(Ending::Signalled(libc::WTERMSIG(status)))
    } else if libc::WIFSTOPPED(status) {
        News::Stopped(libc::WSTOPSIG(status))
    } else {
        News::Continued
    };
    (pid > 0).then(|| (Pid::from_raw(pid), news))
}

fn send_signal(pid: Pid, number: i32) {
    // SAFETY: kill takes two integers; an invalid number is EINVAL. nix has no names for real-time signals.
    unsafe {
        libc::kill(pid.as_raw(), number);
    }
}

fn has_children() -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED;
    waitid(Id::All, flags) != Err(Errno::ECHILD)
}

fn watch_children() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
