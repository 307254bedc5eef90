//! Drives one stack with one TUN queue, the descriptors of its flows and a channel to the warden: one thread, one epoll.
//!
//! A worker shares nothing that is written to, so it takes no lock and calls no futex. The loop:
//!
//! 1. wait;
//! 2. read the TUN until it is empty, or for a batch;
//! 3. do what the stack says happened, moving bytes between rings and descriptors in place;
//! 4. flush the stack, and do what is due.
//!
//! Flows' descriptors are edge-triggered: a flow remembers whether its own may be read or written, and is looked at when
//! that changes or when the stack has something for it. So a stalled reader or writer costs nothing. The TUN and the channel
//! are level-triggered, so that one packet or message can be taken without a second read that finds nothing ([`Burst`]).
//!
//! A dial goes: [`decide`](crate::policy::Table::decide), then a socket (from the warden for SOCKS5, an own one for direct),
//! the handshake, and only then the SYN is answered. Every flow and question leaves one record.
//!
//! - `setup`: what a worker is made of. `warden`: what it is told and says. `flows`: their table. `dial`: from a SYN to a connection. `ready`: connections before their dials. `alive`: keepalive. `pump`: bytes. `dns`: questions answered here or forwarded.
//!   `drain`: the last bytes. `poll`: epoll. `spin`: a moment before sleep. `udp`: datagrams.
//!
//! # System calls
//! After start-up ([`Worker::new`]) only these are made, so that the relay's cage can allow nothing else:
//! read and write (the TUN; a connected DNS socket; a memory file of the warden's), recvmmsg (datagrams), recvfrom and sendto without an address
//! (flows; datagrams to a proxy's relay; the channel), recvmsg (the channel), epoll_ctl and epoll_wait (or epoll_pwait), close, shutdown, getsockopt (SOL_SOCKET, SO_ERROR), setsockopt
//! ((IPPROTO_TCP, TCP_NODELAY), (SOL_SOCKET, SO_KEEPALIVE), (IPPROTO_TCP, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT), (SOL_SOCKET, SO_OOBINLINE), (SOL_SOCKET, SO_LINGER), (SOL_UDP, UDP_SEGMENT)), mmap,
//! poll (the channel, at the end), munmap, madvise, mremap, brk, clock_gettime, getrandom, and one ioctl (TUNSETPERSIST) at the end. For direct also socket
//! and connect (AF_INET and AF_INET6, stream and datagram), sendmmsg and sendto with an address, and setsockopt of what a datagram socket needs.

mod alive;
mod dial;
mod dns;
mod drain;
mod flow;
mod flows;
mod poll;
mod pump;
mod ready;
mod setup;
mod spin;
#[cfg(test)]
mod tests;
mod tune;
mod udp;
mod warden;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant as Clock;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll as poll_once};

use crate::control::channel::Channel;
use crate::control::worker::{FromWarden, ToWarden};
use crate::log::{Close, Outbox, Protocol};
use crate::names::Resolver;
use crate::policy::{Rule, Table};
use crate::stack::{Closed, Duration, Event, FlowId, Instant, Limit, Sink, Stack};
use crate::tun::{self, VNET_HEADER};
use alive::Young;
use flow::Flow;
use ready::Ready;
use spin::Spin;

pub use setup::{Driver, Ended, Limits, Login, Setup, WorkerError};
pub use udp::Siblings;

/// How many packets are read before the flows have their turn.
const BATCH: usize = 64;

/// How long a record waits for company, and how many make it go at once.
const RECORDS_WAIT: Duration = Duration::from_millis(20);
const RECORDS_ENOUGH: usize = 128;

/// How long the last records may wait for the warden to take them.
const LAST_RECORDS: std::time::Duration = std::time::Duration::from_millis(800);

/// From how many flows on their end is the end of a burst, and how long after it memory is given back: the stack's rings,
/// and the flow's last record, go first.
const BURST: usize = 256;
const GIVE_BACK_WAIT: Duration = Duration::from_millis(1500);

