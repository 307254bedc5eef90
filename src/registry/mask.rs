//! Which parts of a registry's text may be shown in an excerpt.
//!
//! A list of secret fields would miss the secret behind a misspelt one, so it is the other way round: a value is shown
//! only when its field is known to hold none ([`HARMLESS`]), or when it is nothing but a placeholder. Everything else is
//! shown as dots.

use super::yaml::{Node, Span, Value};
use crate::escape;

/// What a masked value looks like.
const DOTS: &str = "••••";

/// Fields whose values are no secrets.
const HARMLESS: &[&str] = &[
    "version",
    "namespace",
    "entries",
    "name",
    "kind",
    "host",
    "port",
    "username",
    "isolate_streams",
    "names",
    "connect_timeout",
    "via",
    "dns",
    "udp",
    "allow_sockets",
    "hostname",
    "auth_key_env",
    "state_dir",
    "control_url",
    "ephemeral",
    "exit_node",
    "accept_routes",
    "control_ca",
    "session_name",
    "tls",
    "rules",
    "match",
    "network",
    "addr",
    "lifecycle",
    "auto_start",
    "policy",
    "actions",
    "resources",
    "effect",
    "conditions",
    "field",
    "operator",
    "value_from",
    "groups",
    "expression",
    "network_service",
    "default_network",
    "directories",
    "src",
    "modules",
    "variable",
    "storage",
    "<<",
];

fn harmless(key: &str) -> bool {
    HARMLESS.contains(&key)
}

/// A value that only says where the secret is: `${env:NAME}` or `${file:PATH}`, without a default.
fn is_placeholder(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(|inner| {
        (inner.starts_with("env:") || inner.starts_with("file:")) && !inner.contains(['|', '}', '$'])
    })
}

/// The masked ranges of a text whose tree is known, in order; `dropped` are pairs that stand in the text and in no tree.
pub(super) fn of_tree(text: &str, documents: &[Node], dropped: &[(Node, Node)]) -> Vec<Span> {
    let mut masks = Vec::new();
    let mut todo: Vec<(&Node, bool)> = documents.iter().map(|node| (node, true)).collect();
    let harmless_key = |key: &Node| key.text().is_some_and(harmless);
    todo.extend(dropped.iter().map(|(key, value)| (value, harmless_key(key) || value.mapping().is_some())));
    while let Some((node, shown)) = todo.pop() {
        match node.value() {
            Value::Scalar { text: value, .. } => {
                if !shown && !value.is_empty() && !is_placeholder(value) {
                    masks.push(node.inner.span.clone());
                }
            }
            Value::Sequence(list) => todo.extend(list.iter().map(|item| (item, shown))),
            Value::Mapping(pairs) => {
                for (key, value) in pairs {
                    let known = harmless_key(key);
                    let collection = !matches!(value.value(), Value::Scalar { .. });
                    // A mapping under an unknown field may still hold known ones; a list under it may not.
                    let shown = known || (collection && value.mapping().is_some());
                    todo.push((value, shown));
                    if key.text().is_none() {
                        todo.push((key, false));
                    }
                }
            }
        }
    }
    masks.retain(|span| span.start < span.end && span.end <= text.len());
    masks.sort_by_key(|span| span.start);
    masks.dedup();
    masks
}

/// The masked part of the line at `at` of a text that is not YAML.
pub(super) fn of_broken_line(text: &str, at: usize) -> Option<Span> {
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let line = &text[start..end];
    let keys = keys(line);
    if let Some((_, colon)) = keys.iter().find(|(key, _)| !harmless(key)) {
        return Some(start + colon + 1..end);
    }
    // A line without a field, or a value that goes on from the line before: the last field above it decides, and one
    // that is not complete on its own line (a quote that stays open, a block) reaches over known fields too.
    let above = text[..start].lines().rev().take(200);
    let depth = indentation(line);
    for previous in above {
        let found = self::keys(previous);
        let Some((key, colon)) = found.last() else { continue };
        let value = previous[colon + 1..].trim();
        let open = value.starts_with(['|', '>']) && indentation(previous) < depth
            || (value.starts_with('"') && !closed(value, '"'))
            || (value.starts_with('\'') && !closed(value, '\''));
        if !harmless(key) && (open || keys.is_empty()) {
            return Some(start + depth.min(line.len())..end);
        }
        if keys.is_empty() && !open {
            break;
        }
    }
    None
}

