//! `netjail completions`: what a shell's completion is made of.

use clap::CommandFactory;

use super::args::{Arguments, CompletionsArguments};

/// Writes the script for one shell to standard output.
pub fn run(arguments: &CompletionsArguments) -> i32 {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "netjail", &mut script);
    super::print(&String::from_utf8_lossy(&script), 0)
}
