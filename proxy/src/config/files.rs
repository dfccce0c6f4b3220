//! Resources from a folder of files, as `pillion translate` writes them and as Envoy reads them.
//!
//! In:  `lds.yaml`, `cds.yaml`, `rds.yaml`, `eds/*.yaml` (each a `DiscoveryResponse` as proto3 JSON in YAML), `envoy.yaml`.
//! Out: [`Folder`]: decoded resources, and what could not be read, each with its reason.
//!
//! The descriptors are loaded for one reading and dropped after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pillion_xds::json::{Descriptors, JsonError, TYPE};
use pillion_xds::node::Node;
use pillion_xds::resource::{Encoded, ResourceType};
use pillion_xds::subscription::{Changed, Decoded, Refusal};
use pillion_xds::wire::envoy::config::bootstrap::v3::Bootstrap;
use pillion_xds::yaml;
use prost::{Message, Name};
use serde_json::{Value, json};

/// The folder of endpoint lists.
pub const ENDPOINTS: &str = "eds";
/// One file for all resources of a type.
pub const WHOLE: [(&str, ResourceType); 3] =
    [("cds.yaml", ResourceType::Cluster), ("lds.yaml", ResourceType::Listener), ("rds.yaml", ResourceType::Route)];
const BOOTSTRAP: &str = "envoy.yaml";

/// What a folder says.
#[derive(Debug, Default)]
pub struct Folder {
    /// Types whose files could all be read; of another type, what is not here is not gone.
    pub whole: Vec<ResourceType>,
    pub resources: BTreeMap<ResourceType, Vec<Changed>>,
    /// Resources that are none, and files that cannot be read (named as files).
    pub refused: BTreeMap<ResourceType, Vec<Refusal>>,
}

/// One reading.
struct Reading<'a> {
    descriptors: &'a Descriptors,
    folder: &'a Path,
    /// Names that are taken.
    names: BTreeSet<(ResourceType, Arc<str>)>,
    found: Folder,
}

/// Reads all of it; takes as long as parsing takes.
///
/// # Errors
/// When the built-in descriptors are broken.
pub fn read(folder: &Path) -> Result<Folder, JsonError> {
    let descriptors = Descriptors::load()?;
    let mut reading = Reading { descriptors: &descriptors, folder, names: BTreeSet::new(), found: Folder::default() };
    for (file, kind) in WHOLE {
        if reading.file(kind, Path::new(file)) {
            reading.found.whole.push(kind);
        }
    }
    // Every file is read, also after one that cannot be.
    let mut whole = true;
    for file in endpoint_files(folder) {
        whole &= reading.file(ResourceType::Endpoint, &file);
    }
    if whole {
        reading.found.whole.push(ResourceType::Endpoint);
    }
    Ok(reading.found)
}

/// By name; a folder that is not there has none.
fn endpoint_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join(ENDPOINTS)).into_iter().flatten().flatten();
    let names = entries.map(|entry| Path::new(ENDPOINTS).join(entry.file_name()));
    let mut names: Vec<PathBuf> = names.filter(|name| name.extension().is_some_and(|extension| extension == "yaml")).collect();
    names.sort();
    names
}

impl Reading<'_> {
    /// Takes a file in; whether it could be read.
    fn file(&mut self, kind: ResourceType, name: &Path) -> bool {
        let values = match resources(&self.folder.join(name), kind) {
            Ok(values) => values,
            Err(reason) => {
                self.refuse(kind, name.to_string_lossy(), reason);
                return false;
            }
        };
        for (at, value) in values.into_iter().enumerate() {
            let called = ["name", "cluster_name", "clusterName"].iter().find_map(|key| value[*key].as_str().map(str::to_owned));
            let called = called.unwrap_or_else(|| format!("{}: resources[{at}]", name.display()));
            match decode(self.descriptors, kind, &called, value) {
                Ok(changed) if !self.names.insert((kind, Arc::clone(&changed.encoded.name))) => {
                    self.refuse(kind, called, format!("{}: another file or entry has it already", name.display()));
                }
                Ok(changed) => self.found.resources.entry(kind).or_default().push(changed),
                Err(reason) => self.refuse(kind, called, reason),
            }
        }
        true
    }

    fn refuse(&mut self, kind: ResourceType, name: impl Into<String>, reason: String) {
        self.found.refused.entry(kind).or_default().push(Refusal::new(name.into(), reason));
    }
}

/// The entries of a `DiscoveryResponse`.
fn resources(path: &Path, kind: ResourceType) -> Result<Vec<Value>, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut response = yaml::read(&text).map_err(|error| error.to_string())?;
    let said = response.get("type_url").or(response.get("typeUrl")).and_then(Value::as_str).map(str::to_owned);
    if let Some(other) = said.filter(|said| *said != kind.type_url()) {
        return Err(format!("type_url is {other:?}, not {:?}", kind.type_url()));
    }
    match response.get_mut("resources").map(Value::take) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => Ok(all),
        Some(_) => Err("resources is no list".to_owned()),
    }
}

fn decode(descriptors: &Descriptors, kind: ResourceType, name: &str, mut value: Value) -> Result<Changed, String> {
    if value[TYPE] != kind.type_url() {
        return Err(format!("`@type` is {}, not {:?}", value[TYPE], kind.type_url()));
    }
    let body = encode(descriptors, value.clone())?;
    let encoded = Encoded::from_bytes(name, body);
    // What a resource takes from another file is in this folder, as if all came over one stream; a dump shows it as it is written.
    let read = if over_stream(&mut value) { Encoded::from_bytes(name, encode(descriptors, value)?) } else { encoded.clone() };
    let message = Decoded::from_encoded(kind, &read).map_err(|error| error.to_string())?;
    Ok(Changed { encoded, message })
}

