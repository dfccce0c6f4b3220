//! Every rule of precedence, scope, `exportTo` and conflict, in one place: translation and analysis both ask here, so their answers cannot differ.
//!
//! In:  an [`ObjectSet`] and, where given, a MeshConfig. No I/O, no clock.
//! Out: [`Effective`], which answers who sees what, who wins, and what is left after layering. Built once per generation, in time linear in the
//! objects; each answer costs a few hash lookups.

mod address;
mod delegates;
mod destination_rules;
mod mesh;
mod protocol;
mod security;
mod selector;
mod services;
mod sidecars;
mod virtual_services;
mod visibility;
mod workloads;

use std::sync::Arc;

pub use delegates::{Lost, LostWhy, Merged};
pub use destination_rules::{MergedRule, MergedSubset, Policy};
pub use mesh::{DEFAULT_RETRY_ATTEMPTS, DEFAULT_RETRY_ON, Mesh, RetryPolicy};
pub use protocol::Protocol;
pub use security::{PeerMode, Unenforced, unenforced_security};
pub use selector::Scoped;
pub use services::{MeshService, Resolution, ServiceEndpoint, ServicePort, Source, TargetPort};
pub use sidecars::{EgressHosts, EgressListener, Import, SidecarScope};
pub use virtual_services::{GatewayHost, MESH, RouteClient, RouteRef, applies, gateway_name, gateways, intersection, is_catch_all};
pub use visibility::{ExportTo, Reach};
pub use workloads::{DEFAULT_GATEWAY, ResolvedWorkload, WorkloadPort, deployment_of, resolve};

use crate::kinds::authorization_policy::AuthorizationPolicy;
use crate::kinds::mesh_config::MeshConfig;
use crate::kinds::peer_authentication::PeerAuthentication;
use crate::kinds::request_authentication::RequestAuthentication;
use crate::kinds::sidecar::Sidecar;
use crate::kinds::telemetry::Telemetry;
pub use crate::meta::{Labels, selects};
use crate::set::ObjectSet;
use selector::Scopes;

/// The answers for one generation. Immutable; a clone is one reference count.
#[derive(Clone, Debug)]
pub struct Effective(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: ObjectSet,
    mesh: Mesh,
    services: services::Services,
    routes: virtual_services::VirtualServices,
    rules: destination_rules::DestinationRules,
    peers: Scopes,
    authorization: Scopes,
    requests: Scopes,
    telemetry: Scopes,
    sidecars: Scopes,
    workloads: Vec<workloads::ResolvedWorkload>,
}

impl Effective {
    /// Builds every index. `mesh`: MeshConfig given outside the set (`--mesh-config`); otherwise ConfigMap `istio` of namespace `istio-system`, key
    /// `mesh`, counts.
    pub fn new(set: ObjectSet, mesh: Option<MeshConfig>) -> Self {
        Self::in_domain(set, mesh, crate::host::CLUSTER_DOMAIN)
    }

    /// As [`Effective::new`], for a cluster whose services are called `name.namespace.svc.<domain>`.
    pub fn in_domain(set: ObjectSet, mesh: Option<MeshConfig>, domain: &str) -> Self {
        let mesh = Mesh { cluster_domain: domain.to_owned(), ..Mesh::new(mesh.unwrap_or_else(|| mesh::of_set(&set))) };
        let inner = Inner {
            services: services::Services::new(&set, &mesh),
            routes: virtual_services::VirtualServices::new(&set, &mesh),
            rules: destination_rules::DestinationRules::new(&set, &mesh),
            peers: Scopes::new::<PeerAuthentication>(&set),
            authorization: Scopes::new::<AuthorizationPolicy>(&set),
            requests: Scopes::new::<RequestAuthentication>(&set),
            telemetry: Scopes::new::<Telemetry>(&set),
            sidecars: Scopes::new::<Sidecar>(&set),
            workloads: workloads::resolve_all(&set, &mesh.root_namespace),
            mesh,
            set,
        };
        Self(Arc::new(inner))
    }

    pub fn set(&self) -> &ObjectSet {
        &self.0.set
    }

    /// MeshConfig with its defaults.
    pub fn mesh(&self) -> &Mesh {
        &self.0.mesh
    }

