//! Istio's `StringMatch`: exactly one of `exact`, `prefix`, `regex`.
//!
//! In:  a mapping with one of the three, or `{}`. Out: [`StringMatch`].

use crate::code;
use crate::decode::{Decode, Decoder};
use crate::node::Node;
use crate::path::Path;
use crate::table::Type;

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The whole text, case-sensitive.
    Exact(String),
    /// The start of the text, as raw characters: `/foo` is a prefix of `/foobar`.
    Prefix(String),
    /// The whole text by an RE2 expression, anchored at both ends.
    Regex(String),
    /// `{}`, or null as the value of a map: there is something to compare (a header, a parameter).
    Present,
}

impl StringMatch {
    /// Whether only presence counts: `{}`, or the legacy spelling `regex: "*"`.
    pub fn is_presence(&self) -> bool {
        match self {
            Self::Present => true,
            Self::Regex(regex) => regex == "*",
            _ => false,
        }
    }
}

const FIELDS: [&str; 3] = ["exact", "prefix", "regex"];

impl Decode for StringMatch {
    const TYPE: Type = Type::StringMatch;

    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        if node.is_null() {
            return Some(Self::Present);
        }
        if let Some(text) = node.text() {
            let help = format!("write {{exact: {text:?}}}, or prefix, or regex");
            cx.wrong_type(node, path, "exact, prefix or regex", Some(help));
            return None;
        }
        let mut found = None;
        for entry in cx.mapping(node, path, "exact, prefix or regex")? {
            let path = path.key(&entry.key);
            let Some(field) = FIELDS.iter().position(|name| *name == &*entry.key) else {
                let close = crate::decode::suggestions(&entry.key, FIELDS.into_iter());
                let help = close.first().map_or("one of exact, prefix, regex".to_owned(), |name| format!("did you mean `{name}`?"));
                cx.error(code::UNKNOWN_FIELD, &path, entry.key_span, format!("unknown field `{}` in StringMatch", entry.key), Some(help));
                continue;
            };
            if entry.value.is_null() {
                continue;
            }
            if found.is_some() {
                cx.error(code::ONE_OF, &path, entry.key_span, "only one of exact, prefix and regex can be given".into(), None);
                continue;
            }
            let text = String::decode(&entry.value, &path, cx)?;
            found = Some([Self::Exact, Self::Prefix, Self::Regex][field](text));
        }
        Some(found.unwrap_or(Self::Present))
    }
}
