//! Routes, virtual hosts, and how they come together.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pillion_proxy::config::route_table::{
    ClusterChoice, CorsList, FaultAbort, Forward, Fraction, GrpcTimeout, HostRewrite, PathMatch, PathRewrite, RedirectPath, RedirectScheme,
    RetryOn, Route, RouteAction, RouteTable,
};
use pillion_proxy::config::{OutboundPolicy, RuntimeConfig};
use pillion_xds::resource::pack;
use pillion_xds::wire::envoy::config::core::v3 as core;
use pillion_xds::wire::envoy::config::route::v3 as wire;
use pillion_xds::wire::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use pillion_xds::wire::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use pillion_xds::wire::envoy::extensions::filters::http::fault::v3::{self as fault, HttpFault};
use pillion_xds::wire::envoy::r#type::matcher::v3 as matcher;
use pillion_xds::wire::envoy::r#type::v3::FractionalPercent;
use wire::route_action::RequestMirrorPolicy as MirrorPolicy;
use wire::route_match::PathSpecifier;

use super::wire::*;

const FAULT: &str = "envoy.filters.http.fault";

/// A compiler whose listener follows route configuration `r`.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.accept(&[http_listener("l", "127.0.0.1:1", &manager("r"))]);
    bench
}

fn table(config: &RuntimeConfig) -> Arc<RouteTable> {
    Arc::clone(config.routes.get("r").unwrap())
}

fn compile(route: wire::Route) -> Arc<Route> {
    let mut bench = bench();
    bench.accept(&[inline_routes("r", vec![host("h", &["*"], vec![route])])]);
    Arc::clone(&table(&bench.config()).virtual_hosts[0].routes[0])
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn refused(route: wire::Route) -> String {
    let mut bench = bench();
    let verdict = bench.take(&[inline_routes("r", vec![host("h", &["*"], vec![route])])], &[]);
    let reason = verdict.refused.first().map(|refusal| refusal.reason.clone()).unwrap_or_else(|| panic!("accepted"));
    reason.strip_prefix("virtual_hosts[0].routes[0].").unwrap_or(&reason).to_owned()
}

fn rewrite(substitution: &str) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute { pattern: Some(regex("/(a)")), substitution: substitution.into() }
}

fn matching(specifier: PathSpecifier) -> wire::Route {
    let matches = wire::RouteMatch { path_specifier: Some(specifier), ..Default::default() };
    wire::Route { r#match: Some(matches), ..route_of(forward_to("c")) }
}

fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.into(), ..Default::default() }
}

#[test]
fn paths_compile_to_what_they_match() {
    let cases = [
        (PathSpecifier::Prefix(String::new()), "Prefix(\"\")"),
        (PathSpecifier::Prefix("/".into()), "Any"),
        (PathSpecifier::Prefix("/a".into()), "Prefix(\"/a\")"),
        (PathSpecifier::Path("/A".into()), "Exact(\"/A\")"),
        (PathSpecifier::PathSeparatedPrefix("/a".into()), "SegmentPrefix(\"/a\")"),
        (PathSpecifier::SafeRegex(regex("/a/.*")), "Regex(Regex(\"^(?:/a/.*)$\"))"),
        (PathSpecifier::ConnectMatcher(Default::default()), "Connect"),
    ];
    for (specifier, want) in cases {
        assert_eq!(format!("{:?}", compile(matching(specifier)).matches.path), want);
    }
    let mut insensitive = matching(PathSpecifier::Path("/A".into()));
    insensitive.r#match.as_mut().unwrap().case_sensitive = Some(Default::default());
    let compiled = compile(insensitive);
    assert!(matches!(&compiled.matches.path, PathMatch::Exact(path) if &**path == "/a"));
}

