//! Questions: answered here from the jail's names, or forwarded to the host's resolvers, over datagrams and streams.
//!
//! A message that the [`Resolver`](crate::names::Resolver) wants forwarded goes out under an id of our own from a socket of its own, whose
//! port the kernel chooses: whoever would forge a reply must guess both (RFC 5452). Each resolver gets a time-out, then the
//! next one is asked; a truncated reply is asked for again over TCP, as is everything that came over TCP. How many questions
//! wait is bounded, per worker and per stream; one too many for the worker is answered SERVFAIL, one too many for a stream
//! waits in it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, socket};

use super::Worker;
use super::flow::{Stage, Stream};
use super::poll::{Readiness, Token};
use crate::flow::{HostName, Refusal};
use crate::log::{Close, Kind, Protocol, Record};
use crate::names::frame::{self, Frames};
use crate::names::{Outcome, Transport, wire};
use crate::policy::{Request, Rule, Verdict};
use crate::stack::{Drained, Duration, FlowId, Instant};

/// The most forwarded questions at a time.
const WAITING: u32 = 1024;

/// The most forwarded questions of one stream at a time, and the most bytes of replies that wait for its reader.
const STREAM_WAITING: u32 = 16;
const STREAM_BACKLOG: usize = 128 * 1024;

/// How long one resolver has.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the list of resolvers is gone through.
const ROUNDS: usize = 2;

/// Whom a reply is for.
#[derive(Clone, Copy)]
enum Asker {
    Datagram { client: SocketAddr, server: SocketAddr },
    Stream(FlowId),
}

/// A question on its way to a resolver.
struct Exchange {
    asker: Asker,
    /// As the program sent it.
    query: Vec<u8>,
    /// As it goes out: with our id.
    outgoing: Vec<u8>,
    attempt: usize,
    fd: OwnedFd,
    /// Over TCP: what is still to be written, and what was read of the reply.
    stream: Option<(Vec<u8>, Frames)>,
    deadline: Instant,
}

/// The questions that are with the host's resolvers.
pub(super) struct Forwarder {
    resolvers: Vec<SocketAddr>,
    exchanges: Vec<Option<Box<Exchange>>>,
    free: Vec<u32>,
}

impl Forwarder {
    pub fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers, exchanges: Vec::new(), free: Vec::new() }
    }

    /// Asks these from now on; what is under way goes on with them at its next attempt.
    pub fn ask(&mut self, resolvers: Vec<SocketAddr>) {
        self.resolvers = resolvers;
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.exchanges.iter().flatten().map(|exchange| exchange.deadline).min()
    }

    fn waiting(&self) -> usize {
        self.exchanges.len() - self.free.len()
    }
}

impl Worker {
    /// A question in a datagram.
    pub(super) fn datagram_question(&mut self, client: SocketAddr, server: SocketAddr, query: &[u8]) {
        match self.question(query, Transport::Udp, server) {
            Outcome::Reply(_) => {
                let answer = std::mem::take(&mut self.answer);
                self.stack.answer(client, server, &answer, &mut &self.queue);
                self.answer = answer;
            }
            Outcome::Forward => self.forward(Asker::Datagram { client, server }, query),
            Outcome::Drop => {}
        }
    }

    /// Goes on with a conversation: reads questions while there is room for their replies, writes replies.
    pub(super) fn converse(&mut self, id: FlowId) {
        match self.stream(id) {
            // A question that fails at once comes back here from within: the loop that asked it goes on.
            Some(stream) if !stream.conversing => stream.conversing = true,
            _ => return,
        }
        self.converse_on(id);
        if let Some(stream) = self.stream(id) {
            stream.conversing = false;
        }
    }

    fn converse_on(&mut self, id: FlowId) {
        loop {
            let now = self.now;
            let Self { flows, stack, .. } = self;
            let Some(flow) = flows.get_mut(id.slot()).and_then(|flow| flow.as_deref_mut()) else { return };
            let Stage::Questions(stream) = &mut flow.stage else { return };
            while !stream.output.is_empty() {
                let output = &mut stream.output;
                let count = stack.fill(now, id, |room| {
                    let count = room.len().min(output.len());
                    room[..count].copy_from_slice(&output[..count]);
                    count
                });
                if count == 0 {
                    break;
                }
                output.drain(..count);
            }
            let room = stream.output.len() < STREAM_BACKLOG && stream.waiting < STREAM_WAITING;
            if room && !stream.over {
                let (questions, server) = (&mut stream.questions, stream.server);
                let mut message = Ok(None);
                // One message at a time: what is behind it stays in the ring, and holds the program back.
                let drained = stack.drain(now, id, |bytes| {
                    let mut rest = bytes;
                    message = questions.next(&mut rest).map(|whole| whole.map(<[u8]>::to_vec));
                    bytes.len() - rest.len()
                });
                match drained {
                    Drained::Some { .. } => {
                        let good = match message {
                            Ok(Some(message)) => self.stream_question(id, &message, server),
                            Ok(None) => true,
                            Err(_) => false,
                        };
                        if good {
                            continue;
                        }
                        // A peer that speaks something else (RFC 7766 section 8).
                        self.stack.abort(now, id, &mut &self.queue);
                        return self.close(id, Close::Finished, false);
                    }
                    Drained::Finished => stream.over = true,
                    Drained::Empty | Drained::Gone => {}
                }
            }
            if stream.over && stream.waiting == 0 && stream.output.is_empty() && !flow.received_all {
                flow.received_all = true;
                stack.finish(now, id);
            }
            return;
        }
    }

