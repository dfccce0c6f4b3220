//! The codec against tables, against every way its bytes can be cut, against hyper's client, and against garbage.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::request::UploadError;
use super::response::{BodyEnd, HeadError, MAX_HEAD_BYTES};
use super::*;
use crate::http::check;

type Fields = Vec<(String, Vec<u8>)>;

/// What became of a response's bytes.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    NoHead,
    Response {
        status: StatusCode,
        version: Version,
        reason: Option<Vec<u8>>,
        fields: Fields,
        data: Vec<u8>,
        trailers: Option<Fields>,
        /// The body ended as it should.
        whole: bool,
    },
}

fn fields(headers: &HeaderMap) -> Fields {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// Read a response that comes in pieces and ends with the connection.
fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, method: &Method) -> Read {
    let (mut buffer, mut seen) = (BytesMut::new(), 0);
    let mut pieces = pieces.into_iter();
    let head = loop {
        let Some(piece) = pieces.next() else { return Read::NoHead };
        buffer.extend_from_slice(piece);
        assert!(buffer.len() < MAX_HEAD_BYTES + piece.len());
        match response::parse(&mut buffer, &mut seen, method) {
            Ok(Some(head)) => break head,
            Ok(None) => {}
            Err(_) => return Read::NoHead,
        }
    };
    let mut decoder = Decoder::new(head.body);
    let (mut input, mut data, mut trailers) = (head.rest, Vec::new(), None);
    let whole = loop {
        match decoder.decode(&mut input) {
            Ok(Decoded::Data(piece)) => data.extend_from_slice(&piece),
            Ok(Decoded::Trailers(map)) => trailers = Some(fields(&map)),
            Ok(Decoded::End) => break true,
            Ok(Decoded::More) => match pieces.next() {
                Some(piece) => input = Bytes::copy_from_slice(piece),
                None => break decoder.ends_here(),
            },
            Err(decode::Malformed) => break false,
        }
    };
    Read::Response {
        status: head.parts.status,
        version: head.parts.version,
        reason: head.parts.extensions.get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec()),
        fields: fields(&head.parts.headers),
        data,
        trailers,
        whole,
    }
}

/// The same through hyper's client.
async fn read_by_hyper(bytes: &[u8], method: &Method) -> Read {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let handshake = hyper::client::conn::http1::Builder::new().max_header_size(MAX_HEAD_BYTES).handshake(TokioIo::new(ours));
    let (mut sender, connection) = handshake.await.unwrap();
    let task = tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
    let asking = sender.send_request(request);
    let answering = async {
        let mut asked = [0; 256];
        let _ = theirs.read(&mut asked).await;
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
    };
    let (response, ()) = tokio::join!(asking, answering);
    let Ok(response) = response else { return Read::NoHead };
    let (head, mut body) = response.into_parts();
    let coded = head.headers.contains_key("transfer-encoding");
    if coded && (head.headers.contains_key("content-length") || !check::is_chunked(&head.headers)) {
        return Read::NoHead;
    }
    let (mut data, mut trailers, mut whole) = (Vec::new(), None, true);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => data.extend_from_slice(&piece),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok().map(|map| fields(&map)),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    task.abort();
    Read::Response {
        status: head.status,
        version: head.version,
        reason: head.extensions.get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec()),
        fields: fields(&head.headers),
        data,
        trailers,
        whole,
    }
}

