//! Positioned trees to plain data, collecting everything that is wrong on the way.
//!
//! In:  a [`Node`] and the table of the message it should be.
//! Out: the message, as far as it could be read, and findings in the [`Decoder`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::code;
use crate::duration;
use crate::finding::{Finding, Place, Severity};
use crate::node::{Entry, Node, Resolved, Scalar, Span, Style, Value, same_name};
use crate::path::Path;
use crate::table::{EnumInfo, MessageInfo, Status, Type};

/// A type that a YAML value can be read as.
pub trait Decode: Sized {
    /// What the table says of it.
    const TYPE: Type;
    /// Whether `null` is a value, rather than the same as leaving the field out.
    const TAKES_NULL: bool = false;
    /// Reads `node`. `None` after a finding has been reported.
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self>;
}

/// Collects the findings of one document.
pub struct Decoder<'a> {
    file: &'a Arc<str>,
    object: &'a str,
    findings: &'a mut Vec<Finding>,
    /// Messages around the present one, outermost first, to recognise a field at the wrong depth.
    around: Vec<&'static MessageInfo>,
    /// Inside something that is not enforced and was reported already.
    unenforced: bool,
    errors: usize,
}

impl<'a> Decoder<'a> {
    /// Reads for the object called `object` of `file`.
    pub fn new(file: &'a Arc<str>, object: &'a str, findings: &'a mut Vec<Finding>) -> Self {
        Decoder { file, object, findings, around: Vec::new(), unenforced: false, errors: 0 }
    }

    /// Warns that `name` has no effect yet, and says no more about what is inside it.
    pub fn not_enforced(&mut self, name: &str, path: &Path<'_>, span: Span) {
        self.unenforced = true;
        let message = format!("`{name}` is accepted and not enforced yet: it changes nothing");
        self.report(Severity::Warning, code::NOT_ENFORCED, None, path, span, message, None);
    }

    /// How many errors were reported.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Where `span` is.
    pub fn place(&self, span: Span) -> Place {
        place(self.file, span)
    }

    /// Reports an error.
    pub fn error(&mut self, code: &'static str, path: &Path<'_>, span: Span, message: String, help: Option<String>) {
        self.errors += 1;
        self.report(Severity::Error, code, Some(code::SCHEMA_ERROR), path, span, message, help);
    }

    #[allow(clippy::too_many_arguments, reason = "one argument per field of a finding")]
    fn report(
        &mut self,
        severity: Severity,
        code: &'static str,
        istio: Option<&'static str>,
        path: &Path<'_>,
        span: Span,
        message: String,
        help: Option<String>,
    ) {
        let place = self.place(span);
        let object = self.object.to_owned();
        self.findings.push(Finding { severity, code, istio, object, path: path.to_string(), message, help, place, related: Vec::new() });
    }

    /// Reports that a value has the wrong type. `null` never gets here.
    pub fn wrong_type(&mut self, node: &Node, path: &Path<'_>, expected: &str, help: Option<String>) {
        let message = format!("expected {expected}, found {}", describe(node));
        self.error(code::WRONG_TYPE, path, node.span, message, help);
    }

