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

#[cfg(test)]
mod tests {
    use super::super::testing::{labels, object, of};
    use super::*;

    fn peer(namespace: &str, name: &str, spec: &str) -> String {
        object("PeerAuthentication", namespace, name, spec)
    }

    #[test]
    fn the_nearest_peer_authentication_decides_and_unset_inherits() {
        let text = [
            peer("istio-system", "mesh", "{mtls: {mode: STRICT}}"),
            peer("istio-system", "ignored", "{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}"),
            peer("shop", "shop", "{mtls: {mode: PERMISSIVE}}"),
            peer("shop", "later", "{mtls: {mode: DISABLE}}"),
            peer(
                "shop",
                "pay",
                "{selector: {matchLabels: {app: pay}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, 8081: {mode: UNSET}}}",
            ),
            peer("shop", "inherits", "{selector: {matchLabels: {app: unset}}, portLevelMtls: {9000: {mode: STRICT}}}"),
            peer("blank", "blank", "{mtls: {mode: UNSET}}"),
        ];
        let effective = of(&text.concat());
        use MutualTlsMode::*;
        let cases = [
            ("other", "web", 80, Strict),
            ("blank", "web", 80, Strict),
            ("shop", "web", 80, Permissive),
            ("shop", "pay", 80, Strict),
            ("shop", "pay", 8080, Disable),
            ("shop", "pay", 8081, Strict),
            ("shop", "unset", 80, Permissive),
            ("shop", "unset", 9000, Strict),
        ];
        for (namespace, app, port, want) in cases {
            assert_eq!(effective.peer_mode(namespace, &labels(&[("app", app)])).of_port(port), want, "{namespace} {app} {port}");
        }
        assert_eq!(of("").peer_mode("shop", &Labels::new()).mode, Permissive);
    }

    #[test]
    fn policies_of_the_root_namespace_reach_everywhere_by_selector_too() {
        let policy = |namespace: &str, name: &str, app: &str| {
            let selector = if app.is_empty() { String::new() } else { format!("selector: {{matchLabels: {{app: {app}}}}}, ") };
            object("AuthorizationPolicy", namespace, name, &format!("{{{selector}rules: [{{}}]}}"))
        };
        let text = [
            policy("shop", "shop-web", "web"),
            policy("istio-system", "mesh", ""),
            policy("istio-system", "mesh-web", "web"),
            policy("shop", "shop", ""),
            policy("team", "team", ""),
            object("AuthorizationPolicy", "shop", "attached", "{targetRefs: [{kind: Service, name: x}], rules: [{}]}"),
        ];
        let effective = of(&text.concat());
        let names = |namespace: &str, app: &str| {
            effective.authorization_policies(namespace, &labels(&[("app", app)])).iter().map(|p| p.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("shop", "web"), ["mesh", "mesh-web", "shop-web", "shop"]);
        assert_eq!(names("shop", "api"), ["mesh", "shop"]);
        assert_eq!(names("team", "web"), ["mesh", "mesh-web", "team"]);
        assert_eq!(names("istio-system", "x"), ["mesh"]);
    }

    #[test]
    fn one_sidecar_per_workload_and_one_telemetry_per_level() {
        let egress = "egress: [{hosts: ['*/*']}]";
        let text = [
            object("Sidecar", "istio-system", "root", &format!("{{{egress}}}")),
            object("Sidecar", "shop", "all", &format!("{{{egress}}}")),
            object("Sidecar", "shop", "web", &format!("{{workloadSelector: {{labels: {{app: web}}}}, {egress}}}")),
            object("Telemetry", "istio-system", "mesh", "{}"),
            object("Telemetry", "shop", "shop", "{}"),
            object("Telemetry", "shop", "second", "{}"),
            object("Telemetry", "shop", "web", "{selector: {matchLabels: {app: web}}}"),
        ];
        let effective = of(&text.concat());
        let cases = [
            ("shop", "web", "web", vec!["mesh", "shop", "web"]),
            ("shop", "x", "all", vec!["mesh", "shop"]),
            ("team", "x", "root", vec!["mesh"]),
        ];
        for (namespace, app, sidecar, telemetry) in cases {
            let labels = labels(&[("app", app)]);
            assert_eq!(effective.sidecar(namespace, &labels).map(|s| s.name()), Some(sidecar), "{namespace} {app}");
            assert_eq!(
                effective.telemetry(namespace, &labels).iter().map(|t| t.name()).collect::<Vec<_>>(),
                telemetry,
                "{namespace} {app}"
            );
        }
    }

    #[test]
    fn unenforced_protection_is_listed_by_kind() {
        let text = [
            peer("a", "strict", "{mtls: {mode: STRICT}}"),
            peer("a", "loose", "{mtls: {mode: PERMISSIVE}}"),
            peer("b", "port", "{selector: {matchLabels: {app: x}}, portLevelMtls: {80: {mode: STRICT}}}"),
            object("AuthorizationPolicy", "a", "allow", "{rules: [{}]}"),
            object("RequestAuthentication", "a", "jwt", "{jwtRules: [{issuer: x, jwksUri: 'https://example.com/keys'}]}"),
        ];
        let all = unenforced_security(of(&text.concat()).set());
        let names: Vec<_> = all.iter().map(|u| (u.kind, u.name.as_str())).collect();
        let want = [
            (Kind::PeerAuthentication, "strict"),
            (Kind::PeerAuthentication, "port"),
            (Kind::AuthorizationPolicy, "allow"),
            (Kind::RequestAuthentication, "jwt"),
        ];
        assert_eq!(names, want);
    }
}
