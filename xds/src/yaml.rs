//! JSON values as YAML text, and back. For resource files: Envoy reads proto3 JSON in YAML.
//!
//! In:  a JSON value, or the text of a file with one document.
//! Out: block YAML with sorted keys, so that equal values give equal text; or the value.
//!
//! Places are not kept, unlike in the YAML that people write for the mesh. What a stranger can grow is bounded.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Collections inside collections.
const MAX_DEPTH: usize = 200;
/// Values that aliases may add.
const MAX_ALIAS_VALUES: usize = 50_000;
/// The longest text read, in bytes.
pub const MAX_TEXT: usize = 256 << 20;

/// Why a text is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    #[error("line {line}, column {column}: {reason}")]
    Syntax { line: usize, column: usize, reason: String },
    #[error("{0} bytes are more than the limit of {MAX_TEXT}")]
    Size(usize),
    #[error("there is no document in it")]
    Empty,
    #[error("there is more than one document in it")]
    Several,
}

/// The value as block YAML, with a newline at the end.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    write_indented(value, 0, &mut out);
    out
}

/// The same below a parent, each line this far from the left.
pub fn write_indented(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                let _ = write!(out, "{pad}{}:", text(key));
                write_nested(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                if is_leaf(item) {
                    let _ = writeln!(out, "{pad}- {}", scalar(item));
                    continue;
                }
                let mut block = String::new();
                write_indented(item, indent + 2, &mut block);
                let _ = write!(out, "{pad}- {}", block.get(indent + 2..).unwrap_or_default());
            }
        }
        leaf => {
            let _ = writeln!(out, "{pad}{}", scalar(leaf));
        }
    }
}

fn write_nested(value: &Value, indent: usize, out: &mut String) {
    if is_leaf(value) {
        let _ = writeln!(out, " {}", scalar(value));
    } else {
        out.push('\n');
        write_indented(value, indent + 2, out);
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// Texts that could be read as something else are quoted, as JSON quotes them.
pub fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./|:@~".contains(c))
        && !text.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

/// Reads the one document of a text; JSON is YAML, too.
///
/// # Errors
/// When the text is no YAML, has a key twice or one that is no text, or has no or several documents.
pub fn read(text: &str) -> Result<Value, YamlError> {
    if text.len() > MAX_TEXT {
        return Err(YamlError::Size(text.len()));
    }
    let options = granit_parser::options! { emit_comments: false, flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    let mut reader = Reader::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let mark = error.marker();
            YamlError::Syntax { line: mark.line(), column: mark.col() + 1, reason: error.info() }
        })?;
        reader.event(event).map_err(|problem| match problem {
            Problem::Several => YamlError::Several,
            Problem::Text(reason) => YamlError::Syntax { line: span.start.line(), column: span.start.col() + 1, reason },
        })?;
    }
    reader.root.ok_or(YamlError::Empty)
}

enum Problem {
    Several,
    Text(String),
}

enum Frame {
    Sequence(Vec<Value>, usize),
    /// The key that waits for its value.
    Mapping(Map<String, Value>, Option<String>, usize),
}

#[derive(Default)]
struct Reader {
    stack: Vec<Frame>,
    /// With their sizes.
    anchors: HashMap<usize, (Value, usize)>,
    alias_values: usize,
    root: Option<Value>,
}

impl Reader {
    fn event(&mut self, event: Event<'_>) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let is_key = matches!(self.stack.last(), Some(Frame::Mapping(_, None, _)));
                let plain = matches!(style, ScalarStyle::Plain) && !is_key;
                self.value(if plain { resolve(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.stack.push(Frame::Sequence(Vec::new(), anchor));
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.stack.push(Frame::Mapping(Map::new(), None, anchor));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::Sequence(items, anchor)) => self.value(Value::Array(items), anchor),
                Some(Frame::Mapping(fields, _, anchor)) => self.value(Value::Object(fields), anchor),
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some((value, size)) = self.anchors.get(&id).cloned() else {
                    return Err(Problem::Text("this alias refers to a value that contains it".to_owned()));
                };
                self.alias_values += size;
                if self.alias_values > MAX_ALIAS_VALUES {
                    return Err(Problem::Text(format!("the aliases expand to more than {MAX_ALIAS_VALUES} values")));
                }
                self.value(value, 0)
            }
            _ => Ok(()),
        }
    }

