//! The choice of a route, and of a cluster where the route has several.
//!
//! In:  a route table, a request's head, random numbers.
//! Out: the first route that matches; the cluster.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Head;
use crate::config::cluster::ClusterName;
use crate::config::route_table::{
    ClusterChoice, HeaderKey, HeaderMatch, PathMatch, QueryMatch, Route, RouteMatch, RouteTable, TextMatch, ValueMatch, VirtualHost,
    WeightedCluster, WeightedClusters,
};

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// No virtual host has the authority, or no route of it matches.
    NotFound,
}

/// The virtual host of the authority and its first route that matches.
///
/// # Errors
/// When there is none.
pub fn select<'t>(
    table: &'t RouteTable,
    head: &Head<'_>,
    random: impl FnOnce() -> u64,
) -> Result<(&'t Arc<VirtualHost>, &'t Arc<Route>), NoRoute> {
    let host = table.virtual_host(head.authority).ok_or(NoRoute::NotFound)?;
    let mut random = Draw { make: Some(random), drawn: 0 };
    let route = host.routes.iter().find(|route| matches(&route.matches, head, &mut random)).ok_or(NoRoute::NotFound)?;
    Ok((host, route))
}

/// One random number per request, drawn when first needed: a request that misses one share must not get a second chance at the next route's.
struct Draw<R> {
    make: Option<R>,
    drawn: u64,
}

impl<R: FnOnce() -> u64> Draw<R> {
    fn get(&mut self) -> u64 {
        if let Some(make) = self.make.take() {
            self.drawn = make();
        }
        self.drawn
    }
}

fn matches<R: FnOnce() -> u64>(rule: &RouteMatch, head: &Head<'_>, random: &mut Draw<R>) -> bool {
    matches_path(&rule.path, rule.case_sensitive, head)
        && rule.headers.iter().all(|wanted| matches_header(wanted, head))
        && (rule.query.is_empty() || matches_query(&rule.query, head.uri.query().unwrap_or("")))
        && (!rule.grpc || head.grpc)
        && rule.fraction.is_none_or(|fraction| fraction.hit(random.get()))
}

fn matches_path(rule: &PathMatch, case_sensitive: bool, head: &Head<'_>) -> bool {
    // A `CONNECT` has no path, so no other rule applies to it. Source: Envoy `RouteEntryImplBase::supportsPathlessHeaders`.
    let connect = head.method == http::Method::CONNECT;
    if connect || matches!(rule, PathMatch::Connect) {
        return connect && matches!(rule, PathMatch::Connect);
    }
    let path = head.path();
    let starts = |prefix: &str| match path.as_bytes().get(..prefix.len()) {
        Some(start) if case_sensitive => start == prefix.as_bytes(),
        Some(start) => start.eq_ignore_ascii_case(prefix.as_bytes()),
        None => false,
    };
    match rule {
        PathMatch::Any => true,
        PathMatch::Prefix(prefix) => starts(prefix),
        PathMatch::SegmentPrefix(prefix) => starts(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/')),
        PathMatch::Exact(text) if case_sensitive => path == &**text,
        PathMatch::Exact(text) => path.eq_ignore_ascii_case(text),
        PathMatch::Regex(regex) => regex.is_match(path.as_bytes()),
        PathMatch::Connect => false,
    }
}

/// Whether a request fulfils a condition on a header or pseudo-header. Source: Envoy `HeaderUtility::matchHeaders`.
pub fn matches_header(wanted: &HeaderMatch, head: &Head<'_>) -> bool {
    match &wanted.header {
        HeaderKey::Name(name) => matches_values(wanted, head.headers, name),
        key => matches_any(wanted, head.value(key).into_iter()),
    }
}

/// Whether a response's headers fulfil a condition.
pub fn matches_response_header(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    match &wanted.header {
        HeaderKey::Name(name) => matches_values(wanted, headers, name),
        _ => false,
    }
}

fn matches_values(wanted: &HeaderMatch, headers: &HeaderMap, name: &HeaderName) -> bool {
    matches_any(wanted, headers.get_all(name).iter().map(HeaderValue::as_bytes))
}

/// One of several lines is enough, and for an inverted condition one too many: each is looked at by itself. Source: Envoy since 1.39,
/// `envoy.reloadable_features.match_headers_individually`.
fn matches_any<'a>(wanted: &HeaderMatch, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    let first = match values.next() {
        Some(value) => value,
        None if wanted.missing_is_empty => b"",
        // A missing value fulfils only conditions on presence.
        None => return matches!(wanted.value, ValueMatch::Present(present) if present == wanted.invert),
    };
    (matches_value(wanted, first) || values.any(|value| matches_value(wanted, value))) != wanted.invert
}

