//! Route tables as compiled: virtual hosts found by domain, routes with matchers and actions. Plain data and pure rules.
//!
//! In:  `RouteConfiguration`, `VirtualHost` (inline or by VHDS), read by `config::compile`.
//! Out: [`RouteTable`]s for `route::select`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::bytes::Regex;

use super::cluster::ClusterName;
use crate::route::template::Template;

/// One route configuration. Rebuilt when any of its virtual hosts changes; unchanged virtual hosts keep their `Arc`.
#[derive(Debug)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    domains: Domains,
    /// Strip the port from the authority before the look-up of a virtual host. Source: `ignore_port_in_host_matching`.
    pub ignore_port: bool,
    /// Applied after those of the route and of the virtual host. Source: `request_headers_to_add`, `request_headers_to_remove`.
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
}

/// A domain that two virtual hosts of one table claim. Envoy refuses the table; so do we.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("domain {domain} is claimed by virtual hosts {first} and {second}")]
pub struct DuplicateDomain {
    pub domain: Box<str>,
    pub first: Arc<str>,
    pub second: Arc<str>,
}

impl RouteTable {
    /// Index the virtual hosts by their domains.
    ///
    /// # Errors
    /// When two virtual hosts claim one domain.
    pub fn new(name: impl Into<Arc<str>>, virtual_hosts: Vec<Arc<VirtualHost>>) -> Result<Self, DuplicateDomain> {
        let domains = Domains::new(&virtual_hosts)?;
        Ok(Self {
            name: name.into(),
            virtual_hosts,
            domains,
            ignore_port: false,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        })
    }

    /// The virtual host for an authority (`host` or `host:port`): exact, then the longest `*suffix`, then the longest `prefix*`, then `*`.
    /// Letter case does not matter.
    ///
    /// Source: Envoy `RouteMatcher::findVirtualHost`.
    pub fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        self.domains.find(authority).map(|index| &self.virtual_hosts[index as usize])
    }
}

/// An authority without its port; IPv6 literals keep their brackets.
pub fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') && authority[colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => {
            &authority[..colon]
        }
        _ => authority,
    }
}

type ByText = HashMap<Box<str>, u32, foldhash::fast::RandomState>;

/// The look-up tables, keys in lower case.
#[derive(Debug, Default)]
struct Domains {
    exact: ByText,
    /// Per length, longest first: what follows the `*`.
    suffixes: Vec<(usize, ByText)>,
    /// Per length, longest first: what precedes the `*`.
    prefixes: Vec<(usize, ByText)>,
    any: Option<u32>,
}

impl Domains {
    fn new(virtual_hosts: &[Arc<VirtualHost>]) -> Result<Self, DuplicateDomain> {
        let mut domains = Self::default();
        for (index, host) in virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                // A table has far fewer than 2^32 hosts: resources are bounded by the size of a message.
                domains.insert(domain, index as u32).map_err(|first| DuplicateDomain {
                    domain: domain.clone(),
                    first: Arc::clone(&virtual_hosts[first as usize].name),
                    second: Arc::clone(&host.name),
                })?;
            }
        }
        for list in [&mut domains.suffixes, &mut domains.prefixes] {
            list.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        }
        Ok(domains)
    }

    fn insert(&mut self, domain: &str, index: u32) -> Result<(), u32> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return match self.any.replace(index) {
                Some(first) => Err(first),
                None => Ok(()),
            };
        }
        let (map, key) = if let Some(suffix) = domain.strip_prefix('*') {
            (by_length(&mut self.suffixes, suffix.len()), suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (by_length(&mut self.prefixes, prefix.len()), prefix)
        } else {
            (&mut self.exact, &*domain)
        };
        match map.entry(key.into()) {
            Entry::Occupied(entry) => Err(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(index);
                Ok(())
            }
        }
    }

    fn find(&self, authority: &str) -> Option<u32> {
        // Authorities come in lower case nearly always: only then is a copy needed.
        if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower_case(&authority.to_ascii_lowercase());
        }
        self.find_lower_case(authority)
    }

    fn find_lower_case(&self, authority: &str) -> Option<u32> {
        if let Some(index) = self.exact.get(authority) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        for (length, map) in &self.suffixes {
            if authority.len() > *length
                && let Some(suffix) = authority.get(authority.len() - length..)
                && let Some(index) = map.get(suffix)
            {
                return Some(*index);
            }
        }
        for (length, map) in &self.prefixes {
            if authority.len() > *length
                && let Some(prefix) = authority.get(..*length)
                && let Some(index) = map.get(prefix)
            {
                return Some(*index);
            }
        }
        self.any
    }
}

