//! Connections to the proxy that are made and greeted before anybody dials.
//!
//! A dial through SOCKS5 waits for the warden, for the proxy's greeting and for its answer, one after another. The first two
//! say nothing about the target, so they can be over before there is one: while a jail dials one connection after another,
//! some more are kept greeted ([`Handshake::greeted`]) and the next dial only has to send its request.
//!
//! - A jail that dials once makes none. Two dials within [`LIFE`] make the first; one that dials often has a quarter of what it
//!   dialled in the last tenth of a second waiting, so that many are asked for in one message, and [`AHEAD_MOST`] at most.
//! - One that nobody took for [`LIFE`] is closed: less than the time that proxies give a client to finish its greeting.
//! - Where streams are isolated each has fresh credentials of its own, as every connection has.
//! - Nothing is decided ahead: a dial is decided before it takes one.
//! - A proxy that closes one before its time, or refuses it, **minds**: there is none from then on. A dial that was given
//!   such a connection a moment before begins again with one of its own, so a program never sees the difference.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use super::poll::{Readiness, Token};
use super::{Driver, Worker};
use crate::control::worker::{AHEAD_MOST, ToWarden};
use crate::overlay::DialError;
use crate::overlay::socks5::Handshake;
use crate::stack::{Duration, Instant};

/// How long one waits for its dial, and how far apart two dials may be that make one.
const LIFE: Duration = Duration::from_secs(5);

/// Of the dials that [`Rate`] counts, one in so many is made ahead.
const SHARE: usize = 4;

/// The connections that there are, or the reason why there are none.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Tells one from the next, so that an event for an earlier one is passed over.
    next_key: u32,
    /// The oldest first.
    made: VecDeque<Made>,
    /// How many the warden was asked for, and until when that counts.
    asked: Option<(usize, Instant)>,
    dials: Rate,
    /// The proxy minds.
    off: bool,
}

/// connect(2) is in progress, or the proxy greets; a readiness that was told stays known.
#[derive(Debug)]
struct Made {
    key: u32,
    fd: OwnedFd,
    handshake: Handshake,
    connected: bool,
    until: Instant,
}

/// What a dial takes over.
pub(super) struct Taken {
    pub fd: OwnedFd,
    pub handshake: Handshake,
    /// connect(2) is over.
    pub connected: bool,
}

/// How many dials there were lately.
#[derive(Debug, Default)]
struct Rate {
    last: Option<Instant>,
    /// The beginning of the span that is counted, its dials, and those of the span before.
    since: Option<Instant>,
    count: usize,
    before: usize,
}

impl Rate {
    const SPAN: Duration = Duration::from_millis(100);

    /// One more; whether it came soon after another, and how many there were in the last span.
    fn count(&mut self, now: Instant) -> (bool, usize) {
        let again = self.last.replace(now).is_some_and(|last| now < last + LIFE);
        let since = *self.since.get_or_insert(now);
        if now >= since + Self::SPAN {
            self.before = if now >= since + Self::SPAN * 2 { 0 } else { self.count };
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        (again, self.before.max(self.count))
    }
}

impl Ready {
    /// Takes a connection for a dial.
    pub fn take(&mut self) -> Option<Taken> {
        self.made.pop_front().map(|Made { fd, handshake, connected, .. }| Taken { fd, handshake, connected })
    }

    /// Notes a dial, and returns how many more connections should be made now: those that are missing, but not before half of
    /// them are.
    fn wanted(&mut self, now: Instant) -> usize {
        let (again, lately) = self.dials.count(now);
        if !again || self.off || self.asked.is_some() {
            return 0;
        }
        let wanted = (lately / SHARE).clamp(1, AHEAD_MOST);
        if self.made.len() > wanted / 2 { 0 } else { wanted - self.made.len() }
    }

    /// When [`Worker::ready_due`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let asked = self.asked.map(|(_, until)| until);
        self.made.front().map(|made| made.until).into_iter().chain(asked).min()
    }

    /// The proxy does not like connections that wait.
    pub fn give_up(&mut self) {
        self.made.clear();
        self.off = true;
    }

    /// Those that there are may have died while the machine slept.
    pub fn woken(&mut self) {
        self.made.clear();
    }
}

impl Worker {
    /// Has connections made for the next dials, if it is likely that there will be some. To be called once a dial is on its way.
    pub(super) fn prepare_ready(&mut self) {
        let count = self.ready.wanted(self.now);
        if count == 0 || self.drain.is_some() || !self.asks.is_empty() {
            return;
        }
        // Where the channel is full there are dials enough.
        if matches!(self.tell(&ToWarden::Ahead { count: count as u8 }), Ok(true)) {
            self.ready.asked = Some((count, self.now + LIFE));
        }
    }

