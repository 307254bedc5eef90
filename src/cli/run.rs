//! `netjail run` and `netjail shell`.

use std::ffi::OsString;

use super::args::{JailArguments, RunArguments, ShellArguments};
use crate::roles::{RunOptions, front};

/// Runs a command in a jail; the exit status is the command's.
pub fn run(arguments: RunArguments, ignored: u64) -> i32 {
    front::run(&options(arguments.jail, arguments.command), ignored)
}

/// Runs the user's shell in a jail.
pub fn shell(arguments: ShellArguments, ignored: u64) -> i32 {
    let shell =
        std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| OsString::from("/bin/sh"));
    front::run(&options(arguments.jail, vec![shell]), ignored)
}

fn options(jail: JailArguments, command: Vec<OsString>) -> RunOptions {
    RunOptions {
        command,
        network: jail.network,
        registries: jail.registries,
        log: jail.log,
        verbose: jail.verbose,
        quiet: jail.quiet,
        workers: jail.workers,
        mtu: jail.mtu,
        name: jail.name,
        groups: jail.groups,
        allow_lan: jail.allow_lan,
        wait: jail.wait,
        set_environment: jail.env,
        clear_environment: jail.env_clear,
        keep_descriptors: jail.keep_descriptors,
        hostname: jail.hostname,
    }
}
