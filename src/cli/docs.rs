//! Holds `docs/reference.md` equal to the code: the flags as clap has them, the limits as the modules have them.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::{Arg, Command, CommandFactory};

use super::args::Arguments;
use crate::names::pool;
use crate::worker::Limits;
use crate::{log, stack};

/// Fails unless the part of the reference between `<!-- NAME -->` and `<!-- end of NAME -->` is `text`; with `UPDATE_DOCS=1`
/// in the environment it is rewritten instead.
fn assert_part(name: &str, text: &str) {
    // The tests of one process share the page.
    static PAGE: Mutex<()> = Mutex::new(());
    let _mine = PAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let tree = std::env::var_os("NETJAIL_SOURCE").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let page = PathBuf::from(tree).join("docs/reference.md");
    let all = std::fs::read_to_string(&page).unwrap();
    let begin = format!("<!-- {name} -->\n");
    let start = all.find(&begin).unwrap() + begin.len();
    let end = start + all[start..].find(&format!("<!-- end of {name} -->")).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, format!("{}{text}{}", &all[..start], &all[end..])).unwrap();
    } else {
        assert_eq!(&all[start..end], text, "docs/reference.md differs: UPDATE_DOCS=1 cargo test --lib cli::docs");
    }
}

fn flag(arg: &Arg) -> Option<String> {
    let long = format!("--{}", arg.get_long()?);
    let value =
        arg.get_action().takes_values().then(|| arg.get_value_names()?.first().map(|v| v.to_string())).flatten();
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    Some(format!("{short}`{}`", value.map_or(long.clone(), |value| format!("{long} {value}"))))
}

fn table(command: &Command) -> String {
    let mut text = "| flag | default | meaning |\n|---|---|---|\n".to_owned();
    for arg in command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
        let Some(flag) = flag(arg) else { continue };
        let default: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
        let default = if arg.get_action().takes_values() { default.join(", ") } else { String::new() };
        let choices: Vec<_> = arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
        let boolean = !arg.get_action().takes_values();
        let choices =
            if choices.is_empty() || boolean { String::new() } else { format!("One of {}. ", choices.join(", ")) };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let _ =
            writeln!(text, "| {flag} | {default} | {choices}{help}{} |", if help.ends_with('.') { "" } else { "." });
    }
    text
}

#[test]
fn the_flags_in_the_reference_are_those_of_the_program() {
    let mut program = Arguments::command();
    program.build();
    let find = |name| program.find_subcommand(name).unwrap();
    let jail = |name| find(name).get_arguments().filter_map(flag).collect::<Vec<_>>();
    assert_eq!(jail("run"), jail("shell"), "the reference has one table for both");
    let mut text = format!("\n### `netjail run` and `netjail shell`\n\n{}", table(find("run")));
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let flags = command.get_arguments().filter(|arg| arg.get_id() != "help").filter_map(flag).count();
        if flags > 0 && !matches!(name, "run" | "shell") {
            let _ = write!(text, "\n### `netjail {name}`\n\n{}", table(command));
        }
    }
    text.push('\n');
    assert_part("flags", &text);
}

#[test]
fn every_subcommand_is_in_the_reference() {
    let mut text = "\n| command | what it does |\n|---|---|\n".to_owned();
    for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| `netjail {}` | {about} |", command.get_name());
    }
    text.push('\n');
    assert_part("commands", &text);
}

/// 65536 as 65,536.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// All of the source but tests and this file, which names what it looks for. `None` where it cannot be read (an ordinary
/// user's run of the tests): the run as root has looked.
fn source() -> Option<String> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut source = String::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("cli/docs.rs") || path.components().any(|part| part.as_os_str() == "tests") => {
                }
                false => source.push_str(&std::fs::read_to_string(&path).unwrap()),
            }
        }
    }
    Some(source)
}

/// Private numbers: declarations that some file of the source has.
fn declared(declarations: &[&str]) {
    let Some(source) = source() else { return };
    for declaration in declarations {
        assert!(source.contains(declaration), "`{declaration}` has changed: so must this test and docs/reference.md");
    }
}

fn reference() -> String {
    let tree = std::env::var_os("NETJAIL_SOURCE").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    std::fs::read_to_string(PathBuf::from(tree).join("docs/reference.md")).unwrap()
}

