//! The client's side of SOCKS5 (RFC 1928) with user name and password (RFC 1929), as a state machine over bytes.
//!
//! The owner of the descriptor writes what [`Handshake::outgoing`] holds, says how much went with [`Handshake::sent`], and
//! gives every byte that arrives to [`Handshake::receive`]:
//!
//! ```text
//! greeting -> Method -> (login -> Login) -> Greeted -> request -> Reply -> Done
//! ```
//!
//! - Each message is one slice and should go out in one write, with TCP_NODELAY; a split greeting costs 200 ms with some peers.
//! - Messages are not pipelined: small servers (microsocks) take one message from each read and lose what comes behind it. A
//!   connection can be greeted ahead of its request instead ([`Handshake::greeting`], [`Handshake::greeted`],
//!   [`Handshake::request`]), which saves the same round trip.
//! - Only methods that can be honoured are offered: without a login "none", with one RFC 1929 and nothing else, so that a
//!   proxy cannot quietly drop the login and with it the isolation of the stream.
//! - A failure is known at its second byte and reported there: Tor's failures come with address type 0, whose length nobody
//!   knows. A success is read to its exact last byte: what follows belongs to the program.
//! - An answer that comes before the message it answers has been sent is [`DialError::Garbage`].
//!
//! UDP ASSOCIATE is a second command beside [`CONNECT`] ([`Handshake::associate`]): its reply names the relay that takes the
//! datagrams ([`Handshake::bound`]), whose headers are in [`datagram`].

pub mod datagram;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::DialError;
use crate::flow::Target;

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
const METHOD_NONE: u8 = 0;
const METHOD_LOGIN: u8 = 2;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const LOGIN_VERSION: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// How far a handshake is after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It needs more bytes, or has more to send: look at [`Handshake::outgoing`].
    More,
    /// The target is connected.
    Done {
        /// How many of the bytes just given belonged to the handshake; the rest is the target's.
        consumed: usize,
    },
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The proxy's choice of a method: version, method.
    Method { version_seen: bool },
    /// The answer to the login: version, status.
    Login { version_seen: bool },
    /// Nothing: the connection is greeted and waits for its request.
    Greeted,
    /// The answer to the request.
    Reply(Reply),
    /// Nothing any more.
    Done,
    /// Nothing any more, for this reason.
    Failed(DialError),
}

/// One handshake on one connection to the proxy.
pub struct Handshake {
    phase: Phase,
    /// The message that is being sent; empty once it has gone.
    message: Vec<u8>,
    sent: usize,
    /// The login message, until the proxy asks for it.
    login: Option<Vec<u8>>,
    /// The request, until the login is done.
    request: Option<Vec<u8>>,
    /// The address in the reply.
    bound: Option<SocketAddr>,
}

impl Handshake {
    /// A handshake that ends with a connection to `target`.
    ///
    /// # Errors
    /// [`DialError::Inexpressible`]: the login is longer than its length byte can say, or the address has a scope.
    pub fn new(target: &Target, login: Option<(&[u8], &[u8])>) -> Result<Self, DialError> {
        let mut handshake = Self::greeting(login)?;
        handshake.request(target)?;
        Ok(handshake)
    }

    /// The address in the proxy's reply, once that is done: of an association, where its relay takes datagrams. An
    /// unspecified address is the proxy's own. `None`: the proxy gave a name.
    pub fn bound(&self) -> Option<SocketAddr> {
        self.bound
    }

