//! Bytes between two streams, in both directions, each with its own end.
//!
//! In:  two streams. Out: how much went each way, and which side failed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes in flight per direction.
const BUFFER_BYTES: usize = 16 << 10;

/// Bytes passed on so far; right also when the copying failed or was dropped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// From downstream to upstream.
    pub up: u64,
    /// From upstream to downstream.
    pub down: u64,
}

/// Which side ended the copying before both directions were through.
#[derive(Debug)]
pub enum CopyError {
    Downstream(io::Error),
    Upstream(io::Error),
    /// Nothing moved for the time given.
    Idle,
}

/// Copy until both directions have ended. A side that ends its sending has it passed on as such (half close).
///
/// # Errors
/// When a side fails, or nothing moves for `idle`.
pub async fn both_ways<D, U>(downstream: &mut D, upstream: &mut U, counts: &mut Counts, idle: Option<Duration>) -> Result<(), CopyError>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::default(), Half::default());
    let mut watch = idle.map(Watch::new);
    poll_fn(|cx| {
        let before = *counts;
        let up = up.poll(cx, downstream, upstream, &mut counts.up).map_err(|error| match error {
            HalfError::Read(error) => CopyError::Downstream(error),
            HalfError::Write(error) => CopyError::Upstream(error),
        })?;
        let down = down.poll(cx, upstream, downstream, &mut counts.down).map_err(|error| match error {
            HalfError::Read(error) => CopyError::Upstream(error),
            HalfError::Write(error) => CopyError::Downstream(error),
        })?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        match &mut watch {
            Some(watch) => watch.poll(cx, before != *counts).map(|()| Err(CopyError::Idle)),
            None => Poll::Pending,
        }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// Given back when it is empty and nothing comes: idle connections hold none.
    buffer: Vec<u8>,
    position: usize,
    ended: bool,
    closed: bool,
}

enum HalfError {
    Read(io::Error),
    Write(io::Error),
}

impl Half {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, count: &mut u64) -> Result<Poll<()>, HalfError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match self.step(cx, from, to, count) {
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn step<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, count: &mut u64) -> Poll<Result<(), HalfError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.position < self.buffer.len() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.position..])).map_err(HalfError::Write)?;
                if written == 0 {
                    return Poll::Ready(Err(HalfError::Write(io::ErrorKind::WriteZero.into())));
                }
                self.position += written;
                *count += written as u64;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(HalfError::Write)?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            self.position = 0;
            self.buffer.resize(BUFFER_BYTES, 0);
            let mut space = ReadBuf::new(&mut self.buffer);
            let read = Pin::new(&mut *from).poll_read(cx, &mut space);
            let length = space.filled().len();
            match read {
                Poll::Pending => {
                    self.buffer = Vec::new();
                    // What was written may still lie in a buffer of the stream below.
                    let _ = Pin::new(&mut *to).poll_flush(cx).map_err(HalfError::Write)?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(HalfError::Read(error))),
                Poll::Ready(Ok(())) => {
                    self.buffer.truncate(length);
                    self.ended = length == 0;
                }
            }
        }
    }
}

/// Limits silence.
struct Watch {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    moved: Instant,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(tokio::time::sleep(limit)), moved: Instant::now() }
    }

    fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if moved {
            self.moved = Instant::now();
        }
        // The timer is set anew only when it fires, not at each movement.
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let until = self.moved + self.limit;
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut client, mut downstream) = tokio::io::duplex(64);
        let (mut upstream, mut server) = tokio::io::duplex(64);
        let mut counts = Counts::default();
        let copying = async {
            both_ways(&mut downstream, &mut upstream, &mut counts, None).await.unwrap();
            counts
        };
        let talking = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = String::new();
            server.read_to_string(&mut heard).await.unwrap();
            // The downstream has ended, yet the answer still goes through.
            server.write_all(b"answer!").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (heard, answer)
        };
        let (counts, (heard, answer)) = tokio::join!(copying, talking);
        assert_eq!((heard.as_str(), answer.as_str(), counts), ("question", "answer!", Counts { up: 8, down: 7 }));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let (_client, mut downstream) = tokio::io::duplex(64);
        let (mut upstream, _server) = tokio::io::duplex(64);
        let began = Instant::now();
        let mut counts = Counts::default();
        let ended = both_ways(&mut downstream, &mut upstream, &mut counts, Some(Duration::from_secs(5))).await;
        assert!(matches!(ended, Err(CopyError::Idle)));
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
