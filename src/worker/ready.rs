//! A connection to the proxy that is made and greeted before anybody dials.
//!
//! A dial through SOCKS5 waits for the warden, for the proxy's greeting and for its answer, one after another. The first two
//! say nothing about the target, so they can be over before there is one: while a jail dials one connection after another,
//! one more is kept greeted ([`Handshake::greeted`]) and the next dial only has to send its request.
//!
//! - A jail that dials once makes none. Two dials within [`LIFE`] make the first, and each dial that takes it the next.
//! - One that nobody took for [`LIFE`] is closed: less than the time that proxies give a client to finish its greeting.
//! - Where streams are isolated it has fresh credentials of its own, as every connection has.
//! - Nothing is decided ahead: a dial is decided before it takes one.
//! - A proxy that closes one before its time, or refuses it, **minds**: there is none from then on. A dial that was given
//!   such a connection a moment before begins again with one of its own, so a program never sees the difference.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};

use super::poll::{Readiness, Token};
use super::{Driver, Worker};
use crate::control::worker::ToWarden;
use crate::overlay::DialError;
use crate::overlay::socks5::Handshake;
use crate::stack::{Duration, Instant};

/// How long one waits for its dial, and how far apart two dials may be that make one.
const LIFE: Duration = Duration::from_secs(5);

/// Set in the number of a dial that is nobody's yet; the slots of flows stay far below.
const AHEAD: u64 = 1 << 31;

/// The one connection, or the reason why there is none.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Tells one from the next, so that an event for an earlier one is passed over.
    key: u32,
    state: State,
    /// When the last dial was.
    dialled: Option<Instant>,
    /// When the one that there is has waited long enough.
    until: Option<Instant>,
}

#[derive(Debug, Default)]
enum State {
    /// There is none.
    #[default]
    Empty,
    /// The warden was asked.
    Asked,
    /// connect(2) is in progress, or the proxy greets; a readiness that was told stays known.
    Made { fd: OwnedFd, handshake: Handshake, connected: bool },
    /// The proxy minds.
    Off,
}

/// What a dial takes over.
pub(super) struct Taken {
    pub fd: OwnedFd,
    pub handshake: Handshake,
    /// connect(2) is over.
    pub connected: bool,
}

impl Ready {
    /// Whether a dial's number is one of these.
    pub fn is_ahead(id: u64) -> bool {
        id & AHEAD != 0
    }

    fn id(&self) -> u64 {
        u64::from(self.key) << 32 | AHEAD
    }

    /// Takes the connection for a dial, and notes that there was one.
    pub fn take(&mut self, now: Instant) -> Option<Taken> {
        self.dialled = Some(now);
        if !matches!(self.state, State::Made { .. }) {
            return None;
        }
        self.until = None;
        match std::mem::take(&mut self.state) {
            State::Made { fd, handshake, connected } => Some(Taken { fd, handshake, connected }),
            _ => None,
        }
    }

    /// When [`Worker::ready_due`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// The proxy does not like connections that wait.
    pub fn give_up(&mut self) {
        (self.state, self.until) = (State::Off, None);
    }

    /// There is none, for now.
    fn empty(&mut self) {
        (self.state, self.until) = (State::Empty, None);
    }
}

impl Worker {
    /// Has one made for the next dial, if it is likely that there will be one. To be called once a dial is on its way.
    pub(super) fn prepare_ready(&mut self, last: Option<Instant>) {
        let again = last.is_some_and(|last| self.now < last + LIFE);
        if !again || self.drain.is_some() || !matches!(self.ready.state, State::Empty) {
            return;
        }
        self.ready.key = self.ready.key.wrapping_add(1);
        // Where the channel is full there are dials enough.
        if self.asks.is_empty() && matches!(self.tell(&ToWarden::Dial { id: self.ready.id() }), Ok(true)) {
            self.ready.state = State::Asked;
            self.ready.until = Some(self.now + LIFE);
        }
    }

    /// When the last dial was.
    pub(super) fn last_dial(&self) -> Option<Instant> {
        self.ready.dialled
    }

    /// The warden's answer: a connection that is being made, or none.
    pub(super) fn ready_dialled(&mut self, id: u64, fd: Option<OwnedFd>) {
        if id != self.ready.id() || !matches!(self.ready.state, State::Asked) {
            return;
        }
        let made = fd.and_then(|fd| {
            super::dial::tune(&fd);
            let handshake = self.driver.greeting().ok()?;
            self.poll.add(fd.as_fd(), Token::Ready(self.ready.key)).ok()?;
            Some(State::Made { fd, handshake, connected: false })
        });
        match made {
            Some(made) => self.ready.state = made,
            // A proxy that is down is the next dial's to tell.
            None => self.ready.empty(),
        }
    }

    /// Its descriptor is ready for something.
    pub(super) fn ready_step(&mut self, key: u32, readiness: Readiness) {
        let State::Made { fd, handshake, connected } = &mut self.ready.state else { return };
        if key != self.ready.key {
            return;
        }
        if !*connected {
            if !readiness.writable {
                return;
            }
            if getsockopt(fd, sockopt::SocketError) != Ok(0) {
                return self.ready.empty();
            }
            *connected = true;
        }
        if greet(fd, handshake, readiness).is_err() {
            self.ready.give_up();
        }
    }

    /// Closes one that nobody took.
    pub(super) fn ready_due(&mut self) {
        if self.ready.until.is_some_and(|until| until <= self.now) {
            self.ready.empty();
        }
    }

    /// No dial comes any more.
    pub(super) fn drop_ready(&mut self) {
        self.ready.give_up();
    }
}

/// As far as it goes without a request; what comes unasked, the end included, is an error.
fn greet(fd: &OwnedFd, handshake: &mut Handshake, readiness: Readiness) -> Result<(), DialError> {
    let raw = fd.as_raw_fd();
    loop {
        while !handshake.outgoing().is_empty() {
            match send(raw, handshake.outgoing(), MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => handshake.sent(count),
                Err(nix::Error::EINTR) => {}
                // A greeting always fits an empty buffer; whatever this is, it is no proxy to wait for.
                Err(_) => return Err(DialError::Closed),
            }
        }
        if !readiness.readable {
            return Ok(());
        }
        let mut reply = [0; 64];
        match recv(raw, &mut reply, MsgFlags::empty()) {
            Ok(0) => return Err(DialError::Closed),
            Ok(count) => {
                handshake.receive(&reply[..count])?;
                if count < reply.len() && !readiness.ending && handshake.outgoing().is_empty() {
                    return Ok(());
                }
            }
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => return Ok(()),
            Err(_) => return Err(DialError::Closed),
        }
    }
}

impl Driver {
    /// A handshake that still lacks its request, with the credentials that a connection of this network has.
    pub(super) fn greeting(&self) -> Result<Handshake, DialError> {
        let Self::Socks5 { login, isolate } = self else { return Err(DialError::Inexpressible) };
        let fresh = if *isolate {
            Some(crate::overlay::Credentials::random().map_err(|_| DialError::Proxy(libc::EAGAIN))?)
        } else {
            None
        };
        let login = match (&fresh, login) {
            (Some(fresh), _) => Some(fresh.login()),
            (None, Some(login)) => Some((login.username.as_slice(), login.password.as_slice())),
            (None, None) => None,
        };
        Handshake::greeting(login)
    }
}
