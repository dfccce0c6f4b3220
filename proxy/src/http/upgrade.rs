//! Connections that stop being HTTP: `Upgrade` answered with 101, both directions passed on until both have ended.
//!
//! In:  a request that asks for it, a manager and route that allow it.
//! Out: bytes between the two sides; the exchange is recorded when they are through.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};

use super::context::RequestContext;
use super::headers::Fields;
use super::local_reply::RequestError;
use super::server::{Incoming, PendingTunnel, Tunnel};
use crate::config::listener::HttpManager;
use crate::config::route_table::Forward;
use crate::connect::h1;
use crate::tcp::copy;

/// Take the upgrade out of a request that asks for one. `None`: an ordinary request.
pub fn wanted(request: &mut Request<Incoming>, fields: Fields) -> Option<PendingTunnel> {
    if !fields.has(Fields::UPGRADE) || request.version() != Version::HTTP_11 || !names_upgrade(request.headers()) {
        return None;
    }
    // An offer to go on in HTTP/2 may be left alone, and clients make it with ordinary requests. Source: Envoy, which takes it away.
    if request.headers().get(UPGRADE).is_some_and(|token| token.as_bytes().trim_ascii().eq_ignore_ascii_case(b"h2c")) {
        return None;
    }
    Some(hyper::upgrade::on(request))
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Whether manager and route allow the upgrade asked for; the route's word counts before the manager's.
///
/// # Errors
/// When it is not allowed: 403, as Envoy.
pub fn check(headers: &HeaderMap, manager: &HttpManager, route: &Forward) -> Result<(), RequestError> {
    let mut tokens = headers.get_all(UPGRADE).iter();
    let token = tokens.next().and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    if tokens.next().is_some() {
        // The upstream would choose, and might choose the one that is not allowed.
        return Err(RequestError::UpgradeRefused);
    }
    if let Some((_, allowed)) = route.upgrades.iter().find(|(name, _)| name.eq_ignore_ascii_case(token)) {
        return if *allowed { Ok(()) } else { Err(RequestError::UpgradeRefused) };
    }
    let allowed = manager.upgrades.iter().any(|name| &**name == "*" || name.eq_ignore_ascii_case(token));
    if allowed { Ok(()) } else { Err(RequestError::UpgradeRefused) }
}

/// After an upstream's 101: pass bytes on in both directions. The exchange ends with them.
pub fn splice(downstream: PendingTunnel, response: &mut Response<h1::Body>, mut context: Box<RequestContext>) {
    debug_assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    context.responds(StatusCode::SWITCHING_PROTOCOLS, response.headers());
    let upstream = response.body_mut().take_tunnel();
    let idle = context.view.manager.stream_idle_timeout;
    let busy = context.connection.worker.busy();
    tokio::task::spawn_local(async move {
        let _busy = busy;
        let (Ok(downstream), Some(mut upstream)) = (downstream.await, upstream) else {
            return;
        };
        let mut downstream = Tunnel::new(downstream);
        let mut counts = copy::Counts::default();
        // An upgraded stream has no clean end of its own: whoever closes ends it.
        let _ = copy::both_ways(&mut downstream, &mut upstream, &mut counts, idle).await;
        context.upgraded_bytes = counts.up;
        context.sent(usize::try_from(counts.down).unwrap_or(usize::MAX));
        context.complete();
    });
}
