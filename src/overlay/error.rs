//! Every way a dial can fail, and the one table of what a program is told about it.
//!
//! Four answers exist, for [`Refusal`] is what a packet can say. They are given out by one principle:
//!
//! - refused: the *target* said no, as far as the proxy can tell;
//! - host unreachable: *this target* is out of reach, now or for good, time-outs included;
//! - network unreachable: *the way out itself* does not work, so no other target would either;
//! - prohibited: a *rule* or a missing permission forbids it.
//!
//! A proxy that is down is therefore ENETUNREACH and not ECONNREFUSED: the target was never asked, and a program that takes
//! ECONNREFUSED for "the server is up and nothing listens" would be misled. Both arrive at once.
//!
//! `docs/errno.md` is this table in print; a test holds the two equal.

use serde::{Deserialize, Serialize};

use crate::flow::Refusal;

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum DialError {
    /// The proxy answered the request with this code, which is not 0 (RFC 1928 section 6; Tor proposal 304 for F0 to F7).
    #[error("the proxy could not connect: reply {0:#04x}, {what}", what = self.outcome().meaning)]
    Reply(u8),
    /// The proxy takes none of the login methods offered.
    #[error(
        "the proxy accepts none of the login methods offered: check username and password in the registry, or isolate_streams, which needs a proxy that takes any login"
    )]
    NoAcceptableMethod,
    /// The proxy chose a login method that was not offered.
    #[error("the proxy chose login method {0:#04x}, which was not offered: it is no SOCKS5 proxy, or a broken one")]
    UnofferedMethod(u8),
    /// The proxy refused user name and password (RFC 1929).
    #[error("the proxy refused the login: check username and password in the registry")]
    LoginRejected,
    /// The proxy closed or reset the connection before its reply was complete.
    #[error("the proxy closed the connection in the middle of the handshake: see its log")]
    Closed,
    /// Bytes that are no SOCKS5 reply, or that came before they were asked for.
    #[error("the proxy's answer is not SOCKS5: check host and port in the registry")]
    Garbage,
    /// No answer within the network's connect_timeout.
    #[error("no answer within connect_timeout")]
    TimedOut,
    /// connect(2) to the proxy failed with this errno.
    #[error("the proxy cannot be reached: {}", describe(*.0))]
    Proxy(i32),
    /// The proxy's own host name does not resolve.
    #[error("the proxy's host name does not resolve: check host in the registry and the resolver of this machine")]
    ProxyName,
    /// The proxy wants datagrams sent to an address that is not its own, or to a port that is no relay's.
    #[error(
        "the proxy names a relay for datagrams that is not the proxy itself: let it announce the address that `host` in the registry leads to (dante: `internal`), or none"
    )]
    RelayElsewhere,
    /// The overlay's protocol has no way to say this target or login.
    #[error("the target or the login cannot be expressed in the proxy's protocol")]
    Inexpressible,
    /// A direct connect(2) to the target failed with this errno.
    #[error("the target cannot be reached: {}", describe(*.0))]
    Direct(i32),
}

/// The kernel's text for an errno, in the words of strerror(3).
fn describe(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

/// What follows from a [`DialError`]: a row of `docs/errno.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its stable name, the `close` of the flow's record.
    pub name: &'static str,
    /// What the program is told.
    pub refusal: Refusal,
    /// What it means, in a few words.
    pub meaning: &'static str,
}

