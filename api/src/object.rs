//! An object as read: what it says, and where each of its fields stands.
//!
//! In:  the parser. Out: [`Object`], [`Kind`], [`Spec`].

use std::fmt;
use std::sync::Arc;

use crate::decode::{Decode, Decoder, place};
use crate::finding::Place;
use crate::kinds;
use crate::meta::{Metadata, ObjectRef};
use crate::node::Node;
use crate::path::Path;
use crate::table::{MessageInfo, Status};

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";

macro_rules! kinds {
    ($($kind:ident $accessor:ident $group:expr, [$($version:literal),*], $at_root:literal, $namespaced:literal, $status:expr;)*) => {
        /// Every kind that Pillion reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            /// All of them, in a stable order.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// As YAML calls it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$kind => stringify!($kind),)*
                }
            }

            /// The API group; empty for Kubernetes' core.
            pub fn group(self) -> &'static str {
                match self {
                    $(Kind::$kind => $group,)*
                }
            }

            /// The versions that are accepted; all of them mean the same.
            pub fn versions(self) -> &'static [&'static str] {
                match self {
                    $(Kind::$kind => &[$($version),*],)*
                }
            }

            /// What Pillion does with the kind as a whole.
            pub fn status(self) -> Status {
                match self {
                    $(Kind::$kind => $status,)*
                }
            }

            /// The fields of its body.
            pub fn info(self) -> &'static MessageInfo {
                match self {
                    $(Kind::$kind => kinds::$kind::INFO,)*
                }
            }

            /// Whether its fields stand beside `metadata` rather than under `spec`.
            pub(crate) fn at_root(self) -> bool {
                match self {
                    $(Kind::$kind => $at_root,)*
                }
            }

            /// Whether its objects belong to a namespace.
            pub fn is_namespaced(self) -> bool {
                match self {
                    $(Kind::$kind => $namespaced,)*
                }
            }

            pub(crate) fn decode(self, node: &Node, path: &Path<'_>, cx: &mut Decoder<'_>) -> Option<Spec> {
                match self {
                    $(Kind::$kind => kinds::$kind::decode(node, path, cx).map(|spec| Spec::$kind(Box::new(spec))),)*
                }
            }

            pub(crate) fn empty(self) -> Spec {
                match self {
                    $(Kind::$kind => Spec::$kind(Box::default()),)*
                }
            }
        }

        /// The body of an object.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Spec {
            $($kind(Box<kinds::$kind>),)*
        }

        impl Object {
            $(
                /// The body, when it is of this kind.
                pub fn $accessor(&self) -> Option<&kinds::$kind> {
                    match &self.spec {
                        Spec::$kind(spec) => Some(spec),
                        _ => None,
                    }
                }
            )*
        }
    };
}

// Kind, accessor, group, versions, fields beside `metadata`, has a namespace, status.
kinds! {
    VirtualService virtual_service NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::Enforced;
    DestinationRule destination_rule NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::Enforced;
    Gateway gateway NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::Enforced;
    ServiceEntry service_entry NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::Enforced;
    WorkloadEntry workload_entry NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::Enforced;
    WorkloadGroup workload_group NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::NotYetEnforced;
    Sidecar sidecar NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::Enforced;
    ProxyConfig proxy_config NETWORKING, ["v1", "v1beta1", "v1alpha3"], false, true, Status::NotYetEnforced;
    PeerAuthentication peer_authentication SECURITY, ["v1", "v1beta1"], false, true, Status::NotYetEnforced;
    RequestAuthentication request_authentication SECURITY, ["v1", "v1beta1"], false, true, Status::NotYetEnforced;
    AuthorizationPolicy authorization_policy SECURITY, ["v1", "v1beta1"], false, true, Status::NotYetEnforced;
    Telemetry telemetry TELEMETRY, ["v1", "v1alpha1"], false, true, Status::NotYetEnforced;
    MeshConfig mesh_config "mesh.istio.io", ["v1alpha1"], true, true, Status::Enforced;
    Service service "", ["v1"], false, true, Status::Enforced;
    Namespace namespace "", ["v1"], true, false, Status::Enforced;
    ServiceAccount service_account "", ["v1"], true, true, Status::Enforced;
    Secret secret "", ["v1"], true, true, Status::NotYetEnforced;
    ConfigMap config_map "", ["v1"], true, true, Status::Enforced;
    Deployment deployment "apps", ["v1"], false, true, Status::Enforced;
    Workload workload "pillion.io", ["v1alpha1"], false, true, Status::Enforced;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kind {
    /// The kind called `name` in the API group `group`.
    pub fn find(group: &str, name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.as_str() == name && kind.group() == group)
    }

    /// The kind called `name`, whatever its group.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// One object of a text.
#[derive(Clone, Debug)]
pub struct Object {
    pub api_version: String,
    pub kind: Kind,
    pub meta: Metadata,
    pub spec: Spec,
    /// The whole object as written; the mesh configuration itself for a MeshConfig.
    pub node: Arc<Node>,
    /// As the user gave it.
    pub file: Arc<str>,
    /// Position among the objects of the file, from 0. With the path of the file it says who is "older".
    pub document_index: usize,
    /// Something of it could not be read; it can never be valid.
    pub(crate) broken: bool,
    /// Paths of what could not be read.
    pub(crate) unread: Vec<String>,
}

impl Object {
    /// Its identity.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef { kind: self.kind, namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// Where the field at `path` stands, such as `spec.http[0].route[1].weight`; its nearest parent when it is not written.
    pub fn place(&self, path: &str) -> Place {
        place(&self.file, self.node.find(path).span())
    }

    /// Whether the field at `path` is written, be it with a zero value.
    pub fn has(&self, path: &str) -> bool {
        let found = self.node.find(path);
        found.complete && !found.node.is_null()
    }

    /// Whether it could be read completely; only then it can be valid.
    pub fn is_readable(&self) -> bool {
        !self.broken
    }
}
