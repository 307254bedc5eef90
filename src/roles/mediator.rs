//! Mediator: executes the jail's connects. The work is [`crate::mediate`]'s; this is its process.

use super::fork::{self, exit};
use crate::control::channel::Channel;
use crate::mediate::{self, FromMediator, Setup, ToMediator};

/// Runs until the warden goes.
pub fn run(control: Channel<FromMediator, ToMediator>) -> ! {
    let _ = fork::leave_streams();
    let setup = Setup { control, allowed: Vec::new(), allow_datagrams: false };
    exit(i32::from(mediate::run(setup).is_err()))
}
