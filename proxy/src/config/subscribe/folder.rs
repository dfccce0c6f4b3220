//! Follows a folder of files in place of a control plane.
//!
//! In:  a folder as `config::files` reads it, the time.
//! Out: the same as from a stream: one swap per reading, last good versions kept, refusals in log, state and dump.
//!
//! Files are replaced by rename, which changes the folder's own time; so a look at two folders and three files tells, some times a second.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_xds::resource::ResourceType;
use pillion_xds::subscription::{Decoded, Update, endpoints_of};
use tokio::time::{Instant, sleep};

use super::{Shared, Subscriber, keep_time};
use crate::config::files::{self, ENDPOINTS, Folder, WHOLE};

/// Between two looks. What is written must be quiet for as long before it is read.
const LOOK: Duration = Duration::from_millis(100);
/// A time as young as this may be that of two writes: clocks of file systems tick this slowly.
const YOUNG: Duration = Duration::from_millis(50);
/// Clusters and endpoints before what uses them.
const ORDER: [ResourceType; 4] = [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

/// When the parts of a folder were written, as far as they are there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Vec<Option<(SystemTime, u64)>>);

impl Stamp {
    fn of(folder: &Path) -> Self {
        let whole = WHOLE.iter().map(|(file, _)| folder.join(file));
        let places = [folder.to_owned(), folder.join(ENDPOINTS)].into_iter().chain(whole);
        Self(places.map(|place| std::fs::metadata(place).and_then(|found| Ok((found.modified()?, found.len()))).ok()).collect())
    }

    fn is_young(&self, now: SystemTime) -> bool {
        let newest = self.0.iter().flatten().map(|(time, _)| *time).max();
        newest.is_some_and(|newest| now.duration_since(newest).is_ok_and(|age| age < YOUNG))
    }
}

impl Subscriber {
    /// Follows the folder for ever. Runs on the side runtime.
    pub async fn run_folder(self, folder: PathBuf) -> Infallible {
        let shared = self.shared;
        tokio::select! {
            never = follow(&shared, folder) => never,
            never = keep_time(&shared) => never,
        }
    }
}

async fn follow(shared: &Arc<Shared>, folder: PathBuf) -> Infallible {
    let mut known = None;
    let mut names = Names::default();
    loop {
        let stamp = Stamp::of(&folder);
        if known.as_ref() != Some(&stamp) {
            // The first reading is not waited for.
            if known.is_some() {
                sleep(LOOK).await;
                if Stamp::of(&folder) != stamp {
                    continue;
                }
            }
            let settled = !stamp.is_young(SystemTime::now());
            let place = folder.clone();
            match tokio::task::spawn_blocking(move || files::read(&place)).await {
                Ok(Ok(found)) => shared.take_folder(found, &mut names, Instant::now()),
                Ok(Err(error)) => tracing::error!(%error, "cannot read resource files"),
                Err(_) => tracing::error!("reading resource files panicked"),
            }
            known = Some(if settled { stamp } else { Stamp(Vec::new()) });
        }
        sleep(LOOK).await;
    }
}

/// What the folder had at the last reading.
type Names = BTreeMap<ResourceType, BTreeSet<Arc<str>>>;

impl Shared {
    fn take_folder(&self, mut found: Folder, names: &mut Names, now: Instant) {
        let mut engine = self.engine.lock();
        let generation = engine.generation + 1;
        engine.generation = generation;
        let mut refused = Vec::new();
        for update in updates(&mut found, names, generation) {
            self.stats.updates(update.kind).increment();
            let verdict = engine.compiler.apply(&update, now);
            let of_update = engine.settle(&update, verdict);
            let all = of_update.iter().chain(&update.refused);
            let all: Vec<_> = all.map(|refusal| (update.kind, refusal.name.to_string(), refusal.reason.clone())).collect();
            self.stats.refused(update.kind).add(all.len() as u64);
            refused.extend(all);
        }
        if !engine.compiler.is_empty() {
            self.publish(&mut engine, now);
        }
        drop(engine);
        self.replan.notify_one();
        for (kind, name, reason) in &refused {
            tracing::warn!(%kind, name, reason, "refused a resource; its last good version stays");
        }
        let trouble = refused.iter().find(|(_, name, _)| name.ends_with(".yaml")).map(|(_, name, reason)| format!("{name}: {reason}"));
        tracing::info!(generation, refused = refused.len(), "took the resource files");
        self.change(|state| {
            state.connected = true;
            state.complete = trouble.is_none();
            state.trouble = trouble;
            state.refused = refused;
        });
    }
}

/// One update per type, in the order in which they should be taken.
fn updates(found: &mut Folder, names: &mut Names, generation: u64) -> Vec<Update> {
    let clusters = found.resources.get(&ResourceType::Cluster).into_iter().flatten();
    let followed: BTreeSet<Arc<str>> = clusters
        .filter_map(|changed| match &changed.message {
            Decoded::Cluster(cluster) => endpoints_of(cluster).map(Arc::from),
            _ => None,
        })
        .collect();
    let one = |kind: ResourceType| {
        let changed = found.resources.remove(&kind).unwrap_or_default();
        let refused = found.refused.remove(&kind).unwrap_or_default();
        let there = changed.iter().map(|changed| &changed.encoded.name).chain(refused.iter().map(|refusal| &refusal.name));
        let there: BTreeSet<Arc<str>> = there.cloned().collect();
        let before = names.entry(kind).or_default();
        // Endpoints of a cluster that is still there are rather old than gone.
        let stays = |name: &Arc<str>| kind == ResourceType::Endpoint && followed.contains(name);
        let is_whole = found.whole.contains(&kind);
        let gone: Vec<Arc<str>> = before.iter().filter(|name| is_whole && !there.contains(*name) && !stays(name)).cloned().collect();
        before.retain(|name| !gone.contains(name));
        before.extend(there);
        Update::local(kind, generation, changed, gone, refused)
    };
    ORDER.map(one).into()
}

#[cfg(test)]
mod tests {
    use pillion_xds::resource::Encoded;
    use pillion_xds::subscription::{Changed, Refusal};
    use pillion_xds::wire::envoy::config::cluster::v3::{Cluster, cluster};
    use pillion_xds::wire::envoy::config::endpoint::v3::ClusterLoadAssignment;

    use super::*;

    fn folder(clusters: &[&str], endpoints: &[&str]) -> Folder {
        let mut folder = Folder { whole: ORDER.to_vec(), ..Folder::default() };
        for name in clusters {
            let eds = Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32));
            let cluster = Cluster { name: (*name).into(), cluster_discovery_type: eds, ..Cluster::default() };
            let changed = Changed { encoded: Encoded::of(&cluster), message: Decoded::Cluster(Box::new(cluster)) };
            folder.resources.entry(ResourceType::Cluster).or_default().push(changed);
        }
        for name in endpoints {
            let list = ClusterLoadAssignment { cluster_name: (*name).into(), ..ClusterLoadAssignment::default() };
            let changed = Changed { encoded: Encoded::of(&list), message: Decoded::Endpoints(Box::new(list)) };
            folder.resources.entry(ResourceType::Endpoint).or_default().push(changed);
        }
        folder
    }

    fn removed(folder: Folder, names: &mut Names) -> Vec<String> {
        let mut folder = folder;
        let updates = updates(&mut folder, names, 1);
        updates.iter().flat_map(|update| update.removed.iter().map(|name| format!("{} {name}", update.kind))).collect()
    }

    #[test]
    fn what_is_no_longer_in_the_files_is_gone_unless_it_may_only_be_unreadable() {
        let mut names = Names::default();
        assert_eq!(removed(folder(&["a", "b"], &["a", "b"]), &mut names), [""; 0]);
        // Endpoints of a cluster that is there stay.
        assert_eq!(removed(folder(&["a"], &[]), &mut names), ["cds b", "eds b"]);
        let mut broken = folder(&[], &["a"]);
        broken.whole.retain(|kind| *kind != ResourceType::Cluster);
        assert_eq!(removed(broken, &mut names), [""; 0]);
        let mut refused = folder(&[], &["a"]);
        refused.refused.entry(ResourceType::Cluster).or_default().push(Refusal::new("a", "bad"));
        assert_eq!(removed(refused, &mut names), [""; 0]);
        assert_eq!(removed(folder(&[], &[]), &mut names), ["cds a", "eds a"]);
    }
}
