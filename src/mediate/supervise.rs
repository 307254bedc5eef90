//! The parent of the worker: hands it listeners, keeps what it learns, replaces it when a jail has blocked it.
//!
//! It never holds a descriptor that could block: listeners, `O_PATH` descriptors of inodes, and netjail's own channels. The
//! first worker begins with the first call, so a command that never connects or listens has none.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::bound::{Allowed, Bound, Entry};
use super::flight::Flight;
use super::handover::{Down, Listener, State, Up};
use super::messages::{acknowledge, receive_listener};
use super::notify::{self, Answer};
use super::target::network_of;
use super::watchdog::Watchdog;
use super::worker::Worker;
use super::{FromMediator, MediateError, Setup, ToMediator};
use crate::control::channel::{self, Channel, ChannelError};
use crate::jail::counters;
use crate::jail::seccomp::install::{Scope, install};
use crate::jail::seccomp::roles;

/// After so many workers in a row that died at once (the machine lacks something, or a jail has found a way) there is no other.
const MAX_DEATHS: u32 = 5;
/// What "at once" means.
const AT_ONCE: Duration = Duration::from_millis(500);

struct Supervisor {
    control: Channel<FromMediator, ToMediator>,
    state: State,
    /// None until there is a call to answer: most commands never connect or listen.
    worker: Option<(Pid, Channel<Down, Up>)>,
    commands: Vec<OwnedFd>,
    numbers: u32,
    deaths: u32,
    born: Instant,
    /// The worker's round at the last look.
    round: u64,
}

/// Runs the mediator until the warden closes the control channel. To be called by a process that holds nothing else, in
/// the host's namespaces, single-threaded; capabilities are dropped and the cage is put on in here.
pub fn run(setup: Setup) -> Result<(), MediateError> {
    let system = |what| move |errno: Errno| MediateError::System { what, why: errno.into() };
    // Descriptors in flight are the jail's to multiply, not to run out of.
    counters::raise_descriptors();
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(system("tie its life to the warden's"))?;
    roles::drop_capabilities().map_err(|e| MediateError::Cage(e.to_string()))?;
    // With capabilities dropped the kernel has made the process undumpable or not by its own rules: it is settled here.
    nix::sys::prctl::set_dumpable(false).map_err(system("become undumpable"))?;
    install(&roles::mediator(false), Scope::Process, false).map_err(|e| MediateError::Cage(e.to_string()))?;
    let flight = Flight::new().map_err(system("map its table"))?;
    let watchdog = Watchdog::new().map_err(system("make its watchdog"))?;
    let state = State {
        listeners: Vec::new(),
        bound: Bound::default(),
        allowed: Allowed::default(),
        allow_datagrams: setup.allow_datagrams,
        letterbox: Vec::new(),
        flight,
        watchdog,
    };
    nonblocking(setup.control.as_fd()).map_err(system("prepare its channel"))?;
    let supervisor = Supervisor {
        control: setup.control,
        state,
        worker: None,
        commands: Vec::new(),
        numbers: 0,
        deaths: 0,
        born: Instant::now(),
        round: 0,
    };
    match supervisor.serve() {
        Ok(never) => match never {},
        Err(Stop::WardenGone(worker)) => {
            let _ = worker.map(|worker| nix::sys::signal::kill(worker, Signal::SIGKILL));
            Ok(())
        }
        Err(Stop::Error(error)) => Err(error),
    }
}

enum Stop {
    WardenGone(Option<Pid>),
    Error(MediateError),
}

/// Forks a worker that begins with all that is known.
///
/// `not_for_it` are descriptors that only the supervisor may have: its word to the warden is its own.
fn start_worker(state: &mut State, not_for_it: &[RawFd]) -> Result<(Pid, Channel<Down, Up>), Errno> {
    let (ours, theirs) = channel::pair::<Down, Up>().map_err(|_| Errno::EMFILE)?;
    nonblocking(ours.as_fd())?;
    // SAFETY: this process has a single thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok((child, ours)),
        ForkResult::Child => {
            drop(ours);
            for &fd in not_for_it {
                let _ = nix::unistd::close(fd);
            }
            let _ = nix::sys::prctl::set_name(c"nj-connect");
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            let taken = State {
                listeners: std::mem::take(&mut state.listeners),
                bound: std::mem::take(&mut state.bound),
                allowed: std::mem::take(&mut state.allowed),
                allow_datagrams: state.allow_datagrams,
                letterbox: std::mem::take(&mut state.letterbox),
                flight: state.flight,
                watchdog: state.watchdog,
            };
            let caged = install(&roles::mediator(true), Scope::Process, false).is_ok();
            let ran = caged && Worker::new(taken, theirs).and_then(Worker::run).is_ok();
            // SAFETY: ends this process without running what the parent registered.
            unsafe { libc::_exit(i32::from(!ran)) }
        }
    }
}