fn by_length(list: &mut Vec<(usize, ByText)>, length: usize) -> &mut ByText {
    let at = match list.iter().position(|(other, _)| *other == length) {
        Some(at) => at,
        None => {
            list.push((length, ByText::default()));
            list.len() - 1
        }
    };
    &mut list[at].1
}

/// One virtual host: the routes of a set of domains.
#[derive(Debug, Default)]
pub struct VirtualHost {
    pub name: Arc<str>,
    /// `host`, `*.suffix`, `prefix*` or `*`, with or without a port.
    pub domains: Vec<Box<str>>,
    /// First match wins.
    pub routes: Vec<Arc<Route>>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// Requests carry `x-envoy-attempt-count`. Source: `include_request_attempt_count`.
    pub attempt_count_to_upstream: bool,
    /// Responses carry it too. Source: `include_attempt_count_in_response`.
    pub attempt_count_to_downstream: bool,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// For logs (`%ROUTE_NAME%`); may be empty.
    pub name: Arc<str>,
    pub matches: RouteMatch,
    pub action: RouteAction,
    /// Source: `typed_per_filter_config["envoy.filters.http.fault"]`.
    pub fault: Option<Fault>,
    /// Source: `typed_per_filter_config["envoy.filters.http.cors"]`. Only for routes that forward.
    pub cors: Option<Box<Cors>>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
}

/// All conditions must hold. Source: `RouteMatch`.
#[derive(Debug)]
pub struct RouteMatch {
    pub path: PathMatch,
    /// `false`: exact and prefix ignore letter case. Source: `case_sensitive` (true).
    pub case_sensitive: bool,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Only requests with a gRPC content type. Source: `grpc`.
    pub grpc: bool,
    /// Match only this share of requests. Source: `runtime_fraction.default_value`.
    pub fraction: Option<Fraction>,
}

/// Looks at the path without query and fragment. Source: `RouteMatch.path_specifier`.
#[derive(Debug)]
pub enum PathMatch {
    /// Prefix `/`: everything.
    Any,
    /// Also the empty one, of which a rewrite replaces nothing.
    Prefix(Box<str>),
    /// A prefix that ends at a segment: `/foo` matches `/foo` and `/foo/x`, not `/foobar`.
    SegmentPrefix(Box<str>),
    Exact(Box<str>),
    /// Built by [`anchored`](super::expression::anchored).
    Regex(Arc<Regex>),
    /// Only `CONNECT` requests. Source: `connect_matcher`.
    Connect,
}

/// A share of events: `numerator` of `denominator` (100, 10 000 or 1 000 000).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: u32,
}

impl Fraction {
    pub const ALWAYS: Self = Self { numerator: 100, denominator: 100 };

    /// Whether an event happens, given a uniformly random number.
    pub fn hit(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

/// A condition on one header or pseudo-header. Source: `HeaderMatcher`.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    pub header: HeaderKey,
    pub value: ValueMatch,
    pub invert: bool,
    /// A missing header is compared as the empty string. Source: `treat_missing_header_as_empty`.
    pub missing_is_empty: bool,
}

/// What a header matcher looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    Method,
    Authority,
    Scheme,
    /// Path with query.
    Path,
    /// Several values are joined with `,` before the comparison.
    Name(HeaderName),
}

