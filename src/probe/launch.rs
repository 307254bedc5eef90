//! Outside: one `netjail run` for each network, a few at a time, none for longer than it may take.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Answer, Attempt, client, late};
use crate::overlay::DialError;
use crate::registry::Endpoint;

/// How many jails live at once.
const AT_ONCE: usize = 8;
/// How long a jail that was killed may take to be gone.
const GRACE: Duration = Duration::from_secs(2);

/// What all networks have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `--registry`.
    pub registries: Vec<PathBuf>,
    /// Who is asked.
    pub endpoints: Vec<Endpoint>,
    /// The longest that one network may take, its jail's start included.
    pub timeout: Duration,
}

/// Asks through every network; the answers are in the order of the networks. `done` hears of each as it comes.
pub fn ask(plan: &Plan, networks: &[String], done: impl Fn(&Answer) + Sync) -> Vec<Answer> {
    let next = Mutex::new(0..networks.len());
    let answers = Mutex::new(vec![None; networks.len()]);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(networks.len()) {
            scope.spawn(|| {
                while let Some(index) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
                    let answer = ask_one(plan, &networks[index]);
                    done(&answer);
                    answers.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(answer);
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.into_iter().flatten().collect()
}

fn ask_one(plan: &Plan, network: &str) -> Answer {
    let begun = Instant::now();
    let not_asked = |why: String| Answer::not_asked(network.to_owned(), why);
    let output = match std::env::current_exe().and_then(|program| run(command(plan, network, program), plan.timeout)) {
        Ok(output) => output,
        Err(e) => return not_asked(format!("netjail could not start itself: {e}")),
    };
    let Some(output) = output else { return not_asked(late(plan.timeout)) };
    let mut answer = understand(network, &output, plan.timeout);
    answer.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    answer
}

fn command(plan: &Plan, network: &str, program: PathBuf) -> Command {
    let mut command = Command::new(&program);
    command.args(["run", "--quiet", "--log", "-", "--network", network]);
    for registry in &plan.registries {
        command.arg("--registry").arg(registry);
    }
    let timeout = plan.timeout.as_secs().to_string();
    command.arg("--").arg(program).args(["probe-client", "--timeout", &timeout]);
    command.args(plan.endpoints.iter().map(|endpoint| OsString::from(endpoint.to_string())));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a jail to its end, or ends it. `None`: it could not even be ended.
fn run(mut command: Command, timeout: Duration) -> io::Result<Option<Output>> {
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    let ended = match receive.recv_timeout(timeout) {
        Err(RecvTimeoutError::Timeout) => {
            // Not reaped yet, so the number is still its own; with front all of its jail dies.
            let _ = kill(pid, Signal::SIGKILL);
            receive.recv_timeout(GRACE)
        }
        ended => ended,
    };
    ended.ok().transpose()
}

/// What the client said, with what the log knows of its dials.
fn understand(network: &str, output: &Output, timeout: Duration) -> Answer {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let records: Vec<Value> = complaints.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let lines = said.lines().filter_map(|line| line.strip_prefix(client::MARK));
    let mut attempts: Vec<Attempt> = lines.filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
    for attempt in &mut attempts {
        // It comes out of a jail and goes to a terminal.
        attempt.endpoint = crate::registry::escape(&attempt.endpoint);
        attempt.error = attempt.error.take().map(|error| explained(&attempt.endpoint, &error, &records));
    }
    let found = attempts.iter().find(|attempt| attempt.address.is_some());
    let error = match found {
        Some(_) => None,
        None if !attempts.is_empty() => Some(together(&attempts)),
        None => Some(own_words(&complaints).unwrap_or_else(|| late(timeout))),
    };
    Answer {
        network: network.to_owned(),
        address: found.and_then(|attempt| attempt.address),
        endpoint: found.map(|attempt| attempt.endpoint.clone()),
        error,
        duration_ms: 0,
        attempts,
    }
}

/// A failed dial's errno with netjail's reason for it: what a program cannot be told, the log has.
fn explained(endpoint: &str, error: &str, records: &[Value]) -> String {
    let error = crate::registry::escape(error);
    let Ok(endpoint) = endpoint.parse::<Endpoint>() else { return error };
    let mut dials = records.iter().filter(|record| {
        let here = record["name"] == *endpoint.host || record["address"] == *endpoint.host;
        record["kind"] == "flow" && !record["errno"].is_null() && here && record["port"] == endpoint.port
    });
    let Some(record) = dials.next() else { return error };
    let errno = error.split(':').next().unwrap_or_default();
    if record["errno"] != errno {
        return error;
    }
    match (record["close"].as_str(), record["rule"].as_str()) {
        (Some(close), _) => format!("{errno}: {} ({close})", meaning(close)),
        (None, Some(rule)) => format!("{errno}: forbidden by the rule `{rule}`"),
        _ => error,
    }
}

/// The sentence of `docs/errno.md` for a failed dial.
fn meaning(close: &str) -> &'static str {
    let rows = DialError::ROWS.iter().map(|(_, error)| error.outcome());
    rows.into_iter().find(|outcome| outcome.name == close).map_or("the dial failed", |outcome| outcome.meaning)
}

/// All errors in one line: once if they are the same, else each with who it is from.
fn together(attempts: &[Attempt]) -> String {
    let error = |attempt: &Attempt| attempt.error.clone().unwrap_or_default();
    let first = error(&attempts[0]);
    if attempts.iter().all(|attempt| error(attempt) == first) {
        return first;
    }
    let host = |attempt: &Attempt| {
        let parsed = attempt.endpoint.parse::<Endpoint>();
        parsed.map_or_else(|_| attempt.endpoint.clone(), |endpoint| endpoint.authority())
    };
    attempts.iter().map(|attempt| format!("{}: {}", host(attempt), error(attempt))).collect::<Vec<_>>().join("; ")
}

/// netjail's own failure: what it said that is no record.
fn own_words(complaints: &str) -> Option<String> {
    let words: Vec<&str> =
        complaints.lines().filter(|line| !line.starts_with('{') && !line.trim().is_empty()).collect();
    let text = words.join(" ");
    let text = text.strip_prefix("netjail: ").unwrap_or(&text);
    (!text.is_empty()).then(|| crate::registry::escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_errors_are_told_with_who_said_so_and_equal_ones_once() {
        let attempt = |host: &str, error: &str| Attempt {
            endpoint: format!("https://{host}/"),
            address: None,
            error: Some(error.into()),
        };
        assert_eq!(together(&[attempt("a.test", "HTTP 503"), attempt("b.test", "HTTP 503")]), "HTTP 503");
        assert_eq!(
            together(&[attempt("a.test", "HTTP 503"), attempt("b.test", "HTTP 429")]),
            "a.test: HTTP 503; b.test: HTTP 429"
        );
    }

    #[test]
    fn a_dial_that_failed_is_told_with_the_reason_in_the_log() {
        let record = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let down =
            record(r#"{"kind":"flow","name":"a.test","port":443,"errno":"ENETUNREACH","close":"proxy-refused"}"#);
        let error = "ENETUNREACH: Network is unreachable";
        assert_eq!(explained("https://a.test/", error, &[down]), "ENETUNREACH: the proxy is down (proxy-refused)");
        let ruled = record(
            r#"{"kind":"flow","address":"127.0.0.1","port":443,"errno":"ENETUNREACH","close":null,"rule":"host-loopback"}"#,
        );
        assert_eq!(
            explained("https://127.0.0.1/", error, &[ruled]),
            "ENETUNREACH: forbidden by the rule `host-loopback`"
        );
        assert_eq!(explained("https://b.test/", error, &[]), error);
    }
}
