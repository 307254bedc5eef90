//! Warden: registry, policy, log and control socket of one jail, in the host's namespaces.
//!
//! It sees no packet, no reply of a proxy and no descriptor that comes from the jail. It forks the relay and the mediator
//! before it reads anything, so that they hold nothing that it reads later but what it sends them.
//!
//! One loop over everything that can speak: front, init, relay, the workers, the mediator, the control socket's clients.
//! It ends when front says so or is gone: the relay delivers the last bytes and stops, the last records are written, front
//! gets the summary.

mod children;
mod clients;
mod clock;
mod dialler;
mod finish;
mod follow;
mod host;
mod mediated;
mod prepare;
mod sockets;
mod workers;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, setsid};

use super::fork::{self, Bond, exit};
use super::{RunOptions, mediator, relay, usher};
use crate::control::channel::{self, Channel};
use crate::control::messages::{
    FrontToWarden, InitToWarden, Refusal, RelaySetup, RelayToWarden, UsherToInit, WardenToFront, WardenToInit,
    WardenToRelay, take,
};
use crate::control::rundir;
use crate::control::worker::{FromWarden, ToWarden};
use crate::escape::escape;
use crate::jail::seccomp::install::{Scope, install};
use crate::jail::seccomp::roles as cages;
use crate::log::sink::Sink;
use crate::log::summary::Summary;
use crate::mediate::{FromMediator, ToMediator};
use crate::registry::Kind;
use clients::{Clients, Wish};
use clock::Jumps;
use dialler::Dialler;
use host::Changes;
use prepare::Chosen;

/// Its ends of its channels, and what it hands to its children.
#[derive(Debug)]
pub struct Ends {
    /// To front.
    pub front: Channel<WardenToFront, FrontToWarden>,
    /// To init.
    pub init: Channel<WardenToInit, InitToWarden>,
}

/// The main loop; never returns.
pub fn run(options: &RunOptions, ends: Ends) -> ! {
    let _ = setsid();
    // What the mediator and the ushers leave behind comes here and not to the machine's init.
    let _ = prctl::set_child_subreaper(true);
    let front = match ends.front.as_fd().try_clone_to_owned() {
        Ok(fd) => Channel::<WardenToFront, FrontToWarden>::from(fd),
        Err(_) => exit(1),
    };
    match begin(options, ends) {
        Ok(mut warden) => {
            while !warden.over {
                warden.turn();
            }
            warden.finish();
            exit(0)
        }
        Err(refusal) => {
            let _ = front.send(&WardenToFront::Refused(refusal));
            exit(1)
        }
    }
}

/// How long front may take to say that the tree has ended.
const FRONT_PATIENCE: Duration = Duration::from_secs(5);

