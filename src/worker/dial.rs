//! From a held SYN to an open flow, or to the packet that says why not.
//!
//! ```text
//! Open -> decide -> deny: refuse
//!                -> direct: socket, connect  ----------------> connected -> accept
//!                -> socks5: ask the warden -> descriptor -> connected -> handshake -> accept
//!                           or go on with the ready one ---------------> request --> accept
//! ```
//!
//! Each dial has one deadline, from the SYN on. Whatever ends it closes its descriptor at once.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, recv, send, setsockopt, socket,
    sockopt,
};

use super::flow::{Dial, Flow, Stage, Step, Stream};
use super::poll::Token;
use super::ready::Taken;
use super::tune::keep_urgent_in_line;
use super::udp::id::MappingId;
use super::{Driver, Worker, WorkerError};
use crate::control::worker::ToWarden;
use crate::flow::{Refusal, Target};
use crate::log::{Close, Protocol, Record};
use crate::overlay::DialError;
use crate::overlay::socks5::{Handshake, Progress};
use crate::policy::Rule;
use crate::stack::FlowId;

/// More than the longest reply, so that the program's first bytes come with it in one read.
const REPLY: usize = 2048;

impl Worker {
    /// A program dials.
    pub(super) fn open(&mut self, id: FlowId, server: SocketAddr) {
        if server.port() == 53 && self.resolvers.as_ref().is_none_or(|only| only.contains(&server.ip())) {
            let stage = Stage::Questions(Box::new(Stream::new(server)));
            self.keep(Flow::new(id, stage, self.now, None));
            if self.stack.accept(self.now, id, &[], &mut &self.queue).is_err() {
                self.stack.refuse(id, Refusal::HostUnreachable, &mut &self.queue);
                self.remove(id);
            }
            return;
        }
        let (record, judged) = self.judge(Protocol::Tcp, server);
        let target = match judged {
            Ok(target) => target,
            Err((rule, refusal)) => return self.deny(id, record, rule, refusal),
        };
        let dial = Box::new(Dial { target: target.clone(), step: Step::Asked, unproven: false });
        self.keep(Flow::new(id, Stage::Dialling(dial), self.now, Some(Box::new(record))));
        if self.drain.is_some() {
            // A SYN that lay in the queue when its program ended.
            return self.drop_dial(id);
        }
        self.dials.push_back((self.now + self.connect_timeout, id));
        match self.driver {
            Driver::Direct => match target {
                Target::Addr(address) => match start(address) {
                    Ok(fd) => self.dialled(id, fd),
                    Err(errno) => self.dial_failed(id, DialError::Direct(errno as i32)),
                },
                Target::Name(..) => self.dial_failed(id, DialError::Inexpressible),
            },
            Driver::Socks5 { .. } => {
                match self.ready.take() {
                    Some(taken) => self.adopt(id, taken),
                    None => self.ask(id.to_bits()),
                }
                self.prepare_ready();
            }
        }
    }

    /// Goes on with a connection that was made for whoever dials next.
    fn adopt(&mut self, id: FlowId, taken: Taken) {
        let watched = self.poll.rename(taken.fd.as_fd(), Token::Flow(id));
        let Some(flow) = self.flows.get_mut(id.slot()).and_then(|flow| flow.as_deref_mut()) else { return };
        let Stage::Dialling(dial) = &mut flow.stage else { return };
        if watched.is_err() {
            return self.ask(id.to_bits());
        }
        // What the descriptor is ready for is told again under its new name; that it can be written is known.
        flow.fd = Some(taken.fd);
        flow.writable = taken.connected;
        dial.unproven = true;
        let mut handshake = taken.handshake;
        if let Err(error) = handshake.request(&dial.target) {
            return self.dial_failed(id, error);
        }
        dial.step = if taken.connected { Step::Greeting(handshake) } else { Step::Connecting(Some(handshake)) };
        self.dial_step(id);
    }

