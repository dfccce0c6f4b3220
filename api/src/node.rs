//! A YAML document as a tree in which every key and value knows its place.
//!
//! In:  the builder in `yaml`.
//! Out: [`Node`]s for the decoder, and places for findings.

use crate::path::{Step, steps};

/// A range of the text: byte offsets, and the 1-based line and column (in characters) of its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
    pub line: u32,
    pub column: u32,
}

/// A value with its place. The span of a block collection covers its first key or item only, so that a caret stays on one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub span: Span,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One `key: value` of a mapping. Keys are unique.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: Box<str>,
    pub key_span: Span,
    pub value: Node,
}

/// A scalar as written, after escapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    pub text: Box<str>,
    pub style: Style,
}

/// How a scalar was written; only plain ones can be anything but text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// In quotes, or tagged `!!str`.
    Quoted,
    /// A literal block, `|`: its lines are lines of the file.
    Literal,
    /// A folded block, `>`.
    Folded,
}

/// What a plain scalar means to `kubectl`, which reads YAML 1.1's booleans, and to YAML 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    Null,
    Bool(bool),
    /// Any spelling of a whole number, also those we refuse to guess about (`0755`, `1_000`).
    Integer,
    Float,
    Text,
}

impl Scalar {
    /// What the scalar is when nobody says what it should be.
    pub fn resolve(&self) -> Resolved {
        if self.style != Style::Plain {
            return Resolved::Text;
        }
        match &*self.text {
            "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Resolved::Bool(true),
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Resolved::Bool(false),
            text => resolve_number(text),
        }
    }
}

fn resolve_number(text: &str) -> Resolved {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match digits.as_bytes().first() {
        Some(b'0'..=b'9') => {}
        Some(b'.') => {
            return match digits {
                ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => Resolved::Float,
                _ if digits.len() > 1 && digits[1..].starts_with(|c: char| c.is_ascii_digit()) && digits.parse::<f64>().is_ok() => {
                    Resolved::Float
                }
                _ => Resolved::Text,
            };
        }
        _ => return Resolved::Text,
    }
    let all = |digits: &str, radix: u32| !digits.is_empty() && digits.chars().all(|c| c == '_' || c.is_digit(radix));
    let prefixed = |prefix: &str, radix| digits.strip_prefix(prefix).is_some_and(|d| all(d, radix));
    if all(digits, 10) || prefixed("0x", 16) || prefixed("0o", 8) || prefixed("0b", 2) {
        return Resolved::Integer;
    }
    if digits.parse::<f64>().is_ok() { Resolved::Float } else { Resolved::Text }
}

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    pub node: &'a Node,
    /// The key under which the node stands, when it stands in a mapping.
    pub key: Option<Span>,
    /// Whether the whole path was found, and not only a parent.
    pub complete: bool,
}

impl Found<'_> {
    /// Where to point: at a scalar itself, at the key of a collection.
    pub fn span(&self) -> Span {
        match (&self.node.value, self.key) {
            // Nothing is written: the parser is already behind it.
            (Value::Scalar(scalar), Some(key)) if scalar.style == Style::Plain && self.node.span.start == self.node.span.end => key,
            (Value::Scalar(_), _) | (_, None) => self.node.span,
            (_, Some(key)) => key,
        }
    }
}

impl Node {
    /// The entries of a mapping, nothing for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The value of `key` in a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of `key` in a mapping.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| &*entry.key == key)
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether this is `null`, `~` or nothing at all.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.resolve() == Resolved::Null)
    }

    /// Follows `path` as far as it leads. Field names match in any of their spellings (`jwksUri`, `jwks_uri`).
    pub fn find(&self, path: &str) -> Found<'_> {
        let mut found = Found { node: self, key: None, complete: true };
        for step in steps(path) {
            let next = match (step, &found.node.value) {
                (Step::Index(index), Value::Sequence(items)) => items.get(index).map(|node| (node, None)),
                (Step::Field(name) | Step::Key(name), Value::Mapping(entries)) => entries
                    .iter()
                    .find(|entry| &*entry.key == name)
                    .or_else(|| entries.iter().find(|entry| same_name(&entry.key, name)))
                    .map(|entry| (&entry.value, Some(entry.key_span))),
                _ => None,
            };
            let Some((node, key)) = next else { return Found { complete: false, ..found } };
            // An item of a list has no key: its own first line says where it is.
            found = Found { node, key, complete: true };
        }
        found
    }
}

/// Whether two field names differ only in case and separators.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    let letters = |s: &str| s.bytes().filter(|b| *b != b'_' && *b != b'-').map(|b| b.to_ascii_lowercase()).collect::<Vec<_>>();
    a.len().abs_diff(b.len()) <= 8 && letters(a) == letters(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_reads() {
        let cases = [
            ("", Resolved::Null),
            ("~", Resolved::Null),
            ("true", Resolved::Bool(true)),
            ("on", Resolved::Bool(true)),
            ("No", Resolved::Bool(false)),
            ("8080", Resolved::Integer),
            ("-1", Resolved::Integer),
            ("0755", Resolved::Integer),
            ("0x1F", Resolved::Integer),
            ("1.10", Resolved::Float),
            ("1e3", Resolved::Float),
            (".5", Resolved::Float),
            (".inf", Resolved::Float),
            ("v1", Resolved::Text),
            ("1.2.3", Resolved::Text),
            ("10s", Resolved::Text),
            ("-", Resolved::Text),
            ("+a", Resolved::Text),
            (".", Resolved::Text),
            ("inf", Resolved::Text),
        ];
        for (text, want) in cases {
            let scalar = Scalar { text: text.into(), style: Style::Plain };
            assert_eq!(scalar.resolve(), want, "{text}");
            let quoted = Scalar { text: text.into(), style: Style::Quoted };
            assert_eq!(quoted.resolve(), Resolved::Text, "quoted {text}");
        }
    }
}