/// A condition on a value. Source: `HeaderMatcher.header_match_specifier`, `StringMatcher`.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// `true`: there is a value; `false`: there is none. Source: `present_match`.
    Present(bool),
    Text(TextMatch),
    /// The value is a decimal integer in start..end. Source: `range_match`.
    Range {
        start: i64,
        end: i64,
    },
}

/// A text condition. With `ignore_case`, `text` is in lower case (`compile` sees to it). Source: `StringMatcher`.
#[derive(Debug, Clone)]
pub enum TextMatch {
    Exact {
        text: Box<str>,
        ignore_case: bool,
    },
    Prefix {
        text: Box<str>,
        ignore_case: bool,
    },
    Suffix {
        text: Box<str>,
        ignore_case: bool,
    },
    Contains {
        text: Box<str>,
        ignore_case: bool,
    },
    /// Built by [`anchored`](super::expression::anchored).
    Regex(Arc<Regex>),
}

/// A condition on the first occurrence of a query parameter. Source: `QueryParameterMatcher`.
#[derive(Debug)]
pub struct QueryMatch {
    pub name: Box<str>,
    /// `None`: present.
    pub value: Option<TextMatch>,
}

/// What a route does.
#[derive(Debug)]
pub enum RouteAction {
    Forward(Forward),
    Redirect(Redirect),
    Direct(DirectResponse),
}

/// Send the request to a cluster. Source: `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    pub cluster: ClusterChoice,
    /// Whole exchange, every try included, from the end of the request. `None`: no limit. Source: `timeout` (15 s when unset, 0 is none).
    pub timeout: Option<Duration>,
    /// What `grpc-timeout` may do. Source: `max_grpc_timeout`, `max_stream_duration.grpc_timeout_header_max`.
    pub grpc_timeout: GrpcTimeout,
    /// Overrides the manager's `stream_idle_timeout`. `Some(None)` is never. Source: `idle_timeout`.
    pub idle_timeout: Option<Option<Duration>>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub path: PathRewrite,
    pub host: HostRewrite,
    /// Add `x-forwarded-host` when the host is rewritten. Source: `append_x_forwarded_host`.
    pub append_forwarded_host: bool,
    /// Reply when the cluster is not there. Source: `cluster_not_found_response_code` (503).
    pub cluster_not_found: StatusCode,
    /// Upgrades of this route beside the manager's: (token in lower case, allowed). Source: `RouteAction.upgrade_configs`.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Copies of the request, each drawn by itself. Source: `request_mirror_policies`.
    pub mirrors: Box<[Mirror]>,
}

impl Forward {
    /// To one cluster, everything else at its default (no timeout, no retry).
    pub fn to(cluster: impl Into<ClusterName>) -> Self {
        Self {
            cluster: ClusterChoice::Single(cluster.into()),
            timeout: None,
            grpc_timeout: GrpcTimeout::Ignore,
            idle_timeout: None,
            retry: None,
            path: PathRewrite::None,
            host: HostRewrite::None,
            append_forwarded_host: false,
            cluster_not_found: StatusCode::SERVICE_UNAVAILABLE,
            upgrades: Vec::new(),
            mirrors: Box::default(),
        }
    }
}

/// A copy of requests for another cluster; nobody waits for its answer. Source: `RequestMirrorPolicy`.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub cluster: ClusterName,
    /// Source: `runtime_fraction.default_value` (all).
    pub share: Fraction,
    /// The copy's host ends in `-shadow`. Source: `disable_shadow_host_suffix_append` (false).
    pub shadow_host: bool,
    /// The copy's host. Source: `host_rewrite_literal`.
    pub host: Option<HeaderValue>,
}

/// How a request's `grpc-timeout` bounds it, beside `timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcTimeout {
    Ignore,
    /// Replaces the route's timeout, as it is (`max_grpc_timeout: 0`).
    Uncapped,
    /// Replaces the route's timeout, at most this long.
    AtMost(Duration),
}

