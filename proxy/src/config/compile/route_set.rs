//! All route configurations and the virtual hosts that come as resources of their own.
//!
//! In:  `RouteConfiguration`s, and `VirtualHost`s named `<route config>/<virtual host>`.
//! Out: [`RouteTable`]s; a table is rebuilt only when something of it changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pillion_xds::names::{ALLOW_ANY, BLOCK_ALL, HTTP_PROXY, VirtualHostResource};
use pillion_xds::resource::ResourceType;
use pillion_xds::subscription::{Changed, Decoded};

use super::at::{At, Compiled, Context};
use super::virtual_host::{RouteSettings, virtual_host};
use super::{Entry, Verdict, same_name};
use crate::config::OutboundPolicy;
use crate::config::route_table::{DuplicateDomain, RouteTable, VirtualHost};
use crate::telemetry::log_sink::LogSinks;

type Host = Entry<Arc<VirtualHost>>;
type Hosts = BTreeMap<Arc<str>, Host>;
/// By route configuration and virtual host: what a new version replaced.
type Before = BTreeMap<(Arc<str>, Arc<str>), Option<Host>>;
/// A virtual host with its route configuration's name and its own.
type Placed = (Arc<str>, Arc<str>, Host);

#[derive(Debug, Default)]
pub(super) struct RouteSet {
    settings: BTreeMap<Arc<str>, Entry<Arc<RouteSettings>>>,
    /// By route configuration; may be here before it.
    hosts: BTreeMap<Arc<str>, Hosts>,
    /// Of the settings that are there; without those that must be rebuilt.
    tables: HashMap<Arc<str>, Arc<RouteTable>, foldhash::fast::RandomState>,
}

impl RouteSet {
    pub(super) fn take(&mut self, sinks: &LogSinks, kind: ResourceType, changed: &[Changed], removed: &[Arc<str>], verdict: &mut Verdict) {
        if kind == ResourceType::Route {
            for name in removed {
                verdict.changed |= self.settings.remove(name).is_some();
                self.tables.remove(name);
            }
            for changed in changed {
                self.take_settings(sinks, changed, verdict);
            }
        } else {
            self.take_hosts(sinks, changed, removed, verdict);
        }
    }

    fn take_settings(&mut self, sinks: &LogSinks, changed: &Changed, verdict: &mut Verdict) {
        let name = &changed.encoded.name;
        let known = self.settings.get(name).is_some_and(|entry| entry.version == changed.encoded.version);
        let Decoded::Route(wire) = &changed.message else { return };
        if known && !changed.encoded.version.is_empty() {
            return;
        }
        let context = Context::new(sinks);
        let at = At::root(&context);
        let compiled = same_name(&at.field("name"), name, &wire.name).and_then(|()| RouteSettings::compile(&at, (**wire).clone()));
        let table = compiled.and_then(|settings| {
            let table = self.table(name, &settings).map_err(|error| at.field("virtual_hosts").refuse(error))?;
            Ok((settings, table))
        });
        match table {
            Ok((settings, table)) => {
                let entry = Entry { version: Arc::clone(&changed.encoded.version), value: Arc::new(settings) };
                self.settings.insert(Arc::clone(name), entry);
                self.tables.insert(Arc::clone(name), Arc::new(table));
                verdict.changed = true;
            }
            Err(refusal) => verdict.refuse(name, &refusal),
        }
        verdict.note(name, context);
    }

    fn table(&self, name: &Arc<str>, settings: &RouteSettings) -> Result<RouteTable, DuplicateDomain> {
        let mut hosts = settings.inline.clone();
        if settings.vhds {
            hosts.extend(self.hosts.get(name).into_iter().flatten().map(|(_, entry)| Arc::clone(&entry.value)));
        }
        settings.table(name, hosts)
    }

    fn take_hosts(&mut self, sinks: &LogSinks, changed: &[Changed], removed: &[Arc<str>], verdict: &mut Verdict) {
        let mut touched: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        for resource in removed {
            if let Some((route, name)) = VirtualHostResource::split(resource)
                && let Some(hosts) = self.hosts.get_mut(route)
                && hosts.remove(name).is_some()
            {
                touched.entry(route.into()).or_default();
            }
        }
        // What a new version replaces, to go back to.
        let mut before = Before::new();
        for changed in changed {
            let resource = &changed.encoded.name;
            let context = Context::new(sinks);
            let at = At::root(&context);
            match self.compile_host(&at, changed) {
                Ok(None) => {}
                Ok(Some((route, name, entry))) => {
                    let old = self.hosts.entry(Arc::clone(&route)).or_default().insert(Arc::clone(&name), entry);
                    touched.entry(Arc::clone(&route)).or_default().insert(Arc::clone(&name));
                    before.insert((route, name), old);
                }
                Err(refusal) => verdict.refuse(resource, &refusal),
            }
            verdict.note(resource, context);
        }
        for (route, mut candidates) in touched {
            verdict.changed = true;
            self.settle(sinks, &route, &mut candidates, &mut before, verdict);
        }
    }