/// Runs a worker until the warden says stop. On an error the descriptors are closed, and with the last queue the way out.
pub fn run(setup: Setup) -> Result<Ended, WorkerError> {
    Worker::new(setup)?.run()
}

/// The TUN as the place where packets go. A device that is gone takes the packets with it: the loop will see it.
struct Queue {
    fd: OwnedFd,
}

impl Sink for &Queue {
    fn send(&mut self, frame: &[u8]) {
        // The kernel takes a packet or drops it; there is no waiting, and TCP repairs a loss.
        let _ = nix::unistd::write(&self.fd, frame);
    }
}

/// Whether it is worth to read a source until there is nothing more: only where much comes at once. In a conversation, one
/// packet and its answer, the read that finds nothing would be half of all reads.
#[derive(Debug, Default)]
struct Burst {
    on: bool,
    last: u64,
    row: u32,
}

impl Burst {
    /// The source has something in this turn, as in some turns in a row where more comes than is read.
    fn heard(&mut self, turn: u64) {
        self.row = if self.last + 1 == turn { self.row + 1 } else { 0 };
        self.on |= self.row >= IN_A_ROW;
        self.last = turn;
    }

    /// It was read until there was nothing more.
    fn emptied(&mut self, count: usize) {
        self.on = count > 1;
        self.row = 0;
    }
}

/// Turns of one packet each before all are read: a handshake's last packet and the first data come in two.
const IN_A_ROW: u32 = 3;

/// A worker; see the module's text.
pub struct Worker {
    stack: Stack,
    queue: Queue,
    queue_readable: bool,
    turn: u64,
    packets: Burst,
    messages: Burst,
    channel: Channel<ToWarden, FromWarden>,
    /// The channel had no room for the last message.
    blocked: Cell<bool>,
    /// Dials that it had no room for.
    asks: VecDeque<u64>,
    udp: udp::Udp,
    /// Another worker may have passed datagrams on.
    passed_on: bool,
    /// Connections for the next dials.
    ready: Ready,
    young: Young,
    poll: poll::Poll,
    spin: Spin,
    /// Bytes that this turn has read, from wherever.
    volume: usize,
    table: Table,
    driver: Driver,
    names: Resolver,
    resolvers: Option<Vec<IpAddr>>,
    forwarder: dns::Forwarder,
    flows: Vec<Option<Box<Flow>>>,
    /// How many flows there are, the most there were since memory was last given back, and when to look at that.
    live: usize,
    peak: usize,
    give_back_at: Option<Instant>,
    /// Dials in the order of their deadlines.
    dials: VecDeque<(Instant, FlowId)>,
    connect_timeout: Duration,
    outbox: Outbox,
    outbox_due: Option<Instant>,
    start: Clock,
    now: Instant,
    packet: Box<[u8]>,
    answer: Vec<u8>,
    /// Bytes that were delivered, and ends: a number that grows while there is progress.
    moved: u64,
    /// The jail's tree is dead.
    drain: Option<drain::Drain>,
    over: bool,
}