    /// A handshake without a request as yet: [`greeted`](Self::greeted) tells when it is ready for one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn greeting(login: Option<(&[u8], &[u8])>) -> Result<Self, DialError> {
        let method = if login.is_some() { METHOD_LOGIN } else { METHOD_NONE };
        Ok(Self {
            phase: Phase::Method { version_seen: false },
            message: vec![VERSION, 1, method],
            sent: 0,
            login: login.map(|(user, password)| login_message(user, password)).transpose()?,
            request: None,
            bound: None,
        })
    }

    /// Says where to; at once or once the connection is greeted, and only once.
    ///
    /// # Errors
    /// [`DialError::Inexpressible`] for a target that the protocol cannot say, and for a second request.
    pub fn request(&mut self, target: &Target) -> Result<(), DialError> {
        self.ask(request_message(CONNECT, target)?)
    }

    /// Asks for an association for datagrams, which lives as long as the connection, instead of a
    /// [`request`](Self::request). Where the datagrams will come from is not said: nobody knows it yet.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn associate(&mut self) -> Result<(), DialError> {
        let anywhere = Target::Addr(SocketAddr::from(([0, 0, 0, 0], 0)));
        self.ask(request_message(UDP_ASSOCIATE, &anywhere)?)
    }

    fn ask(&mut self, request: Vec<u8>) -> Result<(), DialError> {
        match self.phase {
            Phase::Greeted => self.say(request, Phase::Reply(Reply::default())),
            Phase::Method { .. } | Phase::Login { .. } if self.request.is_none() => self.request = Some(request),
            Phase::Failed(error) => return Err(error),
            _ => return Err(DialError::Inexpressible),
        }
        Ok(())
    }

    /// Whether the connection is logged in and only the request is missing.
    pub fn greeted(&self) -> bool {
        self.phase == Phase::Greeted
    }

    /// Whether the request has been sent: what comes now is the answer to it.
    pub fn requested(&self) -> bool {
        matches!(self.phase, Phase::Reply(_) | Phase::Done)
    }

    /// Bytes that are to be sent now.
    pub fn outgoing(&self) -> &[u8] {
        &self.message[self.sent..]
    }

    /// The first `count` bytes of [`outgoing`](Self::outgoing) have been sent.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.message.len());
        if self.sent == self.message.len() {
            // A login need not lie in memory for as long as the proxy takes to dial.
            self.message.fill(0);
            self.message.clear();
            self.sent = 0;
        }
    }

    /// Takes what has arrived, in pieces of any size.
    ///
    /// # Errors
    /// Why the dial has failed; the same again for every later call.
    pub fn receive(&mut self, input: &[u8]) -> Result<Progress, DialError> {
        for (index, &byte) in input.iter().enumerate() {
            if self.phase == Phase::Done {
                return Ok(Progress::Done { consumed: index });
            }
            if let Err(error) = self.take(byte) {
                self.phase = Phase::Failed(error);
                self.message.clear();
                self.sent = 0;
                return Err(error);
            }
        }
        match self.phase {
            Phase::Done => Ok(Progress::Done { consumed: input.len() }),
            Phase::Failed(error) => Err(error),
            _ => Ok(Progress::More),
        }
    }

    /// One byte, one step.
    fn take(&mut self, byte: u8) -> Result<(), DialError> {
        if let Phase::Failed(error) = self.phase {
            return Err(error);
        }
        if !self.outgoing().is_empty() {
            return Err(DialError::Garbage);
        }
        match self.phase {
            Phase::Method { version_seen: false } => {
                expect(byte == VERSION)?;
                self.phase = Phase::Method { version_seen: true };
            }
            Phase::Method { version_seen: true } => match (byte, self.login.take()) {
                (METHOD_LOGIN, Some(login)) => self.say(login, Phase::Login { version_seen: false }),
                (METHOD_NONE, None) => self.logged_in(),
                (METHOD_UNACCEPTABLE, _) => return Err(DialError::NoAcceptableMethod),
                (other, _) => return Err(DialError::UnofferedMethod(other)),
            },
            Phase::Login { version_seen: false } => {
                // RFC 1929 says 1; servers that answer with the version of SOCKS instead are common.
                expect(byte == LOGIN_VERSION || byte == VERSION)?;
                self.phase = Phase::Login { version_seen: true };
            }
            Phase::Login { version_seen: true } if byte == 0 => self.logged_in(),
            Phase::Login { version_seen: true } => return Err(DialError::LoginRejected),
            Phase::Reply(mut reply) => {
                self.phase = if reply.take(byte)? {
                    self.bound = reply.bound();
                    Phase::Done
                } else {
                    Phase::Reply(reply)
                };
            }
            // Nothing was asked, so nothing can be answered.
            Phase::Greeted | Phase::Done => return Err(DialError::Garbage),
            Phase::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn logged_in(&mut self) {
        match self.request.take() {
            Some(request) => self.say(request, Phase::Reply(Reply::default())),
            None => self.phase = Phase::Greeted,
        }
    }

    fn say(&mut self, message: Vec<u8>, then: Phase) {
        self.message = message;
        self.sent = 0;
        self.phase = then;
    }
}

impl fmt::Debug for Handshake {
    /// The messages hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// How much of the answer to a request has been seen: VER REP RSV ATYP BND.ADDR BND.PORT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reply {
    /// Bytes so far.
    seen: u16,
    /// Address type, from the fourth byte on.
    kind: u8,
    /// Length of the whole reply, once it is known.
    length: u16,
    /// What follows the fourth byte, as far as an address and a port go.
    address: [u8; 18],
}

impl Reply {
    /// Takes one byte; true for the last one of a success.
    fn take(&mut self, byte: u8) -> Result<bool, DialError> {
        const HEADER: u16 = 4;
        const PORT: u16 = 2;
        self.seen += 1;
        match self.seen {
            1 => expect(byte == VERSION)?,
            2 if byte != 0 => return Err(DialError::Reply(byte)),
            // The reserved byte is not always 0 in the wild, and means nothing.
            2 | 3 => {}
            4 => {
                self.kind = byte;
                self.length = match byte {
                    IPV4 => HEADER + 4 + PORT,
                    IPV6 => HEADER + 16 + PORT,
                    NAME => 0, // said by the next byte
                    _ => return Err(DialError::Garbage),
                };
            }
            5 if self.kind == NAME => self.length = HEADER + 1 + u16::from(byte) + PORT,
            _ => {}
        }
        if self.seen > HEADER
            && let Some(place) = self.address.get_mut(usize::from(self.seen - HEADER - 1))
        {
            *place = byte;
        }
        Ok(self.seen == self.length)
    }

    /// The address of a whole reply.
    fn bound(&self) -> Option<SocketAddr> {
        let port = |at: usize| u16::from_be_bytes([self.address[at], self.address[at + 1]]);
        match self.kind {
            IPV4 => self.address.first_chunk::<4>().map(|v4| SocketAddr::from((Ipv4Addr::from(*v4), port(4)))),
            IPV6 => self.address.first_chunk::<16>().map(|v6| SocketAddr::from((Ipv6Addr::from(*v6), port(16)))),
            _ => None,
        }
    }
}

fn expect(condition: bool) -> Result<(), DialError> {
    if condition { Ok(()) } else { Err(DialError::Garbage) }
}

/// RFC 1929 section 2: VER ULEN UNAME PLEN PASSWD. An empty password is sent as such: servers take it.
fn login_message(user: &[u8], password: &[u8]) -> Result<Vec<u8>, DialError> {
    if user.is_empty() {
        return Err(DialError::Inexpressible);
    }
    let mut message = Vec::with_capacity(3 + user.len() + password.len());
    message.push(LOGIN_VERSION);
    push_counted(&mut message, user)?;
    push_counted(&mut message, password)?;
    Ok(message)
}

/// RFC 1928 section 4: VER CMD RSV ATYP DST.ADDR DST.PORT.
fn request_message(command: u8, target: &Target) -> Result<Vec<u8>, DialError> {
    let mut message = Vec::with_capacity(32);
    message.extend([VERSION, command, 0]);
    push_destination(&mut message, target)?;
    Ok(message)
}

/// ATYP DST.ADDR DST.PORT, as in requests and before datagrams (RFC 1928 section 5).
fn push_destination(message: &mut Vec<u8>, target: &Target) -> Result<(), DialError> {
    match target {
        Target::Name(name, _) => {
            message.push(NAME);
            push_counted(message, name.as_str().as_bytes())?;
        }
        Target::Addr(std::net::SocketAddr::V6(v6)) if v6.scope_id() != 0 => return Err(DialError::Inexpressible),
        // An IPv4 address in IPv6 clothes means the IPv4 address, to the kernel as to a proxy.
        Target::Addr(address) => match address.ip().to_canonical() {
            IpAddr::V4(v4) => {
                message.push(IPV4);
                message.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                message.push(IPV6);
                message.extend(v6.octets());
            }
        },
    }
    message.extend(target.port().to_be_bytes());
    Ok(())
}

fn push_counted(message: &mut Vec<u8>, text: &[u8]) -> Result<(), DialError> {
    message.push(u8::try_from(text.len()).map_err(|_| DialError::Inexpressible)?);
    message.extend_from_slice(text);
    Ok(())
}

#[cfg(test)]
mod tests;