    /// The entries of a mapping, or a finding.
    pub fn mapping<'n>(&mut self, node: &'n Node, path: &Path<'_>, what: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            _ => {
                let help =
                    matches!(&node.value, Value::Sequence(_)).then(|| "remove the `-`: this is a single value, not a list".to_owned());
                self.wrong_type(node, path, what, help);
                None
            }
        }
    }

    /// The text of a scalar, or a finding.
    fn scalar<'n>(&mut self, node: &'n Node, path: &Path<'_>, expected: &str) -> Option<&'n Scalar> {
        match &node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => {
                self.wrong_type(node, path, expected, None);
                None
            }
        }
    }

    /// Reads a message: calls `field` with the position of each known field that has a value, and reports the others.
    pub fn message(
        &mut self,
        info: &'static MessageInfo,
        node: &Node,
        path: &Path<'_>,
        nulls: &[bool],
        mut field: impl FnMut(&mut Self, usize, &Node, &Path<'_>),
    ) -> Option<()> {
        if let (Value::Scalar(scalar), Some(field)) = (&node.value, sole_field(info)) {
            let value = if scalar.style == Style::Plain { scalar.text.to_string() } else { format!("{:?}", scalar.text) };
            self.wrong_type(node, path, &article(info.name), Some(format!("write {{{field}: {value}}}")));
            return None;
        }
        let entries = self.mapping(node, path, article(info.name).as_str())?;
        self.around.push(info);
        let mut seen: u128 = 0;
        for entry in entries {
            let Some(position) = info.position(&entry.key) else {
                self.unknown_field(info, entry, path);
                continue;
            };
            let known = &info.fields[position];
            let path = path.field(known.name);
            if seen & (1 << position) != 0 {
                let message = format!("`{}` and `{}` are the same field", known.name, known.proto_name);
                self.error(code::DUPLICATE_KEY, &path, entry.key_span, message, Some(format!("keep `{}`", known.name)));
                continue;
            }
            seen |= 1 << position;
            if entry.value.is_null() && !nulls[position] {
                continue;
            }
            let outer = self.unenforced;
            self.status(known.status, &path, entry, known.name);
            field(self, position, &entry.value, &path);
            self.unenforced = outer;
        }
        self.one_of(info, entries, path);
        self.around.pop();
        Some(())
    }

    fn status(&mut self, status: Status, path: &Path<'_>, entry: &Entry, name: &str) {
        match status {
            Status::Enforced | Status::Label => {}
            Status::NotYetEnforced | Status::Inert if self.unenforced => {}
            Status::NotYetEnforced => self.not_enforced(name, path, entry.key_span),
            Status::Inert => {
                let message = format!("`{name}` has no effect: Istio ignores it too");
                self.report(Severity::Warning, code::NOT_ENFORCED, None, path, entry.key_span, message, None);
            }
            Status::Refused { alternative } => {
                let message = format!("`{name}` is not supported");
                self.error(code::REFUSED_FIELD, path, entry.key_span, message, Some(alternative.to_owned()));
            }
        }
    }

    fn one_of(&mut self, info: &'static MessageInfo, entries: &[Entry], path: &Path<'_>) {
        for group in info.one_of {
            let mut given = entries.iter().filter(|entry| !entry.value.is_null()).filter_map(|entry| {
                info.field(&entry.key).filter(|field| group.contains(&field.name)).map(|field| (field.name, entry.key_span))
            });
            if let (Some((first, first_span)), Some((second, span))) = (given.next(), given.next()) {
                let message = format!("`{first}` and `{second}` exclude each other");
                let place = self.place(first_span);
                self.error(code::ONE_OF, &path.field(second), span, message, Some("keep one of them".into()));
                if let Some(finding) = self.findings.last_mut() {
                    finding.related.push((place, format!("`{first}` is here")));
                }
            }
        }
    }

    fn unknown_field(&mut self, info: &'static MessageInfo, entry: &Entry, path: &Path<'_>) {
        if let Some((_, alternative)) = info.retired.iter().find(|(name, _)| *name == &*entry.key) {
            let message = format!("`{}` is a field of old releases and is not supported", entry.key);
            let path = path.key(&entry.key);
            return self.error(code::REFUSED_FIELD, &path, entry.key_span, message, Some((*alternative).to_owned()));
        }
        if info.open || info.ignored.contains(&&*entry.key) {
            return;
        }
        let help = self.misplaced(info, &entry.key).or_else(|| {
            let close = suggestions(&entry.key, info.fields.iter().map(|field| field.name));
            (!close.is_empty()).then(|| format!("did you mean {}?", list(&close, "or")))
        });
        let help = help.or_else(|| {
            let names: Vec<&str> = info.fields.iter().map(|field| field.name).collect();
            (names.len() <= 12 && !names.is_empty()).then(|| format!("fields of {}: {}", info.name, names.join(", ")))
        });
        let message = format!("unknown field `{}` in {}", entry.key, info.name);
        let path = path.key(&entry.key);
        self.error(code::UNKNOWN_FIELD, &path, entry.key_span, message, help);
    }

    /// A field that exists around or inside this message, and not in it.
    fn misplaced(&self, info: &'static MessageInfo, key: &str) -> Option<String> {
        let outside = self.around.iter().rev().skip(1).enumerate().find(|(_, outer)| outer.field(key).is_some());
        if let Some((up, outer)) = outside {
            let levels = if up == 0 { "one level up".to_owned() } else { format!("{} levels up", up + 1) };
            return Some(format!("`{key}` belongs {levels}, in {}", outer.name));
        }
        let inside = info.fields.iter().find(|field| field.ty.message().is_some_and(|inner| !inner.open && inner.field(key).is_some()))?;
        Some(format!("`{key}` belongs one level down, under `{}`", inside.name))
    }

    /// Reads a value of an enumeration, by name or number; returns its number.
    pub fn enumeration(&mut self, info: &'static EnumInfo, node: &Node, path: &Path<'_>) -> Option<i64> {
        let scalar = self.scalar(node, path, &format!("a value of {}", info.name))?;
        let number = if scalar.resolve() == Resolved::Integer { scalar.text.parse::<i64>().ok() } else { None };
        let found = info.values.iter().find(|value| *value.name == *scalar.text || number == Some(value.number));
        let Some(value) = found else {
            let names: Vec<&str> = info.values.iter().map(|value| value.name).collect();
            let close = suggestions(&scalar.text, names.iter().copied());
            let help =
                if close.is_empty() { format!("one of {}", names.join(", ")) } else { format!("did you mean {}?", list(&close, "or")) };
            let message = format!("`{}` is not a value of {}", scalar.text, info.name);
            self.error(code::BAD_ENUM, path, node.span, message, Some(help));
            return None;
        };
        match value.status {
            Status::NotYetEnforced if !self.unenforced => {
                let message = format!("`{}` is accepted and not enforced yet: it changes nothing", value.name);
                self.report(Severity::Warning, code::NOT_ENFORCED, None, path, node.span, message, None);
            }
            Status::Refused { alternative } => {
                let message = format!("`{}` is not supported", value.name);
                self.error(code::REFUSED_FIELD, path, node.span, message, Some(alternative.to_owned()));
                return None;
            }
            _ => {}
        }
        Some(value.number)
    }

    fn integer(&mut self, node: &Node, path: &Path<'_>, min: i128, max: i128) -> Option<i128> {
        let scalar = self.scalar(node, path, "a whole number")?;
        let text = &*scalar.text;
        let whole = |text: &str| -> Option<i128> {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                return text.parse().ok();
            }
            // 1e3 and 5.0 are whole numbers in JSON.
            let float = text.parse::<f64>().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))?;
            (float.fract() == 0.0 && float.abs() < 1e15).then_some(float as i128)
        };
        match (whole(text), scalar.resolve()) {
            (Some(number), _) if (min..=max).contains(&number) => Some(number),
            (Some(_), _) => {
                let message = format!("{text} is out of range: {min} to {max}");
                self.error(code::OUT_OF_RANGE, path, node.span, message, None);
                None
            }
            (None, Resolved::Integer) => {
                let help = "tools disagree on this spelling (octal, separators): write a plain decimal number".to_owned();
                self.wrong_type(node, path, "a whole number", Some(help));
                None
            }
            _ => {
                self.wrong_type(node, path, "a whole number", None);
                None
            }
        }
    }
}