/// The supervisor waits for nobody: what a full channel does not take is lost, or its reader is.
fn nonblocking(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

impl Supervisor {
    fn serve(mut self) -> Result<Infallible, Stop> {
        loop {
            let worker = self.worker.as_ref();
            let mut waiting = vec![
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.state.watchdog.timer().as_fd(), PollFlags::POLLIN),
            ];
            waiting.extend(self.commands.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            // Hang-up comes when the last process of that filter is gone; calls and letters are the worker's, once it lives.
            let calls = if worker.is_none() { PollFlags::POLLIN } else { PollFlags::empty() };
            waiting.extend(self.state.listeners.iter().map(|l| PollFd::new(l.fd.as_fd(), calls)));
            waiting.extend(self.state.letterbox.iter().map(|fd| PollFd::new(fd.as_fd(), calls)));
            waiting.extend(worker.map(|(_, channel)| PollFd::new(channel.as_fd(), PollFlags::POLLIN)));
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("wait", errno)),
            }
            let ready: Vec<PollFlags> = waiting.iter().map(|w| w.revents().unwrap_or(PollFlags::empty())).collect();
            let (commands, rest) = ready[2..].split_at(self.commands.len());
            let (listeners, rest) = rest.split_at(self.state.listeners.len());
            let (letters, worker) = rest.split_at(self.state.letterbox.len());
            if worker.iter().any(|events| !events.is_empty()) {
                self.hear_worker()?;
            }
            if !ready[1].is_empty() && self.worker.is_some() && self.state.watchdog.look(&mut self.round) {
                self.replace()?;
            }
            let mut at = 0;
            self.state.listeners.retain(|_| {
                at += 1;
                !listeners[at - 1].contains(PollFlags::POLLHUP)
            });
            if listeners.iter().chain(letters).any(|events| events.contains(PollFlags::POLLIN)) {
                self.need_worker()?;
            }
            let mut pending = std::mem::take(&mut self.commands);
            for (index, channel) in pending.drain(..).enumerate() {
                if commands[index].is_empty() {
                    self.commands.push(channel);
                } else {
                    self.take_listener(&channel)?;
                }
            }
            if !ready[0].is_empty() {
                self.hear_warden()?;
            }
        }
    }

    fn failed(&self, what: &'static str, errno: Errno) -> Stop {
        Stop::Error(MediateError::System { what, why: errno.into() })
    }

    fn hear_warden(&mut self) -> Result<(), Stop> {
        match self.control.receive() {
            Ok((ToMediator::Command, descriptors)) => self.commands.extend(descriptors.into_iter().take(1)),
            Ok((ToMediator::AllowInode, descriptors)) => {
                for fd in descriptors {
                    let sent = self.tell_worker(&Down::Allow, &[fd.as_fd()]);
                    let _ = self.state.allowed.add(fd); // What can not be looked at can not be allowed.
                    self.sent(sent)?;
                }
            }
            Ok((ToMediator::AllowPath { path, only_this }, _)) => self.allow_path(path, only_this)?,
            Ok((ToMediator::AllowDatagrams, _)) => {
                self.state.allow_datagrams = true;
                let sent = self.tell_worker(&Down::AllowDatagrams, &[]);
                self.sent(sent)?;
            }
            Ok((ToMediator::ReadLetters, _)) => {
                if self.worker.is_none() && self.state.letterbox.is_empty() {
                    self.tell(&FromMediator::LettersRead);
                    return Ok(());
                }
                self.need_worker()?;
                let sent = self.tell_worker(&Down::ReadLetters, &[]);
                self.sent(sent)?;
            }
            Ok((ToMediator::Letterbox, descriptors)) => {
                let both: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                let sent = self.tell_worker(&Down::Letterbox, &both);
                self.state.letterbox = descriptors;
                self.sent(sent)?;
            }
            Err(ChannelError::WouldBlock) => {}
            Err(_) => return Err(Stop::WardenGone(self.worker.as_ref().map(|(pid, _)| *pid))),
        }
        Ok(())
    }

    fn allow_path(&mut self, path: Vec<u8>, only_this: bool) -> Result<(), Stop> {
        match Entry::find(OsStr::from_bytes(&path).as_ref(), only_this) {
            Ok(entry) => {
                let (name, descriptors) = entry.parts();
                let sent = self.tell_worker(&Down::AllowEntry { name, only_this }, &descriptors);
                self.state.allowed.add_entry(entry);
                self.sent(sent)
            }
            Err(errno) => {
                self.tell(&FromMediator::CannotAllow { path, errno: errno as i32 });
                Ok(())
            }
        }
    }

    /// The payload side says its listener, or has gone.
    fn take_listener(&mut self, channel: &OwnedFd) -> Result<(), Stop> {
        let Ok((fd, witness, killable)) = receive_listener(channel.as_fd()) else { return Ok(()) };
        let Ok(network) = network_of(witness.as_fd()) else { return Ok(()) };
        notify::sync_wake_up(fd.as_fd());
        self.numbers += 1;
        let number = self.numbers;
        let sent = self.tell_worker(&Down::Listener { number, network, killable }, &[fd.as_fd()]);
        self.state.listeners.push(Listener { number, network, killable, fd });
        self.sent(sent)?;
        let _ = acknowledge(channel.as_fd()); // A payload side that has died needs no answer.
        Ok(())
    }

    /// A worker that is started later begins with what it was not told.
    fn tell_worker(&self, message: &Down, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.worker.as_ref().map_or(Ok(()), |(_, channel)| channel.send_with(message, descriptors))
    }

    /// A worker that can not be told is one that must go; the next one begins with everything.
    fn sent(&mut self, sent: Result<(), ChannelError>) -> Result<(), Stop> {
        if sent.is_ok() { Ok(()) } else { self.replace() }
    }

    fn hear_worker(&mut self) -> Result<(), Stop> {
        let Some((_, channel)) = &self.worker else { return Ok(()) };
        match channel.receive() {
            Ok((Up::Bound { network }, descriptors)) => {
                for fd in descriptors {
                    let _ = self.state.bound.hold(network, fd); // The worker has said it already, if there is no room.
                }
                Ok(())
            }
            Ok((Up::Event(event), _)) => {
                self.tell(&event);
                Ok(())
            }
            Err(ChannelError::WouldBlock) => Ok(()),
            Err(_) => self.replace(),
        }
    }

    /// The warden has better things to do than to read every event of a busy jail: what does not fit is lost.
    fn tell(&self, event: &FromMediator) {
        let _ = self.control.send(event);
    }

    fn need_worker(&mut self) -> Result<(), Stop> {
        if self.worker.is_some() { Ok(()) } else { self.begin_worker() }
    }

    fn begin_worker(&mut self) -> Result<(), Stop> {
        self.born = Instant::now();
        let mut own = vec![self.control.as_raw_fd()];
        own.extend(self.worker.iter().map(|(_, channel)| channel.as_raw_fd()));
        own.extend(self.commands.iter().map(AsRawFd::as_raw_fd));
        let started = start_worker(&mut self.state, &own).map_err(|errno| self.failed("start its worker", errno))?;
        self.worker = Some(started);
        Ok(())
    }

    fn replace(&mut self) -> Result<(), Stop> {
        let Some((pid, _)) = self.worker else { return Ok(()) };
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        while let Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) = waitpid(pid, None::<WaitPidFlag>) {}
        for (number, id) in self.state.flight.drain() {
            if let Some(listener) = self.state.listeners.iter().find(|l| l.number == number) {
                // ENOENT: the caller has gone meanwhile.
                let _ = notify::answer(listener.fd.as_fd(), id, Answer::Error(libc::ECONNABORTED));
            }
        }
        self.state.watchdog.reset();
        self.deaths = if self.born.elapsed() < AT_ONCE { self.deaths + 1 } else { 0 };
        if self.deaths >= MAX_DEATHS {
            return Err(Stop::Error(MediateError::Hopeless(self.deaths)));
        }
        self.begin_worker()?;
        self.tell(&FromMediator::Replaced);
        Ok(())
    }
}
