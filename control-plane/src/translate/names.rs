//! The name table: which address stands for which name of a service.
//!
//! In:  the services a client sees.
//! Out: one table with every spelling; only Pillion proxies read it, to resolve `CONNECT host:port`.

use pillion_api::{effective::Source, host};
use pillion_xds::{
    resource::{Encoded, NAME_TABLE, ResourceMap},
    wire::istio::networking::nds::v1::{NameTable, name_table::NameInfo},
};

use super::{scope::Client, seen::Visible};

/// The table of a client. A spelling that two services have belongs to the first by host.
pub fn resources(client: &Client<'_>) -> ResourceMap {
    let effective = client.world.effective();
    let mut table = NameTable::default();
    for Visible { service, .. } in client.services() {
        let ips: Vec<String> = service.addresses.iter().filter(|a| a.parse::<std::net::IpAddr>().is_ok()).cloned().collect();
        if ips.is_empty() {
            continue;
        }
        let cluster_service = service.source == Source::Service;
        let info = NameInfo {
            ips,
            registry: if cluster_service { "Kubernetes" } else { "External" }.to_owned(),
            shortname: if cluster_service { service.name.clone() } else { String::new() },
            namespace: if cluster_service { service.namespace.clone() } else { String::new() },
        };
        let spellings = host::domains(&service.host, &[], service.headless, client.namespace(), &effective.mesh().cluster_domain);
        for spelling in spellings.into_iter().filter(|name| !name.ends_with('.')) {
            table.table.entry(spelling).or_insert_with(|| info.clone());
        }
    }
    let encoded = Encoded::new(NAME_TABLE, &table);
    ResourceMap::from([(encoded.name.clone(), encoded)])
}
