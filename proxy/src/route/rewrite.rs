//! What a route changes about the target of a request: path and host.
//!
//! In:  the route's rules, the path that matched.
//! Out: a new path with the query kept.

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;

use crate::config::route_table::{PathMatch, PathRewrite};

/// The path and query that replace the request's. `None`: nothing changes, or the result would be no path.
///
/// Source: Envoy `finalizePathHeader`: a prefix rewrite replaces what the matcher matched; of an exact or regex matcher that is the whole path.
pub fn path(rule: &PathRewrite, matched: &PathMatch, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let mut out = BytesMut::with_capacity(path.len() + query.map_or(0, str::len) + 32);
    match rule {
        PathRewrite::None => return None,
        PathRewrite::Prefix(prefix) => {
            out.put_slice(prefix.as_bytes());
            out.put_slice(path.as_bytes().get(matched_length(matched, path)..)?);
        }
        PathRewrite::Regex { expression, substitution } => {
            out.put_slice(&expression.replace_all(path.as_bytes(), &**substitution));
        }
        PathRewrite::Whole(whole) => out.put_slice(whole.as_bytes()),
    }
    if let Some(query) = query {
        out.put_u8(b'?');
        out.put_slice(query.as_bytes());
    }
    to_path(out.freeze())
}

/// How much of a path its matcher has matched, in bytes.
pub fn matched_length(matched: &PathMatch, path: &str) -> usize {
    match matched {
        PathMatch::Any => usize::from(path.starts_with('/')),
        PathMatch::Prefix(prefix) | PathMatch::SegmentPrefix(prefix) => prefix.len(),
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => path.len(),
    }
}

/// A path that a request line can carry.
pub fn to_path(bytes: Bytes) -> Option<PathAndQuery> {
    let bytes = if bytes.first() == Some(&b'/') {
        bytes
    } else {
        let mut slashed = BytesMut::with_capacity(bytes.len() + 1);
        slashed.put_u8(b'/');
        slashed.put_slice(&bytes);
        slashed.freeze()
    };
    PathAndQuery::from_maybe_shared(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::expression::{anchored, unanchored};
    use crate::config::route_table::substitution;

    #[test]
    fn rewrites_replace_what_matched_and_keep_the_query() {
        let prefix = |text: &str| PathRewrite::Prefix(text.into());
        let regex = |from: &str, to: &str| PathRewrite::Regex { expression: unanchored(from).unwrap(), substitution: substitution(to) };
        let matched = PathMatch::Prefix("/foo".into());
        let cases = [
            (prefix("/"), &matched, "/foo/bar", None, Some("//bar")),
            (prefix("/v2"), &matched, "/foo/bar", Some("q=1"), Some("/v2/bar?q=1")),
            (prefix("/v2"), &PathMatch::Exact("/foo".into()), "/foo", None, Some("/v2")),
            (prefix("/v2"), &PathMatch::Regex(anchored("/f.*").unwrap()), "/foo/bar", None, Some("/v2")),
            (prefix("/v2/"), &PathMatch::Any, "/foo", None, Some("/v2/foo")),
            (prefix("/v2"), &PathMatch::Prefix("".into()), "/foo", None, Some("/v2/foo")),
            (prefix(""), &matched, "/foo", None, Some("/")),
            (regex("^/foo/([a-z]+)", r"/x/\1"), &matched, "/foo/bar/1", Some("q"), Some("/x/bar/1?q")),
            // Where Envoy leaves it out.
            (regex("^/x", "y"), &matched, "/x/z", None, Some("/y/z")),
            // As RE2 replaces, empty matches too: checked against Envoy.
            (regex("/(x*)", r"/[\0]"), &matched, "/re/xxx/y", Some("q=/x"), Some("/[/]re/[/xxx]/[/]y?q=/x")),
            (PathRewrite::Whole("/w".into()), &matched, "/foo/bar", Some("q"), Some("/w?q")),
            (PathRewrite::None, &matched, "/foo", None, None),
        ];
        for (rule, matched, from, query, want) in cases {
            let got = path(&rule, matched, from, query);
            assert_eq!(got.as_ref().map(PathAndQuery::as_str), want, "{rule:?} {from}");
        }
    }
}
