//! Routes within the rules of gRPC's libraries.
//!
//! In:  a virtual host as a stock Envoy gets it.
//! Out: the same virtual host in the words gRPC reads (A28, A31, A33, A44), with equal meaning as far as there is one. Everything else is
//!      left out, so that no later field can make a library refuse the table.

use std::collections::BTreeMap;

use crate::translate::{
    connection_manager::FAULT_FILTER,
    wire::{
        self, Any,
        matcher::{self, string_matcher::MatchPattern},
        route::{
            HeaderMatcher, RetryPolicy, Route, RouteAction, RouteMatch, VirtualHost, WeightedCluster,
            header_matcher::HeaderMatchSpecifier,
            route::Action,
            route_action::{ClusterSpecifier, MaxStreamDuration},
            weighted_cluster::ClusterWeight,
        },
    },
};

/// What every call has, whoever makes it; the library does not show these to route matches.
const OF_EVERY_CALL: [(&str, &str); 2] = [(":method", "POST"), (":scheme", "http")];
/// A route becomes at most this many; see [`alternatives`].
const MOST_ALTERNATIVES: usize = 16;

/// Rewrites the routes of a virtual host.
pub fn restrict(host: &mut VirtualHost) {
    let routes = std::mem::take(&mut host.routes);
    *host = VirtualHost {
        name: std::mem::take(&mut host.name),
        domains: std::mem::take(&mut host.domains),
        routes: routes.into_iter().flat_map(route).collect(),
        typed_per_filter_config: faults(std::mem::take(&mut host.typed_per_filter_config)),
        ..Default::default()
    };
}

/// None when no call can match; several when one match cannot say it.
fn route(route: Route) -> Vec<Route> {
    let Some(condition) = route.r#match.and_then(condition) else { return Vec::new() };
    let restricted = Route {
        name: route.name,
        metadata: route.metadata,
        action: route.action.map(action),
        typed_per_filter_config: faults(route.typed_per_filter_config),
        ..Default::default()
    };
    alternatives(condition).into_iter().map(|condition| Route { r#match: Some(condition), ..restricted.clone() }).collect()
}

/// A call has no query, and its method and scheme are known.
fn condition(condition: RouteMatch) -> Option<RouteMatch> {
    if !condition.query_parameters.is_empty() {
        return None;
    }
    let mut headers = Vec::with_capacity(condition.headers.len());
    for header in condition.headers {
        match OF_EVERY_CALL.iter().find(|(name, _)| *name == header.name) {
            None => headers.push(header),
            Some((_, value)) if !holds(&header, value) => return None,
            Some(_) => {}
        }
    }
    Some(RouteMatch {
        path_specifier: condition.path_specifier,
        case_sensitive: condition.case_sensitive,
        runtime_fraction: condition.runtime_fraction,
        headers,
        ..Default::default()
    })
}

/// In gRPC a missing header satisfies no comparison, not even an inverted one, so "not this value" is two routes: the header is missing,
/// or it has another value.
fn alternatives(condition: RouteMatch) -> Vec<RouteMatch> {
    let mut all = vec![RouteMatch { headers: Vec::new(), ..condition.clone() }];
    for mut header in condition.headers {
        let may_miss = std::mem::take(&mut header.treat_missing_header_as_empty) && holds(&header, "");
        if may_miss && all.len() * 2 <= MOST_ALTERNATIVES {
            let missing = HeaderMatcher {
                name: header.name.clone(),
                invert_match: true,
                header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
                ..Default::default()
            };
            let mut without = all.clone();
            without.iter_mut().for_each(|condition| condition.headers.push(missing.clone()));
            all.iter_mut().for_each(|condition| condition.headers.push(header.clone()));
            all.splice(0..0, without);
        } else {
            all.iter_mut().for_each(|condition| condition.headers.push(header.clone()));
        }
    }
    all
}

/// Whether a header of this value satisfies the condition. An expression that cannot be read satisfies nothing.
fn holds(header: &HeaderMatcher, value: &str) -> bool {
    let matches = match &header.header_match_specifier {
        None => true,
        Some(HeaderMatchSpecifier::PresentMatch(wanted)) => *wanted,
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => compares(matcher, value),
        Some(_) => false,
    };
    matches != header.invert_match
}

fn compares(matcher: &matcher::StringMatcher, value: &str) -> bool {
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) => text == value,
        Some(MatchPattern::Prefix(text)) => value.starts_with(text.as_str()),
        Some(MatchPattern::SafeRegex(wanted)) => {
            regex::Regex::new(&format!("^(?:{})$", wanted.regex)).is_ok_and(|regex| regex.is_match(value))
        }
        _ => false,
    }
}

/// Redirects and direct responses stay: a call that meets one fails, as it must.
fn action(action: Action) -> Action {
    match action {
        Action::Route(action) => Action::Route(forward(action)),
        other => other,
    }
}

fn forward(action: RouteAction) -> RouteAction {
    RouteAction {
        cluster_specifier: action.cluster_specifier.map(clusters),
        // The only timeout that gRPC reads (A31); zero is none. Source: Istio's `setTimeout`.
        max_stream_duration: Some(MaxStreamDuration {
            max_stream_duration: Some(action.timeout.unwrap_or(wire::ZERO)),
            ..Default::default()
        }),
        retry_policy: action.retry_policy.map(retry),
        hash_policy: action.hash_policy,
        ..Default::default()
    }
}

