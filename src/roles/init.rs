//! Init: pid 1 of the jail, its builder, and the only process that starts others in it.
//!
//! It stays in the first user namespace (U1) with that namespace's capabilities, out of the payload's reach: the payload is
//! in a user namespace below, and init can not be looked into. It holds no data of anybody.
//!
//! States: *building* (each stage reported to front), *waiting* for the warden's "ready", *running*, *over*. Over is the
//! exit of pid 1, and with it the kernel kills whatever else is left in the pid namespace.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::{ForkResult, Pid, User, fork, getegid, geteuid, pipe2};

use super::fork::exit;
use super::{RunOptions, front};
use crate::control::channel::Channel;
use crate::control::messages::{
    ClientAnswer, ClientSignal, Ending, FrontToInit, InitToFront, InitToWarden, Prepared, Refusal, UsherToInit,
    WardenToInit, take,
};
use crate::jail::payload::{self, Attributes, Command, Identity, Setting, StageError, Streams, ignore};
use crate::jail::{core_dumps, counters, identity, landlock, mounts, namespaces, network, seccomp};
use crate::mediate;
use crate::names::pool;
use crate::tun;

/// Descriptors that netjail's own processes keep for themselves below the payload's limit: per-user kernel limits count
/// descriptors in flight, and a payload that used them all would stop every hand-over.
const RESERVED_DESCRIPTORS: u64 = 256;

/// The largest description of a command that a client may send, bytes; Linux takes 2 MiB of arguments by default.
const LARGEST_COMMAND: u64 = 8 << 20;

/// Everything that init needs to know, worked out by front before the fork.
#[derive(Debug)]
pub struct Plan {
    command: Command,
    setting: Setting,
    link: network::Link,
    queues: u16,
    wait: bool,
    view: mounts::Plan,
    filter: seccomp::Options,
    shares: counters::Shares,
}

impl Plan {
    /// Works it out, or says what the caller asked for that can not be.
    pub fn new(
        options: &RunOptions,
        prepared: &Prepared,
        attributes: Attributes,
        environment: Vec<CString>,
    ) -> Result<Self, String> {
        let argv = options
            .command
            .iter()
            .map(|argument| CString::new(argument.as_bytes()).map_err(|_| "an argument holds a zero byte".to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let directory = std::env::current_dir()
            .map_err(|e| format!("the working folder can not be found: {e}; change to a folder that exists"))?;
        let most_descriptors = attributes
            .limits
            .iter()
            .find(|(number, ..)| *number == nix::sys::resource::Resource::RLIMIT_NOFILE as i32)
            .map_or(u64::MAX, |&(_, _, hard)| hard.saturating_sub(RESERVED_DESCRIPTORS).max(hard / 2));
        let command = Command { argv, environment, directory, attributes };
        let view = view(options, prepared, &command)?;
        Ok(Self {
            command,
            setting: Setting {
                identity: Identity { uid: geteuid(), gid: getegid(), full_range: front::started_by_root() },
                kept: options.keep_descriptors.clone(),
                most_descriptors,
            },
            link: network::Link { name: "tun0".into(), mtu: options.mtu.into(), v4: pool::OWN_V4, v6: pool::OWN_V6 },
            queues: options.workers,
            wait: options.wait,
            view,
            filter: seccomp::Options { core_limit_is_fixed: core_dumps::limit().is_some(), ..options.filter },
            shares: counters::Shares::of_caller(),
        })
    }
}

/// The file system and identity that the jail sees.
fn view(options: &RunOptions, prepared: &Prepared, command: &Command) -> Result<mounts::Plan, String> {
    let resolvers = vec![pool::GATEWAY_V4.into()];
    let identity = identity::Identity::new(&options.hostname, resolvers).map_err(|e| e.to_string())?;
    let account = User::from_uid(geteuid()).ok().flatten();
    let (name, shell, home) = match account {
        Some(user) => (user.name, user.shell, user.dir),
        None => (format!("user{}", geteuid()), PathBuf::from("/bin/sh"), PathBuf::from("/")),
    };
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute()).unwrap_or(home);
    let caller = mounts::Caller { uid: geteuid().as_raw(), gid: getegid().as_raw(), name, shell, home };
    let mut view = mounts::Plan::new(caller, command.directory.clone(), identity);
    view.command = payload::find_program(&command.argv[0], &command.directory, &command.environment);
    view.masked_folders = prepared.hidden_folders.clone();
    view.secret_files = prepared.secret_files.clone();
    let asked = &options.view;
    (view.home, view.tmp, view.proc, view.allow_netfs) = (asked.home, asked.tmp, asked.proc, asked.allow_netfs);
    view.read_only.clone_from(&asked.read_only);
    view.read_write.clone_from(&asked.read_write);
    // A socket that may be connected to must be there to be found.
    view.read_write.extend(options.allow_sockets.iter().cloned());
    view.nested_sandbox = options.filter.nested_sandbox;
    Ok(view)
}

/// Init's ends of its channels.
#[derive(Debug)]
pub struct Ends {
    /// To front.
    pub front: Channel<InitToFront, FrontToInit>,
    /// To the warden.
    pub warden: Channel<InitToWarden, WardenToInit>,
}

/// The main loop; never returns.
pub fn run(plan: Plan, ends: Ends) -> ! {
    let status = match build(&plan, &ends) {
        Ok(()) => Running::new(plan, ends).until_the_end(),
        Err(Refusal(text)) => {
            let _ = ends.front.send(&InitToFront::Failed(Refusal(text)));
            1
        }
    };
    exit(status)
}

fn stage(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Refusal {
    move |e| Refusal(format!("can not build the jail: {what}: {e}"))
}

/// Stages two to five, then waits for the warden.
fn build(plan: &Plan, ends: &Ends) -> Result<(), Refusal> {
    let _ = prctl::set_name(c"nj-init");
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| stage("tie it to its supervisor")(&e))?;
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGHUP,
        Signal::SIGTERM,
        Signal::SIGTTOU,
        Signal::SIGTTIN,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        ignore(signal);
    }
    map_ids(plan, ends)?;
    prctl::set_dumpable(false).map_err(|e| stage("close init to others")(&e))?;
    tell_front(ends, &InitToFront::Closed)?;

