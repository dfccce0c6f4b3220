//! Host names: short-name expansion, wildcard matching, specificity, and the spellings under which a service is known.
//!
//! In:  hosts as written in YAML, a namespace, the cluster domain.
//! Out: normal forms (lower case, no trailing dot), match answers, and [`HostIndex`], which finds the most specific entry for a host
//!      without looking at every entry.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;

/// The cluster domain when nothing else is configured.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Lower case without a trailing dot: host comparison is case-insensitive (RFC 4343), and `a.b.` is the absolute spelling of `a.b`.
pub fn normalize(host: &str) -> Cow<'_, str> {
    let bare = match host.strip_suffix('.') {
        Some(bare) if !bare.is_empty() => bare,
        _ => host,
    };
    if bare.bytes().any(|b| b.is_ascii_uppercase()) { Cow::Owned(bare.to_ascii_lowercase()) } else { Cow::Borrowed(bare) }
}

/// The full name that a host in a rule means: a name without a dot gets `.<namespace>.svc.<domain>`.
///
/// `*` alone and IP literals stay as they are. A name with any dot is taken as complete: `reviews.prod` is *not* expanded. The namespace
/// is the rule's, never the service's. Source: `pilot/pkg/model/config.go`.
pub fn expand(host: &str, namespace: &str, domain: &str) -> String {
    let name = normalize(host);
    if name == "*" || name.is_empty() || name.contains('.') || name.parse::<IpAddr>().is_ok() {
        return name.into_owned();
    }
    service_fqdn(&name, namespace, domain)
}

/// `<name>.<namespace>.svc.<domain>`, the host of a Kubernetes Service.
pub fn service_fqdn(name: &str, namespace: &str, domain: &str) -> String {
    let mut host = String::with_capacity(name.len() + namespace.len() + domain.len() + 6);
    host.push_str(name);
    host.push('.');
    host.push_str(namespace);
    host.push_str(".svc.");
    host.push_str(domain);
    host.make_ascii_lowercase();
    host
}

/// `(name, namespace)` of a host of the form `<name>.<namespace>.svc.<domain>`; `None` for every other host.
pub fn split_service<'a>(host: &'a str, domain: &str) -> Option<(&'a str, &'a str)> {
    let rest = host.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = rest.split_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then_some((name, namespace))
}

/// Whether a host is a pattern: only a left-most `*` is one.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether `pattern` stands for `host`; both in normal form, and `host` may be a pattern itself (then: for all that it stands for).
///
/// A plain suffix test on what follows the `*`: `*.foo.com` stands for `a.b.foo.com`, not for `foo.com`. Source: `pkg/config/host`.
pub fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern == host,
        Some(suffix) => match host.strip_prefix('*') {
            Some(rest) => rest.ends_with(suffix),
            None => host.len() >= suffix.len() && host.ends_with(suffix),
        },
    }
}

/// Whether some host is meant by both patterns.
pub fn overlaps(a: &str, b: &str) -> bool {
    matches(a, b) || matches(b, a)
}

/// Sorts the most specific host first: exact, longer wildcard, shorter wildcard, `*`; equals alphabetically.
pub fn by_specificity(a: &str, b: &str) -> Ordering {
    is_wildcard(a)
        .cmp(&is_wildcard(b))
        .then_with(|| if is_wildcard(a) { b.len().cmp(&a.len()) } else { Ordering::Equal })
        .then_with(|| a.cmp(b))
}

/// Every domain under which a client in `client_namespace` may call a service, without ports, in a stable order, each once.
///
/// FQDN, FQDN with a trailing dot, `name.ns.svc`, `name.ns`; the bare `name` only for clients of the same namespace; then the addresses. A
/// headless service is also meant by `*.<each name>`. A host that is no cluster service has its own name (and the absolute spelling) only.
/// Source: semantics of `httproute.go`, `generateVirtualHostDomains`.
pub fn domains(host: &str, addresses: &[String], headless: bool, client_namespace: &str, domain: &str) -> Vec<String> {
    let host = normalize(host);
    let mut names = vec![host.to_string()];
    if !is_wildcard(&host) && host.parse::<IpAddr>().is_err() {
        names.push(format!("{host}."));
    }
    if let Some((name, namespace)) = split_service(&host, domain) {
        names.push(format!("{name}.{namespace}.svc"));
        names.push(format!("{name}.{namespace}"));
        if namespace == client_namespace {
            names.push(name.to_owned());
        }
    }
    if headless {
        let wild: Vec<String> = names.iter().filter(|n| !is_wildcard(n)).map(|n| format!("*.{n}")).collect();
        names.extend(wild);
    }
    for address in addresses {
        let spelled = match address.parse::<IpAddr>() {
            Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
            _ => address.clone(),
        };
        if !names.contains(&spelled) {
            names.push(spelled);
        }
    }
    names
}

/// Values by host pattern, answering with the most specific one. A lookup costs one hash per distinct wildcard length, not per entry.
#[derive(Clone, Debug)]
pub struct HostIndex<T> {
    exact: HashMap<String, T>,
    /// By what follows the `*`.
    wildcard: HashMap<String, T>,
    /// Distinct suffix lengths, longest first.
    lengths: Vec<usize>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), lengths: Vec::new() }
    }
}