/// A place in `file`.
pub(crate) fn place(file: &Arc<str>, span: Span) -> Place {
    Place { file: file.clone(), line: span.line, column: span.column, start: span.start, end: span.end }
}

/// A value in words: `the number 1.10`.
fn describe(node: &Node) -> String {
    match &node.value {
        Value::Sequence(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
        Value::Scalar(scalar) => {
            let text: String = scalar.text.chars().take(40).collect();
            match scalar.resolve() {
                Resolved::Null => "nothing".into(),
                Resolved::Bool(_) => format!("the boolean `{text}`"),
                Resolved::Integer | Resolved::Float => format!("the number {text}"),
                Resolved::Text => format!("the text {text:?}"),
            }
        }
    }
}

/// The field that somebody means who writes a plain value in place of a message.
fn sole_field(info: &MessageInfo) -> Option<&'static str> {
    let plain = |ty: Type| matches!(ty, Type::String | Type::Bool | Type::Integer { .. } | Type::Number | Type::Duration | Type::Enum(_));
    match info.fields {
        [only] if plain(only.ty) => Some(only.name),
        [first, ..] if info.name == "Destination" && plain(first.ty) => Some(first.name),
        _ => None,
    }
}

fn article(name: &str) -> String {
    format!("a mapping ({name})")
}

