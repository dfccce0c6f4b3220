//! Byte streams of downstreams, and the little that is watched on them.
//!
//! In:  accepted sockets, and tunnels opened by `CONNECT`.
//! Out: [`Downstream`] for `http::server` and `tcp`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::http::server::Tunnel;

/// What a listener serves: a socket, or the inside of a tunnel.
#[derive(Debug)]
pub enum Transport {
    Tcp(TcpStream),
    /// Bytes inside a `CONNECT` tunnel.
    Tunnel(Box<Tunnel>),
}

/// A downstream's byte stream. Bytes that `listener::sniff` has looked at come first.
#[derive(Debug)]
pub struct Downstream {
    transport: Transport,
    sniffed: Bytes,
    activity: Arc<Activity>,
}

impl Downstream {
    pub fn new(transport: Transport, activity: Arc<Activity>) -> Self {
        Self { transport, sniffed: Bytes::new(), activity }
    }

    /// Put bytes back that were read from the stream; they are read again first.
    pub fn unread(&mut self, bytes: Bytes) {
        self.sniffed = bytes;
    }
}

/// When bytes of a request's head began to come in, in the worker's coarse seconds. Written by the stream, read by the worker's sweep.
///
/// Atomics only because an upgraded stream must be `Send`; one thread uses them.
#[derive(Debug)]
pub struct Activity {
    clock: Arc<AtomicU32>,
    head_since: AtomicU32,
}

impl Activity {
    /// `clock` counts seconds from 1.
    pub fn new(clock: Arc<AtomicU32>) -> Self {
        Self { clock, head_since: AtomicU32::new(0) }
    }

    fn read(&self) {
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// A head is complete, or its exchange is over: what comes now begins anew.
    pub fn reset(&self) {
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// Second of the first byte since the last reset; 0 when there was none.
    pub fn head_since(&self) -> u32 {
        self.head_since.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.sniffed.is_empty() {
            let length = this.sniffed.len().min(buffer.remaining());
            buffer.put_slice(&this.sniffed[..length]);
            this.sniffed.advance(length);
            this.activity.read();
            return Poll::Ready(Ok(()));
        }
        let polled = match &mut this.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buffer),
        };
        if polled.is_ready() {
            this.activity.read();
        }
        polled
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Tunnel(tunnel) => tunnel.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}
