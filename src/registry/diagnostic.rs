//! What is wrong with a registry, said where it stands.
//!
//! A [`Diagnostic`] is complete in itself: its excerpt is cut, escaped and masked when it is made, so nothing that is kept
//! or printed later holds a secret or a control character. All of one load are collected in [`Findings`], bounded, because
//! a hostile file can be wrong in a million places.

use std::fmt;
use std::path::{Path, PathBuf};

use super::mask;
use super::yaml::{Parsed, Span};

/// How many errors, and how many notes, are kept of one load.
const MAX_KEPT: usize = 200;
/// How many characters of a line are shown on each side of the place.
const MAX_SHOWN: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The registry cannot be used.
    Error,
    /// Something that netjail passed over, or that a user should know.
    Note,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1; the column counts characters. `None` when the whole file is meant.
    pub place: Option<(usize, usize)>,
    /// What failed.
    pub message: String,
    /// What was expected there.
    pub expected: String,
    /// What to do; may be empty.
    pub help: String,
    excerpt: Option<Excerpt>,
    related: Option<(PathBuf, (usize, usize), String, Excerpt)>,
}

/// One line, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    span: Span,
}

/// A file's text with what of it may be shown.
#[derive(Debug)]
pub(super) struct Source {
    pub path: PathBuf,
    pub text: String,
    pub masks: Vec<Span>,
}

impl Source {
    /// A text of which nothing but its keys and known harmless values will be shown.
    pub(super) fn new(path: PathBuf, text: String, parsed: &Parsed) -> Self {
        let masks = mask::of_tree(&text, &parsed.documents, &parsed.dropped);
        Self { path, text, masks }
    }

    /// Line and column of a byte, from 1.
    pub(super) fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The line of a span's start, with the span cut to that line.
    fn excerpt(&self, span: &Span, masks: &[Span]) -> Excerpt {
        let start = floor(&self.text, span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |i| start + i);
        let line_end = if self.text[..line_end].ends_with('\r') && line_end > start { line_end - 1 } else { line_end };
        let end = floor(&self.text, span.end.clamp(start, line_end.max(start)));
        let show = |range: Span| mask::shown(&self.text, range, masks);
        let mut before = show(line_start..start);
        if before.chars().count() > MAX_SHOWN {
            let skip = before.chars().count() - MAX_SHOWN;
            before = std::iter::once('…').chain(before.chars().skip(skip)).collect();
        }
        let marked = cut(show(start..end));
        let after = cut(show(end..line_end.max(end)));
        let span = before.len()..before.len() + marked.len();
        Excerpt { line: before + &marked + &after, span }
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

fn cut(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A text from a file, for a message: control characters and what changes the direction of writing are escaped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().take(MAX_SHOWN * 2) {
        crate::escape::push(&mut out, c);
    }
    if text.chars().nth(MAX_SHOWN * 2).is_some() {
        out.push('…');
    }
    out
}

/// A word from a file, for a message: its first word only. Where a quote swallows half of a file, its value is no name any
/// more, and what comes after the first blank may be anything, a secret too.
pub(super) fn word(text: &str) -> String {
    let first = text.split_whitespace().next().unwrap_or_default();
    let mut shown = escape(first);
    if first.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// A path for a message.
pub fn escape_path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

impl Diagnostic {
    /// A finding at a place.
    pub(super) fn at(severity: Severity, source: &Source, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: source.path.clone(),
            place: Some(source.place(span.start)),
            message: message.into(),
            expected: String::new(),
            help: String::new(),
            excerpt: Some(source.excerpt(&span, &source.masks)),
            related: None,
        }
    }

    /// A syntax error: the tree is not known, so what may be shown is guessed from the line and those above it.
    pub(super) fn syntax(source: &Source, span: Span, message: impl Into<String>) -> Self {
        let masks = mask::of_broken_line(&source.text, floor(&source.text, span.start));
        let mut finding = Self::at(Severity::Error, source, span.clone(), message);
        finding.excerpt = Some(source.excerpt(&span, masks.as_slice()));
        finding
    }

    /// A finding about a whole file or folder.
    pub(super) fn whole(severity: Severity, file: &Path, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: file.to_owned(),
            place: None,
            message: message.into(),
            expected: String::new(),
            help: String::new(),
            excerpt: None,
            related: None,
        }
    }

    /// Adds what was expected.
    pub(super) fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = text.into();
        self
    }