impl DialError {
    /// One error for each row of the table, in the order of the docs.
    pub const ROWS: &[(&'static str, DialError)] = &[
        ("reply 1", Self::Reply(1)),
        ("reply 2", Self::Reply(2)),
        ("reply 3", Self::Reply(3)),
        ("reply 4", Self::Reply(4)),
        ("reply 5", Self::Reply(5)),
        ("reply 6", Self::Reply(6)),
        ("reply 7", Self::Reply(7)),
        ("reply 8", Self::Reply(8)),
        ("reply F0 (Tor)", Self::Reply(0xf0)),
        ("reply F1 (Tor)", Self::Reply(0xf1)),
        ("reply F2 (Tor)", Self::Reply(0xf2)),
        ("reply F3 (Tor)", Self::Reply(0xf3)),
        ("reply F4 (Tor)", Self::Reply(0xf4)),
        ("reply F5 (Tor)", Self::Reply(0xf5)),
        ("reply F6 (Tor)", Self::Reply(0xf6)),
        ("reply F7 (Tor)", Self::Reply(0xf7)),
        ("any other reply", Self::Reply(9)),
        ("method FF", Self::NoAcceptableMethod),
        ("a method that was not offered", Self::UnofferedMethod(1)),
        ("login status other than 0", Self::LoginRejected),
        ("end of file or reset in the handshake", Self::Closed),
        ("anything that is not SOCKS5", Self::Garbage),
        ("no answer within `connect_timeout`", Self::TimedOut),
        ("the proxy refuses connections", Self::Proxy(libc::ECONNREFUSED)),
        ("the proxy cannot be reached", Self::Proxy(libc::EHOSTUNREACH)),
        ("the proxy does not answer the connect", Self::Proxy(libc::ETIMEDOUT)),
        ("the proxy resets the connect", Self::Proxy(libc::ECONNRESET)),
        ("this machine forbids the connect to the proxy", Self::Proxy(libc::EACCES)),
        ("netjail has no descriptor, port or memory left", Self::Proxy(libc::EMFILE)),
        ("the proxy's host name does not resolve", Self::ProxyName),
        ("UDP: the relay's address is not the proxy's", Self::RelayElsewhere),
        ("target or login have no form in the protocol", Self::Inexpressible),
        ("direct: ECONNREFUSED, ECONNRESET", Self::Direct(libc::ECONNREFUSED)),
        ("direct: EHOSTUNREACH, EHOSTDOWN", Self::Direct(libc::EHOSTUNREACH)),
        ("direct: ETIMEDOUT", Self::Direct(libc::ETIMEDOUT)),
        ("direct: ENETUNREACH, ENETDOWN and any other", Self::Direct(libc::ENETUNREACH)),
        ("direct: EACCES, EPERM", Self::Direct(libc::EACCES)),
        ("direct: no descriptor, port or memory left", Self::Direct(libc::EMFILE)),
    ];

    /// The table itself.
    pub fn outcome(self) -> Outcome {
        use Refusal::{HostUnreachable, NetUnreachable, Prohibited};
        let (name, refusal, meaning) = match self {
            Self::Reply(code) => return reply(code),
            Self::NoAcceptableMethod => ("no-acceptable-method", Prohibited, "the proxy wants another login"),
            Self::UnofferedMethod(_) => ("unoffered-method", NetUnreachable, "not a SOCKS5 proxy, or a broken one"),
            Self::LoginRejected => ("login-rejected", Prohibited, "the proxy refused user name and password"),
            Self::Closed => ("proxy-closed", NetUnreachable, "the proxy went away before it answered"),
            Self::Garbage => ("not-socks5", NetUnreachable, "something else than a SOCKS5 proxy answers there"),
            Self::TimedOut => ("timed-out", HostUnreachable, "the overlay gave no answer in time"),
            Self::Proxy(errno) => return proxy(errno),
            Self::ProxyName => ("proxy-name", NetUnreachable, "the proxy cannot be found"),
            Self::RelayElsewhere => ("relay-elsewhere", NetUnreachable, "the proxy sends datagrams to somebody else"),
            Self::Inexpressible => ("inexpressible", NetUnreachable, "the proxy cannot be asked for this"),
            Self::Direct(errno) => return direct(errno),
        };
        Outcome { name, refusal, meaning }
    }

    /// How the program is told.
    pub fn refusal(self) -> Refusal {
        self.outcome().refusal
    }

    /// The stable name, for the flow's record.
    pub fn name(self) -> &'static str {
        self.outcome().name
    }
}

/// RFC 1928 section 6; Tor's own codes from its proposal 304 (sent where `ExtendedErrors` is set on the SocksPort).
fn reply(code: u8) -> Outcome {
    use Refusal::{HostUnreachable, NetUnreachable, Prohibited, Refused};
    let (name, refusal, meaning) = match code {
        // Tor's exits lose the errno of a refused connection and say 1.
        1 => ("socks-failure", Refused, "general failure; Tor's word for a refused connection"),
        2 => ("socks-prohibited", Prohibited, "the proxy's rules forbid it"),
        3 => ("socks-net-unreachable", NetUnreachable, "the proxy has no route"),
        4 => ("socks-host-unreachable", HostUnreachable, "no such host, or no way to it"),
        5 => ("socks-refused", Refused, "the target refused the connection"),
        // As the kernel turns an ICMP time exceeded into EHOSTUNREACH. Tor 0.4.9 says 6 when its SocksTimeout ends.
        6 => ("socks-ttl-expired", HostUnreachable, "the packet's or the proxy's time ran out"),
        // Tor and most small proxies to UDP ASSOCIATE.
        7 => ("socks-command", Prohibited, "the proxy does not do this command: UDP ASSOCIATE, or CONNECT"),
        // A host without IPv6 gives ENETUNREACH for an IPv6 literal.
        8 => ("socks-address-type", NetUnreachable, "the proxy does not do this kind of address"),
        0xf0 => ("onion-not-found", HostUnreachable, "no descriptor of the onion service is to be found"),
        0xf1 => ("onion-invalid", HostUnreachable, "the onion service's descriptor is not valid"),
        0xf2 => ("onion-introduction", HostUnreachable, "the onion service is offline: introduction failed"),
        0xf3 => ("onion-rendezvous", HostUnreachable, "the onion service did not come to the rendezvous"),
        0xf4 => ("onion-authorization", Prohibited, "the onion service wants client authorization, and Tor has none"),
        0xf5 => ("onion-wrong-authorization", Prohibited, "the onion service refuses Tor's client authorization"),
        0xf6 => ("onion-bad-address", HostUnreachable, "the onion address is malformed"),
        0xf7 => ("onion-timed-out", HostUnreachable, "introduction to the onion service timed out"),
        // Claims the least: a failure of this dial for a reason that is not known.
        _ => ("socks-unknown", HostUnreachable, "a failure that no document names"),
    };
    Outcome { name, refusal, meaning }
}

