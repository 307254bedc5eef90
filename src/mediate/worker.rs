//! The disposable half of the mediator: one loop that receives notifications, executes and answers.
//!
//! A notification that can be answered at once is; everything that must wait is a [`Pending`] in a table of
//! [`MAX_PENDING`] slots and costs no thread: a connect that is under way waits for its socket in the same epoll, a full unix
//! backlog for a timer, a slow path for one of [`LOOKUPS`] threads.
//!
//! # Signals
//! With `WAIT_KILLABLE_RECV` only a fatal signal interrupts the caller, so that an answer is never lost. That a *caught* signal
//! must interrupt a blocking connect is seen by looking at /proc/TID/status every [`TICK`] for calls that
//! wait, at most [`LOOKS`] a tick; the answer is then the kernel's own ERESTARTSYS, from which it makes a restart or
//! EINTR as the handler's flags say (with SO_SNDTIMEO always EINTR: signal(7)).
//!
//! What is left: in the microseconds before a notification is received any signal interrupts it, before anything was executed. The
//! kernel then restarts the call, or, where the handler has no SA_RESTART, returns EINTR from a connect that has not begun.
//!
//! # Watchdog
//! Outside of epoll the parent watches: it ends a worker that a jail has blocked ([`super::watchdog`]).

mod decide;
mod letters;
mod waiting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel as results};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::attempt::Attempt;
use super::bound::Entry;
use super::flight::MAX_PENDING;
use super::handover::{Down, Listener, State, Up};
use super::lookup::Walk;
use super::messages::FromMediator;
use super::notify::{self, Answer};
use super::target::{self, Descriptors};
use crate::control::channel::{Channel, ChannelError};

/// How often waiting calls are looked at.
pub const TICK: Duration = Duration::from_millis(20);
/// How many of them in one tick: 1,000 looks a second.
const LOOKS: usize = 20;
/// How soon a full backlog is tried again, at first.
const RETRY: Duration = Duration::from_millis(2);
/// Threads for look-ups that may hang.
pub const LOOKUPS: usize = 4;
/// How long such a look-up may take.
pub const LOOKUP_TIME: Duration = Duration::from_secs(5);
/// How many wait for a thread.
const LOOKUP_QUEUE: usize = 64;
/// Paths whose refusal has been said.
const SAID: usize = 1024;
/// Answers that could not be delivered (kernels before 5.19).
const UNDELIVERED: usize = 256;

const CHANNEL: u64 = u64::MAX;
const LOOKED_UP: u64 = u64::MAX - 1;
/// The socket of the letterbox with this index.
const LETTERBOX: [u64; 2] = [u64::MAX - 2, u64::MAX - 3];
/// Listener numbers are below this, slots above.
const SLOTS: u64 = 1 << 32;

/// A call that waits.
#[derive(Debug)]
struct Pending {
    call: Call,
    wait: Wait,
    deadline: Option<Instant>,
    polled: bool,
}

#[derive(Debug)]
enum Wait {
    Connect { attempt: Attempt, tries: u32 },
    LookUp { socket: OwnedFd, path: Vec<u8> },
}

/// Where an answer belongs.
#[derive(Clone, Copy, Debug)]
struct Call {
    listener: u32,
    id: u64,
    tid: i32,
    network: u64,
    slot: usize,
    /// No signal but a fatal one can take the answer away.
    killable: bool,
    /// Of the caller's socket and address where one can, to find such an answer again.
    key: (u64, u64),
}

type Found = (usize, u64, Result<OwnedFd, Errno>);

/// The worker.
pub(super) struct Worker {
    state: State,
    supervisor: Channel<Up, Down>,
    epoll: Epoll,
    descriptors: Descriptors,
    /// At most [`MAX_PENDING`]; as many as were ever needed at a time.
    slots: Vec<Option<Pending>>,
    free: Vec<usize>,
    waiting: usize,
    looked_at: usize,
    lookups: (Sender<Found>, Receiver<Found>, Arc<EventFd>),
    busy: usize,
    queue: VecDeque<(Call, Walk)>,
    said: HashSet<Vec<u8>>,
    once: [bool; 3],
    undelivered: HashMap<(i32, u64, u64), Answer>,
    next_tick: Instant,
}

