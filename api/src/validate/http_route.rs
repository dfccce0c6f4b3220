//! Rules of a VirtualService's http routes. Source: Istio's admission rules.
//!
//! In:  one route. Out: findings.

use std::collections::BTreeMap;

use super::check::{Check, substitution_problem};
use super::virtual_service::{destination, source, weights};
use crate::code;
use crate::kinds::virtual_service::{
    CorsPolicy, FaultAbort, FaultDelay, HeaderOperations, Headers, HttpDirectResponse, HttpFaultInjection, HttpMatchRequest, HttpRedirect,
    HttpRetry, HttpRewrite, HttpRoute, Percent,
};
use crate::path::Path;
use crate::string_match::StringMatch;

const MAX_BODY: usize = 1 << 20;
const RETRY_WORDS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
const GRPC_STATUSES: &[&str] = &[
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

pub(super) fn check(cx: &mut Check<'_>, path: &Path<'_>, route: &HttpRoute, is_delegate: bool) {
    action(cx, path, route, is_delegate);
    for (index, request) in route.r#match.iter().enumerate() {
        match_request(cx, &path.field("match").index(index), request);
    }
    for (index, target) in route.route.iter().enumerate() {
        let path = path.field("route");
        let path = path.index(index);
        destination(cx, &path.field("destination"), target.destination.as_ref());
        headers(cx, &path.field("headers"), target.headers.as_ref());
    }
    let all: Vec<i32> = route.route.iter().map(|target| target.weight).collect();
    weights(cx, &path.field("route"), &all);
    if let Some(body) = &route.redirect {
        redirect(cx, &path.field("redirect"), body);
    }
    if let Some(body) = &route.direct_response {
        direct_response(cx, &path.field("directResponse"), body);
    }
    if let Some(body) = &route.rewrite {
        rewrite(cx, &path.field("rewrite"), body);
    }
    cx.duration_or_zero(&path.field("timeout"), route.timeout);
    if let Some(body) = &route.retries {
        retries(cx, &path.field("retries"), body);
    }
    if let Some(body) = &route.fault {
        fault(cx, &path.field("fault"), body);
    }
    if let Some(body) = &route.cors_policy {
        cors(cx, &path.field("corsPolicy"), body);
    }
    mirrors(cx, path, route);
    headers(cx, &path.field("headers"), route.headers.as_ref());
}

/// Exactly one of route, redirect, directResponse, delegate, and nothing that cannot go with it.
fn action(cx: &mut Check<'_>, path: &Path<'_>, route: &HttpRoute, is_delegate: bool) {
    let actions = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let mut given = actions.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    let Some(first) = given.next() else {
        let help = "add one of route, redirect, directResponse";
        return cx.error(code::ROUTE_ACTION, path, "this route goes nowhere: requests that match it would not be answered", help);
    };
    for other in given {
        cx.error(
            code::ROUTE_ACTION,
            &path.field(other),
            format!("`{first}` and `{other}` exclude each other"),
            "keep one of them, or make two routes",
        );
        cx.related(&path.field(first), format!("`{first}` is here"));
    }
    if first == "redirect" || first == "directResponse" {
        for (name, given) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
            if given {
                cx.error(code::ROUTE_ACTION, &path.field(name), format!("`{name}` has no effect beside `{first}`"), "remove it");
            }
        }
    }
    if let (Some(delegate), true) = (&route.delegate, is_delegate) {
        let message = format!("a delegate cannot delegate again, to `{}`", delegate.name);
        cx.error(code::DELEGATE, &path.field("delegate"), message, "delegation goes one level deep");
    }
    if let Some(delegate) = &route.delegate {
        cx.required(&path.field("delegate").field("name"), &delegate.name, "the name of the delegate");
    }
}

