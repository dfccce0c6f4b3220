//! Who is at the other end of a connection, as labels; and what we say of ourselves.
//!
//! In:  our node; the value of `x-envoy-peer-metadata` from a peer.
//! Out: header values built once; [`PeerLabels`]. Believed for labels only, never for policy.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderValue;
use pillion_xds::node::Node;
use pillion_xds::wire::google::protobuf::{Struct, Value, value::Kind};
use prost::Message;

use crate::config::LocalNode;
use crate::config::cluster::PeerLabels;

/// The longest label value, in bytes; more is cut.
pub const MAX_VALUE_BYTES: usize = 256;
/// The longest header value that is decoded.
const MAX_HEADER_BYTES: usize = 16 << 10;

const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What this proxy says of itself to other proxies.
///
/// Source: Istio's `x-envoy-peer-metadata`: base64 of a `google.protobuf.Struct`.
pub fn local_node(node: &Node) -> LocalNode {
    let mut fields = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            fields.insert(key.to_owned(), text(value));
        }
    };
    put("NAME", &node.instance);
    put("NAMESPACE", &node.namespace);
    put("WORKLOAD_NAME", &node.workload);
    put("CLUSTER_ID", &node.cluster_id);
    put("SERVICE_ACCOUNT", &node.service_account);
    if !node.labels.is_empty() {
        let labels = node.labels.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        fields.insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) });
    }
    let encoded = BASE64.encode(Struct { fields }.encode_to_vec());
    LocalNode {
        // Base64 is a header value; a node id with control characters is not, and then is not sent.
        peer_metadata: HeaderValue::try_from(encoded).ok(),
        peer_metadata_id: HeaderValue::try_from(node.id.as_str()).ok(),
        ..LocalNode::default()
    }
}

/// Our own labels.
pub fn local_labels(node: &Node) -> PeerLabels {
    let label = |key: &str| node.labels.get(key).map(String::as_str);
    labels(&node.workload, &node.namespace, &node.cluster_id, &node.service_account, &node.instance, label)
}

/// Reads a peer's header; `None` when it makes no sense.
pub fn parse(header: &[u8]) -> Option<PeerLabels> {
    if header.len() > MAX_HEADER_BYTES {
        return None;
    }
    let metadata = Struct::decode(BASE64.decode(header).ok()?.as_slice()).ok()?;
    let field = |key: &str| string(&metadata, key);
    let of_peer = match metadata.fields.get("LABELS").and_then(|value| value.kind.as_ref()) {
        Some(Kind::StructValue(labels)) => Some(labels),
        _ => None,
    };
    let label = |key: &str| of_peer.map(|labels| string(labels, key)).filter(|value| !value.is_empty());
    Some(labels(field("WORKLOAD_NAME"), field("NAMESPACE"), field("CLUSTER_ID"), field("SERVICE_ACCOUNT"), field("NAME"), label))
}

/// Source: Istio's canonical service: `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, the workload; its revision:
/// `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, `latest`.
fn labels<'a>(
    workload: &str,
    namespace: &str,
    cluster: &str,
    service_account: &str,
    instance: &str,
    label: impl Fn(&str) -> Option<&'a str>,
) -> PeerLabels {
    let first = |keys: &[&str], last: &'a str| -> Box<str> { cut(keys.iter().find_map(|key| label(key)).unwrap_or(last)) };
    let canonical = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    PeerLabels {
        workload: cut(workload),
        namespace: cut(namespace),
        app: first(&["app"], ""),
        version: first(&["version"], ""),
        canonical_service: match canonical.iter().find_map(|key| label(key)) {
            Some(name) => cut(name),
            None => cut(workload),
        },
        canonical_revision: first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"], "latest"),
        cluster: cut(cluster),
        service_account: cut(service_account),
        instance: cut(instance),
    }
}

fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_VALUE_BYTES)].into()
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn string<'a>(fields: &'a Struct, key: &str) -> &'a str {
    match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &[(&str, &str)]) -> Node {
        let mut node = Node::sidecar("127.0.0.1".parse().unwrap(), "product-v1-0", "shop");
        node.workload = "product-v1".into();
        node.service_account = "product".into();
        node.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        node
    }

    #[test]
    fn a_peer_reads_what_we_say_of_ourselves() {
        let node = node(&[("app", "product"), ("version", "v1")]);
        let local = local_node(&node);
        assert_eq!(local.peer_metadata_id.as_ref().unwrap(), node.id.as_str());
        let labels = parse(local.peer_metadata.as_ref().unwrap().as_bytes()).unwrap();
        assert_eq!(labels, local_labels(&node));
        assert_eq!((&*labels.workload, &*labels.app, &*labels.canonical_revision), ("product-v1", "product", "v1"));
    }

    #[test]
    fn the_canonical_name_and_revision_have_their_order() {
        let cases = [
            (&[][..], "product-v1", "latest"),
            (&[("app", "a"), ("version", "v")], "a", "v"),
            (&[("app", "a"), ("app.kubernetes.io/name", "k"), ("app.kubernetes.io/version", "kv"), ("version", "v")], "k", "kv"),
            (&[("service.istio.io/canonical-name", "c"), ("service.istio.io/canonical-revision", "r"), ("app", "a")], "c", "r"),
        ];
        for (given, name, revision) in cases {
            let labels = local_labels(&node(given));
            assert_eq!((&*labels.canonical_service, &*labels.canonical_revision), (name, revision));
        }
    }

    #[test]
    fn what_a_stranger_sends_is_bounded_and_may_be_garbage() {
        let long = local_node(&node(&[("app", &"ü".repeat(1000))]));
        assert!(parse(long.peer_metadata.unwrap().as_bytes()).unwrap().app.len() <= MAX_VALUE_BYTES);
        for garbage in [&b"not base64!"[..], b"////", &[b'A'; MAX_HEADER_BYTES + 4]] {
            assert_eq!(parse(garbage), None);
        }
        assert_eq!(parse(b"").map(|labels| labels.workload.len()), Some(0));
    }
}
