//! A request's body on its way up: counted, cut off when nobody wants it any more, and kept within a limit for another try.
//!
//! In:  the downstream's body.
//! Out: a [`RequestBody`] per try. Only the latest one gets bytes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::tap::{Feed, Kept, Tap, Watch, tap};
use crate::http::server::{self, Incoming};

/// The body of one request, shared by the path, its tries and its record. Requests without a body have none.
pub struct RequestStream {
    inner: RefCell<Inner>,
    bytes: Cell<u64>,
    ended: Cell<Option<Instant>>,
    /// The downstream's body broke off, and whether that was because it is no HTTP.
    broken: Cell<Option<bool>>,
    /// The path, waiting for the body's end to start its timers.
    path: RefCell<Option<Waker>>,
}

struct Inner {
    source: Option<Incoming>,
    /// Length when it was known from the start.
    length: Option<u64>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// Bytes that may be kept; 0 once nothing is.
    limit: usize,
    /// More came than may be kept, or the keeping was ended: there can be no other try once bytes have gone.
    lost: bool,
    /// Which try may read. `u32::MAX`: none, ever again.
    turn: u32,
    reader: Option<Waker>,
    /// Copies for mirrors: bytes go into them as they come from the downstream.
    feeds: Vec<Feed>,
}

/// Nobody waits for this body any more, or the downstream broke it off.
#[derive(Debug, thiserror::Error)]
#[error("request body abandoned")]
pub struct Abandoned;

impl RequestStream {
    /// Keep up to `limit` bytes for other tries; 0 keeps none.
    pub fn new(source: Incoming, limit: usize) -> Rc<Self> {
        let length = source.size_hint().exact();
        Rc::new(Self {
            inner: RefCell::new(Inner {
                source: Some(source),
                length,
                kept: Vec::new(),
                kept_bytes: 0,
                trailers: None,
                limit,
                lost: false,
                turn: 0,
                reader: None,
                feeds: Vec::new(),
            }),
            bytes: Cell::new(0),
            ended: Cell::new(None),
            broken: Cell::new(None),
            path: RefCell::default(),
        })
    }

    /// Body bytes that came from the downstream.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When the last byte came. `None`: the request is not complete.
    pub fn ended(&self) -> Option<Instant> {
        self.ended.get()
    }

    /// Why the downstream's body broke off: `true` when it was no HTTP, `false` when it ended too early. `None`: it did not.
    pub fn broken(&self) -> Option<bool> {
        self.broken.get()
    }

    /// Wake this task when the body ends.
    pub fn wake_at_end(&self, waker: &Waker) {
        let mut path = self.path.borrow_mut();
        if !path.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *path = Some(waker.clone());
        }
    }

    /// The body for another try, from its first byte; the try before gets no more. `None`: too much has gone to begin again.
    pub fn again(self: &Rc<Self>) -> Option<RequestBody> {
        let mut inner = self.inner.borrow_mut();
        if inner.lost {
            return None;
        }
        inner.turn += 1;
        Some(RequestBody(Source::Own(Reader {
            stream: Rc::clone(self),
            turn: inner.turn,
            next: 0,
            given: 0,
            trailers_given: false,
            back: None,
        })))
    }

    /// A copy of the body for a mirror, which takes part from here on: call before the body is read.
    pub fn tap(&self, kept: &Kept) -> (RequestBody, Watch) {
        let mut inner = self.inner.borrow_mut();
        let (feed, tap) = tap(inner.length, kept);
        inner.feeds.push(feed);
        let watch = tap.watch();
        (RequestBody(Source::Tap(tap)), watch)
    }

    /// Whether [`Self::again`] would give a body.
    pub fn can_repeat(&self) -> bool {
        !self.inner.borrow().lost
    }

    /// A response is on its way: nothing needs to be kept.
    pub fn keep_no_more(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.limit = 0;
        inner.lost = true;
        // The reader may still be inside what is kept; it goes with the stream then.
        if inner.kept.is_empty() {
            inner.kept_bytes = 0;
        }
    }

    /// Nobody wants the rest: readers get an error, the source is let go.
    pub fn abandon(&self) {
        let reader = {
            let mut inner = self.inner.borrow_mut();
            inner.turn = u32::MAX;
            inner.lost = true;
            inner.source = None;
            inner.kept = Vec::new();
            inner.feeds = Vec::new();
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn end(&self) {
        self.ended.set(Some(Instant::now()));
        if let Some(path) = self.path.borrow_mut().take() {
            path.wake();
        }
    }
}

impl fmt::Debug for RequestStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RequestStream").field("bytes", &self.bytes).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// A body as one try sends it.
#[derive(Debug)]
pub struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    Empty,
    Own(Reader),
    /// A mirror's.
    Tap(Tap),
}

