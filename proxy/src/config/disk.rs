//! The last good configuration on disk, for a start while the control plane is away.
//!
//! In:  every accepted resource as it came, when the control plane knows this proxy complete.
//! Out: one file, replaced atomically, readable by its owner alone; read back only by the node that wrote it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use pillion_xds::node::Node;
use pillion_xds::resource::{Encoded, ResourceType};
use pillion_xds::subscription::Update;
use pillion_xds::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of the file; the last one counts versions of the layout.
const MAGIC: &[u8; 8] = b"PILLION1";
/// Magic, then a checksum of what follows.
const HEADER_BYTES: usize = 16;
/// The largest file written or read.
pub const MAX_BYTES: u64 = 256 << 20;

const FILE: &str = "last-good-config";

/// Everything accepted, as it came on the wire.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    pub generation: u64,
    pub resources: BTreeMap<ResourceType, BTreeMap<Arc<str>, Encoded>>,
}

/// Why there is nothing to start from.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no configuration: {reason}")]
    Corrupt { path: PathBuf, reason: &'static str },
    #[error("{path} belongs to {owner}")]
    OtherNode { path: PathBuf, owner: String },
}

impl Copy {
    /// Takes an update in, except what was refused.
    pub fn take(&mut self, update: &Update, is_refused: impl Fn(&str) -> bool) {
        let held = self.resources.entry(update.kind).or_default();
        for changed in update.changed.iter().filter(|changed| !is_refused(&changed.encoded.name)) {
            // A copy: the bytes of a small resource would keep the whole response in memory.
            let body = Bytes::copy_from_slice(&changed.encoded.body);
            held.insert(Arc::clone(&changed.encoded.name), Encoded { body, ..changed.encoded.clone() });
        }
        for name in &update.removed {
            held.remove(name);
        }
        self.generation = update.generation.unwrap_or(self.generation);
    }

    /// Keeps only these names of a type: others are followed no more, and nobody says when they change.
    pub fn retain(&mut self, kind: ResourceType, follows: impl Fn(&str) -> bool) {
        if let Some(held) = self.resources.get_mut(&kind) {
            held.retain(|name, _| follows(name));
        }
    }

    fn encode(&self, node: &Node) -> Vec<u8> {
        let mut body = vec![0; HEADER_BYTES];
        let owner = DeltaDiscoveryRequest { node: Some(node.to_wire()), ..DeltaDiscoveryRequest::default() };
        // Encoding into a vector cannot run out of room.
        let _ = owner.encode_length_delimited(&mut body);
        for (kind, resources) in &self.resources {
            let response = DeltaDiscoveryResponse {
                system_version_info: self.generation.to_string(),
                type_url: kind.type_url().to_owned(),
                resources: resources.values().map(|resource| resource.to_resource(*kind)).collect(),
                ..DeltaDiscoveryResponse::default()
            };
            let _ = response.encode_length_delimited(&mut body);
        }
        let checksum = xxh3_64(&body[HEADER_BYTES..]);
        body[..8].copy_from_slice(MAGIC);
        body[8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        body
    }

    fn decode(bytes: Bytes, node: &Node) -> Result<Self, DecodeError> {
        let (Some(header), true) = (bytes.get(..HEADER_BYTES), bytes.starts_with(MAGIC)) else {
            return Err(DecodeError::Corrupt("it begins differently"));
        };
        let checksum = xxh3_64(&bytes[HEADER_BYTES..]).to_le_bytes();
        if header[8..] != checksum {
            return Err(DecodeError::Corrupt("its checksum is wrong"));
        }
        let mut rest = bytes.slice(HEADER_BYTES..);
        let garbled = |_| DecodeError::Corrupt("it cannot be decoded");
        let owner = DeltaDiscoveryRequest::decode_length_delimited(&mut rest).map_err(garbled)?.node.unwrap_or_default();
        let owner = Node::from_wire(&owner);
        if !same_node(&owner, node) {
            return Err(DecodeError::OtherNode(owner.id));
        }
        let mut copy = Self::default();
        while rest.has_remaining() {
            let response = DeltaDiscoveryResponse::decode_length_delimited(&mut rest).map_err(garbled)?;
            let kind = ResourceType::from_type_url(&response.type_url).ok_or(DecodeError::Corrupt("it has a type that is not known"))?;
            copy.generation = response.system_version_info.parse().unwrap_or(0);
            let held = copy.resources.entry(kind).or_default();
            for resource in response.resources {
                let name: Arc<str> = resource.name.into();
                let body = resource.resource.map(|any| any.value).unwrap_or_default();
                held.insert(Arc::clone(&name), Encoded { name, version: resource.version.into(), body });
            }
        }
        Ok(copy)
    }

    /// Replaces the file in this folder, which is made when it is missing.
    ///
    /// # Errors
    /// When the folder or the file cannot be written; the old file then is as it was.
    pub fn write(&self, folder: &Path, node: &Node) -> io::Result<()> {
        let bytes = self.encode(node);
        if bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("{} bytes are more than the limit of {MAX_BYTES}", bytes.len())));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let temporary = folder.join(format!("{FILE}.{}", std::process::id()));
        let written = write_file(&temporary, &bytes).and_then(|()| fs::rename(&temporary, folder.join(FILE)));
        if written.is_err() {
            // What is left over helps nobody; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// What this node wrote. `Ok(None)`: there is nothing.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or was written by a node that sees other resources.
    pub fn read(folder: &Path, node: &Node) -> Result<Option<Self>, ReadError> {
        let path = folder.join(FILE);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ReadError::Io { path, source }),
        }
        match Self::decode(bytes.into(), node) {
            Ok(copy) => Ok(Some(copy)),
            Err(DecodeError::Corrupt(reason)) => Err(ReadError::Corrupt { path, reason }),
            Err(DecodeError::OtherNode(owner)) => Err(ReadError::OtherNode { path, owner }),
        }
    }
}

