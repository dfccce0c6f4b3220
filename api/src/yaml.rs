//! YAML text to positioned trees, one per document.
//!
//! In:  the text of a file: any number of documents, JSON included.
//! Out: a [`Document`] per document that is not empty, and what is wrong with the others. A syntax error ends only its own document.
//!
//! Everything a stranger can grow is bounded: nesting, what aliases expand to, and the size of the text.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span as RawSpan, StructureStyle};

use crate::node::{Entry, Node, Scalar, Span, Style, Value};

/// Collections inside collections, aliases expanded.
const MAX_DEPTH: usize = 100;
/// Nodes that aliases and merge keys may add to one document.
const MAX_ALIAS_NODES: usize = 50_000;
/// Nodes that anchors may keep for aliases; nested anchors keep theirs several times.
const MAX_ANCHOR_NODES: usize = 500_000;
/// Larger texts are refused: places are 32-bit, and no mesh has this much YAML in one file.
const MAX_TEXT: usize = 256 << 20;

/// One document with content.
#[derive(Debug)]
pub struct Document {
    pub root: Node,
    /// The tree misses something that was reported, so nothing built from it may be used.
    pub broken: bool,
}

/// What is wrong with the text itself.
#[derive(Clone, Debug, PartialEq)]
pub struct YamlError {
    pub kind: YamlErrorKind,
    pub span: Span,
    pub message: String,
    pub help: Option<String>,
    /// The first of two equal keys.
    pub other: Option<Span>,
    /// Bytes of the document that it is in.
    pub document: std::ops::Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YamlErrorKind {
    Syntax,
    DuplicateKey,
    Limit,
}

/// Reads every document of `text`.
pub fn documents(text: &str) -> (Vec<Document>, Vec<YamlError>) {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    if text.len() > MAX_TEXT {
        let message = format!("the text has {} bytes; at most {MAX_TEXT} are read", text.len());
        errors.push(YamlError { kind: YamlErrorKind::Limit, span: Span::default(), message, help: None, other: None, document: 0..0 });
        return (documents, errors);
    }
    let mut line = 0;
    for (start, chunk) in chunks(text) {
        let known = errors.len();
        read_chunk(chunk, Origin { start: start as u32, line }, &mut documents, &mut errors);
        for error in &mut errors[known..] {
            error.document = start..start + chunk.len();
        }
        line += chunk.bytes().filter(|b| *b == b'\n').count() as u32;
    }
    (documents, errors)
}

/// Cuts the text before each line that starts a document. `---` at the start of a line can be nothing else, not even inside a block
/// scalar, which is what makes recovery after an error exact. Directives stay with the document they precede.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut cuts = vec![0];
    let mut offset = 0;
    let mut has_content = false;
    for line in text.split_inclusive('\n') {
        let marker = line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && has_content {
            cuts.push(offset);
        }
        has_content |= marker || !(line.starts_with(['%', '#']) || line.trim().is_empty());
        offset += line.len();
    }
    let ends = cuts.iter().copied().skip(1).chain([text.len()]);
    cuts.iter().copied().zip(ends).map(|(start, end)| (start, &text[start..end])).collect()
}

/// Where a chunk stands in the whole text.
#[derive(Clone, Copy)]
struct Origin {
    start: u32,
    line: u32,
}

impl Origin {
    fn span(self, raw: &RawSpan) -> Span {
        let start = raw.start.byte_offset().unwrap_or(0) as u32;
        let end = raw.end.byte_offset().map_or(start, |end| end as u32);
        Span {
            start: self.start + start,
            end: self.start + end.max(start),
            line: self.line + raw.start.line() as u32,
            column: raw.start.col() as u32 + 1,
        }
    }
}

fn read_chunk(chunk: &str, origin: Origin, documents: &mut Vec<Document>, errors: &mut Vec<YamlError>) {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::new(chunk, origin, errors);
    for event in Parser::new_from_str_with_options(chunk, options) {
        match event {
            Ok((Event::DocumentEnd, _)) => {
                if let Some(root) = builder.root.take()
                    && !root.is_null()
                {
                    documents.push(Document { root, broken: builder.broken });
                }
                builder.reset();
            }
            Ok((event, span)) => {
                if !builder.event(event, &span) {
                    return;
                }
            }
            Err(error) => {
                let mark = error.marker();
                let span = origin.span(&RawSpan::empty(*mark));
                let help = syntax_help(chunk, mark.line());
                builder.errors.push(YamlError {
                    kind: YamlErrorKind::Syntax,
                    span,
                    message: error.info(),
                    help,
                    other: None,
                    document: 0..0,
                });
                return;
            }
        }
    }
}

