//! A TCP connection to an address, within a time.
//!
//! In:  address, connect timeout.
//! Out: a connected socket without Nagle's delay, or why not.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Failure;

/// Connect within `timeout`.
///
/// # Errors
/// [`Failure::Connect`], with Envoy's wording of the reason.
pub async fn dial(address: SocketAddr, timeout: Duration) -> Result<TcpStream, Failure> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::Connect { timed_out: false, reason: reason(&error) }),
        Err(_) => return Err(Failure::Connect { timed_out: true, reason: Cow::Borrowed("") }),
    };
    // Without it only latency suffers; a socket that is already gone shows at its first use.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn reason(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cow::Borrowed("delayed connect error: Connection refused"),
        io::ErrorKind::ConnectionReset => Cow::Borrowed("delayed connect error: Connection reset by peer"),
        io::ErrorKind::NetworkUnreachable => Cow::Borrowed("immediate connect error: Network is unreachable"),
        io::ErrorKind::HostUnreachable => Cow::Borrowed("delayed connect error: No route to host"),
        io::ErrorKind::AddrNotAvailable => Cow::Borrowed("immediate connect error: Cannot assign requested address"),
        _ => Cow::Owned(format!("delayed connect error: {error}")),
    }
}
