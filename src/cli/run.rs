//! `netjail run` and `netjail shell`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::args::{JailArguments, RunArguments, ShellArguments};
use super::user;
use crate::jail::desktop::{self, Door};
use crate::jail::letterbox;
use crate::jail::mounts::{HomeView, ProcView, TmpView};
use crate::jail::seccomp::{self, Sockets};
use crate::roles::{RunOptions, ViewOptions, front, say};

/// Runs a command in a jail; the exit status is the command's.
pub fn run(arguments: RunArguments, ignored: u64) -> i32 {
    start(arguments.jail, arguments.command, ignored)
}

/// Runs the user's shell in a jail.
pub fn shell(arguments: ShellArguments, ignored: u64) -> i32 {
    let shell =
        std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| OsString::from("/bin/sh"));
    start(arguments.jail, vec![shell], ignored)
}

fn start(jail: JailArguments, command: Vec<OsString>, ignored: u64) -> i32 {
    if let Some(name) = &jail.user
        && let Err(why) = user::become_user(name)
    {
        say(&why);
        return front::OWN_FAILURE;
    }
    match options(jail, command) {
        Ok(options) => front::run(&options, ignored),
        Err(why) => {
            say(&why);
            front::OWN_FAILURE
        }
    }
}

fn options(jail: JailArguments, command: Vec<OsString>) -> Result<RunOptions, String> {
    if jail.sockets == "none" && !(jail.allow_sockets.is_empty() && jail.allow.is_empty()) {
        return Err(
            "--sockets none closes every unix socket, also those of --allow-socket and --allow: leave one of them \
                    out"
            .into(),
        );
    }
    let doors: Vec<Door> = jail.allow.iter().filter_map(|name| Door::of(name)).collect();
    let mut session = desktop::open(&doors, &|name| std::env::var_os(name)).map_err(|e| e.to_string())?;
    if jail.allow_datagrams {
        session.set.extend(letterbox::variables(&|name| std::env::var_os(name), std::process::id()));
    }
    Ok(RunOptions {
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
        view: ViewOptions {
            home: match jail.home.as_str() {
                "ro" => HomeView::ReadOnly,
                "tmp" => HomeView::Temporary,
                _ => HomeView::Host,
            },
            read_only: absolute(jail.read_only),
            read_write: absolute(jail.read_write),
            tmp: match (jail.tmp, jail.share_tmp) {
                (true, _) => TmpView::Empty,
                (_, true) => TmpView::Shared,
                _ => TmpView::ReadThrough,
            },
            proc: if jail.proc == "host-masked" { ProcView::HostMasked } else { ProcView::Fresh },
            allow_netfs: jail.allow_netfs,
        },
        filter: seccomp::Options {
            sockets: match jail.sockets.as_str() {
                "none" => Sockets::None,
                "host" => Sockets::Host,
                _ => Sockets::Jail,
            },
            allow_datagrams: jail.allow_datagrams,
            nested_sandbox: jail.allow_nested_sandbox,
            ..seccomp::Options::default()
        },
        allow_sockets: absolute(jail.allow_sockets),
        session,
    })
}

/// Paths as the caller means them, whatever the working folder of a role will be.
fn absolute(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect()
}