/// What usually stands behind a syntax error, judged by its line (1-based).
fn syntax_help(chunk: &str, line: usize) -> Option<String> {
    let around = |n: usize| chunk.lines().nth(n.wrapping_sub(1)).unwrap_or("");
    let suspects = [around(line), around(line.wrapping_sub(1))];
    if suspects.iter().any(|l| l.contains("{{")) {
        return Some("this looks like a template: render it first (`helm template`)".into());
    }
    if suspects.iter().any(|l| l.starts_with(|c: char| c.is_whitespace()) && l[..l.len() - l.trim_start().len()].contains('\t')) {
        return Some("YAML does not allow tabs for indentation: use spaces".into());
    }
    None
}

enum Frame {
    Sequence {
        items: Vec<Node>,
        span: Span,
        anchor: usize,
    },
    /// The key that waits for its value, and whether it is one.
    Mapping {
        entries: Vec<Entry>,
        key: Option<(Box<str>, Span, bool)>,
        span: Span,
        anchor: usize,
    },
}

struct Anchor {
    node: Node,
    nodes: usize,
    depth: usize,
}

struct Builder<'e> {
    chunk: &'e str,
    origin: Origin,
    errors: &'e mut Vec<YamlError>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchor>,
    anchor_nodes: usize,
    alias_nodes: usize,
    root: Option<Node>,
    broken: bool,
}

impl<'e> Builder<'e> {
    fn new(chunk: &'e str, origin: Origin, errors: &'e mut Vec<YamlError>) -> Self {
        Builder {
            chunk,
            origin,
            errors,
            stack: Vec::new(),
            anchors: HashMap::new(),
            anchor_nodes: 0,
            alias_nodes: 0,
            root: None,
            broken: false,
        }
    }

    fn reset(&mut self) {
        self.stack.clear();
        self.anchors.clear();
        self.anchor_nodes = 0;
        self.alias_nodes = 0;
        self.root = None;
        self.broken = false;
    }

    fn fail(&mut self, kind: YamlErrorKind, span: Span, message: impl Into<String>, help: Option<&str>) {
        self.broken = true;
        self.errors.push(YamlError { kind, span, message: message.into(), help: help.map(Into::into), other: None, document: 0..0 });
    }

