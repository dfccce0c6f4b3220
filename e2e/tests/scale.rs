//! A big mesh: 10,000 VirtualServices over 1,000 services of 10 endpoints each.
//!
//! Checked in bounded time, loaded and edited while requests flow, and no dearer per request than ten VirtualServices are. Unoptimised
//! binaries get a tenth of it, and no bounds on time.

mod scale {
    pub mod price;
    pub mod yaml;
}

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use pillion_e2e::{
    client::Client,
    eventually, optimised,
    planes::{Planes, Sidecar},
};
use scale::{
    price::{self, instructions_per_request},
    yaml::{self, Size},
};
use serde_json::Value;
use tokio::process::Command;

/// Loading, on a loaded machine.
const LOADED_WITHIN: Duration = Duration::from_secs(60);
const EDITS: usize = 20;

fn whole() -> Size {
    if optimised() { Size { virtual_services: 10_000, services: 1_000 } } else { Size { virtual_services: 1_000, services: 100 } }
}

/// One request; which VirtualService answered.
async fn mark(client: &mut Client, host: &str) -> Result<String, String> {
    let answer = client.get(&format!("http://{host}/")).await?;
    if answer.status != StatusCode::OK {
        return Err(format!("{host}: {} {}", answer.status, answer.text()));
    }
    Ok(answer.header(yaml::MARK).to_owned())
}

/// Waits until a rule is in force at the proxy.
async fn obeyed(planes: &Planes, sidecar: &Sidecar, host: &str, wanted: &str) {
    let begun = Instant::now();
    let mut client = Client::new(&sidecar.outbound);
    loop {
        let seen = mark(&mut client, host).await;
        if seen.as_deref() == Ok(wanted) {
            return;
        }
        assert!(begun.elapsed() < LOADED_WITHIN, "{host} should say {wanted}: {seen:?}\n{}", planes.logs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asks for hosts of the small mesh without pause; the worst time an answer took, and how many came.
async fn flow(sidecar: Sidecar, stop: Arc<AtomicBool>) -> Result<(Duration, usize), String> {
    let mut client = Client::new(&sidecar.outbound);
    let (mut worst, mut count) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        mark(&mut client, &yaml::host(count % Size::SMALL.services, Size::SMALL)).await?;
        worst = worst.max(begun.elapsed());
        count += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok((worst, count))
}

/// The newest generation, if every proxy has acknowledged it.
async fn acknowledged(api: &str) -> Option<Value> {
    let answer = Client::new(api).get("/api/v1/generations").await.ok()?;
    let newest = answer.json()["generations"].get(0)?.clone();
    (newest["acked"].is_u64() && newest["acked"] == newest["proxies"]).then_some(newest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_mesh_is_checked_within_three_seconds() {
    let home = tempfile::tempdir().expect("a temporary folder");
    yaml::write(home.path(), whole(), 1);
    let begun = Instant::now();
    let output = Command::new(pillion_e2e::binary("pillion")).arg("validate").arg(home.path()).output().await.expect("pillion runs");
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    println!("validate, {} VirtualServices and {} ServiceEntries: {took:?}", whole().virtual_services, whole().services);
    assert!(!optimised() || took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_mesh_is_loaded_and_edited_while_requests_flow() {
    let size = whole();
    let port = yaml::backend().await;
    let planes = Planes::new().await;
    yaml::write(&planes.config(), Size::SMALL, port);
    let sidecar = planes.sidecar("client").await;
    let _control = planes.control_plane();
    let mut proxy = planes.proxy(&sidecar);
    obeyed(&planes, &sidecar, &yaml::host(3, Size::SMALL), "3").await;
    let stop = Arc::new(AtomicBool::new(false));
    let flow = tokio::spawn(flow(sidecar.clone(), stop.clone()));

    let begun = Instant::now();
    yaml::write(&planes.config(), size, port);
    let last = size.virtual_services - 1;
    obeyed(&planes, &sidecar, &yaml::host(last, size), &last.to_string()).await;
    println!("10 to {} VirtualServices in force: {:?}", size.virtual_services, begun.elapsed());
    eventually("the big mesh is acknowledged", LOADED_WITHIN, || acknowledged(&planes.api)).await;

    let mut took = Vec::new();
    for edit in 0..EDITS {
        let number = (edit * 7_919) % size.virtual_services;
        let known = eventually("an acknowledged generation", LOADED_WITHIN, || acknowledged(&planes.api)).await["generation"].clone();
        let begun = Instant::now();
        yaml::write_edited(&planes.config(), size, number, &format!("edited-{edit}"));
        let acknowledged = async || acknowledged(&planes.api).await.filter(|newest| newest["generation"].as_u64() > known.as_u64());
        eventually("the edit is acknowledged", LOADED_WITHIN, acknowledged).await;
        took.push(begun.elapsed());
        let seen = mark(&mut Client::new(&sidecar.outbound), &yaml::host(number, size)).await;
        assert_eq!(seen.as_deref(), Ok(format!("edited-{edit}").as_str()), "what is acknowledged is obeyed");
    }
    took.sort();
    println!("edit to ACK of one in {}: median {:?}, worst {:?}", size.virtual_services, took[EDITS / 2], took[EDITS - 1]);
    assert!(!optimised() || took[EDITS / 2] < Duration::from_millis(500), "{took:?}");

    // Every rule is where it belongs.
    let mut client = Client::new(&sidecar.outbound);
    for number in
        (0..size.virtual_services).step_by(97).filter(|number| !(0..EDITS).any(|edit| edit * 7_919 % size.virtual_services == *number))
    {
        assert_eq!(mark(&mut client, &yaml::host(number, size)).await, Ok(number.to_string()));
    }
    stop.store(true, Ordering::Relaxed);
    let (worst, count) = flow.await.expect("no panic").expect("no request fails");
    println!("{count} requests meanwhile, the slowest {worst:?}");
    assert!(!optimised() || worst < Duration::from_millis(500), "a request waited {worst:?}");
    println!("the proxy holds {:.0} MiB", resident_mib(proxy.id().expect("it runs")));
    proxy.kill().await.expect("the proxy ends");
}

fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_costs_the_same_among_ten_virtual_services_and_ten_thousand() {
    let Some(valgrind) = price::tools() else { return };
    let small = instructions_per_request(&valgrind, Size::SMALL).await;
    let big = instructions_per_request(&valgrind, whole()).await;
    println!("instructions per request: {small:.0} among 10 VirtualServices, {big:.0} among {}", whole().virtual_services);
    assert!(big < small * 1.03, "{big:.0} instead of {small:.0} instructions per request");
}
