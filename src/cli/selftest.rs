//! `netjail selftest`, and the two hidden commands with which it starts its attacks and its victim.

use super::args::{AttackArguments, SelftestArguments, VictimArguments};
use super::progress::Progress;
use super::table;
use crate::check::selftest::{self, Case, Options, SelftestError, Verdict};
use crate::roles::say;

/// The widest evidence in the table, characters; `--json` has all of it.
const EVIDENCE: usize = 90;

/// Runs the leak matrix; the status is 1 if anything got out or could not be judged.
pub fn run(arguments: &SelftestArguments) -> i32 {
    let launcher = arguments.launcher.as_ref().map(|text| text.split_whitespace().map(Into::into).collect::<Vec<_>>());
    if launcher.as_ref().is_some_and(Vec::is_empty) {
        say(
            "--launcher is empty; give the command line that starts a jail, for example 'bwrap --unshare-all --dev-bind / / --'",
        );
        return super::USAGE;
    }
    let options = Options { launcher, only: arguments.only.clone() };
    let progress = Progress::new("starting the first jail", arguments.quiet);
    let mut done = 0;
    let heard = |case: &Case| {
        done += 1;
        progress.say(format!("{done} attacks tried, the last one {}", case.name));
    };
    let outcome = selftest::run(&options, heard);
    drop(progress);
    let cases = match outcome {
        Ok(cases) => cases,
        Err(error) => {
            say(&error.to_string());
            if matches!(error, SelftestError::Launcher { .. })
                && options.launcher.is_none()
                && let Some(reason) = crate::check::explain_failure()
            {
                say(&reason);
            }
            return if matches!(error, SelftestError::Unknown(_)) { super::USAGE } else { 1 };
        }
    };
    if arguments.json {
        match serde_json::to_string_pretty(&cases) {
            Ok(text) => println!("{text}"),
            Err(_) => return 1,
        }
    } else {
        print(&cases, arguments);
    }
    let bad = cases.iter().any(|case| matches!(case.verdict, Verdict::Leaked | Verdict::Undecided));
    i32::from(bad)
}

fn print(cases: &[Case], arguments: &SelftestArguments) {
    let rows: Vec<[String; 5]> = cases
        .iter()
        .filter(|case| !arguments.quiet || case.verdict != Verdict::Blocked)
        .map(|case| {
            let evidence = case.inside.replace(char::is_control, " ");
            let short: String = if evidence.chars().count() > EVIDENCE && !arguments.verbose {
                evidence.chars().take(EVIDENCE - 1).chain(['…']).collect()
            } else {
                evidence
            };
            [case.verdict.word().into(), case.door.into(), case.name.into(), case.what.into(), short]
        })
        .collect();
    print!("{}", table::render(["RESULT", "DOOR", "CASE", "TRIED", "EVIDENCE FROM INSIDE"], &rows));
    let count = |verdict| cases.iter().filter(|case| case.verdict == verdict).count();
    println!(
        "\n{} attacks: {} blocked, {} leaked, {} not applicable here (they fail outside too), {} undecided",
        cases.len(),
        count(Verdict::Blocked),
        count(Verdict::Leaked),
        count(Verdict::NotApplicable),
        count(Verdict::Undecided)
    );
}

/// One attack, in this process.
pub fn attack(arguments: &AttackArguments) -> i32 {
    selftest::attack_here(&arguments.name, &arguments.context, arguments.apart)
}

/// The victim process.
pub fn victim(arguments: &VictimArguments) -> i32 {
    selftest::serve_victim(&arguments.socket)
}
