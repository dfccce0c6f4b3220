//! One route: what happens to the requests it takes.
//!
//! In:  a rule of a VirtualService and one of its match entries; the client that follows it.
//! Out: Envoy's route. A destination that does not exist keeps its route, so that the proxy answers 503 `NC`.

use std::collections::BTreeMap;

use pillion_api::{
    effective::{Effective, RetryPolicy, RouteRef},
    kinds::{
        VirtualService,
        virtual_service::{
            Destination, FaultAbort, FaultDelay, HttpDirectResponse, HttpFaultInjection, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute,
            HttpRouteDestination, Percent, RedirectPortSelection,
        },
    },
    set::Of,
};
use pillion_xds::names::ClusterName;

use super::{
    connection_manager::FAULT_FILTER,
    cors,
    headers::Operations,
    route_match::route_match,
    wire::{
        self, Any, any, boolean, core, fault, fault_common, kind, matcher, previous_hosts, previous_priorities, regex,
        route::{
            DirectResponseAction, RedirectAction, Route, RouteAction, WeightedCluster, redirect_action, retry_policy,
            route::Action,
            route_action::{ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy},
            weighted_cluster::{ClusterWeight, cluster_weight},
        },
        uint32,
    },
};

/// How often a retry looks for an endpoint that was not tried yet. Source: `route/retry/retry.go`.
const HOST_SELECTION_ATTEMPTS: i64 = 5;

/// After how many tries `retryRemoteLocalities` looks elsewhere. Source: `route/retry/retry.go`.
const PRIORITY_UPDATES: i32 = 2;

/// Who follows the routes, and on which port.
#[derive(Clone, Copy)]
pub struct Follower<'a> {
    pub effective: &'a Effective,
    /// The client's namespace: it decides which services destinations can mean.
    pub namespace: &'a str,
    /// The service port, or the gateway's.
    pub port: u32,
}

