//! Inside the jail: the endpoints are asked over TLS, and each answer is told in one line.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Attempt, late};
use crate::demo::client::describe;
use crate::registry::Endpoint;

/// Before each line that the launcher reads.
pub const MARK: &str = "netjail-probe:";
/// The longest answer that is read, bytes.
const LONGEST: u64 = 64 << 10;

/// Asks until one endpoint has answered with an address, all have failed, or the time is over. Prints one line for each;
/// returns the exit status, 0 with an address.
pub fn run(endpoints: &[Endpoint], timeout: Duration) -> i32 {
    let config = match trusting_this_machine() {
        Ok(config) => config,
        Err(why) => {
            for endpoint in endpoints {
                tell(endpoint, Err(why.clone()));
            }
            return 1;
        }
    };
    // Room for the launcher to hear of it before it ends the jail.
    let deadline = Instant::now() + timeout.saturating_sub((timeout / 4).min(Duration::from_millis(500)));
    let share = timeout / u32::try_from(endpoints.len().max(1)).unwrap_or(u32::MAX);
    let (send, answers) = mpsc::channel();
    let mut waiting: Vec<(usize, Arc<Step>)> = Vec::new();
    let mut next = 0;
    loop {
        if let Some(endpoint) = endpoints.get(next) {
            let step = Arc::new(Step::default());
            waiting.push((next, Arc::clone(&step)));
            let (send, config, endpoint, index) = (send.clone(), Arc::clone(&config), endpoint.clone(), next);
            thread::spawn(move || send.send((index, ask(&endpoint, config, deadline, &step))));
            next += 1;
        }
        let all_begun = next == endpoints.len();
        if waiting.is_empty() && all_begun {
            return 1;
        }
        let turn = if all_begun { deadline } else { deadline.min(Instant::now() + share) };
        match answers.recv_timeout(turn.saturating_duration_since(Instant::now())) {
            Ok((index, answer)) => {
                waiting.retain(|(waiting, _)| *waiting != index);
                let found = answer.is_ok();
                tell(&endpoints[index], answer);
                if found {
                    return 0;
                }
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => {
                for (index, step) in waiting {
                    tell(&endpoints[index], Err(format!("{}: {}", late(timeout), step.get())));
                }
                return 1;
            }
        }
    }
}

fn tell(endpoint: &Endpoint, answer: Result<IpAddr, String>) {
    let attempt =
        Attempt { endpoint: endpoint.to_string(), address: answer.as_ref().ok().copied(), error: answer.err() };
    if let Ok(text) = serde_json::to_string(&attempt) {
        let _ = writeln!(io::stdout(), "{MARK} {text}");
    }
}

/// What an attempt is doing, for the one who gives it up.
#[derive(Default)]
struct Step(Mutex<&'static str>);

impl Step {
    fn set(&self, text: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn get(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The authorities that this machine trusts, as the jail shows them; `SSL_CERT_FILE` and `SSL_CERT_DIR` as with OpenSSL.
fn trusting_this_machine() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if good == 0 {
        return Err(
            "no certificate authority is to be found here: install ca-certificates, or set SSL_CERT_FILE".into()
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth()))
}

/// A connection of which every read and write ends at the deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        left(self.deadline).map(Some)
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn ask(endpoint: &Endpoint, config: Arc<ClientConfig>, deadline: Instant, step: &Step) -> Result<IpAddr, String> {
    let stream = connect(endpoint, deadline, step)?;
    step.set("in the TLS handshake");
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| "its host is no name for TLS".to_owned())?;
    let session = ClientConnection::new(config, name).map_err(|e| format!("TLS: {e}"))?;
    let mut stream = StreamOwned::new(session, Timed { stream, deadline });
    // HTTP/1.0: its answer is never chunked (RFC 9112 section 7.1), and ends with the connection.
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: netjail\r\nAccept: */*\r\n\r\n",
        endpoint.path,
        endpoint.authority()
    );
    stream.write_all(request.as_bytes()).map_err(|e| in_words(&e))?;
    step.set("waiting for its answer");
    let mut answer = Vec::new();
    match (&mut stream).take(LONGEST).read_to_end(&mut answer) {
        Ok(_) => {}
        // Without TLS's own end somebody may have cut it: good only if it is as long as it says.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && is_complete(&answer) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err("its answer was cut off".into()),
        Err(e) => return Err(in_words(&e)),
    }
    understand(&answer)
}

fn connect(endpoint: &Endpoint, deadline: Instant, step: &Step) -> Result<TcpStream, String> {
    step.set("looking up its name");
    let addresses = (endpoint.host.as_str(), endpoint.port).to_socket_addrs();
    let addresses = addresses.map_err(|_| format!("{} does not resolve", endpoint.host))?;
    step.set("connecting");
    let mut last = format!("{} has no address", endpoint.host);
    for address in addresses {
        match left(deadline).and_then(|left| TcpStream::connect_timeout(&address, left)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = describe(&e),
        }
    }
    Err(last)
}

fn in_words(e: &io::Error) -> String {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => format!("TLS: {tls}"),
        None => describe(e),
    }
}

/// Status, header fields and body of an answer.
fn parts(answer: &[u8]) -> Option<(u16, &str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, fields, &answer[end + 4..]))
}

fn is_complete(answer: &[u8]) -> bool {
    let Some((_, fields, body)) = parts(answer) else { return false };
    let mut lines = fields.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse().ok()) == Some(body.len())
}

/// The address in an answer: all of its text, or the value of `ip`, `IP`, `origin` or `address` in a JSON object.
fn understand(answer: &[u8]) -> Result<IpAddr, String> {
    let (status, _, body) = parts(answer).ok_or("its answer is not HTTP")?;
    if status != 200 {
        return Err(format!("HTTP {status}"));
    }
    let text = String::from_utf8_lossy(body);
    let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let named = ["ip", "IP", "origin", "address"].iter().find_map(|key| json.as_ref()?.get(key)?.as_str());
    named.unwrap_or(&text).trim().parse().map_err(|_| "its answer holds no address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_alone_and_in_json_and_nothing_else_is_taken_for_one() {
        let answer =
            |status: &str, body: &str| understand(format!("HTTP/1.1 {status}\r\nA: b\r\n\r\n{body}").as_bytes());
        assert_eq!(answer("200 OK", "203.0.113.7\n"), Ok("203.0.113.7".parse().unwrap()));
        assert_eq!(answer("200 OK", "2001:db8::7"), Ok("2001:db8::7".parse().unwrap()));
        assert_eq!(answer("200 OK", r#"{"IsTor":true,"IP":"203.0.113.7"}"#), Ok("203.0.113.7".parse().unwrap()));
        assert_eq!(answer("503 Service Unavailable", "203.0.113.7"), Err("HTTP 503".into()));
        assert_eq!(answer("200 OK", "<html>203.0.113.7</html>"), Err("its answer holds no address".into()));
        assert_eq!(understand(b"SSH-2.0-OpenSSH\r\n"), Err("its answer is not HTTP".into()));
    }

    #[test]
    fn an_answer_without_the_end_of_tls_counts_only_if_it_has_the_length_that_it_says() {
        assert!(is_complete(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"));
        assert!(!is_complete(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc"));
        assert!(!is_complete(b"HTTP/1.0 200 OK\r\n\r\nabc"));
        assert!(!is_complete(b"HTTP/1.0 200 OK\r\nContent-Len"));
    }
}
