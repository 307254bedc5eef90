//! `netjail exec`.

use super::args::ExecArguments;
use crate::control::messages::Ending;
use crate::roles::client::{self, ClientError};
use crate::roles::front::{self, OWN_FAILURE};
use crate::roles::say;
use crate::roles::signals::die_by;

/// Runs a command in a live jail; the exit status is the command's.
pub fn run(arguments: ExecArguments, ignored: u64) -> i32 {
    let outcome = client::command_of_caller(&arguments.command, ignored)
        .and_then(|command| client::exec(&super::run_folder(), &arguments.jail, &command));
    match outcome {
        Ok(Ending::Exited(status)) => status,
        Ok(Ending::Signalled(number)) => die_by(number),
        Err(ClientError::NotRun(error)) => front::not_run(&error),
        Err(error) => {
            say(&error.to_string());
            OWN_FAILURE
        }
    }
}
