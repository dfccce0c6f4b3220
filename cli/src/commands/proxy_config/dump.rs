//! Resources of a `/config_dump`, ours or a stock Envoy's.
//!
//! In:  the dump as JSON.
//! Out: the messages of one kind, static and dynamic ones.

use serde_json::Value;

/// Where messages of a kind stand in a dump: lists, and the way from an entry to the message.
pub struct Place(&'static [(&'static str, &'static str)]);

pub const CLUSTERS: Place =
    Place(&[("static_clusters", "/cluster"), ("dynamic_active_clusters", "/cluster"), ("dynamic_warming_clusters", "/cluster")]);
pub const LISTENERS: Place = Place(&[("static_listeners", "/listener"), ("dynamic_listeners", "/active_state/listener")]);
pub const ROUTES: Place = Place(&[("dynamic_route_configs", "/route_config"), ("static_route_configs", "/route_config")]);
pub const ENDPOINTS: Place = Place(&[("static_endpoint_configs", "/endpoint_config"), ("dynamic_endpoint_configs", "/endpoint_config")]);

/// The messages of a kind, in the order of the dump.
pub fn messages<'a>(dump: &'a Value, place: &Place) -> Vec<&'a Value> {
    let configs = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lists = place.0.iter().flat_map(|(list, way)| configs.iter().map(move |config| (&config[*list], *way)));
    lists.flat_map(|(list, way)| list.as_array().into_iter().flatten().filter_map(move |entry| entry.pointer(way))).collect()
}

/// The text of a field; empty when it is not there.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The items of a list; none when it is not there.
pub fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Address and port of a `core.v3.Address`; the path of a pipe, without a port.
pub fn address(value: &Value) -> (String, Option<u64>) {
    if let Some(path) = value.pointer("/pipe/path").and_then(Value::as_str) {
        return (format!("unix://{path}"), None);
    }
    let socket = &value["socket_address"];
    (text(socket, "address").to_owned(), socket["port_value"].as_u64())
}

/// `name.namespace` of the Istio object that a resource comes from. Source: `filter_metadata.istio.config`, a path of Kubernetes' API.
pub fn origin(resource: &Value) -> String {
    let path = resource.pointer("/metadata/filter_metadata/istio/config").and_then(Value::as_str).unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [.., "namespaces", namespace, _, name] => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}