impl Worker {
    /// Prepares a worker: everything that needs a system call which the cage will refuse.
    pub fn new(setup: Setup) -> Result<Self, WorkerError> {
        let system = |step| move |errno: nix::Error| WorkerError::System { step, source: errno.into() };
        let poll = poll::Poll::new().map_err(system("epoll_create1"))?;
        for fd in [setup.queue.as_fd(), setup.channel.as_fd()] {
            let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(system("fcntl"))?;
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(system("fcntl"))?;
        }
        poll.add_readable(setup.queue.as_fd(), poll::Token::Queue).map_err(system("epoll_ctl"))?;
        poll.add_readable(setup.channel.as_fd(), poll::Token::Channel).map_err(system("epoll_ctl"))?;
        if let Some(siblings) = &setup.siblings {
            poll.add_readable(siblings.inbox().as_fd(), poll::Token::Sibling).map_err(system("epoll_ctl"))?;
        }
        let udp = udp::Udp::new(setup.datagrams, tun::takes_super_datagrams(setup.queue.as_fd()), setup.siblings);
        let now = Instant::from_secs(1);
        let mut config = setup.stack;
        config.datagrams.resolvers = setup.resolvers.clone();
        Ok(Self {
            stack: Stack::new(config, now),
            queue: Queue { fd: setup.queue },
            queue_readable: false,
            turn: 0,
            packets: Burst::default(),
            messages: Burst::default(),
            channel: setup.channel,
            blocked: Cell::new(false),
            asks: VecDeque::new(),
            udp,
            passed_on: false,
            ready: Ready::default(),
            young: Young::default(),
            poll,
            spin: Spin::new(),
            volume: 0,
            table: setup.table,
            driver: setup.driver,
            names: setup.names,
            resolvers: setup.resolvers,
            forwarder: dns::Forwarder::new(setup.upstream_resolvers),
            flows: Vec::new(),
            live: 0,
            peak: 0,
            give_back_at: None,
            dials: VecDeque::new(),
            connect_timeout: Duration::from_micros(setup.connect_timeout.as_micros() as u64),
            outbox: Outbox::default(),
            outbox_due: None,
            start: Clock::now(),
            now,
            packet: vec![0; VNET_HEADER + 0x1_0000].into_boxed_slice(),
            answer: Vec::with_capacity(4096),
            moved: 0,
            drain: None,
            over: false,
        })
    }

    /// The loop.
    pub fn run(mut self) -> Result<Ended, WorkerError> {
        self.tell(&ToWarden::Up)?;
        while !self.over {
            let busy = self.queue_readable || self.passed_on || self.udp.is_ready() || !self.stack.is_flushed();
            let wait = if busy { Some(self.now) } else { self.next_deadline() };
            self.turn += 1;
            let ready = self.wait(wait.map(|at| at - self.now))?;
            for (token, readiness) in ready {
                match token {
                    poll::Token::Queue => {
                        self.packets.heard(self.turn);
                        self.queue_readable = true;
                    }
                    poll::Token::Channel => self.listen(readiness.readable)?,
                    poll::Token::Flow(id) => self.upstream_ready(id, readiness),
                    poll::Token::Ready(key) => self.ready_step(key, readiness),
                    poll::Token::Question(key) => self.resolver_ready(key, readiness),
                    poll::Token::Datagrams(id) => self.datagrams_ready(id, readiness),
                    poll::Token::Association(id) => self.association_ready(id, readiness),
                    poll::Token::Sibling => self.passed_on = true,
                }
            }
            self.read_queue()?;
            self.passed_on = self.passed_on && self.take_over();
            self.flush_datagrams();
            self.receive_datagrams();
            self.stack_events();
            self.stack.flush(self.now, &mut &self.queue);
            self.due()?;
            self.drain_step()?;
        }
        self.end()
    }

    /// Waits for what there is to do, and sees what time it is then.
    fn wait(
        &mut self,
        most: Option<Duration>,
    ) -> Result<impl Iterator<Item = (poll::Token, poll::Readiness)> + use<>, WorkerError> {
        let failed = |source| WorkerError::System { step: "epoll_wait", source };
        let (begin, bytes) = (Clock::now(), std::mem::take(&mut self.volume));
        let mut ready = None;
        // Work that is left does not wait for more of it.
        if most != Some(Duration::ZERO)
            && let Some(moment) = self.spin.moment()
        {
            while ready.is_none() && begin.elapsed() < moment {
                ready = Some(self.poll.wait(Some(Duration::ZERO)).map_err(failed)?).filter(|ready| ready.len() > 0);
            }
        }
        let ready = match ready {
            Some(ready) => ready,
            None => self.poll.wait(most).map_err(failed)?,
        };
        let end = Clock::now();
        self.spin.waited(end - begin, bytes, ready.len());
        self.now = Instant::from_secs(1) + Duration::from_micros((end - self.start).as_micros() as u64);
        Ok(ready)
    }

