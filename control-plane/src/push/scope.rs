//! Which parts of a proxy's configuration a generation touches. Pure.
//!
//! In:  what a node saw and what it sees now.
//! Out: the types that differ; none means that the node has the new generation already.

use pillion_xds::resource::{NodeConfig, ResourceType};

/// The types of which some resource was added, changed or removed, in push order.
pub fn touched(before: &NodeConfig, after: &NodeConfig) -> Vec<ResourceType> {
    if std::ptr::eq(before, after) {
        return Vec::new();
    }
    ResourceType::ALL.into_iter().filter(|kind| before.of(*kind) != after.of(*kind)).collect()
}

#[cfg(test)]
mod tests {
    use pillion_xds::resource::Encoded;

    use super::*;

    #[test]
    fn only_types_with_a_difference_are_touched() {
        let config = |resources: &[(ResourceType, &str, &'static str)]| {
            let mut config = NodeConfig::new(1);
            for (kind, name, body) in resources {
                config.insert(*kind, Encoded::from_bytes(*name, body.as_bytes()));
            }
            config
        };
        use ResourceType::{Cluster, Route};
        let base = config(&[(Cluster, "a", "1"), (Route, "r", "1")]);
        let cases = [
            (config(&[(Cluster, "a", "1"), (Route, "r", "1")]), vec![]),
            (config(&[(Cluster, "a", "2"), (Route, "r", "1")]), vec![Cluster]),
            (config(&[(Cluster, "a", "1")]), vec![Route]),
            (config(&[(Cluster, "b", "1"), (Route, "r", "2")]), vec![Cluster, Route]),
        ];
        for (after, want) in cases {
            assert_eq!(touched(&base, &after), want);
        }
    }
}
