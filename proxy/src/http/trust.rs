//! Header fields by which proxies speak to each other, and that no client may speak in.
//!
//! In:  the head of a request, whether it comes from outside of the mesh.
//! Out: the head without such claims; at the edge, where it comes from.
//!
//! Source: Envoy `ConnectionManagerUtility::cleanInternalHeaders`, for requests that are not internal. Without an `internal_address_config`,
//! which Istio does not send, none is. What asks for retries and timeouts is read before it is taken: see `retry::asked`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::headers::FORWARDED_FOR;

/// Believed of nobody.
const INTERNAL: [HeaderName; 6] = [
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
];
/// Believed of other proxies of the mesh, not at the edge.
const OF_THE_MESH: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-original-host"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
];
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// Whether a header is one of those that [`sanitise`] may take away.
pub fn is_claim(name: &str) -> bool {
    INTERNAL.iter().chain(&OF_THE_MESH).any(|known| known.as_str() == name)
}

/// Take away what the sender may not say. `edge`: it is outside of the mesh.
pub fn sanitise(headers: &mut HeaderMap, edge: bool) {
    let of_the_mesh: &[HeaderName] = if edge { &OF_THE_MESH } else { &[] };
    for name in INTERNAL.iter().chain(of_the_mesh) {
        headers.remove(name);
    }
}

/// Where the proxies before this one say that a request came from: the last of them names who called it. Source: Envoy
/// `Utility::getLastAddressFromXFF`.
pub fn origin(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

/// Say at the edge which address a request came from.
pub fn tell_origin(headers: &mut HeaderMap, remote: SocketAddr) {
    if let Ok(value) = HeaderValue::try_from(remote.ip().to_string()) {
        headers.insert(EXTERNAL_ADDRESS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Fields;

    #[test]
    fn claims_are_found_and_taken_away() {
        for (edge, kept) in [(false, 6), (true, 1)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-envoy-attempt-count", HeaderValue::from_static("1"));
            for name in INTERNAL.iter().chain(&OF_THE_MESH) {
                let mut alone = HeaderMap::new();
                alone.insert(name, HeaderValue::from_static("x"));
                assert!(Fields::of(&alone).has(Fields::CLAIMS), "{name}");
                headers.insert(name, HeaderValue::from_static("x"));
            }
            sanitise(&mut headers, edge);
            assert_eq!(headers.len(), kept, "{headers:?}");
        }
        assert!(!is_claim("x-envoy-attempt-count") && !is_claim("x-envoy-max-retries"));
    }
}