fn match_request(cx: &mut Check<'_>, path: &Path<'_>, request: &HttpMatchRequest) {
    if let Some(uri) = &request.uri {
        cx.string_match(&path.field("uri"), uri, true);
        plain_regex(cx, &path.field("uri"), uri);
        if let StringMatch::Exact(text) | StringMatch::Prefix(text) = uri {
            let at = path.field("uri");
            let at = at.field(if matches!(uri, StringMatch::Exact(_)) { "exact" } else { "prefix" });
            if text.contains(['?', '#']) {
                let help = "put parameters under queryParams";
                cx.warning(code::INEFFECTIVE, &at, format!("`{text}` never matches: paths are compared without query"), help);
            } else if !text.is_empty() && !text.starts_with('/') && text != "*" {
                let message = format!("`{text}` never matches: every path starts with `/`");
                cx.warning(code::INEFFECTIVE, &at, message, format!("write `/{text}`"));
            }
        }
    }
    for (name, value) in [("scheme", &request.scheme), ("method", &request.method), ("authority", &request.authority)] {
        let Some(value) = value else { continue };
        let path = path.field(name);
        cx.string_match(&path, value, false);
        plain_regex(cx, &path, value);
        if matches!(value, StringMatch::Exact(text) if text.is_empty()) {
            cx.error(code::EMPTY_MATCH, &path.field("exact"), format!("no request has an empty {name}"), "");
        }
        if let (StringMatch::Exact(text), "method") = (value, name)
            && text.chars().any(|c| c.is_ascii_lowercase())
        {
            let help = format!("write `{}`", text.to_ascii_uppercase());
            cx.warning(code::INEFFECTIVE, &path.field("exact"), format!("`{text}` never matches: methods are upper case"), help);
        }
    }
    for (field, map) in [("headers", &request.headers), ("withoutHeaders", &request.without_headers)] {
        header_matches(cx, &path.field(field), map);
    }
    for (name, value) in &request.query_params {
        let path = path.field("queryParams");
        let path = path.key(name);
        if name.is_empty() {
            cx.error(code::HEADER_NAME, &path, "the name of a query parameter is empty", "");
        }
        cx.string_match(&path, value, false);
    }
    source(cx, path, &request.source_labels, &request.source_namespace, &request.gateways, request.port);
}

/// Outside headers and parameters `regex: "*"` is no spelling of presence, only a mistake.
fn plain_regex(cx: &mut Check<'_>, path: &Path<'_>, value: &StringMatch) {
    match value {
        StringMatch::Regex(regex) if regex == "*" => cx.regex(&path.field("regex"), regex),
        StringMatch::Present => {
            cx.error(code::EMPTY_MATCH, path, "this compares with nothing", "give exact, prefix or regex, or remove it")
        }
        _ => {}
    }
}

fn header_matches(cx: &mut Check<'_>, path: &Path<'_>, map: &BTreeMap<String, StringMatch>) {
    for (name, value) in map {
        let path = path.key(name);
        if name.starts_with("@request.auth.claims") {
            cx.not_enforced(&path, "matching claims of a token");
        } else if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
            let help = format!("put it under `{name}` of the match");
            cx.warning(code::INEFFECTIVE, &path, format!("`{name}` under headers is ignored"), help);
        } else {
            cx.header_name(&path, name);
        }
        cx.string_match(&path, value, false);
    }
}

fn redirect(cx: &mut Check<'_>, path: &Path<'_>, body: &HttpRedirect) {
    let goes = !body.uri.is_empty() || !body.authority.is_empty() || !body.scheme.is_empty() || !body.prefix_rewrite.is_empty();
    if !goes && body.port.is_none() && body.derive_port.is_none() {
        let help = "give uri, prefixRewrite, authority, port or scheme";
        cx.error(code::REDIRECT, path, "this redirect leads back to where it came from", help);
    }
    if !body.uri.is_empty() && !body.prefix_rewrite.is_empty() {
        cx.error(code::REDIRECT, &path.field("prefixRewrite"), "`uri` and `prefixRewrite` exclude each other", "keep one of them");
    }
    if !matches!(body.redirect_code, 0 | 301 | 302 | 303 | 307 | 308) {
        let message = format!("{} is not a redirect", body.redirect_code);
        cx.error(code::STATUS_CODE, &path.field("redirectCode"), message, "301, 302, 303, 307 or 308");
    }
    if !matches!(body.scheme.as_str(), "" | "http" | "https") {
        cx.error(code::REDIRECT, &path.field("scheme"), format!("`{}` is not a scheme of HTTP", body.scheme), "http or https");
    }
    if let Some(port) = body.port {
        cx.port(&path.field("port"), port);
    }
}