fn closed(value: &str, quote: char) -> bool {
    value.len() > 1 && value[1..].contains(quote)
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

/// The fields of a line with the offsets of their colons: words followed by a colon and a blank or the line's end.
fn keys(line: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (colon, _) in line.match_indices(':') {
        let after = line[colon + 1..].chars().next();
        if !after.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | '|' | '>')) {
            continue;
        }
        let word = line[..colon].trim_end().trim_end_matches(['"', '\'']);
        let from = word.rfind(|c: char| c.is_whitespace() || matches!(c, '{' | ',' | '"' | '\'')).map_or(0, |i| i + 1);
        let from = (from..=word.len()).find(|&i| word.is_char_boundary(i)).unwrap_or(word.len());
        found.push((&word[from..], colon));
    }
    found
}

/// A part of the text with its masked ranges as dots and its control characters escaped.
pub(super) fn shown(text: &str, range: Span, masks: &[Span]) -> String {
    let mut out = String::new();
    let mut at = range.start;
    let first = masks.partition_point(|mask| mask.end <= range.start);
    for mask in masks[first..].iter().take_while(|mask| mask.start < range.end) {
        if at < mask.start {
            text[at..mask.start].chars().for_each(|c| escape::push(&mut out, c));
        }
        if at < mask.end {
            out.push_str(DOTS);
        }
        at = at.max(mask.end.min(range.end));
    }
    if at < range.end {
        text[at..range.end].chars().for_each(|c| escape::push(&mut out, c));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn tree(text: &str) -> String {
        let parsed = parse(text);
        let masks = of_tree(text, &parsed.documents, &parsed.dropped);
        shown(text, 0..text.len(), &masks).replace("\\u{a}", "\n")
    }

    fn broken(text: &str, needle: &str) -> String {
        let at = text.find(needle).unwrap();
        let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
        let end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        shown(text, start..end, of_broken_line(text, at).as_slice())
    }

    #[test]
    fn only_values_of_harmless_fields_are_shown() {
        let text = "host: h\npassword: hunter2\npasword: hunter2\nx: [hunter2]\ny: {host: h, z: hunter2}\n";
        let shown = tree(text);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(shown.matches("host: h").count(), 2, "{shown}");
    }

    #[test]
    fn an_aliased_secret_is_masked_where_it_is_written() {
        assert!(!tree("name: &p hunter2\npassword: *p\n").contains("hunter2"));
    }

    #[test]
    fn a_multi_line_secret_is_masked_whole() {
        for text in ["password: |\n  hunter2\n  hunter2\nhost: h\n", "password: \"hunter2\n  hunter2\"\nhost: h\n"] {
            let shown = tree(text);
            assert!(!shown.contains("hunter2") && shown.contains("host: h"), "{shown}");
        }
    }

    #[test]
    fn a_placeholder_is_shown_unless_it_carries_a_default() {
        assert!(tree("password: ${env:PW}\n").contains("${env:PW}"));
        assert!(!tree("password: ${env:PW|hunter2}\n").contains("hunter2"));
    }

    #[test]
    fn a_broken_line_shows_no_secret() {
        for (text, needle) in [
            ("a:\n  password: hunter2: x\n", "hunter2"),
            ("- {host: h, password: hunter2, port 1\n", "port 1"),
            ("password: \"hunter2\n  hunter2\nhost: h\n", "\n  hunter2\n"),
            ("password: |\n  hunter2\n", "  hunter2"),
            ("password: \"x\n  hunter2 host: h\n", "host"),
            ("password:\n  hunter2\n", "hunter2"),
            ("pass\tword: hunter2\n", "hunter2"),
        ] {
            let needle = needle.trim_start_matches('\n');
            assert!(!broken(text, needle).contains("hunter2"), "{text:?} shows {:?}", broken(text, needle));
        }
        assert_eq!(broken("host: [h\nport: 1\n", "[h"), "host: [h");
        assert_eq!(broken("host: h\nport 1\n", "port"), "port 1");
    }

    #[test]
    fn a_secret_that_is_given_twice_is_shown_neither_time() {
        assert_eq!(tree("password: one\npassword: two\nhost: h\n"), "password: ••••\npassword: ••••\nhost: h\n");
    }
}
