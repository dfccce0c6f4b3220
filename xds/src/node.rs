//! Who is at the other end of a stream: the node id and metadata a proxy sends.
//!
//! In:  a wire `Node` of anyone (bounded, never refused), or the settings of our own proxy.
//! Out: [`Node`], typed; and its wire form.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::wire::{
    envoy::config::core::v3::{Node as WireNode, node::UserAgentVersionType},
    google::protobuf::{Struct, Value, value::Kind},
};

/// The longest node id kept, in bytes; a longer one is cut.
pub const MAX_ID_BYTES: usize = 512;
/// The longest metadata value kept, in bytes; a longer one counts as missing.
pub const MAX_VALUE_BYTES: usize = 512;
/// The most labels kept, in the order of their keys.
pub const MAX_LABELS: usize = 128;

/// The namespace of whoever names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What a proxy is for; the first part of its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Beside a workload; also anything whose id says nothing.
    #[default]
    Sidecar,
    /// A gateway.
    Router,
}

/// How connections come to the proxy. Source: Istio's `INTERCEPTION_MODE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum InterceptionMode {
    /// Explicit: clients name the proxy.
    None,
    /// Captured: redirected, with original destination. Istio's default. `TPROXY` counts as this.
    #[default]
    Redirect,
}

/// Everything we read of a node. Equal nodes see equal resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Node {
    /// `sidecar~<ip>~<instance>.<namespace>~<namespace>.svc.cluster.local`, or whatever a stranger calls itself.
    pub id: String,
    /// `Node.cluster`: the service cluster, informational.
    pub cluster: String,
    pub role: Role,
    /// From the id; `None` when it has none.
    pub ip: Option<IpAddr>,
    /// The replica's name, e.g. `product-v1-0`: metadata `NAME`, else from the id; may be empty.
    pub instance: String,
    /// Metadata `NAMESPACE`, else from the id, else `default`.
    pub namespace: String,
    /// `LABELS`.
    pub labels: BTreeMap<String, String>,
    /// `SERVICE_ACCOUNT`, else `default`.
    pub service_account: String,
    /// `WORKLOAD_NAME`; may be empty.
    pub workload: String,
    /// `CLUSTER_ID`, else `Kubernetes`.
    pub cluster_id: String,
    /// `MESH_ID`; may be empty.
    pub mesh_id: String,
    /// `INTERCEPTION_MODE`; when missing, `NONE` if there is an `HTTP_PROXY_PORT`.
    pub interception_mode: InterceptionMode,
    /// `HTTP_PROXY_PORT`: where the explicit mode listens.
    pub http_proxy_port: Option<u16>,
    /// `PILLION_ADMIN`: where the admin pages of our own proxy are, on the loopback of its machine.
    pub admin: Option<SocketAddr>,
    /// `PILLION_VERSION`: only our own proxy sends it.
    pub pillion_version: Option<String>,
    /// `user_agent_name`: `envoy`, `pillion`, `gRPC Go`, ….
    pub user_agent: String,
    pub user_agent_version: String,
    /// `GENERATOR`: `grpc` for a gRPC client with Istio's bootstrap.
    pub generator: String,
}

impl Node {
    /// A sidecar of our own, with the defaults of the wire contract; the caller fills in labels and the rest.
    pub fn sidecar(ip: IpAddr, instance: &str, namespace: &str) -> Self {
        Self::own(Role::Sidecar, ip, instance, namespace)
    }

    /// A gateway of our own.
    pub fn router(ip: IpAddr, instance: &str, namespace: &str) -> Self {
        Self::own(Role::Router, ip, instance, namespace)
    }