#[test]
fn an_action_has_envoys_defaults_and_the_resources_values() {
    let plain = compile(route_of(forward_to("c")));
    let plain = forward(&plain);
    assert_eq!((plain.timeout, plain.grpc_timeout), (Some(Duration::from_secs(15)), GrpcTimeout::Ignore));
    assert!(plain.retry.is_none() && plain.idle_timeout.is_none());
    assert_eq!(plain.cluster_not_found, StatusCode::SERVICE_UNAVAILABLE);
    let full = compile(route_of(wire::RouteAction {
        timeout: seconds(0),
        idle_timeout: seconds(0),
        max_grpc_timeout: seconds(0),
        prefix_rewrite: "/v2".into(),
        host_rewrite_specifier: Some(wire::route_action::HostRewriteSpecifier::HostRewriteLiteral("other".into())),
        upgrade_configs: vec![wire::route_action::UpgradeConfig { upgrade_type: "WebSocket".into(), ..Default::default() }],
        ..forward_to("c")
    }));
    let full = forward(&full);
    assert_eq!((full.timeout, full.idle_timeout, full.grpc_timeout), (None, Some(None), GrpcTimeout::Uncapped));
    assert!(matches!(&full.path, PathRewrite::Prefix(prefix) if &**prefix == "/v2"));
    assert_eq!(full.host, HostRewrite::Literal(http::HeaderValue::from_static("other")));
    assert_eq!(full.upgrades, [("websocket".into(), true)]);
}

