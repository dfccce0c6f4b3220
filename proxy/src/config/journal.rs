//! When each resource was taken, and what was refused since. For dumps.
//!
//! In:  updates and what became of them, the time.
//! Out: per resource, a time; per refused resource, why and which version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pillion_xds::resource::ResourceType;
use pillion_xds::subscription::{Refusal, Update};

use super::disk::Copy;

type Key = (ResourceType, Arc<str>);

/// The newest version of a resource that was refused; an older one may be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub at: SystemTime,
    pub reason: String,
    pub version: Arc<str>,
    /// Empty when it could not even be decoded.
    pub body: Bytes,
}

/// The times and the refusals.
#[derive(Debug, Default, Clone)]
pub struct Journal {
    taken: BTreeMap<Key, SystemTime>,
    refused: BTreeMap<Key, Refused>,
}

impl Journal {
    /// An update was compiled; these of it were refused, beside those that could not be decoded.
    pub fn take(&mut self, update: &Update, refused: &[Refusal], at: SystemTime) {
        for changed in &update.changed {
            let key = (update.kind, Arc::clone(&changed.encoded.name));
            self.refused.remove(&key);
            self.taken.insert(key, at);
        }
        for name in &update.removed {
            let key = (update.kind, Arc::clone(name));
            self.refused.remove(&key);
            self.taken.remove(&key);
        }
        self.refuse(update, refused, at);
        self.refuse(update, &update.refused, at);
    }

    /// Something of an update turned out to be of no use.
    pub fn refuse(&mut self, update: &Update, refused: &[Refusal], at: SystemTime) {
        for refusal in refused {
            let tried = update.changed.iter().map(|changed| &changed.encoded).find(|encoded| encoded.name == refusal.name);
            let (version, body) = tried.map(|encoded| (Arc::clone(&encoded.version), encoded.body.clone())).unwrap_or_default();
            let refused = Refused { at, reason: refusal.reason.clone(), version, body: Bytes::copy_from_slice(&body) };
            self.refused.insert((update.kind, Arc::clone(&refusal.name)), refused);
        }
    }

    /// Everything came from disk.
    pub fn restored(&mut self, copy: &Copy, at: SystemTime) {
        let names = copy.resources.iter().flat_map(|(kind, held)| held.keys().map(|name| (*kind, Arc::clone(name))));
        self.taken.extend(names.map(|key| (key, at)));
    }

    /// Keeps only these names of a type.
    pub fn retain(&mut self, kind: ResourceType, follows: impl Fn(&str) -> bool) {
        self.taken.retain(|(of, name), _| *of != kind || follows(name));
        self.refused.retain(|(of, name), _| *of != kind || follows(name));
    }

    /// When the version in force came, and nothing when nobody remembers.
    pub fn taken(&self, kind: ResourceType, name: &Arc<str>) -> Option<SystemTime> {
        self.taken.get(&(kind, Arc::clone(name))).copied()
    }

    /// What is refused of a type, by name.
    pub fn refused(&self, kind: ResourceType) -> impl Iterator<Item = (&Arc<str>, &Refused)> {
        self.refused.iter().filter(move |((of, _), _)| *of == kind).map(|((_, name), refused)| (name, refused))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pillion_xds::resource::Encoded;
    use pillion_xds::subscription::{Changed, Decoded};
    use pillion_xds::wire::envoy::config::cluster::v3::Cluster;

    use super::*;

    fn update(names: &[&str], removed: &[&str]) -> Update {
        let changed = names.iter().map(|name| {
            let cluster = Cluster { name: (*name).into(), ..Cluster::default() };
            Changed { encoded: Encoded::of(&cluster), message: Decoded::Cluster(Box::new(cluster)) }
        });
        Update::local(ResourceType::Cluster, 1, changed.collect(), removed.iter().map(|name| Arc::from(*name)).collect(), Vec::new())
    }

    #[test]
    fn a_refusal_stays_until_a_version_is_accepted_or_the_resource_is_gone() {
        let (mut journal, start) = (Journal::default(), SystemTime::UNIX_EPOCH);
        let later = start + Duration::from_secs(1);
        journal.take(&update(&["a", "b"], &[]), &[], start);
        journal.take(&update(&["a", "c"], &[]), &[Refusal::new("a", "bad"), Refusal::new("c", "worse")], later);
        let refused: Vec<_> =
            journal.refused(ResourceType::Cluster).map(|(name, refused)| (&**name, refused.reason.as_str(), refused.at)).collect();
        assert_eq!(refused, [("a", "bad", later), ("c", "worse", later)]);
        assert!(journal.refused(ResourceType::Listener).next().is_none());
        journal.take(&update(&["a"], &["c"]), &[], later);
        assert!(journal.refused(ResourceType::Cluster).next().is_none());
        assert_eq!(journal.taken(ResourceType::Cluster, &"b".into()), Some(start));
        journal.retain(ResourceType::Cluster, |name| name == "a");
        assert_eq!(journal.taken(ResourceType::Cluster, &"b".into()), None);
    }
}
