//! `netjail demo`: what a jail does, shown on this machine alone.
//!
//! Everything that a jail meets in real life stands here on loopback addresses: a server that answers with the address it
//! was reached from, a SOCKS5 proxy that leaves from another address ([`proxy::SOURCE`]), and services of the host that no
//! jail may reach ([`servers`]). The program then runs itself: each act is a real `netjail run` with a real child
//! ([`client`]) that says in one line what became of its attempt. [`stage`] holds the folder and starts the children;
//! [`story`] tells the acts and judges them.
//!
//! Nothing of the user's is read or written: settings, state and run folder lie in a temporary folder of the demo's own,
//! which goes with it.

pub mod client;
pub mod proxy;
pub mod servers;
pub mod stage;
pub mod story;
pub mod tell;

use crate::roles::front::OWN_FAILURE;
use crate::roles::say;
use crate::roles::signals::die_by;
use stage::{Stage, StageError};

/// Runs the demo and returns its exit status: 0 if everything was as it should be, 1 if not, 125 if no jail could be started.
pub fn run(colour: bool) -> i32 {
    let outcome = Stage::build().and_then(|stage| story::tell(&stage, tell::Teller::new(colour)));
    match outcome {
        Ok(0) => 0,
        Ok(_) => 1,
        Err(StageError::Interrupted(signal)) => die_by(signal),
        Err(error) => {
            say(&error.to_string());
            OWN_FAILURE
        }
    }
}