fn clusters(specifier: ClusterSpecifier) -> ClusterSpecifier {
    match specifier {
        ClusterSpecifier::WeightedClusters(weighted) => {
            let one = |cluster: ClusterWeight| ClusterWeight {
                name: cluster.name,
                weight: cluster.weight,
                typed_per_filter_config: faults(cluster.typed_per_filter_config),
                ..Default::default()
            };
            ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: weighted.clusters.into_iter().map(one).collect(),
                ..Default::default()
            })
        }
        other => other,
    }
}

/// Of the conditions gRPC takes those that are statuses of its own, and passes over the rest (A44).
fn retry(policy: RetryPolicy) -> RetryPolicy {
    RetryPolicy { retry_on: policy.retry_on, num_retries: policy.num_retries, retry_back_off: policy.retry_back_off, ..Default::default() }
}

/// A filter that is not known makes the table refused.
fn faults(mut filters: BTreeMap<String, Any>) -> BTreeMap<String, Any> {
    filters.retain(|name, _| name == FAULT_FILTER);
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, pattern: MatchPattern) -> HeaderMatcher {
        let matcher = matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() };
        HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
            ..Default::default()
        }
    }

    fn exact(name: &str, value: &str) -> HeaderMatcher {
        text(name, MatchPattern::Exact(value.to_owned()))
    }

    fn without(header: HeaderMatcher) -> HeaderMatcher {
        HeaderMatcher { invert_match: true, treat_missing_header_as_empty: true, ..header }
    }

    fn made(headers: Vec<HeaderMatcher>) -> Vec<Vec<HeaderMatcher>> {
        let one = Route { r#match: Some(RouteMatch { headers, ..wire::every_path() }), ..Default::default() };
        route(one).into_iter().map(|route| route.r#match.unwrap_or_default().headers).collect()
    }

    #[test]
    fn method_and_scheme_are_decided_here() {
        let regex = |pattern: &str| text(":method", MatchPattern::SafeRegex(wire::regex(pattern)));
        let cases = [
            ("POST", exact(":method", "POST"), true),
            ("GET", exact(":method", "GET"), false),
            ("P…", text(":method", MatchPattern::Prefix("P".to_owned())), true),
            ("GET or POST", regex("GET|POST"), true),
            ("a part of it", regex("POS"), false),
            ("https", exact(":scheme", "https"), false),
            ("not GET", without(exact(":method", "GET")), true),
        ];
        for (name, header, reachable) in cases {
            let want: Vec<Vec<HeaderMatcher>> = if reachable { vec![Vec::new()] } else { Vec::new() };
            assert_eq!(made(vec![header]), want, "{name}");
        }
    }

    #[test]
    fn a_condition_on_the_query_is_never_met() {
        let condition = RouteMatch { query_parameters: vec![Default::default()], ..wire::every_path() };
        assert!(route(Route { r#match: Some(condition), ..Default::default() }).is_empty());
    }

    #[test]
    fn a_header_that_must_not_have_a_value_may_be_missing() {
        let routes = made(vec![exact("a", "1"), without(exact("b", "2"))]);
        let [missing, other] = &routes[..] else { panic!("{routes:?}") };
        assert_eq!(missing[0], exact("a", "1"));
        assert_eq!(missing[1].header_match_specifier, Some(HeaderMatchSpecifier::PresentMatch(true)));
        assert!(missing[1].invert_match);
        assert_eq!(other[1], HeaderMatcher { invert_match: true, ..exact("b", "2") });
        // Nothing starts otherwise than with nothing.
        assert_eq!(made(vec![without(text("b", MatchPattern::Prefix(String::new())))]).len(), 1);
        let many = (0..100).map(|n| without(exact(&format!("h{n}"), "x"))).collect();
        assert_eq!(made(many).len(), MOST_ALTERNATIVES);
    }

    #[test]
    fn only_what_grpc_reads_is_left() {
        let action = RouteAction {
            timeout: Some(wire::duration(std::time::Duration::from_secs(3))),
            prefix_rewrite: "/b".to_owned(),
            cluster_specifier: Some(ClusterSpecifier::Cluster("c".to_owned())),
            ..Default::default()
        };
        let filters = [FAULT_FILTER, "envoy.filters.http.cors"].map(|name| (name.to_owned(), Any::default()));
        let mut host = VirtualHost {
            routes: vec![Route {
                r#match: Some(wire::every_path()),
                action: Some(Action::Route(action)),
                typed_per_filter_config: filters.into(),
                ..Default::default()
            }],
            include_request_attempt_count: true,
            ..Default::default()
        };
        restrict(&mut host);
        let [route] = &host.routes[..] else { panic!("{host:?}") };
        assert!(route.typed_per_filter_config.keys().eq([FAULT_FILTER]));
        let Some(Action::Route(action)) = &route.action else { panic!("{route:?}") };
        let longest = action.max_stream_duration.as_ref().and_then(|longest| longest.max_stream_duration);
        assert_eq!((longest.map(|longest| longest.seconds), action.timeout, action.prefix_rewrite.as_str()), (Some(3), None, ""));
        assert!(!host.include_request_attempt_count);
    }
}