    /// Every service, sorted by host, then by age.
    pub fn services(&self) -> &[Arc<MeshService>] {
        &self.0.services.all
    }

    /// The services that clients in a namespace see (`exportTo`), one per host, sorted by host: of several of one host the client's own namespace's,
    /// else the oldest.
    pub fn services_for(&self, client_namespace: &str) -> Vec<&Arc<MeshService>> {
        let mut seen: Vec<&Arc<MeshService>> = Vec::with_capacity(self.services().len());
        for service in self.services() {
            if seen.last().is_none_or(|last| last.host != service.host)
                && let Some(chosen) = self.0.services.exact(&service.host, client_namespace)
            {
                seen.push(chosen);
            }
        }
        seen
    }

    /// The service of exactly this host (normal form) for a client; `None` when it is unknown or not exported to the client.
    pub fn service(&self, host: &str, client_namespace: &str) -> Option<&Arc<MeshService>> {
        self.0.services.exact(host, client_namespace)
    }

    /// As [`Effective::service`], else the service of the most specific wildcard host that stands for it.
    pub fn service_for_host(&self, host: &str, client_namespace: &str) -> Option<&Arc<MeshService>> {
        self.0.services.lookup(host, client_namespace)
    }

    /// Some service that this host means, whoever may see it.
    pub fn any_service(&self, host: &str) -> Option<&Arc<MeshService>> {
        self.0.services.any(host)
    }

    /// Whether a VirtualService host (exact or wildcard) stands for a service of the registry.
    pub(crate) fn covers_service(&self, pattern: &str) -> bool {
        self.0.services.covered_by(pattern)
    }

    /// Every DestinationRule after merging, in no order.
    pub fn merged_rules(&self) -> impl Iterator<Item = &Arc<MergedRule>> {
        self.0.rules.all()
    }

    /// The merged rules of one namespace whose host stands for `host` (normal form), most specific first.
    pub fn rules_of<'a>(&'a self, namespace: &str, host: &'a str) -> impl Iterator<Item = &'a Arc<MergedRule>> {
        self.0.rules.of_namespace(namespace, host)
    }

    fn routes(&self) -> &virtual_services::VirtualServices {
        &self.0.routes
    }

    fn rules(&self) -> &destination_rules::DestinationRules {
        &self.0.rules
    }

    fn peer_scopes(&self) -> &Scopes {
        &self.0.peers
    }

    fn authorization_scopes(&self) -> &Scopes {
        &self.0.authorization
    }

    fn request_scopes(&self) -> &Scopes {
        &self.0.requests
    }

    fn telemetry_scopes(&self) -> &Scopes {
        &self.0.telemetry
    }

    fn sidecar_scopes(&self) -> &Scopes {
        &self.0.sidecars
    }

    fn resolved_workloads(&self) -> &[workloads::ResolvedWorkload] {
        &self.0.workloads
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::parse::parse;
    use crate::validate::validate;

    /// What is in force for the objects of some files; every object has to be valid.
    pub(crate) fn of_files(files: &[(&str, &str)]) -> Effective {
        let mut valid = Vec::new();
        for (file, text) in files {
            let parsed = parse(file, text);
            for object in parsed.objects {
                let name = object.reference();
                let (object, findings) = validate(object);
                valid.push(Arc::new(object.unwrap_or_else(|| panic!("{name}: {findings:?} {:?}", parsed.findings))));
            }
        }
        let (set, duplicates) = ObjectSet::new(valid);
        assert!(duplicates.is_empty(), "{duplicates:?}");
        Effective::new(set, None)
    }

    pub(crate) fn of(text: &str) -> Effective {
        of_files(&[("a.yaml", text)])
    }

    pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// One networking object, its spec in flow style.
    pub(crate) fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
        let group = match kind {
            "Service" | "ServiceAccount" => "v1",
            "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "security.istio.io/v1",
            "Telemetry" => "telemetry.istio.io/v1",
            "Deployment" => "apps/v1",
            "Workload" => "pillion.io/v1alpha1",
            _ => "networking.istio.io/v1",
        };
        format!("---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n")
    }
}