#[derive(Debug)]
enum DecodeError {
    Corrupt(&'static str),
    OtherNode(String),
}

/// Nodes that see the same resources. A newer version of this program still reads the file.
fn same_node(a: &Node, b: &Node) -> bool {
    let key = |node: &Node| {
        let mut node = node.clone();
        node.pillion_version = None;
        // Where its pages are changes nothing of what it sees.
        node.admin = None;
        node.user_agent_version = String::new();
        node
    };
    key(a) == key(b)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A file left over by a crash may have another owner's mode.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use pillion_xds::wire::envoy::config::cluster::v3::Cluster;

    use super::*;

    fn node(name: &str) -> Node {
        Node::sidecar("127.0.0.1".parse().unwrap(), name, "default")
    }

    fn copy() -> Copy {
        let mut copy = Copy { generation: 7, ..Copy::default() };
        let cluster = Encoded::of(&Cluster { name: "c".into(), ..Cluster::default() });
        copy.resources.entry(ResourceType::Cluster).or_default().insert(Arc::clone(&cluster.name), cluster);
        copy
    }

    #[test]
    fn what_is_written_is_read_by_the_same_node_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        assert!(Copy::read(&folder, &node("a-0")).unwrap().is_none());
        copy().write(&folder, &node("a-0")).unwrap();
        copy().write(&folder, &node("a-0")).unwrap();
        let mut newer = node("a-0");
        newer.pillion_version = Some("99".into());
        let read = Copy::read(&folder, &newer).unwrap().unwrap();
        assert_eq!((read.generation, read.resources), (7, copy().resources));
        let other = Copy::read(&folder, &node("b-0")).unwrap_err();
        assert!(other.to_string().ends_with("belongs to sidecar~127.0.0.1~a-0.default~default.svc.cluster.local"), "{other}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn damage_is_noticed() {
        let good = copy().encode(&node("a-0"));
        let cases: [(&str, Vec<u8>, &str); 4] = [
            ("empty", vec![], "it begins differently"),
            ("cut", good[..good.len() - 1].to_vec(), "its checksum is wrong"),
            ("changed", [&good[..20], b"x", &good[21..]].concat(), "its checksum is wrong"),
            ("other layout", [b"PILLION0", &good[8..]].concat(), "it begins differently"),
        ];
        for (name, bytes, want) in cases {
            match Copy::decode(bytes.into(), &node("a-0")) {
                Err(DecodeError::Corrupt(reason)) => assert_eq!(reason, want, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
