//! What is measured, in which order: every variant once a round, so that what else the machine does falls on all alike.
//!
//! `bench run --netjail FILE --folder FOLDER --json FILE [--uid N] [--quick] [--rounds N] [--only WORD] [--peer NAME=COMMAND]`
//!
//! Ratios are taken within a round, against the client that speaks SOCKS5 to the same proxy without a jail.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::processes;
use crate::report;
use crate::{FAR_V4, PROXY_PORT, TARGET_V4, TARGET_V6};

/// One figure for each round, or why there is none; by variant and measure.
pub type Figures = BTreeMap<(String, String), Vec<Result<f64, String>>>;

/// One way of reaching the target.
#[derive(Clone)]
pub struct Variant {
    pub name: String,
    /// What stands before the client's own command; empty without a launcher.
    pub launcher: Vec<String>,
    pub host: &'static str,
    pub socks: bool,
    /// The only measures that it takes part in, or all.
    pub measures: &'static [&'static str],
    /// Held to the targets.
    pub judged: bool,
    /// Why it can not be measured.
    pub missing: Option<String>,
}

pub const BULK: &[(&str, &str, usize)] =
    &[("up 1", "up", 1), ("down 1", "down", 1), ("up 8", "up", 8), ("down 8", "down", 8)];
const CONNECTS: &[&str] = &["connect", "connects/s"];
const ALL: &[&str] = &["up 1", "down 1", "up 8", "down 8", "round trip", "connect", "connects/s", "udp echo", "true"];

struct Options {
    netjail: String,
    folder: PathBuf,
    json: PathBuf,
    uid: Option<u32>,
    quick: bool,
    rounds: usize,
    only: Option<String>,
    peers: Vec<(String, String)>,
}

fn options(arguments: &[String]) -> io::Result<Options> {
    let mut options = Options {
        netjail: String::new(),
        folder: PathBuf::new(),
        json: PathBuf::from("/dev/null"),
        uid: None,
        quick: false,
        rounds: 0,
        only: None,
        peers: Vec::new(),
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--quick" {
            options.quick = true;
            continue;
        }
        let bad = || io::Error::other(format!("{word}: not understood, or without its value"));
        let value = words.next().ok_or_else(bad)?.clone();
        match word.as_str() {
            "--netjail" => options.netjail = value,
            "--folder" => options.folder = value.into(),
            "--json" => options.json = value.into(),
            "--uid" => options.uid = Some(value.parse().map_err(|_| bad())?),
            "--rounds" => options.rounds = value.parse().map_err(|_| bad())?,
            "--only" => options.only = Some(value),
            "--peer" => {
                let (name, command) = value.split_once('=').ok_or_else(bad)?;
                options.peers.push((name.into(), command.into()));
            }
            _ => return Err(bad()),
        }
    }
    if options.rounds == 0 {
        options.rounds = if options.quick { 2 } else { 5 };
    }
    Ok(options)
}

/// The peers that the bench knows how to start.
fn known_peers(options: &Options) -> io::Result<Vec<(String, String)>> {
    let chains = options.folder.join("proxychains.conf");
    std::fs::write(&chains, format!("strict_chain\nquiet_mode\n[ProxyList]\nsocks5 127.0.0.1 {PROXY_PORT}\n"))?;
    let slirp = options.folder.join("slirp");
    std::fs::write(&slirp, SLIRP)?;
    let mut peers = vec![
        ("pasta".into(), "pasta --config-net -q --".into()),
        ("slirp4netns".into(), format!("bash {} slirp4netns", slirp.display())),
        ("proxychains4".into(), format!("proxychains4 -q -f {}", chains.display())),
        ("tun2proxy".into(), format!("tun2proxy-bin --unshare --proxy socks5://127.0.0.1:{PROXY_PORT} --")),
    ];
    for (name, command) in &options.peers {
        peers.retain(|(known, _)| known != name);
        peers.push((name.clone(), command.clone()));
    }
    Ok(peers)
}