fn direct_response(cx: &mut Check<'_>, path: &Path<'_>, body: &HttpDirectResponse) {
    if !(200..=599).contains(&body.status) {
        let message = if body.status == 0 { "a status is required".to_owned() } else { format!("{} is not a status", body.status) };
        cx.error(code::STATUS_CODE, &path.field("status"), message, "200 to 599");
    }
    let Some(content) = &body.body else { return };
    let path = path.field("body");
    let size = content.string.as_ref().map(String::len).or(content.bytes.as_ref().map(|bytes| bytes.0.len()));
    match size {
        None => cx.error(code::EMPTY_BLOCK, &path, "the body says nothing", "give string or bytes, or remove it"),
        Some(size) if size > MAX_BODY => {
            cx.error(code::BODY, &path, format!("the body has {size} bytes; at most {MAX_BODY} are allowed"), "")
        }
        Some(_) => {}
    }
}

fn rewrite(cx: &mut Check<'_>, path: &Path<'_>, body: &HttpRewrite) {
    if body.uri.is_empty() && body.authority.is_empty() && body.uri_regex_rewrite.is_none() {
        cx.error(code::REWRITE, path, "this rewrite changes nothing", "give uri, authority or uriRegexRewrite");
    }
    if let Some(regex) = &body.uri_regex_rewrite {
        let path = path.field("uriRegexRewrite");
        if !body.uri.is_empty() {
            cx.error(code::REWRITE, &path, "`uri` and `uriRegexRewrite` exclude each other", "keep one of them");
        }
        if cx.required(&path.field("match"), &regex.r#match, "the expression") {
            cx.regex(&path.field("match"), &regex.r#match);
        }
        if cx.required(&path.field("rewrite"), &regex.rewrite, "what to put in place")
            && let Some(problem) = substitution_problem(&regex.r#match, &regex.rewrite)
        {
            let message = format!("`{}` is no substitution: {problem}", regex.rewrite);
            cx.error(code::REWRITE, &path.field("rewrite"), message, "`\\1` is the first group, `\\0` the whole match, `\\\\` a backslash");
        }
    }
}

/// Also the rules of `defaultHttpRetryPolicy` and `defaultInboundHttpRetryPolicy`.
pub(super) fn retries(cx: &mut Check<'_>, path: &Path<'_>, body: &HttpRetry) {
    if body.attempts < 0 {
        cx.error(code::NEGATIVE, &path.field("attempts"), format!("{} is negative", body.attempts), "0 disables retries");
    }
    let others = [
        ("perTryTimeout", body.per_try_timeout.is_some()),
        ("retryOn", !body.retry_on.is_empty()),
        ("backoff", body.backoff.is_some()),
        ("retryRemoteLocalities", body.retry_remote_localities.is_some()),
        ("retryIgnorePreviousHosts", body.retry_ignore_previous_hosts.is_some()),
    ];
    if body.attempts == 0
        && let Some((name, _)) = others.iter().find(|(_, given)| *given)
    {
        let missing = !cx.has(&path.field("attempts"));
        let message =
            format!("`{name}` is set and `attempts` is {}: nothing would be retried", if missing { "missing, which means 0" } else { "0" });
        let at = if missing { path.field(name) } else { path.field("attempts") };
        cx.error(code::RETRIES_DISABLED, &at, message, "set attempts to 1 or more, or keep only `attempts: 0`");
    }
    cx.duration(&path.field("perTryTimeout"), body.per_try_timeout);
    cx.duration(&path.field("backoff"), body.backoff);
    if !body.retry_on.is_empty() {
        retry_on(cx, &path.field("retryOn"), &body.retry_on);
    }
}

fn retry_on(cx: &mut Check<'_>, path: &Path<'_>, words: &str) {
    for word in words.split(',') {
        let known = RETRY_WORDS.contains(&word) || word.parse::<u16>().is_ok_and(|code| is_status(code) && !word.starts_with('+'));
        if known {
            continue;
        }
        if word.trim() != word && RETRY_WORDS.contains(&word.trim()) {
            cx.error(code::RETRY_ON, path, format!("`{word}` has a space"), format!("write `{}`", words.replace(' ', "")));
            continue;
        }
        let close = crate::decode::suggestions(word.trim(), RETRY_WORDS.iter().copied());
        let help = match close.first() {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("status codes, and {}", RETRY_WORDS.join(", ")),
        };
        cx.error(code::RETRY_ON, path, format!("`{word}` is not a retry condition"), help);
    }
}

/// Codes that have a reason phrase (RFC 9110 and its registry).
fn is_status(code: u16) -> bool {
    matches!(code, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
}

fn fault(cx: &mut Check<'_>, path: &Path<'_>, body: &HttpFaultInjection) {
    if body.delay.is_none() && body.abort.is_none() {
        cx.error(code::FAULT, path, "this fault does nothing", "give delay or abort");
    }
    if let Some(delay) = &body.delay {
        fault_delay(cx, &path.field("delay"), delay);
    }
    if let Some(abort) = &body.abort {
        fault_abort(cx, &path.field("abort"), abort);
    }
}

fn fault_delay(cx: &mut Check<'_>, path: &Path<'_>, delay: &FaultDelay) {
    if delay.fixed_delay.is_none() && delay.exponential_delay.is_none() {
        cx.error(code::FAULT, path, "this delay has no length", "add `fixedDelay: 5s`");
    }
    cx.duration(&path.field("fixedDelay"), delay.fixed_delay);
    percentage(cx, path, delay.percentage.as_ref(), delay.percent);
    if !(0..=100).contains(&delay.percent) {
        cx.error(code::PERCENT, &path.field("percent"), format!("{} is not a percentage: 0 to 100", delay.percent), "");
    }
}

fn fault_abort(cx: &mut Check<'_>, path: &Path<'_>, abort: &FaultAbort) {
    if abort.http_status.is_none() && abort.grpc_status.is_none() && abort.http2_error.is_none() {
        cx.error(code::FAULT, path, "this abort has no status", "add `httpStatus: 503`, or grpcStatus");
    }
    if let Some(status) = abort.http_status
        && !(200..=599).contains(&status)
    {
        cx.error(code::STATUS_CODE, &path.field("httpStatus"), format!("{status} is not a status"), "200 to 599");
    }
    if let Some(status) = &abort.grpc_status
        && !GRPC_STATUSES.contains(&status.as_str())
    {
        let close = crate::decode::suggestions(&status.to_ascii_uppercase(), GRPC_STATUSES.iter().copied());
        let help = close.first().map_or("the upper-case name, such as UNAVAILABLE".to_owned(), |name| format!("did you mean `{name}`?"));
        cx.error(code::STATUS_CODE, &path.field("grpcStatus"), format!("`{status}` is not a gRPC status"), help);
    }
    percentage(cx, path, abort.percentage.as_ref(), 0);
}

fn percentage(cx: &mut Check<'_>, path: &Path<'_>, percentage: Option<&Percent>, old: i32) {
    match percentage {
        Some(percentage) => cx.percent(&path.field("percentage").field("value"), percentage.value),
        None if old == 0 => {
            let help = "add `percentage: {value: 100}` for every request";
            cx.warning(code::INEFFECTIVE, path, "without a percentage this fault never happens", help);
        }
        None => {}
    }
}

fn cors(cx: &mut Check<'_>, path: &Path<'_>, body: &CorsPolicy) {
    for (index, origin) in body.allow_origins.iter().enumerate() {
        cx.string_match(&path.field("allowOrigins").index(index), origin, false);
    }
    for (index, method) in body.allow_methods.iter().enumerate() {
        if method != "*" {
            cx.header_name(&path.field("allowMethods").index(index), method);
        }
    }
    for (name, list) in [("allowHeaders", &body.allow_headers), ("exposeHeaders", &body.expose_headers)] {
        for (index, header) in list.iter().enumerate() {
            cx.header_name(&path.field(name).index(index), header);
        }
    }
    cx.duration_or_zero(&path.field("maxAge"), body.max_age);
}

fn mirrors(cx: &mut Check<'_>, path: &Path<'_>, route: &HttpRoute) {
    if let Some(mirror) = &route.mirror {
        destination(cx, &path.field("mirror"), Some(mirror));
        if !route.mirrors.is_empty() {
            cx.error(code::MIRROR, &path.field("mirrors"), "`mirror` and `mirrors` exclude each other", "keep `mirrors`");
        }
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = path.field("mirrors");
        let path = path.index(index);
        destination(cx, &path.field("destination"), mirror.destination.as_ref());
        if let Some(percentage) = &mirror.percentage {
            cx.percent(&path.field("percentage").field("value"), percentage.value);
        }
    }
    if let Some(percentage) = &route.mirror_percentage {
        cx.percent(&path.field("mirrorPercentage").field("value"), percentage.value);
    }
    if let Some(percent) = route.mirror_percent.filter(|percent| *percent > 100) {
        cx.error(code::PERCENT, &path.field("mirrorPercent"), format!("{percent} is not a percentage: 0 to 100"), "");
    }
}

fn headers(cx: &mut Check<'_>, path: &Path<'_>, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    for (name, operations) in [("request", &headers.request), ("response", &headers.response)] {
        if let Some(operations) = operations {
            header_operations(cx, &path.field(name), operations, name == "request");
        }
    }
}

fn header_operations(cx: &mut Check<'_>, path: &Path<'_>, operations: &HeaderOperations, request: bool) {
    for (field, map) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in map {
            let path = path.field(field);
            let path = path.key(name);
            operated_header(cx, &path, name, request);
            header_value(cx, &path, value);
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        let path = path.field("remove");
        let path = path.index(index);
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            cx.error(code::HEADER_NAME, &path, format!("`{name}` cannot be removed: a request needs it"), "");
        } else {
            cx.header_name(&path, name);
        }
    }
}

fn operated_header(cx: &mut Check<'_>, path: &Path<'_>, name: &str, request: bool) {
    match name {
        ":authority" if request => {}
        _ if name.starts_with(':') => {
            cx.error(code::HEADER_NAME, path, format!("`{name}` cannot be set"), "use rewrite, or `:authority` of a request")
        }
        _ => cx.header_name(path, name),
    }
}

/// Values are the proxy's format strings: `%…%` is an operator, and a percent sign is written twice.
fn header_value(cx: &mut Check<'_>, path: &Path<'_>, value: &str) {
    if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return cx.error(code::HEADER_VALUE, path, "a header value cannot have line breaks", "");
    }
    let mut rest = value;
    while let Some(start) = rest.find('%') {
        let tail = &rest[start + 1..];
        if let Some(after) = tail.strip_prefix('%') {
            rest = after;
            continue;
        }
        let operator = operator_end(tail);
        match operator {
            Some(end) => rest = &tail[end + 1..],
            None => {
                return cx.error(code::HEADER_VALUE, path, format!("`{value}` has a single percent sign"), "write `%%` for a percent sign");
            }
        }
    }
}

/// Where the operator that starts after a `%` ends: `NAME%`, `NAME(argument)%`, `NAME(argument):10%`.
fn operator_end(text: &str) -> Option<usize> {
    let name = text.bytes().take_while(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_').count();
    let mut end = name;
    if text[end..].starts_with('(') {
        end += text[end..].find(')')? + 1;
    }
    if text[end..].starts_with(':') {
        end += 1 + text[end + 1..].bytes().take_while(u8::is_ascii_digit).count();
    }
    (name > 0 && text[end..].starts_with('%')).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_end_at_their_percent_sign() {
        let cases = [
            ("REQ(x-a)% rest", Some(8)),
            ("START_TIME(%Y-%m)%", Some(17)),
            ("REQ(a):10%", Some(9)),
            ("PROTOCOL%", Some(8)),
            ("20", None),
            (" off%", None),
            ("%", None),
            ("A(", None),
        ];
        for (text, want) in cases {
            assert_eq!(operator_end(text), want, "{text}");
        }
    }
}