/// `a`, `a or b`, `a, b or c`, each in back quotes.
fn list(words: &[&str], last: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((end, [])) => end.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
        None => String::new(),
    }
}

/// Words people write for others, beyond slips of the finger.
const HABITS: &[(&str, &str)] = &[
    ("retry", "retries"),
    ("weights", "weight"),
    ("destinations", "route"),
    ("routes", "route"),
    ("address", "addresses"),
    ("path", "uri"),
    ("url", "uri"),
    ("host", "hosts"),
    ("hosts", "host"),
    ("matches", "match"),
    ("query", "queryParams"),
    ("labels", "matchLabels"),
];

/// The names that `word` may have meant, best first, at most three.
pub(crate) fn suggestions<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let limit = (word.chars().count() / 3).max(1);
    let mut close: Vec<(usize, &str)> = names
        .filter_map(|name| {
            if same_name(word, name) {
                return Some((0, name));
            }
            if HABITS.contains(&(word, name)) {
                return Some((1, name));
            }
            if word.len() > 64 {
                return None;
            }
            let distance = strsim::damerau_levenshtein(word, name);
            (distance <= limit).then_some((distance + 1, name))
        })
        .collect();
    close.sort();
    close.into_iter().map(|(_, name)| name).take(3).collect()
}

impl Decode for String {
    const TYPE: Type = Type::String;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let scalar = cx.scalar(node, path, "a string")?;
        match scalar.resolve() {
            Resolved::Text => Some(scalar.text.to_string()),
            Resolved::Null => Some(String::new()),
            _ => {
                cx.wrong_type(node, path, "a string", Some(format!("quote it: \"{}\"", scalar.text)));
                None
            }
        }
    }
}

impl Decode for bool {
    const TYPE: Type = Type::Bool;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let scalar = cx.scalar(node, path, "true or false")?;
        match scalar.resolve() {
            Resolved::Bool(value) => Some(value),
            _ => {
                let help = matches!(&*scalar.text, "true" | "false").then(|| "remove the quotes".to_owned());
                cx.wrong_type(node, path, "true or false", help);
                None
            }
        }
    }
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Decode for $ty {
            const TYPE: Type = Type::Integer { min: <$ty>::MIN as i128, max: <$ty>::MAX as i128 };
            fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
                cx.integer(node, path, <$ty>::MIN as i128, <$ty>::MAX as i128).map(|number| number as $ty)
            }
        }
    )*};
}
integers!(u16, i32, u32, i64, u64);

impl Decode for f64 {
    const TYPE: Type = Type::Number;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let scalar = cx.scalar(node, path, "a number")?;
        let number = scalar.text.parse::<f64>().ok().filter(|number| number.is_finite());
        let digits = scalar.text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
        match number.filter(|_| digits) {
            Some(number) => Some(number),
            None => {
                cx.wrong_type(node, path, "a number", None);
                None
            }
        }
    }
}

impl Decode for Duration {
    const TYPE: Type = Type::Duration;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let scalar = cx.scalar(node, path, "a duration such as 2s")?;
        match duration::parse(&scalar.text) {
            Ok(duration) if matches!(scalar.resolve(), Resolved::Text) || duration.is_zero() => Some(duration),
            Ok(_) => None,
            Err(reason) => {
                let number = matches!(scalar.resolve(), Resolved::Integer | Resolved::Float);
                let help = if number { format!("write {}s for seconds", scalar.text) } else { "such as 2s, 250ms, 1h30m".to_owned() };
                let message = format!("`{}` is not a duration: {reason}", scalar.text);
                cx.error(code::BAD_DURATION, path, node.span, message, Some(help));
                None
            }
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    const TYPE: Type = T::TYPE;
    const TAKES_NULL: bool = T::TAKES_NULL;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        T::decode(node, path, cx).map(Some)
    }
}