/// slirp4netns joins a namespace that somebody else made.
const SLIRP: &str = r#"
slirp=$1; shift
dir=$(mktemp -d -p "$HOME"); mkfifo "$dir/pid" "$dir/ready" "$dir/go"
exec 3<&0
unshare --user --map-root-user --net bash -c 'd=$0; echo $$ >"$d/pid"; read -r _ <"$d/go"; exec "$@"' "$dir" "$@" <&3 3<&- &
job=$!
read -r pid <"$dir/pid"
"$slirp" --configure --mtu=65520 -r 5 "$pid" tap0 5>"$dir/ready" >/dev/null 2>&1 &
helper=$!
read -r _ <"$dir/ready"
echo go >"$dir/go"
rm -rf "$dir"
wait "$job"; status=$?
kill "$helper" 2>/dev/null
exit "$status"
"#;

fn variants(options: &Options) -> io::Result<Vec<Variant>> {
    let registry = options.folder.join("registry.yaml");
    std::fs::write(
        &registry,
        format!(
            "version: \"1.0\"\nnamespace: bench\nentries:\n  - {{name: proxy, kind: network.socks5, host: 127.0.0.1, port: {PROXY_PORT}}}\n"
        ),
    )?;
    let netjail = |more: &[&str]| {
        let mut words: Vec<String> = vec![options.netjail.clone(), "run".into(), "-q".into(), "--registry".into()];
        words.push(registry.display().to_string());
        words.extend(more.iter().map(|word| word.to_string()));
        words.push("--".into());
        words
    };
    let proxy = ["--network", "bench:proxy"];
    let through = |more: &[&str]| netjail(&[&proxy, more].concat());
    let direct = |more: &[&str]| netjail(&[&["--network", "nil"], more].concat());
    let plain = |name: &str, host, socks, measures| Variant {
        name: name.into(),
        launcher: Vec::new(),
        host,
        socks,
        measures,
        judged: false,
        missing: None,
    };
    let jail = |name: &str, launcher, host, measures, judged| Variant {
        name: name.into(),
        launcher,
        host,
        socks: false,
        measures,
        judged,
        missing: None,
    };
    let mut all = vec![
        plain("loopback", TARGET_V4, false, ALL),
        plain(report::BOUND, TARGET_V4, true, ALL),
        jail("netjail", through(&[]), TARGET_V4, ALL, true),
        jail("netjail mtu 1500", through(&["--mtu", "1500"]), TARGET_V4, &ALL[..7], true),
    ];
    if !options.quick {
        all.extend([
            jail("netjail v6", through(&[]), TARGET_V6, &ALL[..7], true),
            jail("netjail v6 1500", through(&["--mtu", "1500"]), TARGET_V6, &ALL[..7], true),
        ]);
    }
    all.push(jail("netjail sockets host", through(&["--sockets", "host"]), TARGET_V4, CONNECTS, false));
    if !options.quick {
        all.extend([
            jail("netjail workers 2", through(&["--workers", "2"]), TARGET_V4, &ALL[..7], false),
            plain("veth", FAR_V4, false, &ALL[..7]),
            jail(report::DIRECT_1, direct(&[]), FAR_V4, &ALL[..7], false),
            jail(report::DIRECT_2, direct(&["--workers", "2"]), FAR_V4, &["up 8", "down 8"], false),
        ]);
    }
    for (name, command) in known_peers(options)? {
        let launcher: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let program = if name == "slirp4netns" { "slirp4netns" } else { launcher.first().map_or("", String::as_str) };
        let found = program.contains('/') && std::path::Path::new(program).exists()
            || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|at| at.join(program).exists());
        let missing = (!found).then(|| format!("{program} is not installed"));
        all.push(Variant { name, launcher, host: TARGET_V4, socks: false, measures: ALL, judged: false, missing });
    }
    if let Some(only) = &options.only {
        all.retain(|variant| variant.name == report::BOUND || variant.name.contains(only.as_str()));
    }
    Ok(all)
}

/// One client that runs under a launcher.
struct Running {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(options: &Options, variant: &Variant, client: &[String]) -> io::Result<Self> {
        let mut words = variant.launcher.clone();
        words.extend_from_slice(client);
        let log = File::create(options.folder.join("stderr"))?;
        let mut command = command(options, &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|error| io::Error::other(format!("{}: {error}", words[0])))?;
        let Some(output) = child.stdout.take() else { return Err(io::Error::other("no stdout")) };
        // Whatever hangs is ended by timeout(1), which stands before every command.
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    /// Reads on to the line that begins with `word`, and gives what follows it.
    fn expect(&mut self, options: &Options, word: &str) -> io::Result<String> {
        for line in self.lines.by_ref() {
            let line = line?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
        }
        let said = std::fs::read_to_string(options.folder.join("stderr")).unwrap_or_default();
        let status = self.child.wait()?;
        let said = said.lines().last().unwrap_or("it said nothing");
        Err(io::Error::other(format!("{said} ({status})")))
    }