impl Follower<'_> {
    /// Everything to one cluster, as when no VirtualService says otherwise.
    pub fn default_route(&self, cluster: &ClusterName) -> Route {
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_string())),
            retry_policy: self.retry(None),
            ..unbounded()
        };
        Route { name: "default".to_owned(), r#match: Some(wire::every_path()), action: Some(Action::Route(action)), ..Default::default() }
    }

    /// What a [`RouteRef`] means for this client.
    pub fn route(&self, reference: RouteRef) -> Route {
        let (item, rule, condition) = self.effective.route(reference);
        let operations = Operations::new(rule.headers.as_ref());
        let mut route = Route {
            name: match condition.map_or("", |condition| condition.name.as_str()) {
                "" => rule.name.clone(),
                name => format!("{}.{name}", rule.name),
            },
            r#match: Some(route_match(condition)),
            metadata: Some(origin(item)),
            stat_prefix: condition.map(|condition| condition.stat_prefix.clone()).unwrap_or_default(),
            typed_per_filter_config: per_filter(rule),
            request_headers_to_add: operations.request_add,
            request_headers_to_remove: operations.request_remove,
            response_headers_to_add: operations.response_add,
            response_headers_to_remove: operations.response_remove,
            ..Default::default()
        };
        route.action = match (&rule.redirect, &rule.direct_response) {
            (Some(redirect), _) => self.redirect(redirect).map(Action::Redirect),
            (None, Some(response)) => Some(Action::DirectResponse(direct_response(response))),
            (None, None) => Some(Action::Route(self.forward(item, rule, operations.authority, &mut route))),
        };
        // A code that Envoy does not know leaves a route without action; it would refuse the whole table.
        if route.action.is_none() {
            route.action = Some(Action::DirectResponse(DirectResponseAction { status: 500, ..Default::default() }));
        }
        route
    }

    fn forward(&self, item: Of<'_, VirtualService>, rule: &HttpRoute, authority: Option<String>, route: &mut Route) -> RouteAction {
        let mut action = unbounded();
        if let Some(timeout) = rule.timeout {
            action.timeout = Some(wire::duration(timeout));
            #[allow(deprecated)]
            let _ = action.max_grpc_timeout.insert(wire::duration(timeout));
        }
        action.retry_policy = self.retry(rule.retries.as_ref());
        let rewritten = rule.rewrite.as_ref().map(|rewrite| rewrite_path(rewrite, &mut action)).unwrap_or_default();
        action.host_rewrite_specifier = rewritten.or(authority).map(HostRewriteSpecifier::HostRewriteLiteral);
        action.request_mirror_policies = self.mirrors(item, rule);
        match &rule.route[..] {
            [] => action.cluster_specifier = Some(ClusterSpecifier::Cluster(ClusterName::black_hole().to_string())),
            [only] => {
                let operations = Operations::new(only.headers.as_ref());
                route.request_headers_to_add.extend(operations.request_add);
                route.request_headers_to_remove.extend(operations.request_remove);
                route.response_headers_to_add.extend(operations.response_add);
                route.response_headers_to_remove.extend(operations.response_remove);
                if action.host_rewrite_specifier.is_none() {
                    action.host_rewrite_specifier = operations.authority.map(HostRewriteSpecifier::HostRewriteLiteral);
                }
                action.cluster_specifier = Some(ClusterSpecifier::Cluster(self.cluster(item, only.destination.as_ref())));
            }
            several => {
                let weighted: Vec<ClusterWeight> = several.iter().filter(|d| d.weight > 0).map(|d| self.weighted(item, d)).collect();
                action.cluster_specifier = Some(if weighted.is_empty() {
                    ClusterSpecifier::Cluster(ClusterName::black_hole().to_string())
                } else {
                    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: weighted, ..Default::default() })
                });
            }
        }
        action
    }

    /// `mirror` and `mirrors`, those that some request is copied to. The copy keeps its host, as Istio's `DISABLE_SHADOW_HOST_SUFFIX` has it.
    fn mirrors(&self, item: Of<'_, VirtualService>, rule: &HttpRoute) -> Vec<RequestMirrorPolicy> {
        let old = rule.mirror_percent.map(|percent| Percent { value: f64::from(percent) });
        let one = rule.mirror.iter().map(|mirror| (mirror, rule.mirror_percentage.as_ref().or(old.as_ref())));
        let many = rule.mirrors.iter().filter_map(|mirror| Some((mirror.destination.as_ref()?, mirror.percentage.as_ref())));
        let drawn =
            one.chain(many).map(|(destination, percentage)| (destination, wire::per_million(percentage.map_or(100.0, |p| p.value))));
        let policy = |(destination, share): (&Destination, kind::FractionalPercent)| RequestMirrorPolicy {
            cluster: self.cluster(item, Some(destination)),
            runtime_fraction: Some(core::RuntimeFractionalPercent { default_value: Some(share), runtime_key: String::new() }),
            trace_sampled: boolean(false),
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        };
        drawn.filter(|(_, share)| share.numerator > 0).map(policy).collect()
    }

    fn weighted(&self, item: Of<'_, VirtualService>, destination: &HttpRouteDestination) -> ClusterWeight {
        let operations = Operations::new(destination.headers.as_ref());
        ClusterWeight {
            name: self.cluster(item, destination.destination.as_ref()),
            weight: uint32(u32::try_from(destination.weight).unwrap_or(0)),
            request_headers_to_add: operations.request_add,
            request_headers_to_remove: operations.request_remove,
            response_headers_to_add: operations.response_add,
            response_headers_to_remove: operations.response_remove,
            host_rewrite_specifier: operations.authority.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..Default::default()
        }
    }

    /// Without a port: the service's only one, else the one the request arrived on.
    fn cluster(&self, item: Of<'_, VirtualService>, destination: Option<&Destination>) -> String {
        let Some(destination) = destination else { return ClusterName::black_hole().to_string() };
        let host = self.effective.mesh().expand(&destination.host, item.namespace());
        let port = match &destination.port {
            Some(port) => port.number,
            None => {
                let only = self.effective.service(&host, self.namespace).and_then(|service| service.only_port().map(|port| port.number));
                only.unwrap_or(self.port)
            }
        };
        ClusterName::outbound(u16::try_from(port).unwrap_or(0), &destination.subset, &host).to_string()
    }

    /// The route's own retries, else the mesh's, else Istio's two.
    fn retry(&self, own: Option<&HttpRetry>) -> Option<wire::route::RetryPolicy> {
        self.effective.mesh().retry_policy(own).map(|policy| retry_policy_of(&policy))
    }

    /// `None` for a status code that no redirect has.
    fn redirect(&self, redirect: &HttpRedirect) -> Option<RedirectAction> {
        use redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
        let code = match redirect.redirect_code {
            0 | 301 => RedirectResponseCode::MovedPermanently,
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => return None,
        };
        let path = match (redirect.uri.as_str(), redirect.prefix_rewrite.as_str()) {
            ("", "") => None,
            ("", prefix) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.to_owned())),
            (uri, _) => Some(PathRewriteSpecifier::PathRedirect(uri.to_owned())),
        };
        let port = match (redirect.port, redirect.derive_port) {
            (Some(port), _) => port,
            (None, Some(RedirectPortSelection::FromRequestPort)) => self.port,
            (None, _) => 0,
        };
        // The scheme's own port is not written. Source: `ApplyRedirect`.
        let default = if redirect.scheme == "https" { 443 } else { 80 };
        Some(RedirectAction {
            host_redirect: redirect.authority.clone(),
            port_redirect: if port == default { 0 } else { port },
            response_code: code as i32,
            scheme_rewrite_specifier: (!redirect.scheme.is_empty())
                .then(|| SchemeRewriteSpecifier::SchemeRedirect(redirect.scheme.clone())),
            path_rewrite_specifier: path,
            ..Default::default()
        })
    }
}