    /// The warden's answer: connections that are being made. If there are fewer than were asked for, a proxy that is down is the
    /// next dial's to tell.
    pub(super) fn ready_dialled(&mut self, descriptors: Vec<OwnedFd>) {
        let Some((count, _)) = self.ready.asked.take() else { return };
        if self.ready.off || self.drain.is_some() {
            return;
        }
        for fd in descriptors.into_iter().take(count) {
            let Ok(handshake) = self.driver.greeting() else { continue };
            self.ready.next_key = self.ready.next_key.wrapping_add(1);
            let key = self.ready.next_key;
            super::tune::keep_urgent_in_line(&fd);
            if self.poll.add(fd.as_fd(), Token::Ready(key)).is_ok() {
                self.ready.made.push_back(Made { key, fd, handshake, connected: false, until: self.now + LIFE });
            }
        }
    }

    /// A descriptor is ready for something.
    pub(super) fn ready_step(&mut self, key: u32, readiness: Readiness) {
        let Some(at) = self.ready.made.iter().position(|made| made.key == key) else { return };
        let made = &mut self.ready.made[at];
        match made.greet(readiness) {
            Ok(()) => {}
            Err(_) if made.connected => self.ready.give_up(),
            Err(_) => drop(self.ready.made.remove(at)),
        }
    }

    /// Closes what nobody took.
    pub(super) fn ready_due(&mut self) {
        self.ready.asked.take_if(|(_, until)| *until <= self.now);
        while self.ready.made.front().is_some_and(|made| made.until <= self.now) {
            self.ready.made.pop_front();
        }
    }

    /// No dial comes any more.
    pub(super) fn drop_ready(&mut self) {
        self.ready.give_up();
    }
}

impl Made {
    /// As far as it goes without a request; what comes unasked, the end included, is an error.
    fn greet(&mut self, readiness: Readiness) -> Result<(), DialError> {
        if !self.connected && !readiness.writable {
            return Ok(());
        }
        let raw = self.fd.as_raw_fd();
        loop {
            while !self.handshake.outgoing().is_empty() {
                match send(raw, self.handshake.outgoing(), MsgFlags::MSG_NOSIGNAL) {
                    Ok(count) => {
                        // A connection that failed says so to the first send (connect(2)'s error is the socket's).
                        self.connected = true;
                        self.handshake.sent(count);
                    }
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
                    self.handshake.receive(&reply[..count])?;
                    if count < reply.len() && !readiness.ending && self.handshake.outgoing().is_empty() {
                        return Ok(());
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(()),
                Err(_) => return Err(DialError::Closed),
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Dials at an even pace, each of which takes one of those that were asked for before it: how many were asked for at each.
    fn pace(gap: Duration, dials: usize) -> Vec<usize> {
        let (mut ready, mut now) = (Ready::default(), Instant::from_secs(1));
        let (key, until) = (0, Instant::from_secs(1_000_000));
        (0..dials)
            .map(|_| {
                now += gap;
                ready.take();
                let count = ready.wanted(now);
                ready.made.extend((0..count).map(|_| {
                    let fd = std::fs::File::open("/dev/null").unwrap().into();
                    Made { key, fd, handshake: Handshake::greeting(None).unwrap(), connected: false, until }
                }));
                count
            })
            .collect()
    }

    #[test]
    fn a_single_dial_asks_for_none_and_a_slow_row_for_one_at_a_time() {
        assert_eq!(pace(Duration::from_secs(6), 4), [0, 0, 0, 0]);
        assert_eq!(pace(Duration::from_secs(1), 5), [0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_fast_row_asks_for_many_at_a_time_but_never_for_more_than_a_message_holds() {
        let asked = pace(Duration::from_micros(200), 2000);
        let messages = asked.iter().filter(|count| **count > 0).count();
        assert!(messages < 2000 / 6, "{messages} messages for 2,000 dials");
        assert!(asked.iter().all(|count| *count <= AHEAD_MOST));
    }

    #[test]
    fn of_a_short_row_few_are_left_over() {
        let asked: usize = pace(Duration::from_micros(200), 8).iter().sum();
        assert!(asked <= 7 + 2, "{asked} made for 8 dials, the first of which made its own");
    }
}