/// Which cluster.
#[derive(Debug)]
pub enum ClusterChoice {
    Single(ClusterName),
    /// Never empty, the total never 0.
    Weighted(WeightedClusters),
    /// The cluster that this request header names. Source: `cluster_header`.
    Header(HeaderName),
}

/// Source: `WeightedCluster`. Entries of weight 0 may stay; they are never chosen.
#[derive(Debug)]
pub struct WeightedClusters {
    pub entries: Vec<WeightedCluster>,
    /// Sum of all weights, at least 1.
    pub total: u64,
}

#[derive(Debug)]
pub struct WeightedCluster {
    pub name: ClusterName,
    /// Sum of the weights up to and including this entry.
    pub up_to: u64,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// Source: `host_rewrite_literal` of the entry; loses against the route's.
    pub host: Option<HeaderValue>,
}

/// Source: `prefix_rewrite`, `regex_rewrite`, `path_rewrite`.
#[derive(Debug)]
pub enum PathRewrite {
    None,
    /// Replaces what a prefix or exact matcher matched.
    Prefix(Box<str>),
    /// Replaces every match of an (unanchored) expression; `substitution` in Rust's `$` syntax, made by [`substitution`].
    Regex {
        expression: Arc<Regex>,
        substitution: Bytes,
    },
    /// Replaces the whole path, query kept.
    Whole(Box<str>),
}

/// Rewrite RE2's substitution (`\1`, `\\`) for the `regex` crate (`${1}`, `$$`).
pub fn substitution(re2: &str) -> Bytes {
    let mut text = Vec::with_capacity(re2.len() + 8);
    let mut bytes = re2.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'$' => text.extend_from_slice(b"$$"),
            b'\\' => match bytes.next() {
                Some(digit) if digit.is_ascii_digit() => text.extend_from_slice(&[b'$', b'{', digit, b'}']),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text.into()
}

/// Source: `host_rewrite_literal`, `auto_host_rewrite`, `host_rewrite_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRewrite {
    None,
    Literal(HeaderValue),
    Header(HeaderName),
}

/// When and how often to try again. Source: `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Tries after the first. Source: `num_retries` (1 when unset).
    pub retries: u32,
    pub on: RetryOn,
    /// For [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<u16>,
    /// For [`RetryOn::RETRIABLE_HEADERS`]: response headers, any of them.
    pub headers: Vec<HeaderMatch>,
    /// Retry only requests that match any of these; empty: all. Source: `retriable_request_headers`.
    pub request_headers: Vec<HeaderMatch>,
    /// Of each try. `None`: the route's timeout alone. Source: `per_try_timeout`.
    pub per_try_timeout: Option<Duration>,
    /// First back-off is up to this, then it doubles. Source: `retry_back_off.base_interval` (25 ms).
    pub back_off_base: Duration,
    /// Source: `retry_back_off.max_interval` (10 x base).
    pub back_off_max: Duration,
    /// Prefer endpoints not tried yet. Source: `envoy.retry_host_predicates.previous_hosts`.
    pub avoid_previous_hosts: bool,
    /// How often to choose again before a used endpoint is taken. Source: `host_selection_retry_max_attempts`.
    pub host_selection_attempts: u32,
    /// Bytes of a request's body kept for another try. Source: `per_request_buffer_limit_bytes` (64 KiB).
    pub buffer_limit: usize,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 1,
            on: RetryOn::NONE,
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            per_try_timeout: None,
            back_off_base: Duration::from_millis(25),
            back_off_max: Duration::from_millis(250),
            avoid_previous_hosts: false,
            host_selection_attempts: 1,
            buffer_limit: 64 << 10,
        }
    }
}

/// A set of retry conditions. Source: `RetryPolicy.retry_on` and the `x-envoy-retry-on`, `x-envoy-retry-grpc-on` words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(pub u32);

