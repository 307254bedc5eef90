//! Relay: packets, flows, and the replies of a proxy.
//!
//! It parses what hostile programs and hostile proxies send, so it is built to be worth nothing to whoever breaks it: for
//! every network but *direct* it lives in an empty network namespace and has no socket() at all; it can open and execute
//! nothing, look into no process, and holds no secret but the credentials of its own proxy.
//!
//! One thread for each TUN queue; the first is this process's own.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Barrier};
use std::thread;

use super::fork::{self, exit};
use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{Refusal, RelaySetup, RelayToWarden, WardenToRelay};
use crate::flow::HostName;
use crate::jail::seccomp::{install, roles as cages};
use crate::names::answer::{Carries, Config, Names};
use crate::names::hosts::{HostNames, HostsTable};
use crate::names::pool::{OWN_V4, OWN_V6, Pool};
use crate::names::{self, Resolver};
use crate::overlay::Credentials;
use crate::registry::{Kind, Udp};
use crate::stack;
use crate::tun;
use crate::worker::{Driver, Limits, Setup, Siblings, Worker};

/// Builds the workers and becomes the first of them; ends with them.
pub fn run(warden: Channel<RelayToWarden, WardenToRelay>) -> ! {
    let _ = fork::leave_streams();
    if let Ok(last_words) = warden.as_fd().try_clone_to_owned() {
        let last_words: Channel<RelayToWarden, WardenToRelay> = last_words.into();
        fork::report_panics(move |text| {
            let _ = last_words.send(&RelayToWarden::Failed(Refusal(format!("the jail's relay failed: {text}"))));
        });
    }
    let mut cage = None;
    let ended = loop {
        let outcome = match (warden.receive(), cage.take()) {
            (Ok((WardenToRelay::Prepare { direct }, _)), None) => prepare(direct).map(|prepared| cage = Some(prepared)),
            (Ok((WardenToRelay::Begin(setup), descriptors)), Some(cage)) => break begin(&setup, descriptors, &cage),
            // There will be no jail.
            (Err(ChannelError::Closed), _) => exit(0),
            _ => exit(1),
        };
        if let Err(refusal) = outcome {
            break Err(refusal);
        }
    };
    match ended {
        Ok(()) => exit(0),
        Err(refusal) => {
            let _ = warden.send(&RelayToWarden::Failed(refusal));
            exit(1)
        }
    }
}

fn failed(what: &str, e: &dyn std::fmt::Display) -> Refusal {
    Refusal(format!("the relay can not be built: {what}: {e}"))
}

/// What can be done while init still builds the jail: an empty network namespace takes the kernel most of a millisecond.
fn prepare(direct: bool) -> Result<Cage, Refusal> {
    if !direct {
        cages::empty_network().map_err(|e| failed("enter an empty network namespace", &e))?;
    }
    cages::drop_capabilities().map_err(|e| failed("drop its capabilities", &e))?;
    let filter = install::Filter::of(&cages::relay(direct)).map_err(|e| failed("build its cage", &e))?;
    Ok(Cage { direct, filter })
}

/// The relay's walls, as far as they stand before there is a packet.
struct Cage {
    /// Built for *direct*, which keeps the host's network.
    direct: bool,
    filter: install::Filter,
}

fn begin(setup: &RelaySetup, descriptors: Vec<OwnedFd>, cage: &Cage) -> Result<(), Refusal> {
    if cage.direct != matches!(setup.network.kind, Kind::Direct) {
        return Err(Refusal("the relay was prepared for another kind of network".into()));
    }
    let prepared = |e: &dyn std::fmt::Display| failed("prepare a worker", e);
    let jail = Credentials::random().map_err(|e| prepared(&e))?;
    let pool = Arc::new(Pool::new(getrandom::u32().map_err(|e| prepared(&e))?));
    let mut setups: Vec<Setup> = Vec::new();
    let mut descriptors = descriptors.into_iter();
    let mut hosts = Vec::new();
    if let Some(file) = descriptors.next() {
        File::from(file).read_to_end(&mut hosts).map_err(|e| failed("read the host's names", &e))?;
    }
    while let (Some(queue), Some(channel)) = (descriptors.next(), descriptors.next()) {
        setups.push(worker_setup(setup, &hosts, &jail, &pool, queue, channel).map_err(|e| prepared(&e))?);
    }
    let siblings = Siblings::of(setups.len()).map_err(|e| prepared(&e))?;
    setups.iter_mut().zip(siblings).for_each(|(setup, siblings)| setup.siblings = siblings);

    let mut setups = setups.into_iter();
    let first = setups.next().ok_or_else(|| Refusal("the relay was given no queue".into()))?;
    let gate = Arc::new(Barrier::new(setups.len() + 1));
    let others = setups
        .enumerate()
        .map(|(index, setup)| {
            let gate = Arc::clone(&gate);
            thread::Builder::new().name(format!("nj-worker-{}", index + 1)).stack_size(WORKER_STACK).spawn(move || {
                let worker = Worker::new(setup);
                gate.wait();
                gate.wait();
                worker?.run()
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| fork::refused("relay's workers", &e))?;
    let first = Worker::new(first).map_err(|e| prepared(&e))?;
    // The cage is closed round threads that have begun (libc aborts in a thread whose rseq(2) is refused) and are prepared,
    // and none of them reads a packet before it is closed: the first turn of the gate, and the second.
    gate.wait();
    cage.filter.install(install::Scope::Process, false).map_err(|e| failed("close its cage", &e))?;
    gate.wait();
    let mut outcome = first.run().map(drop);
    for other in others {
        // A worker that panicked has ended the process.
        if let Ok(ended) = other.join() {
            outcome = outcome.and(ended.map(drop));
        }
    }
    outcome.map_err(|e| Refusal(e.to_string()))
}

fn worker_setup(
    setup: &RelaySetup,
    hosts: &[u8],
    jail: &Credentials,
    pool: &Arc<Pool>,
    queue: OwnedFd,
    channel: OwnedFd,
) -> Result<Setup, Box<dyn std::error::Error>> {
    let direct = matches!(setup.network.kind, Kind::Direct);
    let own = HostName::parse(&setup.hostname)?;
    let names = if direct {
        let table = HostsTable::parse(hosts, &setup.host.name);
        Resolver::Host(HostNames::new(table, own, setup.table.host.clone(), setup.table.allow_lan))
    } else {
        // A SOCKS5 proxy may be Tor's or I2P's: it carries what it can, and says so where it can not.
        let carries = Carries { onion: true, i2p: true };
        let families = setup.network.names;
        Resolver::Pool(Names::new(Arc::clone(pool), Config { own, families, carries, forwards: false }))
    };
    let datagrams = stack::Datagrams {
        sources: vec![OWN_V4.into(), OWN_V6.into()],
        carried: setup.network.udp == Udp::Carry,
        ..stack::Datagrams::default()
    };
    let mut seed = [0; 3];
    for part in &mut seed {
        *part = getrandom::u64()?;
    }
    Ok(Setup {
        queue,
        channel: channel.into(),
        table: setup.table.clone(),
        driver: Driver::of(&setup.network, jail).ok_or("this network's kind is not built yet")?,
        names,
        resolvers: direct.then(names::gateways),
        upstream_resolvers: setup.host.resolvers.clone(),
        connect_timeout: setup.network.connect_timeout,
        datagrams: Limits::default(),
        siblings: None,
        stack: stack::Config { seed, longest: tun::longest_packet(), datagrams, ..stack::Config::default() },
    })
}

/// Bytes; packets live in buffers of their own, not on the stack.
const WORKER_STACK: usize = 512 * 1024;
