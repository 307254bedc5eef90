//! A SOCKS5 server (RFC 1928, RFC 1929) that does what a real one can't be made to do.
//!
//! A test gives it a closure from what was asked to what is answered, and afterwards reads from its record what came:
//! names or literals, credentials, methods, the order of things. What follows a good reply is one of the behaviours of
//! [`super::servers`], played on the proxy's own connection.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::servers::{Behaviour, Gate, Record, serve, small_thread};

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The methods it offered.
    pub methods: Vec<u8>,
    /// Name and password, where the proxy asked for them.
    pub login: Option<(String, String)>,
    /// 1 is CONNECT.
    pub command: u8,
    /// A name, or a literal in its usual form.
    pub host: String,
    /// The address type: 1 IPv4, 3 name, 4 IPv6.
    pub kind: u8,
    pub port: u16,
}

/// What the proxy does about it.
#[derive(Clone)]
pub enum Answer {
    /// Success, then the behaviour.
    Serve(Behaviour),
    /// Success with these bytes in the very same segment, then the behaviour.
    Early(&'static [u8], Behaviour),
    /// A reply with this code, then the end of the connection.
    Code(u8),
    /// These bytes instead of a reply, then the end of the connection.
    Bytes(Vec<u8>),
    /// Nothing, until the client goes away.
    Silence,
    /// The end of the connection without a reply.
    Close,
    /// A reset instead of a reply.
    Reset,
    /// Dial there and relay.
    Relay(SocketAddr),
    /// Wait for the gate, then the other answer.
    After(Gate, Box<Answer>),
}

/// What the proxy does with the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Method 0.
    Open,
    /// Method 2, and these are good.
    Login(String, String),
    /// 0xFF.
    NoneAcceptable,
    /// A method nobody offered.
    Other(u8),
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// Nothing.
    Silence,
}

/// How a proxy is to behave; the default is a quick and honest one.
#[derive(Clone)]
pub struct Manner {
    pub greeting: Greeting,
    /// Sends every reply a byte at a time.
    pub single_bytes: bool,
    /// The bound address of a good reply: its type is 1, 3 or 4.
    pub bound: u8,
    /// The connection, from 1 in the order in which they come, that is closed as soon as it is greeted.
    pub drops: Option<usize>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { greeting: Greeting::Open, single_bytes: false, bound: 1, drops: None }
    }
}

/// A running proxy.
pub struct Proxy {
    pub addr: SocketAddr,
    /// The connections after a good reply.
    pub record: Record,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    asked: Mutex<Vec<Asked>>,
    /// Clients that went away while an answer was outstanding, with the moment.
    left: Mutex<Vec<Instant>>,
    /// All connections ever accepted.
    accepted: Mutex<usize>,
    changed: Condvar,
}

type Decide = dyn Fn(&Asked) -> Answer + Send + Sync;

impl Proxy {
    /// On the loopback, with good manners.
    pub fn new(decide: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(Manner::default(), decide)
    }

    /// Every request is served by the behaviour.
    pub fn serving(behaviour: Behaviour) -> Self {
        Self::new(move |_| Answer::Serve(behaviour.clone()))
    }

    /// On the loopback.
    pub fn with(manner: Manner, decide: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), manner, decide)
    }

    /// On any listener.
    pub fn on(
        listener: TcpListener,
        manner: Manner,
        decide: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let (record, state) = (Record::default(), Arc::<State>::default());
        let decide: Arc<Decide> = Arc::new(decide);
        // The default backlog of std is too short for a thousand dials at once.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
        let (kept, shared) = (record.clone(), Arc::clone(&state));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut accepted = shared.accepted.lock().unwrap();
                *accepted += 1;
                let number = *accepted;
                drop(accepted);
                let _ = stream.set_nodelay(true);
                let (manner, decide, record, state) =
                    (manner.clone(), Arc::clone(&decide), kept.clone(), Arc::clone(&shared));
                small_thread(move || drop(converse(stream, number, &manner, &*decide, &record, &state)));
            }
        });
        Self { addr, record, state }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// How many connections came, greeted or not.
    pub fn accepted(&self) -> usize {
        *self.state.accepted.lock().unwrap()
    }

    /// Waits until `n` requests have come.
    pub fn wait_asked(&self, n: usize) -> Vec<Asked> {
        let asked = self.state.asked.lock().unwrap();
        let (asked, late) =
            self.state.changed.wait_timeout_while(asked, Duration::from_secs(20), |asked| asked.len() < n).unwrap();
        assert!(!late.timed_out(), "waited in vain for {n} requests: {asked:?}");
        asked.clone()
    }

    /// Waits until a client has gone away from an unanswered request, and says when that was.
    pub fn wait_left(&self) -> Instant {
        self.wait_nth_left(1)
    }

    /// The same for the `n`th, from 1.
    pub fn wait_nth_left(&self, n: usize) -> Instant {
        super::wait_for("a client that goes away", Duration::from_secs(20), || {
            self.state.left.lock().unwrap().get(n - 1).copied()
        })
    }
}

