//! What a request costs in instructions, which a busy machine does not change.
//!
//! In:  the size of a mesh.
//! Out: user-space instructions of the whole proxy per request, counted by valgrind's callgrind between two points of a steady load.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pillion_e2e::{client::Client, peers, planes::Planes};
use tokio::process::Command;

use super::yaml::{self, Size};

const WARM: usize = 2_000;
const COUNTED: usize = 4_000;
/// A program under valgrind is fifty times as slow.
const LOADED_WITHIN: Duration = Duration::from_secs(240);

/// The programs that count; none where they are not installed.
pub fn tools() -> Option<[PathBuf; 2]> {
    Some([peers::find("valgrind")?, peers::find("callgrind_control")?])
}

async fn requests(client: &mut Client, count: usize) {
    for number in 0..count {
        let host = yaml::host(number % Size::SMALL.services, Size::SMALL);
        let answer = client.get(&format!("http://{host}/")).await.expect("an answer");
        assert_eq!(answer.header(yaml::MARK), (number % Size::SMALL.services).to_string(), "{host}: {}", answer.status);
    }
}

async fn switch(control: &Path, position: &str, pid: u32) {
    let output = Command::new(control).args(["-i", position, &pid.to_string()]).output().await.expect("callgrind_control runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a mesh of that size and counts over the hosts of the small one, so that only the size differs.
pub async fn instructions_per_request([valgrind, control]: &[PathBuf; 2], size: Size) -> f64 {
    let port = yaml::backend().await;
    let planes = Planes::new().await;
    yaml::write(&planes.config(), size, port);
    let sidecar = planes.sidecar("priced").await;
    let _control_plane = planes.control_plane();
    let log = planes.path("valgrind.log");
    let mut arguments = vec!["--tool=callgrind".to_owned(), "--instr-atstart=no".into(), format!("--log-file={}", log.display())];
    arguments.push(format!("--callgrind-out-file={}", planes.path("callgrind.out").display()));
    arguments.push(pillion_e2e::binary("pillion-proxy").to_string_lossy().into_owned());
    arguments.extend(planes.arguments(&sidecar));
    arguments.extend(["--workers".to_owned(), "1".into()]);
    let mut proxy = planes.spawn(valgrind, "pillion-proxy.log", &arguments);
    let pid = proxy.id().expect("it runs");

    let begun = Instant::now();
    let mut client = Client::new(&sidecar.outbound);
    let last = yaml::host(size.virtual_services - 1, size);
    while !client.get(&format!("http://{last}/")).await.is_ok_and(|answer| answer.status.is_success()) {
        assert!(begun.elapsed() < LOADED_WITHIN, "the proxy does not serve under valgrind\n{}", planes.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    requests(&mut client, WARM).await;
    switch(control, "on", pid).await;
    requests(&mut client, COUNTED).await;
    switch(control, "off", pid).await;

    let ended = Command::new("kill").arg(pid.to_string()).status().await;
    assert!(ended.is_ok_and(|status| status.success()), "the proxy can be told to end");
    let _ = tokio::time::timeout(LOADED_WITHIN, proxy.wait()).await.expect("the proxy ends");
    let text = fs::read_to_string(&log).expect("valgrind's log");
    let collected = text.lines().find_map(|line| line.split("Collected :").nth(1)).unwrap_or_else(|| panic!("no count in {text}"));
    collected.trim().parse::<f64>().expect("a number") / COUNTED as f64
}
