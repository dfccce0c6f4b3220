//! `/config_dump`: the resources in force and those that were refused, as Envoy prints them.
//!
//! In:  what the configuration task keeps of each resource, settings, a query.
//! Out: Envoy's `ConfigDump` as JSON: bootstrap, clusters, endpoints (`?include_eds`), listeners, routes with their virtual hosts inside.
//!
//! `?resource=FIELD` gives the entries of one list alone, `?mask=FIELDS` only these fields, `?name_regex=EXPRESSION` only resources whose
//! whole name matches. Secrets are taken out by what the protos say of their fields, whatever resource they are in. Slow, so off the
//! side runtime; the descriptors live as long as the answer is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use pillion_xds::json::{Descriptors, TYPE};
use pillion_xds::names::VirtualHostResource;
use pillion_xds::resource::{Encoded, ResourceType};
use pillion_xds::wire::google::protobuf::Timestamp;
use prost::Message;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{AdminState, Query, Reply};
use crate::config::disk::Copy;
use crate::config::journal::{Journal, Refused};

pub(super) const PATH: &str = "/config_dump";

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";
/// The lists that `?resource=` may ask for, and the messages in them.
const LISTS: [(&str, &str); 5] = [
    ("dynamic_active_clusters", "ClustersConfigDump.DynamicCluster"),
    ("dynamic_endpoint_configs", "EndpointsConfigDump.DynamicEndpointConfig"),
    ("dynamic_listeners", "ListenersConfigDump.DynamicListener"),
    ("dynamic_route_configs", "RoutesConfigDump.DynamicRouteConfig"),
    ("static_route_configs", "RoutesConfigDump.StaticRouteConfig"),
];

pub(super) fn page(state: &AdminState, query: Query<'_>) -> Reply {
    let names = match query.get("name_regex").map(|text| Regex::new(&format!("^(?:{text})$"))).transpose() {
        Ok(names) => names,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, format!("name_regex: {error}\n")),
    };
    let descriptors = match Descriptors::load() {
        Ok(descriptors) => descriptors,
        Err(error) => return Reply::error(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    };
    let (copy, journal) = state.kept.get();
    let dump = Dump { descriptors: &descriptors, copy: &copy, journal: &journal, names };
    let resource = query.get("resource");
    // Asked for by name, endpoints need no second word.
    let endpoints = query.get("include_eds").is_some() || resource.as_deref() == Some("dynamic_endpoint_configs");
    let mut configs = dump.configs(bootstrap(state, &descriptors), endpoints);
    for config in &mut configs {
        descriptors.redact("google.protobuf.Any", config);
    }
    if let Some(resource) = resource {
        let Some(found) = entries(configs, &resource) else {
            let lists: Vec<&str> = LISTS.iter().map(|(name, _)| *name).collect();
            let reason = format!("{resource} not found in config dump; there is bootstrap, {}\n", lists.join(", "));
            return Reply::error(StatusCode::NOT_FOUND, reason);
        };
        configs = found;
    }
    if let Some(mask) = query.get("mask") {
        let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.trim().split('.').collect()).collect();
        configs.iter_mut().for_each(|config| keep_only(config, &paths));
    }
    Reply::json(&json!({ "configs": configs }))
}

/// What this process was started with, in the words of a bootstrap.
fn bootstrap(state: &AdminState, descriptors: &Descriptors) -> Value {
    let settings = &state.bootstrap;
    let node = settings.node.to_wire().encode_to_vec().into();
    let node = descriptors.to_json("envoy.config.core.v3.Node", &node).unwrap_or_default();
    let mut bootstrap = json!({ "node": node });
    if let Some(admin) = state.addresses.admin {
        bootstrap["admin"] = json!({ "address": { "socket_address": { "address": admin.ip().to_string(), "port_value": admin.port() } } });
    }
    bootstrap["dynamic_resources"] = match &settings.resources {
        Some(folder) => {
            let source =
                |file: &str| json!({ "path_config_source": { "path": folder.join(file).to_string_lossy() }, "resource_api_version": "V3" });
            json!({ "lds_config": source("lds.yaml"), "cds_config": source("cds.yaml") })
        }
        None => {
            let over_ads = json!({ "ads": {}, "resource_api_version": "V3" });
            let service = json!({ "google_grpc": { "target_uri": settings.xds, "stat_prefix": "xds" } });
            let ads = json!({ "api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service] });
            json!({ "lds_config": over_ads, "cds_config": over_ads, "ads_config": ads })
        }
    };
    let started = SystemTime::now().checked_sub(state.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    json!({ TYPE: format!("{ADMIN}BootstrapConfigDump"), "bootstrap": bootstrap, "last_updated": time(descriptors, started) })
}

/// As protobuf writes a `Timestamp`.
fn time(descriptors: &Descriptors, at: SystemTime) -> Value {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Nanoseconds of a second, and a year that protobuf knows.
    let at = Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 };
    descriptors.to_json("google.protobuf.Timestamp", &at.encode_to_vec().into()).unwrap_or_default()
}

/// One making of the dump.
struct Dump<'a> {
    descriptors: &'a Descriptors,
    copy: &'a Copy,
    journal: &'a Journal,
    names: Option<Regex>,
}

/// A resource in force, a refusal, or both.
#[derive(Default)]
struct Entry<'a> {
    active: Option<&'a Encoded>,
    refused: Option<&'a Refused>,
}

