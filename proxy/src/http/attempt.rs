//! The tries of one request: retry -> balance -> connect, until there is a response or nothing more to try.
//!
//! In:  a request ready to be sent. Out: the upstream's answer, or why there is none.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, request};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::check::Malformed;
use super::context::RequestContext;
use super::headers;
use super::local_reply::RequestError;
use super::record::ResponseFlags;
use crate::balance;
use crate::config::RuntimeConfig;
use crate::config::cluster::{ClusterKind, OpenRequest};
use crate::config::listener::Direction;
use crate::config::route_table::RetryPolicy;
use crate::config::view::{WorkerCluster, WorkerEndpoint};
use crate::connect::resolve::Resolver;
use crate::connect::{Answer, Failure, Link};
use crate::retry::asked::Expected;
use crate::retry::attempts::{Attempts, Reset};
use crate::retry::replay::RequestBody;
use crate::retry::timeout::Expired;

/// How often a request that no one has processed moves to another connection before that counts as a failure.
const MOST_MOVES: u32 = 32;
/// How often it may be a connection made just for it.
const MOST_FRESH_MOVES: u32 = 2;

/// A request ready to be sent, however often.
pub struct Outgoing<'v> {
    /// `None` while a try has it.
    pub head: Option<request::Parts>,
    pub body: Option<RequestBody>,
    pub cluster: Rc<WorkerCluster>,
    pub policy: Option<Policy<'v>>,
    /// The head is copied before each try, because it may be needed after it was written.
    pub kept: bool,
    pub http2: bool,
    /// Say in the head which try it is.
    pub attempt_count: bool,
    /// Say in the head how long it may take.
    pub expected: Option<Expected>,
    /// For passthrough: the name asked for.
    pub name: Option<Box<str>>,
}

/// The retry policy of one request.
#[derive(Debug)]
pub enum Policy<'v> {
    Route(&'v RetryPolicy),
    /// The request asked for something itself.
    Own(Box<RetryPolicy>),
}

impl Deref for Policy<'_> {
    type Target = RetryPolicy;

    fn deref(&self) -> &RetryPolicy {
        match self {
            Self::Route(policy) => policy,
            Self::Own(policy) => policy,
        }
    }
}

/// Try until there is a response to pass on, or nothing more to try.
///
/// # Errors
/// Why there is none.
pub async fn run(context: &mut RequestContext, outgoing: &mut Outgoing<'_>) -> Result<Answer, RequestError> {
    let policy = outgoing.policy.take();
    let policy = policy.as_deref();
    let worker = Rc::clone(&context.connection.worker);
    let (mut attempts, mut moves) = (Attempts::first(), Moves::default());
    let mut tried: SmallVec<[Rc<WorkerEndpoint>; 2]> = SmallVec::new();
    let again = policy.map_or(0, |policy| policy.host_selection_attempts);
    loop {
        let endpoint = choose_endpoint(context, outgoing, &tried, again).await?;
        context.open = Some(OpenRequest::new(&endpoint.endpoint.live));
        context.endpoint = Some(Rc::clone(&endpoint));
        context.attempts = attempts.made;
        if let (true, Some(head)) = (outgoing.attempt_count, &mut outgoing.head) {
            head.headers.insert(headers::ATTEMPT_COUNT, headers::small_number(attempts.made));
        }
        if let (Some(expected), Some(head)) = (&outgoing.expected, &mut outgoing.head) {
            let complete = context.request_complete().filter(|_| attempts.made > 1);
            expected.tell(&mut head.headers, complete.map_or(Duration::ZERO, |complete| complete.elapsed()));
        }
        if let Some(timers) = &mut context.timers {
            timers.begin_try(if attempts.made == 1 { context.started } else { Instant::now() });
        }
        let pause = match try_once(context, &endpoint, outgoing, &mut moves).await {
            Tried::Answered(answer) => {
                let head = answer.head();
                match attempts.after_response(policy, head, context.grpc, worker.random_if(policy.is_some())) {
                    Some(pause) if outgoing.restore(context) => pause,
                    _ => {
                        context.note_exhausted(&attempts);
                        return Ok(answer);
                    }
                }
            }
            Tried::Moved => continue,
            Tried::Expired(Expired::Request) => return Err(RequestError::Timeout),
            Tried::Expired(Expired::Idle) => return Err(RequestError::Idle),
            Tried::Expired(Expired::Try) => {
                match attempts.after_reset(policy, Reset::TryTimeout, true, worker.random_if(policy.is_some())) {
                    Some(pause) if outgoing.restore(context) => pause,
                    _ => return Err(RequestError::TryTimeout { exhausted: attempts.exhausted }),
                }
            }
            Tried::Failed(Failure::RequestBody) if context.stream.as_ref().is_some_and(|stream| stream.broken() == Some(true)) => {
                return Err(RequestError::Malformed(Malformed::Codec));
            }
            Tried::Failed(failure) => {
                let written = !matches!(failure, Failure::Connect { .. });
                let random = worker.random_if(policy.is_some());
                let pause = Reset::of(&failure).and_then(|reset| attempts.after_reset(policy, reset, written, random));
                match pause {
                    Some(pause) if outgoing.restore(context) => pause,
                    _ => {
                        let (retried, exhausted) = (attempts.made > 1, attempts.exhausted);
                        return Err(RequestError::Upstream { failure, retried, exhausted });
                    }
                }
            }
        };
        attempts.made += 1;
        if policy.is_some_and(|policy| policy.avoid_previous_hosts) {
            tried.push(endpoint);
        }
        context.open = None;
        pause_for(context, pause).await?;
    }
}