impl RetryOn {
    pub const NONE: Self = Self(0);
    pub const SERVER_ERROR: Self = Self(1);
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    pub const RESET: Self = Self(1 << 2);
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    pub const REFUSED_STREAM: Self = Self(1 << 6);
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 7);
    pub const RETRIABLE_HEADERS: Self = Self(1 << 8);
    pub const ENVOY_RATE_LIMITED: Self = Self(1 << 9);
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);
    pub const GRPC_CANCELLED: Self = Self(1 << 11);
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 12);
    pub const GRPC_INTERNAL: Self = Self(1 << 13);
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 14);
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 15);
    /// All that look at gRPC's status.
    pub const GRPC: Self = Self::GRPC_CANCELLED
        .and(Self::GRPC_DEADLINE_EXCEEDED)
        .and(Self::GRPC_INTERNAL)
        .and(Self::GRPC_RESOURCE_EXHAUSTED)
        .and(Self::GRPC_UNAVAILABLE);

    const WORDS: [(&'static str, Self); 16] = [
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("envoy-ratelimited", Self::ENVOY_RATE_LIMITED),
        ("http3-post-connect-failure", Self::HTTP3_POST_CONNECT_FAILURE),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("internal", Self::GRPC_INTERNAL),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
    ];

    /// Conditions of a comma-separated list, and the words that name none.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let mut on = Self::NONE;
        let mut unknown = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match Self::WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, condition)) => on = on.and(*condition),
                None => unknown.push(word),
            }
        }
        (on, unknown)
    }

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any condition of `other` is in the set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Source: `RedirectAction`. What is `None` stays as it was in the request.
#[derive(Debug)]
pub struct Redirect {
    pub scheme: Option<RedirectScheme>,
    pub host: Option<Box<str>>,
    /// 0 in the resource is `None`.
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub status: StatusCode,
    pub strip_query: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectScheme {
    Http,
    Https,
}

#[derive(Debug)]
pub enum RedirectPath {
    Keep,
    /// May carry its own query, which then replaces the request's.
    Whole(Box<str>),
    /// Replaces what the matcher matched.
    Prefix(Box<str>),
    Regex {
        expression: Arc<Regex>,
        substitution: Bytes,
    },
}

/// Source: `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    pub status: StatusCode,
    /// At most 1 MiB.
    pub body: Bytes,
}

/// Who may call from a browser. Source: `CorsPolicy` of the cors filter, the route's fields over the virtual host's.
#[derive(Debug, Clone)]
pub struct Cors {
    /// The share of requests the filter looks at. Source: `filter_enabled` (all).
    pub share: Fraction,
    /// Any of them. Source: `allow_origin_string_match`.
    pub origins: Vec<TextMatch>,
    /// A rule of `origins` takes `*`, so every origin is allowed.
    pub any_origin: bool,
    pub methods: CorsList,
    pub headers: CorsList,
    pub expose: Option<HeaderValue>,
    pub max_age: Option<HeaderValue>,
    pub credentials: bool,
    pub private_network: bool,
    /// Preflights of origins that are not allowed go to the upstream. Source: `forward_not_matching_preflights` (true).
    pub forward_unmatched: bool,
}

/// What a preflight is told to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsList {
    /// Nothing is said.
    Unsaid,
    /// What was asked for. Source: `*`.
    Asked,
    Fixed(HeaderValue),
}

/// Injected faults. Delay and abort are drawn independently. Source: `HTTPFault`.
#[derive(Debug, Default)]
pub struct Fault {
    pub delay: Option<(Fraction, Duration)>,
    pub abort: Option<(Fraction, FaultAbort)>,
    /// The fault applies only to requests that match all of these.
    pub headers: Vec<HeaderMatch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbort {
    Http(StatusCode),
    /// Number of a gRPC status.
    Grpc(u16),
}

/// Changes of headers: removal comes first, as Envoy does; values are computed from the headers before any change.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    pub remove: Vec<HeaderName>,
    pub add: Vec<HeaderAddition>,
}

