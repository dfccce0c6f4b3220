//! The request path: route -> policy -> retry -> balance -> connect, read from top to bottom.
//!
//! In:  a request of a connection. Out: its response; the record follows when the body has ended.

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HOST, SERVER};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request, response};
use http_body::Body as _;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::body::{Kind, ResponseBody};
use super::connection::Connection;
use super::context::RequestContext;
use super::headers::{self, Fields};
use super::local_reply::{self, RequestError};
use super::record::LogFacts;
use super::server::{Incoming, Never, PendingTunnel};
use super::{tunnel, upgrade};
use crate::balance;
use crate::config::cluster::{ClusterKind, OpenRequest, UpstreamProtocol};
use crate::config::listener::{Direction, HttpManager};
use crate::config::route_table::{
    Forward, HeaderKey, HeaderMutations, HostRewrite, RetryPolicy, Route, RouteAction, RouteTable, VirtualHost,
};
use crate::config::view::{WorkerCluster, WorkerEndpoint};
use crate::connect::{Answer, Failure, Link};
use crate::retry::attempts::{Attempts, Reset, may_repeat_written};
use crate::retry::replay::{RequestBody, RequestStream};
use crate::retry::timeout::{self, Expired, Timers};
use crate::route::select::{Chosen, choose, matches_header, select};
use crate::route::template::{Fact, Facts};
use crate::route::{Head, fault, mutate, redirect, rewrite};
use crate::telemetry::access_log::Captured;

/// Bytes of a request's body kept where only the peer's refusal of a stream can ask for another try.
const KEPT_FOR_REFUSALS: usize = 64 << 10;
/// How often a request that no one has processed moves to another connection before that counts as a failure.
const MOST_MOVES: u32 = 32;
/// How often it may be a connection made just for it.
const MOST_FRESH_MOVES: u32 = 2;

