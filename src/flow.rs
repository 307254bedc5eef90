//! The vocabulary of a flow: where a program wants to go, and how it is told that it cannot.
//!
//! A leaf: every other module may use it, and it uses none of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A host name in presentation form without the trailing dot, lower-cased, made of letters, digits, hyphens,
/// underscores and dots only, at most 253 bytes (RFC 1035 section 2.3.4). The only way to make one is [`HostName::parse`],
/// so a name that reaches an overlay can not smuggle an address or a control byte into a proxy's request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Why a text is not a [`HostName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing between two dots, or nothing at all.
    #[error("an empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes or a name of more than 253.
    #[error("too long")]
    TooLong,
    /// Something other than letters, digits, hyphen and underscore.
    #[error("a character that no host name has")]
    Character,
    /// The last label could be read as (a part of) an IPv4 address: `127.0.0.1.`, `0x7f.1`.
    #[error("a numeric last label, which a proxy could read as an address")]
    NumericLastLabel,
}

impl HostName {
    /// Reads a name; one trailing dot is allowed and dropped.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > 253 {
            return Err(BadName::TooLong);
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err(BadName::EmptyLabel);
            }
            if label.len() > 63 {
                return Err(BadName::TooLong);
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err(BadName::Character);
            }
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        // inet_aton(3) reads decimal, octal (0…) and hexadecimal (0x…) parts; all of them begin with a digit
        // and hold nothing but digits, or hexadecimal digits after 0x.
        let hexadecimal =
            last.len() > 1 && last[..2].eq_ignore_ascii_case("0x") && last[2..].bytes().all(|b| b.is_ascii_hexdigit());
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadName::NumericLastLabel);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The name without a trailing dot, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last label: `onion` of `abc.onion`.
    pub fn top_level(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or(&self.0)
    }
}

impl TryFrom<String> for HostName {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(&text)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an overlay is asked to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// By name: the overlay resolves it, nobody before it.
    Name(HostName, u16),
    /// A literal that the program itself used.
    Addr(SocketAddr),
}

impl Target {
    /// The TCP or UDP port.
    pub fn port(&self) -> u16 {
        match self {
            Target::Name(_, port) => *port,
            Target::Addr(addr) => addr.port(),
        }
    }

    /// The literal address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Target::Name(..) => None,
            Target::Addr(addr) => Some(addr.ip()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Name(name, port) => write!(f, "{name}:{port}"),
            Target::Addr(addr) => write!(f, "{addr}"),
        }
    }
}

/// How the stack tells a program that its connection will not be: each is one packet, and so one errno of `connect(2)`.
///
/// ETIMEDOUT can not be signalled at once by any packet; a time-out is a [`Refusal::HostUnreachable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// RST: ECONNREFUSED.
    Refused,
    /// ICMP host unreachable (v6: address unreachable): EHOSTUNREACH.
    HostUnreachable,
    /// ICMP net unreachable (v6: no route): ENETUNREACH.
    NetUnreachable,
    /// ICMP communication administratively prohibited: EHOSTUNREACH on IPv4, EACCES on IPv6.
    Prohibited,
}

impl Refusal {
    /// The name of the errno that `connect(2)` gives, for records and docs.
    pub fn errno_name(self, v6: bool) -> &'static str {
        match self {
            Refusal::Refused => "ECONNREFUSED",
            Refusal::HostUnreachable => "EHOSTUNREACH",
            Refusal::NetUnreachable => "ENETUNREACH",
            Refusal::Prohibited if v6 => "EACCES",
            Refusal::Prohibited => "EHOSTUNREACH",
        }
    }
}
