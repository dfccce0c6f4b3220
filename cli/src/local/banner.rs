//! What the terminal says when the mesh is ready: what runs, what to try, what to edit, what is not protected.
//!
//! In:  [`Facts`].
//! Out: text of at most a screen.

use std::fmt::Write;

use super::events::{GatewayAddress, ReplicaAddress};

/// Workloads listed one by one; more are counted.
const MOST_LINES: usize = 16;

/// Everything that the card tells.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub seconds: f64,
    pub generation: u64,
    /// Sidecars and gateways.
    pub proxies: usize,
    pub workloads: Vec<ReplicaAddress>,
    pub gateways: Vec<GatewayAddress>,
    /// A gateway's ports that are served elsewhere: (logical, real, why as the end of "port 80 …").
    pub moved: Vec<(u16, u16, String)>,
    /// Commands to copy, each with what it shows.
    pub tries: Vec<(String, String)>,
    /// `file:line` and what can be changed there.
    pub edit: Option<(String, String)>,
    pub api: String,
    pub metrics: String,
    /// Security objects that are accepted and not enforced.
    pub unenforced: Vec<String>,
}

/// The card.
pub fn card(facts: &Facts) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_card(&mut out, facts);
    out
}

fn write_card(out: &mut String, facts: &Facts) -> std::fmt::Result {
    let started = facts.workloads.iter().filter(|workload| workload.pid.is_some()).count();
    writeln!(
        out,
        "\nThe mesh is ready after {:.1} s: {started} programs, {} proxies, generation {}.",
        facts.seconds, facts.proxies, facts.generation
    )?;
    if !facts.workloads.is_empty() || !facts.gateways.is_empty() {
        writeln!(out)?;
    }
    if !facts.workloads.is_empty() {
        workloads(out, &facts.workloads)?;
    }
    for gateway in &facts.gateways {
        writeln!(out, "  gateway {}/{}  {}", gateway.namespace, gateway.name, gateway.url)?;
    }
    for (logical, real, why) in &facts.moved {
        writeln!(out, "  (port {logical} of the YAML is served on {real} here: {logical} {why})")?;
    }
    if !facts.tries.is_empty() {
        writeln!(out, "\nTry")?;
        for (command, shows) in &facts.tries {
            writeln!(out, "  {command}\n      {shows}")?;
        }
    }
    if let Some((place, what)) = &facts.edit {
        writeln!(out, "\nEdit\n  {place}\n      {what}; save, and the next line here says when every proxy obeys")?;
    }
    writeln!(out, "\nLook\n  pillion status      what is in force, and what is wrong with the YAML")?;
    writeln!(out, "  pillion proxies     every proxy with the generation it has")?;
    writeln!(out, "  {}/api/v1/generations\n  {}", facts.api, facts.metrics)?;
    if !facts.workloads.is_empty() {
        writeln!(out, "\nGood to know")?;
        writeln!(out, "  Each program's own port can be reached past its sidecar, and so past every policy.")?;
        writeln!(out, "  Every user of this machine can send through any workload's outbound port, and counts as that workload.")?;
    }
    out.push_str(&unenforced(&facts.unenforced));
    writeln!(out, "\nCtrl-C drains the mesh and leaves nothing behind.\n")
}

fn workloads(out: &mut String, workloads: &[ReplicaAddress]) -> std::fmt::Result {
    let names: Vec<String> = workloads.iter().map(|one| format!("{}-{}", one.name, one.replica)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max("WORKLOAD".len());
    writeln!(out, "  {:width$}  {:22}  {:22}  SERVES", "WORKLOAD", "ITS PROXY (curl -x …)", "PROGRAM")?;
    for (one, name) in workloads.iter().zip(&names).take(MOST_LINES) {
        let app = one.ports.first().map_or("-", |port| port.app.as_str());
        let serves = match (one.labels.get("app"), one.labels.get("version")) {
            (Some(app), Some(version)) => format!("{app} {version}"),
            (Some(app), None) => app.clone(),
            _ => "-".into(),
        };
        let elsewhere = if one.pid.is_none() { "  (started elsewhere)" } else { "" };
        let outbound = one.outbound.strip_prefix("http://").unwrap_or(&one.outbound);
        writeln!(out, "  {name:width$}  {outbound:22}  {app:22}  {serves}{elsewhere}")?;
    }
    if workloads.len() > MOST_LINES {
        writeln!(out, "  … and {} more (pillion proxies)", workloads.len() - MOST_LINES)?;
    }
    Ok(())
}

/// The banner about policies that nobody enforces yet; empty when there are none.
pub fn unenforced(objects: &[String]) -> String {
    if objects.is_empty() {
        return String::new();
    }
    let mut out = String::from("\nNOT ENFORCED: these objects are read and checked, and do not protect anything yet\n");
    for object in objects.iter().take(MOST_LINES) {
        out.push_str(&format!("  {object}\n"));
    }
    if objects.len() > MOST_LINES {
        out.push_str(&format!("  … and {} more (pillion status)\n", objects.len() - MOST_LINES));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::local::events::PortAddress;

    fn facts() -> Facts {
        Facts {
            seconds: 3.06,
            generation: 4,
            proxies: 1,
            workloads: vec![ReplicaAddress {
                namespace: "default".into(),
                name: "product-v1".into(),
                replica: 0,
                labels: BTreeMap::from([("app".into(), "product-service".into()), ("version".into(), "v1".into())]),
                service_account: "product-service".into(),
                pid: Some(7),
                proxy_pid: Some(8),
                outbound: "http://127.0.0.1:20002".into(),
                inbound: "127.0.0.1:20003".into(),
                ports: vec![PortAddress {
                    name: "http".into(),
                    port: 9080,
                    inbound: "127.0.0.1:20003".into(),
                    app: "127.0.0.1:20001".into(),
                }],
                admin: "http://127.0.0.1:20004".into(),
            }],
            api: "http://127.0.0.1:15080".into(),
            metrics: "http://127.0.0.1:15014/metrics".into(),
            tries: vec![("curl http://127.0.0.1:8080/".into(), "the shop".into())],
            edit: Some(("routes.yaml:12".into(), "weights 90 and 10".into())),
            ..Facts::default()
        }
    }

    #[test]
    fn the_card_says_what_to_try_and_what_is_open() {
        let text = card(&facts());
        for part in [
            "ready after 3.1 s: 1 programs, 1 proxies, generation 4",
            "product-v1-0  127.0.0.1:20002         127.0.0.1:20001         product-service v1\n",
            "curl http://127.0.0.1:8080/",
            "routes.yaml:12",
            "past every policy",
            "counts as that workload",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("NOT ENFORCED"));
        assert!(text.lines().count() < 40);
    }

    #[test]
    fn a_gateway_that_is_elsewhere_says_why() {
        let text = card(&Facts { moved: vec![(80, 8080, "is taken by nginx (pid 7)".into())], ..facts() });
        assert!(text.contains("(port 80 of the YAML is served on 8080 here: 80 is taken by nginx (pid 7))"), "{text}");
    }

    #[test]
    fn an_empty_mesh_warns_of_nothing() {
        let text = card(&Facts { workloads: vec![], tries: vec![], edit: None, ..facts() });
        assert!(!text.contains("Good to know") && !text.contains("\n\n\n"), "{text}");
    }

    #[test]
    fn what_is_not_enforced_is_said_loudly() {
        let text = card(&Facts { unenforced: vec!["AuthorizationPolicy default/deny (a.yaml:1)".into()], ..facts() });
        assert!(text.contains("NOT ENFORCED") && text.contains("AuthorizationPolicy default/deny (a.yaml:1)"));
    }
}