/// Serve one request.
pub async fn serve(connection: Rc<Connection>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Never> {
    let view = connection.view();
    let mut context = RequestContext::new(connection, view, request.version(), Instant::now());
    let fields = Fields::of(request.headers());
    context.grpc = fields.has(Fields::CONTENT_TYPE) && headers::is_grpc(request.headers());
    if !context.view.manager.access_log.is_off() {
        context.log = Some(Box::new(log_facts(&request, &context.view.manager)));
    }
    if request.method() == Method::CONNECT && context.view.manager.connect {
        // Rare, and large: not to be part of every request's future.
        let opened = Box::pin(tunnel::open(&mut context, request)).await;
        return Ok(opened.unwrap_or_else(|error| answer(context, Err(error))));
    }
    let outcome = forward(&mut context, request, fields).await;
    Ok(answer(context, outcome))
}

/// What the stages came to.
enum Outcome {
    Upstream(Response<Kind>),
    Upgraded(Box<Response<Incoming>>, PendingTunnel),
    Local(Response<Bytes>),
}

async fn forward(context: &mut RequestContext, mut request: Request<Incoming>, fields: Fields) -> Result<Outcome, RequestError> {
    let pending = upgrade::wanted(&mut request, fields);
    let (mut head, body) = request.into_parts();
    prepare(context, &mut head, fields)?;

    let view = Rc::clone(&context.view);
    let routes = view.routes.as_deref().ok_or(RequestError::NoRouteConfiguration)?;
    let (host, route) = {
        let worker = &context.connection.worker;
        select(routes, &look(&head, context.grpc), || worker.random()).map_err(|_| RequestError::NoRoute)?
    };
    context.route = Some(Arc::clone(route));
    if view.manager.fault && route.fault.is_some() {
        inject(context, route, &head).await?;
    }
    match &route.action {
        RouteAction::Forward(forward) => {
            let plan = Plan { routes, host, route, forward, fields };
            plan.send(context, head, body, pending).await
        }
        RouteAction::Redirect(rule) => {
            let location = redirect::location(rule, &route.matches.path, &look(&head, context.grpc)).ok_or(RequestError::BadPath)?;
            // Envoy's name for what routes answer themselves, redirects included.
            context.details = Cow::Borrowed("direct_response");
            Ok(Outcome::Local(decorate_local(context, (routes, host, route), &head, local_reply::redirect(rule.status, location))))
        }
        RouteAction::Direct(rule) => {
            context.details = Cow::Borrowed("direct_response");
            let text = local_reply::text(rule.status, rule.body.clone());
            Ok(Outcome::Local(decorate_local(context, (routes, host, route), &head, text)))
        }
    }
}

/// What a request gets whatever its route: a host, a normal path, an id.
fn prepare(context: &mut RequestContext, head: &mut request::Parts, fields: Fields) -> Result<(), RequestError> {
    let manager = &context.view.manager;
    if authority(head).is_empty() {
        return Err(RequestError::MissingHost);
    }
    if manager.normalize_path {
        normalise(head, manager.merge_slashes)?;
    }
    if manager.generate_request_id && !fields.has(Fields::REQUEST_ID) {
        let id = headers::request_id(context.connection.worker.random_wide());
        head.headers.insert(headers::REQUEST_ID, id);
        if let Some(log) = &mut context.log {
            log.request_headers = manager.access_log.capture_request(&head.headers);
        }
    }
    if manager.use_remote_address {
        append_forwarded_for(&mut head.headers, context.connection.remote);
        head.headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
    } else if !fields.has(Fields::FORWARDED_PROTO) {
        head.headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if context.view.listener.direction == Direction::Inbound {
        if fields.has(Fields::PEER_METADATA)
            && let Some(metadata) = head.headers.remove(headers::PEER_METADATA)
        {
            context.peer = context.connection.peer(&metadata);
        }
        if fields.has(Fields::PEER_METADATA_ID) {
            head.headers.remove(headers::PEER_METADATA_ID);
        }
    }
    Ok(())
}

fn append_forwarded_for(headers: &mut HeaderMap, remote: SocketAddr) {
    let before = headers.get(headers::FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let text = match before {
        Some(before) => format!("{before},{}", remote.ip()),
        None => remote.ip().to_string(),
    };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(headers::FORWARDED_FOR, value);
    }
}

fn normalise(head: &mut request::Parts, merge: bool) -> Result<(), RequestError> {
    let Some(mut path) = headers::normalised(head.uri.path(), merge).map_err(|headers::NoPath| RequestError::BadPath)? else {
        return Ok(());
    };
    if let Some(query) = head.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let path = rewrite::to_path(path.into()).ok_or(RequestError::BadPath)?;
    set_path(&mut head.uri, path).ok_or(RequestError::BadPath)
}

fn set_path(uri: &mut Uri, path: http::uri::PathAndQuery) -> Option<()> {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).ok()?;
    Some(())
}

/// The authority that a request names: of its URI, else `Host`.
fn authority(head: &request::Parts) -> &str {
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
    }
}

fn look(head: &request::Parts, grpc: bool) -> Head<'_> {
    let scheme = head.uri.scheme_str().unwrap_or("http");
    Head { method: &head.method, authority: authority(head), scheme, uri: &head.uri, headers: &head.headers, grpc }
}

/// Faults come before the router, so a delay is outside the route's timeout and an abort is never retried.
async fn inject(context: &mut RequestContext, route: &Route, head: &request::Parts) -> Result<(), RequestError> {
    use super::record::ResponseFlags;
    let Some(rule) = &route.fault else { return Ok(()) };
    let injected = fault::draw(rule, &look(head, context.grpc), || context.connection.worker.random());
    if let Some(delay) = injected.delay {
        context.flag(ResponseFlags::DELAY_INJECTED);
        tokio::time::sleep(delay).await;
    }
    match injected.abort {
        Some(abort) => Err(RequestError::Fault(abort)),
        None => Ok(()),
    }
}

/// A route that forwards, with the configuration around it.
struct Plan<'v> {
    routes: &'v RouteTable,
    host: &'v Arc<VirtualHost>,
    route: &'v Arc<Route>,
    forward: &'v Forward,
    /// Of the request as it came.
    fields: Fields,
}

