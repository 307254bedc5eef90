//! What init needs to know: what the command line says, worked out before the fork, and what comes later as front's word.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sys::resource::Resource;
use nix::unistd::{User, getegid, geteuid};

use crate::control::messages::{Account, Go, Machine, Prepared};
use crate::jail::environment::{self, Choices, Environment, host_name};
use crate::jail::payload::{self, Attributes, Command, Identity, Setting};
use crate::jail::{core_dumps, counters, identity, letterbox, mounts, network, seccomp};
use crate::names::pool;
use crate::roles::RunOptions;

/// Descriptors that netjail's own processes keep for themselves below the payload's limit: per-user kernel limits count
/// descriptors in flight, and a payload that used them all would stop every hand-over.
const RESERVED_DESCRIPTORS: u64 = 256;

/// What is known before init is forked, while the registry may still be wrong.
#[derive(Debug)]
pub struct Draft {
    argv: Vec<CString>,
    directory: PathBuf,
    attributes: Attributes,
    names: identity::Identity,
    pub(super) setting: Setting,
    pub(super) link: network::Link,
    pub(super) queues: u16,
}

impl Draft {
    /// Works it out, or says what the caller asked for that can not be.
    pub fn new(options: &RunOptions, attributes: Attributes) -> Result<Self, String> {
        let argv = options
            .command
            .iter()
            .map(|argument| CString::new(argument.as_bytes()).map_err(|_| "an argument holds a zero byte".to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let directory = std::env::current_dir()
            .map_err(|e| format!("the working folder can not be found: {e}; change to a folder that exists"))?;
        let most_descriptors = attributes
            .limits
            .iter()
            .find(|(number, ..)| *number == Resource::RLIMIT_NOFILE as i32)
            .map_or(u64::MAX, |&(_, _, hard)| hard.saturating_sub(RESERVED_DESCRIPTORS).max(hard / 2));
        let resolvers = vec![pool::GATEWAY_V4.into()];
        let names = identity::Identity::new(&options.hostname, resolvers).map_err(|e| e.to_string())?;
        Ok(Self {
            argv,
            directory,
            attributes,
            names,
            setting: Setting {
                identity: Identity { uid: geteuid(), gid: getegid(), full_range: geteuid().is_root() },
                kept: options.keep_descriptors.clone(),
                most_descriptors,
            },
            link: network::Link { name: "tun0".into(), mtu: options.mtu.into(), v4: pool::OWN_V4, v6: pool::OWN_V6 },
            queues: options.workers,
        })
    }
}

impl Machine {
    /// Asks for its limits, and who the caller is, which may take a name service a while.
    pub fn of_caller() -> Self {
        let account = |user: User| Account { name: user.name, shell: user.shell, home: user.dir };
        Self {
            shares: counters::Shares::of_caller(),
            account: User::from_uid(geteuid()).ok().flatten().map(account),
            core_limit_is_fixed: core_dumps::limit().is_some(),
        }
    }
}

/// The environment that the command gets.
pub fn environment(options: &RunOptions, prepared: &Prepared) -> Environment {
    let session = options.session.set.iter();
    let choices = Choices {
        set: session.chain(&options.set_environment).cloned().collect(),
        clear: options.clear_environment,
        secrets: prepared.secret_variables.clone(),
        host_name: host_name(),
    };
    environment::build(std::env::vars_os(), &choices)
}

/// The file that will be executed.
pub fn program(options: &RunOptions, environment: &Environment) -> Option<PathBuf> {
    let name = CString::new(options.command.first()?.as_bytes()).ok()?;
    payload::find_program(&name, &std::env::current_dir().ok()?, &environment.clone().as_execve_wants())
}

/// Everything that init needs to know.
#[derive(Debug)]
pub struct Plan {
    pub(super) command: Command,
    pub(super) setting: Setting,
    pub(super) wait: bool,
    pub(super) view: mounts::Plan,
    pub(super) filter: seccomp::Options,
    pub(super) shares: counters::Shares,
    secret_variables: Vec<String>,
    /// `NAME=value` of what `--allow` opens.
    session: Vec<CString>,
}

impl Plan {
    /// Puts it together. To be called while the host's files and its name are still to be seen.
    pub fn new(options: &RunOptions, draft: Draft, go: Go) -> Self {
        let Go { prepared, machine } = go;
        let environment = environment(options, &prepared).as_execve_wants();
        let Draft { argv, directory, attributes, names, setting, .. } = draft;
        let command = Command { argv, environment, directory, attributes };
        Self {
            view: view(options, &prepared, machine.account, names, &command),
            command,
            setting,
            wait: options.wait,
            filter: seccomp::Options {
                core_limit_is_fixed: machine.core_limit_is_fixed,
                is_root: geteuid().is_root(),
                ..options.filter
            },
            shares: machine.shares,
            secret_variables: prepared.secret_variables,
            session: options.session.variables().collect(),
        }
    }

    /// A command of `exec` as it may run here: without the variables that the registry reads secrets from, for whoever asks
    /// for it does not know which these are, and with those of what the jail was opened to.
    pub(super) fn fitted(&self, mut command: Command) -> Command {
        let is_secret = |entry: &CString| self.secret_variables.iter().any(|secret| secret.as_bytes() == name(entry));
        command.environment.retain(|entry| !is_secret(entry));
        let lacking = |entry: &&CString| !command.environment.iter().any(|own| name(own) == name(entry));
        let session: Vec<CString> = self.session.iter().filter(lacking).cloned().collect();
        command.environment.extend(session);
        command
    }
}

fn name(entry: &CString) -> &[u8] {
    entry.as_bytes().split(|&b| b == b'=').next().unwrap_or_default()
}

/// The file system and identity that the jail sees.
fn view(
    options: &RunOptions,
    prepared: &Prepared,
    account: Option<Account>,
    identity: identity::Identity,
    command: &Command,
) -> mounts::Plan {
    let (name, shell, home) = match account {
        Some(user) => (user.name, user.shell, user.home),
        None => (format!("user{}", geteuid()), PathBuf::from("/bin/sh"), PathBuf::from("/")),
    };
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute()).unwrap_or(home);
    let caller = mounts::Caller { uid: geteuid().as_raw(), gid: getegid().as_raw(), name, shell, home };
    let mut view = mounts::Plan::new(caller, command.directory.clone(), identity);
    view.command = payload::find_program(&command.argv[0], &command.directory, &command.environment);
    view.masked_folders = prepared.hidden_folders.clone();
    view.secret_files = prepared.secret_files.clone();
    view.sockets.clone_from(&prepared.sockets);
    view.runtime_folder.clone_from(&options.session.runtime_folder);
    view.log_socket = options.filter.allow_datagrams.then(|| letterbox::LOG.into());
    view.session_files.clone_from(&options.session.files);
    let log = options.log.as_ref().filter(|log| log.as_os_str() != "-");
    view.log_file = log.map(|log| command.directory.join(log));
    let asked = &options.view;
    (view.home, view.tmp, view.proc, view.allow_netfs) = (asked.home, asked.tmp, asked.proc, asked.allow_netfs);
    view.read_only.clone_from(&asked.read_only);
    view.read_write.clone_from(&asked.read_write);
    view.nested_sandbox = options.filter.nested_sandbox;
    view
}
