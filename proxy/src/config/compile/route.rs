//! Routes: which requests they match and what they do.
//!
//! In:  `envoy.config.route.v3.Route` and the defaults of its virtual host.
//! Out: [`Route`]s.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pillion_xds::wire::envoy::config::route::v3 as wire;
use pillion_xds::wire::google::protobuf::UInt32Value;

use super::at::{At, Compiled, note_set, refuse_set};
use super::filter_config::{self, PerRoute};
use super::mirror;
use super::retry;
use super::value::{
    REQUEST, RESPONSE, duration, enumeration, flag, fraction, header_match, header_name, header_value, inline_text, mutations, regex,
    regex_rewrite, resource_name, text_match, timeout,
};
use crate::config::cluster::ClusterName;
use crate::config::route_table::{
    ClusterChoice, DirectResponse, Forward, GrpcTimeout, HostRewrite, PathMatch, PathRewrite, QueryMatch, Redirect, RedirectPath,
    RedirectScheme, Route, RouteAction, RouteMatch, WeightedCluster, WeightedClusters,
};

/// Envoy's, when a route says nothing. Source: `RouteAction.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest body of a direct response. Source: Istio's limit.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What a virtual host says for those of its routes that say nothing.
pub(super) struct HostDefaults<'w> {
    pub(super) retry: Option<&'w wire::RetryPolicy>,
    pub(super) buffer_limit: Option<u64>,
    pub(super) per_filter: &'w PerRoute,
}

pub(super) fn route(at: &At<'_>, route: &wire::Route, defaults: &HostDefaults<'_>) -> Compiled<Route> {
    refuse_set!(route, at, [route_specifiers]);
    note_set!(route, at, [tracing, stat_prefix]);
    let at_match = at.field("match");
    let matches = route.r#match.as_ref().ok_or_else(|| at_match.refuse("is missing"))?;
    let buffer_limit =
        buffer_limit(route.request_body_buffer_limit.as_ref().map(|limit| limit.value), route.per_request_buffer_limit_bytes)
            .or(defaults.buffer_limit);
    let action = match route.action.as_ref().ok_or_else(|| at.refuse("has no action"))? {
        wire::route::Action::Route(action) => RouteAction::Forward(forward(&at.field("route"), action, defaults.retry, buffer_limit)?),
        wire::route::Action::Redirect(action) => RouteAction::Redirect(redirect(&at.field("redirect"), action)?),
        wire::route::Action::DirectResponse(action) => RouteAction::Direct(direct(&at.field("direct_response"), action)?),
        wire::route::Action::FilterAction(_) => return Err(at.field("filter_action").unsupported()),
        wire::route::Action::NonForwardingAction(_) => return Err(at.field("non_forwarding_action").unsupported()),
    };
    let per_filter = filter_config::per_route(at, &route.typed_per_filter_config)?;
    let cors = match action {
        RouteAction::Forward(_) => per_filter.cors(at, defaults.per_filter)?,
        // Envoy's filter leaves alone what routes answer themselves.
        RouteAction::Redirect(_) | RouteAction::Direct(_) => None,
    };
    Ok(Route {
        name: route.name.as_str().into(),
        matches: route_match(&at_match, matches)?,
        action,
        fault: per_filter.fault(at, defaults.per_filter)?,
        cors,
        request_headers: mutations(at, REQUEST, &route.request_headers_to_add, &route.request_headers_to_remove)?,
        response_headers: mutations(at, RESPONSE, &route.response_headers_to_add, &route.response_headers_to_remove)?,
    })
}

/// The newer field wins.
pub(super) fn buffer_limit(newer: Option<u64>, older: Option<UInt32Value>) -> Option<u64> {
    newer.or(older.map(|limit| limit.value.into()))
}