    /// (route configuration, virtual host, entry); `None` when this version is here already.
    fn compile_host(&self, at: &At<'_>, changed: &Changed) -> Compiled<Option<Placed>> {
        let Decoded::VirtualHost(wire) = &changed.message else { return Err(at.unsupported()) };
        let (route, name) = VirtualHostResource::split(&changed.encoded.name)
            .ok_or_else(|| at.refuse("is not named <route configuration>/<virtual host>"))?;
        let version = &changed.encoded.version;
        let known = self.hosts.get(route).and_then(|hosts| hosts.get(name)).is_some_and(|entry| entry.version == *version);
        if known && !version.is_empty() {
            return Ok(None);
        }
        same_name(&at.field("name"), name, &wire.name)?;
        let value = Arc::new(virtual_host(at, wire)?);
        Ok(Some((route.into(), name.into(), Entry { version: Arc::clone(version), value })))
    }

    /// Builds the table of a route configuration. Where two virtual hosts claim one domain, the one that just came is refused and goes
    /// back to what it was; so the loop ends.
    fn settle(
        &mut self,
        sinks: &LogSinks,
        route: &Arc<str>,
        candidates: &mut BTreeSet<Arc<str>>,
        before: &mut Before,
        verdict: &mut Verdict,
    ) {
        loop {
            let built = match self.settings.get(route).map(|entry| Arc::clone(&entry.value)) {
                Some(settings) => self.table(route, &settings).map(Some),
                // Nothing uses the hosts yet, but they must fit together when something does.
                None => {
                    let hosts = self.hosts.get(route).into_iter().flatten().map(|(_, entry)| Arc::clone(&entry.value)).collect();
                    RouteTable::new(Arc::clone(route), hosts).map(|_| None)
                }
            };
            let conflict = match built {
                Ok(Some(table)) => {
                    self.tables.insert(Arc::clone(route), Arc::new(table));
                    return;
                }
                Ok(None) => return,
                Err(conflict) => conflict,
            };
            let loser = [&conflict.second, &conflict.first].into_iter().find_map(|name| candidates.take(name));
            let Some(loser) = loser else {
                // Both were accepted: they came before the settings that bring them together. The old table stays.
                tracing::warn!(route = %route, %conflict, "virtual hosts do not fit together");
                return;
            };
            let context = Context::new(sinks);
            let refusal = At::root(&context).field("domains").refuse(&conflict);
            let resource: Arc<str> = format!("{route}/{loser}").into();
            verdict.refuse(&resource, &refusal);
            let hosts = self.hosts.entry(Arc::clone(route)).or_default();
            match before.remove(&(Arc::clone(route), Arc::clone(&loser))).flatten() {
                Some(old) => drop(hosts.insert(loser, old)),
                None => drop(hosts.remove(&loser)),
            }
        }
    }

    pub(super) fn has_settings(&self, name: &str) -> bool {
        self.settings.contains_key(name)
    }

    pub(super) fn tables(&self) -> HashMap<Arc<str>, Arc<RouteTable>, foldhash::fast::RandomState> {
        self.tables.clone()
    }

    /// Keeps only the route configurations that a listener follows. Virtual hosts stay: they come with the wildcard and are removed by name.
    pub(super) fn retain(&mut self, follows: impl Fn(&str) -> bool) {
        self.settings.retain(|name, _| follows(name));
        self.tables.retain(|name, _| follows(name));
    }

    /// What the catch-all virtual host says about unknown destinations: that of the explicit mode, or of any route configuration.
    pub(super) fn outbound_policy(&self) -> OutboundPolicy {
        let of = |route: &Arc<str>, hosts: &Hosts| {
            let inline = self.settings.get(route).into_iter().flat_map(|entry| &entry.value.inline).map(|host| &*host.name);
            hosts.keys().map(|name| &**name).chain(inline).find_map(policy)
        };
        let by_hosts = || self.hosts.iter().find_map(|(route, hosts)| of(route, hosts));
        let by_settings = || self.settings.values().flat_map(|entry| &entry.value.inline).find_map(|host| policy(&host.name));
        let proxy = self.hosts.get_key_value(HTTP_PROXY).and_then(|(route, hosts)| of(route, hosts));
        proxy.or_else(by_hosts).or_else(by_settings).unwrap_or_default()
    }
}

fn policy(virtual_host: &str) -> Option<OutboundPolicy> {
    match virtual_host {
        ALLOW_ANY => Some(OutboundPolicy::AllowAny),
        BLOCK_ALL => Some(OutboundPolicy::RegistryOnly),
        _ => None,
    }
}