fn encode(descriptors: &Descriptors, value: Value) -> Result<Bytes, String> {
    descriptors.any_from_json(value).map(|any| any.value).map_err(|error| error.to_string())
}

/// Whether there was a source that is a file.
fn over_stream(value: &mut Value) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().fold(false, |any, item| over_stream(item) | any),
        Value::Object(fields) => fields.iter_mut().fold(false, |any, (key, value)| {
            let is_source = ["eds_config", "edsConfig", "config_source", "configSource"].contains(&key.as_str());
            let from_file = ["path_config_source", "pathConfigSource", "path"].iter().any(|key| value.get(key).is_some());
            if is_source && from_file {
                *value = json!({ "ads": {} });
                return true;
            }
            over_stream(value) | any
        }),
        _ => false,
    }
}

/// What the bootstrap of a stock proxy says that concerns ours.
#[derive(Debug)]
pub struct StockBootstrap {
    pub node: Node,
    pub admin: Option<SocketAddr>,
}

/// Reads `envoy.yaml` in a folder; `None` when there is none.
///
/// # Errors
/// When the folder is none, or the file is there and cannot be used; in a sentence.
pub fn stock_bootstrap(folder: &Path) -> Result<Option<StockBootstrap>, String> {
    if !folder.is_dir() {
        return Err(format!("{}: no such folder; `pillion translate` writes one", folder.display()));
    }
    let path = folder.join(BOOTSTRAP);
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let value = yaml::read(&text).map_err(|error| wrong(error.to_string()))?;
    let descriptors = Descriptors::load().map_err(|error| wrong(error.to_string()))?;
    let body = descriptors.from_json(&Bootstrap::full_name(), value.clone()).map_err(|error| wrong(error.to_string()))?;
    let bootstrap = Bootstrap::decode(body).map_err(|error| wrong(error.to_string()))?;
    let mut node = Node::from_wire(&bootstrap.node.unwrap_or_default());
    node.pillion_version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let socket = value.pointer("/admin/address/socket_address");
    let admin = socket.and_then(|socket| format!("{}:{}", socket["address"].as_str()?, socket["port_value"]).parse().ok());
    Ok(Some(StockBootstrap { node, admin }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(kind: ResourceType, resources: &str) -> String {
        format!("type_url: {}\nresources:\n{resources}", kind.type_url())
    }

    const CLUSTER: &str = "- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: c\n  type: EDS\n  eds_cluster_config: {eds_config: {path_config_source: {path: /x/eds/0.yaml}}}\n";

    #[test]
    fn resources_are_read_one_by_one() {
        let home = tempfile::tempdir().unwrap();
        let bad = "- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: d\n  tpye: EDS\n- {name: e}\n";
        fs::write(home.path().join("cds.yaml"), response(ResourceType::Cluster, &format!("{CLUSTER}{bad}{CLUSTER}"))).unwrap();
        fs::write(home.path().join("lds.yaml"), "resources: [").unwrap();
        fs::create_dir(home.path().join("eds")).unwrap();
        let list = "- '@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: c\n";
        fs::write(home.path().join("eds/0.yaml"), response(ResourceType::Endpoint, list)).unwrap();
        fs::write(home.path().join("eds/0.yaml.fresh"), "half").unwrap();
        let found = read(home.path()).unwrap();
        assert_eq!(found.whole, [ResourceType::Cluster, ResourceType::Endpoint]);
        let clusters = &found.resources[&ResourceType::Cluster];
        let [Changed { encoded, message: Decoded::Cluster(cluster) }] = &clusters[..] else { panic!("{clusters:?}") };
        let source = cluster.eds_cluster_config.as_ref().and_then(|config| config.eds_config.as_ref()).unwrap();
        assert!(format!("{source:?}").contains("Ads("), "{source:?}");
        let kept: pillion_xds::wire::envoy::config::cluster::v3::Cluster = encoded.decode().unwrap();
        assert!(format!("{kept:?}").contains("/x/eds/0.yaml"), "as written");
        let refused = |kind| found.refused[&kind].iter().map(|refusal| format!("{}: {}", refusal.name, refusal.reason)).collect::<Vec<_>>();
        let clusters = refused(ResourceType::Cluster);
        assert!(clusters[0].starts_with("d: ") && clusters[0].contains("tpye"), "{clusters:?}");
        assert!(clusters[1].starts_with("e: `@type` is null"), "{clusters:?}");
        assert_eq!(clusters[2], "c: cds.yaml: another file or entry has it already");
        assert!(refused(ResourceType::Listener)[0].starts_with("lds.yaml: line"));
        assert!(refused(ResourceType::Route)[0].starts_with("rds.yaml: "));
        assert_eq!(found.resources[&ResourceType::Endpoint].len(), 1);
    }

    #[test]
    fn envoys_bootstrap_says_which_node_this_is() {
        let home = tempfile::tempdir().unwrap();
        assert!(stock_bootstrap(home.path()).unwrap().is_none());
        let text = "node: {id: sidecar~127.0.0.1~a-0.shop~shop.svc.cluster.local, metadata: {LABELS: {app: a}}}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: 15100}}}\n";
        fs::write(home.path().join(BOOTSTRAP), text).unwrap();
        let stock = stock_bootstrap(home.path()).unwrap().unwrap();
        assert_eq!((stock.node.instance.as_str(), stock.node.labels["app"].as_str()), ("a-0", "a"));
        assert_eq!(stock.admin, "127.0.0.1:15100".parse().ok());
        fs::write(home.path().join(BOOTSTRAP), "nod: {}").unwrap();
        assert!(stock_bootstrap(home.path()).unwrap_err().contains("envoy.yaml: "));
        assert!(stock_bootstrap(&home.path().join("x")).unwrap_err().contains("no such folder"));
    }
}
