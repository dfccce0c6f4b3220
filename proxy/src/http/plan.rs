//! From a route that forwards to a request as sent, and from the upstream's head to the response's.
//!
//! In:  the route with the configuration around it, heads as received. Out: heads as passed on.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::attempt::{Outgoing, Policy, copy};
use super::body::Kind;
use super::context::RequestContext;
use super::facts::{RequestFacts, ResponseFacts};
use super::headers::{self, Fields};
use super::local_reply::{self, RequestError};
use super::mirror;
use super::path::{Outcome, authority, look, set_path, set_server};
use super::server::{Incoming, PendingTunnel};
use super::upgrade;
use crate::config::cluster::ClusterKind;
use crate::config::listener::Direction;
use crate::config::route_table::{
    Forward, GrpcTimeout, HeaderMutations, HostRewrite, RetryPolicy, Route, RouteTable, VirtualHost, WeightedCluster,
};
use crate::config::view::WorkerCluster;
use crate::connect::{Answer, Failure};
use crate::retry::asked::{self, Asked, Expected};
use crate::retry::attempts::may_repeat_written;
use crate::retry::replay::{RequestBody, RequestStream};
use crate::retry::timeout::{self, Timers};
use crate::route::select::{Chosen, choose, matches_header};
use crate::route::{mutate, rewrite};

/// Bytes of a request's body kept where only the peer's refusal of a stream can ask for another try.
const KEPT_FOR_REFUSALS: usize = 64 << 10;

/// A route that forwards, with the configuration around it.
pub struct Plan<'v> {
    pub routes: &'v RouteTable,
    pub host: &'v Arc<VirtualHost>,
    pub route: &'v Arc<Route>,
    pub forward: &'v Forward,
    /// Of the request as rules look at it.
    pub fields: Fields,
}