    /// A complete value: goes to its parent, as key or value, or is the document.
    fn value(&mut self, value: Value, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            let size = size(&value);
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.stack.last_mut() {
            None if self.root.is_some() => return Err(Problem::Several),
            None => self.root = Some(value),
            Some(Frame::Sequence(items, _)) => items.push(value),
            Some(Frame::Mapping(fields, key, _)) => match (key.take(), value) {
                (Some(key), value) => {
                    if fields.contains_key(&key) {
                        return Err(Problem::Text(format!("the key `{key}` is here twice")));
                    }
                    fields.insert(key, value);
                }
                (None, Value::String(text)) => *key = Some(text),
                (None, _) => return Err(Problem::Text("a key must be plain text, not a list or mapping".to_owned())),
            },
        }
        Ok(())
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// YAML 1.2's core schema, without its octal and hexadecimal numbers.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = text.parse::<u64>() {
        return number.into();
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && text.contains(|c: char| c.is_ascii_digit());
    let number = if numeric { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let values = [
            json!({"b": [1, -2, 2.5, true, null, "x"], "a": {"empty": {}, "none": [], "nested": [[1], [{"k": "v", "l": []}]]}}),
            json!(["true", "1", "1.5", "null", "", " x", "a: b", "a#b", "#", "*", "a\nb", "\"", "é", "-", "@type", "outbound|80||h:1"]),
            json!({"@type": "type.googleapis.com/x.Y", "a b": 1, "yes": "no", "1": 2}),
            json!("text"),
            json!({}),
        ];
        for value in values {
            let text = write(&value);
            assert_eq!(read(&text).unwrap_or_else(|error| panic!("{error}:\n{text}")), value, "{text}");
        }
    }

    #[test]
    fn equal_values_give_equal_text() {
        assert_eq!(write(&json!({"b": [{"k": 1, "h": "0s"}], "a": "v"})), "a: v\nb:\n  - h: \"0s\"\n    k: 1\n");
    }

    #[test]
    fn hand_written_yaml_is_read() {
        let text = "# comment\na: &x {type: STRICT_DNS, 'timeout': 1s}\nb: *x\nc: |\n  two\n  lines\nd: 0x10\n";
        let want = json!({"a": {"type": "STRICT_DNS", "timeout": "1s"}, "b": {"type": "STRICT_DNS", "timeout": "1s"}, "c": "two\nlines\n", "d": "0x10"});
        assert_eq!(read(text).unwrap(), want);
        assert_eq!(read("{\"a\": [1, 2.5e3]}").unwrap(), json!({"a": [1, 2500.0]}));
    }

    #[test]
    fn what_is_no_value_is_told_with_its_place() {
        let cases = [
            ("", "there is no document in it"),
            ("a: 1\n---\nb: 2\n", "there is more than one document in it"),
            ("a: 1\na: 2\n", "line 2"),
            ("a: [1\n", "line"),
            ("[a]: 1\n", "a key must be plain text"),
            ("a: &x [*x]\n", "alias"),
        ];
        for (text, want) in cases {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
        let bomb = format!("a: &a [{}]\nb: &b [{}]\nc: [{}]\n", "x,".repeat(100), "*a,".repeat(100), "*b,".repeat(100));
        assert!(read(&bomb).unwrap_err().to_string().contains("aliases expand"));
        assert!(read(&"[".repeat(MAX_DEPTH + 10)).is_err());
    }
}
