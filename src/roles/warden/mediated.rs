//! What the mediator tells: refused connects, what programs ran into, and what they wrote to the jail's own /dev/log.

use super::Warden;
use crate::control::channel::ChannelError;
use crate::control::messages::{Refusal, WardenToFront};
use crate::escape::escape;
use crate::jail::letterbox;
use crate::mediate::FromMediator;

impl Warden {
    pub(super) fn hear_mediator(&mut self) {
        let text = match self.mediator.channel.receive() {
            Ok((FromMediator::Refused { path, .. }, _)) => {
                let path = String::from_utf8_lossy(&path).into_owned();
                let path = escape(&path).into_owned();
                self.say_verbosely(&format!(
                    "the socket {path} is not the jail's own, so connecting to it was refused"
                ));
                let _ = self.front.try_send(&WardenToFront::SocketRefused(path));
                return;
            }
            Ok((FromMediator::Logged { text }, _)) => {
                let line = WardenToFront::Say(format!("log: {}", letterbox::log_line(&text)));
                // A front that is stopped must not stop the warden: what it has no room for is lost.
                let _ = if self.chosen.quiet { Ok(()) } else { self.front.try_send(&line) };
                return;
            }
            Ok((FromMediator::LettersRead, _)) => {
                self.letters = false;
                return;
            }
            Ok((FromMediator::Notified { text }, _)) => {
                if let Some(lines) = letterbox::notification(&text) {
                    let _ = self.front.try_send(&WardenToFront::Notify(lines));
                }
                return;
            }
            Ok((FromMediator::ForeignArchitecture { .. }, _)) => {
                "a 32-bit program in the jail got ENOSYS for its system calls: only 64-bit programs run in a jail"
            }
            Ok((FromMediator::Unreadable { .. }, _)) => {
                "a program whose file nobody in the jail may read could not connect: its memory can not be read either"
            }
            Ok((FromMediator::CannotAllow { path, errno }, _)) => {
                let (path, why) =
                    (String::from_utf8_lossy(&path).into_owned(), std::io::Error::from_raw_os_error(errno));
                return self.fail(Refusal(format!(
                    "the socket {} can not be allowed: {why}; name a socket, or the folder in which its server will make it",
                    escape(&path)
                )));
            }
            Ok((FromMediator::TooManyBound, _)) => {
                "the jail has bound too many unix sockets; the latest can not be connected to"
            }
            Ok((FromMediator::Replaced, _)) => {
                "the jail had blocked its mediator, which was replaced; connects under way have failed"
            }
            Err(ChannelError::WouldBlock) => return,
            // A jail whose connects nobody executes is a broken one.
            Err(_) => {
                self.letters = false;
                let why = "the jail's mediator died; its connects could not be looked after any more, and it was ended";
                return self.fail(Refusal(why.into()));
            }
        };
        let _ = self.front.send(&WardenToFront::Say(text.into()));
    }

    pub(super) fn say_verbosely(&self, text: &str) {
        if self.chosen.verbose {
            let _ = self.front.send(&WardenToFront::Say(text.into()));
        }
    }
}
