//! `pillion proxies`: every proxy that is connected, and which generation it has.
//!
//! In:  `/api/v1/proxies`.
//! Out: a table or JSON; exit code 1 when a proxy refuses something, is late or not connected, 3 when nobody answers.

use std::{process::ExitCode, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    admin_client::{Api, Where},
    output::{self, Format},
};

const EXAMPLES: &str = "\
Examples:
  pillion proxies                       the mesh that `pillion run` runs here
  pillion proxies --api 127.0.0.1:15080
  pillion proxies -o json               everything that is known of each

STATE is synced, pending (something is to be sent or answered), late (pending for more than 30 s) or refused (it keeps what it had).
Exit code: 0, 1 when a proxy is late, refuses something or is not connected, 2 wrong use, 3 when no control plane answers.";

/// A proxy that is behind for this long is late, as the control plane says it.
const LATE: Duration = pillion_control_plane::push::status::LATE;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    api: Where,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

/// The part of the answer that is shown; other versions may say more or less.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct List {
    pub generation: u64,
    pub proxies: Vec<Proxy>,
    /// `instance.namespace` of those whose proxy is not connected.
    pub missing: Vec<String>,
}

/// One proxy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Proxy {
    pub node: String,
    pub instance: String,
    pub namespace: String,
    pub workload: String,
    pub role: String,
    pub user_agent: String,
    pub version: String,
    pub variant: String,
    pub connected_since: Option<Timestamp>,
    pub state: String,
    pub generation: u64,
    pub lag_ms: u64,
    pub admin: Option<String>,
    pub last_nack: Option<Nack>,
}

/// What it refused last.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Nack {
    #[serde(rename = "type")]
    pub kind: String,
    pub generation: u64,
    pub names: Vec<String>,
    pub message: String,
}

impl Proxy {
    /// `instance.namespace`, else the node's id.
    pub fn name(&self) -> String {
        if self.instance.is_empty() { self.node.clone() } else { format!("{}.{}", self.instance, self.namespace) }
    }

    /// Whether somebody who says `name` means this one: its replica or its workload, with or without the namespace.
    pub fn is_called(&self, name: &str) -> bool {
        let own = [&self.instance, &self.workload].into_iter().filter(|own| !own.is_empty());
        let spelled = |own: &String| [own.clone(), format!("{own}.{}", self.namespace), format!("{}/{own}", self.namespace)];
        name == self.node || own.flat_map(spelled).any(|own| own == name)
    }

    pub fn is_late(&self) -> bool {
        self.state == "pending" && Duration::from_millis(self.lag_ms) >= LATE
    }

    pub fn is_refusing(&self) -> bool {
        self.state == "refused"
    }

    fn state(&self) -> &str {
        if self.is_late() { "late" } else { &self.state }
    }
}

/// Asks and prints.
pub fn run(args: Args) -> ExitCode {
    output::finish(show(args))
}

async fn show(args: Args) -> anyhow::Result<ExitCode> {
    let api = Api::find(&args.api);
    let answer: serde_json::Value = api.get("/api/v1/proxies").await?;
    let list = List::deserialize(&answer)?;
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Table => output::say(&text(&list, Timestamp::now(), &api.to_string())),
    }
    let wrong = !list.missing.is_empty() || list.proxies.iter().any(|proxy| proxy.is_late() || proxy.is_refusing());
    Ok(ExitCode::from(if wrong { output::WRONG } else { 0 }))
}

fn text(list: &List, now: Timestamp, api: &str) -> String {
    if list.proxies.is_empty() && list.missing.is_empty() {
        return format!("No proxy is connected to the control plane at {api} (generation {}).", list.generation);
    }
    let mut table = output::table(["PROXY", "WORKLOAD", "ROLE", "STATE", "GENERATION", "BEHIND", "VERSION", "CONNECTED"]);
    for proxy in &list.proxies {
        let generation = format!("{}/{}", proxy.generation, list.generation);
        let behind = if proxy.lag_ms == 0 { "-".to_owned() } else { output::rough(Duration::from_millis(proxy.lag_ms)) };
        let version = format!("{} {}", proxy.user_agent, proxy.version);
        table.add_row([
            proxy.name(),
            proxy.workload.clone(),
            proxy.role.clone(),
            proxy.state().to_owned(),
            generation,
            behind,
            version.trim().to_owned(),
            proxy.connected_since.map_or_else(|| "-".to_owned(), |since| output::rough(age(since, now))),
        ]);
    }
    let mut text = table.to_string();
    if !list.missing.is_empty() {
        text += &format!("\n\nNot connected: {}", list.missing.join(", "));
    }
    for proxy in list.proxies.iter().filter(|proxy| proxy.is_refusing()) {
        let Some(nack) = &proxy.last_nack else { continue };
        text += &format!(
            "\n\n{} refuses {} of generation {} and keeps what it had:\n  {}",
            proxy.name(),
            [nack.kind.as_str(), &nack.names.join(", ")].join(" ").trim(),
            nack.generation,
            nack.message
        );
    }
    text
}

/// How long ago; nothing when clocks disagree.
pub fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"generation": 7, "proxies": [
        {"node": "sidecar~1", "instance": "product-v1-0", "namespace": "default", "workload": "product-v1", "role": "sidecar",
         "user_agent": "pillion", "version": "0.1.0", "state": "synced", "generation": 7, "lag_ms": 0, "connected_since": "2026-01-01T00:00:00Z"},
        {"node": "router~2", "instance": "", "state": "refused", "generation": 7, "new_field": 1,
         "last_nack": {"type": "cds", "generation": 7, "names": ["a", "b"], "message": "no"}},
        {"node": "c", "instance": "c-0", "namespace": "x", "state": "pending", "generation": 6, "lag_ms": 31000},
        {"node": "d", "instance": "d-0", "namespace": "x", "state": "pending", "generation": 6, "lag_ms": 12}]}"#;

    #[test]
    fn the_table_names_who_has_what() {
        let list: List = serde_json::from_str(ANSWER).unwrap();
        let text = text(&list, "2026-01-01T00:03:00Z".parse().unwrap(), "http://x");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["product-v1-0.default", "product-v1", "sidecar", "synced", "7/7", "-", "pillion", "0.1.0", "3", "m"]);
        assert_eq!(lines[2], ["router~2", "refused", "7/7", "-", "-"]);
        assert_eq!(lines[3], ["c-0.x", "late", "6/7", "31", "s", "-"]);
        assert_eq!(lines[4], ["d-0.x", "pending", "6/7", "12", "ms", "-"]);
        assert!(text.ends_with("router~2 refuses cds a, b of generation 7 and keeps what it had:\n  no"), "{text}");
    }

    #[test]
    fn who_should_be_there_is_named() {
        let list: List = serde_json::from_str(r#"{"generation": 7, "proxies": [], "missing": ["order-0.default"]}"#).unwrap();
        let text = text(&list, Timestamp::UNIX_EPOCH, "http://x");
        assert!(text.ends_with("\n\nNot connected: order-0.default"), "{text}");
    }

    #[test]
    fn without_proxies_there_is_a_sentence() {
        let text = text(&List { generation: 3, ..List::default() }, Timestamp::UNIX_EPOCH, "http://x");
        assert_eq!(text, "No proxy is connected to the control plane at http://x (generation 3).");
    }
}