fn route_match(at: &At<'_>, matches: &wire::RouteMatch) -> Compiled<RouteMatch> {
    use wire::route_match::PathSpecifier;
    refuse_set!(matches, at, [tls_context, dynamic_metadata, filter_state, cookies]);
    let case_sensitive = flag(matches.case_sensitive.as_ref(), true);
    let text = |text: &str| -> Box<str> { if case_sensitive { text.into() } else { text.to_ascii_lowercase().into() } };
    let path = match matches.path_specifier.as_ref().ok_or_else(|| at.refuse("has no path specifier"))? {
        PathSpecifier::Prefix(prefix) if prefix == "/" => PathMatch::Any,
        PathSpecifier::Prefix(prefix) => PathMatch::Prefix(text(prefix)),
        PathSpecifier::Path(path) => PathMatch::Exact(text(path)),
        PathSpecifier::PathSeparatedPrefix(prefix) if prefix.starts_with('/') && !prefix.ends_with('/') => {
            PathMatch::SegmentPrefix(text(prefix))
        }
        PathSpecifier::PathSeparatedPrefix(_) => {
            return Err(at.field("path_separated_prefix").refuse("begins with '/' and does not end with it"));
        }
        PathSpecifier::SafeRegex(expression) => PathMatch::Regex(regex(&at.field("safe_regex"), expression)?),
        PathSpecifier::ConnectMatcher(_) => PathMatch::Connect,
        PathSpecifier::PathMatchPolicy(_) => return Err(at.field("path_match_policy").unsupported()),
    };
    let headers = matches.headers.iter().enumerate().map(|(index, header)| header_match(&at.index("headers", index), header));
    let query = matches.query_parameters.iter().enumerate().map(|(index, query)| query_match(&at.index("query_parameters", index), query));
    let runtime_fraction = match &matches.runtime_fraction {
        Some(runtime) => {
            let at = at.field("runtime_fraction");
            let default = runtime.default_value.as_ref().ok_or_else(|| at.field("default_value").refuse("is missing"))?;
            Some(fraction(&at.field("default_value"), default)?)
        }
        None => None,
    };
    Ok(RouteMatch {
        path,
        case_sensitive,
        headers: headers.collect::<Compiled<_>>()?,
        query: query.collect::<Compiled<_>>()?,
        grpc: matches.grpc.is_some(),
        fraction: runtime_fraction,
    })
}

fn query_match(at: &At<'_>, query: &wire::QueryParameterMatcher) -> Compiled<QueryMatch> {
    use wire::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    if query.name.is_empty() {
        return Err(at.field("name").refuse("is missing"));
    }
    let value = match &query.query_parameter_match_specifier {
        None | Some(Specifier::PresentMatch(true)) => None,
        Some(Specifier::PresentMatch(false)) => return Err(at.field("present_match").refuse("false is not supported")),
        Some(Specifier::StringMatch(matcher)) => Some(text_match(&at.field("string_match"), matcher)?),
    };
    Ok(QueryMatch { name: query.name.as_str().into(), value })
}

