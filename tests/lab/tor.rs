//! A Tor network of our own on the loopback: an authority that is also a relay, three more relays, and a client.
//!
//! Nothing of it reaches the internet. It is up about 12 s after the first use in a test program and is shared by all tests
//! of that program. What each option is for: the periods of the first votes are shortened to seconds (a real authority
//! votes hourly), relays believe in their own reachability, exits may reach the loopback, and names are resolved by a
//! dnsmasq that knows the tests' names only.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::child::{Running, run};
use super::real::free_port;

/// The running network, with a client that all tests share; it can be used as that client.
pub struct Tor {
    client: Client,
    authority: String,
    folder: tempfile::TempDir,
    _all: Vec<Running>,
}

/// A tor that is nothing but a client of the network.
pub struct Client {
    /// Its SOCKS port, with `ExtendedErrors`.
    pub socks: SocketAddr,
    /// Its control port (no authentication).
    pub control: SocketAddr,
    /// The process.
    pub running: Running,
    folder: PathBuf,
}

impl std::ops::Deref for Tor {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// What a client says of its streams, from the moment this was made.
pub struct Watch {
    stream: TcpStream,
    lines: std::io::Lines<std::io::BufReader<TcpStream>>,
    events: Vec<String>,
}

struct Node {
    folder: PathBuf,
    or: u16,
    dir: u16,
    authority: bool,
}

/// Why there can be no Tor network on this machine, if so.
pub fn lack() -> Option<String> {
    ["tor", "tor-gencert", "dnsmasq"]
        .iter()
        .find(|name| super::program(name).is_none())
        .map(|name| format!("{name} is not installed"))
}

/// The network, made at the first call. `onion` services are added by [`Tor::onion`].
pub fn network() -> &'static Tor {
    static NETWORK: OnceLock<Tor> = OnceLock::new();
    // A relay that missed the first vote waits for minutes: starting over is quicker.
    NETWORK.get_or_init(|| {
        (0..3)
            .find_map(|_| Tor::start().map_err(|e| eprintln!("the Tor network starts over: {e}")).ok())
            .expect("a Tor network in three tries")
    })
}

impl Tor {
    fn start() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("netjail-tor-").tempdir().unwrap();
        let nodes: Vec<Node> = (0..4)
            .map(|i| {
                let node = folder.path().join(format!("node{i}"));
                std::fs::create_dir(&node).unwrap();
                private(&node);
                Node { folder: node, or: free_port(), dir: free_port(), authority: i == 0 }
            })
            .collect();
        let authority = keys(&nodes[0])?;
        let (dns, port) = resolver();
        let resolv = folder.path().join("resolv.conf");
        std::fs::write(&resolv, format!("nameserver 127.0.0.1:{port}\n")).unwrap();
        let mut all = vec![dns];
        for node in &nodes {
            let mut text = common(&node.folder, &authority);
            text.push_str(&relay(node, &resolv));
            if node.authority {
                text.push_str(&voting());
            }
            all.push(launch(&node.folder, &text));
        }
        await_consensus(&nodes, &mut all)?;
        let client = Client::start(folder.path().join("client"), &authority)?;
        Ok(Self { client, authority, folder, _all: all })
    }

    /// One more client, for a test that does it harm.
    pub fn another_client(&self, name: &str) -> Client {
        Client::start(self.folder.path().join(name), &self.authority).unwrap()
    }
}

impl Client {
    fn start(folder: PathBuf, authority: &str) -> Result<Self, String> {
        std::fs::create_dir(&folder).unwrap();
        private(&folder);
        let (socks, control) = (free_port(), free_port());
        let text = format!(
            "{}SocksPort 127.0.0.1:{socks} ExtendedErrors\nControlPort 127.0.0.1:{control}\nClientOnly 1\n\
             VanguardsLiteEnabled 0\nSocksTimeout 10\n",
            common(&folder, authority)
        );
        let running = launch(&folder, &text);
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let client = Self { socks: at(socks), control: at(control), running, folder };
        client.await_bootstrap()?;
        Ok(client)
    }

    fn await_bootstrap(&self) -> Result<(), String> {
        until("the client's bootstrap", Duration::from_secs(60), || self.running.out().contains("Bootstrapped 100%"))
    }

    /// Kills it; nobody listens on its ports then.
    pub fn kill(&mut self) {
        self.running.signal(nix::sys::signal::Signal::SIGKILL);
        super::wait_for("the end of tor", Duration::from_secs(20), || self.running.ended().then_some(()));
    }

    /// Starts it again, on the same ports.
    pub fn restart(&mut self) {
        self.running = launch(&self.folder, &std::fs::read_to_string(self.folder.join("torrc")).unwrap());
        self.await_bootstrap().unwrap();
    }

