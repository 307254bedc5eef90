//! Starting one attack under a launcher, and hearing what it says.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::SelftestError;
use super::gifts;
use crate::check::attacks::{Attack, Context, Outcome, Way};

/// Before the line with the outcome.
const MARK: &str = "netjail-selftest: ";
/// An attack that must succeed everywhere: the launcher starts things at all.
pub const CANARY: &str = "canary";
/// The longest that an attack may take.
const LIMIT: Duration = Duration::from_secs(40);

/// How an attack is started.
#[derive(Clone, Debug)]
pub enum Launcher {
    /// `netjail run`.
    Netjail,
    /// Somebody else's command line.
    Other(Vec<OsString>),
    /// As a plain child: the control.
    Plain,
    /// In a user, network, mount and IPC namespace with nothing further, like `unshare -Urn`: the second control.
    Apart,
}

/// What was heard of an attack.
#[derive(Debug)]
pub enum Reply {
    /// Its outcome.
    Told(Outcome),
    /// Nothing; what the launcher said instead.
    Silent(String),
}

/// Prints an outcome for [`attack`] to find among whatever else a launcher prints.
pub fn print(outcome: &Outcome) {
    let text = serde_json::to_string(outcome).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{MARK}{text}");
}

/// The second control's namespaces.
pub fn go_apart() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    let flags =
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    unshare(flags).map_err(|e| format!("unshare: {e:?}"))?;
    fs::write("/proc/self/setgroups", "deny").map_err(|e| e.to_string())?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(|e| e.to_string())?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(|e| e.to_string())
}

/// Makes sure that the launcher starts anything at all.
pub fn canary(launcher: &Launcher, context: &Context) -> Result<(), SelftestError> {
    for way in [Way::Closed, Way::Direct] {
        let child = command(launcher, way, CANARY, context).stdin(Stdio::null()).spawn();
        let why = match child.map(hear) {
            Ok(Reply::Told(Ok(_))) => continue,
            Ok(Reply::Told(Err(why)) | Reply::Silent(why)) => why,
            Err(e) => e.to_string(),
        };
        let launcher = match launcher {
            Launcher::Other(words) => words.join(" ".as_ref()).to_string_lossy().into_owned(),
            _ => "netjail run".into(),
        };
        return Err(SelftestError::Launcher { launcher, why });
    }
    Ok(())
}

/// Runs one attack.
pub fn attack(attack: &Attack, launcher: &Launcher, context: &Context) -> Reply {
    let mut command = command(launcher, attack.way, attack.name, context);
    command.stdin(Stdio::null());
    let held = match gifts::give(attack.gift, &mut command, context) {
        Ok(held) => held,
        Err(e) => return Reply::Silent(format!("the gift could not be made: {e}")),
    };
    let reply = match command.spawn() {
        Ok(child) => hear(child),
        Err(e) => Reply::Silent(e.to_string()),
    };
    drop(held);
    reply
}

fn command(launcher: &Launcher, way: Way, name: &str, context: &Context) -> Command {
    let program = context.program.as_os_str();
    let mut words: Vec<OsString> = match launcher {
        Launcher::Netjail => {
            let network = match way {
                Way::Closed => "selftest:closed",
                Way::Direct => "nil",
            };
            let registry = context.file.with_file_name("registry.yaml");
            let words = ["run", "-q", "--registry"].map(OsString::from);
            let rest = ["--network", network, "--"].map(OsString::from);
            [program.to_owned()].into_iter().chain(words).chain([registry.into()]).chain(rest).collect()
        }
        Launcher::Other(words) => words.clone(),
        Launcher::Plain | Launcher::Apart => Vec::new(),
    };
    words.extend([program.to_owned(), "selftest-attack".into()]);
    if matches!(launcher, Launcher::Apart) {
        words.push("--apart".into());
    }
    words.extend([name.into(), context.file.as_os_str().to_owned()]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(folder) = context.file.parent() {
        command.current_dir(folder);
    }
    super::victims::set_environment(&mut command, context);
    command
}

/// Reads both outputs until they end, or the limit.
fn hear(mut child: Child) -> Reply {
    let until = Instant::now() + LIMIT;
    let mut texts = [Vec::new(), Vec::new()];
    let (Some(mut out), Some(mut error)) = (child.stdout.take(), child.stderr.take()) else {
        return Reply::Silent("no output".into());
    };
    let mut open = [true, true];
    while open.contains(&true) {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled = Vec::new();
        for (fd, open) in [out.as_fd(), error.as_fd()].into_iter().zip(open) {
            let events = if open { PollFlags::POLLIN } else { PollFlags::empty() };
            polled.push(PollFd::new(fd, events));
        }
        let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if !matches!(poll(&mut polled, patience), Ok(1..)) {
            break;
        }
        let ready: Vec<bool> = polled.iter().map(|p| p.revents().is_some_and(|e| !e.is_empty())).collect();
        drop(polled);
        let mut buffer = [0u8; 4096];
        for (at, reader) in [&mut out as &mut dyn Read, &mut error].into_iter().enumerate() {
            if !ready[at] || !open[at] {
                continue;
            }
            match reader.read(&mut buffer) {
                Ok(0) | Err(_) => open[at] = false,
                Ok(length) => texts[at].extend_from_slice(&buffer[..length]),
            }
        }
        // A launcher may leave a process behind that holds the pipe: the outcome is all that is waited for.
        if find(&texts[0]).is_some() {
            break;
        }
    }
    let told = find(&texts[0]);
    if told.is_none() {
        let _ = child.kill();
    }
    let status = child.wait();
    match told {
        Some(outcome) => Reply::Told(outcome),
        None => {
            let said = String::from_utf8_lossy(&texts[1]).split_whitespace().collect::<Vec<_>>().join(" ");
            let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
            let late = if Instant::now() >= until { " (no answer in time)" } else { "" };
            Reply::Silent(format!("{status}{late}: {said}"))
        }
    }
}

fn find(text: &[u8]) -> Option<Outcome> {
    let text = String::from_utf8_lossy(text);
    let line = text.split_inclusive('\n').find_map(|line| line.strip_suffix('\n')?.strip_prefix(MARK))?;
    serde_json::from_str(line).ok()
}
