//! `netjail check`.

use std::io;

use super::args::CheckArguments;
use super::{USAGE, print};
use crate::registry::{self, Search, report, trust};
use crate::roles::front;

/// Validates the registry and the settings; the status is 1 if something is wrong with them.
pub fn run(arguments: CheckArguments) -> i32 {
    let search = match Search::from_environment(arguments.registries) {
        Ok(search) => search,
        Err(e) => {
            front::say(&super::no_working_folder(&e));
            return USAGE;
        }
    };
    let loaded = registry::load(&search, &registry::process_environment);
    let mut report = match arguments.json {
        true => report::check_json(&loaded),
        false => report::check(&loaded, super::colour(&io::stdout())),
    };
    if let (Ok(loaded), false) = (&loaded, arguments.json) {
        report.text.push_str(&format!("trust: {}\n", trust_in(&search, loaded)));
    }
    print(&report.text, report.status)
}

/// Whether `run` would believe what was found; not an error of the registry.
fn trust_in(search: &Search, loaded: &registry::Loaded) -> String {
    match trust::check(&trust::Store::new(&search.state), loaded) {
        trust::Trust::Trusted => "believed".into(),
        trust::Trust::FirstUse(_) => "never used: the first `netjail run` remembers it as it is then".into(),
        trust::Trust::Changed(changed) => format!("refused by `netjail run`: {changed}"),
    }
}
