//! The YAML of a big mesh, and the one backend behind all of its endpoints.
//!
//! In:  a size.
//! Out: files of 100 VirtualServices each; every rule marks its answers with its own number.

use std::{convert::Infallible, fmt::Write as _, path::Path};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pillion_e2e::mesh::write_by_rename;
use tokio::net::TcpListener;

/// The response header that tells which rule was applied.
pub const MARK: &str = "x-rule";
const PER_FILE: usize = 100;
const ENDPOINTS: usize = 10;

/// How big a mesh is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub virtual_services: usize,
    pub services: usize,
}

impl Size {
    pub const SMALL: Self = Self { virtual_services: 10, services: 10 };
}

/// The host of a VirtualService: the first are for services, the others for names that only they know.
pub fn host(number: usize, size: Size) -> String {
    if number < size.services { format!("service-{number}.example") } else { format!("alias-{number}.example") }
}

fn service_entry(text: &mut String, number: usize, port: u16) {
    let _ = write!(
        text,
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: service-{number}}}
spec:
  hosts: [service-{number}.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
"
    );
    for endpoint in 0..ENDPOINTS {
        let (high, low) = (number / 250, number % 250 + 1);
        let _ = writeln!(text, "  - {{address: 127.{}.{high}.{low}, ports: {{http: {port}}}}}", endpoint + 10);
    }
}

fn virtual_service(text: &mut String, number: usize, size: Size, mark: &str) {
    let (host, service) = (host(number, size), number % size.services);
    let _ = write!(
        text,
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: rule-{number}}}
spec:
  hosts: [{host}]
  http:
  - match:
    - uri: {{prefix: /api/v1/}}
      headers: {{end-user: {{exact: jason}}}}
    - uri: {{regex: '/items/[0-9]+'}}
    rewrite: {{uri: /}}
    route: [{{destination: {{host: service-{service}.example}}}}]
  - headers: {{response: {{set: {{{MARK}: '{mark}'}}}}}}
    route: [{{destination: {{host: service-{service}.example}}}}]
    timeout: 5s
    retries: {{attempts: 2, retryOn: connect-failure}}
"
    );
}

fn write_rules(folder: &Path, size: Size, file: usize, mark: impl Fn(usize) -> String) {
    let mut text = String::new();
    for number in (file * PER_FILE..(file + 1) * PER_FILE).take_while(|number| *number < size.virtual_services) {
        virtual_service(&mut text, number, size, &mark(number));
    }
    write_by_rename(&folder.join(format!("rules-{file:03}.yaml")), &text);
}

/// Writes the whole mesh; every endpoint listens on `port`.
pub fn write(folder: &Path, size: Size, port: u16) {
    let mut text = String::new();
    (0..size.services).for_each(|number| service_entry(&mut text, number, port));
    write_by_rename(&folder.join("services.yaml"), &text);
    (0..size.virtual_services.div_ceil(PER_FILE)).for_each(|file| write_rules(folder, size, file, |number| number.to_string()));
}

/// Changes one rule: only its file is written.
pub fn write_edited(folder: &Path, size: Size, edited: usize, mark: &str) {
    let mark = |number: usize| if number == edited { mark.to_owned() } else { number.to_string() };
    write_rules(folder, size, edited / PER_FILE, mark);
}

/// Answers at every address of the loopback network; its port.
pub async fn backend() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n")))) });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    port
}