/// A request ready to be sent, however often.
struct Outgoing {
    /// `None` while a try has it.
    head: Option<request::Parts>,
    body: Option<RequestBody>,
    /// The head is copied before each try, because it may be needed after it was written.
    kept: bool,
    http2: bool,
    /// For passthrough: the name asked for.
    name: Option<Box<str>>,
}

impl Plan<'_> {
    async fn send(
        &self,
        context: &mut RequestContext,
        mut head: request::Parts,
        body: Incoming,
        pending: Option<PendingTunnel>,
    ) -> Result<Outcome, RequestError> {
        let forward = self.forward;
        if pending.is_some() {
            upgrade::check(&head.headers, &context.view.manager, forward)?;
        }
        let chosen = choose(&forward.cluster, &head.headers, || context.connection.worker.random());
        let (name, weighted) = match &chosen {
            Chosen::Cluster(name) => (*name, None),
            Chosen::Weighted(entry) => (&entry.name, Some(*entry)),
            Chosen::Named(name) => (name, None),
            Chosen::None => return Err(RequestError::NoCluster { status: forward.cluster_not_found }),
        };
        let cluster = context.view.view.cluster(name).ok_or(RequestError::NoCluster { status: forward.cluster_not_found })?;
        context.cluster = Some(Rc::clone(&cluster));

        let policy = forward.retry.as_deref().filter(|policy| self.may_retry(policy, &head, context.grpc));
        self.limit(context, policy, &head);
        let http2 = pending.is_none()
            && match cluster.cluster.protocol {
                UpstreamProtocol::Http1 => false,
                UpstreamProtocol::Http2 => true,
                UpstreamProtocol::Downstream => context.version == Version::HTTP_2,
            };
        let dynamic = matches!(cluster.cluster.kind, ClusterKind::DynamicForwardProxy);
        let name = dynamic.then(|| authority(&head).into());
        let later = self.mutations(weighted.map(|entry| &entry.response_headers), |route| &route.response_headers, Side::Response);
        if mutate::asks_for_request(&later) {
            context.asked = Some(Box::new(copy(&head)));
        }
        let mutations = self.mutations(weighted.map(|entry| &entry.request_headers), |route| &route.request_headers, Side::Request);
        let weighted_host = weighted.and_then(|entry| entry.host.as_ref());
        self.rewrite(context, &mut head, &cluster, &mutations, weighted_host, pending.is_some(), http2)?;

        let kept = http2 || policy.is_some_and(|policy| may_repeat_written(policy, context.grpc));
        let body = if body.is_end_stream() {
            RequestBody::EMPTY
        } else {
            let limit = match policy {
                Some(policy) if kept => policy.buffer_limit,
                _ if kept => KEPT_FOR_REFUSALS,
                _ => 0,
            };
            let stream = RequestStream::new(body, limit);
            let body = RequestBody::first(&stream);
            context.stream = Some(stream);
            body
        };
        let outgoing = Outgoing { head: Some(head), body: Some(body), kept, http2, name };
        let answer = self.attempt(context, &cluster, policy, outgoing).await?;
        Ok(self.respond(context, answer, pending, weighted.map(|entry| &entry.response_headers)))
    }

    fn may_retry(&self, policy: &RetryPolicy, head: &request::Parts, grpc: bool) -> bool {
        policy.request_headers.is_empty() || policy.request_headers.iter().any(|wanted| matches_header(wanted, &look(head, grpc)))
    }

    /// Set the clocks of the exchange.
    fn limit(&self, context: &mut RequestContext, policy: Option<&RetryPolicy>, head: &request::Parts) {
        let asked = if context.grpc { head.headers.get("grpc-timeout") } else { None };
        let request = timeout::effective(self.forward.timeout, self.forward.grpc_timeout, asked);
        let per_try = policy.and_then(|policy| policy.per_try_timeout);
        let idle = self.forward.idle_timeout.unwrap_or(context.view.manager.stream_idle_timeout);
        context.timers = Timers::new(request, per_try, idle, context.started);
    }

    /// Header changes that apply, innermost first; usually none.
    fn mutations<'m>(
        &'m self,
        weighted: Option<&'m HeaderMutations>,
        of_route: impl Fn(&'m Route) -> &'m HeaderMutations,
        side: Side,
    ) -> Mutations<'m> {
        let (of_host, of_table) = match side {
            Side::Request => (&self.host.request_headers, &self.routes.request_headers),
            Side::Response => (&self.host.response_headers, &self.routes.response_headers),
        };
        weighted.into_iter().chain([of_route(self.route), of_host, of_table]).filter(|list| !list.is_empty()).collect()
    }

    /// Turn the head as received into the head as sent.
    #[allow(clippy::too_many_arguments)]
    fn rewrite(
        &self,
        context: &RequestContext,
        head: &mut request::Parts,
        cluster: &WorkerCluster,
        mutations: &Mutations<'_>,
        weighted_host: Option<&HeaderValue>,
        upgrade: bool,
        http2: bool,
    ) -> Result<(), RequestError> {
        let mut fields = self.fields;
        if !mutations.is_empty() {
            let rendered = mutate::render(mutations, &RequestFacts { context, head, response: None });
            mutate::apply(mutations, rendered, &mut head.headers);
            fields = Fields::of(&head.headers);
        }
        headers::strip_hop_by_hop(&mut head.headers, fields, upgrade);
        headers::strip_expect(&mut head.headers, fields);
        if let Some(path) = rewrite::path(&self.forward.path, &self.route.matches.path, head.uri.path(), head.uri.query()) {
            if let Ok(original) = HeaderValue::from_str(head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)) {
                head.headers.insert(headers::ORIGINAL_PATH, original);
            }
            set_path(&mut head.uri, path).ok_or(RequestError::BadPath)?;
        }
        let host = match &self.forward.host {
            HostRewrite::Literal(host) => Some(host.clone()),
            HostRewrite::Header(name) => head.headers.get(name).cloned(),
            HostRewrite::None => weighted_host.cloned(),
        };
        if let (Some(_), true) = (&host, self.forward.append_forwarded_host)
            && let Ok(before) = HeaderValue::from_str(authority(head))
        {
            head.headers.append(headers::FORWARDED_HOST, before);
        }
        peer_metadata(context, cluster, &mut head.headers, fields);
        let connection = &context.connection;
        if http2 {
            let authority: Option<Authority> = match (&host, head.uri.authority()) {
                (Some(host), _) => connection.authority_of(host),
                (None, Some(authority)) => Some(authority.clone()),
                (None, None) => head.headers.get(HOST).and_then(|host| connection.authority_of(host)),
            };
            headers::to_http2(head, authority.ok_or(RequestError::MissingHost)?).ok_or(RequestError::BadPath)
        } else {
            let host = host.or_else(|| head.uri.authority().and_then(|authority| connection.host_of(authority)));
            headers::to_http1(head, host);
            Ok(())
        }
    }

    /// Try until there is a response to pass on, or nothing more to try.
    async fn attempt(
        &self,
        context: &mut RequestContext,
        cluster: &Rc<WorkerCluster>,
        policy: Option<&RetryPolicy>,
        mut outgoing: Outgoing,
    ) -> Result<Answer, RequestError> {
        let worker = Rc::clone(&context.connection.worker);
        let (mut attempts, mut moves) = (Attempts::first(), Moves::default());
        let mut tried: SmallVec<[Rc<WorkerEndpoint>; 2]> = SmallVec::new();
        let again = policy.map_or(0, |policy| policy.host_selection_attempts);
        loop {
            let endpoint = choose_endpoint(context, cluster, outgoing.name.as_deref(), &tried, again).await?;
            context.open = Some(OpenRequest::new(&endpoint.endpoint.live));
            context.endpoint = Some(Rc::clone(&endpoint));
            context.attempts = attempts.made;
            if let (true, Some(head)) = (self.host.attempt_count_to_upstream, &mut outgoing.head) {
                head.headers.insert(headers::ATTEMPT_COUNT, small_number(attempts.made));
            }
            if let Some(timers) = &mut context.timers {
                timers.begin_try(if attempts.made == 1 { context.started } else { Instant::now() });
            }
            let pause = match try_once(context, cluster, &endpoint, &mut outgoing, &mut moves).await {
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

    /// Turn the upstream's head into the downstream's.
    fn respond(
        &self,
        context: &mut RequestContext,
        answer: Answer,
        pending: Option<PendingTunnel>,
        weighted: Option<&HeaderMutations>,
    ) -> Outcome {
        context.details = Cow::Borrowed("via_upstream");
        let now = Instant::now();
        let waited = now.saturating_duration_since(context.request_complete().unwrap_or(context.started));
        context.service_time = Some(waited);
        if let Some(stream) = &context.stream {
            stream.keep_no_more();
        }
        let (mut head, kind) = match answer {
            Answer::Http1(response, _) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let Some(pending) = pending else { return protocol_error(context) };
                let (mut head, body) = response.into_parts();
                self.decorate(context, &mut head, waited, weighted, true);
                return Outcome::Upgraded(Box::new(Response::from_parts(head, body)), pending);
            }
            Answer::Http1(response, sender) => {
                context.lease = Some(sender);
                let (head, body) = response.into_parts();
                (head, Kind::Http1(body))
            }
            Answer::Http2(response) => {
                let (head, body) = response.into_parts();
                (head, Kind::Http2(body))
            }
        };
        self.decorate(context, &mut head, waited, weighted, false);
        Outcome::Upstream(Response::from_parts(head, kind))
    }

    fn decorate(
        &self,
        context: &RequestContext,
        head: &mut response::Parts,
        waited: Duration,
        weighted: Option<&HeaderMutations>,
        upgrade: bool,
    ) {
        let fields = Fields::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, fields, upgrade);
        head.version = Version::HTTP_11;
        if context.view.listener.direction == Direction::Outbound {
            strip_peer_metadata(&mut head.headers, fields);
        }
        let mutations = self.mutations(weighted, |route| &route.response_headers, Side::Response);
        if !mutations.is_empty() {
            let rendered = mutate::render(&mutations, &ResponseFacts { context, response: &head.headers, status: head.status });
            mutate::apply(&mutations, rendered, &mut head.headers);
        }
        head.headers.insert(headers::UPSTREAM_SERVICE_TIME, milliseconds(waited));
        if self.host.attempt_count_to_downstream {
            head.headers.insert(headers::ATTEMPT_COUNT, small_number(context.attempts));
        }
        set_server(context, &mut head.headers);
    }
}

