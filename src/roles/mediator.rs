//! Mediator: executes the jail's connects. The work is [`crate::mediate`]'s; this is its process.

use super::RunOptions;
use super::fork::{self, exit};
use crate::control::channel::Channel;
use crate::mediate::{self, FromMediator, Setup, ToMediator};

/// Runs until the warden goes.
pub fn run(control: Channel<FromMediator, ToMediator>, options: &RunOptions) -> ! {
    let _ = fork::leave_streams();
    let setup = Setup { control, allow_datagrams: options.filter.allow_datagrams };
    exit(i32::from(mediate::run(setup).is_err()))
}