fn matches_value(wanted: &HeaderMatch, value: &[u8]) -> bool {
    match &wanted.value {
        ValueMatch::Present(present) => *present,
        ValueMatch::Text(text) => matches_text(text, value),
        ValueMatch::Range { start, end } => {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<i64>().ok());
            number.is_some_and(|number| (*start..*end).contains(&number))
        }
    }
}

/// Whether a text fulfils a condition.
pub fn matches_text(rule: &TextMatch, value: &[u8]) -> bool {
    let same = |a: &[u8], b: &str, ignore_case: bool| if ignore_case { a.eq_ignore_ascii_case(b.as_bytes()) } else { a == b.as_bytes() };
    match rule {
        TextMatch::Exact { text, ignore_case } => same(value, text, *ignore_case),
        TextMatch::Prefix { text, ignore_case } => value.get(..text.len()).is_some_and(|start| same(start, text, *ignore_case)),
        TextMatch::Suffix { text, ignore_case } => {
            value.len().checked_sub(text.len()).is_some_and(|at| same(&value[at..], text, *ignore_case))
        }
        TextMatch::Contains { text, ignore_case } => {
            text.is_empty() || value.windows(text.len()).any(|window| same(window, text, *ignore_case))
        }
        TextMatch::Regex(regex) => regex.is_match(value),
    }
}

/// Each condition looks at the first occurrence of its parameter.
fn matches_query(rules: &[QueryMatch], query: &str) -> bool {
    rules.iter().all(|rule| {
        let first = query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == &*rule.name).then_some(value)
        });
        match (first, &rule.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(rule)) => matches_text(rule, value.as_bytes()),
        }
    })
}

/// The cluster that a request goes to.
#[derive(Debug)]
pub enum Chosen<'t> {
    Cluster(&'t ClusterName),
    /// One of several, with its own header changes.
    Weighted(&'t WeightedCluster),
    /// Named by a header.
    Named(ClusterName),
    /// The header that should name it is missing.
    None,
}

impl<'t> Chosen<'t> {
    pub fn name(&self) -> Option<&ClusterName> {
        match self {
            Self::Cluster(name) => Some(name),
            Self::Weighted(entry) => Some(&entry.name),
            Self::Named(name) => Some(name),
            Self::None => None,
        }
    }

    /// The entry among several.
    pub fn entry(&self) -> Option<&'t WeightedCluster> {
        match self {
            Self::Weighted(entry) => Some(entry),
            Self::Cluster(_) | Self::Named(_) | Self::None => None,
        }
    }
}

/// Choose by the route's rule; several are drawn by weight.
pub fn choose<'t>(choice: &'t ClusterChoice, headers: &HeaderMap, random: impl FnOnce() -> u64) -> Chosen<'t> {
    match choice {
        ClusterChoice::Single(name) => Chosen::Cluster(name),
        ClusterChoice::Weighted(clusters) => match weighted(clusters, random()) {
            Some(entry) => Chosen::Weighted(entry),
            None => Chosen::None,
        },
        ClusterChoice::Header(name) => match headers.get(name).and_then(|value| value.to_str().ok()) {
            Some(name) if !name.is_empty() => Chosen::Named(ClusterName::new(name)),
            _ => Chosen::None,
        },
    }
}