fn forward(
    at: &At<'_>,
    action: &wire::RouteAction,
    host_retry: Option<&wire::RetryPolicy>,
    buffer_limit: Option<u64>,
) -> Compiled<Forward> {
    use wire::route_action::ClusterNotFoundResponseCode as NotFound;
    refuse_set!(
        action,
        at,
        [
            metadata_match,
            path_rewrite_policy,
            retry_policy_typed_config,
            rate_limits,
            cors,
            internal_redirect_policy,
            internal_redirect_action,
            hedge_policy,
        ]
    );
    note_set!(action, at, [hash_policy, priority, flush_timeout, early_data_policy, grpc_timeout_offset, max_internal_redirects]);
    let retry = action.retry_policy.as_ref().or(host_retry);
    let not_found = enumeration::<NotFound>(&at.field("cluster_not_found_response_code"), action.cluster_not_found_response_code)?;
    Ok(Forward {
        cluster: cluster_choice(at, action)?,
        timeout: timeout(&at.field("timeout"), action.timeout.as_ref(), Some(DEFAULT_TIMEOUT))?,
        grpc_timeout: grpc_timeout(at, action)?,
        idle_timeout: match &action.idle_timeout {
            Some(time) => Some(timeout(&at.field("idle_timeout"), Some(time), None)?),
            None => None,
        },
        retry: retry.map(|policy| retry::policy(&at.field("retry_policy"), policy, buffer_limit)).transpose()?.flatten().map(Arc::new),
        path: path_rewrite(at, action)?,
        host: host_rewrite(at, action)?,
        append_forwarded_host: action.append_x_forwarded_host,
        cluster_not_found: match not_found {
            NotFound::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            NotFound::NotFound => StatusCode::NOT_FOUND,
            NotFound::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
        upgrades: upgrades(at, action)?,
        mirrors: mirror::mirrors(at, &action.request_mirror_policies)?,
    })
}

fn upgrades(at: &At<'_>, action: &wire::RouteAction) -> Compiled<Vec<(Box<str>, bool)>> {
    let upgrades = action.upgrade_configs.iter().enumerate().map(|(index, upgrade)| {
        let at = at.index("upgrade_configs", index);
        if upgrade.connect_config.is_some() && !upgrade.upgrade_type.eq_ignore_ascii_case("CONNECT") {
            return Err(at.field("connect_config").refuse("belongs to CONNECT alone"));
        }
        Ok((upgrade.upgrade_type.to_ascii_lowercase().into(), flag(upgrade.enabled.as_ref(), true)))
    });
    upgrades.collect()
}

/// Source: Envoy `FilterUtility::finalTimeout`; `max_stream_duration`'s word goes before the older field's.
fn grpc_timeout(at: &At<'_>, action: &wire::RouteAction) -> Compiled<GrpcTimeout> {
    let stream = action.max_stream_duration.as_ref();
    let at_stream = at.field("max_stream_duration");
    if let Some(stream) = stream {
        note_set!(stream, at_stream, [grpc_timeout_header_offset]);
        if stream.max_stream_duration.as_ref().is_some_and(|time| time.seconds != 0 || time.nanos != 0) {
            return Err(at_stream.field("max_stream_duration").unsupported());
        }
    }
    let (at_max, max) = match stream.and_then(|stream| stream.grpc_timeout_header_max.as_ref()) {
        Some(max) => (at_stream.field("grpc_timeout_header_max"), Some(max)),
        None => (at.field("max_grpc_timeout"), action.max_grpc_timeout.as_ref()),
    };
    Ok(match max.map(|max| duration(&at_max, max)).transpose()? {
        None => GrpcTimeout::Ignore,
        Some(max) if max.is_zero() => GrpcTimeout::Uncapped,
        Some(max) => GrpcTimeout::AtMost(max),
    })
}

fn cluster_choice(at: &At<'_>, action: &wire::RouteAction) -> Compiled<ClusterChoice> {
    use wire::route_action::ClusterSpecifier;
    match action.cluster_specifier.as_ref().ok_or_else(|| at.refuse("has no cluster"))? {
        ClusterSpecifier::Cluster(name) => {
            resource_name(&at.field("cluster"), name)?;
            Ok(ClusterChoice::Single(ClusterName::new(name.as_str())))
        }
        ClusterSpecifier::ClusterHeader(name) => Ok(ClusterChoice::Header(header_name(&at.field("cluster_header"), name)?)),
        ClusterSpecifier::WeightedClusters(weighted) => weighted_clusters(&at.field("weighted_clusters"), weighted),
        ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            Err(at.field("cluster_specifier_plugin").unsupported())
        }
    }
}

fn weighted_clusters(at: &At<'_>, weighted: &wire::WeightedCluster) -> Compiled<ClusterChoice> {
    refuse_set!(weighted, at, [random_value_specifier]);
    let mut total = 0_u64;
    let mut entries = Vec::with_capacity(weighted.clusters.len());
    for (index, entry) in weighted.clusters.iter().enumerate() {
        let at = at.index("clusters", index);
        refuse_set!(entry, at, [cluster_header, metadata_match]);
        resource_name(&at.field("name"), &entry.name)?;
        if !filter_config::per_route(&at, &entry.typed_per_filter_config)?.is_empty() {
            return Err(at.field("typed_per_filter_config").unsupported());
        }
        total += u64::from(entry.weight.map_or(0, |weight| weight.value));
        let host = match &entry.host_rewrite_specifier {
            Some(wire::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                Some(header_value(&at.field("host_rewrite_literal"), host)?)
            }
            None => None,
        };
        entries.push(WeightedCluster {
            name: ClusterName::new(entry.name.as_str()),
            up_to: total,
            request_headers: mutations(&at, REQUEST, &entry.request_headers_to_add, &entry.request_headers_to_remove)?,
            response_headers: mutations(&at, RESPONSE, &entry.response_headers_to_add, &entry.response_headers_to_remove)?,
            host,
        });
    }
    if total == 0 || total > u64::from(u32::MAX) {
        return Err(at.field("clusters").refuse(format_args!("the sum of weights is {total}, not within 1 and {}", u32::MAX)));
    }
    Ok(ClusterChoice::Weighted(WeightedClusters { entries, total }))
}

