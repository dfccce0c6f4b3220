//! Listening sockets, made before the configuration that names them becomes visible.
//!
//! In:  compiled listeners, the sockets so far.
//! Out: one socket per bound address, kept while a snapshot names it; who holds an address that could not be had.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::owner;
use crate::config::listener::ListenerTable;

/// Connections the kernel keeps waiting per socket.
const BACKLOG: i32 = 4096;

/// Sockets by the address their listener names (port 0 included). Closed when no snapshot has them.
pub type Sockets = Arc<HashMap<SocketAddr, Arc<TcpListener>>>;

/// A listener whose address could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener} cannot bind {address}{}", owner.as_ref().map(|owner| format!(" (held by {owner})")).unwrap_or_default())]
pub struct BindError {
    pub listener: Arc<str>,
    pub address: SocketAddr,
    /// Process that listens there, as far as this user may see.
    pub owner: Option<String>,
    #[source]
    pub source: io::Error,
}

/// Bind what the listeners name and is not bound yet. The others go on with their sockets; those that fail are told, the rest serves.
pub fn bind(before: &Sockets, listeners: &ListenerTable) -> (Sockets, Vec<BindError>) {
    let mut sockets = HashMap::new();
    let mut errors = Vec::new();
    for listener in listeners.iter().filter(|listener| listener.bind) {
        let address = listener.address;
        if sockets.contains_key(&address) {
            continue;
        }
        let socket = match before.get(&address) {
            Some(socket) => Ok(Arc::clone(socket)),
            None => listen(address).map(Arc::new),
        };
        match socket {
            Ok(socket) => {
                sockets.insert(address, socket);
            }
            Err(source) => {
                let owner = if source.kind() == io::ErrorKind::AddrInUse { owner::of_port(address.port()) } else { None };
                errors.push(BindError { listener: Arc::clone(&listener.name), address, owner, source });
            }
        }
    }
    (Arc::new(sockets), errors)
}

/// A non-blocking listening socket. Without SO_REUSEPORT: a second process must fail to bind.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::{Direction, Listener};

    fn table(addresses: &[SocketAddr]) -> ListenerTable {
        ListenerTable::new(addresses.iter().map(|address| {
            Arc::new(Listener {
                name: address.to_string().into(),
                address: *address,
                bind: true,
                direction: Direction::Outbound,
                use_original_dst: false,
                chains: Vec::new(),
                default_chain: None,
                sniff_timeout: None,
                continue_on_sniff_timeout: false,
            })
        }))
    }

    #[test]
    fn sockets_are_kept_while_named_and_a_taken_port_says_whose() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (first, errors) = bind(&Sockets::default(), &table(&[free]));
        assert!(errors.is_empty());
        let (second, _) = bind(&first, &table(&[free]));
        assert!(Arc::ptr_eq(&first[&free], &second[&free]));
        let taken = first[&free].local_addr().unwrap();
        let (third, errors) = bind(&Sockets::default(), &table(&[taken]));
        assert!(third.is_empty());
        let owner = errors[0].owner.as_deref().unwrap_or_default();
        assert!(owner.contains(&std::process::id().to_string()), "{owner}");
    }
}