    /// One question of a conversation; false if it was none.
    fn stream_question(&mut self, id: FlowId, message: &[u8], server: SocketAddr) -> bool {
        let outcome = self.question(message, Transport::Tcp, server);
        match outcome {
            Outcome::Reply(_) => {
                let answer = std::mem::take(&mut self.answer);
                if let Some(stream) = self.stream(id) {
                    stream.reply(&answer);
                }
                self.answer = answer;
            }
            Outcome::Forward => {
                if let Some(stream) = self.stream(id) {
                    stream.waiting += 1;
                }
                self.forward(Asker::Stream(id), message);
            }
            Outcome::Drop => return false,
        }
        true
    }

    fn stream(&mut self, id: FlowId) -> Option<&mut Stream> {
        match &mut self.flow(id)?.stage {
            Stage::Questions(stream) => Some(stream),
            _ => None,
        }
    }

    /// Answers a question into `self.answer`, and records it.
    fn question(&mut self, query: &[u8], transport: Transport, server: SocketAddr) -> Outcome {
        let full = self.forwarder.waiting() >= WAITING as usize;
        let Self { names, table, answer, .. } = self;
        let mut decide = |name: &HostName, _: u16| table.decide(&Request::Question(name));
        let mut answered = names.answer(query, transport, &mut decide, answer);
        if full && answered.outcome == Outcome::Forward {
            let mut refuse =
                |_: &HostName, _: u16| Verdict::Deny { refusal: Refusal::HostUnreachable, rule: Rule::LimitQuestions };
            answered = names.answer(query, transport, &mut refuse, answer);
        }
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        let mut record = Record::new(Kind::Question, protocol, answered.rule, self.table.generation);
        record.name = Some(answered.name.to_string());
        record.question = (answered.qtype != 0).then_some(answered.qtype);
        record.address = Some(server.ip());
        record.port = Some(server.port());
        match answered.outcome {
            Outcome::Reply(code) => record.rcode = u8::try_from(code).ok(),
            Outcome::Forward => record.network = Some(self.table.network.clone()),
            Outcome::Drop => {}
        }
        self.record(record);
        answered.outcome
    }

    /// Sends a question to the first resolver.
    fn forward(&mut self, asker: Asker, query: &[u8]) {
        let over_tcp = matches!(asker, Asker::Stream(_));
        let mut outgoing = query.to_vec();
        let mut id = [0; 2];
        if outgoing.len() < 12 || getrandom::fill(&mut id).is_err() {
            return self.give_up(asker);
        }
        outgoing[..2].copy_from_slice(&id);
        self.attempt(asker, query.to_vec(), outgoing, 0, over_tcp);
    }

    /// Asks the resolver whose turn it is, or one after it.
    fn attempt(&mut self, asker: Asker, query: Vec<u8>, outgoing: Vec<u8>, first: usize, over_tcp: bool) {
        let count = self.forwarder.resolvers.len();
        for attempt in first..count * ROUNDS {
            let resolver = self.forwarder.resolvers[attempt % count];
            let Ok(fd) = connected(resolver, over_tcp) else { continue };
            let stream = if over_tcp {
                let mut output = Vec::new();
                let _ = frame::append(&outgoing, &mut output); // it had a length itself
                Some((output, Frames::new(usize::from(u16::MAX))))
            } else {
                if send(fd.as_raw_fd(), &outgoing, MsgFlags::MSG_NOSIGNAL).is_err() {
                    continue;
                }
                None
            };
            let key = self.forwarder.free.pop().unwrap_or_else(|| {
                self.forwarder.exchanges.push(None);
                (self.forwarder.exchanges.len() - 1) as u32
            });
            if self.poll.add(fd.as_fd(), Token::Question(key)).is_err() {
                self.forwarder.free.push(key);
                break;
            }
            let deadline = self.now + PATIENCE;
            let exchange = Exchange { asker, query, outgoing, attempt, fd, stream, deadline };
            self.forwarder.exchanges[key as usize] = Some(Box::new(exchange));
            return;
        }
        self.give_up(asker);
    }

