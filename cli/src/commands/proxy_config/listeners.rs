//! `proxy-config listeners`.
//!
//! In:  a dump. Out: ADDRESSES, PORT, MATCH, DESTINATION, a line per filter chain.

use serde_json::Value;

use super::{Print, Source, dump, print, routes};

const EXAMPLES: &str = "\
Examples:
  pillion proxy-config listeners visitor
  pillion proxy-config listeners istio-ingressgateway.istio-system --port 80
  pillion proxy-config listeners --file dump.json";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[arg(long, value_name = "PORT")]
    port: Option<u64>,
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    #[command(flatten)]
    print: Print,
}

pub async fn show(args: &Args) -> anyhow::Result<()> {
    let dump = args.source.dump().await?;
    let mut found = dump::messages(&dump, &dump::LISTENERS);
    found.retain(|listener| {
        let (address, port) = dump::address(&listener["address"]);
        args.port.is_none_or(|wanted| port == Some(wanted)) && args.address.as_ref().is_none_or(|wanted| address == *wanted)
    });
    found.sort_by_key(|listener| {
        let (address, port) = dump::address(&listener["address"]);
        (port, address)
    });
    print(args.print, ["ADDRESSES", "PORT", "MATCH", "DESTINATION"], found.iter().flat_map(|listener| rows(listener)), &found)
}

fn rows(listener: &Value) -> Vec<[String; 4]> {
    let (address, port) = dump::address(&listener["address"]);
    let more = dump::items(listener, "additional_addresses").iter().map(|more| dump::address(&more["address"]).0);
    let addresses = std::iter::once(address).chain(more).collect::<Vec<_>>().join(",");
    let port = port.unwrap_or_default().to_string();
    let chains = dump::items(listener, "filter_chains").iter().chain(listener.get("default_filter_chain"));
    let row = |chain: &Value| [addresses.clone(), port.clone(), matches(&chain["filter_chain_match"]), destination(chain)];
    chains.map(row).collect()
}

/// istioctl's words; `ALL` when nothing is asked.
fn matches(rule: &Value) -> String {
    let words = |field: &str| dump::items(rule, field).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let mut parts = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            parts.push(format!("{name}: {value}"));
        }
    };
    add("SNI", words("server_names"));
    add("Trans", dump::text(rule, "transport_protocol").to_owned());
    add("App", words("application_protocols"));
    let ranges = dump::items(rule, "prefix_ranges").iter();
    let ranges: Vec<String> = ranges.map(|range| format!("{}/{}", dump::text(range, "address_prefix"), range["prefix_len"])).collect();
    let port = rule["destination_port"].as_u64().map_or_else(String::new, |port| format!(":{port}"));
    add("Addr", if ranges.is_empty() && !port.is_empty() { format!("*{port}") } else { ranges.join(",") + &port });
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

fn destination(chain: &Value) -> String {
    let known = dump::items(chain, "filters").iter().rev().find_map(|filter| of_filter(&filter["typed_config"]));
    known.unwrap_or_else(|| "Non-HTTP/Non-TCP".to_owned())
}

fn of_filter(config: &Value) -> Option<String> {
    if let Some(name) = config.pointer("/rds/route_config_name").and_then(Value::as_str) {
        return Some(format!("Route: {name}"));
    }
    if let Some(inline) = config.get("route_config") {
        let all = dump::items(inline, "virtual_hosts").iter().flat_map(|host| dump::items(host, "routes"));
        let mut paths: Vec<String> = all.map(|route| routes::matches(&route["match"])).collect();
        paths.dedup();
        return Some(format!("Inline Route: {}", paths.join(", ")));
    }
    if let Some(name) = config["cluster"].as_str() {
        let is_named = !name.contains('|');
        return Some(if is_named { name.to_owned() } else { format!("Cluster: {name}") });
    }
    let weighted = config.pointer("/weighted_clusters/clusters").and_then(Value::as_array)?;
    Some(format!("Cluster: {}", weighted.iter().map(|cluster| dump::text(cluster, "name")).collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_filter_chain_is_a_line_in_istioctls_words() {
        let http = |config: Value| json!([{"name": "hcm", "typed_config": config}]);
        let listener = json!({"address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}}, "filter_chains": [
            {"filter_chain_match": {"destination_port": 9080, "application_protocols": ["http/1.1", "h2c"]},
             "filters": http(json!({"route_config": {"virtual_hosts": [{"routes": [{"match": {"prefix": "/"}}]}]}}))},
            {"filter_chain_match": {"transport_protocol": "tls", "prefix_ranges": [{"address_prefix": "10.0.0.1", "prefix_len": 32}]},
             "filters": http(json!({"cluster": "outbound|443||a"}))},
            {"filters": http(json!({"rds": {"route_config_name": "80"}}))},
            {"filters": http(json!({"weighted_clusters": {"clusters": [{"name": "a"}, {"name": "b"}]}}))}],
            "default_filter_chain": {"filters": http(json!({"cluster": "PassthroughCluster"}))}});
        let got: Vec<String> = rows(&listener).iter().map(|row| row.join(" | ")).collect();
        let want = [
            "0.0.0.0 | 15006 | App: http/1.1,h2c; Addr: *:9080 | Inline Route: /*",
            "0.0.0.0 | 15006 | Trans: tls; Addr: 10.0.0.1/32 | Cluster: outbound|443||a",
            "0.0.0.0 | 15006 | ALL | Route: 80",
            "0.0.0.0 | 15006 | ALL | Cluster: a, b",
            "0.0.0.0 | 15006 | ALL | PassthroughCluster",
        ];
        assert_eq!(got, want);
    }
}
