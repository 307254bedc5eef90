//! Usher: takes the descriptors that come with `exec`, for one request.
//!
//! Descriptors of a stranger can block whoever holds them, even at close, so nobody else touches them: the warden forks an
//! usher for each request, which reads it, looks at what came with it, passes it on to init, and is gone; a clock kills it
//! if it is not done in time.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::fork::{self, exit};
use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{ClientAnswer, ExecRequest, Refusal, UsherToInit};
use crate::jail::descriptors::{self, Origin, Stream};
use crate::jail::seccomp::{install, roles as cages};

/// How long a client may take to say what it wants, and init to hear it.
const PATIENCE: Duration = Duration::from_secs(5);

type Client = Channel<ClientAnswer, ExecRequest>;

/// Serves one client.
pub fn run(client: OwnedFd, init: Channel<UsherToInit, ()>) -> ! {
    let _ = fork::leave_streams();
    // SIGALRM has its default disposition here: it ends this process, whatever it is waiting in.
    // SAFETY: alarm takes an integer.
    unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
    // The warden, whose fork this is, has no capability left.
    let caged = install::install(&cages::usher(), install::Scope::Process, false);
    let client = match fork::make_blocking(&client) {
        Ok(()) => Client::from(client),
        Err(_) => exit(1),
    };
    let served = match caged {
        Ok(_) => serve(&client, &init),
        Err(why) => Err(Refusal(format!("the command can not be started safely: {why}"))),
    };
    if let Err(refusal) = served {
        let _ = client.send(&ClientAnswer::Refused(refusal));
    }
    exit(0)
}

fn serve(client: &Client, init: &Channel<UsherToInit, ()>) -> Result<(), Refusal> {
    client.send(&ClientAnswer::GoOn).map_err(|e| Refusal(e.to_string()))?;
    let (request, descriptors) = match client.receive() {
        Ok(received) => received,
        Err(ChannelError::Closed) => return Ok(()),
        Err(e) => return Err(Refusal(e.to_string())),
    };
    let expected = if request.terminal.is_some() { 1 } else { 4 };
    if descriptors.len() != expected {
        return Err(Refusal(format!("{} descriptors came with the request, expected {expected}", descriptors.len())));
    }
    for (name, fd) in ["the command", "standard input", "standard output", "standard error"].iter().zip(&descriptors) {
        let what = match descriptors::classify(fd.as_fd(), Origin::Jail) {
            Stream::Pass => continue,
            Stream::Relay(what) => what.to_owned(),
            Stream::Refuse(what) => what,
        };
        return Err(Refusal(format!(
            "{name} is {what}, which can not go into a jail; redirect it to a file or a pipe"
        )));
    }
    let mut passed = vec![client.as_fd()];
    passed.extend(descriptors.iter().map(AsFd::as_fd));
    init.send_with(&UsherToInit::Start { terminal: request.terminal }, &passed)
        .map_err(|e| Refusal(format!("the jail's init can not be reached: {e}")))
}