/// connect(2) to the proxy.
fn proxy(errno: i32) -> Outcome {
    use Refusal::{HostUnreachable, NetUnreachable, Prohibited};
    let (name, refusal, meaning) = match errno {
        libc::ECONNREFUSED => ("proxy-refused", NetUnreachable, "the proxy is down"),
        libc::ETIMEDOUT => ("proxy-timed-out", HostUnreachable, "the proxy's machine is silent"),
        libc::ECONNRESET | libc::EPIPE => ("proxy-closed", NetUnreachable, "the proxy went away before it answered"),
        libc::EACCES | libc::EPERM => ("proxy-prohibited", Prohibited, "a firewall of this machine is in the way"),
        _ if is_shortage(errno) => return shortage(),
        _ => ("proxy-unreachable", NetUnreachable, "there is no way to the proxy"),
    };
    Outcome { name, refusal, meaning }
}

/// A direct connect(2): the program is told what it would have been told outside, as far as a packet can say it.
fn direct(errno: i32) -> Outcome {
    use Refusal::{HostUnreachable, NetUnreachable, Prohibited, Refused};
    let (name, refusal, meaning) = match errno {
        libc::ECONNREFUSED | libc::ECONNRESET => ("refused", Refused, "the target refused the connection"),
        libc::EHOSTUNREACH | libc::EHOSTDOWN => ("host-unreachable", HostUnreachable, "no way to the host"),
        libc::ETIMEDOUT => ("timed-out", HostUnreachable, "the target gave no answer in time"),
        libc::EACCES | libc::EPERM => ("prohibited", Prohibited, "a firewall forbids it"),
        _ if is_shortage(errno) => return shortage(),
        _ => ("net-unreachable", NetUnreachable, "no way to the network"),
    };
    Outcome { name, refusal, meaning }
}

/// Whether netjail itself ran out of something: it says nothing about proxy or target, and may pass.
fn is_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EAGAIN
            | libc::EADDRNOTAVAIL
            | libc::EADDRINUSE
    )
}

fn shortage() -> Outcome {
    Outcome {
        name: "no-resources",
        refusal: Refusal::HostUnreachable,
        meaning: "a shortage on this machine; try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_and_the_table_are_equal() {
        let mut rows = String::new();
        for (case, error) in DialError::ROWS {
            let Outcome { name, refusal, meaning } = error.outcome();
            let (v4, v6) = (refusal.errno_name(false), refusal.errno_name(true));
            let errno = if v4 == v6 { v4.to_owned() } else { format!("{v4} (IPv6: {v6})") };
            rows += &format!("| {case} | `{name}` | {errno} | {meaning} |\n");
        }
        crate::docs::assert_table("docs/errno.md", &rows);
    }

    #[test]
    fn every_error_is_a_row_of_the_docs() {
        let known: Vec<Outcome> = DialError::ROWS.iter().map(|(_, error)| error.outcome()).collect();
        let replies = (1..=255).map(DialError::Reply);
        let errnos = (-1..200).flat_map(|errno| [DialError::Proxy(errno), DialError::Direct(errno)]);
        for error in replies.chain(errnos).chain((0..=255).map(DialError::UnofferedMethod)) {
            assert!(known.contains(&error.outcome()), "{error:?} is in no row");
        }
    }

    #[test]
    fn replies_keep_the_errno_that_programs_expect() {
        for (code, errno) in [(1, "ECONNREFUSED"), (3, "ENETUNREACH"), (4, "EHOSTUNREACH"), (5, "ECONNREFUSED")] {
            assert_eq!(DialError::Reply(code).refusal().errno_name(false), errno);
            assert_eq!(DialError::Reply(code).refusal().errno_name(true), errno);
        }
        assert_eq!(DialError::Reply(2).refusal().errno_name(true), "EACCES");
        assert_eq!(DialError::TimedOut.refusal(), Refusal::HostUnreachable);
        assert_eq!(DialError::Proxy(libc::ECONNREFUSED).refusal(), Refusal::NetUnreachable);
    }

    #[test]
    fn messages_say_what_and_what_to_do() {
        let text = DialError::Reply(0xf0).to_string();
        assert!(text.contains("0xf0") && text.contains("no descriptor"), "{text}");
        assert!(DialError::Proxy(libc::ECONNREFUSED).to_string().contains("refused"));
    }
}