    fn number(&mut self, options: &Options, word: &str) -> io::Result<f64> {
        self.expect(options, word)?.parse().map_err(|_| io::Error::other("not a number"))
    }

    /// The launcher itself: the child is timeout(1).
    fn launcher(&self) -> u32 {
        self.child.id()
    }

    fn end(mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        for line in self.lines.by_ref() {
            line?;
        }
        self.child.wait().map(drop)
    }
}

/// A command as the ordinary user, with a time limit.
fn command(options: &Options, words: &[String]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "-k", "1", "60"]).args(words);
    command.current_dir(options.folder.join("home"));
    command.env("HOME", options.folder.join("home")).env_remove("XDG_RUNTIME_DIR");
    command.env("XDG_STATE_HOME", options.folder.join("home/state"));
    if let Some(uid) = options.uid {
        command.uid(uid).gid(uid);
    }
    command
}

/// One measurement: the figure, and the CPU seconds per gigabyte of the launcher for a bulk one.
fn measure(options: &Options, variant: &Variant, client: &[String]) -> io::Result<(f64, Option<f64>)> {
    let mut running = Running::start(options, variant, client)?;
    running.expect(options, "begin")?;
    let before = processes::cpu(running.launcher());
    let bulk = matches!(client.get(2).map(String::as_str), Some("up" | "down"));
    let bytes = if bulk { Some(running.number(options, "bytes")?) } else { None };
    let cpu = processes::cpu(running.launcher()) - before;
    if let Some(input) = running.child.stdin.as_mut().filter(|_| bulk) {
        input.write_all(b"\n")?;
    }
    let figure = running.number(options, "result")?;
    running.end()?;
    Ok((figure, bytes.map(|bytes| cpu / (bytes / 1e9))))
}

/// The median of the whole life of `LAUNCHER true`, seconds.
fn start_up(options: &Options, variant: &Variant) -> io::Result<f64> {
    let mut times = start_up_times(options, variant, if options.quick { 10 } else { 20 })?;
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64())
}

/// So many whole lives of `LAUNCHER true`, one after another.
fn start_up_times(options: &Options, variant: &Variant, count: usize) -> io::Result<Vec<Duration>> {
    let mut words = variant.launcher.clone();
    words.push("true".into());
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let mut one = Command::new(&words[0]);
        one.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        one.current_dir(options.folder.join("home")).env("HOME", options.folder.join("home"));
        one.env("XDG_STATE_HOME", options.folder.join("home/state")).env_remove("XDG_RUNTIME_DIR");
        if let Some(uid) = options.uid {
            one.uid(uid).gid(uid);
        }
        let start = Instant::now();
        let status = one.status()?;
        times.push(start.elapsed());
        if !status.success() {
            return Err(io::Error::other(format!("true ended with {status}")));
        }
    }
    Ok(times)
}

/// The client's command for a measure.
fn client(options: &Options, variant: &Variant, mode: &str, streams: usize) -> Vec<String> {
    let program = options.folder.join("bench").display().to_string();
    let seconds = if options.quick { "0.5" } else { "1" };
    let mut words: Vec<String> =
        [&program, "client", mode, variant.host, "--seconds", seconds, "--streams", &streams.to_string()]
            .map(str::to_owned)
            .into();
    if variant.socks {
        words.extend(["--socks".into(), format!("127.0.0.1:{PROXY_PORT}")]);
    }
    words
}

