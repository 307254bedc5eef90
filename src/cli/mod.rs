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

use clap::error::ErrorKind;

use crate::control::rundir;
use crate::registry::Search;
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
        Subcommand::Check(options) => check::run(options),
        Subcommand::Networks(options) => networks::run(options),
        Subcommand::Probe(options) => probe::run(options),
        Subcommand::ProbeClient(options) => probe::client(&options),
        Subcommand::Allow => allow::run(),
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
    if starts_commands { crate::roles::front::OWN_FAILURE } else { USAGE }
}

/// Prints a report. A reader that has gone (`| head`) is no error.
fn print(text: &str, status: impl Into<i32>) -> i32 {
    let _ = io::stdout().write_all(text.as_bytes());
    status.into()
}

fn no_working_folder(e: &io::Error) -> String {
    format!("the working folder can not be found: {e}; change to a folder that exists")
}

/// Where the control sockets of live jails are.
fn run_folder() -> std::path::PathBuf {
    let state = Search::from_environment(Vec::new()).map(|search| search.state).unwrap_or_else(|_| "/".into());
    rundir::path(&state)
}
