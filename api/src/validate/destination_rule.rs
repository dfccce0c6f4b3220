//! Rules of DestinationRule. Source: Istio's admission rules.
//!
//! In:  the body. Out: findings.

use std::net::IpAddr;

use super::check::Check;
use super::selector::selector;
use super::tls::client;
use super::virtual_service::subset_name;
use crate::code;
use crate::kinds::destination_rule::{
    ConnectionPoolSettings, ConsistentHashLb, DestinationRule, HttpSettings, LoadBalancerSettings, LocalityLoadBalancerSetting,
    OutlierDetection, SimpleLb, TcpKeepalive, TcpSettings, TrafficPolicy, WarmupConfiguration,
};
use crate::path::Path;

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, body: &DestinationRule) {
    let host = path.field("host");
    if cx.required(&host, &body.host, "the host of a DestinationRule") && body.host.parse::<IpAddr>().is_err() {
        cx.host(&host, &body.host, true);
    }
    if let Some(policy) = &body.traffic_policy {
        traffic_policy(cx, &path.field("trafficPolicy"), policy);
    }
    for (index, subset) in body.subsets.iter().enumerate() {
        let path = path.field("subsets");
        let path = path.index(index);
        if cx.required(&path.field("name"), &subset.name, "the name of a subset") {
            subset_name(cx, &path.field("name"), &subset.name);
        }
        cx.labels(&path.field("labels"), &subset.labels);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(cx, &path.field("trafficPolicy"), policy);
        }
    }
    let names = body.subsets.iter().map(|subset| subset.name.as_str()).enumerate().filter(|(_, name)| !name.is_empty());
    cx.unique(names, |index| path.field("subsets").index(index).field("name").to_string(), "subset");
    cx.export_to(&path.field("exportTo"), &body.export_to, false);
    selector(cx, &path.field("workloadSelector"), body.workload_selector.as_ref());
    if body.workload_selector.is_some() && body.export_to.iter().any(|item| item != ".") {
        let help = "a workloadSelector selects clients of the rule's own namespace only: use `exportTo: [.]`";
        cx.error(code::EXPORT_TO, &path.field("exportTo"), "workloadSelector excludes exporting", help);
    }
}

pub(super) fn traffic_policy(cx: &mut Check<'_>, path: &Path<'_>, policy: &TrafficPolicy) {
    if *policy == TrafficPolicy::default() {
        cx.error(
            code::EMPTY_BLOCK,
            path,
            "this traffic policy says nothing",
            "give it a loadBalancer, connectionPool, outlierDetection or tls",
        );
    }
    if let Some(body) = &policy.load_balancer {
        load_balancer(cx, &path.field("loadBalancer"), body);
    }
    if let Some(body) = &policy.connection_pool {
        connection_pool(cx, &path.field("connectionPool"), body);
    }
    if let Some(body) = &policy.outlier_detection {
        outlier_detection(cx, &path.field("outlierDetection"), body);
    }
    if let Some(body) = &policy.tls {
        client(cx, &path.field("tls"), body);
    }
    ports(cx, &path.field("portLevelSettings"), policy);
    if let Some(tunnel) = &policy.tunnel {
        let path = path.field("tunnel");
        if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
            cx.error(code::TUNNEL, &path.field("protocol"), format!("`{}` cannot tunnel", tunnel.protocol), "CONNECT or POST");
        }
        if cx.required(&path.field("targetHost"), &tunnel.target_host, "the host at the end of the tunnel")
            && tunnel.target_host.parse::<IpAddr>().is_err()
        {
            cx.host(&path.field("targetHost"), &tunnel.target_host, false);
        }
        cx.required_port(&path.field("targetPort"), tunnel.target_port);
    }
    if let Some(budget) = &policy.retry_budget {
        let path = path.field("retryBudget");
        cx.percent(&path.field("percent"), budget.percent.unwrap_or(0.0));
        cx.duration_or_zero(&path.field("budgetInterval"), budget.budget_interval);
    }
}

fn ports(cx: &mut Check<'_>, path: &Path<'_>, policy: &TrafficPolicy) {
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let path = path.index(index);
        match &settings.port {
            Some(port) => cx.required_port(&path.field("port").field("number"), port.number),
            None => cx.error(code::REQUIRED, &path, "portLevelSettings need a port", "add `port: {number: …}`"),
        }
        if let Some(body) = &settings.load_balancer {
            load_balancer(cx, &path.field("loadBalancer"), body);
        }
        if let Some(body) = &settings.connection_pool {
            connection_pool(cx, &path.field("connectionPool"), body);
        }
        if let Some(body) = &settings.outlier_detection {
            outlier_detection(cx, &path.field("outlierDetection"), body);
        }
        if let Some(body) = &settings.tls {
            client(cx, &path.field("tls"), body);
        }
        let says_something = settings.load_balancer.is_some() || settings.connection_pool.is_some() || settings.outlier_detection.is_some();
        if !says_something && settings.tls.is_none() {
            cx.error(code::EMPTY_BLOCK, &path, "these port settings say nothing", "give them a policy, or remove them");
        }
    }
    let numbers = policy.port_level_settings.iter().map(|settings| settings.port.as_ref().map_or(0, |port| port.number)).enumerate();
    cx.unique(numbers.filter(|(_, number)| *number != 0), |index| path.index(index).field("port").to_string(), "port");
}