/// Whether a rule has a destination whose port depends on the service it names.
pub fn asks_services(rule: &HttpRoute) -> bool {
    let routes = rule.route.iter().filter_map(|route| route.destination.as_ref());
    let mirrors = rule.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
    routes.chain(mirrors).chain(&rule.mirror).any(|destination| destination.port.is_none())
}

/// An action without Envoy's default timeout of 15 s; a gRPC client's own deadline counts.
fn unbounded() -> RouteAction {
    #[allow(deprecated)]
    RouteAction { timeout: Some(wire::ZERO), max_grpc_timeout: Some(wire::ZERO), ..Default::default() }
}

/// The object a route comes from, as Istio says it.
fn origin(item: Of<'_, VirtualService>) -> core::Metadata {
    let path = format!("/apis/networking.istio.io/v1/namespaces/{}/virtual-service/{}", item.namespace(), item.name());
    wire::metadata([("istio", wire::object([("config", wire::text(path))]))])
}

/// Sets the path rewrite and returns the new authority, if any. `prefix_rewrite` replaces what the match took: the prefix, or the whole path
/// of an exact or regex match.
fn rewrite_path(rewrite: &HttpRewrite, action: &mut RouteAction) -> Option<String> {
    if let Some(rewrite) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite =
            Some(matcher::RegexMatchAndSubstitute { pattern: Some(regex(&rewrite.r#match)), substitution: rewrite.rewrite.clone() });
    } else if !rewrite.uri.is_empty() {
        action.prefix_rewrite.clone_from(&rewrite.uri);
    }
    (!rewrite.authority.is_empty()).then(|| rewrite.authority.clone())
}

/// In wire form. Without a base interval Envoy's own counts: 25 ms, growing to at most ten times that.
pub fn retry_policy_of(policy: &RetryPolicy) -> wire::route::RetryPolicy {
    let previous_hosts = retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(&previous_hosts::PreviousHostsPredicate {}))),
    };
    let previous_priorities = retry_policy::RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_policy::retry_priority::ConfigType::TypedConfig(any(&previous_priorities::PreviousPrioritiesConfig {
            update_frequency: PRIORITY_UPDATES,
        }))),
    };
    wire::route::RetryPolicy {
        retry_priority: policy.remote_localities.then_some(previous_priorities),
        retry_on: policy.retry_on.join(","),
        num_retries: uint32(policy.attempts),
        per_try_timeout: policy.per_try_timeout.filter(|timeout| !timeout.is_zero()).map(wire::duration),
        retriable_status_codes: policy.status_codes.clone(),
        retry_back_off: policy
            .backoff
            .filter(|base| !base.is_zero())
            .map(|base| retry_policy::RetryBackOff { base_interval: Some(wire::duration(base)), max_interval: None }),
        retry_host_predicate: if policy.avoid_previous_hosts { vec![previous_hosts] } else { Vec::new() },
        host_selection_retry_max_attempts: if policy.avoid_previous_hosts { HOST_SELECTION_ATTEMPTS } else { 0 },
        ..Default::default()
    }
}

