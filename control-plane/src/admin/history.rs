//! The last generations: what changed, and how long it took to reach the proxies.
//!
//! In:  publications, answers, delays.
//! Out: [`Generation`]s for the API.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

/// Generations that are remembered.
const REMEMBERED: usize = 200;

/// One generation as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    pub generation: u64,
    /// When it was published.
    pub time: Timestamp,
    /// In words.
    pub changes: Vec<String>,
    /// Proxies that accepted all of it, of `proxies`; both `null` until every one has answered. A generation that was overtaken by the next
    /// one before it was sent has none.
    pub acked: Option<usize>,
    pub proxies: Option<usize>,
    /// From the moment the change was noticed until the last proxy had answered, in milliseconds.
    pub ms: Option<u64>,
    /// Proxies that had not answered after 30 s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<String>,
}

/// The list. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<VecDeque<Generation>>>);

impl History {
    /// A generation is on its way.
    pub fn published(&self, generation: u64, changes: Vec<String>) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED {
            all.pop_front();
        }
        all.push_back(Generation { generation, time: Timestamp::now(), changes, acked: None, proxies: None, ms: None, late: Vec::new() });
    }

    /// Every proxy has answered.
    pub fn acked(&self, generation: u64, acked: usize, proxies: usize, took: Duration) {
        self.with(generation, |entry| {
            entry.acked = Some(acked);
            entry.proxies = Some(proxies);
            entry.ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        });
    }

    /// These have not.
    pub fn late(&self, generation: u64, late: &[String]) {
        self.with(generation, |entry| entry.late = late.to_vec());
    }

    /// All that are remembered.
    pub fn newest_first(&self) -> Vec<Generation> {
        self.0.lock().iter().rev().cloned().collect()
    }

    fn with(&self, generation: u64, change: impl FnOnce(&mut Generation)) {
        if let Some(entry) = self.0.lock().iter_mut().rev().find(|entry| entry.generation == generation) {
            change(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_generations_are_remembered_with_their_answers() {
        let history = History::default();
        (1..=REMEMBERED as u64 + 5).for_each(|generation| history.published(generation, Vec::new()));
        history.acked(7, 2, 3, Duration::from_millis(41));
        history.late(8, &["a".into()]);
        history.acked(1, 9, 9, Duration::ZERO);
        let all = history.newest_first();
        assert_eq!((all.len(), all[0].generation, all[REMEMBERED - 1].generation), (REMEMBERED, 205, 6));
        assert_eq!((all[198].acked, all[198].proxies, all[198].ms), (Some(2), Some(3), Some(41)));
        assert_eq!(all[197].late, ["a"]);
    }
}
