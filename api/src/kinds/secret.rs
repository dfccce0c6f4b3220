//! Secret (core/v1): certificates and keys by `credentialName`.
//!
//! In:  the object. Out: its data. Nothing prints it.

use std::collections::BTreeMap;
use std::fmt;

use crate::decode::{Bytes, Decode, Decoder};
use crate::message::{message, status};
use crate::node::Node;
use crate::path::Path;
use crate::table::Type;

/// A text that no `Debug` shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Decode for SecretText {
    const TYPE: Type = Type::String;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        String::decode(node, path, cx).map(SecretText)
    }
}

/// Bytes that no `Debug` shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Decode for SecretBytes {
    const TYPE: Type = Type::Bytes;
    fn decode(node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Self> {
        Bytes::decode(node, path, cx).map(|bytes| SecretBytes(bytes.0))
    }
}

message! {
    /// Kubernetes' `Secret`.
    pub struct Secret = "Secret" (open) {
        "type" r#type: String, enforced;
        "data" data: BTreeMap<String, SecretBytes>, enforced;
        "stringData" string_data: BTreeMap<String, SecretText>, enforced;
    }
}
