//! What the machine is, what it has room for, and the servers that every variant is measured with.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::figures::Lack;
use crate::table::MOST_FLOWS;
use crate::{FAR_V4, TARGET_V4, TARGET_V6};

/// Where the figures come from.
pub struct Machine {
    pub kernel: String,
    /// Before the first measurement.
    pub load: String,
    pub congestion: String,
    /// Idle cores are kept from sleeping for as long as this is open.
    awake: Option<File>,
    pub uid: u32,
}

impl Machine {
    /// Reads it, raises the limit of descriptors as far as it may be raised, and keeps idle cores awake.
    pub fn prepare(uid: Option<u32>) -> io::Result<Self> {
        let wanted = 4 * MOST_FLOWS as u64;
        if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            load: read("/proc/loadavg"),
            congestion: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            awake: stay_awake(),
            uid: uid.unwrap_or_else(|| nix::unistd::getuid().as_raw()),
        })
    }

    pub fn is_awake(&self) -> bool {
        self.awake.is_some()
    }
}

/// Keeps idle cores from sleeping deeply: a wake-up of 50 us or more would be all that a round trip shows
/// (Documentation/power/pm_qos_interface.rst).
fn stay_awake() -> Option<File> {
    let mut file = OpenOptions::new().write(true).open("/dev/cpu_dma_latency").ok()?;
    file.write_all(&0i32.to_ne_bytes()).ok()?;
    Some(file)
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many descriptors one process may have.
fn descriptors() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// Whether the machine can hold so many flows. The client, the server and a launcher need a descriptor for each, and some of
/// their own; the proxies have two for each and are as many processes as that takes. Every flow has a port on the loopback,
/// from the client or the launcher to the proxy.
pub fn room_for(flows: usize) -> Result<(), Lack> {
    let (needed, limit) = (flows as u64 + 500, descriptors()?);
    if needed > limit {
        return Err(Lack::NoRoom(format!(
            "{flows} flows are {needed} descriptors of one process, and RLIMIT_NOFILE allows {limit} here"
        )));
    }
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let ends: Vec<usize> = range.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [low, high] = ends[..] else { return Err(Lack::Failed(format!("ip_local_port_range: {range:?}"))) };
    if flows > high - low {
        return Err(Lack::NoRoom(format!(
            "{flows} flows to one proxy need as many ports, and net.ipv4.ip_local_port_range has {}",
            high - low
        )));
    }
    Ok(())
}

/// The servers and proxies, which end with this.
pub struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Servers {
    /// Starts `bench` of that folder in its parts, here and in the namespace that BENCH_FAR names.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let program = folder.join("bench").display().to_string();
        let mut commands = vec![vec![program.as_str(), "server", TARGET_V4, TARGET_V6]];
        // The kernel spreads the connections over them.
        let limit = descriptors()?;
        let proxies = (2 * limit.min(MOST_FLOWS as u64)).div_ceil(limit.max(1)) + 1;
        commands.extend((0..proxies).map(|_| vec![program.as_str(), "proxy", "127.0.0.1"]));
        let far = std::env::var("BENCH_FAR").map(|far| format!("--net=/proc/{far}/ns/net"));
        if let Ok(far) = &far {
            commands.push(vec!["nsenter", far, &program, "server", FAR_V4]);
        }
        let mut servers = Self(Vec::new());
        for words in commands {
            let mut child = Command::new(words[0]).args(&words[1..]).stdout(Stdio::piped()).spawn()?;
            let output = child.stdout.take();
            servers.0.push(child);
            let mut line = String::new();
            if let Some(output) = output {
                BufReader::new(output).read_line(&mut line)?;
            }
            if line.trim() != "ready" {
                return Err(io::Error::other(format!("{}: did not start", words.join(" "))));
            }
        }
        Ok(servers)
    }
}