#[test]
fn mirrors_keep_their_share_and_those_without_any_are_left_out() {
    let mirror = |cluster: &str, numerator| MirrorPolicy {
        cluster: cluster.into(),
        runtime_fraction: Some(core::RuntimeFractionalPercent {
            default_value: Some(FractionalPercent { numerator, ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let compiled = compile(route_of(wire::RouteAction {
        request_mirror_policies: vec![
            MirrorPolicy { cluster: "all".into(), ..Default::default() },
            MirrorPolicy { disable_shadow_host_suffix_append: true, ..mirror("some", 5) },
            mirror("none", 0),
            MirrorPolicy { host_rewrite_literal: "h".into(), ..mirror("host", 100) },
        ],
        ..forward_to("c")
    }));
    let got = forward(&compiled).mirrors.iter().map(|m| (m.cluster.as_str(), m.share.numerator, m.shadow_host, m.host.is_some()));
    assert_eq!(got.collect::<Vec<_>>(), [("all", 100, true, false), ("some", 5, false, false), ("host", 100, false, true)]);
}

#[test]
fn a_cors_policy_fills_its_gaps_from_the_virtual_hosts() {
    let policy = |policy: CorsPolicy| [("envoy.filters.http.cors".to_owned(), pack(&policy))].into();
    let origin =
        matcher::StringMatcher { match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(".*"))), ..Default::default() };
    let route = wire::Route {
        typed_per_filter_config: policy(CorsPolicy {
            allow_methods: "*".into(),
            forward_not_matching_preflights: Some(Default::default()),
            ..Default::default()
        }),
        ..route_of(forward_to("c"))
    };
    let host = wire::VirtualHost {
        name: "h".into(),
        domains: vec!["*".into()],
        routes: vec![route, route_of(forward_to("c"))],
        typed_per_filter_config: policy(CorsPolicy {
            allow_origin_string_match: vec![origin],
            allow_methods: "GET".into(),
            allow_headers: "x-a".into(),
            allow_credentials: yes(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut bench = bench();
    bench.accept(&[inline_routes("r", vec![host])]);
    let compiled = table(&bench.config());
    let got = compiled.virtual_hosts[0].routes.iter().map(|route| {
        let cors = route.cors.as_ref().unwrap();
        (cors.any_origin, cors.methods.clone(), cors.headers.clone(), cors.credentials, cors.forward_unmatched)
    });
    let fixed = |text: &'static str| CorsList::Fixed(http::HeaderValue::from_static(text));
    assert_eq!(
        got.collect::<Vec<_>>(),
        [(true, CorsList::Asked, fixed("x-a"), true, false), (true, fixed("GET"), fixed("x-a"), true, true)]
    );
}

#[test]
fn weights_are_running_sums() {
    let cluster =
        |name: &str, weight| wire::weighted_cluster::ClusterWeight { name: name.into(), weight: number(weight), ..Default::default() };
    let weighted = |weights: &[u32]| wire::RouteAction {
        cluster_specifier: Some(wire::route_action::ClusterSpecifier::WeightedClusters(wire::WeightedCluster {
            clusters: weights.iter().map(|weight| cluster("c", *weight)).collect(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let compiled = compile(route_of(weighted(&[90, 0, 10])));
    let ClusterChoice::Weighted(clusters) = &forward(&compiled).cluster else { panic!("one cluster") };
    assert_eq!((clusters.entries.iter().map(|entry| entry.up_to).collect::<Vec<_>>(), clusters.total), (vec![90, 90, 100], 100));
    let want = "route.weighted_clusters.clusters: the sum of weights is 0, not within 1 and 4294967295";
    assert_eq!(refused(route_of(weighted(&[0, 0]))), want);
}

#[test]
fn retries_compile_with_their_conditions() {
    let policy = wire::RetryPolicy {
        retry_on: "connect-failure,unavailable,retriable-status-codes".into(),
        num_retries: number(2),
        retriable_status_codes: vec![503],
        per_try_timeout: seconds(2),
        retry_host_predicate: vec![wire::retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            ..Default::default()
        }],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    };
    let compiled = compile(route_of(wire::RouteAction { retry_policy: Some(policy.clone()), ..forward_to("c") }));
    let retry = forward(&compiled).retry.as_ref().unwrap();
    assert_eq!(retry.on, RetryOn::CONNECT_FAILURE.and(RetryOn::GRPC_UNAVAILABLE).and(RetryOn::RETRIABLE_STATUS_CODES));
    assert_eq!((retry.retries, &*retry.status_codes, retry.host_selection_attempts), (2, &[503][..], 5));
    assert_eq!((retry.per_try_timeout, retry.back_off_base), (Some(Duration::from_secs(2)), Duration::from_millis(25)));
    assert!(retry.avoid_previous_hosts);
    let none = wire::RetryPolicy { num_retries: number(0), per_try_timeout: None, ..policy.clone() };
    assert!(forward(&compile(route_of(wire::RouteAction { retry_policy: Some(none), ..forward_to("c") }))).retry.is_none());
    // A virtual host's policy is for routes that have none.
    let mut bench = bench();
    let host = wire::VirtualHost { retry_policy: Some(policy), ..host("h", &["*"], vec![route_of(forward_to("c"))]) };
    bench.accept(&[inline_routes("r", vec![host])]);
    assert!(forward(&table(&bench.config()).virtual_hosts[0].routes[0]).retry.is_some());
}

#[test]
fn redirects_and_direct_responses_compile() {
    let redirect = wire::RedirectAction {
        host_redirect: "new.example.com".into(),
        port_redirect: 8443,
        response_code: 4,
        scheme_rewrite_specifier: Some(wire::redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)),
        path_rewrite_specifier: Some(wire::redirect_action::PathRewriteSpecifier::PathRedirect("/new".into())),
        ..Default::default()
    };
    let compiled = compile(wire::Route { action: Some(wire::route::Action::Redirect(redirect)), ..route_of(forward_to("c")) });
    let RouteAction::Redirect(redirect) = &compiled.action else { panic!("no redirect") };
    assert_eq!((redirect.scheme, redirect.port, redirect.status.as_u16()), (Some(RedirectScheme::Https), Some(8443), 308));
    assert!(matches!(&redirect.path, RedirectPath::Whole(path) if &**path == "/new"));
    let direct = |status, body: usize| {
        let specifier = Some(core::data_source::Specifier::InlineString("x".repeat(body)));
        let body = Some(core::DataSource { specifier, ..Default::default() });
        let action = wire::DirectResponseAction { status, body, ..Default::default() };
        wire::Route { action: Some(wire::route::Action::DirectResponse(action)), ..route_of(forward_to("c")) }
    };
    let compiled = compile(direct(418, 3));
    assert!(matches!(&compiled.action, RouteAction::Direct(direct) if direct.status == 418 && direct.body == "xxx"));
    assert_eq!(refused(direct(99, 0)), "direct_response.status: 99 is not within 200 and 599");
    assert_eq!(refused(direct(200, (1 << 20) + 1)), "direct_response.body: 1048577 bytes are more than the limit of 1048576");
}

#[test]
fn faults_come_from_the_route_or_its_virtual_host() {
    let share = |numerator, denominator| Some(FractionalPercent { numerator, denominator });
    let wire_fault = HttpFault {
        delay: Some(FaultDelay {
            percentage: share(10, 0),
            fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(seconds(5).unwrap())),
        }),
        abort: Some(fault::FaultAbort {
            percentage: share(5, 2),
            error_type: Some(fault::fault_abort::ErrorType::HttpStatus(503)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let wrapped = wire::FilterConfig { config: Some(pack(&wire_fault)), ..Default::default() };
    for any in [pack(&wire_fault), pack(&wrapped)] {
        let route = wire::Route { typed_per_filter_config: [(FAULT.to_owned(), any.clone())].into(), ..route_of(forward_to("c")) };
        let compiled = compile(route);
        let fault = compiled.fault.as_ref().unwrap();
        assert_eq!(fault.delay, Some((Fraction { numerator: 10, denominator: 100 }, Duration::from_secs(5))));
        let abort = (Fraction { numerator: 5, denominator: 1_000_000 }, FaultAbort::Http(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(fault.abort, Some(abort));
        let mut bench = bench();
        let host = wire::VirtualHost {
            typed_per_filter_config: [(FAULT.to_owned(), any)].into(),
            ..host("h", &["*"], vec![route_of(forward_to("c"))])
        };
        bench.accept(&[inline_routes("r", vec![host])]);
        assert!(table(&bench.config()).virtual_hosts[0].routes[0].fault.is_some());
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_its_field() {
    let action = |change: fn(&mut wire::RouteAction)| {
        let mut action = forward_to("c");
        change(&mut action);
        route_of(action)
    };
    let header = |key: &str, value: &str| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        ..Default::default()
    };
    let other = [("envoy.filters.http.ext_proc".to_owned(), pack(&CorsPolicy::default()))].into();
    let cases = [
        (wire::Route { r#match: None, ..route_of(forward_to("c")) }, "match: is missing"),
        (matching(PathSpecifier::SafeRegex(regex("("))), "match.safe_regex.regex: \"(\" is no expression: unclosed group"),
        (
            matching(PathSpecifier::PathSeparatedPrefix("a/".into())),
            "match.path_separated_prefix: begins with '/' and does not end with it",
        ),
        (action(|a| a.cluster_specifier = None), "route: has no cluster"),
        (action(|a| a.request_mirror_policies = vec![Default::default()]), "route.request_mirror_policies[0].cluster: has 1 to 1024 bytes"),
        (
            action(|a| a.request_mirror_policies = vec![MirrorPolicy { cluster_header: "x".into(), ..Default::default() }]),
            "route.request_mirror_policies[0].cluster_header: is not supported",
        ),
        (
            action(|a| a.regex_rewrite = Some(rewrite(r"/\2"))),
            r#"route.regex_rewrite.substitution: "/\\2" names no group of the expression"#,
        ),
        (action(|a| a.cors = Some(Default::default())), "route.cors: is not supported"),
        (action(|a| a.metadata_match = Some(Default::default())), "route.metadata_match: is not supported"),
        (
            action(|a| a.host_rewrite_specifier = Some(wire::route_action::HostRewriteSpecifier::AutoHostRewrite(yes().unwrap()))),
            "route.auto_host_rewrite: is not supported",
        ),
        (
            action(|a| {
                a.prefix_rewrite = "/a".into();
                a.path_rewrite = "/b".into();
            }),
            "route: only one of prefix_rewrite, regex_rewrite, path_rewrite may be set",
        ),
        (
            action(|a| {
                a.retry_policy = Some(wire::RetryPolicy {
                    retry_on: "5xx".into(),
                    retry_host_predicate: vec![wire::retry_policy::RetryHostPredicate { name: "x".into(), ..Default::default() }],
                    ..Default::default()
                })
            }),
            "route.retry_policy.retry_host_predicate[0]: x is not supported",
        ),
        (
            wire::Route { typed_per_filter_config: other, ..route_of(forward_to("c")) },
            "typed_per_filter_config[\"envoy.filters.http.ext_proc\"]: is not supported",
        ),
        (
            wire::Route { request_headers_to_add: vec![header("x y", "1")], ..route_of(forward_to("c")) },
            "request_headers_to_add[0].header.key: \"x y\" is no header name",
        ),
        (
            wire::Route { request_headers_to_remove: vec![":path".into()], ..route_of(forward_to("c")) },
            "request_headers_to_remove[0]: :path cannot be added or removed here",
        ),
        (
            wire::Route { response_headers_to_add: vec![header("x", "%NOPE%")], ..route_of(forward_to("c")) },
            "response_headers_to_add[0].header.value: operator %NOPE% is not supported in header values",
        ),
    ];
    for (route, want) in cases {
        assert_eq!(refused(route), want);
    }
    let hosts = [
        (wire::VirtualHost { require_tls: 2, ..host("h", &["*"], vec![]) }, "virtual_hosts[0].require_tls: is not supported"),
        (host("h", &[], vec![]), "virtual_hosts[0].domains: has 1 to 100000"),
        (host("h", &[""], vec![]), "virtual_hosts[0].domains[0]: has 1 to 512 bytes"),
    ];
    for (host, want) in hosts {
        assert_eq!(refusal(inline_routes("r", vec![host])), want);
    }
}

#[test]
fn virtual_hosts_come_by_themselves_and_keep_their_arc() {
    let mut bench = bench();
    // Before the configuration that they belong to, and for another one.
    bench.take_hosts("r", &[host("a:80", &["a"], vec![])], &[]);
    bench.take_hosts("other", &[host("a:80", &["a"], vec![])], &[]);
    bench.accept(&[vhds_routes("r")]);
    bench.take_hosts("r", &[host("b:80", &["b"], vec![]), host("allow_any", &["*"], vec![])], &[]);
    let before = table(&bench.config());
    assert_eq!(before.virtual_hosts.len(), 3);
    assert_eq!(&*before.virtual_host("b").unwrap().name, "b:80");
    assert!(Arc::ptr_eq(&before, &table(&bench.config())), "nothing changed, so the table is the same");
    let changed = host("b:80", &["b", "b.shop"], vec![]);
    assert!(bench.take_hosts("r", &[host("a:80", &["a"], vec![]), changed], &[]).refused.is_empty());
    let after = table(&bench.config());
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(before.virtual_host("a").unwrap(), after.virtual_host("a").unwrap()));
    assert!(!Arc::ptr_eq(before.virtual_host("b").unwrap(), after.virtual_host("b").unwrap()));
    bench.take_hosts("r", &[], &["r/b:80"]);
    assert_eq!(&*table(&bench.config()).virtual_host("b").unwrap().name, "allow_any");
    assert!(!bench.config().routes.contains_key("other"));
}

#[test]
fn of_two_virtual_hosts_with_one_domain_the_newcomer_is_refused() {
    let mut bench = bench();
    bench.accept(&[vhds_routes("r")]);
    bench.take_hosts("r", &[host("a", &["a"], vec![]), host("b", &["b"], vec![])], &[]);
    let verdict = bench.take_hosts("r", &[host("b", &["b", "a"], vec![]), host("c", &["c"], vec![])], &[]);
    assert_eq!(verdict.refused.len(), 1);
    assert_eq!(
        (&*verdict.refused[0].name, verdict.refused[0].reason.as_str()),
        ("r/b", "domains: domain a is claimed by virtual hosts a and b")
    );
    let table = table(&bench.config());
    let of = |domain: &str| table.virtual_host(domain).map(|host| host.name.to_string());
    assert_eq!((of("a"), of("b"), of("c")), (Some("a".into()), Some("b".into()), Some("c".into())));
    // A domain may move within one response.
    assert!(bench.take_hosts("r", &[host("b", &["a"], vec![]), host("a", &["b"], vec![])], &[]).refused.is_empty());
}

#[test]
fn a_virtual_host_is_named_after_its_route_configuration() {
    let mut bench = bench();
    let verdict = bench.take(&[host("plain", &["*"], vec![])], &[]);
    assert_eq!(verdict.refused[0].reason, "resource: is not named <route configuration>/<virtual host>");
}

#[test]
fn the_catch_all_says_what_happens_to_unknown_hosts() {
    let mut bench = bench();
    bench.accept(&[vhds_routes("r")]);
    assert_eq!(bench.config().local.outbound_policy, OutboundPolicy::AllowAny);
    bench.take_hosts("r", &[host("block_all", &["*"], vec![])], &[]);
    assert_eq!(bench.config().local.outbound_policy, OutboundPolicy::RegistryOnly);
    bench.take_hosts("r", &[host("allow_any", &["*"], vec![])], &["r/block_all"]);
    assert_eq!(bench.config().local.outbound_policy, OutboundPolicy::AllowAny);
}
