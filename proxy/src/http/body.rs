//! The body of a response on its way down: counted, limited in time, and the end of the exchange when it ends.
//!
//! In:  the upstream's body or bytes of our own.
//! Out: frames for the codec. One type without boxes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::context::RequestContext;
use super::local_reply::BodyFailure;
use crate::connect::h1;
use crate::connect::h2::{ResponseStream, StreamFailure};
use crate::retry::timeout::Expired;

/// What the downstream gets.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    /// Present until the exchange has ended.
    context: Option<Box<RequestContext>>,
}

/// Where bytes come from.
#[derive(Debug)]
pub enum Kind {
    Empty,
    Full(Bytes),
    Http1(h1::Body),
    Http2(ResponseStream),
    /// Broke off; the codec is told at its next look.
    Broken(BodyFailure),
}

/// The body broke off; the codec ends the downstream's stream or connection.
#[derive(Debug, thiserror::Error)]
#[error("response body broke off: {0:?}")]
pub struct Broken(BodyFailure);

impl ResponseBody {
    pub fn new(kind: Kind, context: Box<RequestContext>) -> Self {
        Self { kind, context: Some(context) }
    }

    /// A body without an exchange to record.
    pub fn unrecorded(kind: Kind) -> Self {
        Self { kind, context: None }
    }

    fn end(&mut self) {
        if let Some(context) = self.context.take() {
            context.complete();
        }
    }

    /// The codec throws away what it has not written when a body fails, so it gets a turn to write what came before.
    fn fail(&mut self, failure: BodyFailure, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(context) = self.context.take() {
            context.broken(failure);
        }
        self.kind = Kind::Broken(failure);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing to read now: look at the clocks.
    fn idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(expired) = self.context.as_mut().and_then(|context| context.poll_timers(cx)) else { return Poll::Pending };
        let failure = match expired {
            Expired::Request | Expired::Try => BodyFailure::Timeout,
            Expired::Idle => BodyFailure::Idle,
        };
        self.fail(failure, cx)
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(context) = &mut self.context {
            if let Some(data) = frame.data_ref() {
                context.sent(data.len());
            } else if let Some(trailers) = frame.trailers_ref() {
                context.trailers(trailers);
            }
            if self.kind.is_end() || frame.is_trailers() {
                self.end();
            }
        }
        frame
    }
}

impl Kind {
    fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Broken(_) => false,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let polled = match &mut this.kind {
            Kind::Broken(failure) => return Poll::Ready(Some(Err(Broken(*failure)))),
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            // An end before the announced one is what Envoy's codec calls a protocol error; a reset connection is none.
            Kind::Http1(body) => body.poll_frame(cx).map_err(|error| match error {
                h1::BodyError::Protocol => BodyFailure::Protocol,
                h1::BodyError::Terminated => BodyFailure::Terminated,
            }),
            Kind::Http2(body) => body.poll_frame(cx).map_err(|failure| match failure {
                StreamFailure::RemoteReset => BodyFailure::RemoteReset,
                StreamFailure::Terminated => BodyFailure::Terminated,
            }),
        };
        match polled {
            Poll::Pending => this.idle(cx),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(this.frame(frame)))),
            Poll::Ready(Some(Err(failure))) => this.fail(failure, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
            Kind::Broken(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // The codec does not poll a body that has nothing (HEAD, 204, an empty reply).
        if self.context.is_some() && self.kind.is_end() {
            self.end();
        }
        // Otherwise the context's own end says that the downstream left.
    }
}
