//! A copy of a request's body for a mirror. The body never waits for it: what a slow mirror has not taken is kept up to a limit, then
//! the copy breaks off.
//!
//! In:  pieces of the body as they pass. Out: the same pieces, or an end before their end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::replay::Abandoned;

/// Bytes one copy may lag behind. Source: Envoy's default `per_connection_buffer_limit_bytes`.
const MOST_BEHIND: usize = 1 << 20;
/// Bytes all copies of a worker may lag behind together.
const MOST_BEHIND_TOGETHER: usize = 16 << 20;

/// Bytes kept for all copies of a worker.
pub type Kept = Rc<Cell<usize>>;

#[derive(Debug)]
struct Shared {
    queue: RefCell<Queue>,
    kept: Kept,
}

#[derive(Debug)]
struct Queue {
    pieces: VecDeque<Bytes>,
    behind: usize,
    state: State,
    trailers: Option<HeaderMap>,
    /// Bytes to come, where that was known from the start.
    left: Option<u64>,
    reader: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// All of it is in `pieces`.
    Ended,
    /// There will be no end: too far behind, broken off, or nobody reads.
    Lost,
}

/// Where the body puts its pieces.
#[derive(Debug)]
pub struct Feed(Rc<Shared>);

/// Where the mirror's connection takes them.
#[derive(Debug)]
pub struct Tap(Rc<Shared>);

/// Knows whether a copy is complete.
#[derive(Debug)]
pub struct Watch(Rc<Shared>);

/// A copy of a body of `length` bytes, if that is known.
pub fn tap(length: Option<u64>, kept: &Kept) -> (Feed, Tap) {
    let queue = Queue { pieces: VecDeque::new(), behind: 0, state: State::Open, trailers: None, left: length, reader: None };
    let shared = Rc::new(Shared { queue: RefCell::new(queue), kept: Rc::clone(kept) });
    (Feed(Rc::clone(&shared)), Tap(shared))
}

