//! Which security, telemetry and Sidecar objects are in force for a workload.
//!
//! In:  an [`Effective`], a workload's namespace and labels.
//! Out: the mutual TLS mode and its origin, the policies in force, and what of all this is not enforced yet.

use std::collections::BTreeMap;

use super::Effective;
use super::selector::{Scoped, labels_of};
use crate::finding::Place;
use crate::kinds::authorization_policy::AuthorizationPolicy;
use crate::kinds::peer_authentication::{MutualTlsMode, PeerAuthentication};
use crate::kinds::request_authentication::RequestAuthentication;
use crate::kinds::sidecar::Sidecar;
use crate::kinds::telemetry::Telemetry;
use crate::meta::Labels;
use crate::object::Kind;
use crate::set::{ObjectSet, Of, OfKind};

impl Scoped for PeerAuthentication {
    fn selector(&self) -> Option<&Labels> {
        labels_of(self.selector.as_ref())
    }
}

impl Scoped for AuthorizationPolicy {
    fn selector(&self) -> Option<&Labels> {
        labels_of(self.selector.as_ref())
    }
    fn is_attached(&self) -> bool {
        !self.target_refs.is_empty() || self.target_ref.is_some()
    }
}

impl Scoped for RequestAuthentication {
    fn selector(&self) -> Option<&Labels> {
        labels_of(self.selector.as_ref())
    }
    fn is_attached(&self) -> bool {
        !self.target_refs.is_empty() || self.target_ref.is_some()
    }
}

impl Scoped for Telemetry {
    fn selector(&self) -> Option<&Labels> {
        labels_of(self.selector.as_ref())
    }
    fn is_attached(&self) -> bool {
        !self.target_refs.is_empty() || self.target_ref.is_some()
    }
}

impl Scoped for Sidecar {
    fn selector(&self) -> Option<&Labels> {
        self.workload_selector.as_ref().map(|s| &s.labels).filter(|labels| !labels.is_empty())
    }
}

/// How a workload's inbound side treats plaintext and TLS, per port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMode {
    /// Never `Unset`.
    pub mode: MutualTlsMode,
    /// Workload (container) ports with a mode of their own; never `Unset`.
    pub ports: BTreeMap<u32, MutualTlsMode>,
}

impl PeerMode {
    pub fn of_port(&self, port: u32) -> MutualTlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

impl Effective {
    /// The mode of a workload: its own policy, else the namespace's, else the mesh's, else PERMISSIVE; `UNSET` inherits. The oldest policy of
    /// each level counts. `portLevelMtls` is read from the winning workload policy only. A selector in the root namespace selects nothing.
    pub fn peer_mode(&self, namespace: &str, labels: &Labels) -> PeerMode {
        let (set, scopes, root) = (self.set(), self.peer_scopes(), self.mesh().root_namespace.as_str());
        let mode = |policy: Option<Of<'_, PeerAuthentication>>| {
            policy.and_then(|p| p.spec.mtls.as_ref()).map(|m| m.mode).filter(|m| *m != MutualTlsMode::Unset)
        };
        let workload = if namespace == root { None } else { scopes.selecting::<PeerAuthentication>(set, namespace, labels).next() };
        let resolved = mode(workload)
            .or_else(|| mode(scopes.general(set, namespace).next()))
            .or_else(|| mode(scopes.general(set, root).next()))
            .unwrap_or(MutualTlsMode::Permissive);
        let ports = workload.map(|policy| &policy.spec.port_level_mtls).into_iter().flatten();
        let ports = ports.map(|(port, tls)| (*port, if tls.mode == MutualTlsMode::Unset { resolved } else { tls.mode })).collect();
        PeerMode { mode: resolved, ports }
    }

    /// Every AuthorizationPolicy in force for a workload: mesh-wide ones (root namespace; their selectors reach all namespaces), then its namespace's.
    pub fn authorization_policies<'a>(&'a self, namespace: &str, labels: &'a Labels) -> Vec<Of<'a, AuthorizationPolicy>> {
        self.authorization_scopes().all(self.set(), &self.mesh().root_namespace, namespace, labels)
    }

    /// Every RequestAuthentication in force for a workload, as [`Effective::authorization_policies`].
    pub fn request_authentications<'a>(&'a self, namespace: &str, labels: &'a Labels) -> Vec<Of<'a, RequestAuthentication>> {
        self.request_scopes().all(self.set(), &self.mesh().root_namespace, namespace, labels)
    }

    /// The Telemetry objects in force for a workload in the order in which they apply: mesh, namespace, workload; the oldest of each level.
    pub fn telemetry<'a>(&'a self, namespace: &str, labels: &'a Labels) -> Vec<Of<'a, Telemetry>> {
        let (set, scopes, root) = (self.set(), self.telemetry_scopes(), self.mesh().root_namespace.as_str());
        let mesh = scopes.general(set, root).next();
        let of_namespace = if namespace == root { None } else { scopes.general(set, namespace).next() };
        let workload = scopes.selecting(set, namespace, labels).chain(scopes.selecting(set, root, labels)).next();
        [mesh, of_namespace, workload].into_iter().flatten().collect()
    }

    /// The one Sidecar object of a workload: by selector, else the namespace's, else the root namespace's; the oldest of equals.
    pub fn sidecar<'a>(&'a self, namespace: &str, labels: &'a Labels) -> Option<Of<'a, Sidecar>> {
        let (set, scopes) = (self.set(), self.sidecar_scopes());
        let selected = scopes.selecting(set, namespace, labels).next();
        selected.or_else(|| scopes.general(set, namespace).next()).or_else(|| scopes.general(set, &self.mesh().root_namespace).next())
    }
}

/// A security object that this version accepts and does not enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unenforced {
    /// `PeerAuthentication`, `AuthorizationPolicy` or `RequestAuthentication`.
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub place: Place,
    /// What would be refused if it were enforced.
    pub consequence: &'static str,
}

/// Every security object whose protection people may believe in and do not get: PeerAuthentication with STRICT anywhere, any
/// AuthorizationPolicy, any RequestAuthentication. Oldest first within each kind.
pub fn unenforced_security(set: &ObjectSet) -> Vec<Unenforced> {
    fn entry<T: OfKind>(item: Of<'_, T>, consequence: &'static str) -> Unenforced {
        let place = item.object.place("metadata.name");
        Unenforced { kind: T::KIND, namespace: item.namespace().to_owned(), name: item.name().to_owned(), place, consequence }
    }
    let strict = set.of::<PeerAuthentication>().filter(|item| {
        let ports = item.spec.port_level_mtls.values();
        item.spec.mtls.iter().chain(ports).any(|tls| tls.mode == MutualTlsMode::Strict)
    });
    let mut all: Vec<Unenforced> = strict.map(|item| entry(item, "plaintext is accepted")).collect();
    all.extend(set.of::<AuthorizationPolicy>().map(|item| entry(item, "every caller is let through")));
    all.extend(set.of::<RequestAuthentication>().map(|item| entry(item, "tokens are not checked")));
    all
}