/// Idle flows: memory of one, an echo on all, and the round trip of one beside the others.
fn idle(options: &Options, variant: &Variant, flows: usize, figures: &mut Figures) {
    let mut keep = |measure: String, figure: Result<f64, String>| {
        figures.entry((variant.name.clone(), measure)).or_default().push(figure);
    };
    let outcome = (|| -> io::Result<_> {
        // The client and the server need one each, netjail's relay a few more; the proxy is as many processes as it takes.
        if flows as u64 + 500 > descriptors()? {
            return Err(io::Error::other(format!("one process may have only {} descriptors here", descriptors()?)));
        }
        let mut running = Running::start(options, variant, &client(options, variant, "idle", flows))?;
        running.expect(options, "held")?;
        std::thread::sleep(Duration::from_secs(1));
        let memory = processes::memory(running.launcher());
        if let Some(input) = &mut running.child.stdin {
            input.write_all(b"\n")?;
        }
        let echo = running.number(options, "echo")?;
        let round_trip = running.number(options, "result")?;
        running.end()?;
        Ok((memory, echo, round_trip))
    })();
    match outcome {
        Ok((memory, echo, round_trip)) => {
            keep(format!("echo on all of {flows}"), Ok(echo));
            keep(format!("round trip beside {flows}"), Ok(round_trip));
            if let Some(memory) = memory {
                keep(format!("memory with {flows}"), Ok(memory as f64));
            }
        }
        Err(error) => keep(format!("echo on all of {flows}"), Err(error.to_string())),
    }
}

/// Flows in which nothing moves: memory for each, and the CPU ticks that they cost in a while.
fn stalled(options: &Options, variant: &Variant, figures: &mut Figures) {
    const FLOWS: usize = 40;
    let outcome = (|| -> io::Result<_> {
        let hold = |flows: usize, watch: Duration| -> io::Result<(Option<u64>, f64)> {
            let mut running = Running::start(options, variant, &client(options, variant, "stall", flows))?;
            running.expect(options, "held")?;
            // The last bytes find their ring.
            std::thread::sleep(Duration::from_secs(1));
            let before = processes::cpu(running.launcher());
            std::thread::sleep(watch);
            let cpu = processes::cpu(running.launcher()) - before;
            let memory = processes::memory(running.launcher());
            running.end()?;
            Ok((memory, cpu))
        };
        let (few, _) = hold(2, Duration::ZERO)?;
        let (many, cpu) = hold(FLOWS + 2, Duration::from_secs(if options.quick { 3 } else { 10 }))?;
        Ok((few.zip(many).map(|(few, many)| many.saturating_sub(few) as f64 / FLOWS as f64), cpu * 100.0))
    })();
    let mut keep = |measure: &str, figure: Result<f64, String>| {
        figures.entry((variant.name.clone(), measure.into())).or_default().push(figure);
    };
    match outcome {
        Ok((memory, ticks)) => {
            keep("ticks of stalled flows", Ok(ticks));
            if let Some(memory) = memory {
                keep("memory of a stalled flow", Ok(memory));
            }
        }
        Err(error) => keep("ticks of stalled flows", Err(error.to_string())),
    }
}

/// Jails that begin and end one after another: how many a second, and how much longer the last twenty took than the first.
fn in_a_row(options: &Options, variant: &Variant, figures: &mut Figures) {
    const SOME: usize = 20;
    let rounds = if options.quick { 3 } else { 9 };
    let outcome = (0..rounds).map(|_| start_up_times(options, variant, SOME)).collect::<io::Result<Vec<_>>>();
    let mut keep = |measure: &str, figure: Result<f64, String>| {
        figures.entry((variant.name.clone(), measure.into())).or_default().push(figure);
    };
    match outcome {
        Ok(times) => {
            let total: f64 = times.iter().flatten().map(Duration::as_secs_f64).sum();
            let sum = |times: Option<&Vec<Duration>>| times.map_or(0.0, |t| t.iter().map(Duration::as_secs_f64).sum());
            keep("jails/s in a row", Ok((SOME * rounds) as f64 / total));
            keep("last jails over first", Ok(sum(times.last()) / sum(times.first())));
        }
        Err(error) => keep("jails/s in a row", Err(error.to_string())),
    }
}

/// Keeps idle cores from sleeping deeply: a wake-up of 50 us or more would be all that a round trip shows. For as long as the
/// file is open (Documentation/power/pm_qos_interface.rst).
fn stay_awake() -> Option<File> {
    let mut file = OpenOptions::new().write(true).open("/dev/cpu_dma_latency").ok()?;
    file.write_all(&0i32.to_ne_bytes()).ok()?;
    Some(file)
}

/// Ends the servers with the plan.
struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// How many one process may have.
fn descriptors() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit};
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// The most idle flows that are tried, where the machine has room.
const MOST_FLOWS: u64 = 50_000;

