//! Copies of requests for other clusters. Nobody waits for them and nothing of them reaches the downstream.
//!
//! In:  a request ready to be sent, the mirrors of its route.
//! Out: requests to the mirrors' clusters; their answers are read and thrown away. The mirror's own proxy tells of them, as in Istio: here
//! only the counters of cluster and endpoint do.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Request, request};
use tokio::time::Instant;

use super::attempt::copy;
use super::context::RequestContext;
use super::headers::{self, Fields};
use super::path::{append_forwarded_for, authority};
use super::plan::peer_metadata;
use crate::balance;
use crate::config::cluster::{ClusterKind, OpenRequest};
use crate::config::route_table::{Mirror, without_port};
use crate::config::view::{WorkerCluster, WorkerEndpoint};
use crate::connect::{Answer, Failure, Link};
use crate::retry::replay::RequestBody;
use crate::retry::tap::{Kept, Watch};
use crate::worker::Worker;

/// Mirrored requests that one worker has open: a mirror that hangs must not eat memory. Beyond that requests are not mirrored.
const MOST_OPEN: u32 = 1024;
/// How long one may take where the route has no timeout.
const LONGEST: Duration = Duration::from_secs(60);
/// How often one moves on from a pooled connection that turned out to be closed.
const MOST_MOVES: u32 = 3;

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// The mirrored requests of a worker.
#[derive(Debug, Default)]
pub struct Mirrors {
    open: Rc<Cell<u32>>,
    kept: Kept,
}

/// One of them.
#[derive(Debug)]
struct Slot(Rc<Cell<u32>>);

impl Mirrors {
    fn enter(&self) -> Option<Slot> {
        let open = self.open.get();
        (open < MOST_OPEN).then(|| {
            self.open.set(open + 1);
            Slot(Rc::clone(&self.open))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Begin those mirrors of a route that are drawn. `head`: as the first try sends it to the route's own cluster.
///
/// Source: Envoy `Router::Filter::decodeHeaders` and `ShadowWriterImpl`; a cluster that is not there is passed over.
pub fn begin(context: &RequestContext, mirrors: &[Mirror], head: &request::Parts, timeout: Option<Duration>) {
    let worker = &context.connection.worker;
    for mirror in mirrors.iter().filter(|mirror| mirror.share.hit(worker.random())) {
        let Some(cluster) = context.view.view.cluster(&mirror.cluster) else {
            tracing::debug!(cluster = %mirror.cluster, "no cluster to mirror to");
            continue;
        };
        let Some(slot) = worker.mirrors.enter() else {
            tracing::debug!(cluster = %mirror.cluster, "too many mirrored requests are open");
            continue;
        };
        let http2 = cluster.cluster.protocol.is_http2(context.version);
        let Some(head) = mirrored(context, mirror, &cluster, head, http2) else { continue };
        let (body, watch) = match &context.stream {
            None => (RequestBody::EMPTY, None),
            Some(stream) => {
                let (body, watch) = stream.tap(&worker.mirrors.kept);
                (body, Some(watch))
            }
        };
        let sending = send(Rc::clone(worker), cluster, Request::from_parts(head, body), watch, http2);
        tokio::task::spawn_local(async move {
            let _slot = slot;
            // An answer that takes too long is as good as none.
            let _ = tokio::time::timeout(timeout.unwrap_or(LONGEST), sending).await;
        });
    }
}

/// The copy's head: an internal request from this proxy, to a host that says what it is.
fn mirrored(
    context: &RequestContext,
    mirror: &Mirror,
    cluster: &WorkerCluster,
    head: &request::Parts,
    http2: bool,
) -> Option<request::Parts> {
    let mut made = copy(head);
    let host = match &mirror.host {
        Some(host) => host.clone(),
        None if mirror.shadow_host => HeaderValue::try_from(shadow(authority(head))).ok()?,
        None => match head.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok()?,
            None => head.headers.get(HOST)?.clone(),
        },
    };
    let fields = Fields::of(&made.headers);
    peer_metadata(context, cluster, &mut made.headers, fields);
    append_forwarded_for(&mut made.headers, context.connection.local);
    made.headers.insert(INTERNAL, HeaderValue::from_static("true"));
    if http2 {
        headers::to_http2(&mut made, Authority::try_from(host.as_bytes()).ok()?)?;
    } else {
        headers::to_http1(&mut made, Some(host));
    }
    Some(made)
}

/// `shop` is `shop-shadow`, and `shop:80` is `shop-shadow:80`.
fn shadow(authority: &str) -> String {
    let host = without_port(authority);
    format!("{host}-shadow{}", &authority[host.len()..])
}

async fn send(worker: Rc<Worker>, cluster: Rc<WorkerCluster>, mut request: Request<RequestBody>, watch: Option<Watch>, http2: bool) {
    cluster.cluster.live.requests.fetch_add(1, Ordering::Relaxed);
    for _ in 0..=MOST_MOVES {
        let endpoint = match &cluster.cluster.kind {
            ClusterKind::Endpoints(_) | ClusterKind::Dns(_) => balance::pick(&cluster, &[], 0, || worker.random()).map(Rc::clone),
            ClusterKind::OriginalDestination { .. } | ClusterKind::DynamicForwardProxy => None,
        };
        let Some(endpoint) = endpoint else { return };
        let live = &endpoint.endpoint.live;
        let _open = OpenRequest::new(live);
        let sent = match Link::open(&endpoint.pool, &cluster.cluster, live, http2, Instant::now()).await {
            Ok(link) => link.send(request).await,
            Err(failure) => Err(failure),
        };
        match sent {
            Err(Failure::Unsent(again)) => request = *again,
            Ok(answer) => {
                let failed = finish(answer, &endpoint, &cluster, watch.as_ref()).await;
                return count(&endpoint, failed);
            }
            Err(_) => return count(&endpoint, true),
        }
    }
}

fn count(endpoint: &WorkerEndpoint, failed: bool) {
    let live = &endpoint.endpoint.live;
    live.requests.fetch_add(1, Ordering::Relaxed);
    if failed {
        live.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Read an answer to its end, so that its connection can be used again; whether it was a failure.
async fn finish(answer: Answer, endpoint: &WorkerEndpoint, cluster: &WorkerCluster, watch: Option<&Watch>) -> bool {
    let failed = answer.head().0.is_server_error();
    match answer {
        Answer::Http1(response, sender) => {
            let mut body = response.into_body();
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                if frame.is_err() {
                    return true;
                }
            }
            // An answer may come before the request is complete: then the connection cannot go on.
            if watch.is_none_or(Watch::is_over) {
                endpoint.pool.give_back(sender, &cluster.cluster, Instant::now());
            }
        }
        Answer::Http2(response) => {
            let mut body = response.into_body();
            while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
                if frame.is_err() {
                    return true;
                }
            }
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_says_that_it_is_one() {
        let cases = [("shop", "shop-shadow"), ("shop:80", "shop-shadow:80"), ("127.0.0.1:80", "127.0.0.1-shadow:80")];
        for (host, want) in cases {
            assert_eq!(shadow(host), want);
        }
    }

    #[test]
    fn the_number_of_open_copies_is_bounded() {
        let mirrors = Mirrors::default();
        let mut slots: Vec<_> = (0..MOST_OPEN).map_while(|_| mirrors.enter()).collect();
        assert_eq!((slots.len(), mirrors.enter().is_none()), (MOST_OPEN as usize, true));
        slots.pop();
        assert!(mirrors.enter().is_some());
    }
}