fn path_rewrite(at: &At<'_>, action: &wire::RouteAction) -> Compiled<PathRewrite> {
    match (&action.prefix_rewrite, &action.regex_rewrite, &action.path_rewrite) {
        (prefix, None, whole) if prefix.is_empty() && whole.is_empty() => Ok(PathRewrite::None),
        (prefix, None, whole) if whole.is_empty() => Ok(PathRewrite::Prefix(prefix.as_str().into())),
        (prefix, None, whole) if prefix.is_empty() => Ok(PathRewrite::Whole(whole.as_str().into())),
        (prefix, Some(rewrite), whole) if prefix.is_empty() && whole.is_empty() => {
            let (expression, substitution) = regex_rewrite(&at.field("regex_rewrite"), rewrite)?;
            Ok(PathRewrite::Regex { expression, substitution })
        }
        _ => Err(at.refuse("only one of prefix_rewrite, regex_rewrite, path_rewrite may be set")),
    }
}

fn host_rewrite(at: &At<'_>, action: &wire::RouteAction) -> Compiled<HostRewrite> {
    use wire::route_action::HostRewriteSpecifier;
    Ok(match &action.host_rewrite_specifier {
        None => HostRewrite::None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            HostRewrite::Literal(header_value(&at.field("host_rewrite_literal"), host)?)
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => HostRewrite::Header(header_name(&at.field("host_rewrite_header"), name)?),
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if !auto.value => HostRewrite::None,
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => return Err(at.field("auto_host_rewrite").unsupported()),
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => return Err(at.field("host_rewrite_path_regex").unsupported()),
        Some(HostRewriteSpecifier::HostRewrite(_)) => return Err(at.field("host_rewrite").unsupported()),
    })
}

fn redirect(at: &At<'_>, action: &wire::RedirectAction) -> Compiled<Redirect> {
    use wire::redirect_action::{PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier};
    let scheme = match &action.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some(RedirectScheme::Https),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.to_ascii_lowercase().as_str() {
            "http" => Some(RedirectScheme::Http),
            "https" => Some(RedirectScheme::Https),
            "" => None,
            _ => return Err(at.field("scheme_redirect").refuse(format_args!("{scheme:?} is neither http nor https"))),
        },
    };
    let path = match &action.path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.is_empty() => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Whole(path.as_str().into()),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) if prefix.is_empty() => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => RedirectPath::Prefix(prefix.as_str().into()),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (expression, substitution) = regex_rewrite(&at.field("regex_rewrite"), rewrite)?;
            RedirectPath::Regex { expression, substitution }
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Err(at.field("path_rewrite").unsupported()),
    };
    let port = u16::try_from(action.port_redirect)
        .map_err(|_| at.field("port_redirect").refuse(format_args!("{} is no port", action.port_redirect)))?;
    let status = match enumeration::<Code>(&at.field("response_code"), action.response_code)? {
        Code::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        Code::Found => StatusCode::FOUND,
        Code::SeeOther => StatusCode::SEE_OTHER,
        Code::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        Code::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    let host = (!action.host_redirect.is_empty()).then(|| action.host_redirect.as_str().into());
    Ok(Redirect { scheme, host, port: (port != 0).then_some(port), path, status, strip_query: action.strip_query })
}

fn direct(at: &At<'_>, action: &wire::DirectResponseAction) -> Compiled<DirectResponse> {
    refuse_set!(action, at, [body_format]);
    let status = u16::try_from(action.status).ok().filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| at.field("status").refuse(format_args!("{} is not within 200 and 599", action.status)))?;
    let at_body = at.field("body");
    let body = match &action.body {
        Some(source) => inline_text(&at_body, source)?,
        None => &[],
    };
    if body.len() > MAX_BODY_BYTES {
        return Err(at_body.refuse(format_args!("{} bytes are more than the limit of {MAX_BODY_BYTES}", body.len())));
    }
    Ok(DirectResponse { status, body: Bytes::copy_from_slice(body) })
}
