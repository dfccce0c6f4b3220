//! `proxy-config routes`.
//!
//! In:  a dump. Out: NAME, VHOST NAME, DOMAINS, MATCH, VIRTUAL SERVICE.

use serde_json::Value;

use super::{Print, Source, dump, print};

/// Domains that are shown; the rest is counted.
const SHOWN: usize = 2;

const EXAMPLES: &str = "\
Examples:
  pillion proxy-config routes visitor
  pillion proxy-config routes visitor --name http_proxy -o json
  pillion proxy-config routes --file dump.json";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only the route configuration of this name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    print: Print,
}

pub async fn show(args: &Args) -> anyhow::Result<()> {
    let dump = args.source.dump().await?;
    let mut found = dump::messages(&dump, &dump::ROUTES);
    found.retain(|routes| args.name.as_ref().is_none_or(|name| dump::text(routes, "name") == name));
    found.sort_by_key(|routes| dump::text(routes, "name"));
    print(args.print, ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"], found.iter().flat_map(|routes| rows(routes)), &found)
}

fn rows(routes: &Value) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    for host in dump::items(routes, "virtual_hosts") {
        let begin = || [dump::text(routes, "name").to_owned(), dump::text(host, "name").to_owned(), domains(host)];
        let all = dump::items(host, "routes");
        if all.is_empty() {
            let [name, host, domains] = begin();
            rows.push([name, host, domains, String::new(), "404".to_owned()]);
        }
        for route in all {
            let [name, host, domains] = begin();
            rows.push([name, host, domains, matches(&route["match"]), dump::origin(route)]);
        }
    }
    rows
}

/// The shortest names, each once with or without its port.
fn domains(host: &Value) -> String {
    let mut all: Vec<&str> = dump::items(host, "domains").iter().filter_map(Value::as_str).collect();
    let known = all.clone();
    all.retain(|domain| domain.rsplit_once(':').is_none_or(|(name, _)| !known.contains(&name)));
    all.sort_by_key(|domain| domain.len());
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} + {} more...", all.len() - SHOWN) } else { shown }
}

/// The path as istioctl writes it; other conditions are in the JSON.
pub fn matches(rule: &Value) -> String {
    if let Some(prefix) = rule["prefix"].as_str() {
        return format!("{prefix}*");
    }
    if let Some(prefix) = rule["path_separated_prefix"].as_str() {
        return format!("PathPrefix:{prefix}");
    }
    if let Some(regex) = rule.pointer("/safe_regex/regex").and_then(Value::as_str) {
        return format!("regex {regex}");
    }
    if rule.get("connect_matcher").is_some() {
        return "CONNECT".to_owned();
    }
    dump::text(rule, "path").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_route_is_a_line_in_istioctls_words() {
        let origin =
            json!({"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/vs"}}});
        let routes = json!({"name": "80", "virtual_hosts": [
            {"name": "a:80", "domains": ["a.default.svc", "a", "a:80", "a.default"], "routes": [
                {"match": {"prefix": "/"}, "metadata": origin}, {"match": {"path": "/x"}}, {"match": {"safe_regex": {"regex": "/y.*"}}},
                {"match": {"path_separated_prefix": "/z"}}, {"match": {"connect_matcher": {}}}]},
            {"name": "allow_any", "domains": ["*"]}]});
        let got: Vec<String> = rows(&routes).iter().map(|row| row.join("|")).collect();
        let start = "80|a:80|a, a.default + 1 more...";
        let want = [
            format!("{start}|/*|vs.default"),
            format!("{start}|/x|"),
            format!("{start}|regex /y.*|"),
            format!("{start}|PathPrefix:/z|"),
            format!("{start}|CONNECT|"),
            "80|allow_any|*||404".to_owned(),
        ];
        assert_eq!(got, want);
    }
}
