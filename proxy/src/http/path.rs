//! The request path: route -> policy -> retry -> balance -> connect, read from top to bottom.
//!
//! In:  a request of a connection. Out: its response; the record follows when the body has ended.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, SERVER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request};
use tokio::time::Instant;

use super::attempt;
use super::body::{Kind, ResponseBody};
use super::connection::Connection;
use super::context::RequestContext;
use super::headers::{self, Fields};
use super::local_reply::{self, RequestError};
use super::normal_path::{self, NoPath};
use super::plan::{Plan, decorate_local};
use super::record::{LogFacts, ResponseFlags};
use super::server::{Incoming, Never, PendingTunnel};
use super::{check, trust, tunnel, upgrade};
use crate::config::listener::{Direction, HttpManager, PathForm};
use crate::config::route_table::{Cors, Route, RouteAction};
use crate::connect::h1;
use crate::route::select::select;
use crate::route::{Head, cors, fault, redirect, rewrite};
use crate::telemetry::access_log::Captured;

/// Serve one request.
pub async fn serve(connection: Rc<Connection>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Never> {
    let view = connection.view();
    let mut context = RequestContext::new(connection, view, request.version(), Instant::now());
    let fields = Fields::of(request.headers());
    context.grpc = fields.has(Fields::CONTENT_TYPE) && headers::is_grpc(request.headers());
    if !context.view.manager.access_log.is_off() {
        context.log = Some(Box::new(log_facts(&request, &context.view.manager)));
    }
    context.head_only = request.method() == Method::HEAD;
    if request.method() == Method::CONNECT && context.view.manager.connect {
        context.last = true;
        // Rare, and large: not to be part of every request's future.
        let opened = Box::pin(tunnel::open(&mut context, request)).await;
        return Ok(opened.unwrap_or_else(|error| answer(context, Err(error))));
    }
    let outcome = forward(&mut context, request, fields).await;
    Ok(answer(context, outcome))
}

/// What the stages came to.
pub enum Outcome {
    Upstream(Response<Kind>),
    Upgraded(Box<Response<h1::Body>>, PendingTunnel),
    Local(Response<Bytes>),
}

async fn forward(context: &mut RequestContext, mut request: Request<Incoming>, fields: Fields) -> Result<Outcome, RequestError> {
    let pending = upgrade::wanted(&mut request, fields);
    // What follows such a request may be meant for the other protocol.
    context.last = pending.is_some() || request.method() == Method::CONNECT;
    let (mut head, body) = request.into_parts();
    let fields = prepare(context, &mut head, fields, pending.is_some())?;

    let view = Rc::clone(&context.view);
    let routes = view.routes.as_deref().ok_or(RequestError::NoRouteConfiguration)?;
    let (host, route) = {
        let worker = &context.connection.worker;
        select(routes, &look(&head, context.grpc), || worker.random()).map_err(|_| RequestError::NoRoute)?
    };
    context.route = Some(Arc::clone(route));
    if view.manager.fault
        && route.fault.is_some()
        && let Err(error) = inject(context, route, &head).await
    {
        return match &route.action {
            RouteAction::Forward(forward) => {
                let plan = Plan { routes, host, route, forward, fields };
                let chosen = plan.choose(context, &head.headers);
                plan.keep_asked(context, chosen.entry(), &head);
                plan.refuse(context, chosen.entry(), error)
            }
            RouteAction::Redirect(_) | RouteAction::Direct(_) => Err(error),
        };
    }
    if let Some(policy) = &route.cors
        && view.manager.cors
        && let Some(answer) = preflight(context, policy, &head)
    {
        return Ok(Outcome::Local(answer));
    }
    match &route.action {
        RouteAction::Forward(forward) => {
            let plan = Plan { routes, host, route, forward, fields };
            let chosen = plan.choose(context, &head.headers);
            let mut outgoing = match plan.outgoing(context, head, body, pending.is_some(), &chosen) {
                Ok(outgoing) => outgoing,
                Err(error) => return plan.refuse(context, chosen.entry(), error),
            };
            match attempt::run(context, &mut outgoing).await {
                Ok(answer) => Ok(plan.respond(context, answer, pending, chosen.entry())),
                Err(error) => plan.refuse(context, chosen.entry(), error),
            }
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

/// What a request gets whatever its route: a host, a normal path, an id. What was meant for this connection alone goes before anything is
/// added, which the sender could name away else. Returns the fields that are left.
fn prepare(context: &mut RequestContext, head: &mut request::Parts, fields: Fields, upgrade: bool) -> Result<Fields, RequestError> {
    let manager = &context.view.manager;
    check::head(head, fields, manager.max_request_headers)?;
    if head.version == Version::HTTP_2 {
        check::join_cookies(&mut head.headers);
    }
    let named = headers::strip_hop_by_hop(&mut head.headers, fields, upgrade);
    let fields = if named { Fields::of(&head.headers) } else { fields };
    if manager.paths != PathForm::AS_IT_IS
        && normalise(head, manager.paths)?
        && let Some(log) = &mut context.log
    {
        log.line = Some((head.method.clone(), head.uri.clone()));
    }
    let edge = manager.use_remote_address;
    if fields.has(Fields::CLAIMS) {
        trust::sanitise(&mut head.headers, edge);
    }
    let keeps_id = fields.has(Fields::REQUEST_ID) && (!edge || manager.preserve_request_id);
    let has_id = keeps_id && head.headers.get(headers::REQUEST_ID).is_some_and(|id| !id.is_empty());
    if manager.generate_request_id && !has_id {
        let id = headers::request_id(context.connection.worker.random_wide());
        head.headers.insert(headers::REQUEST_ID, id);
        if let Some(log) = &mut context.log {
            log.request_headers = manager.access_log.capture_request(&head.headers);
        }
    }
    if edge {
        append_forwarded_for(&mut head.headers, context.connection.remote);
        trust::tell_origin(&mut head.headers, context.connection.remote);
        head.headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
    } else {
        if !fields.has(Fields::FORWARDED_PROTO) {
            head.headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if fields.has(Fields::FORWARDED_FOR)
            && let Some(origin) = trust::origin(&head.headers)
        {
            context.remote = SocketAddr::new(origin, 0);
        }
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
    Ok(fields)
}

pub fn append_forwarded_for(headers: &mut HeaderMap, remote: SocketAddr) {
    let mut all = Vec::new();
    for before in headers.get_all(headers::FORWARDED_FOR).iter().filter(|before| !before.is_empty()) {
        all.extend_from_slice(before.as_bytes());
        all.push(b',');
    }
    all.extend_from_slice(remote.ip().to_string().as_bytes());
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(headers::FORWARDED_FOR, value);
    }
}

/// Whether the path was another one.
fn normalise(head: &mut request::Parts, form: PathForm) -> Result<bool, RequestError> {
    let Some(mut path) = normal_path::normal(head.uri.path(), form).map_err(|NoPath| RequestError::BadPath)? else {
        return Ok(false);
    };
    if let Some(query) = head.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let path = rewrite::to_path(path.into()).ok_or(RequestError::BadPath)?;
    set_path(&mut head.uri, path).ok_or(RequestError::BadPath).map(|()| true)
}

/// Replace path and query. `None`: the result is no URI.
pub fn set_path(uri: &mut Uri, path: PathAndQuery) -> Option<()> {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).ok()?;
    Some(())
}

/// The authority that a request names: of its URI, else `Host`.
pub fn authority(head: &request::Parts) -> &str {
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
    }
}

/// A head as rules look at it.
pub fn look(head: &request::Parts, grpc: bool) -> Head<'_> {
    Head { method: &head.method, authority: authority(head), uri: &head.uri, headers: &head.headers, grpc }
}

/// Faults come before the router, so a delay is outside the route's timeout and an abort is never retried.
async fn inject(context: &mut RequestContext, route: &Route, head: &request::Parts) -> Result<(), RequestError> {
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

/// Look whether a browser may call; the answer if that is all it wanted to know.
fn preflight(context: &mut RequestContext, policy: &Cors, head: &request::Parts) -> Option<Response<Bytes>> {
    let judged = cors::judge(policy, &look(head, context.grpc), || context.connection.worker.random());
    context.origin = judged.allowed.map(Box::new);
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = judged.preflight?;
    context.details = Cow::Borrowed("cors_response");
    Some(response)
}

/// Whoever answers: an origin that is allowed is told so.
fn allow_origin(context: &RequestContext, headers: &mut HeaderMap) {
    let policy = context.route.as_ref().and_then(|route| route.cors.as_ref());
    if let (Some(origin), Some(policy)) = (&context.origin, policy) {
        cors::allow(policy, origin, headers);
    }
}

/// Give the codec its response, and the context to the body whose end is the end of the exchange.
fn answer(mut context: Box<RequestContext>, outcome: Result<Outcome, RequestError>) -> Response<ResponseBody> {
    match outcome {
        Ok(Outcome::Upstream(mut response)) => {
            allow_origin(&context, response.headers_mut());
            say_last(&context, response.headers_mut());
            context.responds(response.status(), response.headers());
            response.map(|kind| ResponseBody::new(kind, context))
        }
        Ok(Outcome::Local(response)) => own_answer(context, response, false),
        Ok(Outcome::Upgraded(mut response, pending)) => {
            allow_origin(&context, response.headers_mut());
            upgrade::splice(pending, &mut response, context);
            let (mut head, _) = response.into_parts();
            head.extensions.clear();
            Response::from_parts(head, ResponseBody::unrecorded(Kind::Empty))
        }
        Err(error) => {
            let gone = error.has_no_reader();
            let response = local_reply::refused(&mut context, error);
            own_answer(context, response, gone)
        }
    }
}

/// A text of our own. The answer to `HEAD` tells its length only. `gone`: nobody reads it.
fn own_answer(mut context: Box<RequestContext>, mut response: Response<Bytes>, gone: bool) -> Response<ResponseBody> {
    // Source: Envoy `FilterManager::sendLocalReply`: a bad request may be a sign of a message that was misunderstood.
    context.last |= response.status() == StatusCode::BAD_REQUEST;
    allow_origin(&context, response.headers_mut());
    set_server(&context, response.headers_mut());
    say_last(&context, response.headers_mut());
    if !gone {
        context.responds(response.status(), response.headers());
    }
    let kind = |bytes| if context.head_only { Kind::Empty } else { Kind::Full(bytes) };
    let response = response.map(kind);
    response.map(|kind| ResponseBody::new(kind, context))
}

/// Say that the connection ends with this answer. HTTP/2 ends streams by itself.
fn say_last(context: &RequestContext, headers: &mut HeaderMap) {
    if context.last && context.version != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Say who answers.
pub fn set_server(context: &RequestContext, headers: &mut HeaderMap) {
    if let Some(server) = &context.view.manager.server_header {
        headers.insert(SERVER, server.clone());
    }
}

/// Parts of a request that the access log will want, as they came.
fn log_facts(request: &Request<Incoming>, manager: &HttpManager) -> LogFacts {
    LogFacts {
        line: Some((request.method().clone(), request.uri().clone())),
        authority: match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => request.headers().get(HOST).cloned(),
        },
        request_headers: manager.access_log.capture_request(request.headers()),
        response_headers: Captured::default(),
        response_trailers: Captured::default(),
    }
}