impl HeaderMutations {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// Source: `HeaderValueOption`.
#[derive(Debug, Clone)]
pub struct HeaderAddition {
    pub name: HeaderName,
    /// Built by `Template::parse`, which knows the `%…%` operators.
    pub value: Template,
    pub action: AppendAction,
    /// Add it also when the value comes out empty. Source: `keep_empty_value`.
    pub keep_empty: bool,
}

/// Source: `HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendAction {
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hosts: &[(&str, &[&str])]) -> Result<RouteTable, DuplicateDomain> {
        let hosts = hosts.iter().map(|(name, domains)| {
            Arc::new(VirtualHost {
                name: (*name).into(),
                domains: domains.iter().map(|domain| (*domain).into()).collect(),
                ..VirtualHost::default()
            })
        });
        RouteTable::new("test", hosts.collect())
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let table = table(&[
            ("exact", &["foo.com", "foo.com:8080"]),
            ("suffix", &["*.foo.com"]),
            ("longer suffix", &["*.bar.foo.com"]),
            ("prefix", &["foo.*"]),
            ("any", &["*"]),
        ])
        .unwrap();
        let cases = [
            ("foo.com", "exact"),
            ("FOO.com", "exact"),
            ("foo.com:8080", "exact"),
            ("foo.com:81", "prefix"),
            ("a.foo.com", "suffix"),
            ("a.bar.foo.com", "longer suffix"),
            (".foo.com", "any"),
            ("foo.net", "prefix"),
            ("", "any"),
            ("é.foo.com", "suffix"),
        ];
        for (authority, want) in cases {
            assert_eq!(&*table.virtual_host(authority).unwrap().name, want, "{authority}");
        }
    }

    #[test]
    fn ports_are_ignored_when_the_table_says_so() {
        let mut table = table(&[("a", &["foo.com"]), ("v6", &["[::1]"])]).unwrap();
        assert!(table.virtual_host("foo.com:80").is_none());
        table.ignore_port = true;
        assert_eq!(&*table.virtual_host("foo.com:80").unwrap().name, "a");
        assert_eq!(&*table.virtual_host("[::1]:80").unwrap().name, "v6");
        assert_eq!(&*table.virtual_host("[::1]").unwrap().name, "v6");
    }

    #[test]
    fn a_domain_belongs_to_one_virtual_host() {
        type Hosts<'a> = &'a [(&'a str, &'a [&'a str])];
        let cases: [(&str, Hosts<'_>); 3] = [
            ("exact", &[("a", &["x"]), ("b", &["X"])]),
            ("suffix", &[("a", &["*.x"]), ("b", &["*.x"])]),
            ("any", &[("a", &["*"]), ("b", &["*"])]),
        ];
        for (name, hosts) in cases {
            let error = table(hosts).unwrap_err();
            assert_eq!((&*error.first, &*error.second), ("a", "b"), "{name}");
        }
    }

    #[test]
    fn retry_words_are_read_and_unknown_ones_returned() {
        let cases = [
            ("5xx,reset", RetryOn::SERVER_ERROR.and(RetryOn::RESET), vec![]),
            (" unavailable , nonsense", RetryOn::GRPC_UNAVAILABLE, vec!["nonsense"]),
            ("", RetryOn::NONE, vec![]),
        ];
        for (list, on, unknown) in cases {
            assert_eq!(RetryOn::parse(list), (on, unknown), "{list}");
        }
    }

    #[test]
    fn substitutions_of_re2_become_those_of_the_regex_crate() {
        let cases = [(r"/v2/\1", "/v2/${1}"), ("a$b", "a$$b"), (r"\\x", r"\x"), (r"\0-\2", "${0}-${2}")];
        for (re2, want) in cases {
            assert_eq!(substitution(re2), want.as_bytes(), "{re2}");
        }
    }
}