impl Dump<'_> {
    fn configs(&self, bootstrap: Value, endpoints: bool) -> Vec<Value> {
        let version = self.copy.generation.to_string();
        let listeners = self.listeners();
        let mut configs = vec![bootstrap];
        configs.push(json!({
            TYPE: format!("{ADMIN}ClustersConfigDump"),
            "version_info": version,
            "dynamic_active_clusters": self.entries(ResourceType::Cluster, "cluster"),
        }));
        if endpoints {
            let list = self.entries(ResourceType::Endpoint, "endpoint_config");
            configs.push(json!({ TYPE: format!("{ADMIN}EndpointsConfigDump"), "dynamic_endpoint_configs": list }));
        }
        let inline = self.inline_routes(&listeners);
        configs.push(json!({ TYPE: format!("{ADMIN}ListenersConfigDump"), "version_info": version, "dynamic_listeners": listeners }));
        configs.push(json!({
            TYPE: format!("{ADMIN}RoutesConfigDump"),
            "dynamic_route_configs": self.routes(),
            "static_route_configs": inline,
        }));
        configs
    }

    /// By name.
    fn of(&self, kind: ResourceType) -> BTreeMap<&Arc<str>, Entry<'_>> {
        let mut all: BTreeMap<&Arc<str>, Entry<'_>> = BTreeMap::new();
        for (name, encoded) in self.copy.resources.get(&kind).into_iter().flatten() {
            all.entry(name).or_default().active = Some(encoded);
        }
        for (name, refused) in self.journal.refused(kind) {
            all.entry(name).or_default().refused = Some(refused);
        }
        // Virtual hosts are shown where their route configuration is.
        let shown = |name: &str| kind == ResourceType::VirtualHost || self.names.as_ref().is_none_or(|names| names.is_match(name));
        all.retain(|name, _| shown(name));
        all
    }

    fn message(&self, kind: ResourceType, body: &Bytes) -> Value {
        self.descriptors.any_to_json(kind.type_url(), body).unwrap_or_else(|error| {
            // Accepted, so it is some `Any` deep inside that nobody reads here either.
            json!({ TYPE: kind.type_url(), "name": format!("cannot be shown: {error}") })
        })
    }

    fn taken(&self, kind: ResourceType, name: &Arc<str>) -> Option<Value> {
        self.journal.taken(kind, name).map(|at| time(self.descriptors, at))
    }

    fn failure(&self, kind: ResourceType, refused: &Refused) -> Value {
        let mut failure = json!({
            "details": refused.reason,
            "last_update_attempt": time(self.descriptors, refused.at),
            "version_info": &*refused.version,
        });
        if !refused.body.is_empty() {
            failure["failed_configuration"] = self.message(kind, &refused.body);
        }
        failure
    }

    /// `{version_info, <field>: {…}, last_updated, error_state, client_status}`, as for clusters, endpoints and routes.
    fn entry(&self, kind: ResourceType, field: &str, name: &Arc<str>, entry: &Entry<'_>) -> Map<String, Value> {
        let mut shown = Map::new();
        if let Some(active) = entry.active {
            shown.insert("version_info".to_owned(), json!(&*active.version));
            shown.insert(field.to_owned(), self.message(kind, &active.body));
            shown.extend(self.taken(kind, name).map(|at| ("last_updated".to_owned(), at)));
        }
        if let Some(refused) = entry.refused {
            shown.insert("error_state".to_owned(), self.failure(kind, refused));
        }
        let status = if entry.refused.is_some() { "NACKED" } else { "ACKED" };
        shown.insert("client_status".to_owned(), status.into());
        shown
    }

    fn entries(&self, kind: ResourceType, field: &str) -> Vec<Value> {
        self.of(kind).into_iter().map(|(name, entry)| Value::Object(self.entry(kind, field, name, &entry))).collect()
    }

    fn listeners(&self) -> Vec<Value> {
        let kind = ResourceType::Listener;
        let one = |(name, entry): (&Arc<str>, Entry<'_>)| {
            let mut listener = json!({ "name": &**name });
            if let Some(active) = entry.active {
                let mut state = json!({ "version_info": &*active.version, "listener": self.message(kind, &active.body) });
                if let Some(at) = self.taken(kind, name) {
                    state["last_updated"] = at;
                }
                listener["active_state"] = state;
            }
            if let Some(refused) = entry.refused {
                listener["error_state"] = self.failure(kind, refused);
            }
            listener["client_status"] = if entry.refused.is_some() { "NACKED" } else { "ACKED" }.into();
            listener
        };
        self.of(kind).into_iter().map(one).collect()
    }

    /// With the virtual hosts that came as resources of their own.
    fn routes(&self) -> Vec<Value> {
        let kind = ResourceType::VirtualHost;
        let mut hosts: BTreeMap<&str, Vec<(&Arc<str>, Entry<'_>)>> = BTreeMap::new();
        for (name, entry) in self.of(kind) {
            if let Some((route, _)) = VirtualHostResource::split(name) {
                hosts.entry(route).or_default().push((name, entry));
            }
        }
        let one = |(name, entry): (&Arc<str>, Entry<'_>)| {
            let mut shown = self.entry(ResourceType::Route, "route_config", name, &entry);
            for (host, entry) in hosts.remove(&**name).into_iter().flatten() {
                if let Some(active) = entry.active
                    && let Some(Value::Object(route)) = shown.get_mut("route_config")
                {
                    let mut message = self.message(kind, &active.body);
                    message.as_object_mut().and_then(|fields| fields.remove(TYPE));
                    if let Value::Array(list) = route.entry("virtual_hosts").or_insert_with(|| json!([])) {
                        list.push(message);
                    }
                }
                if let Some(refused) = entry.refused {
                    let mut failure = self.failure(kind, refused);
                    failure["details"] = format!("{host}: {}", refused.reason).into();
                    shown.insert("error_state".to_owned(), failure);
                    shown.insert("client_status".to_owned(), "NACKED".into());
                }
            }
            Value::Object(shown)
        };
        self.of(ResourceType::Route).into_iter().map(one).collect()
    }

    /// Route configurations that are inside a listener.
    fn inline_routes(&self, listeners: &[Value]) -> Vec<Value> {
        let mut found = Vec::new();
        for state in listeners.iter().filter_map(|listener| listener.get("active_state")) {
            let listener = &state["listener"];
            let chains = listener["filter_chains"].as_array().into_iter().flatten().chain(listener.get("default_filter_chain"));
            for filter in chains.flat_map(|chain| chain["filters"].as_array().into_iter().flatten()) {
                let Some(Value::Object(routes)) = filter.pointer("/typed_config/route_config") else { continue };
                let mut routes = routes.clone();
                routes.insert(TYPE.to_owned(), ResourceType::Route.type_url().into());
                let mut entry = json!({ "route_config": routes });
                if let Some(at) = state.get("last_updated") {
                    entry["last_updated"] = at.clone();
                }
                found.push(entry);
            }
        }
        found
    }
}