fn converse(
    mut stream: TcpStream,
    number: usize,
    manner: &Manner,
    decide: &Decide,
    record: &Record,
    state: &State,
) -> std::io::Result<()> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut methods = vec![0; head[1] as usize];
    stream.read_exact(&mut methods)?;
    let mut login = None;
    match &manner.greeting {
        Greeting::Open => send(&mut stream, manner, &[5, 0])?,
        Greeting::Login(name, password) => {
            send(&mut stream, manner, &[5, 2])?;
            let given = read_login(&mut stream)?;
            let good = given == (name.clone(), password.clone()) || name.is_empty();
            login = Some(given);
            send(&mut stream, manner, &[1, u8::from(!good)])?;
            if !good {
                return Ok(());
            }
        }
        Greeting::NoneAcceptable => return send(&mut stream, manner, &[5, 0xFF]),
        Greeting::Other(method) => return send(&mut stream, manner, &[5, *method]),
        Greeting::Bytes(bytes) => return send(&mut stream, manner, bytes),
        Greeting::Silence => return until_gone(&mut stream, state),
    }
    if manner.drops == Some(number) {
        return Ok(());
    }
    let asked = read_request(&mut stream, methods, login)?;
    let mut answer = decide(&asked);
    state.asked.lock().unwrap().push(asked);
    state.changed.notify_all();
    while let Answer::After(gate, then) = answer {
        gate.wait();
        answer = *then;
    }
    match answer {
        Answer::Serve(behaviour) => {
            send(&mut stream, manner, &reply(0, manner.bound))?;
            serve(stream, &behaviour, record);
            Ok(())
        }
        Answer::Early(bytes, behaviour) => {
            let mut both = reply(0, manner.bound);
            both.extend_from_slice(bytes);
            send(&mut stream, manner, &both)?;
            serve(stream, &behaviour, record);
            Ok(())
        }
        Answer::Code(code) => send(&mut stream, manner, &reply(code, 1)),
        Answer::Bytes(bytes) => send(&mut stream, manner, &bytes),
        Answer::Silence => until_gone(&mut stream, state),
        Answer::Close => Ok(()),
        Answer::Reset => {
            super::servers::linger_zero(&stream);
            Ok(())
        }
        Answer::Relay(to) => match TcpStream::connect(to) {
            Ok(there) => {
                send(&mut stream, manner, &reply(0, manner.bound))?;
                relay(stream, there)
            }
            Err(_) => send(&mut stream, manner, &reply(5, 1)),
        },
        Answer::After(..) => Ok(()),
    }
}

/// Waits for the client's EOF or reset, and notes the moment.
fn until_gone(stream: &mut TcpStream, state: &State) -> std::io::Result<()> {
    let mut buffer = [0; 512];
    while let Ok(1..) = stream.read(&mut buffer) {}
    state.left.lock().unwrap().push(Instant::now());
    Ok(())
}

fn send(stream: &mut TcpStream, manner: &Manner, bytes: &[u8]) -> std::io::Result<()> {
    if !manner.single_bytes {
        return stream.write_all(bytes);
    }
    for byte in bytes {
        stream.write_all(&[*byte])?;
        // Not a wait for a state: the pause is what makes each byte a segment, and a read, of its own.
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

fn reply(code: u8, kind: u8) -> Vec<u8> {
    let mut out = vec![5, code, 0, kind];
    match kind {
        3 => {
            out.push(9);
            out.extend_from_slice(b"proxy.lab");
        }
        4 => out.extend_from_slice(&[0; 16]),
        _ => out.extend_from_slice(&[0; 4]),
    }
    out.extend_from_slice(&[0, 0]);
    out
}

fn read_login(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut version = [0];
    stream.read_exact(&mut version)?;
    let mut text = || -> std::io::Result<String> {
        let mut length = [0];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; length[0] as usize];
        stream.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok((text()?, text()?))
}

fn read_request(stream: &mut TcpStream, methods: Vec<u8>, login: Option<(String, String)>) -> std::io::Result<Asked> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let host = match head[3] {
        1 => {
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes)?;
            IpAddr::from(Ipv4Addr::from(bytes)).to_string()
        }
        4 => {
            let mut bytes = [0; 16];
            stream.read_exact(&mut bytes)?;
            IpAddr::from(Ipv6Addr::from(bytes)).to_string()
        }
        _ => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            let mut bytes = vec![0; length[0] as usize];
            stream.read_exact(&mut bytes)?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
    };
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    Ok(Asked { methods, login, command: head[1], host, kind: head[3], port: u16::from_be_bytes(port) })
}

/// Copies both ways; an EOF closes one half, a reset both.
fn relay(here: TcpStream, there: TcpStream) -> std::io::Result<()> {
    let (mut from, mut to) = (here.try_clone()?, there.try_clone()?);
    let up = std::thread::spawn(move || copy(&mut from, &mut to));
    let (mut from, mut to) = (there, here);
    copy(&mut from, &mut to);
    let _ = up.join();
    Ok(())
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    match std::io::copy(from, to) {
        Ok(_) => drop(to.shutdown(Shutdown::Write)),
        Err(_) => {
            super::servers::linger_zero(to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        }
    }
}
