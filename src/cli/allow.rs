//! `netjail allow`.

use std::io;

use super::{FINDING, USAGE, print};
use crate::registry::{self, LoadError, Search, report, trust};
use crate::roles::front;

/// Believes the project's registry as it is now; the status is 1 if that cannot be recorded, or there is nothing valid to
/// believe.
pub fn run() -> i32 {
    let search = match Search::from_environment(Vec::new()) {
        Ok(search) => search,
        Err(e) => {
            front::say(&super::no_working_folder(&e));
            return USAGE;
        }
    };
    let loaded = match registry::load(&search, &registry::process_environment) {
        Ok(loaded) => loaded,
        Err(LoadError(findings)) => {
            eprint!("{}", report::errors(&findings, report::colour(&io::stderr())));
            return FINDING;
        }
    };
    match trust::allow(&trust::Store::new(&search.state), &loaded) {
        Ok(line) => print(&format!("{line}\n"), 0),
        Err(e) => {
            front::say(&e.to_string());
            FINDING
        }
    }
}
