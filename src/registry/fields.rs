//! Typed access to the fields of a mapping, with a finding for each that is not as it should be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Findings, Severity, Source, word};
use super::placeholder::{Placeholders, Unresolved};
use super::suggest::hint;
use super::yaml::{Node, Span, Value};

/// What reading an entry needs at hand.
pub(super) struct Context<'c, 'e> {
    pub source: &'c Source,
    pub findings: &'c mut Findings,
    pub placeholders: &'c mut Placeholders<'e>,
    /// What the entry being read names and is not there: it cannot be used now.
    pub missing: Vec<Diagnostic>,
    /// Whether a note about secrets in the registry itself was made already.
    pub inline_secret_said: &'c mut bool,
}

impl Context<'_, '_> {
    /// An error at a place.
    pub(super) fn error(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        expected: impl Into<String>,
        help: impl Into<String>,
    ) {
        let source = self.source;
        self.findings
            .error(|| Diagnostic::at(Severity::Error, source, span.clone(), message).expected(expected).help(help));
    }

    /// A note at a place.
    pub(super) fn note(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        let source = self.source;
        self.findings.note(|| Diagnostic::at(Severity::Note, source, span.clone(), message).help(help));
    }
}

/// The fields of one mapping.
#[derive(Clone)]
pub(super) struct Fields<'n> {
    /// Whose fields they are, for messages: `app:tor`.
    pub owner: String,
    /// Where a missing field is reported.
    pub span: Span,
    pairs: &'n [(Node, Node)],
}

impl<'n> Fields<'n> {
    /// The fields of a node; an error where it is no mapping.
    pub(super) fn of(cx: &mut Context<'_, '_>, owner: &str, node: &'n Node) -> Option<Self> {
        match node.mapping() {
            Some(pairs) => Some(Self { owner: owner.into(), span: node.span.clone(), pairs }),
            None => {
                cx.error(&node.span, format!("{owner} is {}", node.describe()), "expected fields: `name: value`", "");
                None
            }
        }
    }

