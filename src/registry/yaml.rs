//! YAML text into a tree whose every node knows its place.
//!
//! The parser's events are folded into [`Node`]s without recursion. A hostile text is bounded in three ways: nesting
//! ([`MAX_DEPTH`], refused by the parser itself), memory (an alias shares its target's node), and work ([`MAX_WEIGHT`]: an
//! alias counts as much as everything under its target, so a document that would unfold into billions of nodes is refused
//! when the alias is met).

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle};

/// How deep collections may nest.
const MAX_DEPTH: usize = 64;
/// How many nodes a file may have, aliases unfolded; 64 bytes of text count as one more.
const MAX_WEIGHT: usize = 200_000;

/// Where something stands: a range of bytes.
pub(super) type Span = Range<usize>;

/// A value and where it stands. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it is written; of an alias, where the alias is written.
    pub span: Span,
    /// What it is.
    pub inner: Rc<Inner>,
}

/// What a node and all its aliases share.
#[derive(Debug)]
pub(super) struct Inner {
    /// Where the value itself is written.
    pub span: Span,
    /// The value.
    pub value: Value,
    /// A tag that YAML's core schema does not have, such as `!include`.
    pub custom_tag: bool,
    weight: usize,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    /// A text, or, where it is plain, perhaps a number, a boolean or null.
    Scalar {
        /// The text, unescaped.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping in the order written, merge keys (`<<`) unfolded.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    pub(super) fn value(&self) -> &Value {
        &self.inner.value
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match self.value() {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether this is YAML's null: nothing, `~` or `null`, unquoted.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.value(), Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The pairs of a mapping.
    pub(super) fn mapping(&self) -> Option<&[(Node, Node)]> {
        match self.value() {
            Value::Mapping(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The value of a mapping's key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.mapping()?.iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v)
    }

    /// What the node is, for a message.
    pub(super) fn describe(&self) -> &'static str {
        match self.value() {
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { .. } => "a text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// Why and where a text is not what is wanted of YAML.
#[derive(Debug)]
pub(super) struct Broken {
    /// Where.
    pub span: Span,
    /// What the parser says; never a value of the text.
    pub message: String,
    /// Something that stands in relation, such as the first of two equal keys.
    pub related: Option<Span>,
}

/// The documents of a file, and what is wrong with it: a syntax error ends the list, equal keys do not.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub documents: Vec<Node>,
    pub equal_keys: Vec<Broken>,
    /// The pairs whose key was given before: in no document, but in the text.
    pub dropped: Vec<(Node, Node)>,
    pub syntax: Option<Broken>,
}

/// A collection that is being read.
struct Open {
    start: usize,
    anchor: usize,
    custom_tag: bool,
    /// For a mapping: keys and values in turn.
    children: Vec<Node>,
    weight: usize,
}

/// Reads all documents of a text.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut builder = Builder { stack: Vec::new(), anchors: HashMap::new(), weight: 0 };
    let mut options = granit_parser::options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    options.set_emit_comments(false);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match next {
            Ok(next) => next,
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
                parsed.syntax = Some(Broken { span: at..at, message: error.info(), related: None });
                return parsed;
            }
        };
        let span = span.byte_range().unwrap_or(0..0);
        if let Err(message) = builder.event(event, span.clone(), &mut parsed) {
            parsed.syntax = Some(Broken { span, message: message.into(), related: None });
            return parsed;
        }
    }
    parsed
}

struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, Rc<Inner>>,
    weight: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span, parsed: &mut Parsed) -> Result<(), &'static str> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let custom_tag = tag.is_some_and(|tag| tag.is_custom());
                let weight = 1 + text.len() / 64;
                let plain = style == ScalarStyle::Plain;
                let value = Value::Scalar { text: text.into_owned(), plain };
                self.finish(span, value, anchor, custom_tag, weight, parsed)?;
            }
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => {
                let custom_tag = tag.is_some_and(|tag| tag.is_custom());
                self.stack.push(Open { start: span.start, anchor, custom_tag, children: Vec::new(), weight: 1 });
            }
            Event::SequenceEnd => {
                let Some(open) = self.stack.pop() else { return Ok(()) };
                let value = Value::Sequence(open.children);
                self.finish(open.start..span.end, value, open.anchor, open.custom_tag, open.weight, parsed)?;
            }
            Event::MappingEnd => {
                let Some(open) = self.stack.pop() else { return Ok(()) };
                let mut children = open.children.into_iter();
                let mut pairs = Vec::new();
                while let (Some(key), Some(value)) = (children.next(), children.next()) {
                    pairs.push((key, value));
                }
                let pairs = merge(pairs, parsed)?;
                let weight = 1 + pairs.iter().map(|(k, v)| k.inner.weight + v.inner.weight).sum::<usize>();
                let value = Value::Mapping(pairs);
                self.finish(
                    open.start..span.end,
                    value,
                    open.anchor,
                    open.custom_tag,
                    weight.max(open.weight),
                    parsed,
                )?;
            }
            Event::Alias(anchor) => {
                let Some(inner) = self.anchors.get(&anchor) else {
                    return Err("an alias of something that is not complete yet");
                };
                let node = Node { span, inner: Rc::clone(inner) };
                self.place(node, parsed)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(
        &mut self,
        span: Span,
        value: Value,
        anchor: usize,
        custom_tag: bool,
        weight: usize,
        parsed: &mut Parsed,
    ) -> Result<(), &'static str> {
        let inner = Rc::new(Inner { span: span.clone(), value, custom_tag, weight });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&inner));
        }
        self.place(Node { span, inner }, parsed)
    }

    fn place(&mut self, node: Node, parsed: &mut Parsed) -> Result<(), &'static str> {
        const TOO_LARGE: &str = "the file unfolds into too many values (aliases count as what they stand for)";
        match self.stack.last_mut() {
            Some(open) => {
                open.weight += node.inner.weight;
                if open.weight > MAX_WEIGHT {
                    return Err(TOO_LARGE);
                }
                open.children.push(node);
            }
            None => {
                self.weight += node.inner.weight;
                if self.weight > MAX_WEIGHT {
                    return Err(TOO_LARGE);
                }
                parsed.documents.push(node);
            }
        }
        Ok(())
    }
}