impl<T: Decode> Decode for Box<T> {
    const TYPE: Type = T::TYPE;
    const TAKES_NULL: bool = T::TAKES_NULL;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        T::decode(node, path, cx).map(Box::new)
    }
}

impl<T: Decode> Decode for Vec<T> {
    const TYPE: Type = Type::List(&T::TYPE);
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let Value::Sequence(items) = &node.value else {
            let help = match &node.value {
                Value::Scalar(scalar) if scalar.style != Style::Literal => format!("make it a list: [{}]", scalar.text),
                _ => "put `- ` in front of each item".to_owned(),
            };
            cx.wrong_type(node, path, "a list", Some(help));
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            if item.is_null() && !T::TAKES_NULL {
                cx.error(code::WRONG_TYPE, &path, item.span, "this item of the list is empty".into(), Some("remove the `-`".into()));
                continue;
            }
            out.extend(T::decode(item, &path, cx));
        }
        Some(out)
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    const TYPE: Type = Type::Map(&T::TYPE);
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let mut out = BTreeMap::new();
        for entry in cx.mapping(node, path, "a mapping")? {
            let path = path.key(&entry.key);
            out.extend(T::decode(&entry.value, &path, cx).map(|value| (entry.key.to_string(), value)));
        }
        Some(out)
    }
}

/// Proto maps with numeric keys: text in JSON, bare numbers in YAML.
impl<T: Decode> Decode for BTreeMap<u32, T> {
    const TYPE: Type = Type::Map(&T::TYPE);
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let mut out = BTreeMap::new();
        for entry in cx.mapping(node, path, "a mapping")? {
            let path = path.key(&entry.key);
            let Ok(key) = entry.key.parse::<u32>() else {
                cx.error(code::WRONG_TYPE, &path, entry.key_span, format!("the key `{}` must be a number", entry.key), None);
                continue;
            };
            out.extend(T::decode(&entry.value, &path, cx).map(|value| (key, value)));
        }
        Some(out)
    }
}

impl Decode for serde_json::Value {
    const TYPE: Type = Type::Any;
    const TAKES_NULL: bool = true;
    fn decode(node: &Node, _: &Path<'_>, _: &mut Decoder<'_>) -> Option<Self> {
        Some(json(node))
    }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Sequence(items) => items.iter().map(json).collect(),
        Value::Mapping(entries) => entries.iter().map(|entry| (entry.key.to_string(), json(&entry.value))).collect(),
        Value::Scalar(scalar) => {
            let text = || serde_json::Value::String(scalar.text.to_string());
            match scalar.resolve() {
                Resolved::Null => serde_json::Value::Null,
                Resolved::Bool(value) => value.into(),
                Resolved::Integer => scalar.text.parse::<i64>().map_or_else(|_| text(), Into::into),
                Resolved::Float => scalar.text.parse::<f64>().map_or_else(|_| text(), Into::into),
                Resolved::Text => text(),
            }
        }
    }
}

/// Bytes, written as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Decode for Bytes {
    const TYPE: Type = Type::Bytes;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        use base64::Engine as _;
        let scalar = cx.scalar(node, path, "base64 text")?;
        let text: String = scalar.text.split_ascii_whitespace().collect();
        match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(bytes) => Some(Bytes(bytes)),
            Err(error) => {
                cx.error(code::WRONG_TYPE, path, node.span, format!("this is not base64: {error}"), None);
                None
            }
        }
    }
}

/// A port by number or by name (Kubernetes' `IntOrString`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    Int(i32),
    String(String),
}

impl Decode for IntOrString {
    const TYPE: Type = Type::IntOrString;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        let scalar = cx.scalar(node, path, "a number or a name")?;
        match scalar.resolve() {
            Resolved::Integer => i32::decode(node, path, cx).map(IntOrString::Int),
            Resolved::Text => Some(IntOrString::String(scalar.text.to_string())),
            _ => {
                cx.wrong_type(node, path, "a number or a name", None);
                None
            }
        }
    }
}