    /// Reads packets until there are none, or the flows must have a turn.
    fn read_queue(&mut self) -> Result<(), WorkerError> {
        if !self.queue_readable {
            return Ok(());
        }
        // What is left is told again; but only an empty queue ends a drain.
        self.queue_readable = self.drain.is_some();
        let most = if self.packets.on || self.queue_readable { BATCH } else { 1 };
        for count in 0..most {
            match nix::unistd::read(&self.queue.fd, &mut self.packet) {
                Ok(length) => {
                    self.volume += length;
                    let carried = self.stack.receive(self.now, &self.packet[..length], &mut &self.queue);
                    if let Some(datagram) = carried {
                        let packet = std::mem::take(&mut self.packet);
                        self.datagram(&datagram, &packet[..length]);
                        self.packet = packet;
                    }
                }
                Err(nix::Error::EAGAIN) => {
                    self.queue_readable = false;
                    self.packets.emptied(count);
                    break;
                }
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(WorkerError::System { step: "read of the TUN", source: errno.into() }),
            }
        }
        Ok(())
    }

    fn stack_events(&mut self) {
        while let Some(event) = self.stack.next_event() {
            match event {
                Event::Open { flow, server, .. } => self.open(flow, server),
                Event::Ready { flow } => self.pump(flow),
                Event::DialAbandoned { flow } => self.close(flow, Close::Abandoned, false),
                Event::Closed { flow, reason } => match reason {
                    Closed::Finished => self.close(flow, Close::Finished, false),
                    Closed::ClientReset => self.close(flow, Close::ResetByProgram, true),
                    Closed::ClientGone => self.close(flow, Close::TimedOut, true),
                    Closed::HalfCloseLimit => self.close(flow, Close::Limit(Rule::LimitHalfClosed), true),
                },
                Event::Limited { server, limit, .. } => {
                    let rule = match limit {
                        Limit::Flows => Rule::LimitFlows,
                        Limit::Pending => Rule::LimitPending,
                    };
                    self.refused(Protocol::Tcp, server.ip(), Some(server.port()), rule);
                }
                Event::Query { client, server, data } => self.datagram_question(client, server, &data),
                Event::DatagramRefused { client, server } => {
                    if self.is_news(client, server, Rule::UdpUnsupported.name()) {
                        self.refused(Protocol::Udp, server.ip(), Some(server.port()), Rule::UdpUnsupported);
                    }
                }
                Event::EchoRefused { client, server } => {
                    if self.is_news((client, 0).into(), (server, 0).into(), Rule::PingUnsupported.name()) {
                        self.refused(Protocol::Icmp, server, None, Rule::PingUnsupported);
                    }
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [
            self.stack.next_deadline(),
            self.dials.front().map(|(at, _)| *at),
            self.outbox_due,
            self.ready.deadline(),
            self.young.deadline(),
            self.forwarder.next_deadline(),
            self.give_back_at,
            self.drain_deadline(),
            self.udp.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what has become due.
    fn due(&mut self) -> Result<(), WorkerError> {
        if self.stack.next_deadline().is_some_and(|at| at <= self.now) {
            self.stack.expire(self.now, &mut &self.queue);
            self.stack_events();
        }
        self.dials_due();
        self.ready_due();
        self.young_due();
        self.questions_due();
        self.mappings_due();
        if self.give_back_at.is_some_and(|at| at <= self.now) {
            self.give_back();
        }
        if self.outbox_due.is_some_and(|at| at <= self.now) || self.outbox.len() >= RECORDS_ENOUGH {
            self.outbox_due = None;
            self.send_records()?;
        }
        Ok(())
    }

    /// The end: what is left to say is said, in [`LAST_RECORDS`] at most.
    fn end(mut self) -> Result<Ended, WorkerError> {
        self.close_all();
        if self.drain.is_some() {
            // A jail that ended with its namespace has no device to keep.
            let _ = tun::persist(self.queue.fd.as_fd());
        }
        let until = Clock::now() + LAST_RECORDS;
        loop {
            self.send_records()?;
            let left = until.saturating_duration_since(Clock::now());
            if self.outbox.is_empty() || left.is_zero() {
                break;
            }
            let mut room = [PollFd::new(self.channel.as_fd(), PollFlags::POLLOUT)];
            let _ = poll_once(&mut room, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
        let unsent = self.outbox.len();
        self.tell(&ToWarden::Stopped)?;
        Ok(Ended { unsent })
    }
}
