//! Mediator: everything that touches a descriptor of a stranger.
//!
//! Such a descriptor can block its holder at any time (a second holder may flip O_NONBLOCK back; SO_LINGER can make close()
//! wait), so this process is disposable: it belongs to one jail, the warden kills and replaces it, and nobody waits for it
//! without a deadline.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::fork::{self, exit};
use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{
    ClientAnswer, ExecRequest, MediatorToInit, MediatorToPayload, MediatorToWarden, PayloadToMediator, Refusal,
    WardenToMediator, take,
};
use crate::jail::descriptors::{self, Origin, Stream};

/// Clients that have connected and not yet said what they want; more are turned away.
const MOST_CLIENTS: usize = 64;

/// How long a client may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Its ends of its channels.
#[derive(Debug)]
pub struct Ends {
    /// To the warden.
    pub warden: Channel<MediatorToWarden, WardenToMediator>,
    /// To init.
    pub init: Channel<MediatorToInit, ()>,
}

type Client = Channel<ClientAnswer, ExecRequest>;
type Payload = Channel<MediatorToPayload, PayloadToMediator>;

/// The main loop; ends with the warden.
pub fn run(ends: Ends) -> ! {
    let _ = fork::leave_streams();
    let mut mediator = Mediator { ends, clients: Vec::new(), commands: Vec::new() };
    while mediator.turn().is_ok() {}
    exit(0)
}

struct Mediator {
    ends: Ends,
    clients: Vec<(Client, Instant)>,
    commands: Vec<Payload>,
}

impl Mediator {
    fn turn(&mut self) -> Result<(), ChannelError> {
        let mut polled = vec![PollFd::new(self.ends.warden.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.clients.iter().map(|(client, _)| PollFd::new(client.as_fd(), PollFlags::POLLIN)));
        polled.extend(self.commands.iter().map(|command| PollFd::new(command.as_fd(), PollFlags::POLLIN)));
        let patience = if self.clients.is_empty() { PollTimeout::NONE } else { PollTimeout::from(1000u16) };
        match poll(&mut polled, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|p| p.revents().is_some_and(|events| !events.is_empty())).collect();
        drop(polled);

        // From the back, so that what is taken out does not move what comes after.
        let first_command = 1 + self.clients.len();
        for index in (0..self.commands.len()).rev() {
            if ready[first_command + index] {
                let command = self.commands.swap_remove(index);
                self.hear_command(command);
            }
        }
        for index in (0..self.clients.len()).rev() {
            if ready[1 + index] {
                let (client, _) = self.clients.swap_remove(index);
                self.hear_client(&client);
            }
        }
        self.clients.retain(|(_, since)| since.elapsed() < PATIENCE);
        if ready[0] { self.hear_warden() } else { Ok(()) }
    }

    fn hear_warden(&mut self) -> Result<(), ChannelError> {
        let (message, received) = self.ends.warden.receive()?;
        let [fd] = take(received)?;
        match message {
            WardenToMediator::Client => {
                let client = Client::from(fd);
                let answer = if self.clients.len() < MOST_CLIENTS {
                    ClientAnswer::GoOn
                } else {
                    ClientAnswer::Refused(Refusal("too many commands are being started in this jail; try again".into()))
                };
                if client.send(&answer).is_ok() && matches!(answer, ClientAnswer::GoOn) {
                    self.clients.push((client, Instant::now()));
                }
            }
            WardenToMediator::Command => self.commands.push(fd.into()),
        }
        Ok(())
    }

    /// A command stands just before `exec` and hands over what it is to be looked after by.
    fn hear_command(&mut self, command: Payload) {
        if let Ok((PayloadToMediator::Listener, _)) = command.receive() {
            let _ = command.send(&MediatorToPayload::Mediating);
        }
    }

    fn hear_client(&mut self, client: &Client) {
        let (request, descriptors) = match client.receive() {
            Ok(received) => received,
            Err(ChannelError::Closed) => return,
            Err(e) => {
                let _ = client.send(&ClientAnswer::Refused(Refusal(e.to_string())));
                return;
            }
        };
        if let Err(refusal) = self.pass_on(client, request, &descriptors) {
            let _ = client.send(&ClientAnswer::Refused(refusal));
        }
    }

    fn pass_on(&self, client: &Client, request: ExecRequest, descriptors: &[OwnedFd]) -> Result<(), Refusal> {
        let expected = if request.terminal { 1 } else { 4 };
        if descriptors.len() != expected {
            return Err(Refusal(format!(
                "{} descriptors came with the request, expected {expected}",
                descriptors.len()
            )));
        }
        for (name, fd) in ["the command", "standard input", "standard output", "standard error"].iter().zip(descriptors)
        {
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
        self.ends
            .init
            .send_with(&MediatorToInit::Start { terminal: request.terminal }, &passed)
            .map_err(|e| Refusal(format!("the jail's init can not be reached: {e}")))
    }
}
