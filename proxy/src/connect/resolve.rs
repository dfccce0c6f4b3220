//! Addresses of names outside the mesh, asked off the workers and remembered.
//!
//! In:  host names of DNS clusters and of passthrough requests.
//! Out: addresses, at most [`Resolver::REMEMBER`] old; fresh endpoint lists for DNS clusters.
//!
//! The system's resolver is asked, so that a name means here what it means to the application.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Snapshot;
use crate::config::cluster::{ClusterKind, DnsEndpoints, DnsHost, Endpoint, EndpointList, LookupFamily};

/// Asks for addresses on the control runtime. Clones share one memory.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    names: Names,
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
        Self(Arc::new(Inner { runtime, names: Names::System, answers: Mutex::default() }))
    }

    /// Addresses of a host; at least one, and only IPv4 where there are both, as the wire contract's DNS caches say. Requests for one name
    /// share one question.
    ///
    /// # Errors
    /// When the name has no address or the question fails.
    pub async fn lookup(&self, host: &str, now: Instant) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        let answer = self.remembered(host, now);
        let ask = || async { Ok(LookupFamily::V4Preferred.choose(&self.ask(host).await?).into()) };
        answer.addresses.get_or_try_init(ask).await.map(Arc::clone)
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
        finished(self.begin(host)).await
    }

    fn begin(&self, host: &str) -> Asked {
        let host: Box<str> = host.into();
        let names = self.0.names;
        self.0.runtime.spawn(async move { names.ask(&host).await })
    }
}

/// A question on its way.
type Asked = JoinHandle<io::Result<Vec<IpAddr>>>;

/// At least one address.
async fn finished(asked: Asked) -> io::Result<Arc<[IpAddr]>> {
    let addresses = asked.await.map_err(io::Error::other)??;
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
    }
    Ok(addresses.into())
}

/// Who knows addresses.
#[derive(Debug, Clone, Copy)]
enum Names {
    System,
    #[cfg(test)]
    Told(fn(&str) -> io::Result<Vec<IpAddr>>),
}

impl Names {
    async fn ask(self, host: &str) -> io::Result<Vec<IpAddr>> {
        match self {
            Self::System if is_loopback(host) => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            Self::System => Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect()),
            #[cfg(test)]
            Self::Told(answer) => answer(host),
        }
    }
}

/// Names below `localhost` are this machine, whatever name servers say. Source: RFC 6761, 6.3; Envoy's c-ares does the same.
fn is_loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let below = host.len().checked_sub(".localhost".len()).and_then(|at| host.get(at..));
    below.is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
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
    // By host: a name that is not resolved keeps its last addresses and takes nothing from the others.
    let mut answers: Vec<Arc<[IpAddr]>> = Vec::new();
    loop {
        let pause = {
            let Some(endpoints) = endpoints.upgrade() else { return };
            answers.resize_with(endpoints.hosts.len(), Arc::default);
            // No memory of earlier answers: the refresh rate is the cluster's own. A slow name server holds up all names together, once.
            let asked: Vec<_> = endpoints.hosts.iter().map(|host| resolver.begin(&host.host)).collect();
            for ((host, answer), asked) in endpoints.hosts.iter().zip(&mut answers).zip(asked) {
                match finished(asked).await {
                    Ok(addresses) => *answer = addresses,
                    Err(error) => tracing::warn!(host = &*host.host, %error, "name not resolved; its last addresses stay"),
                }
            }
            let before = endpoints.resolved.load_full();
            let next: Vec<Arc<Endpoint>> =
                endpoints.hosts.iter().zip(&answers).flat_map(|(host, answer)| of_host(&endpoints, &before, host, answer)).collect();
            let same = next.len() == before.endpoints.len() && next.iter().zip(&before.endpoints).all(|(new, old)| Arc::ptr_eq(new, old));
            if !same {
                endpoints.resolved.store(Arc::new(EndpointList::new(next)));
            }
            endpoints.refresh.max(Duration::from_millis(100))
        };
        tokio::time::sleep(pause).await;
    }
}

/// What a name's answer means: an endpoint per address, or one.
fn of_host(endpoints: &DnsEndpoints, before: &EndpointList, host: &DnsHost, answer: &[IpAddr]) -> Vec<Arc<Endpoint>> {
    let addresses = endpoints.family.choose(answer);
    let wanted = if endpoints.all_addresses { addresses.len() } else { 1 };
    addresses.into_iter().take(wanted).map(|ip| endpoint(before, SocketAddr::new(ip, host.port), host)).collect()
}

/// The endpoint for an address: the one that was there, with its live state, else a new one.
fn endpoint(before: &EndpointList, address: SocketAddr, host: &DnsHost) -> Arc<Endpoint> {
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

    #[tokio::test]
    async fn names_below_localhost_are_this_machine() {
        let resolver = Resolver::new(Handle::current());
        for host in ["a.localhost", "b.a.LOCALHOST", "a.localhost."] {
            assert_eq!(*resolver.lookup(host, Instant::now()).await.unwrap(), [IpAddr::from(Ipv4Addr::LOCALHOST)], "{host}");
        }
        for host in ["localhosts", "notlocalhost", "localhost.example", "ålocalhost"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    /// Addresses as the hour has it: `moving` changes its first one every 10 s, `late` is unknown for 15 s, `gone` is known for 5 s.
    fn told(host: &str) -> io::Result<Vec<IpAddr>> {
        thread_local!(static BEGUN: Instant = Instant::now());
        let seconds = BEGUN.with(|begun| begun.elapsed().as_secs());
        let address = |last: u64| IpAddr::from([10, 0, 0, last as u8]);
        match host {
            "moving" => Ok(vec![address(1 + seconds / 10), IpAddr::from(Ipv6Addr::LOCALHOST), address(100)]),
            "late" if seconds >= 15 => Ok(vec![address(50)]),
            "gone" if seconds < 5 => Ok(vec![address(60)]),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_follow_the_answers_of_each_name() {
        let host = |name: &str| DnsHost { host: name.into(), port: 80, weight: 1, peer: Arc::default() };
        let endpoints = |all_addresses, names: &[&str]| {
            Arc::new(DnsEndpoints {
                hosts: names.iter().map(|name| host(name)).collect(),
                resolved: arc_swap::ArcSwap::default(),
                all_addresses,
                family: LookupFamily::V4Preferred,
                refresh: Duration::from_secs(1),
            })
        };
        let (strict, logical) = (endpoints(true, &["moving", "late", "gone"]), endpoints(false, &["moving"]));
        let inner = Inner { runtime: Handle::current(), names: Names::Told(told), answers: Mutex::default() };
        let resolver = Resolver(Arc::new(inner));
        for endpoints in [&strict, &logical] {
            tokio::spawn(refresh(resolver.clone(), Arc::downgrade(endpoints)));
        }
        let seen = |endpoints: &DnsEndpoints| -> Vec<u8> {
            let list = endpoints.resolved.load_full();
            let last = |endpoint: &Arc<Endpoint>| match endpoint.address.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            };
            list.endpoints.iter().map(last).collect()
        };
        // Between the questions, which come at whole seconds.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let cases: [(u64, &[u8], &[u8]); 3] = [(0, &[1, 100, 60], &[1]), (12, &[2, 100, 60], &[2]), (25, &[3, 100, 50, 60], &[3])];
        let mut now = 0;
        for (at, want_strict, want_logical) in cases {
            tokio::time::sleep(Duration::from_secs(at - now)).await;
            now = at;
            assert_eq!((seen(&strict).as_slice(), seen(&logical).as_slice()), (want_strict, want_logical), "after {at} s");
        }
    }
}
