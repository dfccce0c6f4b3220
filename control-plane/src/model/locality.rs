//! Where an endpoint is: region, zone, subzone.
//!
//! In:  a declared locality, labels.
//! Out: `region/zone/subzone`, and labels that say it too, so that subsets may ask for it.

use pillion_api::effective::Labels;

use super::instance::CLUSTER_ID;

/// A whole locality in one label, dots for slashes; the first that is there counts. Source: Istio's `GetLocalityLabel`.
const WHOLE: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];
/// Region, zone and subzone each. Kubernetes has the first two on nodes; where nothing says on which node a workload is, it says so itself.
const PARTS: [&str; 3] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
const CLUSTER: &str = "topology.istio.io/cluster";

/// `region/zone/subzone` as declared, else as the labels say it; empty when nobody does.
pub fn of(declared: &str, labels: &Labels) -> String {
    if !declared.is_empty() {
        return declared.to_owned();
    }
    if let Some(whole) = WHOLE.iter().find_map(|key| labels.get(*key)).filter(|whole| !whole.is_empty()) {
        return if whole.contains('/') { whole.clone() } else { whole.replace('.', "/") };
    }
    let parts = PARTS.map(|key| labels.get(key).map_or("", String::as_str));
    // A zone without its region is no place.
    let known = parts.iter().take_while(|part| !part.is_empty()).count();
    parts[..known].join("/")
}

/// The labels, and those that follow from where the endpoint is. Source: Istio's `AugmentLabels`.
pub fn with_topology(labels: &Labels, locality: &str) -> Labels {
    let mut all = labels.clone();
    for (key, part) in PARTS.iter().zip(locality.splitn(3, '/')).filter(|(_, part)| !part.is_empty()) {
        all.insert((*key).to_owned(), part.to_owned());
    }
    all.insert(CLUSTER.to_owned(), CLUSTER_ID.to_owned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_locality_is_declared_or_labelled() {
        let (region, zone, subzone) = (PARTS[0], PARTS[1], PARTS[2]);
        type Labels<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Labels<'_>, &str); 9] = [
            ("", &[], ""),
            ("eu/a/1", &[("istio-locality", "us.b.2"), (region, "asia")], "eu/a/1"),
            ("", &[("istio-locality", "us.b.2"), (region, "asia")], "us/b/2"),
            ("", &[("istio-locality", "us/b.c")], "us/b.c"),
            ("", &[("istio-locality", "us"), ("topology.istio.io/locality", "eu.a")], "eu/a"),
            ("", &[(region, "eu"), (zone, "eu-1a"), (subzone, "rack-7")], "eu/eu-1a/rack-7"),
            ("", &[(region, "eu"), (zone, "eu-1a")], "eu/eu-1a"),
            ("", &[(region, "eu"), (subzone, "rack-7")], "eu"),
            ("", &[(zone, "eu-1a")], ""),
        ];
        for (declared, given, want) in cases {
            assert_eq!(of(declared, &labels(given)), want, "{declared:?} {given:?}");
        }
    }

    #[test]
    fn labels_say_where_an_endpoint_is() {
        let got = with_topology(&labels(&[("app", "a"), (PARTS[0], "us")]), "eu/a");
        assert_eq!(got, labels(&[("app", "a"), (PARTS[0], "eu"), (PARTS[1], "a"), (CLUSTER, "Kubernetes")]));
    }
}
