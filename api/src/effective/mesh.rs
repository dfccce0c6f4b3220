//! The mesh's own settings, and the rules that only they decide.
//!
//! In:  ConfigMap `istio` of the root namespace, key `mesh`, or a MeshConfig given by the caller; a route's `retries`.
//! Out: [`Mesh`] with every default filled in, [`RetryPolicy`].

use std::time::Duration;

use crate::host;
use crate::kinds::mesh_config::{MeshConfig, MeshOutboundTrafficPolicyMode};
use crate::kinds::virtual_service::HttpRetry;
use crate::parse::ROOT_NAMESPACE;
use crate::set::ObjectSet;

/// Retries of a route for which neither the route nor the mesh says anything. Source: `route/retry/retry.go`.
pub const DEFAULT_RETRY_ATTEMPTS: u32 = 2;
pub const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// Retries towards the application for which the mesh says nothing.
pub const DEFAULT_INBOUND_RETRY_ON: &str = "reset-before-request";

/// The MeshConfig of a set: ConfigMap `istio` of `istio-system`.
pub(super) fn of_set(set: &ObjectSet) -> MeshConfig {
    set.named::<MeshConfig>(ROOT_NAMESPACE, "istio").map(|item| item.spec.clone()).unwrap_or_default()
}

/// MeshConfig with its defaults.
#[derive(Clone, Debug)]
pub struct Mesh {
    pub config: MeshConfig,
    /// Where selector-less policies are mesh-wide; `istio-system` unless set.
    pub root_namespace: String,
    /// The suffix of cluster hosts, `cluster.local`.
    pub cluster_domain: String,
    /// The trust domain of identities, `cluster.local` unless set.
    pub trust_domain: String,
    /// Requests to unknown hosts are refused (`REGISTRY_ONLY`) rather than passed on.
    pub registry_only: bool,
    /// How long a connection may take to come up when no DestinationRule says; 10 s unless set.
    pub connect_timeout: Duration,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new(MeshConfig::default())
    }
}

impl Mesh {
    pub fn new(config: MeshConfig) -> Self {
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        Self {
            root_namespace: or(&config.root_namespace, ROOT_NAMESPACE),
            cluster_domain: host::CLUSTER_DOMAIN.to_owned(),
            trust_domain: or(&config.trust_domain, "cluster.local"),
            registry_only: config.outbound_traffic_policy.as_ref().is_some_and(|p| p.mode == MeshOutboundTrafficPolicyMode::RegistryOnly),
            connect_timeout: config.connect_timeout.unwrap_or(Duration::from_secs(10)),
            config,
        }
    }

    /// The full name that a host in a rule of `namespace` means.
    pub fn expand(&self, name: &str, namespace: &str) -> String {
        host::expand(name, namespace, &self.cluster_domain)
    }

    /// What a route retries: its own `retries`, else the mesh's `defaultHttpRetryPolicy`, else the built-in policy. `None`: not at all.
    ///
    /// A block without `attempts` means 0 attempts and disables retries; a block without `retryOn` retries on the built-in list.
    pub fn retry_policy(&self, route: Option<&HttpRetry>) -> Option<RetryPolicy> {
        let Some(block) = route.or(self.config.default_http_retry_policy.as_ref()) else {
            return Some(RetryPolicy::built_in());
        };
        let attempts = u32::try_from(block.attempts).ok().filter(|a| *a > 0)?;
        let mut policy =
            RetryPolicy { attempts, per_try_timeout: block.per_try_timeout, backoff: block.backoff, ..RetryPolicy::built_in() };
        policy.remote_localities = block.retry_remote_localities.unwrap_or(false);
        policy.avoid_previous_hosts = block.retry_ignore_previous_hosts.unwrap_or(true);
        if !block.retry_on.trim().is_empty() {
            policy.on(&block.retry_on);
        }
        Some(policy)
    }

    /// What a sidecar tries again towards its own application: the mesh's `defaultInboundHttpRetryPolicy`, else twice what the application
    /// read nothing of. `None`: nothing.
    ///
    /// There is one endpoint, so that only `attempts`, `retryOn` and `backoff` mean anything. Source: Istio's `ConvertInboundPolicy`.
    pub fn inbound_retry_policy(&self) -> Option<RetryPolicy> {
        let attempts = i32::try_from(DEFAULT_RETRY_ATTEMPTS).unwrap_or_default();
        let built_in = || HttpRetry { attempts, ..HttpRetry::default() };
        let mut block = self.config.default_inbound_http_retry_policy.as_ref().map_or_else(built_in, HttpRetry::from);
        if block.retry_on.trim().is_empty() {
            DEFAULT_INBOUND_RETRY_ON.clone_into(&mut block.retry_on);
        }
        let policy = self.retry_policy(Some(&block))?;
        Some(RetryPolicy { avoid_previous_hosts: false, ..policy })
    }
}

/// When and how often a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first try, at least 1.
    pub attempts: u32,
    /// Conditions in Envoy's words, in the order written.
    pub retry_on: Vec<String>,
    /// Status codes that are retried when received.
    pub status_codes: Vec<u32>,
    /// Bounds each try, the first included.
    pub per_try_timeout: Option<Duration>,
    /// Base interval of the exponential back-off; 25 ms when unset.
    pub backoff: Option<Duration>,
    pub remote_localities: bool,
    /// Prefer hosts that were not tried yet.
    pub avoid_previous_hosts: bool,
}

