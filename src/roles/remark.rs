//! One line after a command that failed, where a jail's defaults are the likely reason: a variable that it did not get, a
//! socket that it was refused or does not see. It names the flag that opens it.
//!
//! A wrong guess sends a person the wrong way, so each needs evidence: a refused connect shortly before the end; a program
//! that is known by its name to need that variable, and ended as it does without; or one that is linked with a library of
//! windows. What the command line opened or set is never guessed at.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::jail::environment::Environment;

/// A refused connect longer ago than this did not end the command.
const SHORTLY: Duration = Duration::from_secs(10);
/// How much of a program's file is looked at, bytes.
const MOST_OF_A_FILE: u64 = 8 << 20;

/// What is known at the end.
struct Failure<'a> {
    /// The command as it was given.
    program: &'a OsStr,
    /// Its file.
    file: Option<&'a Path>,
    /// Its exit status, not 0.
    status: i32,
    /// What it got of the caller's variables, and what not.
    environment: &'a Environment,
    /// The socket that it was refused last, and how long before the end; escaped.
    refused: Option<(String, Duration)>,
    /// Whether the network gave it anything.
    answered: bool,
}

/// What turned out while a command ran.
#[derive(Default)]
pub struct Told {
    /// Its variables.
    pub environment: Environment,
    /// Its file.
    pub file: Option<PathBuf>,
    /// The socket that it was refused last, escaped.
    pub refused: Option<(String, Instant)>,
    /// When it ended.
    pub ended: Option<Instant>,
    /// Whether the network gave it anything.
    pub answered: bool,
}

impl Told {
    /// The line for a command that ended with this status, not 0.
    pub fn likely(self, program: &OsStr, status: i32) -> Option<String> {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let refused = self.refused.map(|(path, at)| (path, ended.saturating_duration_since(at)));
        let (environment, file, answered) = (&self.environment, self.file.as_deref(), self.answered);
        likely(&Failure { program, file, status, environment, refused, answered })
    }
}

/// A program that needs something of its caller's session.
struct Need {
    programs: &'static [&'static str],
    /// The statuses with which it ends without; none where every failure counts.
    statuses: &'static [i32],
    /// It gets there only over the network.
    over_network: bool,
    what: What,
}

enum What {
    /// A variable, and the words that open what it leads to.
    Variable(&'static str, &'static str),
    /// A socket of the host's /run, or a folder of them.
    Hidden(&'static str),
}

const AGENT: What =
    What::Variable("SSH_AUTH_SOCK", "--allow-socket \"$SSH_AUTH_SOCK\" --env SSH_AUTH_SOCK=\"$SSH_AUTH_SOCK\"");
const BUS: What = What::Variable("DBUS_SESSION_BUS_ADDRESS", "--allow dbus");
const DOCKER: What =
    What::Variable("DOCKER_HOST", "--allow-socket with its path and --env DOCKER_HOST=\"$DOCKER_HOST\"");

const NEEDS: &[Need] = &[
    Need { programs: &["ssh", "scp", "sftp"], statuses: &[255], over_network: true, what: AGENT },
    Need { programs: &["git"], statuses: &[128], over_network: true, what: AGENT },
    Need { programs: &["rsync"], statuses: &[12, 255], over_network: true, what: AGENT },
    Need { programs: &["ssh-add"], statuses: &[2], over_network: false, what: AGENT },
    Need {
        programs: &["dbus-send", "gdbus", "notify-send", "gsettings", "secret-tool", "busctl"],
        statuses: &[],
        over_network: false,
        what: BUS,
    },
    Need {
        programs: &["pactl", "paplay", "parecord", "pw-play", "pw-record"],
        statuses: &[],
        over_network: false,
        what: What::Variable("XDG_RUNTIME_DIR", "--allow audio"),
    },
    Need { programs: &["docker"], statuses: &[], over_network: false, what: DOCKER },
    Need { programs: &["docker"], statuses: &[], over_network: false, what: What::Hidden("/run/docker.sock") },
    Need { programs: &["psql", "pg_dump"], statuses: &[], over_network: false, what: What::Hidden("/run/postgresql") },
    Need {
        programs: &["mysql", "mariadb", "mysqldump"],
        statuses: &[],
        over_network: false,
        what: What::Hidden("/run/mysqld/mysqld.sock"),
    },
    Need {
        programs: &["nmcli", "loginctl", "resolvectl", "bluetoothctl"],
        statuses: &[],
        over_network: false,
        what: What::Hidden("/run/dbus/system_bus_socket"),
    },
];

/// A library of windows, and what its programs need.
const WINDOWS: &[(&[u8], &str, &str)] = &[
    (b"\0libX11.so.6\0", "DISPLAY", "--allow display"),
    (b"\0libxcb.so.1\0", "DISPLAY", "--allow display"),
    (b"\0libwayland-client.so.0\0", "WAYLAND_DISPLAY", "--allow wayland"),
    (b"\0libgtk-3.so.0\0", "DISPLAY", "--allow display"),
    (b"\0libgtk-4.so.1\0", "DISPLAY", "--allow display"),
    (b"\0libQt5Gui.so.5\0", "DISPLAY", "--allow display"),
    (b"\0libQt6Gui.so.6\0", "DISPLAY", "--allow display"),
];

/// The line, if there is a likely reason.
fn likely(failure: &Failure<'_>) -> Option<String> {
    if let Some((path, ago)) = &failure.refused
        && path.starts_with('/')
        && *ago <= SHORTLY
    {
        return Some(format!(
            "the command failed, and shortly before it was not let to the unix socket {path}; --allow-socket {path} opens it"
        ));
    }
    let name = Path::new(failure.program).file_name()?.to_string_lossy().into_owned();
    let fits = |need: &&Need| {
        need.programs.contains(&name.as_str())
            && (need.statuses.is_empty() || need.statuses.contains(&failure.status))
            && (!need.over_network || failure.answered)
    };
    let by_name = NEEDS.iter().filter(fits).find_map(|need| match need.what {
        What::Variable(variable, flags) => {
            lacks(failure.environment, variable).then(|| dropped(&name, variable, flags))
        }
        What::Hidden(path) => Path::new(path).exists().then(|| {
            format!(
                "{name} may have failed for want of {path}, which a jail does not see; --allow-socket {path} opens it"
            )
        }),
    });
    by_name.or_else(|| {
        let wanted = |&&(_, variable, _): &&(&[u8], &str, &str)| lacks(failure.environment, variable);
        let windows: Vec<_> = WINDOWS.iter().filter(wanted).collect();
        let bytes = if windows.is_empty() { return None } else { read(failure.file?)? };
        let (_, variable, flag) = windows.into_iter().find(|(library, ..)| holds(&bytes, library))?;
        Some(dropped(&name, variable, flag))
    })
}

fn dropped(name: &str, variable: &str, flags: &str) -> String {
    format!("{name} may have failed for want of {variable}, which a jail does not get; {flags} opens what it leads to")
}

/// The caller has the variable, and the command has not.
fn lacks(environment: &Environment, variable: &str) -> bool {
    environment.dropped.iter().any(|name| name == variable)
        && !environment.variables.contains_key::<OsString>(&variable.into())
}

/// A program's file; none where it is no ELF file.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MOST_OF_A_FILE).read_to_end(&mut bytes).ok()?;
    bytes.starts_with(b"\x7fELF").then_some(bytes)
}

