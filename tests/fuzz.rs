//! Random input at the real entries of a running jail: packets on its link, questions to its resolver, replies of its proxy,
//! requests on its control socket, `connect` calls for its mediator. No role dies or is replaced, none grows, and the jail works
//! afterwards.
//!
//! `NETJAIL_FUZZ=1000000 cargo test --test fuzz` for a long run (docs/testing.md has the last one's result). Parsers alone are
//! fuzzed by the unit tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lab::child::{role, tree};
use lab::{Jail, Running};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};

/// How many inputs to each entry.
fn inputs() -> u64 {
    std::env::var("NETJAIL_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// No input takes long; this is for a million of them on a loaded machine.
const LIMIT: Duration = Duration::from_secs(3600);
/// What a role may have grown by, in kB, between a tenth of the inputs and all of them.
const GROWTH: u64 = 4096;

/// A generator whose seed is printed: xorshift64* (Vigna, 2016).
struct Random(u64);

impl Random {
    fn new(what: &str) -> Self {
        let seed = getrandom::u64().unwrap() | 1;
        eprintln!("{what}: seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Changes some bytes, and cuts or lengthens now and then.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(6) {
            if !bytes.is_empty() {
                let at = self.below(bytes.len());
                bytes[at] = self.next() as u8;
            }
        }
        match self.below(12) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => {
                let length = self.below(40);
                bytes.extend(self.bytes(length));
            }
            _ => {}
        }
    }
}

/// A proxy that answers with anything, or, once it is told to, as it should: then it sends back what comes.
struct Liar {
    addr: std::net::SocketAddr,
    honest: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
}

impl Liar {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (honest, replies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (tells_truth, count) = (Arc::clone(&honest), Arc::clone(&replies));
        std::thread::spawn(move || {
            let mut random = Random::new("the proxy");
            for mut stream in listener.incoming().flatten() {
                if tells_truth.load(Ordering::SeqCst) {
                    std::thread::spawn(move || serve(stream));
                    continue;
                }
                let mut reply = match random.below(4) {
                    0 => {
                        let length = random.below(80);
                        random.bytes(length)
                    }
                    1 => [&[5, 0][..], &[5, random.next() as u8, 0, random.one(&[0, 1, 3, 4, 5]), random.next() as u8]]
                        .concat(),
                    2 => [&[5, 0, 5, 0, 0, 1, 127, 0, 0, 1, 0, 80][..], &random.bytes(30)].concat(),
                    _ => [&[5, 0, 5, 0, 0, 3, 9][..], &random.bytes(12)].concat(),
                };
                random.damage(&mut reply);
                // Whole or in two pieces; then it closes, or resets where the greeting has come and was not read.
                let cut = random.below(reply.len() + 1);
                let _ = stream.write_all(&reply[..cut]).and_then(|()| stream.write_all(&reply[cut..]));
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { addr, honest, replies }
    }
}

/// SOCKS5 without a login, and an echo behind every address.
fn serve(mut stream: TcpStream) -> Option<()> {
    let mut head = [0; 3];
    stream.read_exact(&mut head).ok()?;
    stream.write_all(&[5, 0]).ok()?;
    let mut request = [0; 5];
    stream.read_exact(&mut request).ok()?;
    let rest = match request[3] {
        1 => 5,
        3 => usize::from(request[4]) + 2,
        _ => 17,
    };
    stream.read_exact(&mut vec![0; rest]).ok()?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    std::io::copy(&mut stream.try_clone().ok()?, &mut stream).ok()?;
    Some(())
}

/// A jail behind the liar, with a command that waits for words, and what its roles were at the start.
struct Target {
    proxy: Liar,
    jail: Jail,
    running: Running,
    roles: BTreeMap<i32, String>,
    before: BTreeMap<i32, u64>,
}

const ROLES: [&str; 5] = ["nj-warden", "nj-relay", "nj-mediator", "nj-connect", "nj-init"];

impl Target {
    fn new(line: &str, files: &[(&str, &str)]) -> Self {
        let proxy = Liar::new();
        let jail = Jail::socks5(proxy.addr, "names: both").with(&["--name", &format!("fuzz-{}", std::process::id())]);
        for (name, text) in files {
            std::fs::write(jail.work().join(name), text).unwrap();
        }
        let probe = lab::tool("probe");
        // The mediator has a worker from the first connect on.
        let worker = format!("{probe} connect 127.0.0.1:1 >/dev/null 2>&1");
        let line = format!("{worker}; echo up; read x; {line}\n {probe} echo 203.0.113.10:80 alive");
        let mut running = jail.start("app:proxy", &["sh", "-c", &line]);
        running.until("up");
        for name in ROLES {
            role(running.pid(), name);
        }
        let all = tree(running.pid()).into_iter().filter(|(_, name)| ROLES.contains(&name.as_str())).collect();
        Self { proxy, jail, running, roles: all, before: BTreeMap::new() }
    }

    /// The anonymous memory of each role, in kB.
    fn memory(&self) -> BTreeMap<i32, u64> {
        let of = |pid: i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB").to_owned();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        self.roles.keys().map(|pid| (*pid, of(*pid))).collect()
    }

    /// What memory is measured from: buffers have their size by now.
    fn warm(&mut self) {
        self.before = self.memory();
    }

    fn assert_unharmed(mut self, what: &str) {
        let live: BTreeMap<i32, String> = tree(self.running.pid()).into_iter().collect();
        let gone: Vec<_> = self.roles.iter().filter(|(pid, name)| live.get(pid) != Some(name)).collect();
        assert!(gone.is_empty(), "{what}: these died: {gone:?} {}", self.running.err());
        let after = self.memory();
        for (pid, name) in &self.roles {
            let (before, after) = (self.before[pid], after[pid]);
            eprintln!("{what}: {name} {before} kB -> {after} kB");
            assert!(after <= before + GROWTH, "{what}: {name} grew from {before} to {after} kB");
        }
        self.proxy.honest.store(true, Ordering::SeqCst);
        self.running.say("\n");
        let done = self.running.finish_within(LIMIT).good();
        assert_eq!(done.facts("got").last().map(String::as_str), Some("5 alive"), "{what}: {done:?}");
        drop(self.jail);
    }
}

fn sum(bytes: &[u8], mut sum: u32) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A packet from the jail: right in its lengths and sums, and then, mostly, damaged. Few addresses and ports, so that many
/// packets belong to one flow.
fn packet(random: &mut Random) -> Vec<u8> {
    if random.below(16) == 0 {
        let length = random.below(300);
        let mut bytes = random.bytes(length);
        if let Some(first) = bytes.first_mut() {
            *first = random.one(&[0x45, 0x46, 0x4f, 0x60, *first]);
        }
        return bytes;
    }
    let protocol = random.one(&[6, 6, 6, 17, 17, 1, 58, 0, 43, 44, 132, 255u8]);
    let length = random.one(&[0, 1, 12, 64, 600, 1400]);
    let data = random.bytes(length);
    let ports = [40000 + random.below(32) as u16, random.one(&[53, 80, 443, 0, 65535])];
    let mut inner: Vec<u8> = ports.iter().flat_map(|p| p.to_be_bytes()).collect();
    let at_sum = match protocol {
        6 => {
            let sequence = random.one(&[0, 1, 1000, u32::MAX]).wrapping_add(random.below(3) as u32);
            inner.extend(sequence.to_be_bytes());
            inner.extend(random.one(&[0u32, 1, 0x8000_0000]).wrapping_add(random.below(5) as u32).to_be_bytes());
            let options = random.below(11);
            inner.extend([(5 + options as u8) << 4, random.one(&[2, 2, 16, 24, 17, 4, 20, 0, 63, random.0 as u8])]);
            inner.extend(random.bytes(2));
            inner.extend([0, 0, 0, 0]);
            let mut block = random.bytes(options * 4);
            if options > 0 {
                block[..4].copy_from_slice(&[2, 4, 5, 0xb4]);
            }
            inner.extend(block);
            inner.extend(data);
            16
        }
        17 => {
            inner.extend((8 + data.len() as u16).to_be_bytes());
            inner.extend([0, 0]);
            inner.extend(data);
            6
        }
        _ => {
            inner = [&[random.one(&[8, 128, 135, 3]), 0, 0, 0][..], &data].concat();
            2
        }
    };
    let host = random.below(8) as u8;
    let mut bytes = if random.below(2) == 0 {
        let to = random.one(&[[198, 18, 0, 1], [198, 18, 0, host], [203, 0, 113, host], [127, 0, 0, 1], [255; 4]]);
        let mut head = vec![0x45, 0];
        head.extend((20 + inner.len() as u16).to_be_bytes());
        // Fragments too.
        head.extend([0, host, random.one(&[0x40, 0, 0, 0x20]), random.one(&[0, 0, 0, host]), 64, protocol, 0, 0]);
        head.extend([198, 18, 0, 2]);
        head.extend(to);
        let checksum = sum(&head, 0).to_be_bytes();
        head[10..12].copy_from_slice(&checksum);
        let pseudo =
            u32::from(sum(&[&head[12..20], &[0, protocol], &(inner.len() as u16).to_be_bytes()].concat(), 0) ^ 0xffff);
        let checksum = sum(&inner, if protocol == 1 { 0 } else { pseudo }).to_be_bytes();
        inner[at_sum..at_sum + 2].copy_from_slice(&checksum);
        [head, inner].concat()
    } else {
        let mut head = vec![0x60, 0, 0, 0];
        head.extend((inner.len() as u16).to_be_bytes());
        head.extend([protocol, 64]);
        head.extend([0xfd, 0, 0x6e, 0x6a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        head.extend(random.one(&[
            [0xfd, 0, 0x6e, 0x6a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, host],
        ]));
        let pseudo =
            u32::from(sum(&[&head[8..40], &[0, protocol], &(inner.len() as u16).to_be_bytes()].concat(), 0) ^ 0xffff);
        let checksum = sum(&inner, pseudo).to_be_bytes();
        inner[at_sum..at_sum + 2].copy_from_slice(&checksum);
        [head, inner].concat()
    };
    if random.below(3) != 0 {
        random.damage(&mut bytes);
    }
    bytes
}

/// A packet socket on the jail's link, made by a thread that visits the namespace: what it sends, the relay reads.
fn link_of(pid: i32) -> OwnedFd {
    let visit = move || {
        let network = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "a packet socket: {}", Errno::last());
        // SAFETY: just made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an all-zero address is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
        address.sll_ifindex = nix::net::if_::if_nametoindex("tun0").unwrap() as i32;
        // SAFETY: a live address with its length.
        let bound = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        assert_eq!(bound, 0, "{}", Errno::last());
        fd
    };
    std::thread::spawn(visit).join().unwrap()
}

/// Packets that have left by the link, as its kernel counts them.
fn sent(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("tun0:")).unwrap();
    line.split_once(':').unwrap().1.split_whitespace().nth(9).unwrap().parse().unwrap()
}

#[test]
fn random_packets_on_the_link() {
    root_only!();
    let mut target = Target::new("true", &[]);
    let shell = tree(target.running.pid()).into_iter().find(|(_, name)| name == "sh").unwrap().0;
    let link = link_of(shell);
    let mut random = Random::new("packets");
    let (count, before) = (inputs(), sent(shell));
    let mut refused = 0;
    for number in 0..count {
        if number == count / 10 {
            target.warm();
        }
        let bytes = packet(&mut random);
        // A full queue is the relay's to empty; what the kernel itself refuses (an empty packet, one of another length than
        // it says) is no input.
        loop {
            match send(link.as_raw_fd(), &bytes, MsgFlags::empty()) {
                Ok(_) => break,
                Err(Errno::ENOBUFS | Errno::EAGAIN) => std::thread::yield_now(),
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
    }
    let passed = sent(shell) - before;
    eprintln!(
        "packets: {passed} of {count} read by the relay, {refused} refused by the kernel, {} replies of the proxy",
        target.proxy.replies.load(Ordering::SeqCst)
    );
    assert!(passed >= (count - refused) / 10 * 9, "{passed} of {count}");
    target.assert_unharmed("packets");
}

fn await_word(running: &mut Running, word: &str) {
    lab::wait_for(word, LIMIT, || {
        assert!(!running.ended(), "{word} was awaited: {} {}", running.out(), running.err());
        running.out().contains(word).then_some(())
    });
}

/// Runs a script inside that says WARM and DONE, and is told to go on after each.
fn from_inside(what: &str, script: &str) {
    let python = lab::program("python3");
    require!(python.is_some(), "no python3 outside of root's home");
    let line = format!("{} fuzz.py {}", python.unwrap().display(), inputs());
    let mut target = Target::new(&line, &[("fuzz.py", script)]);
    target.running.say("\n");
    await_word(&mut target.running, "WARM");
    target.warm();
    target.running.say("\n");
    await_word(&mut target.running, "DONE");
    target.assert_unharmed(what);
}

#[test]
fn random_questions_to_the_resolver() {
    from_inside("questions", include_str!("tools/fuzz_questions.py"));
}

#[test]
fn random_connect_calls() {
    from_inside("calls", include_str!("tools/fuzz_calls.py"));
}

/// Each connection is a dial, and each dial hears something else.
#[test]
fn random_replies_of_the_proxy() {
    from_inside("replies", include_str!("tools/fuzz_replies.py"));
}

/// As any program of the same user outside could: the socket that `ps`, `exec` and `stop` speak to.
#[test]
fn random_requests_on_the_control_socket() {
    let mut target = Target::new("true", &[]);
    let name = format!("fuzz-{}.sock", std::process::id());
    let path = lab::wait_for("the control socket", Duration::from_secs(20), || {
        let places = [
            target.jail.home().parent().unwrap().join("run/netjail").join(&name),
            format!("/run/netjail/{name}").into(),
        ];
        places.into_iter().find(|path| path.exists())
    });
    let mut random = Random::new("requests");
    let words = [&b"\x00"[..], b"\x02", b"\x02", b"{\"", b"Status", b"Exec", b"Stop", b"\xff\xff\xff\xff"];
    let mut count = 0;
    while count < inputs() {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        match connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()) {
            Ok(()) => {}
            // Its backlog is full, or it has as many clients as it takes.
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => {
                std::thread::yield_now();
                continue;
            }
            Err(errno) => panic!("{errno}: the warden is gone: {}", target.running.err()),
        }
        for _ in 0..=random.below(4) {
            let length = random.one(&[0, 1, 2, 8, 60, 300, 5000]);
            let mut message = [random.one(&words), &random.bytes(length)].concat();
            random.damage(&mut message);
            // `Stop` would do what it says (postcard writes the number of the variant first).
            if message.first().is_some_and(|first| first & 0x7f == 1) {
                message[0] = 3;
            }
            count += 1;
            if send(fd.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL).is_err() {
                break;
            }
        }
        if count >= inputs() / 10 && target.before.is_empty() {
            target.warm();
        }
    }
    let listed = lab::child::run(target.jail.netjail(&["ps"])).good();
    assert!(listed.out.contains("fuzz-"), "{listed:?}");
    target.assert_unharmed("requests");
}
