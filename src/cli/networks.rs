//! `netjail networks`.

use std::io;

use super::args::NetworksArguments;
use super::{FINDING, USAGE, print};
use crate::registry::{self, LoadError, Search, report};
use crate::roles::front;

/// Lists the networks that `run` can be given; the status is 1 if the registry cannot be used.
pub fn run(arguments: NetworksArguments) -> i32 {
    let search = match Search::from_environment(arguments.registries) {
        Ok(search) => search,
        Err(e) => {
            front::say(&super::no_working_folder(&e));
            return USAGE;
        }
    };
    match registry::load(&search, &registry::process_environment) {
        Ok(loaded) => {
            let report = if arguments.json { report::networks_json(&loaded) } else { report::networks(&loaded) };
            print(&report.text, report.status)
        }
        Err(LoadError(findings)) => {
            eprint!("{}", report::errors(&findings, report::colour(&io::stderr())));
            FINDING
        }
    }
}
