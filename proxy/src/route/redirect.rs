//! Redirects that a route answers with.
//!
//! In:  the route's redirect, the request's scheme, authority and path.
//! Out: the value of `location`.

use http::HeaderValue;

use super::{Head, rewrite};
use crate::config::route_table::{PathMatch, Redirect, RedirectPath, RedirectScheme, without_port};

/// Where a redirect leads. `None` when the result cannot be a header value.
///
/// Source: Envoy `RouteEntryImplBase::newUri`.
pub fn location(redirect: &Redirect, matched: &PathMatch, head: &Head<'_>) -> Option<HeaderValue> {
    let scheme = match redirect.scheme {
        Some(RedirectScheme::Http) => "http",
        Some(RedirectScheme::Https) => "https",
        None => head.scheme(),
    };
    let host = match &redirect.host {
        Some(host) => host,
        None => host_of(head, scheme, redirect.port.is_some()),
    };
    let mut text = format!("{scheme}://{host}");
    if let Some(port) = redirect.port {
        text.push(':');
        text.push_str(&port.to_string());
    }
    let (path, query) = (head.path(), head.uri.query());
    let mut own_query = false;
    match &redirect.path {
        RedirectPath::Keep => text.push_str(path),
        RedirectPath::Whole(whole) => {
            own_query = whole.contains('?');
            text.push_str(whole);
        }
        RedirectPath::Prefix(prefix) => {
            text.push_str(prefix);
            text.push_str(path.get(rewrite::matched_length(matched, path)..)?);
        }
        RedirectPath::Regex { expression, substitution } => {
            text.push_str(std::str::from_utf8(&expression.replace_all(path.as_bytes(), &**substitution)).ok()?);
        }
    }
    if let (false, false, Some(query)) = (redirect.strip_query, own_query, query) {
        text.push('?');
        text.push_str(query);
    }
    HeaderValue::try_from(text).ok()
}

/// The request's host. A port of 80 or 443 is dropped where the scheme becomes another and it was the old one's.
///
/// Source: Envoy `RouteEntryImplBase::processRequestHost`.
fn host_of<'a>(head: &Head<'a>, scheme: &str, port_replaced: bool) -> &'a str {
    let before = head.forwarded_scheme();
    let default = if before == "https" { ":443" } else { ":80" };
    if port_replaced || (scheme != before && head.authority.ends_with(default)) { without_port(head.authority) } else { head.authority }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method, StatusCode};

    fn redirect() -> Redirect {
        Redirect {
            scheme: None,
            host: None,
            port: None,
            path: RedirectPath::Keep,
            status: StatusCode::MOVED_PERMANENTLY,
            strip_query: false,
        }
    }

    #[test]
    fn redirects_keep_what_they_do_not_name() {
        let whole = |text: &str| RedirectPath::Whole(text.into());
        let cases = [
            ("host", Redirect { host: Some("b.com".into()), ..redirect() }, "a.com", "http://b.com/foo/x?q=1"),
            ("scheme drops port", Redirect { scheme: Some(RedirectScheme::Https), ..redirect() }, "a.com:80", "https://a.com/foo/x?q=1"),
            ("same scheme", Redirect { scheme: Some(RedirectScheme::Http), ..redirect() }, "a.com:80", "http://a.com:80/foo/x?q=1"),
            ("scheme keeps port", Redirect { scheme: Some(RedirectScheme::Https), ..redirect() }, "a.com:81", "https://a.com:81/foo/x?q=1"),
            ("port", Redirect { port: Some(8443), ..redirect() }, "a.com:81", "http://a.com:8443/foo/x?q=1"),
            ("path", Redirect { path: whole("/new"), ..redirect() }, "a.com", "http://a.com/new?q=1"),
            ("path with query", Redirect { path: whole("/new?z=2"), ..redirect() }, "a.com", "http://a.com/new?z=2"),
            ("prefix", Redirect { path: RedirectPath::Prefix("/bar".into()), ..redirect() }, "a.com", "http://a.com/bar/x?q=1"),
            ("strip", Redirect { strip_query: true, ..redirect() }, "a.com", "http://a.com/foo/x"),
        ];
        let (uri, headers) = ("/foo/x?q=1".parse().unwrap(), HeaderMap::new());
        for (name, redirect, authority, want) in cases {
            let head = Head { method: &Method::GET, authority, uri: &uri, headers: &headers, grpc: false };
            assert_eq!(location(&redirect, &PathMatch::Prefix("/foo".into()), &head).unwrap(), want, "{name}");
        }
    }
}