impl<T> HostIndex<T> {
    /// The slot of exactly this pattern (normal form), made when absent.
    pub fn entry(&mut self, pattern: &str, make: impl FnOnce() -> T) -> &mut T {
        match pattern.strip_prefix('*') {
            None => self.exact.entry(pattern.to_owned()).or_insert_with(make),
            Some(suffix) => {
                if let Err(at) = self.lengths.binary_search_by(|l| suffix.len().cmp(l)) {
                    self.lengths.insert(at, suffix.len());
                }
                self.wildcard.entry(suffix.to_owned()).or_insert_with(make)
            }
        }
    }

    /// The value stored under exactly this pattern.
    pub fn exact(&self, pattern: &str) -> Option<&T> {
        match pattern.strip_prefix('*') {
            None => self.exact.get(pattern),
            Some(suffix) => self.wildcard.get(suffix),
        }
    }

    /// The value of the most specific pattern that stands for `host` (normal form; may be a wildcard itself).
    pub fn most_specific(&self, host: &str) -> Option<&T> {
        self.matching(host).next()
    }

    /// Every value whose pattern stands for `host`, most specific first.
    pub fn matching<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let bare = host.strip_prefix('*');
        let exact = if bare.is_none() { self.exact.get(host) } else { None };
        let text = bare.unwrap_or(host);
        let wild = self.lengths.iter().filter_map(move |&length| {
            let at = text.len().checked_sub(length)?;
            self.wildcard.get(text.get(at..)?)
        });
        exact.into_iter().chain(wild)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values())
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_expand_with_the_namespace_of_the_rule() {
        let cases = [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.", "reviews.shop.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            ("api.example.com.", "api.example.com"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
        ];
        for (host, want) in cases {
            assert_eq!(expand(host, "shop", CLUSTER_DOMAIN), want, "{host}");
        }
    }

    #[test]
    fn a_wildcard_is_a_suffix_test_on_what_follows_the_star() {
        let cases = [
            ("*.foo.com", "a.b.foo.com", true),
            ("*.foo.com", "foo.com", false),
            ("*.com", "example.com", true),
            ("*", "anything", true),
            ("foo.com", "foo.com", true),
            ("foo.com", "a.foo.com", false),
            ("*.com", "*.foo.com", true),
            ("*.foo.com", "*.com", false),
            ("*-canary.foo.com", "a-canary.foo.com", true),
        ];
        for (pattern, host, want) in cases {
            assert_eq!(matches(pattern, host), want, "{pattern} / {host}");
        }
    }

    #[test]
    fn the_most_specific_host_sorts_first() {
        let mut hosts = vec!["*", "*.com", "b.com", "*.foo.com", "a.com", "*.bar.com"];
        hosts.sort_by(|a, b| by_specificity(a, b));
        assert_eq!(hosts, ["a.com", "b.com", "*.bar.com", "*.foo.com", "*.com", "*"]);
    }

    #[test]
    fn the_index_answers_as_a_scan_in_order_of_specificity_would() {
        let patterns = ["*", "*.com", "b.com", "*.foo.com", "a.foo.com", "*o.com"];
        let mut index = HostIndex::default();
        for pattern in patterns {
            index.entry(pattern, || pattern);
        }
        for host in ["a.foo.com", "b.foo.com", "b.com", "c.com", "zoo.com", "org", "*.foo.com", "*.x.foo.com", "*.com", ".", ""] {
            let mut scan: Vec<&str> = patterns.iter().copied().filter(|p| matches(p, host)).collect();
            scan.sort_by(|a, b| by_specificity(a, b));
            assert_eq!(index.matching(host).copied().collect::<Vec<_>>(), scan, "{host}");
            assert_eq!(index.most_specific(host).copied(), scan.first().copied(), "{host}");
        }
    }

    #[test]
    fn a_service_is_known_by_its_spellings_and_by_its_bare_name_at_home_only() {
        let fqdn = "reviews.shop.svc.cluster.local";
        let vip = vec!["240.240.0.7".to_owned(), "fd00::1".to_owned()];
        assert_eq!(
            domains(fqdn, &vip, false, "shop", CLUSTER_DOMAIN),
            [fqdn, "reviews.shop.svc.cluster.local.", "reviews.shop.svc", "reviews.shop", "reviews", "240.240.0.7", "[fd00::1]"]
        );
        assert_eq!(
            domains(fqdn, &[], false, "other", CLUSTER_DOMAIN),
            [fqdn, "reviews.shop.svc.cluster.local.", "reviews.shop.svc", "reviews.shop"]
        );
        assert_eq!(domains("api.example.com", &[], false, "shop", CLUSTER_DOMAIN), ["api.example.com", "api.example.com."]);
        assert_eq!(domains("*.example.com", &[], false, "shop", CLUSTER_DOMAIN), ["*.example.com"]);
        let headless = domains("db.shop.svc.cluster.local", &[], true, "shop", CLUSTER_DOMAIN);
        assert!(headless.contains(&"*.db.shop.svc.cluster.local".to_owned()) && headless.contains(&"*.db".to_owned()));
    }

    #[test]
    fn only_cluster_hosts_split_into_name_and_namespace() {
        let cases = [
            ("a.b.svc.cluster.local", Some(("a", "b"))),
            ("a.b.c.svc.cluster.local", None),
            ("b.svc.cluster.local", None),
            ("svc.cluster.local", None),
            ("api.example.com", None),
        ];
        for (host, want) in cases {
            assert_eq!(split_service(host, CLUSTER_DOMAIN), want, "{host}");
        }
    }
}
