//! What a proxy has in force, asked as a user asks: `/config_dump`, `pillion proxy-status`, `pillion proxy-config`, live and from a file.

use std::fs;

use pillion_e2e::{binary, client, mesh::Mesh};
use pillion_xds::json::Descriptors;
use tokio::process::Command;

/// Exit code, standard output, standard error.
async fn pillion(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary("pillion")).args(words).output().await.expect("pillion starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn lines(text: &str) -> Vec<Vec<String>> {
    let split = |line: &str| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    text.lines().map(split).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_has_envoys_shape_and_everything_in_force() {
    let mesh = Mesh::example("canary").await;
    let admin = mesh.admin("visitor");
    let descriptors = Descriptors::load().expect("descriptors");
    for query in ["", "?include_eds", "?include_eds&name_regex=.*product.*"] {
        let dump = client::get(&admin, &format!("/config_dump{query}")).await.json();
        descriptors.from_json("envoy.admin.v3.ConfigDump", dump.clone()).unwrap_or_else(|error| panic!("{query}: {error}: {dump:#}"));
        let kinds: Vec<&str> = dump["configs"].as_array().into_iter().flatten().filter_map(|config| config["@type"].as_str()).collect();
        let short: Vec<&str> = kinds.iter().filter_map(|kind| kind.rsplit('.').next()).collect();
        let with_endpoints =
            ["BootstrapConfigDump", "ClustersConfigDump", "EndpointsConfigDump", "ListenersConfigDump", "RoutesConfigDump"];
        let want: Vec<&str> = with_endpoints.into_iter().filter(|kind| !query.is_empty() || *kind != "EndpointsConfigDump").collect();
        assert_eq!(short, want, "{query}");
    }
    let dump = client::get(&admin, "/config_dump?resource=dynamic_route_configs&name_regex=http_proxy").await.json();
    let routes = &dump["configs"][0];
    let hosts = routes["route_config"]["virtual_hosts"].as_array().cloned().unwrap_or_default();
    assert!(hosts.iter().any(|host| host["name"] == "product-service.default.svc.cluster.local:80"), "{routes:#}");
    assert!(routes["last_updated"].as_str().is_some_and(|time| time.ends_with('Z')), "{routes:#}");
    let masked = client::get(&admin, "/config_dump?resource=dynamic_listeners&mask=name").await.json();
    let first = masked["configs"][0].as_object().cloned().unwrap_or_default();
    assert_eq!(first.keys().map(String::as_str).collect::<Vec<_>>(), ["@type", "name"]);
    let missing = client::get(&admin, "/config_dump?resource=nothing").await;
    assert!(missing.status == 404 && missing.text().contains("dynamic_listeners"), "{}", missing.text());
    assert_eq!(client::get(&admin, "/config_dump?name_regex=(").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_those_of_istioctl_live_and_from_a_file() {
    let mesh = Mesh::example("canary").await;
    let api = mesh.ready["api"].as_str().expect("an address").to_owned();
    let (code, status, error) = pillion(&["proxy-status", "--api", &api]).await;
    let rows = lines(&status);
    assert_eq!(rows[0], ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"]);
    let visitor = rows.iter().find(|row| row[0] == "visitor-0.default").unwrap_or_else(|| panic!("{status}{error}"));
    assert_eq!(visitor[1..7], ["Kubernetes", "SYNCED", "SYNCED", "SYNCED", "SYNCED", "NOT SENT"]);
    assert!(code == 0 && visitor[8].starts_with("pillion "), "{visitor:?}");

    let dump = mesh.dir.join("dump.json");
    fs::write(&dump, client::get(&mesh.admin("visitor"), "/config_dump?include_eds").await.text()).expect("writable");
    let dump = dump.to_str().expect("a plain path");
    for what in ["clusters", "listeners", "routes", "endpoints"] {
        let live = pillion(&["proxy-config", what, "visitor", "--api", &api]).await;
        let saved = pillion(&["proxy-config", what, "--file", dump]).await;
        assert_eq!((live.0, saved.0), (0, 0), "{what}: {} {}", live.2, saved.2);
        let (mut shown, saved) = (lines(&live.1), lines(&saved.1));
        if what == "endpoints" {
            // The proxy knows of those that stand in clusters, too.
            shown.retain(|row| row[3] == "CLUSTER" || row[3].starts_with("outbound"));
        }
        assert_eq!(shown, saved, "{what}");
    }
    let (_, clusters, _) = pillion(&["pc", "clusters", "visitor", "--api", &api, "--subset", "v1"]).await;
    let want = ["product-service.default.svc.cluster.local", "80", "v1", "outbound", "EDS", "product-service.default"];
    assert_eq!(lines(&clusters)[1], want);
    let (_, routes, _) = pillion(&["pc", "routes", "visitor", "--api", &api, "--name", "http_proxy"]).await;
    let row = lines(&routes).into_iter().find(|row| row[1].starts_with("product-service")).unwrap_or_else(|| panic!("{routes}"));
    assert_eq!(row[3..], ["/*", "product-service.default"]);
    let (_, json, _) = pillion(&["pc", "endpoints", "visitor", "--api", &api, "-o", "json"]).await;
    assert!(serde_json::from_str::<Vec<serde_json::Value>>(&json).is_ok_and(|all| all.len() > 2), "{json}");

    let (code, said, error) = pillion(&["pc", "log", "visitor", "--api", &api, "--level", "warn,pillion_proxy::config=debug"]).await;
    assert!(code == 0 && said.starts_with("visitor-0.default:\n") && said.contains("pillion_proxy::config=debug"), "{said}{error}");
    let (code, _, error) = pillion(&["pc", "routes", "vistor", "--api", &api]).await;
    assert!(code == 2 && error.contains("did you mean visitor?"), "{code} {error}");
    assert_eq!(pillion(&["pc", "routes"]).await.0, 2);
    assert_eq!(pillion(&["pc", "routes", "--admin", "127.0.0.1:1"]).await.0, 3);
}
