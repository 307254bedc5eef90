//! `netjail networks`.

use super::args::NetworksArguments;
use super::{Told, load, print, search};
use crate::registry::report;

/// Lists the networks that `run` can be given; the status is 1 if the registry cannot be used.
pub fn run(arguments: NetworksArguments) -> Result<i32, Told> {
    let loaded = load(&search(arguments.registries)?)?;
    let report = if arguments.json { report::networks_json(&loaded) } else { report::networks(&loaded) };
    Ok(print(&report.text, report.status))
}