/// Unfolds merge keys (YAML 1.1's `<<`, which Go's and Python's loaders know) and finds keys that are given twice.
fn merge(pairs: Vec<(Node, Node)>, parsed: &mut Parsed) -> Result<Vec<(Node, Node)>, &'static str> {
    const TOO_LARGE: &str = "the file unfolds into too many values (merge keys count as what they stand for)";
    let mut seen: HashMap<String, Span> = HashMap::new();
    let mut own = Vec::with_capacity(pairs.len());
    let mut merged = Vec::new();
    for (key, value) in pairs {
        if matches!(key.value(), Value::Scalar { text, plain: true } if text == "<<") {
            merged.push(value);
            continue;
        }
        if let Some(text) = key.text() {
            if let Some(first) = seen.get(text) {
                let (span, related) = (key.span.clone(), Some(first.clone()));
                parsed.equal_keys.push(Broken { span, message: "the same field is given twice".into(), related });
                parsed.dropped.push((key, value));
                continue;
            }
            seen.insert(text.to_owned(), key.span.clone());
        }
        own.push((key, value));
    }
    for source in &merged {
        let single = std::slice::from_ref(source);
        let list = match source.value() {
            Value::Sequence(list) => list.as_slice(),
            _ => single,
        };
        for node in list {
            let Some(pairs) = node.mapping() else { return Err("`<<` merges a mapping or a list of mappings") };
            for (key, value) in pairs {
                let Some(text) = key.text() else { continue };
                if !seen.contains_key(text) {
                    seen.insert(text.to_owned(), key.span.clone());
                    own.push((key.clone(), value.clone()));
                }
                if own.len() > MAX_WEIGHT {
                    return Err(TOO_LARGE);
                }
            }
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        let parsed = parse(text);
        assert!(parsed.syntax.is_none(), "{:?}", parsed.syntax);
        parsed.documents.into_iter().next().unwrap()
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let text = "a: 1\r\nlist:\r\n  - 'x y'\r\n";
        let node = one(text);
        let (key, value) = &node.mapping().unwrap()[0];
        assert_eq!((&text[key.span.clone()], &text[value.span.clone()]), ("a", "1"));
        let Value::Sequence(list) = node.get("list").unwrap().value() else { panic!() };
        assert_eq!(&text[list[0].span.clone()], "'x y'");
    }

    #[test]
    fn an_alias_shares_its_target_and_keeps_its_own_place() {
        let text = "a: &x secret\nb: *x\n";
        let node = one(text);
        let b = node.get("b").unwrap();
        assert_eq!((b.text(), &text[b.span.clone()], &text[b.inner.span.clone()]), (Some("secret"), "*x", "secret"));
    }

    #[test]
    fn a_document_that_unfolds_into_billions_is_refused_quickly() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..30 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        let started = std::time::Instant::now();
        assert!(parse(&text).syntax.unwrap().message.contains("too many"));
        assert!(started.elapsed().as_secs() < 2);
        let merges = "a: &a {k1: 1, k2: 2}\nb: &b {<<: [*a, *a], k3: 3}\nc: {<<: *b}\n";
        assert_eq!(one(merges).get("c").unwrap().mapping().unwrap().len(), 3);
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(parse(&"[".repeat(100_000)).syntax.is_some());
        let block: String = (0..500).map(|i| format!("{}- \n", " ".repeat(i))).collect();
        assert!(parse(&block).syntax.is_some());
    }

    #[test]
    fn equal_keys_are_both_named() {
        let parsed = parse("a: 1\nb: 2\na: 3\n");
        assert_eq!(parsed.equal_keys.len(), 1);
        assert_eq!((parsed.equal_keys[0].span.clone(), parsed.equal_keys[0].related.clone()), (10..11, Some(0..1)));
    }

    #[test]
    fn several_documents_and_none() {
        assert_eq!(parse("a: 1\n---\nb: 2\n").documents.len(), 2);
        assert!(parse("").documents.is_empty());
        assert!(parse("# nothing\n").documents.iter().all(Node::is_null));
    }
}