    /// A connection that was made ahead has closed without a word: the dial begins again with one of its own.
    fn begin_again(&mut self, id: FlowId) -> bool {
        let Some(flow) = self.flow(id) else { return false };
        let Stage::Dialling(dial) = &mut flow.stage else { return false };
        if !std::mem::take(&mut dial.unproven) {
            return false;
        }
        dial.step = Step::Asked;
        (flow.fd, flow.readable, flow.writable, flow.ending) = (None, false, false, false);
        self.ready.give_up();
        self.ask(id.to_bits());
        true
    }

    /// Asks the warden for a connection, now or when the channel has room.
    pub(super) fn ask(&mut self, id: u64) {
        // A warden that is gone is found when the channel is read.
        if !self.asks.is_empty() || !matches!(self.tell(&ToWarden::Dial { id }), Ok(true)) {
            self.asks.push_back(id);
        }
    }

    /// Sends what the channel had no room for.
    pub(super) fn ask_again(&mut self) -> Result<(), WorkerError> {
        while let Some(id) = self.asks.pop_front() {
            let wanted = match MappingId::from_bits(id) {
                Some(mapping) => self.is_associating(mapping),
                None => self.flow(FlowId::from_bits(id)).is_some(),
            };
            if wanted && !self.tell(&ToWarden::Dial { id })? {
                self.asks.push_front(id);
                break;
            }
        }
        Ok(())
    }

    /// A connection is being made.
    pub(super) fn dialled(&mut self, id: FlowId, fd: OwnedFd) {
        // A dial that ended meanwhile: the descriptor closes here.
        let Some(flow) = self.flows.get_mut(id.slot()).and_then(|flow| flow.as_deref_mut()) else { return };
        let Stage::Dialling(dial) = &mut flow.stage else { return };
        if flow.id != id || flow.fd.is_some() {
            return;
        }
        keep_urgent_in_line(&fd);
        dial.step = Step::Connecting(None);
        let watched = self.poll.add(fd.as_fd(), Token::Flow(id));
        flow.fd = Some(fd);
        if let Err(errno) = watched {
            self.dial_failed(id, DialError::Direct(errno as i32));
        }
    }

    /// A dial's descriptor is ready for something.
    pub(super) fn dial_step(&mut self, id: FlowId) {
        match self.advance(id) {
            Ok(None) => {}
            Ok(Some(early)) => self.established(id, &early),
            Err(_) if self.begin_again(id) => {}
            Err(error) => {
                if matches!(error, DialError::Proxy(_)) {
                    self.unreached();
                }
                self.dial_failed(id, error);
            }
        }
    }

    /// Tells the warden that the proxy is not where it was sought. It hears of the next one where its channel is full.
    fn unreached(&self) {
        let _ = self.tell(&ToWarden::Unreached);
    }

    /// `Some`: it is done, and these bytes of the target came with the answer.
    fn advance(&mut self, id: FlowId) -> Result<Option<Vec<u8>>, DialError> {
        let direct = matches!(self.driver, Driver::Direct);
        let Some(flow) = self.flows.get_mut(id.slot()).and_then(|flow| flow.as_deref_mut()) else { return Ok(None) };
        let (Stage::Dialling(dial), Some(fd)) = (&mut flow.stage, &flow.fd) else { return Ok(None) };
        let mut fresh = false;
        if let Step::Connecting(ahead) = &mut dial.step {
            if !flow.writable {
                return Ok(None);
            }
            if direct {
                return match getsockopt(fd, sockopt::SocketError).unwrap_or(libc::EIO) {
                    0 => Ok(Some(Vec::new())),
                    errno => Err(DialError::Direct(errno)),
                };
            }
            fresh = true;
            let handshake = match ahead.take() {
                Some(handshake) => handshake,
                None => {
                    let mut handshake = self.driver.greeting()?;
                    handshake.request(&dial.target)?;
                    handshake
                }
            };
            dial.step = Step::Greeting(handshake);
        }
        let Step::Greeting(handshake) = &mut dial.step else { return Ok(None) };
        let (readable, writable, ending) = (&mut flow.readable, &mut flow.writable, flow.ending);
        let proxy = Proxy { fd: fd.as_raw_fd(), readable, writable, ending, fresh, unproven: &mut dial.unproven };
        let early = proxy.speak(handshake)?;
        flow.bytes_in += early.as_ref().map_or(0, Vec::len) as u64;
        Ok(early)
    }