/// How often a request was moved without having been processed.
#[derive(Default)]
struct Moves {
    all: u32,
    fresh: u32,
}

impl Moves {
    /// Whether it may move once more.
    fn another(&mut self, used: bool) -> bool {
        self.all += 1;
        self.fresh += u32::from(!used);
        self.all <= MOST_MOVES && self.fresh <= MOST_FRESH_MOVES
    }
}

/// How one try ended.
#[allow(clippy::large_enum_variant)] // The large variant is the frequent one; a box would cost each request an allocation.
enum Tried {
    Answered(Answer),
    /// Nobody has processed it: again, whatever its method, without counting as a try.
    Moved,
    Failed(Failure),
    Expired(Expired),
}

async fn try_once(context: &mut RequestContext, endpoint: &WorkerEndpoint, outgoing: &mut Outgoing<'_>, moves: &mut Moves) -> Tried {
    let first = context.attempts == 1 && moves.all == 0;
    let now = if first { context.started } else { Instant::now() };
    let opening = Link::open(&endpoint.pool, &outgoing.cluster.cluster, &endpoint.endpoint.live, outgoing.http2, now);
    let link = match limited(context, opening).await {
        Ok(Ok(link)) => link,
        Ok(Err(failure)) => return Tried::Failed(failure),
        Err(expired) => return Tried::Expired(expired),
    };
    let (Some(head), Some(body)) = (outgoing.head.take(), outgoing.body.take()) else {
        // `restore` precedes every further try.
        return Tried::Failed(Failure::RequestBody);
    };
    if outgoing.kept {
        outgoing.head = Some(copy(&head));
    }
    context.upstream_local = link.local();
    let used = link.is_used();
    let failure = match limited(context, link.send(Request::from_parts(head, body))).await {
        Ok(Ok(answer)) => return Tried::Answered(answer),
        Ok(Err(failure)) => failure,
        Err(expired) => return Tried::Expired(expired),
    };
    match failure {
        Failure::Unsent(request) if moves.another(used) => {
            let (head, body) = request.into_parts();
            outgoing.head = Some(head);
            outgoing.body = Some(body);
            Tried::Moved
        }
        Failure::Disowned if moves.another(false) && outgoing.restore(context) => Tried::Moved,
        failure => Tried::Failed(failure),
    }
}

impl Outgoing<'_> {
    /// Make the request whole again for another try; `false` when too much of it is gone.
    fn restore(&mut self, context: &RequestContext) -> bool {
        if self.head.is_none() {
            return false;
        }
        if self.body.is_none() {
            self.body = match &context.stream {
                None => Some(RequestBody::EMPTY),
                Some(stream) => stream.again(),
            };
        }
        self.body.is_some()
    }
}

/// A head without extensions: those belong to the connection it came by.
pub fn copy(head: &request::Parts) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = head.method.clone();
    parts.uri = head.uri.clone();
    parts.version = head.version;
    parts.headers = head.headers.clone();
    parts
}

/// Run a future under the clocks of the exchange.
async fn limited<F: Future>(context: &mut RequestContext, future: F) -> Result<F::Output, Expired> {
    let Some(timers) = &mut context.timers else { return Ok(future.await) };
    let (started, stream) = (context.started, context.stream.as_deref());
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        timers.poll(cx, started, stream).map(Err)
    })
    .await
}

