//! Addresses of names outside the mesh, asked off the workers and remembered.
//!
//! In:  host names of DNS clusters and of passthrough requests.
//! Out: addresses, at most [`Resolver::REMEMBER`] old; fresh endpoint lists for DNS clusters.
//!
//! The system's resolver is asked, so that a name means here what it means to the application.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::config::Snapshot;
use crate::config::cluster::{ClusterKind, DnsEndpoints, Endpoint, EndpointList};

/// Asks for addresses on the control runtime. Clones share one memory.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    answers: Mutex<HashMap<Box<str>, Answer>>,
}

#[derive(Debug, Clone)]
struct Answer {
    asked: Instant,
    addresses: Arc<OnceCell<Arc<[IpAddr]>>>,
}

impl Resolver {
    /// How long an answer is used. Source: Envoy's dynamic forward proxy, `dns_refresh_rate` (60 s).
    pub const REMEMBER: Duration = Duration::from_secs(60);
    /// Names remembered; a downstream chooses them, so there is a limit. Source: `max_hosts` (1024).
    const MOST_NAMES: usize = 1024;

    /// Questions run on `runtime`, never on a worker.
    pub fn new(runtime: Handle) -> Self {
        Self(Arc::new(Inner { runtime, answers: Mutex::default() }))
    }

    /// Addresses of a host; at least one. Requests for one name share one question.
    ///
    /// # Errors
    /// When the name has no address or the question fails.
    pub async fn lookup(&self, host: &str, now: Instant) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        let answer = self.remembered(host, now);
        answer.addresses.get_or_try_init(|| self.ask(host)).await.map(Arc::clone)
    }

    fn remembered(&self, host: &str, now: Instant) -> Answer {
        let mut answers = self.0.answers.lock();
        if answers.len() >= Self::MOST_NAMES {
            answers.retain(|_, answer| now.saturating_duration_since(answer.asked) < Self::REMEMBER);
            if answers.len() >= Self::MOST_NAMES {
                answers.clear();
            }
        }
        let fresh = || Answer { asked: now, addresses: Arc::default() };
        let answer = answers.entry(host.into()).or_insert_with(fresh);
        if now.saturating_duration_since(answer.asked) >= Self::REMEMBER {
            *answer = fresh();
        }
        answer.clone()
    }

    async fn ask(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        let host: Box<str> = host.into();
        let asking = async move {
            let found = tokio::net::lookup_host((&*host, 0)).await?;
            io::Result::Ok(found.map(|found| found.ip()).collect::<Vec<_>>())
        };
        let addresses = self.0.runtime.spawn(asking).await.map_err(io::Error::other)??;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
        }
        Ok(addresses.into())
    }
}

/// Keep the endpoint lists of all DNS clusters fresh, for as long as there are snapshots. Runs on the control runtime.
pub async fn keep_fresh(resolver: Resolver, mut snapshots: watch::Receiver<Snapshot>) {
    let mut watched: Vec<Weak<DnsEndpoints>> = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        watched.retain(|endpoints| endpoints.strong_count() > 0);
        for cluster in snapshot.clusters.values() {
            let ClusterKind::Dns(endpoints) = &cluster.kind else { continue };
            let endpoints = Arc::downgrade(endpoints);
            if !watched.iter().any(|other| other.ptr_eq(&endpoints)) {
                watched.push(Weak::clone(&endpoints));
                tasks.spawn(refresh(resolver.clone(), endpoints));
            }
        }
        while tasks.try_join_next().is_some() {}
        drop(snapshot);
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Ask again and again, until no snapshot has these endpoints any more.
async fn refresh(resolver: Resolver, endpoints: Weak<DnsEndpoints>) {
    loop {
        let pause = {
            let Some(endpoints) = endpoints.upgrade() else { return };
            let before = endpoints.resolved.load_full();
            let mut next = Vec::new();
            let mut complete = true;
            for host in &endpoints.hosts {
                // No memory of earlier answers: the refresh rate is the cluster's own.
                match resolver.ask(&host.host).await {
                    Ok(addresses) => {
                        let wanted = if endpoints.all_addresses { addresses.len() } else { 1 };
                        let addresses = addresses.iter().take(wanted).map(|address| SocketAddr::new(*address, host.port));
                        next.extend(addresses.map(|address| endpoint(&before, address, host)));
                    }
                    Err(error) => {
                        tracing::warn!(host = &*host.host, %error, "name not resolved; its last addresses stay");
                        complete = false;
                    }
                }
            }
            let same = next.len() == before.endpoints.len()
                && next.iter().zip(&before.endpoints).all(|(new, old): (&Arc<Endpoint>, _)| Arc::ptr_eq(new, old));
            if complete && !same {
                endpoints.resolved.store(Arc::new(EndpointList::new(next)));
            }
            endpoints.refresh.max(Duration::from_millis(100))
        };
        tokio::time::sleep(pause).await;
    }
}

/// The endpoint for an address: the one that was there, with its live state, else a new one.
fn endpoint(before: &EndpointList, address: SocketAddr, host: &crate::config::cluster::DnsHost) -> Arc<Endpoint> {
    let known = before
        .endpoints
        .iter()
        .find(|endpoint| endpoint.address == address && endpoint.weight == host.weight.max(1) && Arc::ptr_eq(&endpoint.peer, &host.peer));
    known.map_or_else(
        || Arc::new(Endpoint { address, weight: host.weight.max(1), peer: Arc::clone(&host.peer), live: Arc::default() }),
        Arc::clone,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_are_their_own_address() {
        let resolver = Resolver::new(Handle::current());
        for (host, want) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
            let got = resolver.lookup(host, Instant::now()).await.unwrap();
            assert_eq!(*got, [want.parse::<IpAddr>().unwrap()], "{host}");
        }
    }

    #[tokio::test]
    async fn requests_for_a_name_share_an_answer() {
        let resolver = Resolver::new(Handle::current());
        let now = Instant::now();
        let first = resolver.lookup("localhost", now).await.unwrap();
        let again = resolver.lookup("localhost", now).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let later = resolver.lookup("localhost", now + Resolver::REMEMBER).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &later));
    }
}