    /// Takes one event; false when the rest of the chunk must not be read.
    fn event(&mut self, event: Event<'_>, raw: &RawSpan) -> bool {
        let span = self.origin.span(raw);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.as_ref().is_some_and(|tag| tag.suffix() == "str" || tag.handle().ends_with(":str"));
                let style = match style {
                    ScalarStyle::Plain if tagged => Style::Quoted,
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::Literal => Style::Literal,
                    ScalarStyle::Folded => Style::Folded,
                    _ => Style::Quoted,
                };
                let text: Box<str> = text.into_owned().into_boxed_str();
                self.node(Node { span, value: Value::Scalar(Scalar { text, style }) }, anchor);
            }
            Event::SequenceStart(style, anchor, _) => {
                let span = if style == StructureStyle::Block { first_character(span) } else { span };
                self.stack.push(Frame::Sequence { items: Vec::new(), span, anchor });
            }
            Event::MappingStart(style, anchor, _) => {
                let span = if style == StructureStyle::Block { first_character(span) } else { span };
                self.stack.push(Frame::Mapping { entries: Vec::new(), key: None, span, anchor });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => return self.alias(id, span),
            _ => {}
        }
        true
    }

    fn close(&mut self, end: Span) {
        let (mut node, anchor) = match self.stack.pop() {
            Some(Frame::Sequence { items, span, anchor }) => (Node { span, value: Value::Sequence(items) }, anchor),
            Some(Frame::Mapping { entries, span, anchor, .. }) => {
                let entries = self.merge(entries);
                (Node { span, value: Value::Mapping(entries) }, anchor)
            }
            None => return,
        };
        match &node.value {
            // A block mapping is shown by its first key.
            Value::Mapping(entries) if node.span.end == node.span.start => {
                if let Some(first) = entries.first().filter(|e| e.key_span.start == node.span.start) {
                    node.span.end = first.key_span.end;
                }
            }
            _ if node.span.end > node.span.start => node.span.end = end.end.max(node.span.end),
            _ => {}
        }
        self.node(node, anchor);
    }

    fn alias(&mut self, id: usize, span: Span) -> bool {
        let Some(anchor) = self.anchors.get(&id) else {
            self.fail(YamlErrorKind::Syntax, span, "this alias refers to a value that contains it", None);
            self.node(Node { span, value: Value::Scalar(Scalar { text: "".into(), style: Style::Plain }) }, 0);
            return true;
        };
        self.alias_nodes += anchor.nodes;
        if self.alias_nodes > MAX_ALIAS_NODES || self.stack.len() + anchor.depth > MAX_DEPTH {
            self.errors.push(YamlError {
                kind: YamlErrorKind::Limit,
                span,
                message: format!("the aliases of this document expand to more than {MAX_ALIAS_NODES} values or {MAX_DEPTH} levels"),
                help: None,
                other: None,
                document: 0..0,
            });
            return false;
        }
        let node = anchor.node.clone();
        self.node(node, 0);
        true
    }

    /// A complete value: goes to its parent, as key or value, or is the document.
    fn node(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            let (nodes, depth) = measure(&node);
            self.anchor_nodes += nodes;
            if self.anchor_nodes > MAX_ANCHOR_NODES {
                let message = format!("the anchors of this document hold more than {MAX_ANCHOR_NODES} values");
                self.fail(YamlErrorKind::Limit, node.span, message, None);
                self.anchor_nodes = 0;
            } else {
                self.anchors.insert(anchor, Anchor { node: node.clone(), nodes, depth });
            }
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::Sequence { items, .. }) => {
                let span = if is_nothing(&node) { dash_before(self.chunk, self.origin, node.span) } else { node.span };
                items.push(Node { span, ..node });
            }
            Some(Frame::Mapping { entries, key, .. }) => match key.take() {
                Some((key, key_span, good)) => {
                    if good {
                        entries.push(Entry { key, key_span, value: node });
                    }
                }
                None => match node.value {
                    Value::Scalar(scalar) => *key = Some((scalar.text, node.span, true)),
                    _ => {
                        *key = Some(("".into(), node.span, false));
                        let help = "if this is a template (`{{ … }}`), render it first";
                        self.fail(YamlErrorKind::Syntax, node.span, "a key must be plain text, not a list or mapping", Some(help));
                    }
                },
            },
        }
    }

    /// Applies merge keys (`<<`) and reports equal keys; the first one stays.
    fn merge(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut merged: Vec<Entry> = Vec::with_capacity(entries.len());
        let mut inherited = Vec::new();
        let mut seen = HashMap::new();
        let many = entries.len() > 12;
        for entry in entries {
            if &*entry.key == "<<" {
                inherited.push(entry.value);
                continue;
            }
            let earlier = if many {
                seen.insert(entry.key.clone(), entry.key_span)
            } else {
                merged.iter().find(|e| e.key == entry.key).map(|e| e.key_span)
            };
            match earlier {
                None => merged.push(entry),
                Some(other) => {
                    self.broken = true;
                    self.errors.push(YamlError {
                        kind: YamlErrorKind::DuplicateKey,
                        span: entry.key_span,
                        message: format!("the key `{}` is here twice", entry.key),
                        help: Some("keep one of them".into()),
                        other: Some(other),
                        document: 0..0,
                    });
                }
            }
        }
        if inherited.is_empty() {
            return merged;
        }
        let mut known: HashSet<Box<str>> = merged.iter().map(|entry| entry.key.clone()).collect();
        for value in inherited {
            let sources = match value.value {
                Value::Mapping(entries) => vec![entries],
                Value::Sequence(items) => {
                    items.into_iter().map(|item| if let Value::Mapping(e) = item.value { e } else { Vec::new() }).collect()
                }
                Value::Scalar(_) => {
                    self.fail(YamlErrorKind::Syntax, value.span, "the merge key `<<` needs a mapping", None);
                    continue;
                }
            };
            merged.extend(sources.into_iter().flatten().filter(|entry| known.insert(entry.key.clone())));
        }
        merged
    }
}

/// The parser gives block collections the span of their start; this keeps it empty until the first key is known.
fn first_character(span: Span) -> Span {
    Span { end: span.start, ..span }
}

fn is_nothing(node: &Node) -> bool {
    node.span.start == node.span.end && matches!(&node.value, Value::Scalar(scalar) if scalar.style == Style::Plain)
}