async fn pause_for(context: &mut RequestContext, pause: Duration) -> Result<(), RequestError> {
    if pause.is_zero() {
        return Ok(());
    }
    if let Some(timers) = &mut context.timers {
        // The try before is over and the next one begins after the pause: no try's time runs meanwhile.
        timers.begin_try(Instant::now() + pause);
    }
    limited(context, tokio::time::sleep(pause)).await.map_err(|expired| match expired {
        Expired::Request | Expired::Try => RequestError::Timeout,
        Expired::Idle => RequestError::Idle,
    })
}

/// The endpoint for a try: balanced, or what a passthrough destination stands for.
async fn choose_endpoint(
    context: &RequestContext,
    outgoing: &Outgoing<'_>,
    tried: &[Rc<WorkerEndpoint>],
    again: u32,
) -> Result<Rc<WorkerEndpoint>, RequestError> {
    let (view, cluster) = (&context.view.view, &outgoing.cluster);
    let worker = &context.connection.worker;
    match &cluster.cluster.kind {
        ClusterKind::Endpoints(_) | ClusterKind::Dns(_) => {
            balance::pick(cluster, tried, again, || worker.random()).map(Rc::clone).ok_or(RequestError::NoEndpoint)
        }
        ClusterKind::OriginalDestination { port } => {
            let to = context.connection.local;
            let to = SocketAddr::new(to.ip(), port.unwrap_or(to.port()));
            // A connection that nobody redirected was meant for this proxy.
            if leads_back(&view.config, to, to.ip()) {
                return Err(RequestError::Loop);
            }
            Ok(view.dynamic_endpoint(cluster, to))
        }
        ClusterKind::DynamicForwardProxy => {
            let name = outgoing.name.as_deref().unwrap_or_default();
            if let Some(endpoint) = cluster.named(name, context.started) {
                return Ok(endpoint);
            }
            let authority: Authority = name.parse().map_err(|_| RequestError::Unresolved)?;
            let port = port(&authority).ok_or(RequestError::Unresolved)?;
            let looking = worker.resolver.lookup(authority.host(), context.started);
            let addresses = Box::pin(looking).await.map_err(|_| RequestError::Unresolved)?;
            let address = *addresses.first().ok_or(RequestError::Unresolved)?;
            let address = SocketAddr::new(address, port);
            if leads_back(&view.config, address, context.connection.local.ip()) {
                return Err(RequestError::Loop);
            }
            let endpoint = view.dynamic_endpoint(cluster, address);
            cluster.remember(name, context.started + Resolver::REMEMBER, &endpoint);
            Ok(endpoint)
        }
    }
}

/// The port of an authority without userinfo, 80 when it names none. `None`: what stands there is no port, and another one must not be taken.
fn port(authority: &Authority) -> Option<u16> {
    match authority.as_str().strip_prefix(authority.host())? {
        "" | ":" => Some(80),
        port => port.strip_prefix(':')?.parse().ok(),
    }
}

/// Whether an address leads back into an outbound listener of this proxy: one request sent there would come round until no socket is left.
fn leads_back(config: &RuntimeConfig, to: SocketAddr, here: IpAddr) -> bool {
    let ours =
        |ip: IpAddr| to.ip() == ip || to.ip().is_unspecified() || (ip.is_unspecified() && (to.ip().is_loopback() || to.ip() == here));
    config.sockets.iter().any(|(named, socket)| {
        let outbound = config.listeners.bound(*named).is_some_and(|listener| listener.direction == Direction::Outbound);
        outbound && socket.local_addr().is_ok_and(|own| own.port() == to.port() && ours(own.ip()))
    })
}

impl Answer {
    pub fn head(&self) -> (StatusCode, &HeaderMap) {
        match self {
            Self::Http1(response, _) => (response.status(), response.headers()),
            Self::Http2(response) => (response.status(), response.headers()),
        }
    }
}

impl RequestContext {
    fn note_exhausted(&mut self, attempts: &Attempts) {
        if attempts.exhausted {
            self.flag(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_none_is_not_taken_for_another() {
        let cases = [
            ("a", Some(80)),
            ("a:", Some(80)),
            ("a:8080", Some(8080)),
            ("[::1]:81", Some(81)),
            ("[::1]", Some(80)),
            ("a:99999", None),
            ("a:1,b", None),
        ];
        for (authority, want) in cases {
            assert_eq!(port(&Authority::from_static(authority)), want, "{authority}");
        }
    }
}