fn direct_response(response: &HttpDirectResponse) -> DirectResponseAction {
    use core::data_source::Specifier;
    let body = response.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(bytes)) => Some(Specifier::InlineBytes(bytes.0.clone().into())),
        (None, None) => None,
    });
    DirectResponseAction {
        status: response.status,
        body: body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() }),
        ..Default::default()
    }
}

/// What the route says to filters.
fn per_filter(rule: &HttpRoute) -> BTreeMap<String, Any> {
    let fault = rule.fault.as_ref().and_then(fault_of).map(|fault| (FAULT_FILTER.to_owned(), any(&fault)));
    let cors = rule.cors_policy.as_ref().map(|policy| (cors::FILTER.to_owned(), any(&cors::policy(policy))));
    fault.into_iter().chain(cors).collect()
}

/// `None` when nothing would ever be injected. As in Istio, `exponentialDelay` and `http2Error` are nothing.
fn fault_of(injection: &HttpFaultInjection) -> Option<fault::HttpFault> {
    let delay = injection.delay.as_ref().and_then(delay);
    let abort = injection.abort.as_ref().and_then(abort);
    (delay.is_some() || abort.is_some()).then(|| fault::HttpFault { delay, abort, ..Default::default() })
}

/// No percentage means nobody, in both kinds.
fn share(percentage: Option<&Percent>) -> Option<wire::kind::FractionalPercent> {
    percentage.map(|percent| wire::per_million(percent.value)).filter(|share| share.numerator > 0)
}

fn delay(delay: &FaultDelay) -> Option<fault_common::FaultDelay> {
    let old = Percent { value: f64::from(delay.percent) };
    let percentage = share(delay.percentage.as_ref().or(Some(&old)))?;
    let fixed = delay.fixed_delay.filter(|fixed| !fixed.is_zero())?;
    Some(fault_common::FaultDelay {
        percentage: Some(percentage),
        fault_delay_secifier: Some(fault_common::fault_delay::FaultDelaySecifier::FixedDelay(wire::duration(fixed))),
    })
}

fn abort(abort: &FaultAbort) -> Option<fault::FaultAbort> {
    use fault::fault_abort::ErrorType;
    let percentage = share(abort.percentage.as_ref())?;
    let error = match (abort.http_status, &abort.grpc_status) {
        (Some(status), _) => ErrorType::HttpStatus(u32::try_from(status).ok()?),
        (None, Some(name)) => ErrorType::GrpcStatus(grpc_status(name)?),
        (None, None) => return None,
    };
    Some(fault::FaultAbort { percentage: Some(percentage), error_type: Some(error), ..Default::default() })
}

/// The number of a gRPC status by its upper-case name. Source: gRPC's `codes.proto`.
fn grpc_status(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.iter().position(|known| *known == name).map(|code| code as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_truncated_to_millionths() {
        let cases =
            [(0.1, Some(1_000)), (100.0, Some(1_000_000)), (0.00019, Some(1)), (0.00001, None), (0.0, None), (250.0, Some(1_000_000))];
        for (value, want) in cases {
            assert_eq!(share(Some(&Percent { value })).map(|share| share.numerator), want, "{value}");
        }
        assert_eq!(share(None), None);
    }

    #[test]
    fn grpc_statuses_are_known_by_name() {
        assert_eq!(grpc_status("OK"), Some(0));
        assert_eq!(grpc_status("UNAVAILABLE"), Some(14));
        assert_eq!(grpc_status("unavailable"), None);
    }

    #[test]
    fn a_fault_without_a_share_or_without_an_effect_is_left_out() {
        let abort = FaultAbort { http_status: Some(500), ..Default::default() };
        assert!(fault_of(&HttpFaultInjection { abort: Some(abort), delay: None }).is_none());
        let delay = FaultDelay { percentage: Some(Percent { value: 10.0 }), ..Default::default() };
        assert!(fault_of(&HttpFaultInjection { delay: Some(delay), abort: None }).is_none());
    }
}
