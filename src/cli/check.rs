//! `netjail check`.

use std::io;

use super::args::CheckArguments;
use super::{FINDING, Told, print, search};
use crate::registry::{self, LoadError, report, trust};

/// Validates the registry and the settings; the status is 1 if something is wrong with them, or `run` would not believe them.
pub fn run(arguments: CheckArguments) -> Result<i32, Told> {
    let search = search(arguments.registries)?;
    let loaded = registry::load(&search, &registry::process_environment);
    let trust = loaded.as_ref().ok().map(|loaded| trust::check(&trust::Store::new(&search.state), loaded));
    let refused = matches!(trust, Some(trust::Trust::Changed(_)));
    if arguments.json {
        let report = report::check_json(&loaded, trust.as_ref());
        return Ok(print(&report.text, report.status));
    }
    let mut report = report::check(&loaded, report::colour(&io::stdout()));
    if let Some(trust) = &trust {
        report.text.push_str(&format!("trust: {}\n", in_words(trust)));
    }
    Ok(match (arguments.quiet, &loaded, &trust) {
        (false, ..) => print(&report.text, if refused { FINDING } else { report.status.into() }),
        (true, Err(LoadError(findings)), _) => print(&report::errors(findings, report::colour(&io::stdout())), FINDING),
        (true, Ok(_), Some(trust::Trust::Changed(changed))) => print(&format!("{changed}\n"), FINDING),
        (true, Ok(loaded), _) => print(&report::missing(loaded, report::colour(&io::stdout())), report.status),
    })
}

/// Whether `run` would believe what was found.
fn in_words(trust: &trust::Trust) -> String {
    match trust {
        trust::Trust::Trusted => "believed".into(),
        trust::Trust::FirstUse(_) => "never used: the first `netjail run` remembers it as it is then".into(),
        trust::Trust::Changed(changed) => format!("refused by `netjail run`: {changed}"),
    }
}
