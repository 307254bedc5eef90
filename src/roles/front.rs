//! Front: what the shell waits for.
//!
//! It forks the warden, makes the jail's namespaces with one `clone3` so that init is its own
//! child in the shell's session, and from then on holds nothing but the terminal's state and the exit status. It may be
//! stopped (Ctrl-Z) at any time without stopping the data plane, which has left its session.
//!
//! Signals: the terminal's own (INT, QUIT, TSTP) reach the command from the kernel, for it is in the same process group, and
//! are swallowed here once it runs; those sent to front by a process are passed on, whichever they are.

use std::collections::VecDeque;

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::fork::{self, Bond, reap};
use super::preparing::{self, Preparing};
use super::remark::Told;
use super::rest::Rest;
use super::signals::{Signals, die_by};
use super::terminal::Terminal;
use super::{RunOptions, init, say, streams, warden};
use crate::check;
use crate::control::channel::{self, Channel};
use crate::control::messages::{Ending, FrontToInit, FrontToWarden, InitToFront, Machine, Refusal, WardenToFront};
use crate::jail::counters;
use crate::jail::letterbox;
use crate::jail::namespaces::{self, Side};
use crate::jail::payload::{Attributes, StageError};

/// netjail's own failure, usage included.
pub const OWN_FAILURE: i32 = 125;
/// The command was found but could not be executed.
const NOT_EXECUTABLE: i32 = 126;
/// The command was not found.
const NOT_FOUND: i32 = 127;

/// Passed on whoever sends them: a session's end and a timer from before this program (`alarm(2)`) are the kernel's.
const ALWAYS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGALRM, Signal::SIGCONT];
/// The terminal's reach the command by themselves, once there is one.
const FROM_TERMINAL: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];

/// Runs a command in a jail.
///
/// Returns the exit status; a command that died by a signal ends this process by the same signal instead. `ignored` are the
/// signals that the caller ignored when this program began.
pub fn run(options: &RunOptions, ignored: u64) -> i32 {
    let terminal = Terminal::save();
    let streams = match streams::prepare(&options.keep_descriptors) {
        Ok(streams) => streams,
        Err(text) => {
            say(&text);
            return OWN_FAILURE;
        }
    };
    let mut told = Told::default();
    let outcome = supervise(options, ignored, &mut told);
    terminal.restore();
    let status = match outcome {
        Ok(Ending::Exited(status)) => {
            if status != 0
                && !options.quiet
                && let Some(text) = told.likely(&options.command[0], status)
            {
                say(&text);
            }
            status
        }
        Ok(Ending::Signalled(number)) => {
            streams.finish();
            return die_by(number);
        }
        Err(Stop::Refused(Refusal(text))) => {
            say(&text);
            OWN_FAILURE
        }
        Err(Stop::NotBuilt(Refusal(text))) => {
            say(&with_what_is_missing(text));
            OWN_FAILURE
        }
        Err(Stop::NotRun(error)) => not_run(&error),
        Err(Stop::Interrupted(number)) => {
            streams.finish();
            return die_by(number);
        }
    };
    streams.finish();
    status
}

