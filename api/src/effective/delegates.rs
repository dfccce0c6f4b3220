//! VirtualServices that hand rules over to others: `delegate`, one level deep.
//!
//! In:  a VirtualService with a `delegate` rule, and the others of its generation.
//! Out: the rules that stand in its place, each the delegate's merged with the root's, and what was left out. Source: Istio's
//! `mergeVirtualServices`, `MergeHTTPRoutes`.

use std::collections::BTreeMap;

use super::mesh::Mesh;
use super::virtual_services::gateway_name;
use super::visibility::ExportTo;
use crate::kinds::virtual_service::{Destination, HttpMatchRequest, HttpRoute, VirtualService};
use crate::set::{ObjectIndex, ObjectSet, Of};
use crate::string_match::StringMatch;

/// The rules of a VirtualService with those of its delegates in place. Hosts and gateways in them are full names: they come from several
/// namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    pub rules: Vec<HttpRoute>,
    /// In the order of the rules.
    pub lost: Vec<Lost>,
}

/// Why a rule, or a part of it, is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Position in the root's `http`.
    pub rule: usize,
    pub why: LostWhy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostWhy {
    /// There is no such VirtualService.
    Missing,
    /// It is there, with hosts of its own: it is no delegate.
    NoDelegate(ObjectIndex),
    /// It is there, but not for the root's namespace.
    NotExported(ObjectIndex),
    /// A rule of it takes requests that the root's rule does not take.
    Conflict { delegate: ObjectIndex, rule: usize },
}

/// `None` when nothing is delegated.
pub(super) fn merge(set: &ObjectSet, mesh: &Mesh, root: Of<'_, VirtualService>) -> Option<Merged> {
    if root.spec.http.iter().all(|rule| rule.delegate.is_none()) {
        return None;
    }
    let mut merged = Merged::default();
    for (at, rule) in root.spec.http.iter().enumerate() {
        let own = resolved(rule, root.namespace(), mesh);
        let Some(reference) = &rule.delegate else {
            merged.rules.push(own);
            continue;
        };
        let namespace = if reference.namespace.is_empty() { root.namespace() } else { &reference.namespace };
        let mut lose = |why| merged.lost.push(Lost { rule: at, why });
        let Some(delegate) = set.named::<VirtualService>(namespace, &reference.name) else {
            lose(LostWhy::Missing);
            continue;
        };
        if !delegate.spec.hosts.is_empty() {
            lose(LostWhy::NoDelegate(delegate.index));
            continue;
        }
        let export_to = ExportTo::new(&delegate.spec.export_to, delegate.namespace(), &mesh.config.default_virtual_service_export_to);
        if !export_to.visible_in(root.namespace()) {
            lose(LostWhy::NotExported(delegate.index));
            continue;
        }
        for (position, leaf) in delegate.spec.http.iter().enumerate() {
            match rule_of(&own, resolved(leaf, delegate.namespace(), mesh)) {
                Some(rule) => merged.rules.push(rule),
                None => lose(LostWhy::Conflict { delegate: delegate.index, rule: position }),
            }
        }
    }
    Some(merged)
}

/// A rule with full names for hosts and gateways.
fn resolved(rule: &HttpRoute, namespace: &str, mesh: &Mesh) -> HttpRoute {
    let mut rule = rule.clone();
    let expand = |destination: &mut Destination| destination.host = mesh.expand(&destination.host, namespace);
    rule.route.iter_mut().filter_map(|route| route.destination.as_mut()).for_each(expand);
    rule.mirror.iter_mut().for_each(expand);
    rule.mirrors.iter_mut().filter_map(|mirror| mirror.destination.as_mut()).for_each(expand);
    for name in rule.r#match.iter_mut().flat_map(|condition| &mut condition.gateways) {
        *name = gateway_name(name, namespace);
    }
    rule
}

/// The delegate's rule with the root's settings where it has none of its own; `None` when its conditions contradict the root's.
fn rule_of(root: &HttpRoute, mut leaf: HttpRoute) -> Option<HttpRoute> {
    leaf.r#match = conditions(&root.r#match, &leaf.r#match)?;
    leaf.name = joined(&root.name, &leaf.name);
    leaf.rewrite = leaf.rewrite.or_else(|| root.rewrite.clone());
    leaf.direct_response = leaf.direct_response.or_else(|| root.direct_response.clone());
    leaf.timeout = leaf.timeout.or(root.timeout);
    leaf.retries = leaf.retries.or_else(|| root.retries.clone());
    leaf.fault = leaf.fault.or_else(|| root.fault.clone());
    leaf.mirror = leaf.mirror.or_else(|| root.mirror.clone());
    leaf.mirror_percent = leaf.mirror_percent.or(root.mirror_percent);
    leaf.mirror_percentage = leaf.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    leaf.cors_policy = leaf.cors_policy.or_else(|| root.cors_policy.clone());
    leaf.headers = leaf.headers.or_else(|| root.headers.clone());
    if leaf.mirrors.is_empty() {
        leaf.mirrors.clone_from(&root.mirrors);
    }
    Some(leaf)
}