impl Shared {
    fn lose(&self) {
        let mut queue = self.queue.borrow_mut();
        self.kept.set(self.kept.get() - mem::take(&mut queue.behind));
        queue.pieces = VecDeque::new();
        queue.state = State::Lost;
        queue.wake();
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Feed {
    pub fn data(&self, piece: &Bytes) {
        let together = self.0.kept.get() + piece.len();
        {
            let mut queue = self.0.queue.borrow_mut();
            if queue.state != State::Open {
                return;
            }
            if queue.behind + piece.len() <= MOST_BEHIND && together <= MOST_BEHIND_TOGETHER {
                queue.behind += piece.len();
                self.0.kept.set(together);
                queue.pieces.push_back(piece.clone());
                return queue.wake();
            }
        }
        self.0.lose();
    }

    pub fn end(&self, trailers: Option<&HeaderMap>) {
        let mut queue = self.0.queue.borrow_mut();
        if queue.state == State::Open {
            queue.state = State::Ended;
            queue.trailers = trailers.cloned();
            queue.wake();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.0.queue.borrow().state == State::Open {
            self.0.lose();
        }
    }
}

impl Tap {
    pub fn watch(&self) -> Watch {
        Watch(Rc::clone(&self.0))
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abandoned>>> {
        let queue = &mut *self.0.queue.borrow_mut();
        if let Some(piece) = queue.pieces.pop_front() {
            queue.behind -= piece.len();
            self.0.kept.set(self.0.kept.get() - piece.len());
            queue.left = queue.left.map(|left| left.saturating_sub(piece.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match queue.state {
            State::Lost => Poll::Ready(Some(Err(Abandoned))),
            State::Ended => Poll::Ready(queue.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            State::Open => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Give back the last piece, of which nothing was sent; it is given again first.
    pub fn unread(&mut self, piece: Bytes) {
        let queue = &mut *self.0.queue.borrow_mut();
        if queue.state != State::Lost {
            queue.behind += piece.len();
            self.0.kept.set(self.0.kept.get() + piece.len());
            queue.left = queue.left.map(|left| left + piece.len() as u64);
            queue.pieces.push_front(piece);
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.0.is_over()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.0.queue.borrow().left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        let queue = self.queue.borrow();
        queue.state == State::Ended && queue.pieces.is_empty() && queue.trailers.is_none()
    }
}

impl Watch {
    /// Whether the whole body has been taken.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let over = self.0.is_over();
        if !over {
            self.0.lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(tap: &mut Tap) -> Poll<Option<Option<usize>>> {
        let mut cx = Context::from_waker(Waker::noop());
        tap.poll(&mut cx).map(|frame| frame.map(|frame| frame.ok().map(|frame| frame.data_ref().map_or(0, Bytes::len))))
    }

    #[test]
    fn a_copy_has_every_piece_and_the_end() {
        let kept = Kept::default();
        let (feed, mut tap) = tap(Some(5), &kept);
        let watch = tap.watch();
        assert!(next(&mut tap).is_pending());
        feed.data(&Bytes::from_static(b"abc"));
        feed.data(&Bytes::from_static(b"de"));
        feed.end(None);
        assert_eq!(kept.get(), 5);
        assert_eq!((next(&mut tap), watch.is_over()), (Poll::Ready(Some(Some(3))), false));
        assert_eq!(tap.size_hint().exact(), Some(2));
        assert_eq!((next(&mut tap), watch.is_over()), (Poll::Ready(Some(Some(2))), true));
        assert_eq!((next(&mut tap), kept.get()), (Poll::Ready(None), 0));
    }

    #[test]
    fn a_piece_that_came_back_is_given_again_first() {
        let kept = Kept::default();
        let (feed, mut tap) = tap(Some(5), &kept);
        feed.data(&Bytes::from_static(b"abc"));
        feed.data(&Bytes::from_static(b"de"));
        feed.end(None);
        assert_eq!(next(&mut tap), Poll::Ready(Some(Some(3))));
        tap.unread(Bytes::from_static(b"abc"));
        assert_eq!((tap.size_hint().exact(), kept.get(), tap.is_end_stream()), (Some(5), 5, false));
        assert_eq!(
            (next(&mut tap), next(&mut tap), next(&mut tap)),
            (Poll::Ready(Some(Some(3))), Poll::Ready(Some(Some(2))), Poll::Ready(None))
        );
        assert_eq!((kept.get(), tap.is_end_stream()), (0, true));
    }

    #[test]
    fn a_copy_too_far_behind_breaks_off_and_gives_its_room_back() {
        let kept = Kept::default();
        let piece = Bytes::from(vec![0; MOST_BEHIND / 2 + 1]);
        let (feed, mut tap) = tap(None, &kept);
        feed.data(&piece);
        assert_eq!(kept.get(), piece.len());
        feed.data(&piece);
        assert_eq!(kept.get(), 0);
        feed.data(&piece);
        feed.end(None);
        assert_eq!((next(&mut tap), kept.get()), (Poll::Ready(Some(None)), 0));
    }

    #[test]
    fn all_copies_together_have_a_limit_and_either_end_frees_its_room() {
        let kept = Kept::default();
        let piece = Bytes::from(vec![0; MOST_BEHIND]);
        let mut copies: Vec<_> = (0..17).map(|_| tap(None, &kept)).collect();
        copies.iter().for_each(|(feed, _)| feed.data(&piece));
        assert_eq!(kept.get(), MOST_BEHIND_TOGETHER);
        let (feed, tap) = copies.swap_remove(0);
        drop(tap);
        assert_eq!(kept.get(), MOST_BEHIND_TOGETHER - MOST_BEHIND);
        feed.data(&piece);
        drop(feed);
        drop(copies);
        assert_eq!(kept.get(), 0);
    }

    #[test]
    fn a_body_that_breaks_off_breaks_its_copy() {
        let (feed, mut tap) = tap(Some(9), &Kept::default());
        feed.data(&Bytes::from_static(b"abc"));
        drop(feed);
        assert_eq!(next(&mut tap), Poll::Ready(Some(None)));
    }
}
