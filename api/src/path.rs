//! Where in an object we are: `spec.http[0].route[1].weight`.
//!
//! In:  the steps of a walk over an object, kept on the stack.
//! Out: the path as text, and the steps of such a text.

use std::fmt;

/// One step into an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A field of a message, by its YAML name.
    Field(&'a str),
    /// An element of a list, from 0.
    Index(usize),
    /// A key of a map that the user chose.
    Key(&'a str),
}

/// A path as a chain of stack frames: it costs nothing until a finding prints it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Option<Step<'a>>,
}

impl<'a> Path<'a> {
    /// The object itself; prints as the empty text.
    pub const ROOT: Path<'static> = Path { parent: None, step: None };

    /// The field `name` of the message at this path.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        self.push(Step::Field(name))
    }

    /// The element `index` of the list at this path.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        self.push(Step::Index(index))
    }

    /// The entry `key` of the map at this path.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        self.push(Step::Key(key))
    }

    fn push(&'a self, step: Step<'a>) -> Path<'a> {
        Path { parent: Some(self), step: Some(step) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = self.step else { return Ok(()) };
        let mut first = true;
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            first = parent.step.is_none();
        }
        match step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if !is_plain(key) => write!(f, "[{key:?}]"),
            Step::Field(name) | Step::Key(name) if first => f.write_str(name),
            Step::Field(name) | Step::Key(name) => write!(f, ".{name}"),
        }
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The steps of a printed path. Names come out as [`Step::Field`], quoted names as [`Step::Key`].
///
/// Text that is no path ends the steps early: the caller then points at the nearest parent.
pub fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = quoted.find("\"]")?;
            rest = &quoted[end + 2..];
            return Some(Step::Key(&quoted[..end]));
        }
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']')?;
            let index = inside[..end].parse().ok()?;
            rest = &inside[end + 1..];
            return Some(Step::Index(index));
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        rest = tail;
        Some(Step::Field(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_and_reads_back() {
        let spec = Path::ROOT.field("spec");
        let http = spec.field("http");
        let first = http.index(0);
        let labels = first.field("sourceLabels");
        let app = labels.key("app.kubernetes.io/name");
        assert_eq!(app.to_string(), "spec.http[0].sourceLabels[\"app.kubernetes.io/name\"]");
        let text = app.to_string();
        let back: Vec<_> = steps(&text).collect();
        assert_eq!(
            back,
            [Step::Field("spec"), Step::Field("http"), Step::Index(0), Step::Field("sourceLabels"), Step::Key("app.kubernetes.io/name")]
        );
        assert_eq!(Path::ROOT.to_string(), "");
    }

    #[test]
    fn text_that_is_no_path_ends_early() {
        for text in ["[", "a[", "a[x]", "a[\"b", "..", "a.[9999999999999999999999]"] {
            assert!(steps(text).count() <= 2, "{text}");
        }
    }
}
