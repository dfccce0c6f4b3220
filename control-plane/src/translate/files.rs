//! The resources of one stock node as files that Envoy reads (`path_config_source`), and the bootstrap that names them.
//!
//! In:  a [`NodeConfig`] as a stock node sees it (virtual hosts inside the route configurations), and where its sockets shall be.
//! Out: [`ResourceFile`]s: `lds.yaml`, `cds.yaml`, `rds.yaml`, `eds/N.yaml` and `envoy.yaml`. Pure: no file is touched.
//!
//! Envoy takes exactly one resource from a file of endpoints or of routes, so endpoints have a file per cluster, and where there is more
//! than one route configuration each has a file below `rds/` beside being in `rds.yaml`. A listener keeps the name that it has in the mesh
//! when its address is another: two outputs differ in addresses, and in the folder's own path.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use pillion_xds::{
    json::{Descriptors, JsonError},
    node::Node,
    resource::{Encoded, NodeConfig, ResourceType},
    yaml,
};
use prost::Message;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

/// A file below the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceFile {
    pub path: PathBuf,
    pub text: String,
}

/// Everything about the files that the mesh does not say.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Where the files will be: Envoy wants paths that do not depend on where it is started.
    pub folder: PathBuf,
    /// Envoy's admin interface.
    pub admin: SocketAddr,
    /// By listener name: where it listens instead.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// The numbers that clusters have in the files before, by [`numbers`]: who keeps its number keeps its file.
    pub numbers: BTreeMap<String, u64>,
}

/// The files, in the order in which they should be replaced: what is referred to first.
///
/// # Errors
/// When a resource cannot be written as JSON, which would be a fault of the translation.
pub fn files(config: &NodeConfig, node: &Node, placement: &Placement) -> Result<Vec<ResourceFile>, JsonError> {
    let descriptors = Descriptors::load()?;
    let mut files = Vec::new();
    let numbers = number(config, &placement.numbers);
    for (name, resource) in config.of(ResourceType::Endpoint) {
        if let Some(number) = numbers.get(&**name) {
            let value = json_of(&descriptors, ResourceType::Endpoint, resource)?;
            files.push(response(endpoints_path(*number), ResourceType::Endpoint, vec![value], [resource]));
        }
    }
    let routes = config.of(ResourceType::Route);
    if routes.len() > 1 {
        for (name, resource) in routes {
            let value = json_of(&descriptors, ResourceType::Route, resource)?;
            files.push(response(routes_path(name), ResourceType::Route, vec![value], [resource]));
        }
    }
    for (file, kind) in [("cds.yaml", ResourceType::Cluster), ("rds.yaml", ResourceType::Route), ("lds.yaml", ResourceType::Listener)] {
        let resources = config.of(kind);
        let mut values = Vec::with_capacity(resources.len());
        for resource in resources.values() {
            let mut value = json_of(&descriptors, kind, resource)?;
            match kind {
                ResourceType::Cluster => follow_endpoints(&mut value, &numbers, placement),
                ResourceType::Listener => place_listener(&mut value, routes.len() > 1, placement),
                _ => {}
            }
            values.push(value);
        }
        files.push(response(file.into(), kind, values, resources.values()));
    }
    let bootstrap = bootstrap(&descriptors, node, placement)?;
    files.push(ResourceFile { path: "envoy.yaml".into(), text: yaml::write(&bootstrap) });
    Ok(files)
}

/// The numbers of the clusters in an earlier `cds.yaml`; none when it says nothing of the kind.
pub fn numbers(clusters: &str) -> BTreeMap<String, u64> {
    let Ok(read) = yaml::read(clusters) else { return BTreeMap::new() };
    let entry = |cluster: &Value| {
        let path = Path::new(cluster.pointer("/eds_cluster_config/eds_config/path_config_source/path")?.as_str()?);
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        Some((cluster["eds_cluster_config"]["service_name"].as_str()?.to_owned(), number))
    };
    read["resources"].as_array().into_iter().flatten().filter_map(entry).collect()
}