/// The entries of one list, each with its type; `None` when there is no such list.
fn entries(configs: Vec<Value>, resource: &str) -> Option<Vec<Value>> {
    if resource == "bootstrap" {
        let mut bootstrap = configs.into_iter().find_map(|mut config| config.get_mut("bootstrap").map(Value::take))?;
        bootstrap[TYPE] = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap".into();
        return Some(vec![bootstrap]);
    }
    let (_, message) = LISTS.iter().find(|(name, _)| *name == resource)?;
    let list = configs.into_iter().find_map(|mut config| config.get_mut(resource).map(Value::take));
    let mut list = list.and_then(|list| if let Value::Array(list) = list { Some(list) } else { None }).unwrap_or_default();
    list.iter_mut().for_each(|entry| entry[TYPE] = format!("{ADMIN}{message}").into());
    Some(list)
}

/// Keeps these fields, in every entry of a list, and the types.
fn keep_only(value: &mut Value, paths: &[Vec<&str>]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| keep_only(item, paths)),
        Value::Object(fields) => fields.retain(|name, value| {
            let below: Vec<Vec<&str>> =
                paths.iter().filter(|path| path.first() == Some(&name.as_str())).map(|path| path[1..].to_vec()).collect();
            if !below.is_empty() && below.iter().all(|path| !path.is_empty()) {
                keep_only(value, &below);
            }
            name == TYPE || !below.is_empty()
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_the_fields_it_names_and_the_types() {
        let cases = [
            ("a", json!({"@type": "t", "a": {"x": 1, "y": 2}})),
            ("a.x", json!({"@type": "t", "a": {"x": 1}})),
            ("a.x,b.z", json!({"@type": "t", "a": {"x": 1}, "b": [{"z": 3}, {"z": 5}]})),
            ("nothing", json!({"@type": "t"})),
        ];
        for (mask, want) in cases {
            let mut value = json!({"@type": "t", "a": {"x": 1, "y": 2}, "b": [{"z": 3, "w": 4}, {"z": 5}]});
            let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.split('.').collect()).collect();
            keep_only(&mut value, &paths);
            assert_eq!(value, want, "{mask}");
        }
    }
}
