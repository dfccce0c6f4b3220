//! Counters of the proxy itself, apart from requests.
//!
//! In:  events of the connections and of the configuration stream.
//! Out: one place from which admin reads them. Plain atomics: none of them is touched per request.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use pillion_xds::resource::ResourceType;

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything there is one of in a process.
#[derive(Debug, Default)]
pub struct ProxyStats {
    /// Responses of the control plane taken in, per type in the order of [`ResourceType::ALL`].
    pub xds_updates: [Counter; ResourceType::ALL.len()],
    /// Resources refused, per type.
    pub xds_refused: [Counter; ResourceType::ALL.len()],
    /// Streams opened.
    pub xds_streams: Counter,
    /// A stream to the control plane is open: 0 or 1.
    pub xds_connected: Gauge,
    /// The configuration in force is not known to be current: 0 or 1.
    pub config_stale: Gauge,
    /// Configurations put in force.
    pub config_swaps: Counter,
    /// Bound listeners whose address could not be had.
    pub listeners_unbound: Gauge,
}

impl ProxyStats {
    pub fn updates(&self, kind: ResourceType) -> &Counter {
        &self.xds_updates[index(kind)]
    }

    pub fn refused(&self, kind: ResourceType) -> &Counter {
        &self.xds_refused[index(kind)]
    }
}

fn index(kind: ResourceType) -> usize {
    // ALL has every type.
    ResourceType::ALL.iter().position(|known| *known == kind).unwrap_or(0)
}
