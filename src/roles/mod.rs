//! The processes of a jail, each a room: its main loop, what it may do, what it must never hold.
//!
//! - [`front`]: what the shell waits for. Terminal, signals, exit status.
//! - [`warden`]: registry, policy, log, control socket; dials the proxy and hands the descriptors to the relay.
//! - [`relay`]: packets, flows and the replies of a proxy, in a cage.
//! - [`mediator`]: executes the jail's connects on copies of its own.
//! - [`usher`]: takes the descriptors that come with one `exec`.
//! - [`init`]: pid 1 of the jail, the only fork server.

pub mod client;
pub mod fork;
pub mod front;
pub mod guard;
pub mod init;
pub mod mediator;
mod preparing;
pub mod relay;
pub mod remark;
mod rest;
pub mod signals;
pub mod streams;
pub mod terminal;
pub mod title;
pub mod usher;
pub mod warden;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::jail::desktop::Session;
use crate::jail::{mounts, seccomp};

/// A line of netjail's own for the person, on standard error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "netjail: {text}");
}

/// What `run` was asked for, as the roles need it.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The program and its arguments; not empty.
    pub command: Vec<OsString>,
    /// `--network`.
    pub network: Option<String>,
    /// `--registry`, which replaces the search.
    pub registries: Vec<PathBuf>,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `-v`: notes at the start, a summary at the end.
    pub verbose: bool,
    /// `-q`: no warnings.
    pub quiet: bool,
    /// `--workers`: TUN queues, one thread each.
    pub workers: u16,
    /// `--mtu`, bytes.
    pub mtu: u16,
    /// `--name`.
    pub name: Option<String>,
    /// `--group`.
    pub groups: Vec<String>,
    /// `--allow-lan`.
    pub allow_lan: bool,
    /// `--wait`: the jail lives until its last process ends.
    pub wait: bool,
    /// `--env NAME=VALUE`.
    pub set_environment: Vec<(OsString, OsString)>,
    /// `--env-clear`.
    pub clear_environment: bool,
    /// `--keep-fd`.
    pub keep_descriptors: Vec<RawFd>,
    /// `--hostname`.
    pub hostname: String,
    /// What the jail sees of the caller's files, and what it may reach through them.
    pub view: ViewOptions,
    /// `--sockets`, `--allow-datagrams`, `--allow-nested-sandbox`.
    pub filter: seccomp::Options,
    /// `--allow-socket`.
    pub allow_sockets: Vec<PathBuf>,
    /// `--allow`: what it takes of the caller's session.
    pub session: Session,
}

/// The options of the file system.
#[derive(Clone, Debug, Default)]
pub struct ViewOptions {
    /// `--home`.
    pub home: mounts::HomeView,
    /// `--ro`.
    pub read_only: Vec<PathBuf>,
    /// `--rw`.
    pub read_write: Vec<PathBuf>,
    /// `--tmp`, `--share-tmp`.
    pub tmp: mounts::TmpView,
    /// `--proc`.
    pub proc: mounts::ProcView,
    /// `--allow-netfs`.
    pub allow_netfs: bool,
}