    /// The value of a field, null included.
    pub(super) fn raw(&self, key: &str) -> Option<&'n Node> {
        self.pairs.iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v)
    }

    /// The value of a field that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.raw(key).filter(|node| !node.is_null())
    }

    /// Makes every field an error that is neither `known` nor `passed`, and a note of those that are only `passed`.
    pub(super) fn only(&self, cx: &mut Context<'_, '_>, what: &str, known: &[&str], passed: &[&str]) {
        for (key, value) in self.pairs {
            match key.text() {
                None => cx.error(
                    &key.span,
                    format!("{} has a field whose name is {}", self.owner, key.describe()),
                    "expected a field name",
                    "",
                ),
                Some(name) if known.contains(&name) => {
                    if value.inner.custom_tag {
                        cx.error(
                            &value.span,
                            format!("`{name}` of {} has a tag", self.owner),
                            "expected a plain value",
                            "tags are not supported: take it away",
                        );
                    }
                }
                Some(name) if passed.contains(&name) => {
                    cx.note(
                        &key.span,
                        format!("`{name}` of {} has no meaning for netjail and is passed over", self.owner),
                        "",
                    );
                }
                Some(name) => {
                    let help = match name {
                        "data" => "fields stand directly in the entry, without `data:`".to_owned(),
                        _ => hint(name, known),
                    };
                    cx.error(
                        &key.span,
                        format!("{what} has no field `{}`", word(name)),
                        format!("unknown field of {}", self.owner),
                        help,
                    );
                }
            }
        }
    }

    /// An error at a field's value, or at the owner where the field is missing.
    pub(super) fn wrong(
        &self,
        cx: &mut Context<'_, '_>,
        key: &str,
        message: impl Into<String>,
        expected: &str,
        help: &str,
    ) {
        let span = self.raw(key).map_or(self.span.clone(), |node| node.span.clone());
        cx.error(&span, message, expected, help);
    }

    /// Says that a required field is not there.
    pub(super) fn require(&self, cx: &mut Context<'_, '_>, key: &str, what: &str) {
        if self.get(key).is_none_or(|node| node.text() == Some("")) {
            let span = self.raw(key).map_or(self.span.clone(), |node| node.span.clone());
            cx.error(&span, format!("{} needs the field `{key}`", self.owner), format!("expected `{key}`: {what}"), "");
        }
    }

    /// Says that a required field, which may be a text or a list, is not there.
    pub(super) fn require_any(&self, cx: &mut Context<'_, '_>, key: &str, what: &str) {
        let empty_list = |node: &Node| matches!(node.value(), Value::Sequence(list) if list.is_empty());
        if self.get(key).is_some_and(empty_list) {
            self.wrong(cx, key, format!("`{key}` of {} is an empty list", self.owner), &format!("expected {what}"), "");
        } else {
            self.require(cx, key, what);
        }
    }

    /// A text with its placeholders resolved. `None` where there is none (empty counts as none), it is wrong, or it is missing now.
    pub(super) fn string(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<String> {
        self.resolved(cx, key, false)
    }

    /// Like [`string`](Self::string), for what must not be shown.
    pub(super) fn secret(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<String> {
        if let Some(text) = self.get(key).and_then(Node::text)
            && !text.is_empty()
            && !text.contains("${")
            && !*cx.inline_secret_said
        {
            *cx.inline_secret_said = true;
            let span = self.get(key).map_or(self.span.clone(), |node| node.span.clone());
            cx.note(
                &span,
                format!("`{key}` of {} is written in the registry itself, which a jail can usually read", self.owner),
                format!("write `{key}: ${{env:NAME}}` or `{key}: ${{file:PATH}}`; netjail hides both from the jail"),
            );
        }
        self.resolved(cx, key, true)
    }

    /// Like [`secret`](Self::secret), without the note: a name alone opens nothing.
    pub(super) fn secret_name(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<String> {
        self.resolved(cx, key, true)
    }

    fn resolved(&self, cx: &mut Context<'_, '_>, key: &str, secret: bool) -> Option<String> {
        let node = self.get(key)?;
        let Some(text) = node.text() else {
            self.wrong(cx, key, format!("`{key}` of {} is {}", self.owner, node.describe()), "expected a text", "");
            return None;
        };
        self.resolved_text(cx, key, text, &node.span, secret)
    }

    fn resolved_text(
        &self,
        cx: &mut Context<'_, '_>,
        key: &str,
        text: &str,
        span: &Span,
        secret: bool,
    ) -> Option<String> {
        let folder = cx.source.path.parent().unwrap_or(Path::new("/"));
        match cx.placeholders.resolve(text, folder, secret) {
            Ok(text) => Some(text).filter(|text| !text.is_empty()),
            Err(Unresolved::Malformed(why)) => {
                let help = "use `${env:NAME}` or `${file:PATH}`; `$${` stands for `${` itself";
                let message = format!("`{key}` of {}: {why}", self.owner);
                cx.error(span, message, "expected a text or a placeholder", help);
                None
            }
            Err(Unresolved::Missing(why)) => {
                let source = cx.source;
                cx.missing.push(
                    Diagnostic::at(Severity::Error, source, span.clone(), format!("`{key}` of {}: {why}", self.owner))
                        .expected("needed here")
                        .help("provide it, or choose another network"),
                );
                None
            }
        }
    }

    /// The id of another entry. Placeholders are not resolved there: an error would show what they stand for.
    pub(super) fn reference(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<(String, Span)> {
        let node = self.get(key)?;
        match node.text() {
            Some(text) => Some((text.to_owned(), node.span.clone())).filter(|(text, _)| !text.is_empty()),
            None => {
                let message = format!("`{key}` of {} is {}", self.owner, node.describe());
                self.wrong(cx, key, message, "expected the id of a network", "");
                None
            }
        }
    }

    /// The texts of all fields, for what is said about an entry as a whole.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'n str> {
        self.pairs.iter().filter_map(|(_, value)| value.text())
    }

    /// A number of a port.
    pub(super) fn port(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<u16> {
        let text = self.string(cx, key)?;
        let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        let port = digits.then(|| text.parse().ok()).flatten().filter(|port| *port != 0);
        if port.is_none() {
            self.wrong(
                cx,
                key,
                format!("`{key}` of {} is not a port", self.owner),
                "expected a number from 1 to 65535",
                "",
            );
        }
        port
    }

    /// True or false.
    pub(super) fn boolean(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<bool> {
        match self.string(cx, key)?.as_str() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => {
                self.wrong(
                    cx,
                    key,
                    format!("`{key}` of {} is neither true nor false", self.owner),
                    "expected `true` or `false`",
                    "",
                );
                None
            }
        }
    }

    /// A text that must be one of a few words.
    pub(super) fn word<T: Copy>(&self, cx: &mut Context<'_, '_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(cx, key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let expected =
                format!("expected {}", known.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" or "));
            self.wrong(cx, key, format!("`{key}` of {} is not a word that is known there", self.owner), &expected, "");
        }
        found
    }

    /// A time such as `30s`, `500ms`, `1m30s`, from 1 ms to 10 minutes.
    pub(super) fn duration(&self, cx: &mut Context<'_, '_>, key: &str) -> Option<Duration> {
        let text = self.string(cx, key)?;
        let range = Duration::from_millis(1)..=Duration::from_secs(600);
        let time = parse_duration(&text).filter(|time| range.contains(time));
        if time.is_none() {
            self.wrong(
                cx,
                key,
                format!("`{key}` of {} is not a time", self.owner),
                "expected a time from 1ms to 10m, such as `30s` or `500ms`",
                "",
            );
        }
        time
    }

    /// One text or a list of texts.
    pub(super) fn strings(&self, cx: &mut Context<'_, '_>, key: &str) -> Vec<(String, Span)> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let single = std::slice::from_ref(node);
        let list = match node.value() {
            Value::Sequence(list) => list.as_slice(),
            _ => single,
        };
        let mut texts = Vec::new();
        for item in list {
            match item.text() {
                Some(text) if !item.is_null() && !text.is_empty() => texts.push((text.to_owned(), item.span.clone())),
                _ => cx.error(
                    &item.span,
                    format!("`{key}` of {} holds {}", self.owner, item.describe()),
                    "expected a text or a list of texts",
                    "",
                ),
            }
        }
        texts
    }

    /// One path or a list of paths, made absolute with the folder of the file that names them.
    pub(super) fn paths(&self, cx: &mut Context<'_, '_>, key: &str) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for (text, span) in self.strings(cx, key) {
            let Some(text) = self.resolved_text(cx, key, &text, &span, false) else { continue };
            if text.contains('\0') || text.starts_with('~') {
                let message = format!("`{key}` of {} is not a path", self.owner);
                cx.error(&span, message, "expected a path", "a shell's `~` is written `${env:HOME}`");
                continue;
            }
            let folder = cx.source.path.parent().unwrap_or(Path::new("/"));
            paths.push(folder.join(text));
        }
        paths
    }
}

/// Reads `1h2m3s4ms`: whole numbers with units, in any order that a person would write.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        total = total.checked_add(scale.checked_mul(number)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let ms = |text| parse_duration(text).map(|time| time.as_millis());
        assert_eq!((ms("30s"), ms("500ms"), ms("1m30s")), (Some(30_000), Some(500), Some(90_000)));
        for wrong in ["", "30", "s", "1.5s", "-1s", "1 s", "99999999999s", "1d"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
    }
}
