//! The lines of `pillion run --json`: one JSON object each, for scripts and tests.
//!
//! In:  facts of the running mesh.
//! Out: [`Event`]s. Field names are a public interface: they are added to, never changed.

use std::collections::BTreeMap;

use serde::Serialize;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The mesh runs: every started program answers, and every proxy knows all of them.
    Ready(Ready),
    /// A generation is in force at all proxies.
    Generation { generation: u64, acked: usize, proxies: usize, ms: u64 },
    /// Something people should know: a late proxy, a refused edit.
    Error(Problem),
}

/// Addresses of everything that runs. They are bases without a trailing slash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ready {
    pub api: String,
    pub metrics: String,
    /// `host:port`
    pub xds: String,
    pub gateways: Vec<GatewayAddress>,
    pub workloads: Vec<ReplicaAddress>,
}

/// One gateway port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayAddress {
    pub namespace: String,
    pub name: String,
    pub url: String,
    /// The gateway's own admin interface.
    pub admin: String,
    pub proxy_pid: Option<u32>,
}

/// One replica of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaAddress {
    pub namespace: String,
    /// The Workload's name.
    pub name: String,
    pub replica: u32,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    /// `null` when somebody else starts the program.
    pub pid: Option<u32>,
    pub proxy_pid: Option<u32>,
    /// What to give to `curl -x`.
    pub outbound: String,
    /// The first port's inbound address; empty for a workload without ports.
    pub inbound: String,
    pub ports: Vec<PortAddress>,
    pub admin: String,
}

/// One port of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortAddress {
    pub name: String,
    /// The port the mesh knows (`containerPort`).
    pub port: u16,
    /// Where the sidecar listens for it.
    pub inbound: String,
    /// Where the program listens.
    pub app: String,
}

/// What went wrong, and who it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `late`, `finding`, `refused`, `start`, `exit`.
    pub reason: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Names of the replicas that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_has_the_promised_shape() {
        let ready = Event::Ready(Ready {
            api: "http://127.0.0.1:15080".into(),
            metrics: "http://127.0.0.1:15014/metrics".into(),
            xds: "127.0.0.1:15010".into(),
            gateways: vec![GatewayAddress {
                namespace: "istio-system".into(),
                name: "istio-ingressgateway".into(),
                url: "http://127.0.0.1:8080".into(),
                admin: "http://127.0.0.1:20005".into(),
                proxy_pid: Some(4713),
            }],
            workloads: vec![ReplicaAddress {
                namespace: "default".into(),
                name: "product-v1".into(),
                replica: 0,
                labels: BTreeMap::from([("app".into(), "product-service".into())]),
                service_account: "product-service".into(),
                pid: None,
                proxy_pid: Some(4712),
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
        });
        assert_eq!(
            serde_json::to_string(&ready).unwrap(),
            concat!(
                r#"{"event":"ready","api":"http://127.0.0.1:15080","metrics":"http://127.0.0.1:15014/metrics","xds":"127.0.0.1:15010","#,
                r#""gateways":[{"namespace":"istio-system","name":"istio-ingressgateway","url":"http://127.0.0.1:8080","#,
                r#""admin":"http://127.0.0.1:20005","proxy_pid":4713}],"#,
                r#""workloads":[{"namespace":"default","name":"product-v1","replica":0,"labels":{"app":"product-service"},"#,
                r#""service_account":"product-service","pid":null,"proxy_pid":4712,"outbound":"http://127.0.0.1:20002","#,
                r#""inbound":"127.0.0.1:20003","ports":[{"name":"http","port":9080,"inbound":"127.0.0.1:20003","app":"127.0.0.1:20001"}],"#,
                r#""admin":"http://127.0.0.1:20004"}]}"#
            )
        );
    }

    #[test]
    fn generation_and_error_have_the_promised_shape() {
        let cases = [
            (
                Event::Generation { generation: 7, acked: 10, proxies: 10, ms: 41 },
                r#"{"event":"generation","generation":7,"acked":10,"proxies":10,"ms":41}"#,
            ),
            (
                Event::Error(Problem { reason: "late", message: "m".into(), generation: Some(7), late: vec!["order-0.default".into()] }),
                r#"{"event":"error","reason":"late","message":"m","generation":7,"late":["order-0.default"]}"#,
            ),
            (
                Event::Error(Problem { reason: "start", message: "m".into(), ..Problem::default() }),
                r#"{"event":"error","reason":"start","message":"m"}"#,
            ),
        ];
        for (event, want) in cases {
            assert_eq!(serde_json::to_string(&event).unwrap(), want);
        }
    }
}
