//! The clocks of one request: whole exchange, one try, and silence. One timer serves them all, and there is none when nothing is limited.
//!
//! In:  durations from the route and its retry policy; when the request was complete.
//! Out: which limit has passed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, Sleep};

use crate::config::route_table::GrpcTimeout;
use crate::retry::replay::RequestStream;

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The route's timeout: the request ends.
    Request,
    /// One try's: the retry policy decides.
    Try,
    /// Nothing moved: the stream ends.
    Idle,
}

/// Timers of one request. Both timeouts run from the end of the request, as Envoy's do.
#[derive(Debug)]
pub struct Timers {
    request: Option<Duration>,
    per_try: Option<Duration>,
    idle: Option<Duration>,
    /// When the running try began.
    try_began: Instant,
    moved: Instant,
    /// Bytes of the request when silence was last looked at.
    received: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// `None` when nothing is limited.
    pub fn new(request: Option<Duration>, per_try: Option<Duration>, idle: Option<Duration>, now: Instant) -> Option<Box<Self>> {
        let limited = request.is_some() || per_try.is_some() || idle.is_some();
        limited.then(|| Box::new(Self { request, per_try, idle, try_began: now, moved: now, received: 0, sleep: None }))
    }

    /// Another try begins.
    pub fn begin_try(&mut self, now: Instant) {
        self.try_began = now;
        self.moved = now;
    }

    /// The response has begun: tries are over.
    pub fn end_tries(&mut self) {
        self.per_try = None;
    }

    /// Whether silence is limited, so that movement must be told by [`Self::moved`].
    pub fn watches_silence(&self) -> bool {
        self.idle.is_some()
    }

    pub fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// An upload is no silence. It is looked at only when the time is up, so it may be noticed late, never early.
    fn received_more(&mut self, stream: Option<&RequestStream>) -> bool {
        let received = stream.map_or(0, RequestStream::bytes);
        std::mem::replace(&mut self.received, received) != received
    }

    /// What expires next, and when. `complete`: when the request was complete.
    fn next(&self, complete: Option<Instant>) -> Option<(Instant, Expired)> {
        let request = self.request.zip(complete).map(|(timeout, complete)| (complete + timeout, Expired::Request));
        let per_try = self.per_try.zip(complete).map(|(timeout, complete)| (complete.max(self.try_began) + timeout, Expired::Try));
        let idle = self.idle.map(|timeout| (self.moved + timeout, Expired::Idle));
        [request, per_try, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Ready when a limit has passed. `began`: when the request's head was there; `stream`: its body, if it has one.
    pub fn poll(&mut self, cx: &mut Context<'_>, began: Instant, stream: Option<&RequestStream>) -> Poll<Expired> {
        let complete = match stream {
            None => Some(began),
            Some(stream) => {
                let ended = stream.ended();
                if ended.is_none() {
                    stream.wake_at_end(cx.waker());
                }
                ended
            }
        };
        loop {
            let Some((at, what)) = self.next(complete) else { return Poll::Pending };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.deadline() != at {
                sleep.as_mut().reset(at);
            }
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if what == Expired::Idle && self.received_more(stream) => self.moved = Instant::now(),
                Poll::Ready(()) => return Poll::Ready(what),
            }
        }
    }
}

/// The timeout of a request: the route's, unless gRPC's own header takes its place. `rule`: `Ignore` for what is not gRPC.
///
/// Source: Envoy `FilterUtility::finalTimeout`: a header that is missing or 0 asks for no limit, and gets what the rule allows at most.
pub fn effective(route: Option<Duration>, rule: GrpcTimeout, header: Option<&HeaderValue>) -> Option<Duration> {
    let asked = || header.and_then(grpc_timeout).filter(|asked| !asked.is_zero());
    match rule {
        GrpcTimeout::Ignore => route,
        GrpcTimeout::Uncapped => asked(),
        GrpcTimeout::AtMost(most) => Some(asked().map_or(most, |asked| asked.min(most))),
    }
}

/// Read a `grpc-timeout` (at most 8 digits and a unit). Source: gRPC over HTTP/2.
pub fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn the_grpc_header_takes_the_routes_place_only_where_the_rule_allows() {
        let header = HeaderValue::from_static("3S");
        let cases = [
            ("ignored", Some(SEC), GrpcTimeout::Ignore, Some(&header), Some(SEC)),
            ("uncapped", Some(SEC), GrpcTimeout::Uncapped, Some(&header), Some(3 * SEC)),
            ("capped", None, GrpcTimeout::AtMost(2 * SEC), Some(&header), Some(2 * SEC)),
            ("absent", Some(SEC), GrpcTimeout::Uncapped, None, None),
            ("absent and capped", None, GrpcTimeout::AtMost(2 * SEC), None, Some(2 * SEC)),
            ("absent and ignored", Some(SEC), GrpcTimeout::Ignore, None, Some(SEC)),
        ];
        for (name, route, rule, header, want) in cases {
            assert_eq!(effective(route, rule, header), want, "{name}");
        }
    }

    #[test]
    fn grpc_timeouts_have_units() {
        let cases = [
            ("100m", Some(Duration::from_millis(100))),
            ("1H", Some(3600 * SEC)),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("5", None),
            ("", None),
            ("-1S", None),
        ];
        for (text, want) in cases {
            assert_eq!(grpc_timeout(&HeaderValue::from_static(text)), want, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_limit_expires_first() {
        let cases = [
            ("request", Some(SEC), Some(2 * SEC), None, Expired::Request, SEC),
            ("try", Some(3 * SEC), Some(2 * SEC), None, Expired::Try, 2 * SEC),
            ("idle", Some(3 * SEC), None, Some(SEC / 2), Expired::Idle, SEC / 2),
        ];
        for (name, request, per_try, idle, want, after) in cases {
            let began = Instant::now();
            let mut timers = Timers::new(request, per_try, idle, began).unwrap();
            let got = poll_fn(|cx| timers.poll(cx, began, None)).await;
            assert_eq!((got, began.elapsed()), (want, after), "{name}");
        }
    }

    #[test]
    fn nothing_limited_needs_no_timer() {
        assert!(Timers::new(None, None, None, Instant::now()).is_none());
    }
}