    fn own(role: Role, ip: IpAddr, instance: &str, namespace: &str) -> Self {
        Self {
            id: format!("{role}~{ip}~{instance}.{namespace}~{namespace}.svc.cluster.local"),
            role,
            ip: Some(ip),
            instance: instance.to_owned(),
            namespace: namespace.to_owned(),
            service_account: "default".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            pillion_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            user_agent: "pillion".to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }

    /// Whether this is our own proxy: only then VHDS, NDS, unbound listeners and CONNECT.
    pub fn is_pillion(&self) -> bool {
        self.pillion_version.is_some()
    }

    /// Whether this is a gRPC application without a proxy: it says so, or its library does (`gRPC C-core …`, `gRPC Go`, `grpc-java`).
    pub fn is_grpc(&self) -> bool {
        let library = || self.user_agent.starts_with("gRPC") || self.user_agent.starts_with("grpc-");
        !self.is_pillion() && (self.generator == "grpc" || library())
    }

    pub fn is_router(&self) -> bool {
        self.role == Role::Router
    }

    /// Explicit mode: clients name the proxy.
    pub fn is_explicit(&self) -> bool {
        self.interception_mode == InterceptionMode::None
    }

    /// Reads what anyone sends. Nothing is refused: what is missing, too long or of the wrong type gets its default.
    pub fn from_wire(wire: &WireNode) -> Self {
        let metadata = Metadata(wire.metadata.as_ref());
        let id = cut(&wire.id, MAX_ID_BYTES);
        let IdParts { role, ip, instance, namespace } = IdParts::of(id);
        let http_proxy_port = metadata.port("HTTP_PROXY_PORT");
        let interception_mode = match metadata.text("INTERCEPTION_MODE") {
            Some("NONE") => InterceptionMode::None,
            None if http_proxy_port.is_some() => InterceptionMode::None,
            Some(_) | None => InterceptionMode::Redirect,
        };
        Self {
            role,
            ip,
            instance: metadata.text("NAME").unwrap_or(instance).to_owned(),
            namespace: metadata.text("NAMESPACE").unwrap_or(namespace).to_owned(),
            labels: metadata.labels(),
            service_account: metadata.text("SERVICE_ACCOUNT").unwrap_or("default").to_owned(),
            workload: metadata.text("WORKLOAD_NAME").unwrap_or_default().to_owned(),
            cluster_id: metadata.text("CLUSTER_ID").unwrap_or("Kubernetes").to_owned(),
            mesh_id: metadata.text("MESH_ID").unwrap_or_default().to_owned(),
            interception_mode,
            http_proxy_port,
            admin: metadata.text("PILLION_ADMIN").and_then(|address| address.parse().ok()),
            pillion_version: metadata.text("PILLION_VERSION").map(str::to_owned),
            user_agent: cut(&wire.user_agent_name, MAX_VALUE_BYTES).to_owned(),
            user_agent_version: user_agent_version(wire),
            generator: metadata.text("GENERATOR").unwrap_or_default().to_owned(),
            cluster: cut(&wire.cluster, MAX_VALUE_BYTES).to_owned(),
            id: id.to_owned(),
        }
    }

    /// The wire form; [`Self::from_wire`] reads back an equal node.
    pub fn to_wire(&self) -> WireNode {
        let mut fields = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                fields.insert(key.to_owned(), text(value));
            }
        };
        put("NAME", &self.instance);
        put("NAMESPACE", &self.namespace);
        put("SERVICE_ACCOUNT", &self.service_account);
        put("WORKLOAD_NAME", &self.workload);
        put("CLUSTER_ID", &self.cluster_id);
        put("MESH_ID", &self.mesh_id);
        put("GENERATOR", &self.generator);
        put("PILLION_VERSION", self.pillion_version.as_deref().unwrap_or_default());
        put("PILLION_ADMIN", &self.admin.map(|address| address.to_string()).unwrap_or_default());
        put("HTTP_PROXY_PORT", &self.http_proxy_port.map(|port| port.to_string()).unwrap_or_default());
        put("INTERCEPTION_MODE", if self.is_explicit() { "NONE" } else { "REDIRECT" });
        if !self.labels.is_empty() {
            let labels = self.labels.iter().map(|(key, value)| (key.clone(), text(value))).collect();
            fields.insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) });
        }
        WireNode {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: Some(Struct { fields }),
            user_agent_name: self.user_agent.clone(),
            user_agent_version_type: (!self.user_agent_version.is_empty())
                .then(|| UserAgentVersionType::UserAgentVersion(self.user_agent_version.clone())),
            ..WireNode::default()
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        })
    }
}

/// The parts of `role~ip~instance.namespace~domain`; of any other id only defaults.
struct IdParts<'a> {
    role: Role,
    ip: Option<IpAddr>,
    instance: &'a str,
    namespace: &'a str,
}

impl<'a> IdParts<'a> {
    fn of(id: &'a str) -> Self {
        let mut parts = id.splitn(4, '~');
        let unknown = IdParts { role: Role::Sidecar, ip: None, instance: "", namespace: DEFAULT_NAMESPACE };
        let (Some(role), Some(ip), Some(name), Some(_domain)) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return unknown;
        };
        // A namespace has no dot, an instance may.
        let (instance, namespace) =
            name.rsplit_once('.').filter(|(_, namespace)| !namespace.is_empty()).unwrap_or((name, DEFAULT_NAMESPACE));
        let role = if role == "router" { Role::Router } else { Role::Sidecar };
        IdParts { role, ip: ip.parse().ok(), instance, namespace }
    }
}

/// Bounded reading of a metadata struct.
struct Metadata<'a>(Option<&'a Struct>);

impl<'a> Metadata<'a> {
    fn kind(&self, key: &str) -> Option<&'a Kind> {
        self.0?.fields.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        match self.kind(key)? {
            Kind::StringValue(text) if !text.is_empty() && text.len() <= MAX_VALUE_BYTES => Some(text),
            _ => None,
        }
    }

    /// A port as text (Istio writes all values so) or as a number.
    fn port(&self, key: &str) -> Option<u16> {
        let port = match self.kind(key)? {
            Kind::StringValue(text) => text.parse().ok()?,
            Kind::NumberValue(number) if number.fract() == 0.0 && (1.0..=65535.0).contains(number) => *number as u16,
            _ => return None,
        };
        (port != 0).then_some(port)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let Some(Kind::StructValue(labels)) = self.kind("LABELS") else { return BTreeMap::new() };
        let texts = labels.fields.iter().filter_map(|(key, value)| match &value.kind {
            Some(Kind::StringValue(text)) if key.len() <= MAX_VALUE_BYTES && text.len() <= MAX_VALUE_BYTES => {
                Some((key.clone(), text.clone()))
            }
            _ => None,
        });
        texts.take(MAX_LABELS).collect()
    }
}

