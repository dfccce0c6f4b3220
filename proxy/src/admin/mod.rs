//! Pages about this process, on the side runtime: admin (loopback), readiness, metrics.
//!
//! In:  HTTP/1.1 from operators, probes and scrapers; bounded, and checked for who sent it.
//! Out: Envoy's pages and words where it has them; orders to drain, to quit, to log more.

mod clusters;
mod config_dump;
mod listeners;
mod server_info;
mod stats;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::bootstrap::Bootstrap;
use crate::config::store::ConfigStore;
use crate::config::subscribe::{Kept, SyncState};
use crate::drain::Drain;
use crate::telemetry::log_sink::LogSinks;
use crate::telemetry::logging::LogControl;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::stats::{Counter, ProxyStats};

/// Connections to one surface at a time.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// From the first byte of a head to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest life of a connection; a scraper just opens another.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Everything the pages tell of.
#[derive(Debug)]
pub struct AdminState {
    pub bootstrap: Bootstrap,
    pub addresses: Addresses,
    pub store: ConfigStore,
    pub sync: watch::Receiver<SyncState>,
    pub kept: Kept,
    pub metrics: Arc<Metrics>,
    pub stats: Arc<ProxyStats>,
    pub sinks: Arc<LogSinks>,
    pub logging: LogControl,
    pub drain: Arc<Drain>,
    /// Rung by `/quitquitquit`.
    pub quit: Notify,
    /// Downstream HTTP connections.
    pub connections: Arc<AtomicU32>,
    pub panics: Arc<Counter>,
    pub started: Instant,
}

/// Where the surfaces really are; port 0 has become a port.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addresses {
    pub admin: Option<SocketAddr>,
    pub status: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// What one socket serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// All pages; loopback.
    Admin,
    /// `/healthz/ready` alone.
    Status,
    /// `/stats/prometheus` alone.
    Metrics,
}

/// One page of the admin surface.
struct Page {
    path: &'static str,
    method: Method,
    help: &'static str,
    render: fn(&AdminState, Query<'_>) -> Reply,
}

const PAGES: [Page; 11] = [
    Page { path: "/", method: Method::GET, help: "this page", render: |_, _| help() },
    Page { path: "/ready", method: Method::GET, help: "200 when a configuration is in force", render: |state, _| ready(state) },
    Page {
        path: "/server_info",
        method: Method::GET,
        help: "version, state, addresses, settings, node",
        render: |state, _| server_info::page(state),
    },
    Page { path: "/clusters", method: Method::GET, help: "clusters and their endpoints (?format=json)", render: clusters::page },
    Page {
        path: config_dump::PATH,
        method: Method::GET,
        help: "the resources in force, as Envoy's JSON (?include_eds, ?resource=dynamic_listeners, ?mask=FIELDS, ?name_regex=EXPRESSION)",
        render: config_dump::page,
    },
    Page { path: "/listeners", method: Method::GET, help: "listeners and their addresses (?format=json)", render: listeners::page },
    Page { path: "/stats", method: Method::GET, help: "counters (?filter=EXPRESSION, ?format=json|prometheus)", render: stats::page },
    Page {
        path: "/stats/prometheus",
        method: Method::GET,
        help: "metrics in Prometheus' format",
        render: |state, _| stats::prometheus(state),
    },
    Page { path: "/logging", method: Method::POST, help: "changes the log level (?level=debug, ?MODULE=LEVEL)", render: logging },
    Page {
        path: "/drain_listeners",
        method: Method::POST,
        help: "takes leave of all clients and accepts no new ones",
        render: |state, _| drain_listeners(state),
    },
    Page { path: "/quitquitquit", method: Method::POST, help: "drains and ends the process", render: |state, _| quit(state) },
];

/// The part of a URI after `?`.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

/// A page's answer.
struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Reply {
    fn text(body: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    fn error(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, ..Self::text(body) }
    }

    fn json(value: &serde_json::Value) -> Self {
        // A value of strings and numbers always has a text.
        let body = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        Self { status: StatusCode::OK, content_type: "application/json", body }
    }
}

impl<'a> Query<'a> {
    /// Keys and values, percent-decoded; `+` is a space.
    fn pairs(self) -> impl Iterator<Item = (String, String)> + 'a {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
    }