#[derive(Debug)]
struct Reader {
    stream: Rc<RequestStream>,
    turn: u32,
    /// Index of the next kept piece.
    next: usize,
    /// Bytes given to this try.
    given: u64,
    trailers_given: bool,
    /// A piece that was given and came back.
    back: Option<Bytes>,
}

impl RequestBody {
    pub const EMPTY: Self = Self(Source::Empty);

    /// The first try's body.
    pub fn first(stream: &Rc<RequestStream>) -> Self {
        Self(Source::Own(Reader { stream: Rc::clone(stream), turn: 0, next: 0, given: 0, trailers_given: false, back: None }))
    }

    /// Give back the last piece, of which nothing was sent; it is given again first.
    pub fn unread(&mut self, piece: Bytes) {
        match &mut self.0 {
            _ if piece.is_empty() => {}
            Source::Empty => {}
            Source::Own(reader) => {
                reader.given -= piece.len() as u64;
                reader.back = Some(piece);
            }
            Source::Tap(tap) => tap.unread(piece),
        }
    }
}

impl Reader {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abandoned>>> {
        let stream = &*self.stream;
        let inner = &mut *stream.inner.borrow_mut();
        if inner.turn != self.turn {
            return Poll::Ready(Some(Err(Abandoned)));
        }
        if let Some(piece) = self.back.take() {
            self.given += piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(piece) = inner.kept.get(self.next) {
            self.next += 1;
            self.given += piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if inner.lost && !inner.kept.is_empty() {
            // All that was kept has been passed on and no other try will need it.
            inner.kept = Vec::new();
            self.next = 0;
        }
        let Some(source) = &mut inner.source else {
            if std::mem::replace(&mut self.trailers_given, true) {
                return Poll::Ready(None);
            }
            return Poll::Ready(inner.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        match Pin::new(&mut *source).poll_frame(cx) {
            Poll::Pending => {
                if !inner.reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    inner.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                inner.source = None;
                inner.end_feeds(None);
                stream.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                inner.source = None;
                inner.lost = true;
                inner.feeds = Vec::new();
                stream.broken.set(Some(server::is_malformed(&error)));
                Poll::Ready(Some(Err(Abandoned)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let ended = source.is_end_stream();
                if ended {
                    inner.source = None;
                }
                let frame = match frame.into_data() {
                    Ok(data) => {
                        stream.bytes.set(stream.bytes.get() + data.len() as u64);
                        self.given += data.len() as u64;
                        for feed in &inner.feeds {
                            feed.data(&data);
                        }
                        if inner.keep(&data) {
                            self.next += 1;
                        }
                        Frame::data(data)
                    }
                    Err(frame) => {
                        if let (false, Some(trailers)) = (inner.lost, frame.trailers_ref()) {
                            inner.trailers = Some(trailers.clone());
                        }
                        inner.source = None;
                        inner.end_feeds(frame.trailers_ref());
                        self.trailers_given = true;
                        stream.end();
                        return Poll::Ready(Some(Ok(frame)));
                    }
                };
                if ended {
                    inner.end_feeds(None);
                    stream.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Inner {
    fn end_feeds(&mut self, trailers: Option<&HeaderMap>) {
        for feed in self.feeds.drain(..) {
            feed.end(trailers);
        }
    }

    /// Keep a piece for other tries; `false` when it is not kept.
    fn keep(&mut self, data: &Bytes) -> bool {
        if self.lost {
            return false;
        }
        self.kept_bytes += data.len();
        if self.kept_bytes > self.limit {
            self.lost = true;
            self.kept = Vec::new();
            return false;
        }
        self.kept.push(data.clone());
        true
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Abandoned;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abandoned>>> {
        match &mut self.get_mut().0 {
            Source::Own(reader) => reader.poll(cx),
            Source::Empty => Poll::Ready(None),
            Source::Tap(tap) => tap.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let reader = match &self.0 {
            Source::Own(reader) => reader,
            Source::Empty => return true,
            Source::Tap(tap) => return tap.is_end_stream(),
        };
        let inner = reader.stream.inner.borrow();
        inner.turn == reader.turn
            && inner.source.is_none()
            && (inner.trailers.is_none() || reader.trailers_given)
            && reader.next >= inner.kept.len()
            && reader.back.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let reader = match &self.0 {
            Source::Own(reader) => reader,
            Source::Empty => return SizeHint::with_exact(0),
            Source::Tap(tap) => return tap.size_hint(),
        };
        match reader.stream.inner.borrow().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(reader.given)),
            None => SizeHint::default(),
        }
    }
}