/// The names of the libraries that a program is linked with stand in its table of strings, each between two zero bytes.
fn holds(bytes: &[u8], name: &[u8]) -> bool {
    bytes.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::environment::{Choices, build};

    fn environment(caller: &[&str], set: &[&str]) -> Environment {
        let pairs = |names: &[&str]| names.iter().map(|name| (OsString::from(name), "x".into())).collect::<Vec<_>>();
        build(pairs(caller), &Choices { set: pairs(set), ..Choices::default() })
    }

    fn said(program: &str, status: i32, environment: &Environment, answered: bool) -> Option<String> {
        let program = OsStr::new(program);
        likely(&Failure { program, file: None, status, environment, refused: None, answered })
    }

    #[test]
    fn a_program_that_is_known_to_need_a_dropped_variable_is_told_of_it() {
        let agent = environment(&["SSH_AUTH_SOCK", "PATH"], &[]);
        assert!(said("/usr/bin/ssh", 255, &agent, true).unwrap().contains("--allow-socket \"$SSH_AUTH_SOCK\""));
        assert!(said("git", 128, &agent, true).unwrap().contains("SSH_AUTH_SOCK"));
        assert!(
            said("gdbus", 1, &environment(&["DBUS_SESSION_BUS_ADDRESS"], &[]), false).unwrap().contains("--allow dbus")
        );
    }

    #[test]
    fn nothing_is_said_where_something_else_is_more_likely() {
        let agent = environment(&["SSH_AUTH_SOCK", "DISPLAY"], &[]);
        assert_eq!(said("ssh", 1, &agent, true), None, "the remote command failed");
        assert_eq!(said("ssh", 255, &agent, false), None, "the network did");
        assert_eq!(said("make", 2, &agent, true), None);
        assert_eq!(said("ssh", 255, &environment(&["PATH"], &[]), true), None, "there is no agent outside either");
        assert_eq!(said("ssh", 255, &environment(&["SSH_AUTH_SOCK"], &["SSH_AUTH_SOCK"]), true), None, "it has one");
    }

    #[test]
    fn a_refused_socket_counts_if_it_was_shortly_before() {
        let environment = environment(&[], &[]);
        let with = |path: &str, seconds| {
            let refused = Some((path.to_owned(), Duration::from_secs(seconds)));
            likely(&Failure {
                program: OsStr::new("x"),
                file: None,
                status: 1,
                environment: &environment,
                refused,
                answered: false,
            })
        };
        assert!(with("/home/a/s", 1).unwrap().contains("--allow-socket /home/a/s"));
        assert_eq!((with("/home/a/s", 60), with("relative", 1)), (None, None));
    }

    #[test]
    fn a_program_with_windows_is_known_by_its_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        let environment = environment(&["DISPLAY"], &[]);
        let of = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            likely(&Failure {
                program: OsStr::new("tool"),
                file: Some(&file),
                status: 1,
                environment: &environment,
                refused: None,
                answered: false,
            })
        };
        assert!(of(b"\x7fELF...\0libX11.so.6\0...").unwrap().contains("--allow display"));
        assert_eq!(of(b"\x7fELF...\0libc.so.6\0..."), None);
        assert_eq!(of(b"#!/bin/sh\n\0libX11.so.6\0"), None);
        assert_eq!(of(b"\x7fELF\0libwayland-client.so.0\0"), None, "WAYLAND_DISPLAY was not dropped");
    }
}