    /// The overlay has connected: so has the program.
    fn established(&mut self, id: FlowId, early: &[u8]) {
        if self.stack.accept(self.now, id, early, &mut &self.queue).is_err() {
            self.stack.refuse(id, Refusal::HostUnreachable, &mut &self.queue);
            return self.forget(id, Close::Limit(Rule::LimitMemory), Refusal::HostUnreachable);
        }
        if let Some(flow) = self.flow(id) {
            // What the descriptor was ready for on the way is still known: an edge is not told twice.
            flow.stage = Stage::Open;
        }
        self.is_born(id);
    }

    pub(super) fn dial_failed(&mut self, id: FlowId, error: DialError) {
        self.stack.refuse(id, error.refusal(), &mut &self.queue);
        self.forget(id, Close::Dial(error), error.refusal());
    }

    /// Drops a flow whose program was told a refusal.
    pub(super) fn forget(&mut self, id: FlowId, close: Close, refusal: Refusal) {
        if let Some(flow) = self.remove(id) {
            self.record_end(*flow, close, Some(refusal));
        }
    }

    /// A rule says no.
    fn deny(&mut self, id: FlowId, mut record: Record, rule: Rule, refusal: Option<Refusal>) {
        let refusal = refusal.or(rule.refusal()).unwrap_or(Refusal::Refused);
        record.rule = rule;
        record.refusal = Some(refusal);
        self.stack.refuse(id, refusal, &mut &self.queue);
        self.record(record);
    }

    /// Ends the dials whose time is up.
    pub(super) fn dials_due(&mut self) {
        while let Some((at, id)) = self.dials.front().copied() {
            let pending = self.flow(id).is_some_and(|flow| matches!(flow.stage, Stage::Dialling(_)));
            if pending && at > self.now {
                break;
            }
            self.dials.pop_front();
            if pending {
                let connecting = |flow: &mut super::Flow| matches!(&flow.stage, Stage::Dialling(dial) if matches!(dial.step, Step::Connecting(_)));
                if self.flow(id).is_some_and(connecting) {
                    self.unreached();
                }
                self.dial_failed(id, DialError::TimedOut);
            }
        }
    }
}

/// A connection to a proxy, and what it is ready for as far as is known.
pub(super) struct Proxy<'a> {
    pub fd: RawFd,
    pub readable: &'a mut bool,
    pub writable: &'a mut bool,
    pub ending: bool,
    /// Nothing was sent on it, so the first send tells how connect(2) has ended.
    pub fresh: bool,
    /// The proxy has not answered a request on it.
    pub unproven: &'a mut bool,
}

impl Proxy<'_> {
    /// Speaks as far as that goes now. `Some`: the handshake is done, and these bytes came behind it.
    pub fn speak(mut self, handshake: &mut Handshake) -> Result<Option<Vec<u8>>, DialError> {
        loop {
            while *self.writable && !handshake.outgoing().is_empty() {
                match send(self.fd, handshake.outgoing(), MsgFlags::MSG_NOSIGNAL) {
                    Ok(count) => {
                        self.fresh = false;
                        handshake.sent(count);
                    }
                    Err(nix::Error::EINTR) => {}
                    Err(nix::Error::EAGAIN) => *self.writable = false,
                    Err(errno) if self.fresh => return Err(DialError::Proxy(errno as i32)),
                    Err(_) => return Err(DialError::Closed),
                }
            }
            if !*self.readable {
                return Ok(None);
            }
            let mut reply = [0; REPLY];
            match recv(self.fd, &mut reply, MsgFlags::empty()) {
                Ok(0) => return Err(DialError::Closed),
                Ok(count) => {
                    *self.readable = count == REPLY || self.ending;
                    *self.unproven &= !handshake.requested();
                    if let Progress::Done { consumed } = handshake.receive(&reply[..count])? {
                        return Ok(Some(reply[consumed..count].to_vec()));
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => *self.readable = false,
                Err(_) => return Err(DialError::Closed),
            }
        }
    }
}

/// Starts a connection from the host itself.
fn start(address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    let _ = setsockopt(&fd, sockopt::TcpNoDelay, &true);
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}