/// Says why a command was not executed, and returns the status that a shell has for it.
pub fn not_run(error: &StageError) -> i32 {
    say(&error.to_string());
    match Errno::from_raw(error.errno) {
        _ if !error.exec => OWN_FAILURE,
        Errno::ENOENT => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// The failure, and all that this machine lacks for a jail: the first lack alone would be found, then the second.
fn with_what_is_missing(failure: String) -> String {
    // A process that can not be looked into can not write the id maps of what it tries.
    let _ = prctl::set_dumpable(true);
    match check::explain_failure() {
        Some(lacks) => format!("{failure}\n\n{lacks}"),
        None => failure,
    }
}

/// Why there is no ending to report.
pub(super) enum Stop {
    Refused(Refusal),
    /// The jail could not be made, perhaps because of this machine.
    NotBuilt(Refusal),
    NotRun(StageError),
    /// A signal came before there was a jail.
    Interrupted(i32),
}

impl Stop {
    /// With the errno that it failed with. No machine lacks anything because a limit of processes is reached.
    fn not_built(errno: Option<i32>, text: String) -> Self {
        if errno == Some(libc::EAGAIN) { Self::Refused(Refusal(text)) } else { Self::NotBuilt(Refusal(text)) }
    }

    /// The same end for this reason, where it was not the command's own.
    fn because(self, reason: Refusal) -> Self {
        match self {
            Self::Refused(_) => Self::Refused(reason),
            Self::NotBuilt(_) => Self::NotBuilt(reason),
            other @ (Self::NotRun(_) | Self::Interrupted(_)) => other,
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

/// A failure of netjail's own: what it could not do, and the error.
pub(super) fn own(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Refusal {
    move |e| Refusal(format!("{what}: {e}"))
}

fn supervise(options: &RunOptions, ignored: u64, told: &mut Told) -> Result<Ending, Stop> {
    let handled = Signals::block(&[]).map_err(|e| own("can not block signals")(&e))?;
    let attributes = Attributes::of_caller(ignored, handled.mask_before());
    counters::raise_descriptors();
    let draft = init::Draft::new(options, attributes).map_err(Refusal)?;

    let no_channel = own("can not make a channel");
    let (to_warden, warden_end) = channel::pair::<FrontToWarden, WardenToFront>().map_err(|e| no_channel(&e))?;
    let (to_init, init_end) = channel::pair::<FrontToInit, InitToFront>().map_err(|e| no_channel(&e))?;
    let (init_warden, warden_init) = channel::pair().map_err(|e| no_channel(&e))?;

    // SAFETY: front has started no thread.
    let warden_pid = match unsafe { fork::role(c"nj-warden", Bond::Finishes) } {
        Ok(fork::Side::Parent(pid)) => pid,
        Ok(fork::Side::Child) => {
            // The copies of the other roles' ends, so that their channels end with them.
            drop((to_warden, to_init, init_end, init_warden, handled));
            warden::run(options, warden::Ends { front: warden_end, init: warden_init })
        }
        Err(e) => return Err(fork::refused("warden", &e).into()),
    };
    drop((warden_end, warden_init));

    // Namespaces take the kernel about as long as the warden takes for the registry: both begin at once.
    // SAFETY: front has started no thread.
    let child = match unsafe { namespaces::clone_into_new() } {
        Ok(Side::Child) => {
            drop((to_warden, to_init, handled));
            init::run(options, draft, init::Ends { front: init_end, warden: init_warden })
        }
        Ok(Side::Parent(child)) => Ok(child.pid),
        Err(e) => Err(Stop::not_built(e.raw_os_error(), namespaces::explain(&e))),
    };
    drop((init_end, init_warden, draft));

    // If init is gone, the watch hears what it said last.
    let _ = to_init.send(&FrontToInit::Machine(Machine::of_caller()));
    let init = child.as_ref().ok().map(|&pid| (pid, &to_init));
    let prepared = Preparing { warden: &to_warden, init, signals: &handled, ignored }.until_prepared();
    let (child, prepared) = match (child, prepared) {
        (Ok(child), Ok(prepared)) => (child, prepared),
        (Ok(child), Err(stop)) => {
            let _ = kill(child, Signal::SIGKILL);
            let _ = reap(child);
            return Err(stop);
        }
        // What is wrong with the registry comes before what is wrong with the machine.
        (Err(_), Err(stop)) | (Err(stop), Ok(_)) => return Err(stop),
    };

    let mut early = VecDeque::new();
    let ending = Watch {
        early: &mut early,
        init: &to_init,
        warden: &to_warden,
        signals: &handled,
        child,
        verbose: options.verbose,
        running: false,
        warden_lives: true,
        warden_said: None,
        told,
    }
    .until_the_end();
    told.ended = Some(Instant::now());
    // Whatever happened, nothing of the jail outlives front. Init that reported an ending has ended its tree before, and only
    // takes its mounts down; otherwise the tree must be dead before the warden is told so.
    let _ = kill(child, Signal::SIGKILL);
    if ending.is_err() {
        let _ = reap(child);
    }
    let failed = matches!(ending, Ok(Ending::Exited(status)) if status != 0);
    if failed {
        told.environment = init::environment(options, &prepared);
        told.file = init::program(options, &told.environment);
    }
    let rest = Rest { warden: &to_warden, pid: warden_pid, signals: &handled, early };
    rest.finish(options, told, failed);
    let _ = reap(child);
    ending
}

/// The main loop.
struct Watch<'a> {
    /// What the warden said about the end before init's own word of it was read; for [`Rest`].
    early: &'a mut VecDeque<WardenToFront>,
    init: &'a Channel<FrontToInit, InitToFront>,
    warden: &'a Channel<FrontToWarden, WardenToFront>,
    signals: &'a Signals,
    child: Pid,
    verbose: bool,
    /// The command has been executed.
    running: bool,
    warden_lives: bool,
    /// Why the warden gave the jail up, if it has.
    warden_said: Option<Refusal>,
    told: &'a mut Told,
}

impl Watch<'_> {
    fn until_the_end(mut self) -> Result<Ending, Stop> {
        loop {
            let mut polled = vec![
                PollFd::new(self.init.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            if self.warden_lives {
                polled.push(PollFd::new(self.warden.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(own("can not wait for events")(&errno).into()),
            }
            let ready: Vec<bool> =
                polled.iter().map(|p| p.revents().is_some_and(|events| !events.is_empty())).collect();
            if ready[1] {
                self.pass_signals_on();
            }
            if ready.get(2) == Some(&true) {
                self.hear_warden();
            }
            if ready[0]
                && let Some(outcome) = self.hear_init()
            {
                return outcome.map_err(|stop| self.in_the_wardens_words(stop));
            }
        }
    }

    /// One message of the warden.
    fn hear_warden(&mut self) {
        match self.warden.receive() {
            Ok((WardenToFront::Say(text), _)) => say(&text),
            Ok((WardenToFront::Notify(lines), _)) => letterbox::pass_on(&lines),
            Ok((WardenToFront::SocketRefused(path), _)) => self.told.refused = Some((path, Instant::now())),
            Ok((WardenToFront::Refused(refusal), _)) => self.warden_said = Some(refusal),
            Ok((end @ (WardenToFront::Draining | WardenToFront::Finished { .. }), _)) => {
                self.early.push_back(end);
            }
            Ok(_) => {}
            // Init sees the same and ends the jail.
            Err(_) => self.warden_lives = false,
        }
    }

    /// Where the warden gave the jail up, all that init can say is that its channel closed: the warden has said why, and
    /// before that.
    fn in_the_wardens_words(&mut self, stop: Stop) -> Stop {
        let mut polled = [PollFd::new(self.warden.as_fd(), PollFlags::POLLIN)];
        while self.warden_lives && self.warden_said.is_none() && matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1)) {
            self.hear_warden();
        }
        match self.warden_said.take() {
            Some(reason) => stop.because(reason),
            None => stop,
        }
    }

    /// One message of init; `Some` ends the watch.
    fn hear_init(&mut self) -> Option<Result<Ending, Stop>> {
        match self.init.receive() {
            Ok((InitToFront::MapMe, _)) => {
                preparing::map(self.child, self.init).err().map(|refusal| Err(refusal.into()))
            }
            Ok((InitToFront::Closed, _)) => {
                preparing::close();
                None
            }
            Ok((InitToFront::Notes(notes), _)) => {
                notes.iter().filter(|note| note.important || self.verbose).for_each(|note| say(&note.text));
                None
            }
            Ok((InitToFront::Failed(refusal), _)) => Some(Err(Stop::NotBuilt(refusal))),
            Ok((InitToFront::Running, _)) => {
                self.running = true;
                None
            }
            Ok((InitToFront::NotRun(error), _)) if error.exec => Some(Err(Stop::NotRun(error))),
            Ok((InitToFront::NotRun(error), _)) => Some(Err(Stop::not_built(Some(error.errno), error.to_string()))),
            Ok((InitToFront::Stopped(_), _)) => {
                // Back by SIGCONT, which is passed on for a command that was stopped alone.
                let _ = raise(Signal::SIGSTOP);
                None
            }
            Ok((InitToFront::Ended(ending), _)) => Some(Ok(ending)),
            Err(_) => {
                let why = match reap(self.child) {
                    Some(WaitStatus::Signaled(_, signal, _)) => {
                        format!("the jail's init was killed by {signal}; everything in the jail is gone")
                    }
                    _ => "the jail ended because one of netjail's own processes died; everything in it is gone".into(),
                };
                Some(Err(Refusal(why).into()))
            }
        }
    }

    fn pass_signals_on(&self) {
        while let Some(received) = self.signals.next() {
            let is_one_of = |list: &[Signal]| list.iter().any(|signal| received.is(*signal));
            let nobody_else_has_it = !self.running && is_one_of(&FROM_TERMINAL);
            if received.from_process || is_one_of(&ALWAYS) || nobody_else_has_it {
                let _ = self.init.send(&FrontToInit::Signal(received.number));
            }
        }
    }
}

#[cfg(test)]
mod tests;