    fn get(self, key: &str) -> Option<String> {
        self.pairs().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                // Two hexadecimal digits are one byte.
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => b'?',
            },
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Serves a surface for ever.
pub async fn serve(listener: TcpListener, surface: Surface, state: Arc<AdminState>) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept admin connections; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Beyond the limit connections wait in the kernel, and then here.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // What a peer does to its own connection is not worth a line.
            let _ = tokio::time::timeout(MAX_AGE, connection(stream, surface, state)).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, surface: Surface, state: Arc<AdminState>) {
    let local = stream.local_addr().ok();
    let service = service_fn(|request: Request<Incoming>| {
        let (state, request) = (Arc::clone(&state), request.map(drop));
        async move {
            // A dump of a large mesh takes its time, and the configuration must be followed meanwhile.
            let answer = if request.uri().path() == config_dump::PATH {
                let made = tokio::task::spawn_blocking(move || answer(&state, surface, local, &request)).await;
                made.unwrap_or_else(|_| (Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "the dump failed; the log says why\n"), None))
            } else {
                answer(&state, surface, local, &request)
            };
            Ok::<_, Infallible>(response(answer))
        }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An answer and, for a wrong method, the right one.
type Answer = (Reply, Option<Method>);

fn response((reply, allow): Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(method) = allow.and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
        headers.insert(ALLOW, method);
    }
    response
}

fn answer<B>(state: &AdminState, surface: Surface, local: Option<SocketAddr>, request: &Request<B>) -> Answer {
    let (path, query) = (request.uri().path(), Query(request.uri().query().unwrap_or_default()));
    // HEAD is GET without the body, which the codec leaves out.
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    match surface {
        Surface::Status if path == "/healthz/ready" => (ready(state), None),
        Surface::Metrics if path == "/stats/prometheus" || path == "/metrics" => (stats::prometheus(state), None),
        Surface::Status | Surface::Metrics => (not_found(), None),
        Surface::Admin => {
            if let Err(reason) = own_host(request.headers(), local) {
                return (Reply::error(StatusCode::FORBIDDEN, format!("{reason}\n")), None);
            }
            let page = PAGES.iter().find(|page| page.path == path || (page.path == "/" && path == "/help"));
            match page {
                None => (not_found(), None),
                Some(page) if page.method != *method => {
                    let reply = Reply::error(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {}\n", page.method));
                    (reply, Some(page.method.clone()))
                }
                Some(page) if page.method == Method::POST && is_cross_site(request.headers()) => {
                    (Reply::error(StatusCode::FORBIDDEN, "orders are not taken from other web pages\n"), None)
                }
                Some(page) => ((page.render)(state, query), None),
            }
        }
    }
}

fn not_found() -> Reply {
    Reply::error(StatusCode::NOT_FOUND, "no such page; / lists them\n")
}

/// A browser that was led here by a foreign name (DNS rebinding) names that one: only loopback names and the address itself are ours.
fn own_host(headers: &HeaderMap, local: Option<SocketAddr>) -> Result<(), &'static str> {
    let Some(host) = headers.get(HOST) else { return Ok(()) };
    let host = host.to_str().map_err(|_| "unreadable Host header")?;
    let name = crate::config::route_table::without_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let known = match address {
        Ok(address) => address.is_loopback() || local.is_some_and(|local| local.ip() == address),
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
    };
    if known { Ok(()) } else { Err("this host name is not this process's") }
}

/// Browsers say where an order comes from; other clients do not.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(ORIGIN) || site.is_some_and(|site| site != b"none" && site != b"same-origin")
}

fn help() -> Reply {
    let mut body = format!("pillion-proxy {}\n\n", env!("CARGO_PKG_VERSION"));
    for page in &PAGES {
        let method = if page.method == Method::POST { " (POST)" } else { "" };
        body += &format!("  {:<18} {}{method}\n", page.path, page.help);
    }
    Reply::text(body)
}

