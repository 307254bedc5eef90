//! The command line: arguments in, lines out, an exit status; everything else is the roles'.

mod allow;
mod args;
mod check;
mod completions;
mod demo;
#[cfg(test)]
mod docs;
mod doctor;
mod exec;
mod hint;
mod man;
mod networks;
mod probe;
mod progress;
mod ps;
mod run;
mod selftest;
mod stop;
mod table;
mod user;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;

use crate::control::rundir;
use crate::registry::{self, LoadError, Loaded, Search, report};
use crate::roles::front::OWN_FAILURE;
use crate::roles::say;
use args::{Arguments, Run, Subcommand};

/// 1: the command did its work, and found something wrong.
const FINDING: i32 = 1;
/// 2: what was asked for makes no sense.
const USAGE: i32 = 2;

/// Runs the program. `ignored` are the signals that were ignored when it began, as a bit mask.
pub fn main(ignored: u64) -> i32 {
    let words: Vec<OsString> = std::env::args_os().collect();
    let arguments = match Arguments::of(&words) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, &words),
    };
    match arguments.subcommand {
        Subcommand::Run(Run::Run(options)) => run::run(options, ignored),
        Subcommand::Shell(options) => run::shell(options, ignored),
        Subcommand::Ps(options) => ps::run(&options),
        Subcommand::Exec(options) => exec::run(options, ignored),
        Subcommand::Stop(options) => stop::run(&options),
        Subcommand::Check(options) => status(check::run(options)),
        Subcommand::Networks(options) => status(networks::run(options)),
        Subcommand::Probe(options) => status(probe::run(options)),
        Subcommand::ProbeClient(options) => probe::client(&options),
        Subcommand::Allow => status(allow::run()),
        Subcommand::Demo => demo::run(),
        Subcommand::DemoClient(options) => demo::client(&options),
        Subcommand::Doctor(options) => doctor::run(&options),
        Subcommand::Completions(options) => completions::run(&options),
        Subcommand::Man(options) => man::run(&options),
        Subcommand::Selftest(options) => selftest::run(&options),
        Subcommand::SelftestAttack(options) => selftest::attack(&options),
        Subcommand::SelftestVictim(options) => selftest::victim(&options),
    }
}

/// `run`, `shell` and `exec` have 125 for every failure of netjail's own, usage included: 2 may be the command's.
fn usage(error: &clap::Error, words: &[OsString]) -> i32 {
    let _ = error.print();
    if let Some(line) = hint::run_forgotten(error, words) {
        let _ = writeln!(io::stderr(), "\n{line}");
    }
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return 0;
    }
    let starts_commands = words.get(1).is_some_and(|word| word == "run" || word == "shell" || word == "exec");
    if starts_commands { OWN_FAILURE } else { USAGE }
}

/// Prints a report. A reader that has gone (`| head`) is no error.
fn print(text: &str, status: impl Into<i32>) -> i32 {
    let _ = io::stdout().write_all(text.as_bytes());
    status.into()
}

/// A mistake of which the person has been told: with this status the command ends.
struct Told(i32);

impl Told {
    fn say(why: &str, status: i32) -> Self {
        say(why);
        Self(status)
    }
}

fn status(ended: Result<i32, Told>) -> i32 {
    ended.unwrap_or_else(|Told(status)| status)
}

/// Where a registry is looked for: in these files, or where there are none in the usual places.
fn search(registries: Vec<PathBuf>) -> Result<Search, Told> {
    Search::from_environment(registries).map_err(|e| {
        Told::say(&format!("the working folder can not be found: {e}; change to a folder that exists"), USAGE)
    })
}

/// What is found there.
fn load(search: &Search) -> Result<Loaded, Told> {
    registry::load(search, &registry::process_environment).map_err(|LoadError(findings)| {
        eprint!("{}", report::errors(&findings, report::colour(&io::stderr())));
        Told(FINDING)
    })
}

/// Where the control sockets of live jails are.
fn run_folder() -> PathBuf {
    let state = Search::from_environment(Vec::new()).map(|search| search.state).unwrap_or_else(|_| "/".into());
    rundir::path(&state)
}