/// The literal with which each text that follows `before` begins.
fn literals<'s>(source: &'s str, before: &str) -> Vec<&'s str> {
    source.split(before).skip(1).filter_map(|rest| rest.strip_prefix('"')?.split('"').next()).collect()
}

#[test]
fn every_variable_that_is_read_is_in_the_reference() {
    let Some(source) = source() else { return };
    let reads = ["env::var(", "env::var_os(", "absolute(", "under(", "const VARIABLE: &str = "];
    // Of the tests, and of selftest to its own children.
    let internal = ["UPDATE_DOCS", "NETJAIL_SOURCE", "NETJAIL_SPEED", "NETJAIL_SELFTEST_TOKEN"];
    let reference = reference();
    let names: Vec<&str> = reads.iter().flat_map(|read| literals(&source, read)).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names.iter().filter(|name| !internal.contains(name)) {
        assert!(reference.contains(&format!("`{name}`")), "docs/reference.md does not say what ${name} is for");
    }
}

#[test]
fn every_field_of_the_registry_is_in_the_reference() {
    let Ok(kinds) = std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/registry/kinds")) else {
        return;
    };
    let mut source: String = kinds.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    let settings = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/registry/settings.rs");
    source.push_str(&std::fs::read_to_string(settings).unwrap());
    let reference = reference();
    let mut seen = 0;
    // Lists of fields are slices of texts; so are the words that a field may have.
    for list in source.split("&[\"").skip(1) {
        let list = list.split(']').next().unwrap();
        for name in list.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty()) {
            let known = [format!("`{name}`"), format!("`{name}:"), format!("{name}: "), format!(".{name}`")];
            assert!(known.iter().any(|known| reference.contains(known)), "docs/reference.md has no field `{name}`");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn the_limits_in_the_reference_are_those_of_the_program() {
    let stack = stack::Config::default();
    let datagrams = Limits::default();
    let seconds = |time: stack::Duration| format!("{} s", time.secs());
    let minutes = |time: stack::Duration| format!("{} min", time.total_millis() / 60_000);
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    declared(&[
        "const WAITING: u32 = 1024;",
        "const GROWN: usize = 64;",
        "const STREAM_WAITING: u32 = 16;",
        "const PATIENCE: Duration = Duration::from_secs(2);",
        "const RESERVED_DESCRIPTORS: u64 = 256;",
        "const MAX_FILE: u64 = 4 << 20;",
        "const MAX_SECRET_FILE: u64 = 64 << 10;",
        "const MAX_FILES: usize = 1_000;",
        "const MAX_TOTAL: usize = 32 << 20;",
        "pub const MAX_LINE: usize = 4096;",
        "const MAX_PENDING: usize = 1000;",
        "const ASSOCIATING: usize = 128;",
        "const WAITING: usize = 64;",
        "const WAITING_BYTES: usize = 128 * 1024;",
        "const REFUSED_FOR: Duration = Duration::from_secs(60);",
        "const FAILED_FOR: Duration = Duration::from_secs(2);",
        "server.port(), 53 | 123",
    ]);
    let rows: [(&str, String, &str); 23] = [
        (
            "live flows of a worker, pending ones included",
            grouped(stack.flows as u64),
            "rule `limit-flows`: EHOSTUNREACH",
        ),
        (
            "dials of a worker that wait for an answer",
            grouped(stack.pending as u64),
            "rule `limit-pending`: EHOSTUNREACH",
        ),
        ("a half-closed flow that moves no byte", minutes(stack.half_close), "it is reset; rule `limit-half-closed`"),
        (
            "a silent program, before it is asked whether it lives",
            minutes(stack.keep_alive),
            "after two questions without answer the flow is reset",
        ),
        (
            "a flow's ring for what the program sends, and for what is sent to it",
            format!("{} KiB, {} KiB", stack.receive >> 10, stack.transmit >> 10),
            "the sender waits, as with any slow reader; of the second one as much as of the first is used before the \
             program has read a whole one, and by the 65th flow of a worker that has",
        ),
        (
            "sockets of a jail's programs that send datagrams (mappings), of a worker",
            grouped(datagrams.mappings as u64),
            "the one that was idle for longest, 30 s at least, makes room; else rule `limit-mappings`: EHOSTUNREACH",
        ),
        (
            "servers of one such socket; of all of a worker's",
            format!("{}; {}", grouped(datagrams.peers as u64), grouped(datagrams.all_peers as u64)),
            "the oldest association is forgotten: rule `limit-peers` in its record",
        ),
        (
            "an association without a datagram",
            format!("{}; {} to ports 53 and 123", minutes(datagrams.idle), seconds(datagrams.short)),
            "it is forgotten (RFC 4787 REQ-5)",
        ),
        (
            "associations of a worker that a proxy is being asked for",
            grouped(128),
            "rule `limit-pending`: EHOSTUNREACH",
        ),
        ("datagrams that wait for one of them", "64, or 128 KiB".into(), "further ones are lost"),
        (
            "a proxy that refuses UDP ASSOCIATE",
            "60 s; 2 s after any other failure".into(),
            "it is not asked for so long, and datagrams are refused with its answer",
        ),
        ("names of a jail", grouped(pool::CAPACITY.into()), "rule `limit-names`: SERVFAIL"),
        ("text of all names of a jail", mib(pool::MAX_NAME_BYTES), "rule `limit-names`: SERVFAIL"),
        (
            "forwarded questions in progress, of a worker (direct)",
            grouped(1024),
            "rule `limit-questions`: SERVFAIL; 16 of one DNS stream",
        ),
        ("one resolver's time for an answer (direct)", "2 s".into(), "the next one is asked, twice round"),
        ("connects of a jail that the mediator works on", grouped(1000), "further ones are ENOBUFS"),
        ("log lines that wait for a slow reader", mib(log::sink::MAX_WAITING), "further ones are counted as `lost`"),
        ("one line of the log", "4 KiB".into(), "longer texts are clipped"),
        ("descriptors of the command, below its caller's hard limit", grouped(256), "they are netjail's own reserve"),
        ("one registry, settings or lock file", mib(4 << 20), "an error of the registry"),
        ("all registry files together", mib(32 << 20), "an error of the registry"),
        ("registry files", grouped(1_000), "an error of the registry"),
        ("a file that `${file:…}` names", "64 KiB".into(), "choosing the network is an error"),
    ];
    let mut text = "\n| what | limit | beyond it |\n|---|---|---|\n".to_owned();
    for (what, limit, beyond) in rows {
        let _ = writeln!(text, "| {what} | {limit} | {beyond} |");
    }
    text.push('\n');
    assert_part("limits", &text);
}

/// Flags of `run` that neither open nor close anything.
const NEUTRAL: [&str; 9] =
    ["--registry", "--log", "--verbose", "--quiet", "--workers", "--mtu", "--name", "--group", "--wait"];

#[test]
fn every_flag_that_opens_or_closes_something_has_a_row_and_every_row_a_test() {
    let tree = PathBuf::from(std::env::var_os("NETJAIL_SOURCE").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()));
    let page = std::fs::read_to_string(tree.join("docs/flags.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut program = Arguments::command();
    program.build();
    for arg in program.find_subcommand("run").unwrap().get_arguments().filter(|arg| arg.get_id() != "help") {
        let Some(long) = arg.get_long().map(|long| format!("--{long}")) else { continue };
        let words: Vec<String> = match arg.get_possible_values() {
            values if arg.get_action().takes_values() && !values.is_empty() => {
                values.iter().map(|value| format!("`{long} {}`", value.get_name())).collect()
            }
            _ => vec![format!("`{long}")],
        };
        // The default of a choice is what the others are compared with.
        let named = |word: &String| rows.iter().any(|row| row[0].starts_with(word.as_str()));
        let rows_of = words.iter().filter(|word| named(word)).count();
        let neutral = NEUTRAL.contains(&long.as_str());
        assert!(neutral || rows_of + 1 >= words.len() && rows_of > 0, "{long} lacks a row in docs/flags.md");
    }
    for row in &rows {
        let (file, test) = row[3].split_once(": ").unwrap_or_else(|| panic!("no test in {row:?}"));
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file.trim_matches('`'));
        // Where the source cannot be read (an ordinary user's run of the tests), the run as root has looked.
        let Ok(source) = std::fs::read_to_string(&path) else { continue };
        let declared = format!("fn {}()", test.trim_matches(['`', ' ', '|']));
        assert!(source.contains(&declared), "{}: no {declared}", path.display());
    }
}
