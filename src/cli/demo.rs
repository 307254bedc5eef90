//! `netjail demo`, and the client that it runs in its jails.

use std::io;

use super::args::DemoClientArguments;
use crate::demo;
use crate::registry::report;

/// Shows what a jail does, on this machine alone; the status is 1 if anything was not as it should be, 125 if no jail could
/// be started.
pub fn run() -> i32 {
    demo::run(report::colour(&io::stdout()))
}

/// What runs inside.
pub fn client(arguments: &DemoClientArguments) -> i32 {
    demo::client::run(&arguments.target)
}
