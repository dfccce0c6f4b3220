//! What is wrong, or worth knowing, about an object: where, how bad, and the remedy.
//!
//! In:  checks of every stage.
//! Out: [`Finding`]s; rendering as text (source line, caret) or JSON is in `render`.

use std::sync::Arc;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Legal, and worth a sentence: a surprise of Istio's semantics.
    Note,
    /// Probably not what was meant, or accepted and not enforced.
    Warning,
    /// The object is not used.
    Error,
}

/// A place in a source text: 1-based line and column (in characters), and the byte range for the caret.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// Path as the user gave it; `<stdin>` for standard input; empty when the object did not come from a text.
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    /// Byte offsets into the file.
    #[serde(skip)]
    pub start: u32,
    #[serde(skip)]
    pub end: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Our stable code, `PLN` and four digits.
    pub code: &'static str,
    /// Istio's code where it has one, e.g. `IST0106`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub istio: Option<&'static str>,
    /// `Kind namespace/name`, empty when the document has no identity.
    pub object: String,
    /// E.g. `spec.http[0].route[1].weight`; empty for the whole object.
    pub path: String,
    /// What is wrong, and what traffic will experience.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    pub place: Place,
    /// Other places that matter, each with what it has to do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<(Place, String)>,
}
