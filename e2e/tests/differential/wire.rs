//! HTTP/1.1 as bytes, for both ends of a test: nothing is corrected, nothing is hidden.
//!
//! In:  a connection. Out: heads and bodies as they were sent.

use std::io::{Error, ErrorKind, Result};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// A first line and fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

/// A body and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    /// Fields after the last chunk.
    pub trailers: Vec<(String, String)>,
    /// It ended where its framing said.
    pub whole: bool,
    /// Only the end of the connection ends it.
    pub until_close: bool,
}

impl Head {
    /// The first value of a field.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Names in lower case, by name and then value.
    pub fn sorted(&self) -> Vec<(String, String)> {
        sorted(&self.fields)
    }
}

fn sorted(fields: &[(String, String)]) -> Vec<(String, String)> {
    let mut all: Vec<_> = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    all.sort();
    all
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut bytes = Vec::new();
    stream.read_until(b'\n', &mut bytes).await?;
    if bytes.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn fields(stream: &mut BufReader<TcpStream>) -> Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let text = line(stream).await?;
        if text.is_empty() {
            return Ok(fields);
        }
        let (name, value) = text.split_once(':').ok_or_else(|| Error::other(format!("no field: {text:?}")))?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// The next head.
pub async fn head(stream: &mut BufReader<TcpStream>) -> Result<Head> {
    Ok(Head { line: line(stream).await?, fields: fields(stream).await? })
}

/// The body after `head`; that of a response may last until the connection ends.
pub async fn body(stream: &mut BufReader<TcpStream>, head: &Head, response: bool) -> Result<Body> {
    let mut body = Body { whole: true, ..Body::default() };
    if head.value("transfer-encoding").is_some() {
        body.whole = chunks(stream, &mut body).await.is_ok();
    } else if let Some(length) = head.value("content-length") {
        let length: u64 = length.parse().map_err(Error::other)?;
        stream.take(length).read_to_end(&mut body.bytes).await.ok();
        body.whole = body.bytes.len() as u64 == length;
    } else if response {
        body.until_close = true;
        body.whole = stream.read_to_end(&mut body.bytes).await.is_ok();
    }
    Ok(body)
}

async fn chunks(stream: &mut BufReader<TcpStream>, body: &mut Body) -> Result<()> {
    loop {
        let size = line(stream).await?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(Error::other)?;
        if size == 0 {
            body.trailers = sorted(&fields(stream).await?);
            return Ok(());
        }
        let before = body.bytes.len() as u64;
        stream.take(size).read_to_end(&mut body.bytes).await?;
        if body.bytes.len() as u64 != before + size || !line(stream).await?.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What a client got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got {
    pub line: String,
    /// Names in lower case, sorted.
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// A client of one proxy, its connection kept while the proxy keeps it.
pub struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None }
    }

    /// Sends bytes that are one request, and reads the answer. `head_only`: the request was a HEAD.
    ///
    /// # Errors
    /// Without an answer; the next request has a connection of its own.
    pub async fn ask(&mut self, request: &[u8], head_only: bool) -> Result<Got> {
        let stream = match self.stream.take() {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        self.exchange(stream, request, head_only).await
    }

    async fn exchange(&mut self, mut stream: BufReader<TcpStream>, request: &[u8], head_only: bool) -> Result<Got> {
        stream.write_all(request).await?;
        let head = loop {
            let head = head(&mut stream).await?;
            if !head.line.contains(" 100 ") {
                break head;
            }
        };
        let status = head.line.split(' ').nth(1).unwrap_or_default();
        let body = if head_only || status == "204" || status == "304" {
            Body { whole: true, ..Body::default() }
        } else {
            body(&mut stream, &head, true).await?
        };
        let closes = head.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closes && !body.until_close && body.whole {
            self.stream = Some(stream);
        }
        Ok(Got { line: head.line.clone(), headers: head.sorted(), body })
    }
}