/// Say who calls to other proxies of the mesh, and to nobody else.
fn peer_metadata(context: &RequestContext, cluster: &WorkerCluster, headers: &mut HeaderMap, fields: Fields) {
    if context.view.listener.direction == Direction::Inbound {
        return;
    }
    let local = &context.view.view.config.local;
    match (&local.peer_metadata, &local.peer_metadata_id) {
        (Some(metadata), Some(id)) if cluster.cluster.sends_peer_metadata => {
            headers.insert(headers::PEER_METADATA, metadata.clone());
            headers.insert(headers::PEER_METADATA_ID, id.clone());
        }
        _ => strip_peer_metadata(headers, fields),
    }
}

fn strip_peer_metadata(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Fields::PEER_METADATA) {
        headers.remove(headers::PEER_METADATA);
    }
    if fields.has(Fields::PEER_METADATA_ID) {
        headers.remove(headers::PEER_METADATA_ID);
    }
}

type Mutations<'m> = SmallVec<[&'m HeaderMutations; 4]>;

#[derive(Clone, Copy)]
enum Side {
    Request,
    Response,
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

async fn try_once(
    context: &mut RequestContext,
    cluster: &WorkerCluster,
    endpoint: &WorkerEndpoint,
    outgoing: &mut Outgoing,
    moves: &mut Moves,
) -> Tried {
    let first = context.attempts == 1 && moves.all == 0;
    let now = if first { context.started } else { Instant::now() };
    let opening = Link::open(&endpoint.pool, &cluster.cluster, &endpoint.endpoint.live, outgoing.http2, now);
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
    let failure = match limited(context, link.send(Request::from_parts(head, body), now)).await {
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

impl Outgoing {
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
fn copy(head: &request::Parts) -> request::Parts {
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
    cluster: &Rc<WorkerCluster>,
    name: Option<&str>,
    tried: &[Rc<WorkerEndpoint>],
    again: u32,
) -> Result<Rc<WorkerEndpoint>, RequestError> {
    let view = &context.view.view;
    let worker = &context.connection.worker;
    match &cluster.cluster.kind {
        ClusterKind::Endpoints(_) | ClusterKind::Dns(_) => {
            balance::pick(cluster, tried, again, || worker.random()).map(Rc::clone).ok_or(RequestError::NoEndpoint)
        }
        ClusterKind::OriginalDestination => Ok(view.dynamic_endpoint(cluster, context.connection.local)),
        ClusterKind::DynamicForwardProxy => {
            let name = name.unwrap_or_default();
            if let Some(endpoint) = cluster.named(name, context.started) {
                return Ok(endpoint);
            }
            let authority: Authority = name.parse().map_err(|_| RequestError::Unresolved)?;
            let looking = worker.resolver.lookup(authority.host(), context.started);
            let addresses = Box::pin(looking).await.map_err(|_| RequestError::Unresolved)?;
            let address = *addresses.first().ok_or(RequestError::Unresolved)?;
            let endpoint = view.dynamic_endpoint(cluster, SocketAddr::new(address, authority.port_u16().unwrap_or(80)));
            cluster.remember(name, context.started + crate::connect::resolve::Resolver::REMEMBER, &endpoint);
            Ok(endpoint)
        }
    }
}

impl Answer {
    fn head(&self) -> (StatusCode, &HeaderMap) {
        match self {
            Self::Http1(response, _) => (response.status(), response.headers()),
            Self::Http2(response) => (response.status(), response.headers()),
        }
    }
}

impl RequestContext {
    fn note_exhausted(&mut self, attempts: &Attempts) {
        if attempts.exhausted {
            self.flag(super::record::ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
    }
}

/// A 101 that nobody asked for.
fn protocol_error(context: &mut RequestContext) -> Outcome {
    let failure = Failure::Protocol(Cow::Borrowed("unexpected 101"));
    let reply = RequestError::Upstream { failure, retried: false, exhausted: false }.reply();
    context.flag(reply.flags);
    let response = local_reply::response(&reply, context.grpc);
    context.details = reply.details;
    Outcome::Local(response)
}

/// Give the codec its response, and the context to the body whose end is the end of the exchange.
fn answer(mut context: Box<RequestContext>, outcome: Result<Outcome, RequestError>) -> Response<ResponseBody> {
    match outcome {
        Ok(Outcome::Upstream(response)) => {
            context.responds(response.status(), response.headers());
            response.map(|kind| ResponseBody::new(kind, context))
        }
        Ok(Outcome::Local(mut response)) => {
            set_server(&context, response.headers_mut());
            context.responds(response.status(), response.headers());
            response.map(|bytes| ResponseBody::new(Kind::Full(bytes), context))
        }
        Ok(Outcome::Upgraded(mut response, pending)) => {
            upgrade::splice(pending, &mut response, context);
            let (mut head, _) = response.into_parts();
            head.extensions.clear();
            Response::from_parts(head, ResponseBody::unrecorded(Kind::Empty))
        }
        Err(error) => {
            let gone = matches!(&error, RequestError::Upstream { failure: Failure::RequestBody, .. });
            let reply = error.reply();
            context.flag(reply.flags);
            let mut response = local_reply::response(&reply, context.grpc);
            context.details = reply.details;
            context.upstream_failure = reply.upstream_failure;
            set_server(&context, response.headers_mut());
            if !gone {
                context.responds(response.status(), response.headers());
            }
            response.map(|bytes| ResponseBody::new(Kind::Full(bytes), context))
        }
    }
}

fn decorate_local(
    context: &RequestContext,
    (routes, host, route): (&RouteTable, &VirtualHost, &Route),
    head: &request::Parts,
    mut response: Response<Bytes>,
) -> Response<Bytes> {
    let lists = [&route.response_headers, &host.response_headers, &routes.response_headers];
    let lists: Mutations<'_> = lists.into_iter().filter(|list| !list.is_empty()).collect();
    if !lists.is_empty() {
        let (status, before) = (response.status(), response.headers().clone());
        let rendered = mutate::render(&lists, &RequestFacts { context, head, response: Some((status, &before)) });
        mutate::apply(&lists, rendered, response.headers_mut());
    }
    response
}

fn set_server(context: &RequestContext, headers: &mut HeaderMap) {
    if let Some(server) = &context.view.manager.server_header {
        headers.insert(SERVER, server.clone());
    }
}

/// Header values of small numbers, made without allocation.
fn small_number(number: u32) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match SMALL.get(number as usize) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(number),
    }
}

fn milliseconds(time: Duration) -> HeaderValue {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match u32::try_from(milliseconds) {
        Ok(small) if small < 10 => small_number(small),
        _ => HeaderValue::from(milliseconds),
    }
}

/// Parts of a request that the access log will want, as they came.
fn log_facts(request: &Request<Incoming>, manager: &HttpManager) -> LogFacts {
    LogFacts {
        method: request.method().clone(),
        uri: request.uri().clone(),
        authority: match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => request.headers().get(HOST).cloned(),
        },
        request_headers: manager.access_log.capture_request(request.headers()),
        response_headers: Captured::default(),
        response_trailers: Captured::default(),
    }
}

/// Facts for header templates while the request is at hand.
struct RequestFacts<'a> {
    context: &'a RequestContext,
    head: &'a request::Parts,
    response: Option<(StatusCode, &'a HeaderMap)>,
}

impl Facts for RequestFacts<'_> {
    fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]> {
        look(self.head, self.context.grpc).value(key)
    }

    fn response_headers(&self) -> Option<&HeaderMap> {
        self.response.map(|(_, headers)| headers)
    }

    fn fact(&self, fact: Fact, out: &mut BytesMut) {
        put_fact(self.context, fact, self.response.map(|(status, _)| status), out);
    }
}

/// Facts for header templates when the request has gone; its head was kept if any template asks for it.
struct ResponseFacts<'a> {
    context: &'a RequestContext,
    response: &'a HeaderMap,
    status: StatusCode,
}

