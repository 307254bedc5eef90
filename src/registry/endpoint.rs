//! The URL of an endpoint that `netjail probe` asks: `https://HOST[:PORT][/PATH]`, and nothing that would need more than one request.

use std::fmt;
use std::str::FromStr;

/// A parsed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// 443 unless the URL says otherwise.
    pub port: u16,
    /// With the slash that it begins with, and the query.
    pub path: String,
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Not `https://`.
    #[error("an endpoint begins with https://: over anything else, whoever carries the bytes could write the answer")]
    Scheme,
    /// A login, a fragment, a blank, or something else than ASCII.
    #[error("an endpoint is https://HOST[:PORT][/PATH] in plain ASCII, without login and fragment")]
    Form,
    /// Not from 1 to 65535.
    #[error("an endpoint's port is a number from 1 to 65535")]
    Port,
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let rest = text.strip_prefix("https://").ok_or(BadEndpoint::Scheme)?;
        // Blanks and line ends would be more than a path in the request.
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains('#') {
            return Err(BadEndpoint::Form);
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(BadEndpoint::Form)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| BadEndpoint::Form)?;
                match after {
                    "" => (host, None),
                    _ => (host, Some(after.strip_prefix(':').ok_or(BadEndpoint::Form)?)),
                }
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.contains(['@', '?']) {
            return Err(BadEndpoint::Form);
        }
        let port = match port {
            None => 443,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(BadEndpoint::Port)?,
        };
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl Endpoint {
    /// `HOST:PORT` as a URL and a `Host` field have it, without the usual port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_and_written_back() {
        for text in
            ["https://a.test/", "https://a.test:8443/api/ip?x=1", "https://[2001:db8::1]:444/", "https://1.2.3.4/"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("https://a.test".parse::<Endpoint>().unwrap().to_string(), "https://a.test/");
        assert!(crate::probe::ENDPOINTS.iter().all(|text| text.parse::<Endpoint>().unwrap().to_string() == *text));
    }

    #[test]
    fn what_could_be_read_by_others_or_is_more_than_one_request_is_refused() {
        use BadEndpoint::{Form, Port, Scheme};
        for (text, why) in [
            ("http://a.test/", Scheme),
            ("a.test", Scheme),
            ("https://", Form),
            ("https:///x", Form),
            ("https://user:secret@a.test/", Port),
            ("https://user@a.test/", Form),
            ("https://a.test/ HTTP/1.1\r\nX: y", Form),
            ("https://a.test/#x", Form),
            ("https://a.test?x", Form),
            ("https://[::1/", Form),
            ("https://[a.test]/", Form),
            ("https://a.test:0/", Port),
            ("https://a.test:65536/", Port),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(why), "{text}");
        }
    }
}
