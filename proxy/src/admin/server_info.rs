//! `/server_info`: who this is, where it listens, what it is told to be.
//!
//! In:  settings, sync state.
//! Out: Envoy's `ServerInfo` as JSON, with our own facts under `pillion`.

use serde_json::json;

use super::{AdminState, Reply, listeners, open_connections, server_state};

pub(super) fn page(state: &AdminState) -> Reply {
    let settings = &state.bootstrap;
    let sync = state.sync.borrow().clone();
    let snapshot = state.store.snapshot();
    let refused: Vec<_> =
        sync.refused.iter().map(|(kind, name, reason)| json!({ "type": kind.short(), "name": name, "reason": reason })).collect();
    Reply::json(&json!({
        "version": format!("pillion-proxy/{}", env!("CARGO_PKG_VERSION")),
        "state": server_state(state),
        "uptime_current_epoch": format!("{}s", state.started.elapsed().as_secs()),
        "uptime_all_epochs": format!("{}s", state.started.elapsed().as_secs()),
        "hot_restart_version": "disabled",
        "command_line_options": {
            "concurrency": settings.workers,
            "drain_time": format!("{}s", settings.drain_duration.as_secs_f64()),
            "log_level": settings.log,
            "service_node": settings.node.id,
            "service_cluster": settings.node.cluster,
        },
        "node": settings.node,
        "pillion": {
            "addresses": {
                "admin": state.addresses.admin,
                "status": state.addresses.status,
                "metrics": state.addresses.metrics,
                "listeners": listeners::bound(&snapshot),
            },
            "generation": sync.generation,
            "resources": settings.resources,
            "control_plane": {
                "address": settings.xds,
                "connected": sync.connected,
                "complete": sync.complete,
                "stale": sync.is_stale(),
                "from_disk": sync.from_disk,
                "trouble": sync.trouble,
            },
            "refused": refused,
            "unbound": sync.unbound.iter().map(|(name, reason)| (name.to_string(), reason.clone())).collect::<std::collections::BTreeMap<_, _>>(),
            "downstream_connections": open_connections(state),
            "process_id": std::process::id(),
        },
    }))
}
