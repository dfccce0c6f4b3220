//! Addresses for services that have none, so that a name can be resolved and a destination recognised without a cluster.
//!
//! In:  host names.
//! Out: one address of 240.240.0.0/16 each, the same for the same set of names on every run and machine.

use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Usable addresses: 240.240.0.1 to 240.240.255.254.
const SLOTS: u32 = 65_534;

/// One address per host: a hash of the name picks the slot, a taken slot moves on to the next one.
///
/// Hosts are placed in sorted order, so the answer depends on the set of hosts only. Adding a host moves another one only when both hash to
/// the same run of slots and the new one sorts first. Beyond 65,534 hosts the rest get none.
pub fn allocate<'a>(hosts: impl IntoIterator<Item = &'a str>) -> HashMap<String, Ipv4Addr> {
    let mut hosts: Vec<&str> = hosts.into_iter().collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut taken = vec![false; SLOTS as usize];
    let mut addresses = HashMap::with_capacity(hosts.len());
    for host in hosts.into_iter().take(SLOTS as usize) {
        let mut slot = (hash(host) % SLOTS) as usize;
        while taken[slot] {
            slot = (slot + 1) % SLOTS as usize;
        }
        taken[slot] = true;
        let number = slot as u32 + 1;
        addresses.insert(host.to_owned(), Ipv4Addr::new(240, 240, (number >> 8) as u8, number as u8));
    }
    addresses
}

/// FNV-1a with a final mix: tiny, and fixed for ever, unlike the standard library's hasher.
fn hash(text: &str) -> u32 {
    let mixed = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x7feb_352d);
    mixed ^ (mixed >> 15)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn addresses_do_not_depend_on_the_order_and_are_never_shared() {
        let hosts: Vec<String> = (0..20_000).map(|n| format!("s{n}.default.svc.cluster.local")).collect();
        let forward = allocate(hosts.iter().map(String::as_str));
        let backward = allocate(hosts.iter().rev().map(String::as_str));
        assert_eq!(forward, backward);
        assert_eq!(forward.values().collect::<HashSet<_>>().len(), hosts.len());
        assert!(forward.values().all(|a| a.octets()[..2] == [240, 240] && *a != Ipv4Addr::new(240, 240, 0, 0)));
    }

    #[test]
    fn a_new_service_leaves_the_others_where_they_are() {
        let before = allocate(["a.x", "b.x", "c.x"]);
        let after = allocate(["a.x", "aa.x", "b.x", "c.x"]);
        for (host, address) in before {
            assert_eq!(after[&host], address, "{host}");
        }
    }
}
