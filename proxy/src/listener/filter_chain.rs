//! The choice of a filter chain. Pure.
//!
//! In:  a listener, the destination, what the first bytes said.
//! Out: the chain.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::listener::{FilterChain, Listener, TransportMatch};

/// What first bytes said about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sniffed {
    pub tls: bool,
    pub server_name: Option<Box<str>>,
    /// ALPN values of TLS; `http/1.1` or `h2c` of plaintext HTTP.
    pub protocols: Vec<Box<str>>,
}

/// The chain whose conditions hold and are the most specific: destination port, then address, server name, transport, application protocol.
///
/// Source: Envoy `FilterChainManagerImpl::findFilterChain`. Chains that differ in one condition only are what control planes send;
/// comparing the conditions in this order gives Envoy's choice for them.
pub fn choose<'l>(listener: &'l Listener, destination: SocketAddr, sniffed: &Sniffed) -> Option<&'l Arc<FilterChain>> {
    // A single chain without conditions is by far the most frequent.
    let mut best: Option<(Rank, &Arc<FilterChain>)> = None;
    for chain in &listener.chains {
        if let Some(rank) = rank(chain, destination, sniffed)
            && best.as_ref().is_none_or(|(other, _)| rank > *other)
        {
            best = Some((rank, chain));
        }
    }
    best.map(|(_, chain)| chain).or(listener.default_chain.as_ref())
}

/// How specific a chain's conditions are, compared in Envoy's order.
type Rank = (bool, u8, usize, bool, bool);

fn rank(chain: &FilterChain, destination: SocketAddr, sniffed: &Sniffed) -> Option<Rank> {
    let rule = &chain.matches;
    let port = match rule.destination_port {
        Some(port) if port != destination.port() => return None,
        port => port.is_some(),
    };
    let range = match rule.destination_ranges.iter().filter(|range| in_range(**range, destination.ip())).map(|range| range.1 + 1).max() {
        Some(length) => length,
        None if rule.destination_ranges.is_empty() => 0,
        None => return None,
    };
    let name = server_name(&rule.server_names, sniffed.server_name.as_deref())?;
    let transport = match rule.transport {
        TransportMatch::Any => false,
        TransportMatch::Tls if sniffed.tls => true,
        TransportMatch::RawBuffer if !sniffed.tls => true,
        TransportMatch::Tls | TransportMatch::RawBuffer => return None,
    };
    let protocol = match rule.application_protocols.iter().any(|wanted| sniffed.protocols.contains(wanted)) {
        true => true,
        false if rule.application_protocols.is_empty() => false,
        false => return None,
    };
    Some((port, range, name, transport, protocol))
}

/// Length of the matching condition plus one; 0 when there is no condition.
fn server_name(rules: &[Box<str>], name: Option<&str>) -> Option<usize> {
    if rules.is_empty() {
        return Some(0);
    }
    let name = name?;
    let matching = rules.iter().filter(|rule| match rule.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => name == &***rule,
    });
    // An exact name is longer than any suffix of it.
    matching.map(|rule| rule.len() + 1).max()
}

fn in_range((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::{ChainMatch, Direction, NetworkFilter, TcpClusters, TcpProxy};

    fn chain(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
        let tcp = TcpProxy {
            stat_prefix: "".into(),
            clusters: TcpClusters::Single("c".into()),
            idle_timeout: None,
            max_connect_attempts: 1,
            access_log: Arc::default(),
        };
        Arc::new(FilterChain { name: name.into(), matches, filter: NetworkFilter::Tcp(Arc::new(tcp)) })
    }

    #[test]
    fn the_most_specific_chain_is_chosen() {
        let any = ChainMatch::default;
        let listener = Listener {
            name: "l".into(),
            address: "0.0.0.0:80".parse().unwrap(),
            bind: false,
            direction: Direction::Inbound,
            use_original_dst: false,
            chains: vec![
                chain("any", any()),
                chain("http", ChainMatch { application_protocols: vec!["http/1.1".into(), "h2c".into()], ..any() }),
                chain("tls", ChainMatch { transport: TransportMatch::Tls, ..any() }),
                chain("name", ChainMatch { server_names: vec!["a.com".into(), "*.a.com".into()], transport: TransportMatch::Tls, ..any() }),
                chain("port", ChainMatch { destination_port: Some(81), ..any() }),
                chain("net", ChainMatch { destination_ranges: vec![(IpAddr::from([10, 0, 0, 0]), 8)], ..any() }),
                chain("host", ChainMatch { destination_ranges: vec![(IpAddr::from([10, 0, 0, 1]), 32)], ..any() }),
            ],
            default_chain: None,
            sniff_timeout: None,
            continue_on_sniff_timeout: false,
        };
        let tls = |name: Option<&str>| Sniffed { tls: true, server_name: name.map(Into::into), protocols: vec![] };
        let http = Sniffed { tls: false, server_name: None, protocols: vec!["http/1.1".into()] };
        let cases = [
            ("192.0.2.1:80", Sniffed::default(), "any"),
            ("192.0.2.1:80", http.clone(), "http"),
            ("192.0.2.1:80", tls(None), "tls"),
            ("192.0.2.1:80", tls(Some("a.com")), "name"),
            ("192.0.2.1:80", tls(Some("x.a.com")), "name"),
            ("192.0.2.1:80", tls(Some("b.com")), "tls"),
            ("192.0.2.1:81", http, "port"),
            ("10.9.9.9:80", Sniffed::default(), "net"),
            ("10.0.0.1:80", Sniffed::default(), "host"),
        ];
        for (destination, sniffed, want) in cases {
            let got = choose(&listener, destination.parse().unwrap(), &sniffed).unwrap();
            assert_eq!(&*got.name, want, "{destination} {sniffed:?}");
        }
    }
}
