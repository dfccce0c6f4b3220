//! `/listeners`: what is listened on, and what only tunnels enter.
//!
//! In:  the snapshot and its sockets.
//! Out: Envoy's `name::address` lines, or `ListenerStatuses` as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::json;

use super::{AdminState, Query, Reply};
use crate::config::Snapshot;
use crate::config::listener::Direction;

pub(super) fn page(state: &AdminState, query: Query<'_>) -> Reply {
    let snapshot = state.store.snapshot();
    let unbound = &state.sync.borrow().unbound;
    let mut rows: Vec<_> = snapshot.listeners.iter().collect();
    rows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if query.get("format").as_deref() == Some("json") {
        let statuses = rows.iter().map(|listener| {
            let at = local_address(&snapshot, listener.address);
            json!({
                "name": &*listener.name,
                "local_address": { "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } },
                "bound": snapshot.sockets.contains_key(&listener.address) && listener.bind,
                "direction": if listener.direction == Direction::Inbound { "INBOUND" } else { "OUTBOUND" },
                "filter_chains": listener.chains.iter().map(|chain| &*chain.name).collect::<Vec<_>>(),
                "error": unbound.get(&listener.name),
            })
        });
        return Reply::json(&json!({ "listener_statuses": statuses.collect::<Vec<_>>() }));
    }
    // Envoy's lines have only what is bound; the rest is asked for.
    let all = query.get("all").is_some();
    let lines = rows.iter().filter_map(|listener| {
        let at = local_address(&snapshot, listener.address);
        match (unbound.get(&listener.name), listener.bind) {
            (Some(reason), _) => Some(format!("{}::{at} (not served: {reason})\n", listener.name)),
            (None, true) => Some(format!("{}::{at}\n", listener.name)),
            (None, false) => all.then(|| format!("{}::{at} (not bound)\n", listener.name)),
        }
    });
    Reply::text(lines.collect::<String>())
}

/// The address with the port that the system picked, where a listener left it open.
pub(super) fn local_address(snapshot: &Snapshot, named: SocketAddr) -> SocketAddr {
    snapshot.sockets.get(&named).and_then(|socket| socket.local_addr().ok()).unwrap_or(named)
}

/// Bound listeners and where they really are.
pub(super) fn bound(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let bound = snapshot.listeners.iter().filter(|listener| listener.bind && snapshot.sockets.contains_key(&listener.address));
    bound.map(|listener| (listener.name.to_string(), local_address(snapshot, listener.address).to_string())).collect()
}
