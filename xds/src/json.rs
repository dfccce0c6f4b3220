//! Messages as proto3 JSON, by their descriptors: for configuration dumps and resource files.
//!
//! In:  encoded messages, or JSON.
//! Out: JSON with the proto's field names, as Envoy prints it, `Any` opened; or encoded messages. Secrets can be taken out by what the
//!      protos say of their fields.
//!
//! The descriptors take a few megabytes once they are loaded. Load them away from the workers, for one piece of work, and drop them.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value};

use crate::{
    resource::MAX_RESOURCE_BYTES,
    wire::{DESCRIPTORS, SENSITIVE_FIELDS, google::protobuf::Any},
};

/// What stands for a secret text. Source: Envoy's `MessageUtil::redact`.
const REDACTED: &str = "[redacted]";
/// The same as `bytes` are written in JSON: base64.
const REDACTED_BYTES: &str = "W3JlZGFjdGVkXQ==";

/// Where the type of an `Any` stands in JSON.
pub const TYPE: &str = "@type";

/// Why something is no message, or no JSON of one.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("the built-in descriptors cannot be read: {0}")]
    Descriptors(String),
    #[error("{0:?} is no message type known here")]
    Type(String),
    #[error("cannot decode {message}: {reason}")]
    Decode { message: String, reason: String },
    #[error("{0}")]
    Json(String),
    #[error("`@type` is missing")]
    Untyped,
    #[error("{0} bytes are more than the limit of {MAX_RESOURCE_BYTES}")]
    Size(usize),
}

/// Every message of `wire`, described.
#[derive(Debug)]
pub struct Descriptors {
    pool: DescriptorPool,
    sensitive: HashSet<&'static str>,
}

impl Descriptors {
    /// Loads them; takes some milliseconds.
    pub fn load() -> Result<Self, JsonError> {
        let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| JsonError::Descriptors(error.to_string()))?;
        Ok(Self { pool, sensitive: SENSITIVE_FIELDS.lines().collect() })
    }

    fn message(&self, type_url: &str) -> Result<MessageDescriptor, JsonError> {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        self.pool.get_message_by_name(name).ok_or_else(|| JsonError::Type(type_url.chars().take(200).collect()))
    }

    /// The JSON of an encoded message. `type_url` may be the message's full name alone.
    ///
    /// # Errors
    /// When it, or an `Any` inside, is of a type that is not known here or cannot be decoded.
    pub fn to_json(&self, type_url: &str, body: &Bytes) -> Result<Value, JsonError> {
        let descriptor = self.message(type_url)?;
        let decoded = DynamicMessage::decode(descriptor, body.clone());
        let decoded = decoded.map_err(|error| JsonError::Decode { message: type_url.to_owned(), reason: error.to_string() })?;
        let options = SerializeOptions::new().use_proto_field_name(true);
        decoded.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| JsonError::Json(error.to_string()))
    }

    /// The JSON of an `Any` that holds this message: its own, with `@type`.
    ///
    /// # Errors
    /// As [`Self::to_json`].
    pub fn any_to_json(&self, type_url: &str, body: &Bytes) -> Result<Value, JsonError> {
        let mut json = self.to_json(type_url, body)?;
        if let Value::Object(fields) = &mut json {
            fields.insert(TYPE.to_owned(), type_url.into());
        }
        Ok(json)
    }

    /// Reads the JSON of a message; both spellings of field names, and unknown ones are errors.
    ///
    /// # Errors
    /// When it does not fit the message.
    pub fn from_json(&self, type_url: &str, json: Value) -> Result<Bytes, JsonError> {
        let descriptor = self.message(type_url)?;
        let message = DynamicMessage::deserialize(descriptor, json).map_err(|error| JsonError::Json(error.to_string()))?;
        let body = message.encode_to_vec();
        if body.len() > MAX_RESOURCE_BYTES { Err(JsonError::Size(body.len())) } else { Ok(body.into()) }
    }

    /// Reads the JSON of an `Any`: a message with `@type`.
    ///
    /// # Errors
    /// When the type is missing or unknown, or the rest does not fit it.
    pub fn any_from_json(&self, mut json: Value) -> Result<Any, JsonError> {
        let named = json.as_object_mut().and_then(|fields| fields.remove(TYPE));
        let Some(Value::String(type_url)) = named else { return Err(JsonError::Untyped) };
        let value = self.from_json(&type_url, json)?;
        Ok(Any { type_url, value })
    }

    /// Takes secrets out of the JSON of a message: every field that its proto marks as sensitive, in opened `Any`s too.
    pub fn redact(&self, type_url: &str, json: &mut Value) {
        if let (Ok(descriptor), Value::Object(fields)) = (self.message(type_url), json) {
            self.redact_fields(&descriptor, fields);
        }
    }

    fn redact_fields(&self, descriptor: &MessageDescriptor, fields: &mut Map<String, Value>) {
        if descriptor.full_name() == "google.protobuf.Any" {
            let named = fields.get(TYPE).and_then(Value::as_str).and_then(|url| self.message(url).ok());
            if let Some(inner) = named {
                self.redact_fields(&inner, fields);
            }
            return;
        }
        for (name, value) in fields {
            let Some(field) = descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name)) else { continue };
            if self.sensitive.contains(field.full_name()) {
                blank(value, matches!(field.kind(), Kind::Bytes));
            } else {
                self.redact_field(&field, value);
            }
        }
    }

    fn redact_field(&self, field: &FieldDescriptor, value: &mut Value) {
        let Kind::Message(message) = field.kind() else { return };
        match value {
            Value::Object(entries) if field.is_map() => {
                if let Kind::Message(inner) = message.map_entry_value_field().kind() {
                    entries.values_mut().filter_map(Value::as_object_mut).for_each(|fields| self.redact_fields(&inner, fields));
                }
            }
            Value::Object(fields) => self.redact_fields(&message, fields),
            Value::Array(items) => {
                items.iter_mut().filter_map(Value::as_object_mut).for_each(|fields| self.redact_fields(&message, fields))
            }
            _ => {}
        }
    }
}