    let device = tun::Source::Path(Path::new("/dev/net/tun"));
    let queues = tun::open(device, &plan.link.name, plan.queues.into()).map_err(|e| Refusal(e.to_string()))?;
    network::configure(&plan.link).map_err(|e| stage("configure its network")(&e))?;
    // A host with a read-only /proc/sys keeps its own values; none of them guards the promise.
    let _ = network::tune(plan.setting.identity.gid);
    plan.shares.apply();
    let descriptors: Vec<BorrowedFd<'_>> = queues.iter().map(AsFd::as_fd).collect();
    ends.warden.send_with(&InitToWarden::Queues, &descriptors).map_err(|e| stage("hand the device out")(&e))?;
    drop(queues);

    plan.view.identity.set_uts().map_err(|e| Refusal(e.to_string()))?;
    let notes = mounts::build(&plan.view).map_err(|e| Refusal(e.to_string()))?;
    let mut notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    if !landlock::scope().is_ok_and(|applied| applied) {
        notes.push("this kernel has no Landlock scopes (Linux 6.12): one layer less".into());
    }
    if !notes.is_empty() {
        tell_front(ends, &InitToFront::Notes(notes))?;
    }
    match ends.warden.receive() {
        Ok((WardenToInit::Ready, _)) => Ok(()),
        Ok((WardenToInit::Failed(refusal), _)) => Err(refusal),
        Ok(_) | Err(_) => {
            Err(Refusal("the jail's warden died while the jail was being built; nothing was started".into()))
        }
    }
}

fn map_ids(plan: &Plan, ends: &Ends) -> Result<(), Refusal> {
    if !plan.setting.identity.full_range {
        return namespaces::map_self_only("self", plan.setting.identity.uid, plan.setting.identity.gid)
            .map_err(|e| stage("map its user")(&e));
    }
    tell_front(ends, &InitToFront::MapMe)?;
    match ends.front.receive() {
        Ok((FrontToInit::Mapped, _)) => Ok(()),
        Ok(_) | Err(_) => Err(Refusal("front died while the jail was being built".into())),
    }
}

fn tell_front(ends: &Ends, message: &InitToFront) -> Result<(), Refusal> {
    ends.front.send(message).map_err(|e| stage("reach front")(&e))
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
}

impl Running {
    fn new(plan: Plan, ends: Ends) -> Self {
        Self { plan, ends, commands: Vec::new(), ushers: Vec::new(), ending: None, killing_at: None }
    }