/// Source: Envoy's `ServerInfo.State`.
fn server_state(state: &AdminState) -> &'static str {
    if state.drain.is_draining() {
        "DRAINING"
    } else if state.sync.borrow().ready {
        "LIVE"
    } else {
        "PRE_INITIALIZING"
    }
}

fn ready(state: &AdminState) -> Reply {
    let word = server_state(state);
    let sync = state.sync.borrow().clone();
    let mut body = format!("{word}\n");
    if sync.is_stale() && state.bootstrap.resources.is_some() {
        body += &format!(
            "serving the last good configuration, generation {}: {}\n",
            sync.generation,
            sync.trouble.as_deref().unwrap_or_default()
        );
    } else if sync.is_stale() {
        let away = sync.away_since.and_then(|since| since.elapsed().ok()).unwrap_or_default().as_secs();
        let source = if sync.from_disk { " from disk" } else { "" };
        let reason = sync.trouble.as_deref().unwrap_or("not up to date yet");
        body += &format!(
            "serving the last good configuration{source}, generation {}; no control plane for {away} s: {reason}\n",
            sync.generation
        );
    } else if !sync.ready {
        body += &format!("waiting for a configuration: {}\n", sync.trouble.as_deref().unwrap_or("it has not come yet"));
    }
    for (name, reason) in &sync.unbound {
        body += &format!("listener {name} is not served: {reason}\n");
    }
    let status = if word == "LIVE" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::error(status, body)
}

fn logging(state: &AdminState, query: Query<'_>) -> Reply {
    let parts = query.pairs().map(|(key, value)| match (key.as_str(), value.as_str()) {
        // Envoy's words, and ours.
        ("level", level) => level.to_owned(),
        ("paths", list) => list.replace(':', "="),
        (module, level) => format!("{module}={level}"),
    });
    let levels: Vec<String> = parts.collect();
    if levels.is_empty() {
        return Reply::text(format!("{}\n", state.logging.get().unwrap_or_default()));
    }
    let mut text = levels.join(",");
    if query.get("level").is_none() {
        // A module's level leaves the others at what they are by the flags.
        text = format!("{},{text}", state.bootstrap.log);
    }
    match state.logging.set(&text) {
        Ok(()) => {
            tracing::info!(levels = text, "the log level was changed");
            Reply::text(format!("{}\n", state.logging.get().unwrap_or(text)))
        }
        Err(error) => Reply::error(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn drain_listeners(state: &AdminState) -> Reply {
    tracing::info!("draining listeners, as told");
    state.drain.drain_listeners();
    Reply::text("OK\n")
}

fn quit(state: &AdminState) -> Reply {
    tracing::info!("ending, as told");
    state.quit.notify_one();
    Reply::text("OK\n")
}

/// Connections open now.
fn open_connections(state: &AdminState) -> u32 {
    state.connections.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let local = "127.0.0.1:15000".parse().ok();
        let cases = [
            ("127.0.0.1:15000", true),
            ("localhost", true),
            ("LocalHost:1", true),
            ("admin.localhost:15000", true),
            ("[::1]:15000", true),
            ("evil.example.com", false),
            ("127.0.0.1.evil.example.com:15000", false),
            ("10.0.0.1", false),
            ("", false),
        ];
        for (host, want) in cases {
            let headers: HeaderMap = [(HOST, HeaderValue::from_static(host))].into_iter().collect();
            assert_eq!(own_host(&headers, local).is_ok(), want, "{host}");
        }
        assert!(own_host(&HeaderMap::new(), local).is_ok());
    }

    #[test]
    fn orders_from_web_pages_are_known() {
        let cases = [(None, None, false), (Some("http://evil"), None, true), (None, Some("cross-site"), true), (None, Some("none"), false)];
        for (origin, site, want) in cases {
            let mut headers = HeaderMap::new();
            origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
            site.map(|site| headers.insert("sec-fetch-site", HeaderValue::from_static(site)));
            assert_eq!(is_cross_site(&headers), want);
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query("level=debug&a%3a%3Ab=x+y&&bad=%zz&flag");
        let pairs: Vec<_> = query.pairs().collect();
        let want = [("level", "debug"), ("a::b", "x y"), ("bad", "?"), ("flag", "")];
        assert!(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(want), "{pairs:?}");
    }
}
