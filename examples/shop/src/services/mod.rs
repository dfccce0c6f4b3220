//! The eight services, each in a file; what is too small for one is here.
//!
//! In:  [`Args`].
//! Out: a running service.

mod api_gateway;
mod inventory;
mod order;
mod product;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Args, Service,
    server::{Asked, Reply, Serve, not_found, ok, reply, serve},
};

pub async fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let address = args.address();
    match args.service {
        Service::ApiGateway => serve(address, api_gateway::ApiGateway::start(args), stop).await,
        Service::User => serve(address, Users, stop).await,
        Service::Product => serve(address, product::Products::new(&args.release), stop).await,
        Service::Inventory => inventory::run(args, stop).await,
        Service::Order => serve(address, order::Orders::default(), stop).await,
        Service::Payment => serve(address, Ledger::new("payment", "paid"), stop).await,
        Service::Logistics => serve(address, Ledger::new("shipment", "on its way"), stop).await,
        Service::Notification => serve(address, Ledger::new("notification", "sent"), stop).await,
    }
}

/// Logs people in and knows their names.
struct Users;

impl Serve for Users {
    async fn handle(&self, asked: Asked) -> Reply {
        match (&asked.method, asked.segments().as_slice()) {
            (&Method::POST, ["login"]) => match asked.body.get("name").and_then(Value::as_str) {
                Some(name) => ok(&json!({"name": name, "session": format!("session-of-{name}")})),
                None => reply(StatusCode::BAD_REQUEST, &json!({"error": "a login needs a name"})),
            },
            (&Method::GET, ["users", id]) => ok(&json!({"id": id, "name": format!("User {id}")})),
            _ => not_found(&asked),
        }
    }
}

/// Takes entries for orders and keeps the last of each: payments, shipments, notifications.
struct Ledger {
    what: &'static str,
    state: &'static str,
    next: AtomicU64,
    entries: Mutex<BTreeMap<u64, Value>>,
}

/// A ledger forgets its oldest entries beyond this many.
const LEDGER_ENTRIES: usize = 10_000;

impl Ledger {
    fn new(what: &'static str, state: &'static str) -> Self {
        Self { what, state, next: AtomicU64::new(1), entries: Mutex::default() }
    }
}

impl Serve for Ledger {
    async fn handle(&self, asked: Asked) -> Reply {
        let plural = format!("{}s", self.what);
        match (&asked.method, asked.segments().as_slice()) {
            (&Method::POST, [collection]) if *collection == plural => {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                let entry = json!({"id": id, "kind": self.what, "order": asked.body.get("order"), "state": self.state});
                if let Ok(mut entries) = self.entries.lock() {
                    entries.insert(id, entry.clone());
                    if entries.len() > LEDGER_ENTRIES {
                        entries.pop_first();
                    }
                }
                reply(StatusCode::CREATED, &entry)
            }
            (&Method::GET, [collection, id]) if *collection == plural => {
                let found = id.parse().ok().and_then(|id: u64| self.entries.lock().ok()?.get(&id).cloned());
                found.map_or_else(|| not_found(&asked), |entry| ok(&entry))
            }
            _ => not_found(&asked),
        }
    }
}