/// What comes of a notification.
enum Outcome {
    Answer(Answer),
    Wait(Wait),
    /// Nobody waits for an answer any more.
    Gone,
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Self {
        Self::Answer(Answer::Error(errno as i32))
    }
}

impl Worker {
    pub(super) fn new(state: State, supervisor: Channel<Up, Down>) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let woken = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        epoll.add(&supervisor, EpollEvent::new(EpollFlags::EPOLLIN, CHANNEL))?;
        epoll.add(woken.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LOOKED_UP))?;
        for listener in &state.listeners {
            epoll.add(&listener.fd, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(listener.number)))?;
        }
        letters::watch(&epoll, &state.letterbox)?;
        let (sender, receiver) = results();
        Ok(Self {
            state,
            supervisor,
            epoll,
            descriptors: Descriptors::default(),
            slots: Vec::new(),
            free: Vec::new(),
            waiting: 0,
            looked_at: 0,
            lookups: (sender, receiver, woken),
            busy: 0,
            queue: VecDeque::new(),
            said: HashSet::new(),
            once: [false; 3],
            undelivered: HashMap::new(),
            next_tick: Instant::now(),
        })
    }

    /// Until the supervisor closes its channel.
    pub(super) fn run(mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.state.watchdog.idle();
            let ready = match self.epoll.wait(&mut events, self.patience()) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            self.state.watchdog.busy();
            for event in &events[..ready] {
                match event.data() {
                    CHANNEL => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    LOOKED_UP => self.looked_up(),
                    letter if LETTERBOX.contains(&letter) => {
                        self.read_letter(usize::from(letter == LETTERBOX[1]));
                    }
                    slot if slot >= SLOTS => self.proceed((slot - SLOTS) as usize),
                    number => self.notified(number as u32, event.events())?,
                }
            }
            if self.waiting > 0 && Instant::now() >= self.next_tick {
                self.tick()?;
            }
        }
    }

    fn patience(&self) -> EpollTimeout {
        if self.waiting == 0 {
            return EpollTimeout::NONE;
        }
        let left = self.next_tick.saturating_duration_since(Instant::now());
        EpollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(EpollTimeout::ZERO)
    }

    /// A message of the supervisor's; false when it has gone.
    fn hear(&mut self) -> Result<bool, Errno> {
        match self.supervisor.receive() {
            Ok((Down::Listener { number, network, killable }, descriptors)) => {
                for fd in descriptors.into_iter().take(1) {
                    self.epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(number)))?;
                    self.state.listeners.push(Listener { number, network, killable, fd });
                }
            }
            Ok((Down::Allow, descriptors)) => {
                for fd in descriptors {
                    let _ = self.state.allowed.add(fd); // What can not be looked at can not be allowed.
                }
            }
            Ok((Down::AllowEntry { name, only_this }, descriptors)) => {
                if let Some(entry) = Entry::from_parts(name, only_this, descriptors) {
                    self.state.allowed.add_entry(entry);
                }
            }
            Ok((Down::Letterbox, descriptors)) => {
                letters::watch(&self.epoll, &descriptors)?;
                self.state.letterbox = descriptors;
            }
            Ok((Down::ReadLetters, _)) => self.read_all_letters(),
            Ok((Down::AllowDatagrams, _)) => self.state.allow_datagrams = true,
            Err(ChannelError::WouldBlock) => {}
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    fn notified(&mut self, number: u32, events: EpollFlags) -> Result<(), Errno> {
        let Some(at) = self.state.listeners.iter().position(|l| l.number == number) else { return Ok(()) };
        if !events.contains(EpollFlags::EPOLLIN) {
            // The last process of this filter is gone.
            let listener = self.state.listeners.swap_remove(at);
            return self.epoll.delete(&listener.fd);
        }
        let listener = &self.state.listeners[at];
        let network = listener.network;
        // ENOENT: the caller was killed between the two calls.
        let Ok(notification) = notify::receive(listener.fd.as_fd()) else { return Ok(()) };
        let mut call = Call {
            listener: number,
            id: notification.id,
            tid: notification.tid,
            network,
            slot: usize::MAX,
            killable: listener.killable,
            key: (0, 0),
        };
        let Some(slot) = self.free_slot() else {
            // A listen never waits, so a flood of connects does not refuse it.
            let listens = i64::from(notification.number) == libc::SYS_listen;
            let outcome = if listens { self.decide(&notification, &mut call) } else { Errno::ENOBUFS.into() };
            if let Outcome::Answer(answer) = outcome {
                self.answer(&call, answer);
            }
            return Ok(());
        };
        call.slot = slot;
        self.state.flight.begin(slot, number, notification.id);
        let outcome = self.decide(&notification, &mut call);
        self.settle(call, outcome);
        Ok(())
    }

    fn free_slot(&mut self) -> Option<usize> {
        if self.free.is_empty() && self.slots.len() < MAX_PENDING {
            self.free.push(self.slots.len());
            self.slots.push(None);
        }
        self.free.pop()
    }

    fn settle(&mut self, call: Call, outcome: Outcome) {
        match outcome {
            Outcome::Answer(answer) => self.finish(&call, answer),
            Outcome::Gone => self.release(&call),
            Outcome::Wait(wait) => {
                let soon = match &wait {
                    Wait::Connect { attempt, .. } if attempt.is_unix() => RETRY,
                    _ => TICK,
                };
                if self.waiting == 0 {
                    self.next_tick = Instant::now() + soon;
                }
                let timeout = match &wait {
                    Wait::Connect { attempt, .. } => target::send_timeout(attempt.socket()),
                    Wait::LookUp { .. } => Some(LOOKUP_TIME),
                };
                self.slots[call.slot] =
                    Some(Pending { call, wait, deadline: timeout.map(|t| Instant::now() + t), polled: false });
                self.waiting += 1;
                self.arm(call.slot);
                self.next_tick = self.next_tick.min(Instant::now() + soon);
            }
        }
    }

    /// Lets epoll tell when a connect that is under way is over.
    fn arm(&mut self, slot: usize) {
        let Some(pending) = &mut self.slots[slot] else { return };
        let Wait::Connect { attempt, .. } = &pending.wait else { return };
        if attempt.is_unix() || pending.polled {
            return;
        }
        // Edge-triggered: another thread's connect that is joined reports once as well. ENOSPC leaves it to the ticks.
        let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        pending.polled = self.epoll.add(attempt.socket(), EpollEvent::new(flags, SLOTS + slot as u64)).is_ok();
    }

    fn finish(&mut self, call: &Call, answer: Answer) {
        if !self.answer(call, answer) && call.key != (0, 0) && self.undelivered.len() < UNDELIVERED {
            self.undelivered.insert((call.tid, call.key.0, call.key.1), answer);
        }
        self.release(call);
    }

    /// False when the caller no longer waits.
    fn answer(&self, call: &Call, answer: Answer) -> bool {
        let listener = self.state.listeners.iter().find(|l| l.number == call.listener);
        listener.is_some_and(|l| notify::answer(l.fd.as_fd(), call.id, answer).is_ok())
    }

    fn release(&mut self, call: &Call) {
        self.state.flight.end(call.slot);
        if let Some(pending) = self.slots[call.slot].take() {
            self.waiting -= 1;
            if let (true, Wait::Connect { attempt, .. }) = (pending.polled, &pending.wait) {
                // The caller's own descriptor keeps the open file, and so its place in the epoll, alive.
                let _ = self.epoll.delete(attempt.socket());
            }
        }
        self.free.push(call.slot);
    }

    fn say(&mut self, event: FromMediator) {
        let _ = self.supervisor.send(&Up::Event(event)); // Its end shows in the loop.
    }

    fn say_once(&mut self, which: usize, event: FromMediator) {
        if !std::mem::replace(&mut self.once[which], true) {
            self.say(event);
        }
    }
}
