//! What can be written on the command line; help, completions and manual pages come from here too.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Parser};

use crate::jail::desktop::Door;
use crate::jail::identity::DEFAULT_HOSTNAME;
use crate::registry::{BadEndpoint, Endpoint};

/// Starts a command in a network namespace whose only way out is the overlay you choose.
#[derive(Debug, Parser)]
#[command(name = "netjail", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub subcommand: Subcommand,
}

/// The same with one subcommand only. Most of what the parser does is to describe what was not asked for, and a jail is to
/// start fast.
#[derive(Debug, Parser)]
#[command(name = "netjail", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct RunAlone {
    #[command(subcommand)]
    subcommand: Run,
}

impl Arguments {
    /// Parses the words of a command line, the program's own name first.
    pub fn of(words: &[OsString]) -> Result<Self, clap::Error> {
        if words.get(1).is_some_and(|word| word == "run") {
            RunAlone::try_parse_from(words).map(|alone| Self { subcommand: Subcommand::Run(alone.subcommand) })
        } else {
            Self::try_parse_from(words)
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum Run {
    /// Run a command in a jail.
    Run(RunArguments),
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    #[command(flatten)]
    Run(Run),
    /// Run your shell in a jail.
    Shell(ShellArguments),
    /// List the jails that run.
    Ps(PsArguments),
    /// Run a command in a jail that runs.
    Exec(ExecArguments),
    /// End a jail and everything in it.
    Stop(StopArguments),
    /// Validate the registry and the settings.
    Check(CheckArguments),
    /// List the networks that `run --network` can be given.
    Networks(NetworksArguments),
    /// Say which address the far side sees, directly and through each network.
    Probe(ProbeArguments),
    /// What `probe` runs in its jails.
    #[command(hide = true)]
    ProbeClient(ProbeClientArguments),
    /// Believe this project's registry as it is now.
    Allow,
    /// Show what a jail does: needs nothing else installed and no internet.
    Demo,
    /// What `demo` runs in its jails.
    #[command(hide = true)]
    DemoClient(DemoClientArguments),
    /// Try everything that a jail needs on this machine, and say how to repair what is missing.
    Doctor(DoctorArguments),
    /// Print the completions of a shell.
    Completions(CompletionsArguments),
    /// Print the manual page, or write one for each subcommand into a folder.
    Man(ManArguments),
    /// Attack a jail on this machine from inside, with the same attacks outside as the control.
    Selftest(SelftestArguments),
    /// One attack of selftest, in this process.
    #[command(hide = true)]
    SelftestAttack(AttackArguments),
    /// The victim process of selftest.
    #[command(hide = true)]
    SelftestVictim(VictimArguments),
}

/// Which way out, and how the jail is built.
#[derive(Debug, Args)]
pub struct JailArguments {
    /// The network to use: an id of the registry (app:tor), its bare name where only one fits, or `nil` for a direct dial.
    #[arg(long, value_name = "ID")]
    pub network: Option<String>,
    /// A registry file or folder, instead of the ones that are found; repeatable.
    #[arg(long = "registry", value_name = "PATH")]
    pub registries: Vec<PathBuf>,
    /// Write one line of JSON for each flow and each DNS question to FILE, or to standard error with `-`.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Say more: notes on the registry at the start, a summary of the flows at the end.
    #[arg(short, long)]
    pub verbose: bool,
    /// Say less: no warnings.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Packet workers, a thread and a TUN queue each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub workers: u16,
    /// The largest packet of the jail's link, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 65520, value_parser = clap::value_parser!(u16).range(1280..=65520))]
    pub mtu: u16,
    /// The jail's name for ps, exec and stop; without it one is made from the command.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A policy group to be in; repeatable, can only be added to further down.
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// On a direct network: also private (RFC 1918, 100.64/10, fc00::/7) and on-link addresses.
    #[arg(long)]
    pub allow_lan: bool,
    /// Keep the jail until its last process has ended, not only the command itself.
    #[arg(long)]
    pub wait: bool,
    /// Set a variable in the jail; repeatable.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub env: Vec<(OsString, OsString)>,
    /// Start from an empty environment.
    #[arg(long)]
    pub env_clear: bool,
    /// Pass descriptor N on: a regular file, a pipe or a terminal; repeatable.
    #[arg(long = "keep-fd", value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub keep_descriptors: Vec<RawFd>,
    /// Home folders: the real ones, the real ones read-only, or empty and private. What is written to a real one can be run
    /// outside later (rc files, user units, git hooks).
    #[arg(long, value_name = "VIEW", default_value = "host", value_parser = ["host", "ro", "tmp"])]
    pub home: String,
    /// Make PATH read-only; repeatable.
    #[arg(long = "ro", value_name = "PATH")]
    pub read_only: Vec<PathBuf>,
    /// Make PATH writable where it would not be (as root, or below --home ro); repeatable.
    #[arg(long = "rw", value_name = "PATH")]
    pub read_write: Vec<PathBuf>,
    /// Start with an empty /tmp and /var/tmp, instead of a private layer over the host's.
    #[arg(long, conflicts_with = "share_tmp")]
    pub tmp: bool,
    /// Use the host's own /tmp and /var/tmp.
    #[arg(long)]
    pub share_tmp: bool,
    /// Show network file systems and FUSE mounts: reading them makes processes outside act.
    #[arg(long)]
    pub allow_netfs: bool,
    /// /proc: a fresh one of the jail's processes, or, where a container forbids that, the outer one as far as it is shown.
    #[arg(long, value_name = "VIEW", default_value = "fresh", value_parser = ["fresh", "host-masked"])]
    pub proc: String,
    /// Unix sockets: none at all, those bound inside the jail, or whatever the file system shows (which lets the jail ask
    /// services outside).
    #[arg(long, value_name = "WHICH", default_value = "jail", value_parser = ["none", "jail", "host"])]
    pub sockets: String,
    /// Let the jail connect to the unix socket PATH, or to any below the folder PATH; repeatable.
    #[arg(long = "allow-socket", value_name = "PATH")]
    pub allow_sockets: Vec<PathBuf>,
    /// Open a part of your session to programs with a window: the X display (an X client can read and type into every other
    /// window), the Wayland compositor, sound (also the microphone; PulseAudio sends sound over the network for whoever
    /// asks), or the session D-Bus (which starts any program outside for whoever asks: trusted programs only); repeatable.
    #[arg(long = "allow", value_name = "WHAT", value_parser = Door::NAMES)]
    pub allow: Vec<String>,
    /// Allow unix datagram sockets, one end of which reaches any path outside. What is written to syslog becomes lines of
    /// netjail's; NOTIFY_SOCKET is relayed.
    #[arg(long)]
    pub allow_datagrams: bool,
    /// Open what sandboxes inside the jail need (bwrap, flatpak): classic mount calls in their own user namespace, an
    /// unmasked /proc.
    #[arg(long)]
    pub allow_nested_sandbox: bool,
    /// As root: become NAME first.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The host name that the jail sees.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_HOSTNAME)]
    pub hostname: String,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub jail: JailArguments,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `shell`.
#[derive(Debug, Args)]
pub struct ShellArguments {
    #[command(flatten)]
    pub jail: JailArguments,
}

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// The jail's name.
    pub jail: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    /// How many seconds the command has to end after SIGTERM before everything is killed.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub grace: u32,
    /// The jails' names.
    #[arg(required = true, value_name = "JAIL")]
    pub jails: Vec<String>,
    /// Say less: no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// A registry file or folder, instead of the ones that are found; repeatable.
    #[arg(long = "registry", value_name = "PATH")]
    pub registries: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Say less: only what is wrong.
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

/// Arguments of `networks`.
#[derive(Debug, Args)]
pub struct NetworksArguments {
    /// A registry file or folder, instead of the ones that are found; repeatable.
    #[arg(long = "registry", value_name = "PATH")]
    pub registries: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// Networks to ask through, as `run --network` has them; without any: `nil`, and every network of the registry.
    #[arg(value_name = "NETWORK")]
    pub networks: Vec<String>,
    /// A registry file or folder, instead of the ones that are found; repeatable.
    #[arg(long = "registry", value_name = "PATH")]
    pub registries: Vec<PathBuf>,
    /// Ask this https:// URL, which answers with the address that it was reached from; repeatable. Without it those of
    /// NETJAIL_PROBE_ENDPOINTS, else of the settings, else well-known ones.
    #[arg(long = "endpoint", value_name = "URL", value_parser = parse_endpoint)]
    pub endpoints: Vec<Endpoint>,
    /// The longest that one network may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub timeout: u16,
    /// End with status 1 if a network gave no address.
    #[arg(long)]
    pub strict: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Say more: every endpoint that was asked.
    #[arg(short, long)]
    pub verbose: bool,
    /// Say less: no progress, no warnings.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// Arguments of `probe-client`.
#[derive(Debug, Args)]
pub struct ProbeClientArguments {
    /// The longest that all of it may take.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: u16,
    /// Who is asked.
    #[arg(required = true, value_parser = parse_endpoint)]
    pub endpoints: Vec<Endpoint>,
}

/// Arguments of `demo-client`.
#[derive(Debug, Args)]
pub struct DemoClientArguments {
    /// `HOST:PORT`, `unix:PATH` or `abstract:NAME`.
    pub target: String,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// As root: write the AppArmor profile that lets this program make user namespaces.
    #[arg(long)]
    pub fix: bool,
}

/// Arguments of `selftest`.
#[derive(Debug, Args)]
pub struct SelftestArguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Attack what this command line starts instead of `netjail run`; words are parted at blanks.
    #[arg(long, value_name = "COMMAND LINE", allow_hyphen_values = true)]
    pub launcher: Option<String>,
    /// Only the case of this name; repeatable.
    #[arg(long, value_name = "CASE")]
    pub only: Vec<String>,
    /// Say more: all of the evidence.
    #[arg(short, long)]
    pub verbose: bool,
    /// Say less: no progress, and in the table only what is not blocked.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// Arguments of `selftest-attack`.
#[derive(Debug, Args)]
pub struct AttackArguments {
    /// In namespaces of its own first: the second control.
    #[arg(long)]
    pub apart: bool,
    /// Which.
    pub name: String,
    /// The file that says where the victims are.
    pub context: PathBuf,
}

/// Arguments of `selftest-victim`.
#[derive(Debug, Args)]
pub struct VictimArguments {
    /// Where it listens.
    pub socket: PathBuf,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// For which shell.
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Where to write netjail.1, netjail-run.1 and the others.
    pub folder: Option<PathBuf>,
}

fn parse_endpoint(text: &str) -> Result<Endpoint, BadEndpoint> {
    text.parse()
}

fn parse_variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_the_same_command_parsed_alone() {
        for words in [
            &["netjail", "run", "--help"][..],
            &["netjail", "run", "-h"],
            &["netjail", "run"],
            &["netjail", "run", "--netwrok", "x", "true"],
            &["netjail", "run", "--mtu", "1", "true"],
            &["netjail", "run", "--home", "nowhere", "true"],
            &["netjail", "run", "-q", "-v", "true"],
            &["netjail", "run", "--version"],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let text = |outcome: Result<Arguments, clap::Error>| outcome.expect_err("is refused").render().to_string();
            assert_eq!(text(Arguments::of(&words)), text(Arguments::try_parse_from(&words)), "{words:?}");
        }
        let words: Vec<OsString> =
            ["netjail", "run", "--mtu", "1500", "-v", "--", "a", "-b"].map(OsString::from).into();
        let shown = |outcome: Result<Arguments, clap::Error>| format!("{:?}", outcome.expect("is accepted"));
        assert_eq!(shown(Arguments::of(&words)), shown(Arguments::try_parse_from(&words)));
    }
}