    /// Begins to listen to what becomes of streams.
    pub fn watch(&self) -> Watch {
        use std::io::{BufRead, BufReader};
        let stream = TcpStream::connect(self.control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut watch = Watch { stream, lines, events: Vec::new() };
        watch.ask("AUTHENTICATE\r\nSETEVENTS STREAM");
        watch
    }

    /// The circuit of each open stream to this port, from the control port: (stream, circuit). Not by name: tor shows the
    /// address instead once it has learned that.
    pub fn circuits(&self, target: &str) -> Vec<(String, String)> {
        let port = target.rsplit(':').next().unwrap();
        let status = self.ask("GETINFO stream-status");
        status
            .lines()
            .map(|l| l.trim_start_matches("250+stream-status=").trim_start_matches("250-stream-status="))
            .filter_map(|l| {
                let words: Vec<&str> = l.split_whitespace().collect();
                (words.len() >= 4 && words[3].rsplit(':').next() == Some(port))
                    .then(|| (words[0].to_owned(), words[2].to_owned()))
            })
            .collect()
    }

    /// Adds an onion service that leads to the address, and returns its name once its descriptor is published.
    pub fn onion(&self, port: u16, to: SocketAddr) -> String {
        use std::io::{BufRead, BufReader, Write};
        let mut stream = TcpStream::connect(self.control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = format!(
            "AUTHENTICATE\r\nSETEVENTS HS_DESC\r\nADD_ONION NEW:ED25519-V3 Flags=Detach,DiscardPK Port={port},{to}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut name = String::new();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(id) = line.strip_prefix("250-ServiceID=") {
                name = id.to_owned();
            }
            if !name.is_empty() && line.contains("HS_DESC UPLOADED") && line.contains(&name) {
                return format!("{name}.onion");
            }
        }
        panic!("no onion service within 60 s");
    }

    fn ask(&self, request: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(self.control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("AUTHENTICATE\r\n{request}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

/// tor refuses folders that others may enter.
fn private(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
}

impl Watch {
    /// The streams that were opened to this port until now, and the circuits on which they were sent.
    pub fn streams(&mut self, port: u16) -> (Vec<String>, Vec<String>) {
        self.ask("");
        let (mut streams, mut circuits) = (Vec::new(), Vec::new());
        for event in &self.events {
            // 650 STREAM <id> <status> <circuit> <target>:<port> …
            let words: Vec<&str> = event.split(' ').collect();
            if words.len() < 6 || words[5].rsplit(':').next() != Some(&port.to_string()) {
                continue;
            }
            match words[3] {
                "NEW" => streams.push(words[2].to_owned()),
                "SENTCONNECT" => circuits.push(words[4].to_owned()),
                _ => {}
            }
        }
        circuits.sort();
        circuits.dedup();
        (streams, circuits)
    }

    /// Sends the lines and reads up to the answer of a question of its own, which comes after all that has happened.
    fn ask(&mut self, lines: &str) {
        use std::io::Write;
        let separator = if lines.is_empty() { "" } else { "\r\n" };
        self.stream.write_all(format!("{lines}{separator}GETINFO version\r\n").as_bytes()).unwrap();
        let mut told = false;
        loop {
            let line = self.lines.next().unwrap().unwrap();
            told |= line.starts_with("250-version=");
            match line.starts_with("650") {
                true => self.events.push(line),
                false if told && line == "250 OK" => return,
                false => {}
            }
        }
    }
}

fn tor() -> Command {
    Command::new(super::program("tor").expect("tor"))
}

/// Makes the authority's keys and returns its `DirAuthority` line.
fn keys(node: &Node) -> Result<String, String> {
    let keys = node.folder.join("keys");
    std::fs::create_dir_all(&keys).unwrap();
    private(&keys);
    let mut gencert = Command::new(super::program("tor-gencert").expect("tor-gencert"));
    gencert.args(["--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a"]);
    gencert.arg(format!("127.0.0.1:{}", node.dir));
    for (flag, name) in
        [("-i", "authority_identity_key"), ("-s", "authority_signing_key"), ("-c", "authority_certificate")]
    {
        gencert.arg(flag).arg(keys.join(name));
    }
    let mut running = Running::start(gencert);
    running.say("netjail\n");
    running.finish().good();
    let certificate = std::fs::read_to_string(keys.join("authority_certificate")).unwrap();
    let identity = certificate
        .lines()
        .find_map(|l| l.strip_prefix("fingerprint "))
        .ok_or("no fingerprint in the authority's certificate")?
        .to_owned();
    let mut list = tor();
    list.args(["--list-fingerprint", "--quiet", "--ignore-missing-torrc", "-f", "/nonexistent", "--defaults-torrc"]);
    list.args(["/nonexistent", "--DataDirectory"]).arg(&node.folder);
    list.args([
        "--ORPort",
        &node.or.to_string(),
        "--DirAuthority",
        &format!("placeholder 127.0.0.1:1 {}", "0".repeat(40)),
    ]);
    let done = run(list).good();
    let print = done.out.split_once(' ').ok_or("no fingerprint")?.1.replace([' ', '\n'], "");
    Ok(format!("DirAuthority lab orport={} no-v2 hs v3ident={identity} 127.0.0.1:{} {print}\n", node.or, node.dir))
}

fn common(folder: &Path, authority: &str) -> String {
    format!(
        "DataDirectory {}\nTestingTorNetwork 1\nAddressDisableIPv6 1\nConfluxEnabled 0\nShutdownWaitLength 0\n\
         Log notice stdout\nSafeLogging 0\n{authority}",
        folder.display()
    )
}

fn relay(node: &Node, resolv: &Path) -> String {
    let name = node.folder.file_name().unwrap().to_string_lossy().into_owned();
    format!(
        "Nickname {name}\nAddress 127.0.0.1\nORPort 127.0.0.1:{}\nDirPort 127.0.0.1:{}\nSocksPort 0\n\
         AssumeReachable 1\nExitRelay 1\nExitPolicy accept *:*\nExitPolicyRejectPrivate 0\n\
         ExitPolicyRejectLocalInterfaces 0\nIPv6Exit 1\nServerDNSResolvConfFile {}\nServerDNSDetectHijacking 0\n\
         ServerDNSTestAddresses\nServerDNSAllowBrokenConfig 1\nContactInfo lab@lab.test\n",
        node.or,
        node.dir,
        resolv.display()
    )
}

fn voting() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    format!(
        "AuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nV3AuthVotingInterval 300\nV3AuthVoteDelay 2\n\
         V3AuthDistDelay 2\nTestingV3AuthInitialVotingInterval 6\nTestingV3AuthInitialVoteDelay 2\n\
         TestingV3AuthInitialDistDelay 2\nTestingV3AuthVotingStartOffset {}\nTestingDirAuthVoteExit *\n\
         TestingDirAuthVoteGuard *\nTestingDirAuthVoteHSDir *\nTestingMinExitFlagThreshold 0\n\
         AuthDirVoteStableGuaranteeMinUptime 0\nAuthDirVoteStableGuaranteeMTBF 0\n\
         ConsensusParams cbtdisabled=1 circpad_global_disable=1 hsdir_interval=120\n",
        (now + 7) % 6
    )
}

fn launch(folder: &Path, text: &str) -> Running {
    let file = folder.join("torrc");
    std::fs::write(&file, text).unwrap();
    let mut command = tor();
    command.arg("-f").arg(file).args(["--defaults-torrc", "/nonexistent", "--ignore-missing-torrc"]);
    Running::start(command)
}

/// Names that the exits know: `web.test` and `both.test` are the loopback, in IPv4 and in both families, `away.test` is
/// where no connection can lead; all others do not exist.
fn resolver() -> (Running, u16) {
    let port = free_port();
    let mut command = Command::new(super::program("dnsmasq").expect("dnsmasq"));
    command.args(["--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--pid-file=", "--bind-interfaces", "--listen-address=127.0.0.1", "--address=/#/"]);
    command.args([format!("--port={port}"), "--address=/web.test/127.0.0.1".into()]);
    // The kernel itself says that there is no way for TCP to a multicast address: no packet leaves the machine.
    command.args(["--address=/both.test/127.0.0.1", "--address=/both.test/::1", "--address=/away.test/224.0.0.1"]);
    if super::is_root() {
        command.arg("--user=root");
    }
    let running = Running::start(command);
    super::wait_for("dnsmasq", Duration::from_secs(10), || running.err().contains("started").then_some(()));
    (running, port)
}

/// Waits until the authority's consensus lists all nodes and each node has their descriptors.
fn await_consensus(nodes: &[Node], all: &mut [Running]) -> Result<(), String> {
    let count = |file: PathBuf, prefix: &str| {
        let bytes = std::fs::read(file).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().filter(|l| l.starts_with(prefix)).count()
    };
    until("a consensus of all nodes", Duration::from_secs(25), || {
        count(nodes[0].folder.join("cached-microdesc-consensus"), "r ") == nodes.len()
    })?;
    for relay in &all[2..] {
        // Resets the download back-off.
        relay.signal(nix::sys::signal::Signal::SIGHUP);
    }
    until("every node's descriptors", Duration::from_secs(20), || {
        nodes.iter().all(|node| {
            count(node.folder.join("cached-microdescs"), "onion-key")
                + count(node.folder.join("cached-microdescs.new"), "onion-key")
                >= nodes.len()
        })
    })
}

fn until(what: &str, limit: Duration, state: impl Fn() -> bool) -> Result<(), String> {
    let begun = std::time::Instant::now();
    while !state() {
        if begun.elapsed() > limit {
            return Err(format!("waited {limit:?} in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
