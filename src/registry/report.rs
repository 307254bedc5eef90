//! What `netjail check`, `netjail networks` and `netjail allow` print: pure functions from a load to text and JSON.

use serde_json::{Value, json};

use super::diagnostic::{Diagnostic, Findings, Severity, escape, escape_path};
use super::load::{LoadError, Loaded, Place};
use super::settings::DefaultNetwork;
use super::trust::Trust;
use super::{Id, Kind};

/// Text and exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What to print, with its last newline.
    pub text: String,
    /// 0 good, 1 finding.
    pub status: u8,
}

/// Whether to colour what goes to a stream (<https://no-color.org>).
pub fn colour(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// All findings in the compiler's look, then a line that counts them.
pub fn errors(findings: &Findings, colour: bool) -> String {
    let mut text = String::new();
    for finding in &findings.errors {
        text.push_str(&finding.render(colour));
        text.push_str("\n\n");
    }
    let count = findings.errors.len();
    let more = match findings.omitted {
        0 => String::new(),
        omitted => format!(" shown, {omitted} more left out"),
    };
    text.push_str(&format!("{count} error{}{more}\n", if count == 1 { "" } else { "s" }));
    text
}

/// `netjail check`.
pub fn check(loaded: &Result<Loaded, LoadError>, colour: bool) -> Report {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(LoadError(findings)) => return Report { text: errors(findings, colour), status: 1 },
    };
    let mut text = String::new();
    for note in &loaded.notes {
        text.push_str(&note.render(colour));
        text.push_str("\n\n");
    }
    text.push_str(&format!(
        "registry: {}\n{} entries in {} files; {} networks, {} listeners, {} policies; generation {:016x}\n",
        place(loaded),
        loaded.entries,
        loaded.files.len(),
        loaded.networks.len(),
        loaded.services.len(),
        loaded.policies.len(),
        loaded.generation
    ));
    let file = loaded.settings.file.as_ref().map_or("none, so the defaults".to_owned(), |file| escape_path(file));
    text.push_str(&format!(
        "settings: {file}; default network {}; state in {}\n",
        default_network(loaded),
        escape_path(&loaded.settings.state_dir)
    ));
    for (id, defined) in &loaded.networks {
        for socket in sockets(&defined.network) {
            text.push_str(&format!("{id} opens the unix socket {socket}\n"));
        }
    }
    let missing = missing(loaded, colour);
    if missing.is_empty() {
        return Report { text, status: 0 };
    }
    text.push('\n');
    text.push_str(&missing);
    Report { text, status: 1 }
}

/// The secrets that are not there now, as errors; empty if there are none.
pub fn missing(loaded: &Loaded, colour: bool) -> String {
    let mut missing = Findings::default();
    for finding in loaded.networks.values().flat_map(|defined| &defined.missing) {
        missing.error(|| finding.clone());
    }
    if missing.errors.is_empty() { String::new() } else { errors(&missing, colour) }
}

/// `netjail check --json`: one object.
pub fn check_json(loaded: &Result<Loaded, LoadError>, trust: Option<&Trust>) -> Report {
    let (value, status) = match loaded {
        Err(LoadError(findings)) => {
            let errors: Vec<Value> = findings.errors.iter().map(finding_json).collect();
            (json!({"v": 1, "ok": false, "errors": errors, "omitted": findings.omitted}), 1)
        }
        Ok(loaded) => {
            let errors: Vec<Value> = loaded.networks.values().flat_map(|d| &d.missing).map(finding_json).collect();
            let (believed, changes) = match trust {
                Some(Trust::Changed(changed)) => ("refused", changed.what.as_slice()),
                Some(Trust::FirstUse(_)) => ("first-use", &[][..]),
                _ => ("believed", &[][..]),
            };
            let ok = errors.is_empty() && believed != "refused";
            let value = json!({
                "v": 1,
                "ok": ok,
                "registry": place(loaded),
                "files": loaded.files.iter().map(|file| file.to_string_lossy()).collect::<Vec<_>>(),
                "entries": loaded.entries,
                "networks": loaded.networks.keys().map(Id::to_string).collect::<Vec<_>>(),
                "allow_sockets": loaded
                    .networks
                    .iter()
                    .filter(|(_, defined)| !defined.network.allow_sockets.is_empty())
                    .map(|(id, defined)| (id.to_string(), json!(sockets(&defined.network))))
                    .collect::<serde_json::Map<_, _>>(),
                "policies": loaded.policies.iter().map(|policy| policy.id.to_string()).collect::<Vec<_>>(),
                "default_network": default_json(loaded),
                "state_dir": loaded.settings.state_dir.to_string_lossy(),
                "generation": format!("{:016x}", loaded.generation),
                "trust": believed,
                "changes": changes,
                "errors": errors,
                "notes": loaded.notes.iter().map(finding_json).collect::<Vec<_>>(),
                "omitted": loaded.omitted,
            });
            (value, u8::from(!ok))
        }
    };
    Report { text: line(&value), status }
}