/// Responses, and whether they are read to their end.
fn responses() -> Vec<(&'static str, Method, Vec<u8>, bool)> {
    let get = |text: &'static str, whole| (text, Method::GET, text.as_bytes().to_vec(), whole);
    let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(count)).into_bytes();
    vec![
        get("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", true),
        get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\nEmpty:\r\nSpaces:  a b\t \r\n\r\nhello", true),
        get("HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nhi", true),
        get("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", true),
        get("HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nhi", true),
        get("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", true),
        get("HTTP/1.0 200 OK\r\n\r\nuntil the end", true),
        get("HTTP/1.1 200 OK\n\nuntil the end", true),
        get("HTTP/1.1 200 OK\na: b\n\r\nuntil the end", true),
        get("\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        get("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", false),
        get("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello", true),
        get("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello", true),
        get("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", false),
        get("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello", false),
        get("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nhello", false),
        get("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", false),
        get("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", true),
        get("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", true),
        ("head", Method::HEAD, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec(), true),
        ("head chunked", Method::HEAD, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(), true),
        ("head, no number", Method::HEAD, b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".to_vec(), true),
        get("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", true),
        get("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        get("HTTP/1.1 100 Continue\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        get("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n00A\r\n0123456789\r\n1;a=b\r\nx\r\n1 \t;c\r\ny\r\n0\r\n\r\n", true),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nc:d\r\n\r\n", true),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0;last\r\nno field\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1 1\r\nx\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\nx\r\n0\r\n\r\n", false),
        get("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\ncontent-length: 2\r\na: b\r\n c\r\n\r\nhi", false),
        get("HTTP/1.1 200 OK\r\na : b\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\n: b\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\na: \u{7f}\r\n\r\n", false),
        get("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", false),
        get("HTTP/1.1 2000 OK\r\n\r\n", false),
        get("HTTP/1.1 099 OK\r\n\r\n", false),
        get("HTTP/2.0 200 OK\r\n\r\n", false),
        get("HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", true),
        get("ICY 200 OK\r\n\r\n", false),
        get("garbage\r\n\r\n", false),
        get("", false),
        ("obs-text", Method::GET, b"HTTP/1.1 200 O\xc9\r\na: \xff\xfe\r\ncontent-length: 0\r\n\r\n".to_vec(), true),
        ("100 fields", Method::GET, many(99), true),
        ("101 fields", Method::GET, many(100), false),
    ]
}

fn is_whole(read: &Read) -> bool {
    matches!(read, Read::Response { whole: true, .. })
}

#[test]
fn responses_are_read_the_same_however_their_bytes_are_cut() {
    for (name, method, bytes, whole) in responses() {
        let got = read([&*bytes], &method);
        assert_eq!(is_whole(&got), whole, "{name}: {got:?}");
        assert_eq!(read(bytes.chunks(1), &method), got, "{name}, byte by byte");
        for at in 0..bytes.len() {
            let (before, behind) = bytes.split_at(at);
            assert_eq!(read([before, behind].into_iter().filter(|piece| !piece.is_empty()), &method), got, "{name}, cut at {at}");
        }
    }
}

#[tokio::test]
async fn responses_are_read_as_hypers_client_reads_them() {
    let comparing = async {
        for (name, method, bytes, _) in responses() {
            assert_eq!(read([&*bytes], &method), read_by_hyper(&bytes, &method).await, "{name}");
        }
        // And what becomes of them when they are damaged.
        let mut random = fastrand::Rng::with_seed(7);
        let table = responses();
        for _ in 0..1500 {
            let (name, method, bytes, _) = &table[random.usize(..table.len())];
            let bytes = damaged(bytes, &mut random);
            let (ours, theirs) = (read([&*bytes], method), read_by_hyper(&bytes, method).await);
            assert_eq!(ours, theirs, "{name}: {:?}", String::from_utf8_lossy(&bytes));
        }
    };
    tokio::task::LocalSet::new().run_until(comparing).await;
}

/// The same with a few changes.
fn damaged(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    const LETTERS: &[u8] = b"\r\n\r\n :;,\t\0\x7f\xff019afHT/.-x";
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.usize(..3) {
        let at = random.usize(..=bytes.len());
        let letter = LETTERS[random.usize(..LETTERS.len())];
        match random.u8(..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, letter),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] = letter,
            _ => {
                let piece = bytes[at..].iter().take(random.usize(..20)).copied().collect::<Vec<_>>();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

#[test]
fn garbage_neither_panics_nor_reads_differently_in_pieces() {
    let mut random = fastrand::Rng::with_seed(42);
    let table = responses();
    for _ in 0..20_000 {
        let (_, method, bytes, _) = &table[random.usize(..table.len())];
        let bytes =
            if random.u8(..4) == 0 { std::iter::repeat_with(|| random.u8(..)).take(40).collect() } else { damaged(bytes, &mut random) };
        let whole = read([&*bytes], method);
        let size = random.usize(1..12);
        assert_eq!(read(bytes.chunks(size), method), whole, "{:?} by {size}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn what_has_no_end_is_cut() {
    let cases: [(&str, &str, &str); 7] = [
        ("a field", "HTTP/1.1 200 OK\r\na: ", "b"),
        ("fields", "HTTP/1.1 200 OK\r\n", "a: b\r\n"),
        ("a reason", "HTTP/1.1 200 ", "OK "),
        ("an extension", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", "a"),
        ("zeros", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "0"),
        ("a trailer", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ", "b"),
        ("trailers", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", "a: b\r\n"),
    ];
    for (name, begin, more) in cases {
        let mut taken = 0;
        let endless = std::iter::once(begin.as_bytes()).chain(std::iter::repeat(more.as_bytes())).inspect(|piece| taken += piece.len());
        let got = read(endless, &Method::GET);
        assert!(!is_whole(&got), "{name}");
        assert!(taken <= MAX_HEAD_BYTES + 100, "{name}: {taken}");
    }
}

#[test]
fn heads_say_whether_the_connection_goes_on() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\nconnection: keep-alive\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\nconnection: close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
    ];
    for (text, want) in cases {
        let head = response::parse(&mut text.into(), &mut 0, &Method::GET).unwrap().unwrap();
        assert_eq!(head.keep_alive, want, "{text}");
    }
}

#[test]
fn heads_that_are_none_say_why() {
    let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(MAX_HEAD_BYTES));
    let cases = [
        ("HTTP/3.1 200 OK\r\n\r\n", HeadError::Version),
        ("HTTP/1.1 2x0 OK\r\n\r\n", HeadError::Status),
        ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", HeadError::Field),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", HeadError::Length),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", HeadError::Ambiguous),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", HeadError::TransferEncoding),
        (&long, HeadError::TooLarge),
    ];
    for (text, want) in cases {
        assert_eq!(response::parse(&mut text.into(), &mut 0, &Method::GET).unwrap_err(), want, "{text:.40}");
    }
}

#[test]
fn a_connect_that_is_accepted_is_no_http_any_more() {
    let head = response::parse(&mut "HTTP/1.1 200 OK\r\n\r\nraw".into(), &mut 0, &Method::CONNECT).unwrap().unwrap();
    assert_eq!((head.body, &*head.rest), (BodyEnd::Upgrade, &b"raw"[..]));
}

/// A body that says what it is told to.
#[derive(Debug)]
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    /// Its length and end are known.
    sized: bool,
}

fn sized(pieces: &[&'static str]) -> Frames {
    Frames { sized: true, ..stream(pieces, &[]) }
}

fn stream(pieces: &[&'static str], trailers: &[(&'static str, &'static str)]) -> Frames {
    let mut frames = pieces.iter().map(|piece| Frame::data(Bytes::from(*piece))).collect::<VecDeque<_>>();
    if !trailers.is_empty() {
        let fields = trailers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        frames.push_back(Frame::trailers(fields.collect()));
    }
    Frames { frames, sized: false }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.sized && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.frames.iter().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
        if self.sized { SizeHint::with_exact(length as u64) } else { SizeHint::default() }
    }
}

/// Takes so many bytes a time; then it must be asked again.
struct Trickle {
    out: Vec<u8>,
    step: usize,
    writes: usize,
    ready: bool,
}

impl AsyncWrite for Trickle {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.ready = !this.ready;
        if !this.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = this.out.len();
        this.out.extend(slices.iter().flat_map(|slice| slice.iter()).take(this.step));
        this.writes += 1;
        Poll::Ready(Ok(this.out.len() - before))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type Pairs = &'static [(&'static str, &'static str)];

fn request<B>(line: &str, pairs: Pairs, body: B) -> Request<B> {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in pairs {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// What is written, in how many writes.
async fn write(request: Request<Frames>, step: usize) -> (Result<String, String>, usize) {
    let (head, body) = request.into_parts();
    let mut upload = Upload::new(&head, body, Vec::new());
    let mut to = Trickle { out: Vec::new(), step, writes: 0, ready: false };
    let sent = poll_fn(|cx| upload.poll(cx, &mut to)).await;
    let text = String::from_utf8(to.out).unwrap();
    (sent.map(|()| text).map_err(|error| format!("{error:?}")), to.writes)
}

async fn write_by_hyper(request: Request<Frames>) -> String {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    let task = tokio::task::spawn_local(connection);
    let answered = sender.send_request(request);
    let reading = async {
        let mut text = Vec::new();
        // Nothing waits: what is there after some turns is all.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let _ = tokio::time::timeout(Duration::from_millis(1), theirs.read_to_end(&mut text)).await;
        String::from_utf8(text).unwrap()
    };
    let text = tokio::select! { biased; _ = answered => String::new(), text = reading => text };
    task.abort();
    text
}

/// A body of unknown length is sent with any method, as Envoy does; hyper's client leaves it out here.
const UNLIKE_HYPER: &str = "GET /";

type Case = (&'static str, Pairs, fn() -> Frames, &'static str);

fn requests() -> Vec<Case> {
    const HOST: Pairs = &[("a", "b"), ("host", "h")];
    vec![
        ("GET /p?q=1", HOST, || sized(&[]), "GET /p?q=1 HTTP/1.1\r\nhost: h\r\na: b\r\n\r\n"),
        ("OPTIONS *", HOST, || sized(&[]), "OPTIONS * HTTP/1.1\r\nhost: h\r\na: b\r\n\r\n"),
        ("GET http://x/p", HOST, || sized(&[]), "GET http://x/p HTTP/1.1\r\nhost: h\r\na: b\r\n\r\n"),
        ("POST /", &[("content-length", "0")], || sized(&[]), "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"),
        ("POST /", HOST, || sized(&["x", "", "yz"]), "POST / HTTP/1.1\r\nhost: h\r\na: b\r\ncontent-length: 3\r\n\r\nxyz"),
        ("PUT /", &[("content-length", "2"), ("a", "b")], || stream(&["xy"], &[]), "PUT / HTTP/1.1\r\ncontent-length: 2\r\na: b\r\n\r\nxy"),
        ("PUT /", &[("content-length", "2")], || stream(&["x", "yz"], &[]), "PUT / HTTP/1.1\r\ncontent-length: 2\r\n\r\nxy"),
        ("PUT /", &[("content-length", "x")], || sized(&["xy"]), "PUT / HTTP/1.1\r\ncontent-length: 2\r\n\r\nxy"),
        (
            "PUT /",
            &[("content-length", "x")],
            || stream(&["xy"], &[]),
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n",
        ),
        (
            "POST /",
            &[],
            || stream(&["hello", "", "0123456789a"], &[]),
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        ),
        ("POST /", &[], || stream(&[], &[]), "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            "POST /",
            &[("trailer", "X-A, host")],
            || stream(&["x"], &[("x-a", "1"), ("x-b", "2"), ("host", "evil")]),
            "POST / HTTP/1.1\r\ntrailer: X-A, host\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-a: 1\r\n\r\n",
        ),
        ("POST /", &[], || stream(&["x"], &[("x-a", "1")]), "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        (
            "POST /",
            &[("transfer-encoding", "gzip")],
            || stream(&["x"], &[]),
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "POST /",
            &[("transfer-encoding", "chunked"), ("content-length", "9")],
            || sized(&["x"]),
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        ("POST /", &[("transfer-encoding", "chunked")], || sized(&[]), "POST / HTTP/1.1\r\n\r\n"),
        (UNLIKE_HYPER, &[], || stream(&["x"], &[]), "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        ("GET /x", &[], || sized(&["x"]), "GET /x HTTP/1.1\r\ncontent-length: 1\r\n\r\nx"),
    ]
}

#[tokio::test]
async fn requests_are_written_the_same_however_little_the_stream_takes() {
    for (line, pairs, body, want) in requests() {
        for step in (1..12).chain([1000]) {
            let (got, _) = write(request(line, pairs, body()), step).await;
            assert_eq!(got.as_deref(), Ok(want), "{line} {pairs:?}, {step} bytes a time");
        }
    }
    let (got, writes) = write(request("POST /", &[], sized(&["body"])), 1000).await;
    assert_eq!((got.is_ok(), writes), (true, 1), "head and body in one write");
    let (got, _) = write(request("POST /", &[("content-length", "3")], stream(&["x"], &[])), 1000).await;
    assert_eq!(got, Err("Short".into()));
}

#[tokio::test]
async fn requests_are_written_as_hypers_client_writes_them() {
    // Hyper keeps the order of fields, and puts what it adds at the end as we do.
    fn sorted(text: &str) -> (Vec<&str>, &str) {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n").collect::<Vec<_>>();
        lines[1..].sort_unstable();
        (lines, body)
    }
    let comparing = async {
        for (line, pairs, body, want) in requests().into_iter().filter(|(line, ..)| *line != UNLIKE_HYPER) {
            let theirs = write_by_hyper(request(line, pairs, body())).await;
            assert_eq!(sorted(&theirs), sorted(want), "{line} {pairs:?}");
        }
    };
    tokio::task::LocalSet::new().run_until(comparing).await;
}

#[tokio::test]
async fn a_request_of_which_nothing_was_written_can_be_taken_back() {
    struct Refusing;
    impl AsyncWrite for Refusing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let (head, body) = request("POST /", &[], sized(&["ab", "c"])).into_parts();
    let mut upload = Upload::new(&head, body, Vec::new());
    let refused = poll_fn(|cx| upload.poll(cx, &mut Refusing)).await;
    assert!(matches!(refused, Err(UploadError::Stream(_))));
    let (body, piece) = upload.take_back().unwrap();
    assert_eq!((&*piece, body.frames.len()), (&b"ab"[..], 1));

    let (head, body) = request("POST /", &[], sized(&["ab", "c"])).into_parts();
    let mut upload = Upload::new(&head, body, Vec::new());
    let mut to = Trickle { out: Vec::new(), step: 1, writes: 0, ready: false };
    while to.writes == 0 {
        let _ = poll_fn(|cx| Poll::Ready(upload.poll(cx, &mut to))).await;
    }
    assert!(upload.take_back().is_none());
}

/// A connection with its peer's side.
async fn connected() -> (Sender, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (peer, _) = listener.accept().await.unwrap();
    (open(stream, OpenConnection::new(&Default::default()), Instant::now()), peer)
}

fn get() -> Request<RequestBody> {
    request("GET /", &[("host", "a")], RequestBody::EMPTY)
}

async fn exchange(sender: &mut Sender, peer: &mut TcpStream, answer: &[u8]) -> Result<Response<Body>, Failure> {
    let answering = async {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            assert_ne!(peer.read_buf(&mut asked).await.unwrap(), 0);
        }
        peer.write_all(answer).await.unwrap();
    };
    tokio::join!(sender.send(get()), answering).0
}

async fn text_of(body: &mut Body) -> Result<String, BodyError> {
    let mut text = String::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        text.push_str(std::str::from_utf8(&frame?.into_data().unwrap_or_default()).unwrap());
    }
    Ok(text)
}

/// Wait until the reactor has told.
async fn closed(sender: &Sender) -> bool {
    for _ in 0..1000 {
        if sender.is_closed() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test]
async fn a_free_connection_holds_no_bytes_and_is_used_again() {
    let (mut sender, mut peer) = connected().await;
    for _ in 0..3 {
        let mut response = exchange(&mut sender, &mut peer, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        assert!(sender.is_closed(), "not before the body has ended");
        assert_eq!(text_of(response.body_mut()).await.unwrap(), "hi");
        assert!(!sender.is_closed());
        let wire = sender.wire.borrow();
        assert_eq!((wire.buffer.capacity(), wire.input.len()), (0, 0));
        assert!(wire.lead.capacity() < 5000);
    }
}

#[tokio::test]
async fn what_comes_unasked_ends_a_connection() {
    let cases: [(&str, &[u8], &[u8]); 3] = [
        ("with the response", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", b""),
        ("behind a head alone", b"HTTP/1.1 204 No Content\r\n\r\nx", b""),
        ("later", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 408 Timeout\r\n\r\n"),
    ];
    for (name, answer, more) in cases {
        let (mut sender, mut peer) = connected().await;
        let mut response = exchange(&mut sender, &mut peer, answer).await.unwrap();
        text_of(response.body_mut()).await.unwrap();
        peer.write_all(more).await.unwrap();
        assert!(closed(&sender).await, "{name}");
        assert!(matches!(sender.send(get()).await, Err(Failure::Unsent(_))), "{name}");
    }
}

#[tokio::test]
async fn a_connection_closed_while_free_gives_the_request_back() {
    let (mut sender, mut peer) = connected().await;
    exchange(&mut sender, &mut peer, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    drop(peer);
    assert!(closed(&sender).await);
    let Err(Failure::Unsent(request)) = sender.send(get()).await else { panic!("it was sent") };
    assert_eq!(request.headers()["host"], "a");
}

#[tokio::test]
async fn an_exchange_dropped_midway_closes_its_connection() {
    let (mut sender, mut peer) = connected().await;
    let response = exchange(&mut sender, &mut peer, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").await.unwrap();
    drop(response);
    assert!(sender.is_closed());
    drop(sender);
    assert!(!matches!(peer.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn responses_that_break_off_say_how() {
    let cases: [(&str, &[u8], Result<&str, BodyError>); 3] = [
        ("early", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", Err(BodyError::Protocol)),
        ("chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx", Err(BodyError::Protocol)),
        ("until the end", b"HTTP/1.1 200 OK\r\n\r\nhi", Ok("hi")),
    ];
    for (name, answer, want) in cases {
        let (mut sender, mut peer) = connected().await;
        let mut response = exchange(&mut sender, &mut peer, answer).await.unwrap();
        drop(peer);
        assert_eq!(text_of(response.body_mut()).await.as_deref(), want.as_ref().map(|text| *text), "{name}");
        assert!(sender.is_closed(), "{name}");
    }
    let (mut sender, mut peer) = connected().await;
    assert!(matches!(exchange(&mut sender, &mut peer, b"garbage\r\n\r\n").await, Err(Failure::Protocol(_))));
    let (mut sender, peer) = connected().await;
    let leaving = async {
        tokio::task::yield_now().await;
        drop(peer);
    };
    let (answered, ()) = tokio::join!(sender.send(get()), leaving);
    assert!(matches!(answered, Err(Failure::Terminated(_))));
}

#[tokio::test]
async fn a_large_body_comes_whole_through_a_bounded_buffer() {
    let (mut sender, mut peer) = connected().await;
    let length = 20 << 20;
    let answering = async {
        let _ = peer.read(&mut [0; 1024]).await.unwrap();
        peer.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await.unwrap();
        peer.write_all(&vec![b'x'; length]).await.unwrap();
    };
    let reading = async {
        let mut response = sender.send(get()).await.unwrap();
        let mut read = 0;
        while let Some(frame) = poll_fn(|cx| response.body_mut().poll_frame(cx)).await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= MOST_READ_BYTES);
            read += data.len();
        }
        read
    };
    assert_eq!(tokio::join!(reading, answering).0, length);
    assert!(!sender.is_closed());
}

#[tokio::test]
async fn a_switch_of_protocols_gives_the_stream_with_what_came_along() {
    let (mut sender, mut peer) = connected().await;
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nearly";
    let mut response = exchange(&mut sender, &mut peer, answer).await.unwrap();
    let mut tunnel = response.body_mut().take_tunnel().unwrap();
    assert!(sender.is_closed());
    drop((sender, response));
    tunnel.write_all(b"up").await.unwrap();
    let (mut up, mut down) = ([0; 2], [0; 9]);
    peer.read_exact(&mut up).await.unwrap();
    peer.write_all(b"down").await.unwrap();
    tunnel.read_exact(&mut down).await.unwrap();
    assert_eq!((&up, &down), (b"up", b"earlydown"));
}