pub(super) fn connection_pool(cx: &mut Check<'_>, path: &Path<'_>, pool: &ConnectionPoolSettings) {
    if pool.tcp.is_none() && pool.http.is_none() {
        cx.error(code::EMPTY_BLOCK, path, "this connection pool says nothing", "give tcp or http");
    }
    if let Some(tcp) = &pool.tcp {
        tcp_settings(cx, &path.field("tcp"), tcp);
    }
    if let Some(http) = &pool.http {
        http_settings(cx, &path.field("http"), http);
    }
}

fn tcp_settings(cx: &mut Check<'_>, path: &Path<'_>, tcp: &TcpSettings) {
    if *tcp == TcpSettings::default() && !cx.has(&path.field("maxConnections")) {
        cx.error(code::EMPTY_BLOCK, path, "these tcp settings say nothing", "give maxConnections or connectTimeout");
    }
    limits(cx, path, &[("maxConnections", tcp.max_connections)]);
    cx.duration(&path.field("connectTimeout"), tcp.connect_timeout);
    cx.duration(&path.field("maxConnectionDuration"), tcp.max_connection_duration);
    cx.duration_or_zero(&path.field("idleTimeout"), tcp.idle_timeout);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        tcp_keepalive(cx, &path.field("tcpKeepalive"), keepalive);
    }
}

/// Also of the mesh configuration.
pub(super) fn tcp_keepalive(cx: &mut Check<'_>, path: &Path<'_>, keepalive: &TcpKeepalive) {
    cx.duration(&path.field("time"), keepalive.time);
    cx.duration(&path.field("interval"), keepalive.interval);
}

fn http_settings(cx: &mut Check<'_>, path: &Path<'_>, http: &HttpSettings) {
    let pairs = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    limits(cx, path, &pairs);
    cx.duration_or_zero(&path.field("idleTimeout"), http.idle_timeout);
    if let Some(keepalive) = &http.http2_keep_alive {
        cx.duration(&path.field("http2KeepAlive").field("interval"), keepalive.interval);
        cx.duration(&path.field("http2KeepAlive").field("timeout"), keepalive.timeout);
    }
}