impl Facts for ResponseFacts<'_> {
    fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]> {
        look(self.context.asked.as_deref()?, self.context.grpc).value(key)
    }

    fn response_headers(&self) -> Option<&HeaderMap> {
        Some(self.response)
    }

    fn fact(&self, fact: Fact, out: &mut BytesMut) {
        put_fact(self.context, fact, Some(self.status), out);
    }
}

fn put_fact(context: &RequestContext, fact: Fact, status: Option<StatusCode>, out: &mut BytesMut) {
    use std::fmt::Write as _;
    let connection = &context.connection;
    // Writing to memory does not fail.
    let _ = match fact {
        Fact::DownstreamRemoteAddress => write!(out, "{}", connection.remote),
        Fact::DownstreamRemoteAddressWithoutPort => write!(out, "{}", connection.remote.ip()),
        Fact::DownstreamLocalAddress => write!(out, "{}", connection.local),
        Fact::DownstreamLocalAddressWithoutPort => write!(out, "{}", connection.local.ip()),
        Fact::Protocol => {
            out.put_slice(if context.version == Version::HTTP_2 { b"HTTP/2" } else { b"HTTP/1.1" });
            Ok(())
        }
        Fact::UpstreamHost => context.endpoint.as_ref().map_or(Ok(()), |endpoint| write!(out, "{}", endpoint.endpoint.address)),
        Fact::UpstreamCluster => context.cluster.as_ref().map_or(Ok(()), |cluster| write!(out, "{}", cluster.cluster.name)),
        Fact::RouteName => context.route.as_ref().map_or(Ok(()), |route| write!(out, "{}", route.name)),
        Fact::Hostname => write!(out, "{}", connection.worker.hostname()),
        Fact::ResponseCode => status.map_or(Ok(()), |status| write!(out, "{}", status.as_u16())),
    };
}