/// Leaves of a secret message are all blanked: bytes inside it look like texts here, and a text is never wrong.
fn blank(value: &mut Value, is_bytes: bool) {
    match value {
        Value::String(text) => *text = if is_bytes { REDACTED_BYTES } else { REDACTED }.to_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| blank(item, is_bytes)),
        Value::Object(fields) => {
            for (_, value) in fields.iter_mut().filter(|(name, _)| *name != TYPE) {
                // The base64 of the word is good for either kind.
                blank(value, true);
            }
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => *value = Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Name;
    use serde_json::json;

    use super::*;
    use crate::{
        resource::pack,
        wire::{
            envoy::{
                config::{
                    cluster::v3::{Cluster, cluster},
                    core::v3::{self as core, data_source::Specifier},
                    listener::v3::{Filter, FilterChain, Listener, filter},
                },
                extensions::{
                    filters::network::http_connection_manager::v3::HttpConnectionManager,
                    transport_sockets::tls::v3::{Secret, TlsCertificate, secret},
                },
            },
            google::protobuf as pb,
        },
    };

    fn seconds(time: Duration) -> Option<pb::Duration> {
        Some(pb::Duration { seconds: time.as_secs() as i64, nanos: time.subsec_nanos() as i32 })
    }

    fn cluster() -> Cluster {
        let section =
            pb::Struct { fields: [("n".to_owned(), pb::Value { kind: Some(pb::value::Kind::NumberValue(2.0)) })].into_iter().collect() };
        Cluster {
            name: "c".into(),
            connect_timeout: seconds(Duration::from_millis(1500)),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
            per_connection_buffer_limit_bytes: Some(pb::UInt32Value { value: 7 }),
            metadata: Some(core::Metadata { filter_metadata: [("istio".to_owned(), section)].into_iter().collect(), ..Default::default() }),
            ..Cluster::default()
        }
    }

    #[test]
    fn messages_are_written_as_envoy_writes_them_and_come_back_equal() {
        let descriptors = Descriptors::load().unwrap();
        let body: Bytes = cluster().encode_to_vec().into();
        let json = descriptors.any_to_json(&Cluster::type_url(), &body).unwrap();
        let want = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c", "type": "EDS", "connect_timeout": "1.500s",
            "per_connection_buffer_limit_bytes": 7, "metadata": {"filter_metadata": {"istio": {"n": 2.0}}},
        });
        assert_eq!(json, want);
        let any = descriptors.any_from_json(json).unwrap();
        assert_eq!((any.type_url, any.value), (Cluster::type_url(), body));
    }

    #[test]
    fn an_any_inside_is_opened() {
        let descriptors = Descriptors::load().unwrap();
        let manager = HttpConnectionManager { stat_prefix: "p".into(), ..Default::default() };
        let filter = Filter { name: "hcm".into(), config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))) };
        let listener = Listener {
            name: "l".into(),
            filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
            ..Default::default()
        };
        let body: Bytes = listener.encode_to_vec().into();
        let json = descriptors.to_json(&Listener::full_name(), &body).unwrap();
        assert_eq!(
            json["filter_chains"][0]["filters"][0]["typed_config"],
            json!({"@type": HttpConnectionManager::type_url(), "stat_prefix": "p"})
        );
        assert_eq!(descriptors.from_json(&Listener::full_name(), json).unwrap(), body);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let descriptors = Descriptors::load().unwrap();
        let cluster = Cluster::type_url();
        let cases = [
            (json!({"name": "c"}), "`@type` is missing"),
            (json!({"@type": "type.googleapis.com/x.Y"}), "\"type.googleapis.com/x.Y\" is no message type known here"),
            (json!({"@type": &cluster, "nmae": "c"}), "nmae"),
            (json!({"@type": &cluster, "type": "NO_SUCH"}), "NO_SUCH"),
            (json!({"@type": &cluster, "connect_timeout": "soon"}), "duration"),
        ];
        for (json, want) in cases {
            let error = descriptors.any_from_json(json.clone()).unwrap_err().to_string();
            assert!(error.contains(want), "{json}: {error}");
        }
    }

    #[test]
    fn secrets_are_blanked_wherever_they_are() {
        let descriptors = Descriptors::load().unwrap();
        let key = core::DataSource { specifier: Some(Specifier::InlineBytes(Bytes::from_static(b"the key"))), ..Default::default() };
        let chain = core::DataSource { specifier: Some(Specifier::InlineString("the chain".into())), ..Default::default() };
        let certificate = TlsCertificate { private_key: Some(key), certificate_chain: Some(chain), ..Default::default() };
        let secret = Secret { name: "s".into(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
        let body: Bytes = secret.encode_to_vec().into();
        let mut json = descriptors.to_json(&Secret::type_url(), &body).unwrap();
        descriptors.redact(&Secret::type_url(), &mut json);
        let want = json!({"name": "s", "tls_certificate": {
            "private_key": {"inline_bytes": REDACTED_BYTES}, "certificate_chain": {"inline_string": "the chain"},
        }});
        assert_eq!(json, want);
        // Inside an `Any`, too.
        let mut any = json!({"@type": Secret::type_url(), "generic_secret": {"secret": {"inline_string": "x"}}});
        descriptors.redact("google.protobuf.Any", &mut any);
        assert!(!any.to_string().contains("\"x\""), "{any}");
    }

    #[test]
    fn the_descriptors_are_small_and_know_every_resource_type() {
        assert!(DESCRIPTORS.len() < 256 << 10, "{} bytes are in every proxy", DESCRIPTORS.len());
        let descriptors = Descriptors::load().unwrap();
        for kind in crate::resource::ResourceType::ALL {
            descriptors.message(kind.type_url()).unwrap();
        }
        assert!(SENSITIVE_FIELDS.lines().count() > 3);
    }
}
