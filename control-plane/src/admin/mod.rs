//! The HTTP API for `pillion status` and for scripts, health checks, and `/metrics`. Reads only.
//!
//! In:  the newest [`Review`], the connected proxies, the history of generations, metrics.
//! Out: JSON under `/api/v1`, text elsewhere.

pub mod history;
pub mod server;
pub mod shapes;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    model::{store::Review, world::World},
    push::status::Proxies,
    telemetry::Metrics,
};
use history::History;
use shapes::{Config, Findings, Generations, ProxyList};

/// What the API shows.
#[derive(Clone)]
pub struct Admin {
    pub reviews: watch::Receiver<Review>,
    pub worlds: watch::Receiver<Arc<World>>,
    pub proxies: Proxies,
    pub history: History,
    /// Cancelled when the control plane ends: it is not ready from then on.
    pub stop: CancellationToken,
}

/// The API. `address` is where it listens: on loopback only requests that name this machine are answered, so that no web page can reach it
/// through a name of its own.
pub fn api(admin: Admin, address: SocketAddr) -> Router {
    let api = Router::new()
        .route("/api/v1/proxies", get(proxies))
        .route("/api/v1/config", get(config))
        .route("/api/v1/findings", get(findings))
        .route("/api/v1/generations", get(generations))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(unknown)
        .with_state(admin);
    guarded(api, address)
}

/// The router of the metrics port.
pub fn metrics(metrics: Metrics, address: SocketAddr) -> Router {
    let text = async |State(metrics): State<Metrics>| match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    guarded(Router::new().route("/metrics", get(text)).fallback(unknown).with_state(metrics), address)
}

fn guarded(router: Router, address: SocketAddr) -> Router {
    let loopback = address.ip().is_loopback();
    router.layer(middleware::from_fn(move |request: Request, next: Next| guard(loopback, request, next)))
}

async fn guard(loopback: bool, request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET: configuration is changed by editing files");
    }
    if loopback && !names_this_machine(request.headers(), request.uri().host()) {
        return refuse(StatusCode::FORBIDDEN, "the Host header must be an address or localhost; this port is for this machine only");
    }
    next.run(request).await
}

/// Whether the request was meant for an address or `localhost`, not for a name that somebody pointed here.
fn names_this_machine(headers: &HeaderMap, authority: Option<&str>) -> bool {
    let host = match headers.get(header::HOST) {
        Some(value) => value.to_str().ok(),
        None => authority,
    };
    host.is_some_and(|host| {
        let name = without_port(host);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match host.split_once(':') {
        // More than one colon without brackets: an IPv6 address, which has no port.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

async fn proxies(State(admin): State<Admin>) -> Response {
    let world = admin.worlds.borrow().clone();
    Json(ProxyList::of(&world, admin.proxies.snapshot())).into_response()
}

async fn config(State(admin): State<Admin>) -> Response {
    let review = admin.reviews.borrow().clone();
    Json(Config::of(&review)).into_response()
}

async fn findings(State(admin): State<Admin>) -> Response {
    let review = admin.reviews.borrow().clone();
    Json(Findings::of(&review)).into_response()
}

async fn generations(State(admin): State<Admin>) -> Response {
    Json(Generations { generation: admin.worlds.borrow().generation, generations: admin.history.newest_first() }).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.stop.is_cancelled() { refuse(StatusCode::SERVICE_UNAVAILABLE, "ending") } else { "ready\n".into_response() }
}

async fn unknown() -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        "no such page; there are /api/v1/{proxies,config,findings,generations}, /healthz, /readyz, and /metrics on its own port",
    )
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}

#[cfg(test)]
mod tests;
