//! The codec's server side. One of the three places that name the codec.
//!
//! In:  a downstream's bytes, of which it is known that they are HTTP.
//! Out: requests into `path`, responses out; the connection ends when it, its listener or the worker does.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use http::{Request, Version};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::check::Malformed;
use super::connection::{Connection, Phase};
use super::context::RequestContext;
use super::path;
use crate::config::listener::Codec;
use crate::connect::stream::Downstream;
use crate::listener::sniff::{self, Kind};

/// A downstream's request body as the codec gives it.
pub type Incoming = hyper::body::Incoming;

/// The inside of a tunnel, as a byte stream.
pub type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// A tunnel that comes to be when the response head is out.
pub type PendingTunnel = hyper::upgrade::OnUpgrade;

/// Serve a connection to its end.
pub async fn serve(connection: Rc<Connection>, mut stream: Downstream) {
    let _known = connection.worker.register(&connection);
    let http2 = match connection.manager.codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto => match opens_with_preface(&connection, &mut stream).await {
            Some(http2) => http2,
            None => return,
        },
    };
    if http2 {
        serve_http2(&connection, stream).await;
    } else {
        serve_http1(&connection, stream).await;
    }
}

/// Whether the connection begins as HTTP/2 does. `None`: it ended before it said anything.
async fn opens_with_preface(connection: &Connection, stream: &mut Downstream) -> Option<bool> {
    let mut bytes = BytesMut::new();
    let mut reading = pin!(async {
        loop {
            match tokio::io::AsyncReadExt::read_buf(stream, &mut bytes).await {
                Ok(0) | Err(_) if bytes.is_empty() => return None,
                Ok(0) | Err(_) => return Some(false),
                Ok(_) => {}
            }
            if bytes.len() >= sniff::HTTP2_PREFACE.len() || !sniff::HTTP2_PREFACE.starts_with(&bytes) {
                return Some(sniff::kind(&bytes) == Some(Kind::Http2));
            }
        }
    });
    let http2 = poll_fn(|cx| {
        connection.watch(cx.waker());
        if connection.phase() > Phase::Open {
            return Poll::Ready(None);
        }
        reading.as_mut().poll(cx)
    });
    let http2 = http2.await?;
    stream.unread(bytes.freeze());
    Some(http2)
}

async fn serve_http1(connection: &Rc<Connection>, stream: Downstream) {
    let manager = &connection.manager;
    let service = {
        let connection = Rc::clone(connection);
        service_fn(move |request: Request<Incoming>| path::serve(Rc::clone(&connection), request))
    };
    let serving = http1::Builder::new()
        .max_headers(manager.max_request_headers as usize)
        .max_header_size(manager.max_request_header_bytes as usize)
        // Idle time and slow heads are watched by the worker's sweep, which costs no timer per request.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    let mut told = false;
    let ended = poll_fn(|cx| {
        connection.watch(cx.waker());
        match connection.phase() {
            Phase::Open => {}
            Phase::Closed => return Poll::Ready(Ok(())),
            Phase::Draining if told => {}
            Phase::Draining => {
                told = true;
                serving.as_mut().graceful_shutdown();
            }
        }
        serving.as_mut().poll(cx)
    });
    let ended = ended.await;
    if let Err(error) = &ended
        && error.is_parse()
    {
        record_refused(connection, error);
    }
    log_end(connection, ended);
}

async fn serve_http2(connection: &Rc<Connection>, stream: Downstream) {
    let settings = connection.manager.http2;
    let service = {
        let connection = Rc::clone(connection);
        service_fn(move |request: Request<Incoming>| path::serve(Rc::clone(&connection), request))
    };
    let mut builder = http2::Builder::new(Local);
    builder
        .max_concurrent_streams(settings.max_concurrent_streams)
        .initial_stream_window_size(settings.initial_stream_window)
        .initial_connection_window_size(settings.initial_connection_window)
        .max_header_list_size(connection.manager.max_request_header_bytes);
    if let Some(interval) = settings.keep_alive_interval {
        builder.timer(TokioTimer::new()).keep_alive_interval(interval).keep_alive_timeout(settings.keep_alive_timeout);
    }
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let mut told = false;
    let ended = poll_fn(|cx| {
        connection.watch(cx.waker());
        match connection.phase() {
            Phase::Open => {}
            Phase::Closed => return Poll::Ready(Ok(())),
            Phase::Draining if told => {}
            Phase::Draining => {
                told = true;
                serving.as_mut().graceful_shutdown();
            }
        }
        serving.as_mut().poll(cx)
    });
    log_end(connection, ended.await);
}

/// Whether a body broke because its bytes are no HTTP, rather than because they ended.
pub fn is_malformed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_parse()
        || source.is_some_and(|source| matches!(source.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData))
}

/// Account for a head that the codec could not read and has refused.
fn record_refused(connection: &Rc<Connection>, error: &hyper::Error) {
    let what = if error.is_parse_too_large() { Malformed::TooLarge } else { Malformed::Codec };
    let mut context = RequestContext::new(Rc::clone(connection), connection.view(), Version::HTTP_11, Instant::now());
    if !connection.manager.access_log.is_off() {
        context.log = Some(Box::default());
    }
    context.refused(what);
}

fn log_end(connection: &Connection, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(remote = %connection.remote, %error, "downstream connection ended");
    }
}

/// Runs the codec's tasks on this worker.
#[derive(Debug, Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// The type of the service's error: there is none, every failure is a response.
pub type Never = Infallible;