/// The entry that a uniformly random number falls on.
pub fn weighted(clusters: &WeightedClusters, random: u64) -> Option<&WeightedCluster> {
    let at = random % clusters.total.max(1);
    clusters.entries.iter().find(|entry| at < entry.up_to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::expression::anchored;
    use crate::config::route_table::{Forward, Fraction, HeaderMutations, RouteAction};
    use http::{Method, Uri};

    fn head_with<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Head<'a> {
        Head { method: &Method::GET, authority: "shop:80", uri, headers, grpc: false }
    }

    fn path_case(rule: &PathMatch, case_sensitive: bool, path: &str) -> bool {
        let (uri, headers) = (path.parse().unwrap(), HeaderMap::new());
        matches_path(rule, case_sensitive, &head_with(&uri, &headers))
    }

    #[test]
    fn paths_match_without_query() {
        let prefix = PathMatch::Prefix("/api".into());
        let segment = PathMatch::SegmentPrefix("/api".into());
        let exact = PathMatch::Exact("/api".into());
        let regex = PathMatch::Regex(anchored("/a.i").unwrap());
        let cases = [
            (&prefix, true, "/api/x", true),
            (&prefix, true, "/apis", true),
            (&prefix, true, "/API", false),
            (&prefix, false, "/API/x", true),
            (&prefix, true, "/ap", false),
            (&segment, true, "/api", true),
            (&segment, true, "/api/x", true),
            (&segment, true, "/api?x", true),
            (&segment, true, "/apis", false),
            (&exact, true, "/api?q=1", true),
            (&exact, true, "/api/", false),
            (&exact, false, "/Api", true),
            (&regex, true, "/api?q", true),
            (&regex, true, "/api/", false),
            (&PathMatch::Any, true, "/x", true),
        ];
        for (rule, case_sensitive, path, want) in cases {
            assert_eq!(path_case(rule, case_sensitive, path), want, "{rule:?} {path}");
        }
    }

    fn text(value: &str) -> ValueMatch {
        ValueMatch::Text(TextMatch::Exact { text: value.into(), ignore_case: false })
    }

    #[test]
    fn headers_match_as_in_envoy() {
        let uri: Uri = "/x?y".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x-user", "maria".parse().unwrap());
        headers.append("x-many", "a".parse().unwrap());
        headers.append("x-many", "b".parse().unwrap());
        headers.append("x-size", "12".parse().unwrap());
        let head = head_with(&uri, &headers);
        let name = |name: &'static str| HeaderKey::Name(HeaderName::from_static(name));
        let cases = [
            ("exact", name("x-user"), text("maria"), false, false, true),
            ("exact misses", name("x-user"), text("Maria"), false, false, false),
            ("inverted", name("x-user"), text("maria"), true, false, false),
            ("one of several", name("x-many"), text("b"), false, false, true),
            ("several are not joined", name("x-many"), text("a,b"), false, false, false),
            ("one of several, inverted", name("x-many"), text("b"), true, false, false),
            ("none of several, inverted", name("x-many"), text("c"), true, true, true),
            ("present", name("x-user"), ValueMatch::Present(true), false, false, true),
            ("present misses", name("x-none"), ValueMatch::Present(true), false, false, false),
            ("absent", name("x-none"), ValueMatch::Present(true), true, false, true),
            ("present false", name("x-none"), ValueMatch::Present(false), false, false, true),
            ("missing value", name("x-none"), text("a"), false, false, false),
            ("missing, inverted, not as empty", name("x-none"), text("a"), true, false, false),
            ("missing, inverted, as empty", name("x-none"), text("a"), true, true, true),
            ("range", name("x-size"), ValueMatch::Range { start: 10, end: 13 }, false, false, true),
            ("range is half open", name("x-size"), ValueMatch::Range { start: 10, end: 12 }, false, false, false),
            ("method", HeaderKey::Method, text("GET"), false, false, true),
            ("authority", HeaderKey::Authority, text("shop"), false, false, false),
            ("scheme", HeaderKey::Scheme, text("http"), false, false, true),
            ("path with query", HeaderKey::Path, text("/x?y"), false, false, true),
        ];
        for (case, header, value, invert, missing_is_empty, want) in cases {
            let rule = HeaderMatch { header, value, invert, missing_is_empty };
            assert_eq!(matches_header(&rule, &head), want, "{case}");
        }
    }

    #[test]
    fn texts_match_by_their_rule() {
        let cases = [
            (TextMatch::Prefix { text: "ab".into(), ignore_case: false }, "abc", true),
            (TextMatch::Prefix { text: "ab".into(), ignore_case: true }, "ABC", true),
            (TextMatch::Suffix { text: "bc".into(), ignore_case: false }, "abc", true),
            (TextMatch::Suffix { text: "abcd".into(), ignore_case: false }, "bcd", false),
            (TextMatch::Contains { text: "b".into(), ignore_case: true }, "aBc", true),
            (TextMatch::Contains { text: "x".into(), ignore_case: false }, "abc", false),
            (TextMatch::Regex(anchored("a+").unwrap()), "aaab", false),
        ];
        for (rule, value, want) in cases {
            assert_eq!(matches_text(&rule, value.as_bytes()), want, "{rule:?} {value}");
        }
    }

    #[test]
    fn query_conditions_look_at_the_first_occurrence() {
        let exact = |name: &str, value: &str| QueryMatch {
            name: name.into(),
            value: Some(TextMatch::Exact { text: value.into(), ignore_case: false }),
        };
        let present = QueryMatch { name: "debug".into(), value: None };
        let cases = [
            (exact("a", "1"), "a=1&b=2", true),
            (exact("a", "2"), "a=1&a=2", false),
            (exact("a", ""), "a", true),
            (exact("a", ""), "b=1", false),
            (present, "x=1&debug", true),
        ];
        for (rule, query, want) in cases {
            assert_eq!(matches_query(std::slice::from_ref(&rule), query), want, "{rule:?} {query}");
        }
    }

    fn route(name: &str, path: PathMatch, fraction: Option<Fraction>) -> Arc<Route> {
        Arc::new(Route {
            name: name.into(),
            matches: RouteMatch { path, case_sensitive: true, headers: vec![], query: vec![], grpc: false, fraction },
            action: RouteAction::Forward(Forward::to("c")),
            fault: None,
            cors: None,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        })
    }

    #[test]
    fn the_first_match_wins() {
        let host = VirtualHost {
            name: "h".into(),
            domains: vec!["shop:80".into()],
            routes: vec![
                route("half", PathMatch::Prefix("/a".into()), Some(Fraction { numerator: 50, denominator: 100 })),
                route("a", PathMatch::Prefix("/a".into()), None),
                route("ab", PathMatch::Prefix("/ab".into()), None),
            ],
            ..VirtualHost::default()
        };
        let table = RouteTable::new("t", vec![Arc::new(host)]).unwrap();
        let headers = HeaderMap::new();
        let cases = [("/ab", 10, Some("half")), ("/ab", 60, Some("a")), ("/c", 0, None)];
        for (path, random, want) in cases {
            let uri = path.parse().unwrap();
            let got = select(&table, &head_with(&uri, &headers), || random).ok().map(|(_, route)| route.name.to_string());
            assert_eq!(got.as_deref(), want, "{path} {random}");
        }
    }

    #[test]
    fn weights_are_shares_of_their_sum() {
        let entry = |name: &str, up_to| WeightedCluster {
            name: name.into(),
            up_to,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            host: None,
        };
        let clusters = WeightedClusters { entries: vec![entry("a", 90), entry("never", 90), entry("b", 100)], total: 100 };
        for (random, want) in [(0, "a"), (89, "a"), (90, "b"), (99, "b"), (189, "a")] {
            assert_eq!(weighted(&clusters, random).unwrap().name.as_str(), want, "{random}");
        }
    }
}
