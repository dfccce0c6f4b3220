//! Requests byte for byte as a test writes them, and an upstream that answers with what it got.
//!
//! In:  heads as text.
//! Out: heads as text; no library between that would put them right.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const WITHIN: Duration = Duration::from_secs(20);
/// No head of a test is larger.
const LARGEST: usize = 64 << 10;

/// A head: its first line, and its fields with names in lower case, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let line = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let mut fields: Vec<_> = lines.filter_map(field).collect();
        fields.sort();
        Self { line, fields }
    }

    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer, and the head that the upstream got, if the request came so far.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub answer: Head,
    pub received: Option<Head>,
}

impl Exchange {
    pub fn status(&self) -> u16 {
        self.answer.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The target as the upstream got it.
    pub fn target(&self) -> Option<&str> {
        self.received.as_ref().and_then(|head| head.line.split(' ').nth(1))
    }
}

/// An upstream on a port of its own that answers every request with its head. `fields`: more fields of its answers, each with its line end.
pub async fn echo(fields: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut rest = Vec::new();
                while let Some(head) = read_head(&mut stream, &mut rest).await {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{fields}\r\n{head}", head.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// One request, as it is, on a connection of its own.
///
/// # Errors
/// When there is no answer.
pub async fn ask(address: &str, request: &str) -> Result<Exchange, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut rest = Vec::new();
        let text = read_head(&mut stream, &mut rest).await.ok_or("no answer")?;
        let answer = Head::parse(&text);
        let length: usize = answer.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while rest.len() < length && read_more(&mut stream, &mut rest).await {}
        let body = String::from_utf8_lossy(&rest);
        let echoed = answer.line.contains(" 200 ") && answer.field("x-echo").is_some();
        Ok(Exchange { received: echoed.then(|| Head::parse(&body)), answer })
    };
    tokio::time::timeout(WITHIN, exchange).await.unwrap_or_else(|_| Err(format!("{address}: no answer within {WITHIN:?}")))
}

/// The next head, without the empty line. `None`: the other side is through.
async fn read_head<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, rest: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
            let after = rest.split_off(end + 4);
            let head = std::mem::replace(rest, after);
            return Some(String::from_utf8_lossy(&head[..end + 2]).into_owned());
        }
        if rest.len() > LARGEST || !read_more(stream, rest).await {
            return None;
        }
    }
}

async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, rest: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer).await {
        Ok(count) if count > 0 => {
            rest.extend_from_slice(&buffer[..count]);
            true
        }
        _ => false,
    }
}
