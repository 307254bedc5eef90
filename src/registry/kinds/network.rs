//! `network.*` entries.

use std::net::IpAddr;
use std::time::Duration;

use crate::flow::HostName;
use crate::registry::diagnostic::escape;
use crate::registry::fields::{Context, Fields};
use crate::registry::yaml::{Span, Value};
use crate::registry::{Id, Isolation, Kind, Login, NameFamilies, Network, Secret, Socks5, Udp};

/// The kinds that there are.
pub(in crate::registry) const KINDS: &[&str] =
    &["network.socks5", "network.tailscale", "network.i2p", "network.http", "network.route"];

/// How long a dial may take where `connect_timeout` does not say.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Names that stand for something else wherever a network is named.
pub(in crate::registry) const RESERVED: &[&str] = &["direct", "nil", "null", "deny"];

/// Fields of Wippy's that every kind may carry.
pub(in crate::registry) const PASSED: &[&str] = &["meta", "lifecycle"];
/// Fields of every network.
const SHARED: &[&str] = &["name", "kind", "names", "via", "dns", "connect_timeout", "udp", "allow_sockets"];

/// A `network.*` entry as read: the references are not looked at yet.
pub(in crate::registry) struct Read {
    pub network: Network,
    /// Where it dials, in words, without secrets; names of the registry are escaped.
    pub dials: String,
    /// Other entries that it names.
    pub references: Vec<Reference>,
}

/// A name of another network, where it is written.
pub(in crate::registry) struct Reference {
    pub to: String,
    pub field: &'static str,
    pub span: Span,
}

/// Reads one entry. What is wrong is in the context's findings; what could be read is returned all the same, so that
/// references to it do not become errors of their own.
pub(in crate::registry) fn read(cx: &mut Context<'_, '_>, id: &Id, kind: &str, fields: &Fields<'_>) -> Read {
    let own: &[&str] = match kind {
        "network.socks5" => &["host", "port", "username", "password", "isolate_streams"],
        "network.tailscale" => &[
            "hostname",
            "auth_key",
            "auth_key_env",
            "state_dir",
            "control_url",
            "ephemeral",
            "exit_node",
            "accept_routes",
            "control_ca",
        ],
        "network.i2p" => &["host", "port", "session_name"],
        "network.http" => &["host", "port", "username", "password", "tls"],
        _ => &["rules", "default"],
    };
    fields.only(cx, kind, &[SHARED, own].concat(), PASSED);

    let mut references = Vec::new();
    let (built, dials) = match kind {
        "network.socks5" => socks5(cx, fields),
        "network.tailscale" => tailscale(cx, fields),
        "network.i2p" => i2p(cx, fields),
        "network.http" => http(cx, fields),
        _ => route(cx, fields, &mut references),
    };
    let names = fields.word(cx, "names", &[("v4", NameFamilies::V4), ("both", NameFamilies::Both)]).unwrap_or_default();
    let connect_timeout = fields.duration(cx, "connect_timeout").unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    let udp = fields.word(cx, "udp", &[("refuse", Udp::Refuse), ("associate", Udp::Carry)]).unwrap_or_default();
    let allow_sockets = fields.paths(cx, "allow_sockets");
    let unbuilt = unbuilt(cx, fields, &mut references);
    let kind = built.unwrap_or_else(|| Kind::Unbuilt(kind.to_owned()));
    Read {
        network: Network { id: id.clone(), kind, names, connect_timeout, udp, allow_sockets, unbuilt },
        dials,
        references,
    }
}

/// The shared fields that are understood but not carried out yet.
fn unbuilt(cx: &mut Context<'_, '_>, fields: &Fields<'_>, references: &mut Vec<Reference>) -> Vec<String> {
    let mut unbuilt = Vec::new();
    if let Some((to, span)) = fields.reference(cx, "via") {
        references.push(Reference { to, field: "via", span });
        unbuilt.push("via".to_owned());
    }
    if !fields.strings(cx, "dns").is_empty() {
        unbuilt.push("dns".to_owned());
    }
    unbuilt
}

fn socks5(cx: &mut Context<'_, '_>, fields: &Fields<'_>) -> (Option<Kind>, String) {
    let (host, port) = server(cx, fields, None);
    let login = login(cx, fields);
    let words = [("false", Isolation::Off), ("true", Isolation::Stream), ("jail", Isolation::Jail)];
    let isolate = fields.word(cx, "isolate_streams", &words).unwrap_or_default();
    if isolate != Isolation::Off && fields.get("username").is_some_and(|node| node.text() != Some("")) {
        let message = format!("{} has both `isolate_streams` and `username`", fields.owner);
        let help = "isolation sends random credentials, so the login would never be sent: remove one of the two";
        fields.wrong(cx, "isolate_streams", message, "expected `false` beside a `username`", help);
    }
    let dials = format!("SOCKS5 proxy {}", address(&host, port));
    (Some(Kind::Socks5(Socks5 { host, port, login, isolate })), dials)
}

