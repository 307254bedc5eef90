//! The end of a warden: the relay delivers the last bytes, the last records are written, and nothing is left behind.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::{Source, Warden, children};
use crate::control::messages::WardenToFront;
use crate::control::worker::{DRAIN_MOST, FromWarden};
use crate::mediate::ToMediator;

/// How long the relay may take to send its last records, and the log to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Warden {
    /// Lets the relay deliver what it has, writes what it still has to say, and tells front.
    pub(super) fn finish(&mut self) {
        self.read_letters();
        self.tell_workers(if self.tree_is_dead { &FromWarden::Stop } else { &FromWarden::Abandon });
        // It may hold a copy of a socket of the jail's, which would keep that socket's end from the relay. The relay has its
        // word before that: what is woken first runs first.
        let _ = kill(self.mediator.pid, Signal::SIGKILL);
        children::keep_ends();
        let mut until = Instant::now() + LAST_WORDS;
        let (mut waits, mut hurried) = (false, !self.tree_is_dead);
        while self.workers.iter().any(Option::is_some) {
            if self.draining && !waits && !hurried {
                waits = true;
                until = Instant::now() + DRAIN_MOST + LAST_WORDS;
                let _ = self.front.send(&WardenToFront::Draining);
            }
            if self.hurry && !hurried {
                hurried = true;
                until = Instant::now() + LAST_WORDS;
                self.tell_workers(&FromWarden::Abandon);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.last_words(left);
        }
        let until = Instant::now() + LAST_WORDS;
        let left = until.saturating_duration_since(Instant::now());
        let unwritten = self.sink.take().map_or(0, |sink| sink.finish(left));
        let mut text = self.chosen.verbose.then(|| self.summary.to_string());
        if unwritten > 0 {
            text.get_or_insert_default().push_str(&format!("\nnetjail: the log lacks {unwritten} records"));
        }
        self.clients.close();
        let _ = self.front.send(&WardenToFront::Finished { summary: text, answered: self.summary.answered() });
        let _ = kill(self.relay.pid, Signal::SIGKILL);
        // The mediator's own child comes to this process when its parent goes; it dies of that, unless it hangs in the
        // kernel on a descriptor of the jail's.
        children::reap_all(LAST_WORDS);
    }

    /// Lets the mediator tell what is left: the jail's last lines in its /dev/log, its last refused connect.
    fn read_letters(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        self.letters &= self.mediator.channel.try_send(&ToMediator::ReadLetters).is_ok();
        while self.letters {
            let left = until.saturating_duration_since(Instant::now());
            let mut polled = [PollFd::new(self.mediator.channel.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(1..) if !left.is_zero() => self.hear(Source::Mediator),
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }

    fn tell_workers(&self, message: &FromWarden) {
        for worker in self.workers.iter().flatten() {
            let _ = worker.send(message);
        }
    }

    /// Takes records of workers until they close their channels, and front's word that it is enough.
    fn last_words(&mut self, patience: Duration) {
        let mut all: Vec<(BorrowedFd<'_>, Source)> = Vec::new();
        if !self.hurry {
            all.push((self.front.as_fd(), Source::Front));
        }
        for (index, worker) in self.workers.iter().enumerate() {
            all.extend(worker.as_ref().map(|worker| (worker.as_fd(), Source::Worker(index))));
        }
        let (mut polled, sources): (Vec<PollFd<'_>>, Vec<Source>) =
            all.into_iter().map(|(fd, source)| (PollFd::new(fd, PollFlags::POLLIN), source)).unzip();
        let _ = poll(&mut polled, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO));
        let ready: Vec<bool> = polled.iter().map(|p| p.revents().is_some_and(|events| !events.is_empty())).collect();
        drop(polled);
        for (source, _) in sources.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            self.hear(source);
        }
    }
}
