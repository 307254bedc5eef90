//! Relay: packets, flows, and the replies of a proxy.
//!
//! It parses what hostile programs and hostile proxies send, so it is built to be worth nothing to whoever breaks it: for
//! every network but *direct* it lives in an empty network namespace and has no socket() at all; it can open and execute
//! nothing, look into no process, and holds no secret but the credentials of its own proxy.
//!
//! One thread for each TUN queue; the first is this process's own.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use super::fork::{self, exit};
use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{Refusal, RelaySetup, RelayToWarden, WardenToRelay};
use crate::jail::seccomp::{install, roles as cages};
use crate::registry::Kind;
use crate::worker;

/// Builds the workers and becomes the first of them; ends with them.
pub fn run(warden: Channel<RelayToWarden, WardenToRelay>) -> ! {
    let _ = fork::leave_streams();
    let (setup, descriptors) = match warden.receive() {
        Ok((WardenToRelay::Begin(setup), descriptors)) => (setup, descriptors),
        // There will be no jail.
        Err(ChannelError::Closed) => exit(0),
        Err(_) => exit(1),
    };
    match begin(&warden, &setup, descriptors) {
        Ok(()) => exit(0),
        Err(refusal) => {
            let _ = warden.send(&RelayToWarden::Failed(refusal));
            exit(1)
        }
    }
}

fn begin(
    warden: &Channel<RelayToWarden, WardenToRelay>,
    setup: &RelaySetup,
    descriptors: Vec<OwnedFd>,
) -> Result<(), Refusal> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Refusal(format!("the relay can not be built: {what}: {e}"));
    let direct = matches!(setup.network.kind, Kind::Direct);
    raise_descriptor_limit();
    let shared = Arc::new(worker::Shared::new(setup).map_err(|e| failed("prepare the overlay", &e))?);
    let mut workers = Vec::new();
    let mut descriptors = descriptors.into_iter();
    while let (Some(queue), Some(channel)) = (descriptors.next(), descriptors.next()) {
        let worker = worker::Worker::new(Arc::clone(&shared), queue, channel.into())
            .map_err(|e| failed("prepare a worker", &e))?;
        workers.push(worker);
    }
    if !direct {
        cages::empty_network().map_err(|e| failed("enter an empty network namespace", &e))?;
    }
    cages::drop_capabilities().map_err(|e| failed("drop its capabilities", &e))?;

    let mut workers = workers.into_iter();
    let first = workers.next().ok_or_else(|| Refusal("the relay was given no queue".into()))?;
    let others = workers
        .enumerate()
        .map(|(index, mut worker)| {
            thread::Builder::new()
                .name(format!("nj-worker-{}", index + 1))
                .stack_size(WORKER_STACK)
                .spawn(move || worker.run())
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| failed("start a worker", &e))?;
    install::install(&cages::relay(direct), install::Scope::Process, false)
        .map_err(|e| failed("close its cage", &e))?;
    warden.send(&RelayToWarden::Up).map_err(|e| failed("reach the warden", &e))?;
    let mut first = first;
    first.run();
    for other in others {
        let _ = other.join();
    }
    let _ = warden.send(&RelayToWarden::Finished);
    Ok(())
}

/// Bytes; packets live in buffers of their own, not on the stack.
const WORKER_STACK: usize = 512 * 1024;

/// One descriptor for each flow, so as many as the user may have.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
