//! `--allow-datagrams`: a /dev/log and a NOTIFY_SOCKET of the jail's own.
//!
//! Datagram sockets are refused by default, for one end of one reaches any path. Where they are allowed, the two that
//! programs use most should not lead outside all the same: syslog(3) and sd_notify(3) write to sockets that init binds
//! below /run. What touches what arrives there is the mediator's worker, since a datagram can carry descriptors that block
//! whoever closes them; it drops these and passes the text on. The log's lines become lines of netjail's on standard error;
//! notifications are sent on by front, whose pid is the one that a service manager listens to ([`notification`] says which).

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The folder in the jail for what netjail makes for it.
pub const FOLDER: &str = "/run/netjail-session";
/// Where /dev/log leads in the jail.
pub const LOG: &str = "/run/netjail-session/log";
/// What NOTIFY_SOCKET is in the jail.
const NOTIFY: &str = "/run/netjail-session/notify";

/// Longer datagrams are cut, bytes.
pub const LONGEST: usize = 2048;

/// Binds both sockets, in the jail's file system: the log's, and that of notifications.
pub fn bind() -> io::Result<[OwnedFd; 2]> {
    match DirBuilder::new().mode(0o700).create(FOLDER) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    Ok([UnixDatagram::bind(LOG)?.into(), UnixDatagram::bind(NOTIFY)?.into()])
}

/// The variables of a service manager that still mean something inside: none where the caller has no NOTIFY_SOCKET.
///
/// `own` is front's pid. WATCHDOG_PID names front, which no program in the jail can be: without it the program that reads
/// WATCHDOG_USEC is meant.
pub fn variables(variable: &dyn Fn(&str) -> Option<OsString>, own: u32) -> Vec<(OsString, OsString)> {
    let mut set = Vec::new();
    if variable("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty()) {
        set.push(("NOTIFY_SOCKET".into(), NOTIFY.into()));
        let watched =
            variable("WATCHDOG_PID").is_none_or(|pid| pid.to_str().and_then(|pid| pid.parse().ok()) == Some(own));
        set.extend(variable("WATCHDOG_USEC").filter(|_| watched).map(|time| ("WATCHDOG_USEC".into(), time)));
    }
    set
}

/// What of a notification is passed on; none where nothing is left.
///
/// Pids mean other processes outside (MAINPID), and descriptors stay inside (FDSTORE, BARRIER, whose sender only waits for
/// its descriptor to be closed).
pub fn notification(datagram: &[u8]) -> Option<String> {
    const NUMBERS: [&str; 8] = [
        "READY",
        "RELOADING",
        "STOPPING",
        "ERRNO",
        "WATCHDOG",
        "WATCHDOG_USEC",
        "EXTEND_TIMEOUT_USEC",
        "MONOTONIC_USEC",
    ];
    let text = String::from_utf8_lossy(datagram);
    let passed: Vec<String> = text
        .split('\n')
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            let number = !value.is_empty() && value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
            match name {
                "STATUS" => Some(format!("STATUS={}", crate::escape::escape(value))),
                "WATCHDOG" if value == "trigger" => Some(line.to_owned()),
                _ => (NUMBERS.contains(&name) && number).then(|| line.to_owned()),
            }
        })
        .collect();
    (!passed.is_empty()).then(|| passed.join("\n"))
}

/// Passes a notification on to the caller's service manager, which believes it of this process alone (systemd's NotifyAccess=main).
pub fn pass_on(lines: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    // A manager that does not listen is not waited for.
    let _ = socket.set_nonblocking(true);
    let _ = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)
            .and_then(|address| socket.connect_addr(&address))
            .and_then(|()| socket.send(lines.as_bytes())),
        _ => socket.send_to(lines.as_bytes(), &address),
    };
}

/// A line of the log for a person: without the priority in front (RFC 3164, 4.1.1), escaped.
pub fn log_line(datagram: &[u8]) -> String {
    let text = String::from_utf8_lossy(datagram);
    let text = text.trim_end_matches(['\n', '\0']);
    let rest = text.strip_prefix('<').and_then(|rest| rest.split_once('>')).filter(|(priority, _)| {
        !priority.is_empty() && priority.len() <= 3 && priority.bytes().all(|byte| byte.is_ascii_digit())
    });
    crate::escape::escape(rest.map_or(text, |(_, rest)| rest)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_says_how_it_goes_and_names_no_process() {
        let of = |text: &str| notification(text.as_bytes());
        assert_eq!(of("READY=1\nMAINPID=1\nSTATUS=up \x1b[31m\n").as_deref(), Some("READY=1\nSTATUS=up \\u{1b}[31m"));
        assert_eq!(of("WATCHDOG=1\nWATCHDOG_USEC=5000000").as_deref(), Some("WATCHDOG=1\nWATCHDOG_USEC=5000000"));
        for nothing in ["FDSTORE=1\nFDNAME=x", "BARRIER=1", "MAINPID=1", "READY=yes", "READY", "", "BUSERROR=x"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_line_of_the_log_has_no_priority_and_can_not_steer_a_terminal() {
        assert_eq!(log_line(b"<13>Jan  1 00:00:00 tag: hello\n\0"), "Jan  1 00:00:00 tag: hello");
        assert_eq!(log_line(b"<x>hello"), "<x>hello");
        assert!(!log_line(b"<1>\x1b]0;title\x07").contains('\x1b'));
    }

    #[test]
    fn a_watchdog_that_is_anothers_is_not_passed_on() {
        let of = |pid: &str| {
            let pid = OsString::from(pid);
            let all = variables(
                &|name| match name {
                    "NOTIFY_SOCKET" => Some("@x".into()),
                    "WATCHDOG_USEC" => Some("5".into()),
                    "WATCHDOG_PID" => Some(pid.clone()),
                    _ => None,
                },
                7,
            );
            all.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(of("7"), ["NOTIFY_SOCKET", "WATCHDOG_USEC"]);
        assert_eq!(of("8"), ["NOTIFY_SOCKET"]);
        assert!(variables(&|_| None, 7).is_empty());
    }
}