    /// Adds what to do.
    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = text.into();
        self
    }

    /// Adds another place that has to do with it.
    pub(super) fn related(mut self, source: &Source, span: Span, label: impl Into<String>) -> Self {
        let place = source.place(span.start);
        self.related = Some((source.path.clone(), place, label.into(), source.excerpt(&span, &source.masks)));
        self
    }

    /// `file:line:column`, escaped.
    pub fn location(&self) -> String {
        let file = escape_path(&self.file);
        self.place.map_or(file.clone(), |(line, column)| format!("{file}:{line}:{column}"))
    }

    /// The other place that has to do with it, as `file:line:column`.
    pub fn related_location(&self) -> Option<String> {
        self.related.as_ref().map(|(file, (line, column), ..)| format!("{}:{line}:{column}", escape_path(file)))
    }

    /// The compiler's look; with colours only where `colour` says that a terminal will show it.
    ///
    /// The excerpts are escaped and masked already, so columns are those of the file and not those of what is shown; that
    /// is also why no library draws this.
    pub fn render(&self, colour: bool) -> String {
        let paint = |code: &str, text: &str| match colour {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        };
        let (word, code) = match self.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Note => ("note", "1;36"),
        };
        let lines = [self.place, self.related.as_ref().map(|related| related.1)];
        let widest = lines.into_iter().flatten().map(|(line, _)| line.to_string().len()).max().unwrap_or(1);
        let gutter = |number: &str| paint("1;34", &format!("{number:widest$} |"));
        let mut text = format!("{}{}", paint(code, word), paint("1", &format!(": {}", self.message)));
        let arrow = |sign: &str| format!("\n{:widest$}{} ", "", paint("1;34", sign));
        let mut excerpt =
            |location: String, sign: &str, shown: Option<(usize, &Excerpt)>, marker: &str, label: &str| {
                text.push_str(&arrow(sign));
                text.push_str(&location);
                let Some((line, Excerpt { line: content, span })) = shown else { return };
                let before: String = content[..span.start].chars().map(|_| ' ').collect();
                let marks = marker.repeat(content[span.clone()].chars().count().max(1));
                let marked = format!("{marks} {label}");
                text.push_str(&format!("\n{}\n{} {content}", gutter(""), gutter(&line.to_string())));
                text.push_str(&format!("\n{} {before}{}", gutter(""), paint(code, marked.trim_end())));
            };
        let shown = self.excerpt.as_ref().zip(self.place).map(|(excerpt, (line, _))| (line, excerpt));
        excerpt(self.location(), "-->", shown, "^", &self.expected);
        if let (Some((_, (line, _), label, shown)), Some(location)) = (&self.related, self.related_location()) {
            excerpt(location, ":::", Some((*line, shown)), "-", label);
        }
        let hint =
            |word: &str, said: &str| format!("\n{:widest$} {} {}: {said}", "", paint("1;34", "="), paint("1", word));
        if self.excerpt.is_none() && !self.expected.is_empty() {
            text.push_str(&hint("expected", &self.expected));
        }
        if !self.help.is_empty() {
            text.push_str(&hint("help", &self.help));
        }
        text
    }
}

/// One line: `file:line:column: error: message: expected, related place (help)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        write!(f, "{}: {word}: {}", self.location(), self.message)?;
        if !self.expected.is_empty() {
            write!(f, ": {}", self.expected)?;
        }
        if let (Some((_, _, label, _)), Some(location)) = (&self.related, self.related_location()) {
            write!(f, ", {label} at {location}")?;
        }
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

/// What one load found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The errors, in the order of files and places.
    pub errors: Vec<Diagnostic>,
    /// The notes, likewise.
    pub notes: Vec<Diagnostic>,
    /// How many more there were than are kept.
    pub omitted: usize,
}

impl Findings {
    /// Keeps an error, while there is room; it is not even made otherwise, since finding its place costs time.
    pub(super) fn error(&mut self, make: impl FnOnce() -> Diagnostic) {
        if self.errors.len() < MAX_KEPT { self.errors.push(make()) } else { self.omitted += 1 }
    }

    /// Keeps a note, likewise.
    pub(super) fn note(&mut self, make: impl FnOnce() -> Diagnostic) {
        if self.notes.len() < MAX_KEPT { self.notes.push(make()) } else { self.omitted += 1 }
    }

    /// Brings the findings into the order of their files and places.
    pub(super) fn sort(&mut self) {
        for list in [&mut self.errors, &mut self.notes] {
            list.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
        }
    }
}
