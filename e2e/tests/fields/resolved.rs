//! What a Workload is with everything that its Deployment adds, in words.
//!
//! In:  the workload as `pillion run` takes it.
//! Out: `replicas`, `labels`, `account`, `ports`, `env`, `probe`.

use pillion_api::{effective::Effective, kinds::deployment::Probe};

/// The words of `see` about the first Workload.
pub fn words(effective: &Effective, see: &str) -> String {
    let workload = &effective.workloads().iter().find(|workload| workload.name == "x").expect("the case has a Workload x");
    let words = see.split_whitespace().map(|word| match word {
        "replicas" => workload.replicas.to_string(),
        "labels" => workload.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","),
        "account" => workload.service_account.clone(),
        "ports" => workload.ports.iter().map(|port| format!("{}:{}", port.name, port.container_port)).collect::<Vec<_>>().join(","),
        "env" => workload.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","),
        "probe" => workload.readiness_probe.as_ref().map_or("none".to_owned(), probe),
        _ => panic!("{word}: no such word"),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn probe(probe: &Probe) -> String {
    let what = if let Some(get) = &probe.http_get {
        let headers = get.http_headers.iter().map(|header| format!("{}={}", header.name, header.value)).collect::<Vec<_>>().join(",");
        format!("{} {} {} {headers}", get.scheme, get.path, get.port.as_ref().map_or_else(String::new, |port| format!("{port:?}")))
    } else if let Some(socket) = &probe.tcp_socket {
        format!("tcp {}", socket.port.as_ref().map_or_else(String::new, |port| format!("{port:?}")))
    } else if let Some(grpc) = &probe.grpc {
        format!("grpc {} {}", grpc.port, grpc.service)
    } else {
        format!("exec {}", probe.exec.as_ref().map_or_else(String::new, |exec| exec.command.join(" ")))
    };
    let (good, bad) = (probe.success_threshold.unwrap_or(1), probe.failure_threshold.unwrap_or(3));
    format!("{what}, every {:?}, {:?}, {good} good, {bad} bad", probe.period(), probe.timeout())
}