impl RetryPolicy {
    /// What Istio does when nobody says anything.
    pub fn built_in() -> Self {
        let mut policy = Self {
            attempts: DEFAULT_RETRY_ATTEMPTS,
            retry_on: Vec::new(),
            status_codes: Vec::new(),
            per_try_timeout: None,
            backoff: None,
            remote_localities: false,
            avoid_previous_hosts: true,
        };
        policy.on(DEFAULT_RETRY_ON);
        policy
    }

    /// Splits a `retryOn` list: a number with a known reason phrase is a status code, and adds `retriable-status-codes`.
    fn on(&mut self, list: &str) {
        self.retry_on.clear();
        self.status_codes.clear();
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word.parse::<u32>() {
                Ok(code) if (100..600).contains(&code) => self.status_codes.push(code),
                _ => self.retry_on.push(word.to_owned()),
            }
        }
        if !self.status_codes.is_empty() && !self.retries_on("retriable-status-codes") {
            self.retry_on.push("retriable-status-codes".to_owned());
        }
    }

    pub fn retries_on(&self, word: &str) -> bool {
        self.retry_on.iter().any(|w| w == word)
    }

    /// Whether a try that `perTryTimeout` cuts is tried again: only `5xx`, `gateway-error` and `reset` cover that. Source: Envoy's retry state.
    pub fn retries_slow_tries(&self) -> bool {
        ["5xx", "gateway-error", "reset"].iter().any(|word| self.retries_on(word))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::of;
    use super::*;

    fn config(mesh: &str) -> Mesh {
        let indented = mesh.lines().map(|line| format!("    {line}\n")).collect::<String>();
        of(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"))
            .mesh()
            .clone()
    }

    #[test]
    fn settings_have_istios_defaults() {
        let mesh = Mesh::default();
        assert_eq!(
            (mesh.root_namespace.as_str(), mesh.trust_domain.as_str(), mesh.registry_only),
            ("istio-system", "cluster.local", false)
        );
        assert_eq!(mesh.connect_timeout, Duration::from_secs(10));
        let mesh =
            config("rootNamespace: mesh-root\ntrustDomain: shop.example\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\nconnectTimeout: 3s");
        assert_eq!((mesh.root_namespace.as_str(), mesh.trust_domain.as_str(), mesh.registry_only), ("mesh-root", "shop.example", true));
        assert_eq!(mesh.connect_timeout, Duration::from_secs(3));
    }

    #[test]
    fn retries_towards_the_application_are_the_meshs_or_none() {
        let cases = [
            ("rootNamespace: istio-system", Some((2, "reset-before-request", None))),
            ("defaultHttpRetryPolicy: {attempts: 7, retryOn: 5xx}", Some((2, "reset-before-request", None))),
            ("defaultInboundHttpRetryPolicy: {}", None),
            ("defaultInboundHttpRetryPolicy: {attempts: 0}", None),
            ("defaultInboundHttpRetryPolicy: {attempts: 4}", Some((4, "reset-before-request", None))),
            (
                "defaultInboundHttpRetryPolicy: {attempts: 1, retryOn: '503,reset', backoff: 2s, perTryTimeout: 9s, retryRemoteLocalities: true}",
                Some((1, "reset,retriable-status-codes", Some(Duration::from_secs(2)))),
            ),
        ];
        for (mesh, want) in cases {
            let policy = config(mesh).inbound_retry_policy();
            let got = policy.as_ref().map(|policy| (policy.attempts, policy.retry_on.join(","), policy.backoff));
            assert_eq!(got, want.map(|(attempts, on, backoff)| (attempts, on.to_owned(), backoff)), "{mesh}");
            let host_matters = policy.is_some_and(|p| p.avoid_previous_hosts || p.remote_localities || p.per_try_timeout.is_some());
            assert!(!host_matters, "{mesh}");
        }
    }

    #[test]
    fn retries_come_from_the_route_then_the_mesh_then_the_built_in_policy() {
        let (plain, own) = (Mesh::default(), config("defaultHttpRetryPolicy: {attempts: 1, retryOn: reset}"));
        let block = |attempts, retry_on: &str| HttpRetry { attempts, retry_on: retry_on.to_owned(), ..HttpRetry::default() };
        let built_in = &["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"][..];
        type Want<'a> = Option<(u32, &'a [&'a str], &'a [u32], bool)>;
        let cases: [(&str, &Mesh, Option<HttpRetry>, Want<'_>); 7] = [
            ("nothing said", &plain, None, Some((2, built_in, &[], false))),
            ("the mesh", &own, None, Some((1, &["reset"], &[], true))),
            ("the route beats the mesh", &own, Some(block(3, "")), Some((3, built_in, &[], false))),
            ("attempts missing disables", &own, Some(block(0, "5xx")), None),
            ("negative is nothing", &plain, Some(block(-1, "5xx")), None),
            ("codes", &plain, Some(block(1, "503, gateway-error")), Some((1, &["gateway-error", "retriable-status-codes"], &[503], true))),
            ("codes once", &plain, Some(block(1, "retriable-status-codes,429")), Some((1, &["retriable-status-codes"], &[429], false))),
        ];
        for (name, mesh, route, want) in cases {
            let got = mesh.retry_policy(route.as_ref());
            let got = got.as_ref().map(|p| {
                (p.attempts, p.retry_on.iter().map(String::as_str).collect::<Vec<_>>(), p.status_codes.clone(), p.retries_slow_tries())
            });
            assert_eq!(got, want.map(|(attempts, on, codes, slow)| (attempts, on.to_vec(), codes.to_vec(), slow)), "{name}");
        }
    }
}
