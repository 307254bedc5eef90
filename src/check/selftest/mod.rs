//! The leak matrix: every attack inside a jail, with the same attack outside as its control.
//!
//! One row is decided thus. The attack gets out: *leaked*, whatever the control says. It does not, and the control outside
//! does: *blocked*. Neither does: *not applicable*, this machine has no such door for this user. The control is the same
//! process started plainly and, if that fails, in a user and network namespace of its own without any further protection,
//! because some attacks need the capabilities that such a namespace gives.
//!
//! An attack that gives no answer proves nothing: *undecided*, which counts as a failure. Only where the attack is given a
//! descriptor or terminal is a launcher's refusal to start the answer itself.

mod gifts;
mod host;
mod launch;
mod process;
mod victims;

use std::ffi::OsString;

use serde::Serialize;

use super::attacks::{Attack, Context, DOORS, Gift, Outcome, Proof, Way};
pub use launch::Launcher;
use launch::Reply;
pub use process::serve as serve_victim;
use victims::Victims;

/// The result of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It works outside and not inside.
    Blocked,
    /// It works inside.
    Leaked,
    /// It works nowhere on this machine.
    NotApplicable,
    /// No answer came.
    Undecided,
}

impl Verdict {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Blocked => "BLOCKED",
            Verdict::Leaked => "LEAKED",
            Verdict::NotApplicable => "NOT APPLICABLE",
            Verdict::Undecided => "UNDECIDED",
        }
    }
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Which door.
    pub door: &'static str,
    /// The attack's name.
    pub name: &'static str,
    /// What was tried.
    pub what: &'static str,
    /// The result.
    pub verdict: Verdict,
    /// What the attack reported from inside.
    pub inside: String,
    /// What the control reported from outside; empty where it was not needed.
    pub outside: String,
}

/// Why there is no matrix.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// A victim could not be started.
    #[error("a victim could not be started: {what}: {source}; free what it needs and try again")]
    Victim {
        /// Which.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Nothing runs under the launcher.
    #[error("nothing runs under `{launcher}`, so nothing can be judged: {why}")]
    Launcher {
        /// The launcher.
        launcher: String,
        /// What was heard.
        why: String,
    },
    /// No such attack.
    #[error("there is no case named {0}; `netjail selftest --json` lists them")]
    Unknown(String),
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another launcher instead of `netjail run`: its command line, to which the attack is appended.
    pub launcher: Option<Vec<OsString>>,
    /// Only these cases; empty is all.
    pub only: Vec<String>,
}

/// Runs the matrix; `heard` gets each row as soon as it is decided.
pub fn run(options: &Options, mut heard: impl FnMut(&Case)) -> Result<Vec<Case>, SelftestError> {
    if let Some(unknown) = options.only.iter().find(|name| super::attacks::find(name).is_none()) {
        return Err(SelftestError::Unknown(unknown.clone()));
    }
    let mut victims = Victims::start()?;
    let launcher = options.launcher.clone().map_or(Launcher::Netjail, Launcher::Other);
    launch::canary(&launcher, &victims.context)?;
    let mut cases = Vec::new();
    for door in DOORS {
        for attack in door.attacks {
            let wanted = options.only.is_empty() || options.only.iter().any(|name| name == attack.name);
            // A way to choose a direct network is netjail's own.
            if !wanted || attack.way == Way::Direct && options.launcher.is_some() {
                continue;
            }
            let (verdict, inside, outside) = judge(attack, &launcher, &mut victims)?;
            let case = Case { door: door.name, name: attack.name, what: attack.what, verdict, inside, outside };
            heard(&case);
            cases.push(case);
        }
    }
    Ok(cases)
}

fn judge(
    attack: &Attack,
    launcher: &Launcher,
    victims: &mut Victims,
) -> Result<(Verdict, String, String), SelftestError> {
    let inside = match attempt(attack, launcher, victims)? {
        Reply::Told(outcome) => outcome,
        Reply::Silent(why) if attack.gift != Gift::Nothing => Err(format!("refused to start: {why}")),
        Reply::Silent(why) => return Ok((Verdict::Undecided, why, String::new())),
    };
    let inside = match inside {
        Ok(evidence) => return Ok((Verdict::Leaked, evidence, String::new())),
        Err(why) => why,
    };
    let mut failures = Vec::new();
    for control in [Launcher::Plain, Launcher::Apart] {
        match attempt(attack, &control, victims)? {
            Reply::Told(Ok(evidence)) => return Ok((Verdict::Blocked, inside, evidence)),
            Reply::Told(Err(why)) | Reply::Silent(why) => failures.push(why),
        }
    }
    Ok((Verdict::NotApplicable, inside, failures.join("; ")))
}

/// Runs an attack once and looks at what happened outside.
fn attempt(attack: &Attack, launcher: &Launcher, victims: &mut Victims) -> Result<Reply, SelftestError> {
    victims.renew()?;
    let reply = launch::attack(attack, launcher, &victims.context);
    let Reply::Told(Ok(evidence)) = reply else {
        // What it planted without a word still counts.
        let silent_success = match attack.proof {
            Proof::VictimDied => victims.is_dead(),
            Proof::Planted => victims.take_planted(),
            Proof::Told | Proof::Arrived => false,
        };
        return Ok(if silent_success { Reply::Told(Ok("seen outside".into())) } else { reply });
    };
    let proven: Outcome = match attack.proof {
        Proof::Told => Ok(evidence),
        Proof::Arrived => victims.arrived(),
        Proof::VictimDied if victims.dies() => Ok("the process outside is dead".into()),
        Proof::VictimDied => Err("the process outside lives".into()),
        Proof::Planted if victims.take_planted() => Ok("it is there outside".into()),
        Proof::Planted => Err("planted, but not to be seen outside".into()),
    };
    Ok(Reply::Told(proven))
}

/// Runs one attack in this process and prints what became of it, for [`launch`] to read.
pub fn attack_here(name: &str, context: &std::path::Path, apart: bool) -> i32 {
    if apart && let Err(why) = launch::go_apart() {
        launch::print(&Err(why));
        return 0;
    }
    if name == launch::CANARY {
        launch::print(&Ok("sings".into()));
        return 0;
    }
    let context = std::fs::read(context).ok().and_then(|text| serde_json::from_slice::<Context>(&text).ok());
    match (super::attacks::find(name), context) {
        (Some(attack), Some(context)) => {
            launch::print(&attack.run(&context));
            0
        }
        _ => 2,
    }
}