fn joined(root: &str, leaf: &str) -> String {
    match (root, leaf) {
        ("", name) | (name, "") => name.to_owned(),
        (root, leaf) => format!("{root}-{leaf}"),
    }
}

/// Each of the delegate's conditions within each of the root's that it fits into; one that fits into none makes the rule a contradiction.
fn conditions(root: &[HttpMatchRequest], leaf: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || leaf.is_empty() {
        return Some([root, leaf].concat());
    }
    let mut all = Vec::new();
    for narrow in leaf {
        let before = all.len();
        all.extend(root.iter().filter(|wide| !contradicts(wide, narrow)).map(|wide| condition(wide, narrow)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

fn condition(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let or = |leaf: &str, root: &str| if leaf.is_empty() { root } else { leaf }.to_owned();
    HttpMatchRequest {
        name: joined(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: both(&root.headers, &leaf.headers),
        without_headers: both(&root.without_headers, &leaf.without_headers),
        query_params: both(&root.query_params, &leaf.query_params),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: both(&root.source_labels, &leaf.source_labels),
        source_namespace: or(&leaf.source_namespace, &root.source_namespace),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        stat_prefix: or(&leaf.stat_prefix, &root.stat_prefix),
        ignore_uri_case: leaf.ignore_uri_case,
    }
}

fn both<V: Clone>(root: &BTreeMap<String, V>, leaf: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether the delegate's condition is not a part of the root's. Source: `hasConflict`, with its edges: a source namespace that only the root
/// has is one, too.
fn contradicts(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [(&root.uri, &leaf.uri), (&root.scheme, &leaf.scheme), (&root.method, &leaf.method), (&root.authority, &leaf.authority)];
    let maps = [(&root.headers, &leaf.headers), (&root.without_headers, &leaf.without_headers), (&root.query_params, &leaf.query_params)];
    let by_key = |(root, leaf): (&BTreeMap<String, StringMatch>, &BTreeMap<String, StringMatch>)| {
        leaf.iter().any(|(key, value)| is_wider(root.get(key), Some(value)))
    };
    texts.into_iter().any(|(root, leaf)| is_wider(root.as_ref(), leaf.as_ref()))
        || maps.into_iter().any(by_key)
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port != 0 && leaf.port != 0 && root.port != leaf.port)
        || (!root.source_namespace.is_empty() && leaf.source_namespace != root.source_namespace)
        || leaf.source_labels.iter().any(|(key, value)| root.source_labels.get(key).is_some_and(|other| other != value))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Whether the delegate's text condition takes what the root's does not. Of expressions nothing is known. Source: `stringMatchConflict`.
fn is_wider(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, Prefix};
    match (root, leaf) {
        (None, _) | (_, None) => false,
        (Some(Exact(root)), Some(Exact(leaf))) => root.is_empty() || root != leaf,
        (Some(Prefix(root)), Some(Prefix(leaf) | Exact(leaf))) => root.is_empty() || leaf.is_empty() || !leaf.starts_with(root),
        (Some(_), Some(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{object, of_files};
    use super::super::{Effective, MESH, RouteClient};
    use super::*;

    fn merged(objects: &[String]) -> (Effective, Merged) {
        let effective = of_files(&[("a.yaml", &objects.concat())]);
        let root = effective.set().named::<VirtualService>("shop", "root").unwrap();
        let merged = effective.merged(root).unwrap().clone();
        (effective, merged)
    }

    fn root(http: &str) -> String {
        object("VirtualService", "shop", "root", &format!("{{hosts: [web], http: [{http}]}}"))
    }

    fn leaf(rest: &str, http: &str) -> String {
        object("VirtualService", "team", "leaf", &format!("{{{rest}http: [{http}]}}"))
    }

    #[test]
    fn a_delegates_rules_stand_in_the_place_of_the_roots() {
        let (effective, merged) = merged(&[
            root(
                "{name: r, match: [{uri: {prefix: /a}, headers: {x: {exact: '1'}}}], timeout: 3s, retries: {attempts: 7}, \
                 delegate: {name: leaf, namespace: team}}, {name: own, route: [{destination: {host: web}}]}",
            ),
            leaf(
                "",
                "{name: l, match: [{uri: {prefix: /a/b}, headers: {y: {exact: '2'}}}], timeout: 1s, route: [{destination: {host: db}}]}, \
                 {route: [{destination: {host: db}}], mirror: {host: copy}}",
            ),
        ]);
        let names: Vec<&str> = merged.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["r-l", "r", "own"]);
        let [first, second, own] = &merged.rules[..] else { panic!("{merged:?}") };
        let condition = &first.r#match[0];
        assert_eq!(condition.uri, Some(StringMatch::Prefix("/a/b".to_owned())));
        assert_eq!(condition.headers.keys().collect::<Vec<_>>(), ["x", "y"]);
        let seconds = |rule: &HttpRoute| rule.timeout.map(|timeout| timeout.as_secs());
        assert_eq!((seconds(first), seconds(second), seconds(own)), (Some(1), Some(3), None));
        assert_eq!(first.retries.as_ref().map(|retries| retries.attempts), Some(7));
        let host = |rule: &HttpRoute| rule.route[0].destination.as_ref().unwrap().host.clone();
        assert_eq!([host(first), host(own)], ["db.team.svc.cluster.local", "web.shop.svc.cluster.local"]);
        assert_eq!(second.mirror.as_ref().unwrap().host, "copy.team.svc.cluster.local");
        assert!(merged.lost.is_empty());
        let item = effective.set().named::<VirtualService>("shop", "root").unwrap();
        let labels = Default::default();
        let routes = effective.http_routes(item, &RouteClient { gateway: MESH, namespace: "shop", labels: &labels, port: 80 });
        let built: Vec<&str> = routes.iter().map(|route| effective.route(*route).1.name.as_str()).collect();
        assert_eq!(built, ["r-l", "r", "own"]);
    }

    #[test]
    fn what_cannot_be_merged_is_left_out_and_said() {
        let to = "route: [{destination: {host: db}}]";
        let delegating = root("{match: [{uri: {prefix: /a}}], delegate: {name: leaf, namespace: team}}");
        let cases = [
            ("missing", String::new(), vec!["Missing"], 0),
            ("private", leaf("exportTo: ['.'], ", &format!("{{{to}}}")), vec!["NotExported(1)"], 0),
            ("exported by name", leaf("exportTo: [shop], ", &format!("{{{to}}}")), vec![], 1),
            ("has hosts", leaf("hosts: [db], ", &format!("{{{to}}}")), vec!["NoDelegate(1)"], 0),
            (
                "one rule contradicts",
                leaf("", &format!("{{match: [{{uri: {{prefix: /b}}}}], {to}}}, {{match: [{{uri: {{exact: /a/c}}}}], {to}}}")),
                vec!["Conflict { delegate: 1, rule: 0 }"],
                1,
            ),
            (
                "one of two conditions contradicts",
                leaf("", &format!("{{match: [{{uri: {{prefix: /a/b}}}}, {{uri: {{prefix: /}}}}], {to}}}")),
                vec!["Conflict { delegate: 1, rule: 0 }"],
                0,
            ),
        ];
        for (name, delegate, lost, rules) in cases {
            let (_, merged) = merged(&[delegating.clone(), delegate]);
            let why: Vec<String> = merged.lost.iter().map(|lost| format!("{:?}", lost.why)).collect();
            assert_eq!((why.iter().map(String::as_str).collect::<Vec<_>>(), merged.rules.len()), (lost, rules), "{name}");
        }
    }

    #[test]
    fn a_condition_is_part_of_another_when_its_text_is() {
        let (exact, prefix) = (|text: &str| StringMatch::Exact(text.to_owned()), |text: &str| StringMatch::Prefix(text.to_owned()));
        let regex = |text: &str| StringMatch::Regex(text.to_owned());
        let cases = [
            (prefix("/a"), prefix("/a/b"), false),
            (prefix("/a/b"), prefix("/a"), true),
            (prefix("/a"), exact("/a/b"), false),
            (exact("/a"), exact("/a"), false),
            (exact("/a"), prefix("/a"), true),
            (regex("/a.*"), prefix("/a"), true),
            (prefix("/a"), regex("/a.*"), true),
            (StringMatch::Present, exact("x"), true),
        ];
        for (root, leaf, want) in cases {
            assert_eq!(is_wider(Some(&root), Some(&leaf)), want, "{root:?} {leaf:?}");
        }
        assert!(!is_wider(None, Some(&exact("x"))) && !is_wider(Some(&exact("x")), None));
    }
}