    /// Nobody answers: a stream must not wait for it; a datagram's sender has its own clock.
    fn give_up(&mut self, asker: Asker) {
        if let Asker::Stream(id) = asker
            && let Some(stream) = self.stream(id)
        {
            stream.waiting = stream.waiting.saturating_sub(1);
            self.converse(id);
        }
    }

    fn take_exchange(&mut self, key: u32) -> Option<Box<Exchange>> {
        let exchange = self.forwarder.exchanges.get_mut(key as usize)?.take()?;
        self.forwarder.free.push(key);
        Some(exchange)
    }

    /// A resolver's socket is ready for something.
    pub(super) fn resolver_ready(&mut self, key: u32, readiness: Readiness) {
        let Some(Some(exchange)) = self.forwarder.exchanges.get_mut(key as usize) else { return };
        let step = loop {
            match step(exchange, readiness) {
                // A forgery, or a late reply to somebody else: the true one may lie behind it.
                Step::Reply(reply) if !wire::reply_matches(&exchange.outgoing, &reply) => {
                    if exchange.stream.is_some() {
                        break Step::Failed;
                    }
                }
                other => break other,
            }
        };
        match step {
            Step::Wait => {}
            Step::Failed => {
                if let Some(exchange) = self.take_exchange(key) {
                    self.next_resolver(*exchange);
                }
            }
            Step::Reply(mut reply) => {
                let Some(exchange) = self.take_exchange(key) else { return };
                let Exchange { asker, query, outgoing, attempt, stream, .. } = *exchange;
                let truncated = reply.get(2).is_some_and(|flags| flags & 2 != 0);
                reply[..2].copy_from_slice(&query[..2]);
                match asker {
                    Asker::Stream(_) if truncated && stream.is_none() => {
                        self.attempt(asker, query, outgoing, attempt, true);
                    }
                    Asker::Stream(id) => {
                        if let Some(stream) = self.stream(id) {
                            stream.waiting = stream.waiting.saturating_sub(1);
                            stream.reply(&reply);
                            self.converse(id);
                        }
                    }
                    // The program's resolver asks again over TCP, as it would outside.
                    Asker::Datagram { client, server } => self.stack.answer(client, server, &reply, &mut &self.queue),
                }
            }
        }
    }

    fn next_resolver(&mut self, exchange: Exchange) {
        let Exchange { asker, query, outgoing, attempt, stream, .. } = exchange;
        self.attempt(asker, query, outgoing, attempt + 1, stream.is_some());
    }

    /// Asks the next resolver where one was silent for too long.
    pub(super) fn questions_due(&mut self) {
        if self.forwarder.waiting() == 0 {
            return;
        }
        for key in 0..self.forwarder.exchanges.len() as u32 {
            let late =
                matches!(&self.forwarder.exchanges[key as usize], Some(exchange) if exchange.deadline <= self.now);
            if late && let Some(exchange) = self.take_exchange(key) {
                self.next_resolver(*exchange);
            }
        }
    }
}

enum Step {
    Wait,
    Failed,
    Reply(Vec<u8>),
}

fn step(exchange: &mut Exchange, readiness: Readiness) -> Step {
    let fd = exchange.fd.as_raw_fd();
    let mut buffer = [0; 4096];
    let Some((output, input)) = &mut exchange.stream else {
        if !readiness.readable {
            return Step::Wait;
        }
        let mut whole = vec![0; 0x1_0000];
        return match recv(fd, &mut whole, MsgFlags::empty()) {
            Ok(count) => {
                whole.truncate(count);
                Step::Reply(whole)
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Step::Wait,
            // ECONNREFUSED: nobody listens there.
            Err(_) => Step::Failed,
        };
    };
    if readiness.writable && !output.is_empty() {
        match send(fd, output, MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => drop(output.drain(..count)),
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENOTCONN) => {}
            Err(_) => return Step::Failed,
        }
    }
    if !readiness.readable {
        return Step::Wait;
    }
    loop {
        match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Step::Failed,
            Ok(count) => {
                if let Ok(Some(reply)) = input.next(&mut &buffer[..count]) {
                    return Step::Reply(reply.to_vec());
                }
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENOTCONN) => return Step::Wait,
            Err(_) => return Step::Failed,
        }
    }
}

/// A socket of its own for one question.
fn connected(resolver: SocketAddr, over_tcp: bool) -> nix::Result<OwnedFd> {
    let family = if resolver.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if over_tcp { SockType::Stream } else { SockType::Datagram };
    let fd = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(resolver)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}