/// Not negative; and a written 0 is the same as nothing, which surprises people who mean "none".
fn limits(cx: &mut Check<'_>, path: &Path<'_>, pairs: &[(&'static str, i32)]) {
    for (name, number) in pairs {
        let path = path.field(name);
        cx.not_negative(&path, *number);
        if *number == 0 && *name != "maxRequestsPerConnection" && cx.has(&path) {
            cx.note(code::INEFFECTIVE, &path, format!("`{name}: 0` is the default, not a limit of none"), "");
        }
    }
}

pub(super) fn outlier_detection(cx: &mut Check<'_>, path: &Path<'_>, outlier: &OutlierDetection) {
    cx.duration(&path.field("interval"), outlier.interval);
    cx.duration(&path.field("baseEjectionTime"), outlier.base_ejection_time);
    cx.not_negative(&path.field("consecutiveErrors"), outlier.consecutive_errors);
    for (name, percent) in [("maxEjectionPercent", outlier.max_ejection_percent), ("minHealthPercent", outlier.min_health_percent)] {
        cx.percent(&path.field(name), f64::from(percent));
    }
    if outlier.consecutive_local_origin_failures.is_some() && !outlier.split_external_local_origin_errors {
        let help = "add `splitExternalLocalOriginErrors: true`";
        let message = "`consecutiveLocalOriginFailures` has no effect without `splitExternalLocalOriginErrors`";
        cx.error(code::INEFFECTIVE, &path.field("consecutiveLocalOriginFailures"), message, help);
    }
    if let (Some(gateway), Some(any)) = (outlier.consecutive_gateway_errors, outlier.consecutive_5xx_errors)
        && gateway >= any
        && any > 0
    {
        let message = format!("`consecutiveGatewayErrors: {gateway}` never acts: after {any} errors `consecutive5xxErrors` already has");
        cx.note(code::INEFFECTIVE, &path.field("consecutiveGatewayErrors"), message, "");
    }
    for (index, status) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(200..=599).contains(status) {
            cx.error(
                code::STATUS_CODE,
                &path.field("outlierDetectionHttpErrorCodes").index(index),
                format!("{status} is not a status"),
                "200 to 599",
            );
        }
    }
}

fn load_balancer(cx: &mut Check<'_>, path: &Path<'_>, body: &LoadBalancerSettings) {
    if let Some(hash) = &body.consistent_hash {
        consistent_hash(cx, &path.field("consistentHash"), hash);
    }
    if let Some(locality) = &body.locality_lb_setting {
        locality_setting(cx, &path.field("localityLbSetting"), locality);
    }
    if body.locality_lb_setting.is_some() && body.zone_aware_lb_setting.is_some() {
        let message = "`localityLbSetting` and `zoneAwareLbSetting` exclude each other";
        cx.error(code::LOCALITY, &path.field("zoneAwareLbSetting"), message, "keep one of them");
    }
    if body.warmup.is_some() && body.warmup_duration_secs.is_some() {
        let message = "`warmup` and `warmupDurationSecs` exclude each other";
        cx.error(code::LOAD_BALANCER, &path.field("warmupDurationSecs"), message, "keep `warmup`");
    }
    cx.duration(&path.field("warmupDurationSecs"), body.warmup_duration_secs);
    if let Some(warmup) = &body.warmup {
        let simple = body.simple.unwrap_or_default();
        let fits = matches!(simple, SimpleLb::Unspecified | SimpleLb::RoundRobin | SimpleLb::LeastRequest | SimpleLb::LeastConn);
        if !fits || body.consistent_hash.is_some() {
            cx.error(code::LOAD_BALANCER, &path.field("warmup"), "warm-up works with ROUND_ROBIN and LEAST_REQUEST only", "");
        }
        warm_up(cx, &path.field("warmup"), warmup);
    }
}

fn warm_up(cx: &mut Check<'_>, path: &Path<'_>, warmup: &WarmupConfiguration) {
    if warmup.duration.is_none() {
        cx.error(code::REQUIRED, &path.field("duration"), "the duration of the warm-up is required", "");
    }
    cx.duration(&path.field("duration"), warmup.duration);
    cx.percent(&path.field("minimumPercent"), warmup.minimum_percent.unwrap_or(0.0));
    if let Some(aggression) = warmup.aggression.filter(|aggression| *aggression < 1.0) {
        cx.error(code::LOAD_BALANCER, &path.field("aggression"), format!("{aggression} is less than 1"), "");
    }
}

fn consistent_hash(cx: &mut Check<'_>, path: &Path<'_>, hash: &ConsistentHashLb) {
    let keyed = hash.http_header_name.is_some()
        || hash.http_cookie.is_some()
        || hash.use_source_ip.is_some()
        || hash.http_query_parameter_name.is_some();
    if !keyed {
        let help = "give httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName";
        cx.error(code::LOAD_BALANCER, path, "consistent hashing needs a key", help);
    }
    for (name, text) in [("httpHeaderName", &hash.http_header_name), ("httpQueryParameterName", &hash.http_query_parameter_name)] {
        if text.as_deref() == Some("") {
            cx.error(code::REQUIRED, &path.field(name), format!("`{name}` is empty"), "");
        }
    }
    if let Some(cookie) = &hash.http_cookie {
        let path = path.field("httpCookie");
        cx.required(&path.field("name"), &cookie.name, "the name of the cookie");
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            cx.required(&path.field("attributes").index(index).field("name"), &attribute.name, "the name of the attribute");
        }
    }
    if let Some(maglev) = &hash.maglev {
        let size = maglev.table_size;
        if size != 0 && !(is_prime(size) && size < 5_000_011) {
            let message = format!("{size} is not a prime below 5,000,011");
            cx.error(code::LOAD_BALANCER, &path.field("maglev").field("tableSize"), message, "65537 is the default");
        }
    }
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|d| d * d <= number.min(5_000_011)).all(|d| !number.is_multiple_of(d))
}

/// Also of the mesh configuration.
pub(super) fn locality_setting(cx: &mut Check<'_>, path: &Path<'_>, locality: &LocalityLoadBalancerSetting) {
    if !locality.distribute.is_empty() && (!locality.failover.is_empty() || !locality.failover_priority.is_empty()) {
        let other = if locality.failover.is_empty() { "failoverPriority" } else { "failover" };
        cx.error(code::LOCALITY, &path.field(other), format!("`distribute` and `{other}` exclude each other"), "keep one of them");
    }
    for (index, distribute) in locality.distribute.iter().enumerate() {
        let path = path.field("distribute");
        let path = path.index(index);
        cx.required(&path.field("from"), &distribute.from, "the locality that traffic comes from");
        let to = path.field("to");
        for (name, _) in distribute.to.iter().filter(|(_, weight)| **weight == 0) {
            cx.error(code::LOCALITY, &to.key(name), "the weight of a locality must be above 0", "leave it out");
        }
        let sum: u64 = distribute.to.values().map(|weight| u64::from(*weight)).sum();
        if sum != 100 {
            cx.error(code::LOCALITY, &to, format!("the weights add up to {sum}, not to 100"), "");
        }
    }
    for (index, failover) in locality.failover.iter().enumerate() {
        let path = path.field("failover");
        let path = path.index(index);
        if failover.from == failover.to {
            cx.error(code::LOCALITY, &path, format!("fails over from `{}` to itself", failover.from), "");
        }
        for (name, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.contains(['/', '*']) {
                cx.error(
                    code::LOCALITY,
                    &path.field(name),
                    format!("`{region}` is not a region"),
                    "failover is between regions: no `/`, no `*`",
                );
            }
        }
    }
}
