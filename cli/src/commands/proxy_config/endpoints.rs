//! `proxy-config endpoints`.
//!
//! In:  `/clusters?format=json` of the proxy, which knows how endpoints stand; or the endpoint lists of a saved dump.
//! Out: ENDPOINT, STATUS, OUTLIER CHECK, CLUSTER.

use serde_json::Value;

use super::{Print, Source, dump, print};

const EXAMPLES: &str = "\
Examples:
  pillion proxy-config endpoints visitor
  pillion proxy-config endpoints visitor --cluster 'outbound|80||product-service.default.svc.cluster.local'
  pillion proxy-config endpoints visitor --status unhealthy -o json";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only endpoints of this cluster.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[arg(long, value_name = "PORT")]
    port: Option<u64>,
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Only endpoints of this status: healthy, unhealthy, ….
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    #[command(flatten)]
    print: Print,
}

/// One endpoint of one cluster.
struct Endpoint<'a> {
    address: (String, Option<u64>),
    status: String,
    outlier: &'static str,
    cluster: &'a str,
    json: &'a Value,
}

pub async fn show(args: &Args) -> anyhow::Result<()> {
    let answer = if args.source.file.is_some() {
        args.source.dump().await?
    } else {
        args.source.pages().await?.json("/clusters?format=json").await?
    };
    let found = chosen(&answer, args);
    let things: Vec<&Value> = found.iter().map(|endpoint| endpoint.json).collect();
    print(args.print, ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"], found.iter().map(row), &things)
}

fn chosen<'a>(answer: &'a Value, args: &Args) -> Vec<Endpoint<'a>> {
    let mut found = if args.source.file.is_some() { of_dump(answer) } else { of_statuses(answer) };
    found.retain(|endpoint| {
        args.cluster.as_ref().is_none_or(|cluster| endpoint.cluster == cluster)
            && args.port.is_none_or(|port| endpoint.address.1 == Some(port))
            && args.address.as_ref().is_none_or(|address| endpoint.address.0 == *address)
            && args.status.as_ref().is_none_or(|status| endpoint.status.eq_ignore_ascii_case(status))
    });
    found.sort_by(|a, b| (&a.address, a.cluster).cmp(&(&b.address, b.cluster)));
    found
}

fn of_statuses(statuses: &Value) -> Vec<Endpoint<'_>> {
    let mut found = Vec::new();
    for cluster in dump::items(statuses, "cluster_statuses") {
        let hosts = dump::items(cluster, "host_statuses").iter();
        found.extend(hosts.map(|host| endpoint(dump::text(cluster, "name"), host, &host["health_status"])));
    }
    found
}

fn of_dump(dump: &Value) -> Vec<Endpoint<'_>> {
    let mut found = Vec::new();
    for list in dump::messages(dump, &dump::ENDPOINTS) {
        for host in dump::items(list, "endpoints").iter().flat_map(|locality| dump::items(locality, "lb_endpoints")) {
            let address = dump::address(&host["endpoint"]["address"]);
            let status = status(dump::text(host, "health_status"));
            found.push(Endpoint { address, status, outlier: "OK", cluster: dump::text(list, "cluster_name"), json: host });
        }
    }
    found
}

fn endpoint<'a>(cluster: &'a str, host: &'a Value, health: &'a Value) -> Endpoint<'a> {
    let outlier = if health["failed_outlier_check"] == true { "FAILED" } else { "OK" };
    Endpoint {
        address: dump::address(&host["address"]),
        status: status(dump::text(health, "eds_health_status")),
        outlier,
        cluster,
        json: host,
    }
}

/// Nobody has said anything bad: `UNKNOWN` is what JSON leaves out.
fn status(said: &str) -> String {
    if said.is_empty() || said == "UNKNOWN" { "HEALTHY" } else { said }.to_owned()
}

fn row(endpoint: &Endpoint<'_>) -> [String; 4] {
    let at = match &endpoint.address {
        (address, Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (path, None) => path.clone(),
    };
    [at, endpoint.status.clone(), endpoint.outlier.to_owned(), endpoint.cluster.to_owned()]
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

    fn rows(answer: &Value, words: &[&str]) -> Vec<String> {
        let command = Command::try_parse_from([&["endpoints"], words].concat()).unwrap();
        chosen(answer, &command.args).iter().map(|endpoint| row(endpoint).join(" ")).collect()
    }

    fn socket(port: u16) -> Value {
        json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
    }

    #[test]
    fn endpoints_of_a_proxy_and_of_a_dump_have_the_same_columns() {
        let live = json!({"cluster_statuses": [{"name": "a", "host_statuses": [
            {"address": socket(2), "health_status": {"eds_health_status": "HEALTHY"}},
            {"address": socket(1), "health_status": {"eds_health_status": "UNHEALTHY", "failed_outlier_check": true}}]}]});
        assert_eq!(rows(&live, &["w"]), ["127.0.0.1:1 UNHEALTHY FAILED a", "127.0.0.1:2 HEALTHY OK a"]);
        assert_eq!(rows(&live, &["w", "--status", "healthy"]), ["127.0.0.1:2 HEALTHY OK a"]);
        let saved = json!({"configs": [{"dynamic_endpoint_configs": [{"endpoint_config": {"cluster_name": "a", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": socket(1)}}, {"endpoint": {"address": {"pipe": {"path": "/s"}}}, "health_status": "DRAINING"}]}]}}]}]});
        assert_eq!(rows(&saved, &["--file", "f"]), ["127.0.0.1:1 HEALTHY OK a", "unix:///s DRAINING OK a"]);
        assert_eq!(rows(&saved, &["--file", "f", "--port", "1", "--cluster", "b"]), [""; 0]);
    }
}
