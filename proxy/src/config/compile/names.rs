//! The name table.
//!
//! In:  `istio.networking.nds.v1.NameTable`.
//! Out: [`NameTable`].

use std::net::IpAddr;

use pillion_xds::wire::istio::networking::nds::v1 as wire;

use super::at::{At, Compiled};
use crate::config::NameTable;

pub(super) fn name_table(at: &At<'_>, wire: &wire::NameTable) -> Compiled<NameTable> {
    let mut table = NameTable::default();
    table.hosts.reserve(wire.table.len());
    for (host, info) in &wire.table {
        let at = at.key("table", host);
        let addresses = info.ips.iter().enumerate().map(|(index, address)| {
            address.parse::<IpAddr>().map_err(|_| at.index("ips", index).refuse(format_args!("{address:?} is no IP address")))
        });
        let addresses: Vec<IpAddr> = addresses.collect::<Compiled<_>>()?;
        table.hosts.insert(host.trim_end_matches('.').to_ascii_lowercase().into(), addresses);
    }
    Ok(table)
}