/// An empty item has no place of its own, and the parser is already behind it: it stands at its `-`.
fn dash_before(chunk: &str, origin: Origin, span: Span) -> Span {
    let mut end = (span.start - origin.start) as usize;
    let mut line = span.line;
    while let Some(before) = chunk.get(..end) {
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = before[start..].split(" #").next().unwrap_or("").trim_end();
        if text.ends_with('-') {
            let at = origin.start + (start + text.len() - 1) as u32;
            return Span { start: at, end: at + 1, line, column: text.chars().count() as u32 };
        }
        if start == 0 || !text.trim_start().is_empty() && !text.trim_start().starts_with('#') {
            break;
        }
        end = start - 1;
        line -= 1;
    }
    span
}

fn measure(node: &Node) -> (usize, usize) {
    let children: &mut dyn Iterator<Item = &Node> = match &node.value {
        Value::Scalar(_) => return (1, 0),
        Value::Sequence(items) => &mut items.iter(),
        Value::Mapping(entries) => &mut entries.iter().map(|entry| &entry.value),
    };
    let (nodes, depth) = children.map(measure).fold((1, 0), |(nodes, depth), (n, d)| (nodes + n, depth.max(d)));
    (nodes, depth + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        let (documents, errors) = documents(text);
        assert_eq!(errors, [], "{text}");
        documents.into_iter().next().expect("a document").root
    }

    #[test]
    fn every_value_knows_its_line_and_column() {
        let text = "# c\na: 1\nb:\n- x: é y\n- {k: [1, 2]}\n";
        let root = one(text);
        let place = |path: &str| {
            let span = root.find(path).span();
            (span.line, span.column, &text[span.start as usize..span.end as usize])
        };
        assert_eq!(place("a"), (2, 4, "1"));
        assert_eq!(place("b"), (3, 1, "b"));
        assert_eq!(place("b[0]"), (4, 3, "x"));
        assert_eq!(place("b[0].x"), (4, 6, "é y"));
        assert_eq!(place("b[1].k[1]"), (5, 11, "2"));
        assert_eq!(place("b[1].missing"), (5, 3, "{k: [1, 2]}"));
    }

    #[test]
    fn a_syntax_error_ends_only_its_document() {
        let text = "a: 1\n---\nb: [1\n---\nc: 3\n---\n# nothing\n---\n";
        let (documents, errors) = documents(text);
        assert_eq!(documents.len(), 2);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].span.line >= 3 && errors[0].span.line <= 4, "{errors:?}");
        assert_eq!(documents[1].root.find("c").span().line, 5);
    }

    #[test]
    fn equal_keys_are_reported_at_the_second() {
        let (documents, errors) = documents("a: 1\nb: 2\na: 3\n");
        assert!(documents[0].broken);
        assert_eq!((errors[0].kind, errors[0].span.line), (YamlErrorKind::DuplicateKey, 3));
        assert_eq!(errors[0].other.map(|s| s.line), Some(1));
    }

    #[test]
    fn aliases_and_merge_keys_expand_with_a_budget() {
        let root = one("base: &b {x: 1, y: 2}\nderived: {<<: *b, y: 3}\nagain: *b\n");
        assert_eq!(root.find("derived.x").node.text(), Some("1"));
        assert_eq!(root.find("derived.y").node.text(), Some("3"));
        assert_eq!(root.find("again.y").node.text(), Some("2"));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let many = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{many}]\n"));
        }
        let (_, errors) = documents(&bomb);
        assert_eq!(errors.last().map(|e| e.kind), Some(YamlErrorKind::Limit));
        let (_, errors) = documents("a: &a [*a]\n");
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn an_empty_item_stands_at_its_dash() {
        let root = one("a:\n  -\n  - # nothing\n\n  - x\nb: 1\n");
        let places: Vec<_> = (0..3).map(|n| root.find(&format!("a[{n}]")).span()).map(|span| (span.line, span.column)).collect();
        assert_eq!(places, [(2, 3), (3, 3), (5, 5)]);
    }

    #[test]
    fn deep_nesting_is_refused_without_a_crash() {
        for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            let (documents, errors) = documents(&text);
            assert!(documents.is_empty() && errors.len() == 1);
        }
    }

    #[test]
    fn json_directives_and_byte_order_marks_are_read() {
        assert_eq!(one("{\"a\": {\"b\": [true, null]}}").find("a.b[0]").node.text(), Some("true"));
        assert_eq!(one("%YAML 1.2\n---\na: 1\n").find("a").span().line, 3);
        assert_eq!(one("\u{feff}a: 1\r\nb: 2\r\n").find("b").span().line, 2);
        assert_eq!(one("{\n\t\"a\":\t1\n}").find("a").node.text(), Some("1"));
    }
}
