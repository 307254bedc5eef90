//! What this machine lacks for a jail, and whether a jail on this machine holds.
//!
//! [`probes`] is one table of facts about the machine: each row is a name, what its lack costs, and a function that finds out
//! by trying (a sysctl says what is configured; only a forked child that tries says what works). `netjail doctor` prints the
//! table, and `run` asks it after a failed start ([`explain_failure`]).
//!
//! [`selftest`] runs [`attacks`] inside a jail and, as the control, outside of one, against victims that it starts itself.

pub mod apparmor;
pub mod attacks;
mod container;
mod finding;
mod kernel;
mod machine;
mod namespaces;
pub mod probes;
pub mod selftest;
mod trial;

pub use finding::State;
pub use probes::{Need, Row};

/// Names each thing that a jail requires and this machine lacks, with its remedy; `None` where nothing is missing.
///
/// For `run` after a start that failed. Takes some milliseconds: each probe is tried. The caller must be single-threaded.
pub fn explain_failure() -> Option<String> {
    let mut missing: Vec<Row> =
        probes::PROBES.iter().filter(|p| p.need.is_required()).map(probes::Probe::run).filter(Row::is_fatal).collect();
    // Only causes: what fails for want of another row is not a lack of its own.
    missing.retain(|row| row.remedy.as_deref() != Some(namespaces::EARLIER));
    if missing.iter().any(|row| row.name == "tun-device") {
        missing.retain(|row| row.name != "tun-works");
    }
    if missing.is_empty() {
        return None;
    }
    let mut text = String::from("this machine lacks what a jail needs:");
    for row in &missing {
        text.push_str(&format!("\n  {}: {}", row.name, row.found));
        if let Some(remedy) = &row.remedy {
            text.push_str(&format!("\n    repair: {remedy}"));
        }
        if let Some(flag) = row.accept {
            text.push_str(&format!("\n    or accept its absence: {flag} ({})", row.cost));
        }
    }
    if let Some(advice) = container::advice() {
        text.push_str(&format!("\n  {advice}"));
    }
    text.push_str("\n  `netjail doctor` shows the whole table");
    Some(text)
}
