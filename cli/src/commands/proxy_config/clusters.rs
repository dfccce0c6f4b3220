//! `proxy-config clusters`.
//!
//! In:  a dump. Out: SERVICE FQDN, PORT, SUBSET, DIRECTION, TYPE, DESTINATION RULE.

use pillion_xds::names::ClusterParts;
use serde_json::Value;

use super::{Print, Source, dump, print};

const EXAMPLES: &str = "\
Examples:
  pillion proxy-config clusters visitor
  pillion proxy-config clusters visitor --fqdn product-service --subset v1
  pillion proxy-config clusters --file dump.json -o json";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only services whose name has this in it.
    #[arg(long, value_name = "TEXT")]
    fqdn: Option<String>,
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    #[arg(long, value_name = "NAME")]
    subset: Option<String>,
    #[arg(long, value_enum, value_name = "DIRECTION")]
    direction: Option<Direction>,
    #[command(flatten)]
    print: Print,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Direction {
    Inbound,
    Outbound,
}

/// What a cluster's name says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name<'a> {
    fqdn: &'a str,
    port: Option<u16>,
    subset: &'a str,
    direction: Option<Direction>,
}

impl<'a> Name<'a> {
    fn of(cluster: &'a Value) -> Self {
        let name = dump::text(cluster, "name");
        match ClusterParts::parse(name) {
            ClusterParts::Outbound { port, subset, host } => {
                Name { fqdn: host, port: Some(port), subset, direction: Some(Direction::Outbound) }
            }
            ClusterParts::Inbound { port } => Name { fqdn: "", port: Some(port), subset: "", direction: Some(Direction::Inbound) },
            ClusterParts::Passthrough | ClusterParts::BlackHole | ClusterParts::Other(_) => {
                Name { fqdn: name, port: None, subset: "", direction: None }
            }
        }
    }
}

pub async fn show(args: &Args) -> anyhow::Result<()> {
    let dump = args.source.dump().await?;
    let found = chosen(&dump, args);
    let header = ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];
    print(args.print, header, found.iter().map(|cluster| row(cluster)), &found)
}

fn chosen<'a>(dump: &'a Value, args: &Args) -> Vec<&'a Value> {
    let mut found = dump::messages(dump, &dump::CLUSTERS);
    found.retain(|cluster| {
        let name = Name::of(cluster);
        args.fqdn.as_ref().is_none_or(|text| name.fqdn.contains(text.as_str()))
            && args.port.is_none_or(|port| name.port == Some(port))
            && args.subset.as_ref().is_none_or(|subset| name.subset == subset)
            && args.direction.is_none_or(|direction| name.direction == Some(direction))
    });
    found.sort_by(|a, b| Name::of(a).cmp(&Name::of(b)));
    found
}

fn row(cluster: &Value) -> [String; 6] {
    let name = Name::of(cluster);
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let direction = match name.direction {
        Some(Direction::Inbound) => "inbound",
        Some(Direction::Outbound) => "outbound",
        None => "-",
    };
    [
        name.fqdn.to_owned(),
        name.port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
        or_dash(name.subset),
        direction.to_owned(),
        kind(cluster),
        dump::origin(cluster),
    ]
}

/// STATIC is the default, which JSON leaves out.
fn kind(cluster: &Value) -> String {
    let named = cluster["type"].as_str().or_else(|| cluster.pointer("/cluster_type/name").and_then(Value::as_str));
    named.unwrap_or("STATIC").to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn clusters_have_istioctls_columns_and_filters() {
        let rule = json!({"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/b"}}});
        let dump = json!({"configs": [{"@type": "…BootstrapConfigDump"}, {
            "static_clusters": [{"cluster": {"name": "xds"}}],
            "dynamic_active_clusters": [
                {"cluster": {"name": "outbound|80|v1|b.shop", "type": "EDS", "metadata": rule}},
                {"cluster": {"name": "outbound|80||b.shop", "type": "EDS"}},
                {"cluster": {"name": "inbound|9080||"}},
                {"cluster": {"name": "PassthroughCluster", "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy"}}},
                {"error_state": {}}]}]});
        let rows = |words: &[&str]| {
            let command = Command::try_parse_from([&["clusters", "--file", "x"], words].concat()).unwrap();
            chosen(&dump, &command.args).into_iter().map(|cluster| row(cluster).join(" ")).collect::<Vec<_>>()
        };
        let all = [
            " 9080 - inbound STATIC ",
            "PassthroughCluster - - - envoy.clusters.dynamic_forward_proxy ",
            "b.shop 80 - outbound EDS ",
            "b.shop 80 v1 outbound EDS b.shop",
            "xds - - - STATIC ",
        ];
        assert_eq!(rows(&[]), all);
        assert_eq!(rows(&["--fqdn", "b.sh", "--subset", "v1"]), all[3..4]);
        assert_eq!(rows(&["--direction", "inbound"]), all[..1]);
        assert_eq!(rows(&["--port", "80"]), all[2..4]);
    }
}