fn servers(options: &Options) -> io::Result<Servers> {
    let program = options.folder.join("bench").display().to_string();
    let mut commands: Vec<Vec<String>> =
        vec![vec![program.clone(), "server".into(), TARGET_V4.into(), TARGET_V6.into()]];
    // Two descriptors a flow; the kernel spreads the connections over the processes.
    let limit = descriptors()?;
    for _ in 0..=(2 * MOST_FLOWS.min(limit)).div_ceil(limit.max(1)) {
        commands.push(vec![program.clone(), "proxy".into(), "127.0.0.1".into()]);
    }
    if let Ok(far) = std::env::var("BENCH_FAR") {
        let net = format!("--net=/proc/{far}/ns/net");
        commands.push(vec!["nsenter".into(), net, program, "server".into(), FAR_V4.into()]);
    }
    let mut servers = Servers(Vec::new());
    for words in commands {
        let mut child = Command::new(&words[0]).args(&words[1..]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        servers.0.push(child);
        if line.trim() != "ready" {
            return Err(io::Error::other(format!("{} {} did not start", words[0], words[1])));
        }
    }
    Ok(servers)
}

/// Runs all of it; false if a target was missed.
pub fn run(arguments: &[String]) -> io::Result<bool> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let options = options(arguments)?;
    // 10,000 flows are 20,000 descriptors of the proxy; root may raise the limit itself.
    if setrlimit(Resource::RLIMIT_NOFILE, 200_000, 200_000).is_err() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let awake = stay_awake();
    let variants = variants(&options)?;
    let _servers = servers(&options)?;
    let mut figures = Figures::new();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for name in ALL {
            for variant in variants.iter().filter(|variant| variant.missing.is_none()) {
                if !variant.measures.contains(name) {
                    continue;
                }
                let outcome = match *name {
                    "true" => start_up(&options, variant).map(|figure| (figure, None)),
                    "round trip" => measure(&options, variant, &client(&options, variant, "rtt", 1)),
                    "connect" => measure(&options, variant, &client(&options, variant, "connect", 1)),
                    "udp echo" => measure(&options, variant, &client(&options, variant, "udp", 1)),
                    "connects/s" => measure(&options, variant, &client(&options, variant, "storm", 32)),
                    _ => match BULK.iter().find(|(measure, _, _)| measure == name) {
                        Some((_, mode, streams)) => {
                            measure(&options, variant, &client(&options, variant, mode, *streams))
                        }
                        None => continue,
                    },
                };
                let key = |measure: String| (variant.name.clone(), measure);
                if let Ok((_, Some(cpu))) = outcome
                    && !variant.launcher.is_empty()
                {
                    figures.entry(key(format!("cpu {name}"))).or_default().push(Ok(cpu));
                }
                let figure = outcome.map(|(figure, _)| figure).map_err(|error| error.to_string());
                figures.entry(key((*name).into())).or_default().push(figure);
            }
        }
        let flows: &[usize] = if options.quick { &[1, 1_000] } else { &[1, 1_000, 5_000, 10_000, MOST_FLOWS as usize] };
        for variant in &variants {
            let taken = [report::BOUND, "netjail", "pasta"].contains(&variant.name.as_str());
            for flows in flows.iter().filter(|_| taken && variant.missing.is_none() && round == 0) {
                idle(&options, variant, *flows, &mut figures);
            }
            if taken && !variant.launcher.is_empty() && variant.missing.is_none() && round == 0 {
                stalled(&options, variant, &mut figures);
                in_a_row(&options, variant, &mut figures);
            }
            if variant.name == "netjail" {
                let mut launcher = variant.launcher.clone();
                let log = options.folder.join("home/log").display().to_string();
                launcher.splice(2..2, ["--log".into(), log]);
                let asked = Variant { launcher, host: "198.18.0.1", ..variant.clone() };
                let outcome = measure(&options, &asked, &client(&options, &asked, "dns", 1));
                let figure = outcome.map(|(figure, _)| figure).map_err(|error| error.to_string());
                figures.entry((variant.name.clone(), "dns/s".into())).or_default().push(figure);
            }
        }
    }
    let machine = report::Machine::here(awake.is_some(), options.uid);
    report::print(&machine, &variants, &figures, &options.json, options.quick)
}