fn own(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Refusal {
    move |e| Refusal(format!("{what}: {e}"))
}

/// A child role and the warden's end of the channel to it.
#[derive(Debug)]
struct Role<Out, In> {
    pid: Pid,
    channel: Channel<Out, In>,
}

type Worker = Channel<FromWarden, ToWarden>;

#[derive(Debug)]
struct Warden {
    front: Channel<WardenToFront, FrontToWarden>,
    init: Option<Channel<WardenToInit, InitToWarden>>,
    relay: Role<WardenToRelay, RelayToWarden>,
    mediator: Role<ToMediator, FromMediator>,
    workers: Vec<Option<Worker>>,
    /// Dials of (worker, number) that wait for the proxy's name.
    waiting: Vec<(usize, u64)>,
    /// Ushers that were not reaped yet.
    ushers: u32,
    dialler: Option<Dialler>,
    changes: Option<Changes>,
    jumps: Option<Jumps>,
    clients: Clients,
    chosen: Chosen,
    sink: Option<Sink>,
    summary: Summary,
    /// The relay is up and the jail has been told so.
    up: bool,
    workers_up: usize,
    over: bool,
    /// Init, or front, has said that the tree is dead: they were not killed themselves.
    tree_is_dead: bool,
    /// A worker delivers the last bytes.
    draining: bool,
    /// Nobody wants to wait for them.
    hurry: bool,
    /// Since when there is no tree any more, though front has not said so.
    init_gone: Option<Instant>,
    /// It was said that the proxy carries no datagrams.
    said_no_datagrams: bool,
    /// The mediator may still have something to tell when the jail has ended.
    letters: bool,
}

/// Forks, reads, opens; everything before the loop.
fn begin(options: &RunOptions, ends: Ends) -> Result<Warden, Refusal> {
    let no_channel = own("can not make a channel");
    let (to_relay, relay_end) = channel::pair().map_err(|e| no_channel(&e))?;
    let (to_mediator, mediator_end) = channel::pair().map_err(|e| no_channel(&e))?;

    // SAFETY: the warden has started no thread yet.
    let relay_pid = match unsafe { fork::role(c"nj-relay", Bond::DiesWithParent) } {
        Ok(fork::Side::Parent(pid)) => pid,
        Ok(fork::Side::Child) => {
            drop((ends, to_relay, to_mediator, mediator_end));
            relay::run(relay_end)
        }
        Err(e) => return Err(fork::refused("relay", &e)),
    };
    drop(relay_end);
    // SAFETY: as above.
    let mediator_pid = match unsafe { fork::role(c"nj-mediator", Bond::DiesWithParent) } {
        Ok(fork::Side::Parent(pid)) => pid,
        Ok(fork::Side::Child) => {
            drop((ends, to_relay, to_mediator));
            mediator::run(mediator_end, options)
        }
        Err(e) => return Err(fork::refused("mediator", &e)),
    };
    drop(mediator_end);
    // Not before the forks: the other roles must hold no copy of this end.
    let last_words = ends.front.as_fd().try_clone_to_owned().map_err(|e| no_channel(&e))?;
    let last_words: Channel<WardenToFront, FrontToWarden> = last_words.into();
    fork::report_panics(move |text| {
        let _ =
            last_words.send(&WardenToFront::Refused(Refusal(format!("the jail's warden failed: {}", escape(text)))));
    });

    // Before the standard streams go: the log may be standard error.
    let chosen = prepare::choose(options, &ends.front)?;
    let prepare = WardenToRelay::Prepare { direct: matches!(chosen.network.kind, Kind::Direct) };
    to_relay.send(&prepare).map_err(|e| own("can not reach the relay")(&e))?;
    let sink = prepare::open_log(options, &chosen)?;
    for path in &chosen.sockets {
        let _ = to_mediator.send(&sockets::allow(path, options)); // Its end is heard in the loop.
    }
    fork::leave_streams().map_err(|e| own("can not open /dev/null")(&e))?;
    rundir::create(&chosen.run_folder).map_err(|e| Refusal(e.to_string()))?;
    let dialler = match &chosen.network.kind {
        Kind::Socks5(proxy) => {
            Some(Dialler::new(&proxy.host, proxy.port).map_err(|e| own("can not prepare to dial the proxy")(&e))?)
        }
        Kind::Direct | Kind::Unbuilt(_) => None,
    };
    let changes = match chosen.network.kind {
        Kind::Direct => Some(Changes::watch().map_err(|e| own("can not watch the host's addresses")(&e))?),
        Kind::Socks5(_) | Kind::Unbuilt(_) => None,
    };
    let no_cage = own("the warden can not close its own cage");
    // Before the jail is built: a refusal then is said as what it is.
    let clients = Clients::bind(options, &chosen).map_err(Refusal)?;
    let _ = ends.init.send(&WardenToInit::Prepared(chosen.prepared())); // If it is gone, front knows why.
    ends.front.send(&WardenToFront::Prepared(chosen.prepared())).map_err(|e| own("front is gone")(&e))?;
    // From here on while front builds the namespaces.
    cages::drop_capabilities().map_err(|e| no_cage(&e))?;
    prctl::set_dumpable(false).map_err(|e| no_cage(&e))?;
    install(&cages::warden(), Scope::Process, false).map_err(|e| no_cage(&e))?;
    Ok(Warden {
        front: ends.front,
        init: Some(ends.init),
        relay: Role { pid: relay_pid, channel: to_relay },
        mediator: Role { pid: mediator_pid, channel: to_mediator },
        workers: Vec::new(),
        waiting: Vec::new(),
        ushers: 0,
        dialler,
        changes,
        // Without it the name of the proxy is looked up again half a minute later, or when a dial fails.
        jumps: Jumps::watch().ok(),
        clients,
        chosen,
        sink,
        summary: Summary::default(),
        up: false,
        workers_up: 0,
        over: false,
        tree_is_dead: false,
        draining: false,
        hurry: false,
        init_gone: None,
        said_no_datagrams: false,
        letters: false,
    })
}

/// Who can speak, in the order in which they are asked.
#[derive(Clone, Copy, Debug)]
enum Source {
    Front,
    Init,
    Relay,
    Mediator,
    Worker(usize),
    Resolved,
    Changed,
    Jumped,
    Client(usize),
    Knock,
}

impl Warden {
    /// Waits for one round of events and handles it.
    fn turn(&mut self) {
        // Ushers that are done; the relay's and the mediator's ends are heard on their channels.
        while self.ushers > 0 && waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {
            self.ushers -= 1;
        }
        let (mut polled, sources) = self.sources();
        let patience = self.init_gone.map_or(PollTimeout::NONE, |at| {
            let left = (at + FRONT_PATIENCE).saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, patience) {
            // Front is stopped: the jail ends without it, and it learns that when it goes on.
            Ok(0) if self.init_gone.is_some_and(|at| at.elapsed() >= FRONT_PATIENCE) => {
                (self.over, self.tree_is_dead) = (true, true);
                return;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => {
                self.over = true;
                return;
            }
        }
        let ready: Vec<Source> = polled
            .iter()
            .zip(&sources)
            .filter(|(p, _)| p.revents().is_some_and(|events| !events.is_empty()))
            .map(|(_, source)| *source)
            .collect();
        drop(polled);
        // Clients from the back, so that one that leaves does not move the others.
        for source in ready.into_iter().rev() {
            self.hear(source);
        }
    }

    fn sources(&self) -> (Vec<PollFd<'_>>, Vec<Source>) {
        let mut all: Vec<(BorrowedFd<'_>, Source)> = vec![
            (self.front.as_fd(), Source::Front),
            (self.relay.channel.as_fd(), Source::Relay),
            (self.mediator.channel.as_fd(), Source::Mediator),
        ];
        all.extend(self.init.as_ref().map(|init| (init.as_fd(), Source::Init)));
        for (index, worker) in self.workers.iter().enumerate() {
            all.extend(worker.as_ref().map(|worker| (worker.as_fd(), Source::Worker(index))));
        }
        all.extend(self.dialler.as_ref().map(|dialler| (dialler.event().as_fd(), Source::Resolved)));
        if let Some(changes) = &self.changes {
            all.extend(changes.descriptors().map(|fd| (fd, Source::Changed)));
        }
        all.extend(self.jumps.as_ref().map(|jumps| (jumps.as_fd(), Source::Jumped)));
        all.extend(self.clients.listener().map(|fd| (fd, Source::Knock)));
        all.extend(self.clients.descriptors().enumerate().map(|(index, fd)| (fd, Source::Client(index))));
        all.into_iter().map(|(fd, source)| (PollFd::new(fd, PollFlags::POLLIN), source)).unzip()
    }

    fn hear(&mut self, source: Source) {
        match source {
            Source::Front => self.hear_front(),
            Source::Init => self.hear_init(),
            Source::Relay => self.hear_relay(),
            Source::Mediator => self.hear_mediator(),
            Source::Worker(index) => self.hear_worker(index),
            Source::Resolved => self.dial_waiting(),
            Source::Changed => self.host_changed(),
            Source::Jumped => self.clock_jumped(),
            Source::Client(index) => self.hear_client(index),
            Source::Knock => self.clients.accept(),
        }
    }

    fn hear_front(&mut self) {
        match self.front.receive() {
            Ok((FrontToWarden::Answer(_), _)) => {}
            Ok((FrontToWarden::Finish { failed }, _)) => self.tree_ended(failed),
            Ok((FrontToWarden::Hurry, _)) | Err(_) => (self.over, self.hurry) = (true, true),
        }
    }

    /// What the command was refused last is of use where it failed.
    fn tree_ended(&mut self, failed: bool) {
        (self.over, self.tree_is_dead) = (true, true);
        self.letters |= failed;
    }

    fn hear_init(&mut self) {
        let Some(init) = &self.init else { return };
        match init.receive() {
            Ok((InitToWarden::Queues, queues)) => {
                if let Err(refusal) = self.begin_relay(queues) {
                    self.fail(refusal);
                }
            }
            Ok((InitToWarden::Command, descriptors)) => {
                if let Ok([fd]) = take(descriptors) {
                    let _ = self.mediator.channel.send_with(&ToMediator::Command, &[fd.as_fd()]);
                }
            }
            Ok((InitToWarden::Letterbox, descriptors)) => {
                if let Ok([log, notify]) = take(descriptors) {
                    let both = [log.as_fd(), notify.as_fd()];
                    self.letters = true;
                    let _ = self.mediator.channel.send_with(&ToMediator::Letterbox, &both);
                }
            }
            Ok((InitToWarden::Running, _)) => {}
            Ok((InitToWarden::Over { failed }, _)) => self.tree_ended(failed),
            // The tree is gone; front hears it too and says Finish.
            Err(_) => (self.init, self.init_gone) = (None, Some(Instant::now())),
        }
    }

    /// Gives the relay all that it will ever get.
    fn begin_relay(&mut self, queues: Vec<OwnedFd>) -> Result<(), Refusal> {
        let mut theirs = Vec::new();
        for _ in &queues {
            let (worker, end) = channel::pair().map_err(|e| own("can not make a channel")(&e))?;
            // A worker that does not read its answers must not hold the warden up.
            nonblocking(&worker).map_err(|e| own("can not make a channel")(&e))?;
            self.workers.push(Some(worker));
            theirs.push(end as Channel<ToWarden, FromWarden>);
        }
        let setup: RelaySetup = self.chosen.relay_setup(queues.len());
        let hosts = self.chosen.hosts_file().map_err(|e| own("can not pass the hosts file on")(&e))?;
        let mut descriptors = vec![hosts.as_fd()];
        descriptors.extend(queues.iter().zip(&theirs).flat_map(|(queue, end)| [queue.as_fd(), end.as_fd()]));
        self.relay
            .channel
            .send_with(&WardenToRelay::Begin(Box::new(setup)), &descriptors)
            .map_err(|e| own("can not reach the relay")(&e))
    }

    /// A worker polls; once all of them do, the command may start.
    fn worker_up(&mut self) {
        self.workers_up += 1;
        if self.workers_up == self.workers.len() {
            self.up = true;
            self.tell_init(&WardenToInit::Ready);
        }
    }

    fn hear_relay(&mut self) {
        match self.relay.channel.receive() {
            // It may have been broken into: its words are shown, not obeyed by a terminal.
            Ok((RelayToWarden::Failed(Refusal(text)), _)) => self.fail(Refusal(escape(&text).into())),
            Ok((RelayToWarden::Finished, _)) => {}
            Err(_) => {
                self.fail(Refusal("the jail's relay died; the jail has no network any more and was ended".into()))
            }
        }
    }

    fn tell_init(&self, message: &WardenToInit) {
        if let Some(init) = &self.init {
            let _ = init.send(message);
        }
    }

    /// There is no jail without all of its roles.
    fn fail(&mut self, refusal: Refusal) {
        let _ = self.front.send(&WardenToFront::Refused(refusal.clone()));
        self.tell_init(&WardenToInit::Failed(refusal));
        self.over = true;
    }

    /// A process for what came with one client's wish, between the client and init.
    fn usher_in(&mut self, client: OwnedFd) -> std::io::Result<()> {
        let (to_init, init_end) = channel::pair::<UsherToInit, ()>()?;
        // SAFETY: the only other thread looks up a name; it holds no lock but glibc's own, which fork(3) resets.
        match unsafe { fork::role(c"nj-usher", Bond::DiesWithParent) }? {
            fork::Side::Parent(_) => self.ushers += 1,
            fork::Side::Child => {
                fork::close_all_but(&[client.as_raw_fd(), to_init.as_raw_fd()]);
                usher::run(client, to_init)
            }
        }
        if let Some(init) = &self.init {
            let _ = init.send_with(&WardenToInit::Usher, &[init_end.as_fd()]);
        }
        Ok(())
    }

    fn hear_client(&mut self, index: usize) {
        match self.clients.hear(index, self.summary.records()) {
            None => {}
            Some(Wish::Stop(grace)) => self.tell_init(&WardenToInit::Stop { grace }),
            Some(Wish::Exec(client)) if self.up => {
                // A client whose usher can not be started sees its connection close.
                let _ = self.usher_in(client);
            }
            Some(Wish::Exec(_)) => {}
        }
    }
}

fn nonblocking(fd: &impl AsFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).map(drop)
}