fn tailscale(cx: &mut Context<'_, '_>, fields: &Fields<'_>) -> (Option<Kind>, String) {
    fields.require(cx, "hostname", "the node's name in the tailnet");
    let hostname = fields.string(cx, "hostname").unwrap_or_default();
    // It becomes the name of a folder and a DNS label.
    let characters = hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !characters || hostname.starts_with('-') || hostname.len() > 63 {
        let message = format!("`hostname` of {} is not a host's name", fields.owner);
        fields.wrong(cx, "hostname", message, "expected at most 63 letters, digits and hyphens", "");
    }
    let key = fields.secret(cx, "auth_key").is_some();
    let variable = fields.string(cx, "auth_key_env");
    if let Some(variable) = &variable {
        cx.placeholders.secret_env.insert(variable.clone());
    }
    let given = |key: &str| fields.get(key).is_some_and(|node| node.text() != Some(""));
    if !key && variable.is_none() && !given("auth_key") && !given("auth_key_env") {
        let message = format!("{} needs `auth_key` or `auth_key_env`", fields.owner);
        let help = "write `auth_key: ${env:TS_AUTHKEY}`, or `auth_key_env: TS_AUTHKEY`";
        cx.error(&fields.span, message, "expected one of the two fields", help);
    }
    for key in ["state_dir", "control_url", "exit_node", "control_ca"] {
        fields.string(cx, key);
    }
    fields.boolean(cx, "ephemeral");
    fields.boolean(cx, "accept_routes");
    (None, format!("tailnet, as {}", escape(&hostname)))
}

fn i2p(cx: &mut Context<'_, '_>, fields: &Fields<'_>) -> (Option<Kind>, String) {
    let (host, port) = server(cx, fields, Some(("127.0.0.1", 7656)));
    fields.string(cx, "session_name");
    (None, format!("I2P SAM bridge {}", address(&host, port)))
}

fn http(cx: &mut Context<'_, '_>, fields: &Fields<'_>) -> (Option<Kind>, String) {
    let (host, port) = server(cx, fields, None);
    login(cx, fields);
    fields.boolean(cx, "tls");
    (None, format!("HTTP proxy {}", address(&host, port)))
}

fn route(cx: &mut Context<'_, '_>, fields: &Fields<'_>, references: &mut Vec<Reference>) -> (Option<Kind>, String) {
    fields.require(cx, "default", "a network, `direct` or `deny`");
    target(cx, fields, "default", references);
    let rules = match fields.get("rules").map(|node| (node, node.value())) {
        None => &[][..],
        Some((_, Value::Sequence(list))) => list,
        Some((node, _)) => {
            let message = format!("`rules` of {} is {}", fields.owner, node.describe());
            fields.wrong(cx, "rules", message, "expected a list: `- {match: …, network: …}`", "");
            &[]
        }
    };
    for (index, rule) in rules.iter().enumerate() {
        let Some(rule) = Fields::of(cx, &format!("rule {} of {}", index + 1, fields.owner), rule) else { continue };
        rule.only(cx, "a rule", &["match", "ports", "network"], &[]);
        rule.require(cx, "match", "host patterns, networks (CIDR) or ports");
        rule.require(cx, "network", "a network, `direct` or `deny`");
        rule.strings(cx, "match");
        rule.strings(cx, "ports");
        target(cx, &rule, "network", references);
    }
    (None, format!("by destination, {} rules", rules.len()))
}

fn target(cx: &mut Context<'_, '_>, fields: &Fields<'_>, key: &'static str, references: &mut Vec<Reference>) {
    if let Some((to, span)) = fields.reference(cx, key)
        && !matches!(to.as_str(), "direct" | "deny")
    {
        references.push(Reference { to, field: key, span });
    }
}

/// `host` and `port`. Where one is wrong or missing, something harmless that nobody will dial: an error was found then.
fn server(cx: &mut Context<'_, '_>, fields: &Fields<'_>, default: Option<(&str, u16)>) -> (String, u16) {
    if default.is_none() {
        fields.require(cx, "host", "the server's name or address");
        fields.require(cx, "port", "the server's port, from 1 to 65535");
    }
    let host = fields.string(cx, "host");
    if let Some(host) = &host
        && host.parse::<IpAddr>().is_err()
        && let Err(why) = HostName::parse(host)
    {
        let message = format!("`host` of {} is not a host: {why}", fields.owner);
        fields.wrong(cx, "host", message, "expected a name or an address, without port or brackets", "");
    }
    let port = fields.port(cx, "port");
    let (default_host, default_port) = default.unwrap_or(("", 0));
    (host.unwrap_or_else(|| default_host.to_owned()), port.unwrap_or(default_port))
}

/// `username` and `password` (RFC 1929: 1 to 255 and 0 to 255 bytes).
fn login(cx: &mut Context<'_, '_>, fields: &Fields<'_>) -> Option<Login> {
    let username = fields.secret_name(cx, "username");
    let password = fields.secret(cx, "password");
    if password.is_some() && fields.get("username").is_none_or(|node| node.text() == Some("")) {
        let message = format!("{} has a `password` and no `username`", fields.owner);
        fields.wrong(cx, "password", message, "expected a `username` beside it", "");
    }
    for (key, value) in [("username", &username), ("password", &password)] {
        if value.as_ref().is_some_and(|value| value.len() > 255) {
            let message = format!("`{key}` of {} is longer than a proxy can be told", fields.owner);
            fields.wrong(cx, key, message, "expected at most 255 bytes", "");
        }
    }
    Some(Login { username: username?, password: Secret::new(password.unwrap_or_default()) })
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{}]:{port}", escape(host)) } else { format!("{}:{port}", escape(host)) }
}
