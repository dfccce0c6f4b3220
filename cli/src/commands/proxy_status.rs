//! `pillion proxy-status`: per proxy and type of resource, whether it has the newest. The table of `istioctl proxy-status`.
//!
//! In:  `/api/v1/proxies`.
//! Out: a table or JSON; exit code 1 when a proxy refuses something or is late, 3 when nobody answers.

use std::{collections::BTreeMap, process::ExitCode};

use serde::{Deserialize, Serialize};

use super::{proxies::Proxy, suggest};
use crate::{
    admin_client::{Api, Where},
    output::{self, Format, Misuse},
};

const EXAMPLES: &str = "\
Examples:
  pillion proxy-status                  every proxy of the mesh that `pillion run` runs here
  pillion proxy-status product-v1       one of them
  pillion proxy-status -o json

Per type of resource: SYNCED, it has acknowledged the last that was sent; STALE, something was sent and is not acknowledged; ERROR, it refuses
something and keeps what it had; NOT SENT, nothing was. RDS of a Pillion proxy counts its virtual hosts in. ECDS is never sent.
Exit code: 0, 1 when a proxy is late or refuses something, 2 wrong use, 3 when nobody answers.";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// One proxy: its workload or replica, as NAME, NAME.NAMESPACE or NAMESPACE/NAME.
    #[arg(value_name = "WORKLOAD")]
    workload: Option<String>,
    #[command(flatten)]
    api: Where,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    proxies: Vec<Entry>,
}

/// What is shown of a proxy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(flatten)]
    proxy: Proxy,
    pillion: bool,
    cluster_id: String,
    types: BTreeMap<String, TypeStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TypeStatus {
    in_flight: Option<u64>,
}

/// How a proxy stands to one type; the worse, the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Standing {
    #[serde(rename = "NOT SENT")]
    NotSent,
    #[serde(rename = "SYNCED")]
    Synced,
    #[serde(rename = "STALE")]
    Stale,
    #[serde(rename = "ERROR")]
    Error,
}

impl Standing {
    const fn word(self) -> &'static str {
        match self {
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        }
    }
}

impl Entry {
    fn standing(&self, kinds: &[&str]) -> Standing {
        let one = |kind: &&str| {
            let refuses = self.proxy.is_refusing() && self.proxy.last_nack.as_ref().is_some_and(|nack| nack_kind(&nack.kind) == *kind);
            match self.types.get(long_kind(kind)) {
                _ if refuses => Standing::Error,
                None => Standing::NotSent,
                Some(TypeStatus { in_flight: Some(_) }) => Standing::Stale,
                Some(_) => Standing::Synced,
            }
        };
        kinds.iter().map(one).max().unwrap_or(Standing::NotSent)
    }

    fn row(&self, control_plane: &str) -> Row {
        let routes: &[&str] = if self.pillion { &["rds", "vhds"] } else { &["rds"] };
        Row {
            name: self.proxy.name(),
            cluster: self.cluster_id.clone(),
            cds: self.standing(&["cds"]),
            lds: self.standing(&["lds"]),
            eds: self.standing(&["eds"]),
            rds: self.standing(routes),
            ecds: Standing::NotSent,
            istiod: control_plane.to_owned(),
            version: format!("{} {}", self.proxy.user_agent, self.proxy.version).trim().to_owned(),
        }
    }
}

/// The API names types in words, its refusals as logs do.
fn long_kind(short: &str) -> &'static str {
    match short {
        "cds" => "cluster",
        "eds" => "endpoint",
        "lds" => "listener",
        "rds" => "route",
        _ => "virtual_host",
    }
}

fn nack_kind(kind: &str) -> &str {
    ["cds", "eds", "lds", "rds", "vhds"].into_iter().find(|short| long_kind(short) == kind).unwrap_or(kind)
}

/// A line, in istioctl's columns.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    cluster: String,
    cds: Standing,
    lds: Standing,
    eds: Standing,
    rds: Standing,
    ecds: Standing,
    istiod: String,
    version: String,
}

/// Asks and prints.
pub fn run(args: Args) -> ExitCode {
    output::finish(show(args))
}

async fn show(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::find(&args.api);
    let mut list: List = api.get("/api/v1/proxies").await?;
    if let Some(name) = &args.workload {
        let known: Vec<String> = list.proxies.iter().map(|entry| entry.proxy.name()).collect();
        list.proxies.retain(|entry| entry.proxy.is_called(name));
        if list.proxies.is_empty() {
            return Err(Misuse(suggest::unknown("connected proxy", name, &known)).into());
        }
    }
    let rows: Vec<Row> = list.proxies.iter().map(|entry| entry.row(api.authority())).collect();
    match args.output {
        Format::Json => output::json(&rows)?,
        Format::Table if rows.is_empty() => output::say(&format!("No proxy is connected to the control plane at {api}.")),
        Format::Table => output::say(&(table(&rows) + &refusals(&list.proxies))),
    }
    let wrong = list.proxies.iter().any(|entry| entry.proxy.is_late() || entry.proxy.is_refusing());
    Ok(ExitCode::from(if wrong { output::WRONG } else { 0 }))
}

fn table(rows: &[Row]) -> String {
    let mut table = output::table(["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"]);
    for row in rows {
        let [cds, lds, eds, rds, ecds] = [row.cds, row.lds, row.eds, row.rds, row.ecds].map(Standing::word);
        table.add_row([&row.name, &row.cluster, cds, lds, eds, rds, ecds, &row.istiod, &row.version]);
    }
    table.to_string()
}

fn refusals(entries: &[Entry]) -> String {
    let refusing = entries.iter().map(|entry| &entry.proxy).filter(|proxy| proxy.is_refusing());
    refusing.filter_map(|proxy| Some(format!("\n\n{}: {}", proxy.name(), proxy.last_nack.as_ref()?.message))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"generation": 7, "proxies": [
        {"instance": "a-0", "namespace": "default", "cluster_id": "Kubernetes", "pillion": true, "user_agent": "pillion", "version": "0.1.0",
         "state": "pending", "types": {"cluster": {"acked": 7}, "listener": {}, "endpoint": {"in_flight": 7}, "route": {}, "virtual_host": {"in_flight": 7}}},
        {"instance": "b-0", "namespace": "default", "state": "refused", "types": {"cluster": {}, "listener": {}},
         "last_nack": {"type": "listener", "message": "no such filter"}}]}"#;

    #[test]
    fn every_type_says_how_it_stands() {
        let list: List = serde_json::from_str(ANSWER).unwrap();
        let rows: Vec<Row> = list.proxies.iter().map(|entry| entry.row("127.0.0.1:1")).collect();
        let text = table(&rows) + &refusals(&list.proxies);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect()).collect();
        assert_eq!(lines[0], ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"]);
        assert_eq!(
            lines[1],
            ["a-0.default", "Kubernetes", "SYNCED", "SYNCED", "STALE", "STALE", "NOT SENT", "127.0.0.1:1", "pillion 0.1.0"]
        );
        assert_eq!(lines[2], ["b-0.default", "SYNCED", "ERROR", "NOT SENT", "NOT SENT", "NOT SENT", "127.0.0.1:1"]);
        assert!(text.ends_with("\n\nb-0.default: no such filter"));
        assert_eq!(serde_json::to_value(&rows[0]).unwrap()["ecds"], "NOT SENT");
    }
}
