//! The one table of fields: what each is called, what it holds, and what Pillion does with it.
//!
//! In:  the messages declared with `message!` and `enumeration!`; the table is made by the same declaration as type and decoder.
//! Out: [`MessageInfo`]s, and a walk over all fields of all kinds. `docs/compatibility.md` is made of it.

use crate::object::Kind;

/// What Pillion does with a field, value or kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what Istio does with it.
    Enforced,
    /// Read and checked, without effect so far: a warning when it is used.
    NotYetEnforced,
    /// Read and checked, without effect in Istio too: a warning when it is used.
    Inert,
    /// A name for people: nothing depends on it, in Istio neither.
    Label,
    /// An error that names the alternative.
    Refused { alternative: &'static str },
}

impl Status {
    /// The status of something inside: never better than what surrounds it.
    pub fn inside(self, outer: Status) -> Status {
        match (outer, self) {
            (_, Status::Refused { .. }) | (Status::Enforced, _) => self,
            _ => outer,
        }
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    String,
    Bool,
    /// A whole number between the bounds.
    Integer {
        min: i128,
        max: i128,
    },
    Number,
    Duration,
    /// Base64 of bytes.
    Bytes,
    /// Any YAML value.
    Any,
    /// A number or a string (Kubernetes' `IntOrString`).
    IntOrString,
    /// `exact`, `prefix` or `regex`.
    StringMatch,
    Enum(&'static EnumInfo),
    Message(&'static MessageInfo),
    List(&'static Type),
    Map(&'static Type),
}

/// A message type.
#[derive(Debug)]
pub struct MessageInfo {
    /// As Istio or Kubernetes calls it.
    pub name: &'static str,
    pub fields: &'static [FieldInfo],
    /// Sets of fields of which one may be given.
    pub one_of: &'static [&'static [&'static str]],
    /// Fields of old releases, with what replaces them.
    pub retired: &'static [(&'static str, &'static str)],
    /// Fields that are somebody else's business, such as Kubernetes' bookkeeping.
    pub ignored: &'static [&'static str],
    /// Unknown fields are not ours to judge (Kubernetes' own kinds).
    pub open: bool,
}

/// A field of a message.
#[derive(Debug)]
pub struct FieldInfo {
    /// The YAML (proto JSON) name.
    pub name: &'static str,
    /// The proto name, which is accepted too; equal to `name` when there is nothing to convert.
    pub proto_name: &'static str,
    pub ty: Type,
    pub status: Status,
}

/// An enumeration.
#[derive(Debug)]
pub struct EnumInfo {
    pub name: &'static str,
    pub values: &'static [ValueInfo],
}

/// A value of an enumeration.
#[derive(Debug)]
pub struct ValueInfo {
    pub name: &'static str,
    pub number: i64,
    pub status: Status,
}

impl MessageInfo {
    /// Position of the field called `key` in YAML or proto spelling.
    pub fn position(&self, key: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == key || field.proto_name == key)
    }

    /// The field called `key` in YAML or proto spelling.
    pub fn field(&self, key: &str) -> Option<&'static FieldInfo> {
        self.position(key).map(|position| &self.fields[position])
    }
}

impl Type {
    /// The message inside, through lists and maps.
    pub fn message(self) -> Option<&'static MessageInfo> {
        match self {
            Type::Message(info) => Some(info),
            Type::List(inner) | Type::Map(inner) => inner.message(),
            _ => None,
        }
    }

    /// The enumeration inside, through lists and maps.
    pub fn enumeration(self) -> Option<&'static EnumInfo> {
        match self {
            Type::Enum(info) => Some(info),
            Type::List(inner) | Type::Map(inner) => inner.enumeration(),
            _ => None,
        }
    }

    /// How a finding or a page calls it.
    pub fn describe(self) -> String {
        match self {
            Type::String => "string".into(),
            Type::StringMatch => "StringMatch".into(),
            Type::Bool => "bool".into(),
            Type::Integer { .. } => "integer".into(),
            Type::Number => "number".into(),
            Type::Duration => "duration".into(),
            Type::Bytes => "base64".into(),
            Type::Any => "any".into(),
            Type::IntOrString => "integer or string".into(),
            Type::Enum(info) => info.name.into(),
            Type::Message(info) => info.name.into(),
            Type::List(inner) => format!("{}[]", inner.describe()),
            Type::Map(inner) => format!("map of {}", inner.describe()),
        }
    }
}

/// One field of one kind, with everything around it taken into account.
#[derive(Clone, Debug)]
pub struct Row {
    pub kind: Kind,
    /// Such as `spec.http[].route[].weight`; `{}` stands for a key of a map.
    pub path: String,
    pub field: &'static FieldInfo,
    /// Never better than the status of what surrounds the field.
    pub status: Status,
    /// How many fields surround it.
    pub depth: usize,
}

/// Every field of `kind`, each before what is inside it.
pub fn rows(kind: Kind) -> Vec<Row> {
    let mut rows = Vec::new();
    let prefix = if kind.at_root() { "" } else { "spec." };
    walk(kind, kind.info(), prefix, kind.status(), 0, &mut rows);
    rows
}

fn walk(kind: Kind, info: &'static MessageInfo, prefix: &str, outer: Status, depth: usize, rows: &mut Vec<Row>) {
    for field in info.fields {
        let status = field.status.inside(outer);
        let path = format!("{prefix}{}", field.name);
        rows.push(Row { kind, path: path.clone(), field, status, depth });
        if let Some(inner) = field.ty.message() {
            walk(kind, inner, &format!("{path}{}.", brackets(field.ty)), status, depth + 1, rows);
        }
    }
}

fn brackets(ty: Type) -> &'static str {
    match ty {
        Type::List(_) => "[]",
        Type::Map(_) => "{}",
        _ => "",
    }
}