impl<'v> Plan<'v> {
    /// Make the request ready to be sent: find the cluster, set the clocks, turn the head as received into the head as sent.
    ///
    /// # Errors
    /// When there is no cluster, the upgrade is not allowed, or the head makes no request.
    pub fn outgoing(
        &self,
        context: &mut RequestContext,
        mut head: request::Parts,
        body: Incoming,
        upgrade: bool,
        chosen: &Chosen<'v>,
    ) -> Result<Outgoing<'v>, RequestError> {
        let forward = self.forward;
        if head.method == Method::CONNECT {
            // Tunnels are opened by the connection manager, where it opens any.
            return Err(RequestError::UpgradeRefused);
        }
        if upgrade {
            upgrade::check(&head.headers, &context.view.manager, forward)?;
        }
        let weighted = chosen.entry();
        let cluster = match self.cluster(context, chosen) {
            Ok(found) => found,
            Err(error) => {
                self.keep_asked(context, weighted, &head);
                return Err(error);
            }
        };
        let asked = if self.fields.has(Fields::ASKED) { asked::take(&mut head.headers, believes(context)) } else { None };
        let policy = self.policy(asked.as_ref());
        let may_retry = policy.as_deref().is_some_and(|policy| self.may_retry(policy, &head, context.grpc));
        let expected = self.limit(context, policy.as_deref().filter(|_| may_retry), asked.as_ref(), &head);
        let policy = policy.filter(|_| may_retry);
        let http2 = !upgrade && cluster.cluster.protocol.is_http2(context.version);
        let dynamic = matches!(cluster.cluster.kind, ClusterKind::DynamicForwardProxy);
        let name = dynamic.then(|| authority(&head).into());
        self.rewrite(context, &mut head, &cluster, weighted, Shape { upgrade, http2 })?;
        self.keep_asked(context, weighted, &head);
        let kept = http2 || policy.as_deref().is_some_and(|policy| may_repeat_written(policy, context.grpc));
        let body = first_body(context, body, policy.as_deref(), kept);
        let attempt_count = self.host.attempt_count_to_upstream;
        // The two halves of an upgraded stream are a conversation: there is nothing to copy. Nor is a request that finds no endpoint mirrored.
        if !forward.mirrors.is_empty() && !upgrade && may_be_sent(&cluster) {
            if attempt_count {
                head.headers.insert(headers::ATTEMPT_COUNT, headers::small_number(1));
            }
            if let Some(expected) = expected {
                // A copy has the time of the whole request.
                let per_try = expected.per_try.filter(|_| expected.request.is_none());
                Expected { per_try, ..expected }.tell(&mut head.headers, Duration::ZERO);
            }
            mirror::begin(context, &forward.mirrors, &head, forward.timeout);
        }
        Ok(Outgoing { head: Some(head), body: Some(body), cluster, policy, kept, http2, attempt_count, expected, name })
    }

    /// Keep a head that changes of the response's headers refer to.
    pub fn keep_asked(&self, context: &mut RequestContext, weighted: Option<&'v WeightedCluster>, head: &request::Parts) {
        if mutate::asks_for_request(&self.mutations(weighted, Side::Response)) {
            context.asked = Some(Box::new(copy(head)));
        }
    }

    /// What this proxy answers in the upstream's place has the route's changes, too.
    ///
    /// # Errors
    /// The one given, where nothing is to be changed, or nobody reads the answer.
    pub fn refuse(
        &self,
        context: &mut RequestContext,
        weighted: Option<&'v WeightedCluster>,
        error: RequestError,
    ) -> Result<Outcome, RequestError> {
        let mutations = self.mutations(weighted, Side::Response);
        if mutations.is_empty() || error.has_no_reader() {
            return Err(error);
        }
        let mut response = local_reply::refused(context, error);
        let status = response.status();
        local_reply::change(&mut response, |headers| change_response(context, &mutations, headers, status));
        Ok(Outcome::Local(response))
    }

    /// The cluster that the request goes to, by the route's rule.
    pub fn choose(&self, context: &RequestContext, headers: &HeaderMap) -> Chosen<'v> {
        choose(&self.forward.cluster, headers, || context.connection.worker.random())
    }

    fn cluster(&self, context: &mut RequestContext, chosen: &Chosen<'_>) -> Result<Rc<WorkerCluster>, RequestError> {
        let missing = || RequestError::NoCluster { status: self.forward.cluster_not_found };
        let cluster = context.view.view.cluster(chosen.name().ok_or_else(missing)?).ok_or_else(missing)?;
        context.cluster = Some(Rc::clone(&cluster));
        Ok(cluster)
    }

    fn may_retry(&self, policy: &RetryPolicy, head: &request::Parts, grpc: bool) -> bool {
        policy.request_headers.is_empty() || policy.request_headers.iter().any(|wanted| matches_header(wanted, &look(head, grpc)))
    }

    /// The route's policy, unless the request asks for more.
    fn policy(&self, asked: Option<&Asked>) -> Option<Policy<'v>> {
        let route = self.forward.retry.as_deref();
        match asked.and_then(|asked| asked.policy(route)) {
            Some(own) => Some(Policy::Own(own)),
            None => route.map(Policy::Route),
        }
    }

    /// Set the clocks of the exchange. `None`: nothing limits it that an upstream should know of.
    fn limit(
        &self,
        context: &mut RequestContext,
        policy: Option<&RetryPolicy>,
        asked: Option<&Asked>,
        head: &request::Parts,
    ) -> Option<Expected> {
        let forward = self.forward;
        let grpc = context.grpc && forward.grpc_timeout != GrpcTimeout::Ignore;
        let request = if grpc {
            timeout::effective(forward.timeout, forward.grpc_timeout, head.headers.get("grpc-timeout"))
        } else {
            forward.timeout
        };
        let request = asked.and_then(|asked| asked.timeout).unwrap_or(request);
        let per_try = asked.and_then(|asked| asked.per_try_timeout).unwrap_or_else(|| policy.and_then(|policy| policy.per_try_timeout));
        // A try that may take longer than the request is not limited by itself.
        let per_try = per_try.filter(|per_try| request.is_none_or(|request| *per_try < request));
        let idle = forward.idle_timeout.unwrap_or(context.view.manager.stream_idle_timeout);
        context.timers = Timers::new(request, per_try, idle, context.started);
        (request.is_some() || per_try.is_some()).then_some(Expected { request, per_try, grpc })
    }

    /// Header changes that apply, innermost first; usually none.
    fn mutations(&self, weighted: Option<&'v WeightedCluster>, side: Side) -> Mutations<'v> {
        let lists = match side {
            Side::Request => [&self.route.request_headers, &self.host.request_headers, &self.routes.request_headers],
            Side::Response => [&self.route.response_headers, &self.host.response_headers, &self.routes.response_headers],
        };
        let of_entry = weighted.map(|entry| match side {
            Side::Request => &entry.request_headers,
            Side::Response => &entry.response_headers,
        });
        of_entry.into_iter().chain(lists).filter(|list| !list.is_empty()).collect()
    }

    /// Turn the head as received into the head as sent.
    fn rewrite(
        &self,
        context: &mut RequestContext,
        head: &mut request::Parts,
        cluster: &WorkerCluster,
        weighted: Option<&'v WeightedCluster>,
        shape: Shape,
    ) -> Result<(), RequestError> {
        let mutations = self.mutations(weighted, Side::Request);
        let mut fields = self.fields;
        if !mutations.is_empty() {
            let render = |head: &request::Parts, list| mutate::render(list, &RequestFacts { context, head, response: None });
            mutate::change(&mutations, head, |head| &mut head.headers, render);
            fields = Fields::of(&head.headers);
            // What came was stripped before rules looked at it.
            headers::strip_hop_by_hop(&mut head.headers, fields, shape.upgrade);
            if let Some(log) = &mut context.log {
                log.request_headers = context.view.manager.access_log.capture_request(&head.headers);
            }
        }
        headers::strip_expect(&mut head.headers, fields);
        if let Some(path) = rewrite::path(&self.forward.path, &self.route.matches.path, head.uri.path(), head.uri.query()) {
            if let Ok(original) = HeaderValue::from_str(head.uri.path_and_query().map_or("/", PathAndQuery::as_str)) {
                head.headers.insert(headers::ORIGINAL_PATH, original);
            }
            set_path(&mut head.uri, path).ok_or(RequestError::BadPath)?;
        }
        let host = match &self.forward.host {
            HostRewrite::Literal(host) => Some(host.clone()),
            HostRewrite::Header(name) => head.headers.get(name).cloned(),
            HostRewrite::None => weighted.and_then(|entry| entry.host.clone()),
        };
        if host.is_some()
            && let Ok(before) = HeaderValue::from_str(authority(head))
        {
            if self.forward.append_forwarded_host {
                head.headers.append(headers::FORWARDED_HOST, before.clone());
            }
            head.headers.insert(headers::ORIGINAL_HOST, before);
            if let Some(log) = &mut context.log {
                log.authority.clone_from(&host);
            }
        }
        peer_metadata(context, cluster, &mut head.headers, fields);
        let connection = &context.connection;
        if shape.http2 {
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

    /// Turn the upstream's head into the downstream's.
    pub fn respond(
        &self,
        context: &mut RequestContext,
        answer: Answer,
        pending: Option<PendingTunnel>,
        weighted: Option<&'v WeightedCluster>,
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
        weighted: Option<&'v WeightedCluster>,
        upgrade: bool,
    ) {
        let fields = Fields::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, fields, upgrade);
        head.version = Version::HTTP_11;
        if context.view.listener.direction == Direction::Outbound {
            strip_peer_metadata(&mut head.headers, fields);
        }
        let mutations = self.mutations(weighted, Side::Response);
        change_response(context, &mutations, &mut head.headers, head.status);
        head.headers.insert(headers::UPSTREAM_SERVICE_TIME, headers::milliseconds(waited));
        if self.host.attempt_count_to_downstream {
            head.headers.insert(headers::ATTEMPT_COUNT, headers::small_number(context.attempts));
        }
        set_server(context, &mut head.headers);
    }
}

/// Whether a cluster has endpoints, or finds them by the request.
fn may_be_sent(cluster: &WorkerCluster) -> bool {
    match cluster.cluster.kind {
        ClusterKind::Endpoints(_) | ClusterKind::Dns(_) => !cluster.endpoints.is_empty(),
        ClusterKind::OriginalDestination { .. } | ClusterKind::DynamicForwardProxy => true,
    }
}

/// The application beside this proxy may ask for retries and timeouts; a caller from outside may not.
fn believes(context: &RequestContext) -> bool {
    context.view.listener.direction == Direction::Outbound && !context.view.manager.use_remote_address
}

/// The protocol that a request is sent in.
#[derive(Clone, Copy)]
struct Shape {
    upgrade: bool,
    http2: bool,
}

/// The body of the first try, kept as far as another one may need it.
fn first_body(context: &mut RequestContext, body: Incoming, policy: Option<&RetryPolicy>, kept: bool) -> RequestBody {
    if body.is_end_stream() {
        return RequestBody::EMPTY;
    }
    let limit = match policy {
        Some(policy) if kept => policy.buffer_limit,
        _ if kept => KEPT_FOR_REFUSALS,
        _ => 0,
    };
    let stream = RequestStream::new(body, limit);
    let body = RequestBody::first(&stream);
    context.stream = Some(stream);
    body
}

/// Say who calls to other proxies of the mesh, and to nobody else.
pub fn peer_metadata(context: &RequestContext, cluster: &WorkerCluster, headers: &mut HeaderMap, fields: Fields) {
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

/// A 101 that nobody asked for.
fn protocol_error(context: &mut RequestContext) -> Outcome {
    let failure = Failure::Protocol(Cow::Borrowed("unexpected 101"));
    let reply = RequestError::Upstream { failure, retried: false, exhausted: false }.reply();
    context.flag(reply.flags);
    let response = local_reply::response(&reply, context.grpc, context.head_only);
    context.details = reply.details;
    Outcome::Local(response)
}

/// Change the headers of a response whose request has gone.
fn change_response(context: &RequestContext, lists: &[&HeaderMutations], headers: &mut HeaderMap, status: StatusCode) {
    mutate::change(lists, headers, |headers| headers, |response, list| mutate::render(list, &ResponseFacts { context, response, status }));
}

/// Apply the route's changes to what the route answers itself.
pub fn decorate_local(
    context: &RequestContext,
    (routes, host, route): (&RouteTable, &VirtualHost, &Route),
    head: &request::Parts,
    mut response: Response<Bytes>,
) -> Response<Bytes> {
    let lists = [&route.response_headers, &host.response_headers, &routes.response_headers];
    let lists: Mutations<'_> = lists.into_iter().filter(|list| !list.is_empty()).collect();
    if !lists.is_empty() {
        let status = response.status();
        let render = |headers: &HeaderMap, list| mutate::render(list, &RequestFacts { context, head, response: Some((status, headers)) });
        local_reply::change(&mut response, |headers| mutate::change(&lists, headers, |headers| headers, render));
    }
    response
}