/// A JSON text in one line. Characters that a terminal would act on are escaped, which changes nothing for a parser: they
/// can only stand in strings.
fn line(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        let mut escaped = String::new();
        crate::escape::push(&mut escaped, c);
        if escaped.len() > c.len_utf8() && !c.is_ascii() {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out
}

fn finding_json(finding: &Diagnostic) -> Value {
    json!({
        "severity": match finding.severity { Severity::Error => "error", Severity::Note => "note" },
        "file": finding.file.to_string_lossy(),
        "line": finding.place.map(|place| place.0),
        "column": finding.place.map(|place| place.1),
        "message": finding.message,
        "expected": finding.expected,
        "help": finding.help,
        "related": finding.related_location(),
    })
}

fn place(loaded: &Loaded) -> String {
    match &loaded.place {
        None => "none found".to_owned(),
        Some(Place::Explicit) => "named by --registry".to_owned(),
        Some(Place::Project(folder)) => format!("project {}", escape_path(folder)),
        Some(Place::User(folder) | Place::System(folder)) => escape_path(folder),
    }
}

fn default_network(loaded: &Loaded) -> String {
    match &loaded.settings.default_network {
        DefaultNetwork::Unset => "unset: direct, with a warning".to_owned(),
        DefaultNetwork::Direct => "direct".to_owned(),
        DefaultNetwork::Network(id) => id.to_string(),
    }
}

fn default_json(loaded: &Loaded) -> Value {
    match &loaded.settings.default_network {
        DefaultNetwork::Unset => Value::Null,
        DefaultNetwork::Direct => json!("direct"),
        DefaultNetwork::Network(id) => json!(id.to_string()),
    }
}

/// What keeps a network from being chosen, in a few words.
fn state(defined: &super::Defined) -> String {
    let network = &defined.network;
    match (&network.kind, network.unbuilt.is_empty(), defined.missing.is_empty()) {
        (Kind::Unbuilt(_), ..) => "not built yet".into(),
        (_, false, _) => format!("not built yet: {}", network.unbuilt.join(", ")),
        (_, _, false) => "a secret is missing".into(),
        _ => String::new(),
    }
}

/// The sockets of the host that a network opens, escaped.
fn sockets(network: &super::Network) -> Vec<String> {
    network.allow_sockets.iter().map(|path| escape_path(path)).collect()
}

/// `netjail networks`: a table; the default is marked with a star.
pub fn networks(loaded: &Loaded) -> Report {
    let mut rows = vec![["", "NETWORK", "KIND", "DIALS", ""].map(str::to_owned)];
    for (id, defined) in &loaded.networks {
        let star = if loaded.settings.default_network == DefaultNetwork::Network(id.clone()) { "*" } else { "" };
        let opened = sockets(&defined.network);
        let opens = if opened.is_empty() { String::new() } else { format!("opens {}", opened.join(", ")) };
        let remark = [state(defined), opens].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        rows.push([star.into(), id.to_string(), defined.kind.clone(), defined.dials.clone(), remark]);
    }
    let direct = match loaded.settings.default_network {
        DefaultNetwork::Network(_) => "",
        _ => "*",
    };
    rows.push([direct.into(), "nil".into(), "direct".into(), "from this host".into(), String::new()]);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [1, width(1), width(2), width(3)];
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        line.push_str(&row[4]);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Report { text, status: 0 }
}

/// `netjail networks --json`: one array.
pub fn networks_json(loaded: &Loaded) -> Report {
    let rows: Vec<Value> = loaded
        .networks
        .iter()
        .map(|(id, defined)| {
            json!({
                "id": id.to_string(),
                "kind": defined.kind,
                "dials": defined.dials,
                "default": loaded.settings.default_network == DefaultNetwork::Network(id.clone()),
                "allow_sockets": sockets(&defined.network),
                "usable": state(defined).is_empty(),
                "unbuilt": defined.network.unbuilt.iter().map(|field| escape(field)).collect::<Vec<_>>(),
                "missing": defined.missing.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>(),
                "location": defined.location,
            })
        })
        .collect();
    Report { text: line(&Value::Array(rows)), status: 0 }
}