    fn until_the_end(mut self) -> i32 {
        let Ok(children) = watch_children() else { return 1 };
        let command = self.plan.command.clone();
        match self.fork_command(&command, &Streams::Inherited) {
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
            let ending = self.ending.unwrap_or(Ending::Signalled(Signal::SIGKILL as i32));
            let _ = self.ends.front.send(&InitToFront::Ended(ending));
            return Turn::Over(0);
        }
        match self.ending {
            Some(ending) if !self.plan.wait || !has_children() => {
                let _ = self.ends.front.send(&InitToFront::Ended(ending));
                Turn::Over(0)
            }
            _ => Turn::Again,
        }
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
            Ok((FrontToInit::Mapped, _)) => true,
            // Front is gone, and with it whoever answers for this jail.
            Err(_) => false,
        }
    }

    /// Signals the command that the jail was made for.
    fn signal_command(&self, number: i32) {
        if let Some(command) = self.commands.iter().find(|c| matches!(c.listener, Listener::Front)) {
            send_signal(command.pid, number);
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

    fn start_for_client(&mut self, terminal: bool, mut descriptors: Vec<OwnedFd>) {
        if descriptors.len() != if terminal { 2 } else { 5 } {
            return;
        }
        let streams = descriptors.split_off(2);
        let (Some(memory), Some(client)) = (descriptors.pop(), descriptors.pop()) else { return };
        let client = Channel::<ClientAnswer, ClientSignal>::from(client);
        let refuse = |text: String| {
            let _ = client.send(&ClientAnswer::Refused(Refusal(text)));
        };
        let command = match read_command(memory) {
            Ok(command) => command,
            Err(text) => return refuse(text),
        };
        let (started, outer) = if terminal {
            let (outer, inner) = match open_terminal() {
                Ok(pair) => pair,
                Err(errno) => return refuse(format!("the jail has no terminal to give: {errno}")),
            };
            (self.fork_command(&command, &Streams::Terminal(inner.as_fd())), Some(outer))
        } else {
            let Ok([input, output, error]) = take(streams) else { return refuse("three streams are needed".into()) };
            let streams = Streams::Given([input.as_fd(), output.as_fd(), error.as_fd()]);
            (self.fork_command(&command, &streams), None)
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

    /// Forks one command; its pid, and the pipe that tells whether `exec` happened.
    fn fork_command(&self, command: &Command, streams: &Streams<'_>) -> Result<(Pid, OwnedFd), StageError> {
        let failed = |errno: Errno| StageError::new("start the command", errno);
        let (errors, report) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (ask, asked) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (answer, answered) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (ours, mediators) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
        if self.ends.warden.send_with(&InitToWarden::Command, &[mediators.as_fd()]).is_err() {
            return Err(StageError::new("reach the mediator", Errno::ENOTCONN));
        }
        drop(mediators);
        // SAFETY: init has one thread.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Child => {
                drop((errors, ask, answered));
                let _ = prctl::set_pdeathsig(None);
                let plan = &self.plan;
                let mapped = || {
                    File::from(asked).write_all(b"m")?;
                    File::from(answer).read_exact(&mut [0])
                };
                let error =
                    payload::become_command(command, &plan.setting, streams, mapped, || confine(plan.filter, &ours));
                let bytes = postcard::to_stdvec(&error).unwrap_or_else(|_| vec![0xff]);
                let _ = File::from(report).write_all(&bytes);
                exit(1)
            }
            ForkResult::Parent { child } => {
                drop((report, asked, answer, ours));
                if self.plan.setting.identity.full_range {
                    map_command(child, ask, answered);
                }
                Ok((child, errors))
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

/// The last stage before `exec`: the filter, and its listener in the mediator's hands.
fn confine(options: seccomp::Options, mediator: &OwnedFd) -> Result<(), StageError> {
    let policy = seccomp::payload::policy(options);
    let listens = options.sockets == seccomp::Sockets::Jail;
    let installed = seccomp::install(&policy, seccomp::install::Scope::Thread, listens)
        .map_err(|_| StageError::new("install the system call filter", Errno::EACCES))?;
    if listens {
        mediate::hand_over(mediator.as_fd(), installed)
            .map_err(|errno| StageError::new("hand its connects to the mediator", errno))?;
    }
    Ok(())
}

/// Root: writes the full range of ids for a command that has just made its own user namespace. A command that fails before
/// it gets there closes its end, and says why through its other pipe.
fn map_command(child: Pid, ask: OwnedFd, answered: OwnedFd) {
    if File::from(ask).read_exact(&mut [0]).is_ok() && namespaces::map_everyone(&child.to_string()).is_ok() {
        let _ = File::from(answered).write_all(b"m");
    }
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

/// Reads a command from a client's memory file, from its beginning and only so far.
fn read_command(memory: OwnedFd) -> Result<Command, String> {
    let mut file = File::from(memory);
    std::io::Seek::rewind(&mut file).map_err(|e| format!("the command can not be read: {e}"))?;
    let mut bytes = Vec::new();
    file.take(LARGEST_COMMAND).read_to_end(&mut bytes).map_err(|e| format!("the command can not be read: {e}"))?;
    let command: Command =
        postcard::from_bytes(&bytes).map_err(|e| format!("the command can not be understood: {e}"))?;
    if command.argv.is_empty() { Err("a command is needed".into()) } else { Ok(command) }
}

/// A pty of the jail's own devpts, so that its name resolves inside.
fn open_terminal() -> Result<(OwnedFd, OwnedFd), Errno> {
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    let outer = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let path = PathBuf::from(ptsname_r(&outer)?);
    let inner =
        nix::fcntl::open(&path, OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    // SAFETY: the number was just taken from its owner, which no longer has it.
    let outer = unsafe { std::os::fd::FromRawFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(outer)) };
    Ok((outer, inner))
}