fn user_agent_version(wire: &WireNode) -> String {
    match &wire.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => cut(version, MAX_VALUE_BYTES).to_owned(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(version) => format!("{}.{}.{}", version.major_number, version.minor_number, version.patch),
            None => String::new(),
        },
        None => String::new(),
    }
}

/// At most `limit` bytes, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Node {
        let mut node = Node::sidecar("127.0.0.1".parse().unwrap(), "product-v1-0", "shop");
        node.labels = [("app", "product"), ("version", "v1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        node.service_account = "product".into();
        node.workload = "product-v1".into();
        node.interception_mode = InterceptionMode::None;
        node.http_proxy_port = Some(15001);
        node.admin = "127.0.0.1:15000".parse().ok();
        node.cluster = "product.shop".into();
        node
    }

    #[test]
    fn our_node_comes_back_from_the_wire_as_it_was() {
        for node in [ours(), Node::router("10.0.0.1".parse().unwrap(), "gw-0", "istio-system")] {
            assert_eq!(Node::from_wire(&node.to_wire()), node);
            assert!(node.is_pillion() && !node.is_grpc());
        }
        assert_eq!(ours().id, "sidecar~127.0.0.1~product-v1-0.shop~shop.svc.cluster.local");
    }

    #[test]
    fn strangers_get_defaults() {
        let long = "x".repeat(5000);
        for id in ["", "envoy-1", "~~~", "a~b~c~d", "sidecar~~.~", long.as_str(), &"é".repeat(400)] {
            let node = Node::from_wire(&WireNode { id: id.into(), ..WireNode::default() });
            assert_eq!((node.namespace.as_str(), node.role, node.is_pillion()), ("default", Role::Sidecar, false), "{id}");
            assert_eq!(node.interception_mode, InterceptionMode::Redirect);
            assert!(node.id.len() <= MAX_ID_BYTES && id.starts_with(&node.id));
        }
    }

    #[test]
    fn an_istio_id_says_role_address_instance_and_namespace() {
        let id = "router~10.1.2.3~my.gateway-0.istio-system~istio-system.svc.cluster.local";
        let node = Node::from_wire(&WireNode { id: id.into(), ..WireNode::default() });
        assert_eq!((node.role, node.ip), (Role::Router, Some("10.1.2.3".parse().unwrap())));
        assert_eq!((node.instance.as_str(), node.namespace.as_str()), ("my.gateway-0", "istio-system"));
    }

    #[test]
    fn metadata_of_wrong_types_or_sizes_counts_as_missing() {
        let mut wire = ours().to_wire();
        let fields = &mut wire.metadata.as_mut().unwrap().fields;
        fields.insert("SERVICE_ACCOUNT".into(), Value { kind: Some(Kind::NumberValue(1.0)) });
        fields.insert("WORKLOAD_NAME".into(), text(&"x".repeat(MAX_VALUE_BYTES + 1)));
        fields.insert("HTTP_PROXY_PORT".into(), text("70000"));
        fields.insert("LABELS".into(), text("no struct"));
        let node = Node::from_wire(&wire);
        assert_eq!((node.service_account.as_str(), node.workload.as_str()), ("default", ""));
        assert_eq!((node.http_proxy_port, node.labels.len()), (None, 0));
        let many = (0..1000).map(|n| (format!("l{n:04}"), text("v"))).collect();
        let labels = Value { kind: Some(Kind::StructValue(Struct { fields: many })) };
        wire.metadata.as_mut().unwrap().fields.insert("LABELS".into(), labels);
        assert_eq!(Node::from_wire(&wire).labels.len(), MAX_LABELS);
    }

    #[test]
    fn a_proxy_port_without_a_mode_means_explicit() {
        for (mode, want) in [(None, true), (Some("REDIRECT"), false), (Some("TPROXY"), false), (Some("NONE"), true)] {
            let mut wire = ours().to_wire();
            let fields = &mut wire.metadata.as_mut().unwrap().fields;
            fields.remove("INTERCEPTION_MODE");
            if let Some(mode) = mode {
                fields.insert("INTERCEPTION_MODE".into(), text(mode));
            }
            assert_eq!(Node::from_wire(&wire).is_explicit(), want, "{mode:?}");
        }
    }

    #[test]
    fn grpc_clients_are_known_by_generator_or_user_agent() {
        for (generator, agent, want) in [("grpc", "", true), ("", "gRPC C-core Linux", true), ("", "grpc-java", true), ("", "envoy", false)]
        {
            let node = Node { generator: generator.into(), user_agent: agent.into(), ..Node::default() };
            assert_eq!(node.is_grpc(), want);
        }
    }
}
