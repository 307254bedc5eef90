//! Before there is a jail: what the warden says, what init asks of its parent, and a person who changes his mind.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};
use nix::unistd::Pid;

use super::front::{Stop, own};
use super::say;
use super::signals::{Received, Signals};
use crate::control::channel::{Channel, ChannelError};
use crate::control::messages::{FrontToInit, FrontToWarden, InitToFront, Prepared, Refusal, WardenToFront};
use crate::jail::namespaces;
use crate::jail::signals::bit;

type ToInit = Channel<FrontToInit, InitToFront>;

/// Root: writes the id maps that init can not write itself.
pub(super) fn map(child: Pid, init: &ToInit) -> Result<(), Refusal> {
    namespaces::map_everyone(&child.to_string())
        .map_err(|e| Refusal(format!("can not map the ids of the jail: {e}")))?;
    init.send(&FrontToInit::Mapped).map_err(|e| own("init is gone")(&e))
}

/// Init's maps are written: until now it needed a parent that can be read (a fork of an undumpable one can not write them).
pub(super) fn close() {
    let _ = prctl::set_dumpable(false);
    let _ = prctl::set_no_new_privs();
}

/// What can be read.
struct Ready {
    first: bool,
    other: bool,
}

/// Who is listened to.
pub(super) struct Preparing<'a> {
    pub warden: &'a Channel<FrontToWarden, WardenToFront>,
    /// None where it could not be made: that is said if the registry is right.
    pub init: Option<(Pid, &'a ToInit)>,
    pub signals: &'a Signals,
    /// Those that the caller ignored.
    pub ignored: u64,
}

impl Preparing<'_> {
    /// Listens until the warden has decided.
    pub fn until_prepared(mut self) -> Result<Prepared, Stop> {
        // Why there will be no jail even if the warden wants one.
        let mut lost = None;
        loop {
            let init = self.init.map(|(_, channel)| channel.as_fd());
            let ready = self.wait_for(self.warden.as_fd(), init)?;
            if ready.other
                && let Err(refusal) = self.hear_init()
            {
                lost = Some(refusal);
                self.init = None;
            }
            if !ready.first {
                continue;
            }
            match self.warden.receive() {
                Ok((WardenToFront::Say(text), _)) => say(&text),
                Ok((WardenToFront::Ask(question), _)) => {
                    let answer = self.ask(&question)?;
                    self.warden.send(&FrontToWarden::Answer(answer)).map_err(|e| own("the warden is gone")(&e))?;
                }
                Ok((WardenToFront::Prepared(prepared), _)) => {
                    return lost.map_or(Ok(prepared), |refusal| Err(Stop::NotBuilt(refusal)));
                }
                Ok((WardenToFront::Refused(refusal), _)) => return Err(refusal.into()),
                Ok((WardenToFront::Notify(_) | WardenToFront::SocketRefused(_), _)) => {}
                Ok((WardenToFront::Finished { .. } | WardenToFront::Draining, _)) | Err(ChannelError::Closed) => {
                    let text = "its warden died while it read the registry; no jail was started";
                    return Err(Refusal(text.into()).into());
                }
                Err(e) => return Err(own("the warden can not be understood")(&e).into()),
            }
        }
    }

    /// What init asks of its parent. Once it has what it needs, it is listened to by who watches the jail.
    fn hear_init(&mut self) -> Result<(), Refusal> {
        let Some((child, init)) = self.init else { return Ok(()) };
        match init.receive() {
            Ok((InitToFront::MapMe, _)) => map(child, init),
            Ok((InitToFront::Closed, _)) => {
                close();
                self.init = None;
                Ok(())
            }
            Ok((InitToFront::Failed(refusal), _)) => Err(refusal),
            Ok(_) | Err(_) => {
                Err(Refusal("the jail's init died while its namespaces were made; nothing was started".into()))
            }
        }
    }

    /// Puts a yes-or-no question to the person at the terminal; anything but a clear yes is a no.
    fn ask(&self, question: &str) -> Result<bool, Stop> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(false);
        }
        let _ = write!(io::stderr(), "netjail: {question} [y/N] ");
        self.wait_for(io::stdin().as_fd(), None)?;
        let mut answer = String::new();
        Ok(io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Waits until there is something to read, or a signal ends this program.
    fn wait_for(&self, first: BorrowedFd<'_>, other: Option<BorrowedFd<'_>>) -> Result<Ready, Stop> {
        loop {
            let mut polled =
                vec![PollFd::new(first, PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            polled.extend(other.map(|other| PollFd::new(other, PollFlags::POLLIN)));
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(own("can not wait for events")(&errno).into()),
            }
            let ready = |at: usize| polled.get(at).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
            let ready = Ready { first: ready(0), other: ready(2) };
            while let Some(received) = self.signals.next() {
                self.heed(received)?;
            }
            if ready.first || ready.other {
                return Ok(ready);
            }
        }
    }

    /// Does what the signal would do to a program that does nothing about it.
    fn heed(&self, received: Received) -> Result<(), Stop> {
        if self.ignored & bit(received.number) != 0 {
            return Ok(());
        }
        if received.is(Signal::SIGTSTP) {
            let _ = raise(Signal::SIGSTOP);
        }
        if received.ends_a_program() { Err(Stop::Interrupted(received.number)) } else { Ok(()) }
    }
}