/// A number for every endpoint list; a new one gets one that no cluster of the files before had.
fn number(config: &NodeConfig, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut next = before.values().max().map_or(0, |highest| highest.saturating_add(1));
    let names = config.of(ResourceType::Endpoint).keys();
    let number = |name: &std::sync::Arc<str>| {
        let number = before.get(&**name).copied().unwrap_or_else(|| {
            next = next.saturating_add(1);
            next - 1
        });
        (name.to_string(), number)
    };
    names.map(number).collect()
}

fn endpoints_path(number: u64) -> PathBuf {
    format!("eds/{number}.yaml").into()
}

/// Our route configurations are named by ports and words.
fn routes_path(name: &str) -> PathBuf {
    let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    format!("rds/{safe}.yaml").into()
}

fn json_of(descriptors: &Descriptors, kind: ResourceType, resource: &Encoded) -> Result<Value, JsonError> {
    descriptors.any_to_json(kind.type_url(), &resource.body)
}

/// A file as Envoy reads it. Its version is that of what the mesh says, whatever the addresses.
fn response<'a>(path: PathBuf, kind: ResourceType, values: Vec<Value>, of: impl IntoIterator<Item = &'a Encoded>) -> ResourceFile {
    let mut hash = Xxh3::new();
    of.into_iter().for_each(|resource| hash.update(resource.version.as_bytes()));
    let response = json!({ "version_info": format!("{:016x}", hash.digest()), "type_url": kind.type_url(), "resources": values });
    ResourceFile { path, text: yaml::write(&response) }
}

/// "Over ADS" becomes "from this file"; what else the source says stays.
fn to_file(source: &mut Value, path: &Path) {
    if let Some(fields) = source.as_object_mut()
        && fields.remove("ads").is_some()
    {
        fields.insert("path_config_source".to_owned(), json!({ "path": path.to_string_lossy() }));
    }
}

fn follow_endpoints(cluster: &mut Value, numbers: &BTreeMap<String, u64>, placement: &Placement) {
    let number = cluster.pointer("/eds_cluster_config/service_name").and_then(Value::as_str).and_then(|name| numbers.get(name)).copied();
    if let Some((number, source)) = number.zip(cluster.pointer_mut("/eds_cluster_config/eds_config")) {
        to_file(source, &placement.folder.join(endpoints_path(number)));
    }
}

fn place_listener(listener: &mut Value, one_file_each: bool, placement: &Placement) {
    let address = listener["name"].as_str().and_then(|name| placement.addresses.get(name)).copied();
    if let Some((address, socket)) = address.zip(listener.pointer_mut("/address/socket_address")) {
        socket["address"] = address.ip().to_string().into();
        socket["port_value"] = address.port().into();
    }
    let mut chains: Vec<&mut Value> = Vec::new();
    if let Some(fields) = listener.as_object_mut() {
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("filter_chains", Value::Array(list)) => chains.extend(list),
                ("default_filter_chain", chain) => chains.push(chain),
                _ => {}
            }
        }
    }
    for chain in chains {
        for filter in chain["filters"].as_array_mut().into_iter().flatten() {
            let Some(rds) = filter.pointer_mut("/typed_config/rds") else { continue };
            let path = match rds["route_config_name"].as_str() {
                Some(name) if one_file_each => routes_path(name),
                _ => "rds.yaml".into(),
            };
            to_file(&mut rds["config_source"], &placement.folder.join(path));
        }
    }
}

/// What `envoy -c` starts from.
fn bootstrap(descriptors: &Descriptors, node: &Node, placement: &Placement) -> Result<Value, JsonError> {
    let mut wire = node.to_wire();
    // Envoy says itself what it is.
    wire.user_agent_name.clear();
    wire.user_agent_version_type = None;
    let source = |file: &str| json!({ "path_config_source": { "path": placement.folder.join(file).to_string_lossy() }, "resource_api_version": "V3" });
    let admin = json!({ "address": placement.admin.ip().to_string(), "port_value": placement.admin.port() });
    Ok(json!({
        "node": descriptors.to_json("envoy.config.core.v3.Node", &wire.encode_to_vec().into())?,
        "admin": { "address": { "socket_address": admin } },
        "dynamic_resources": { "lds_config": source("lds.yaml"), "cds_config": source("cds.yaml") },
    }))
}
