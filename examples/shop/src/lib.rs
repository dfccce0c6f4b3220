//! The shop: eight services in one small program. It knows nothing of any mesh; like every HTTP client it honours `http_proxy`.
//!
//! In:  arguments that name a service, `$PORT`, requests.
//! Out: JSON over HTTP, gRPC for the stock, a WebSocket with the orders' fate.
#![deny(unsafe_code)]

pub mod client;
mod faults;
mod server;
mod services;

use std::{ffi::OsString, net::SocketAddr, process::ExitCode};

use clap::{Parser, ValueEnum};

/// The inventory's messages and its client, for anybody who wants to talk to it.
pub mod inventory {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("shop.v1");
}

/// The shop as YAML: (path below the mesh folder, text).
pub const MESH_FILES: &[(&str, &str)] = &[
    ("services.yaml", include_str!("../mesh/services.yaml")),
    ("product-routes.yaml", include_str!("../mesh/product-routes.yaml")),
    ("order-routes.yaml", include_str!("../mesh/order-routes.yaml")),
    ("gateway.yaml", include_str!("../mesh/gateway.yaml")),
    ("mesh-config.yaml", include_str!("../mesh/mesh-config.yaml")),
    ("local/workloads.yaml", include_str!("../mesh/local/workloads.yaml")),
];

/// Which of the eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    ApiGateway,
    User,
    Product,
    Inventory,
    Order,
    Payment,
    Logistics,
    Notification,
}

/// One service of the shop.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "shop",
    about = "Runs one service of the example shop",
    after_help = "Example:\n  PORT=9080 pillion shop product --release v2"
)]
pub struct Args {
    /// The service to be.
    pub service: Service,
    /// What the service calls its release in its answers.
    #[arg(long, default_value = "v1")]
    pub release: String,
    /// Port on 127.0.0.1 for the first port.
    #[arg(long, env = "PORT", default_value_t = 9080)]
    pub port: u16,
    /// Port of the inventory's gRPC service.
    #[arg(long, env = "PORT_GRPC", default_value_t = 9090)]
    pub grpc_port: u16,
    /// Visits per second that the api-gateway makes up by itself; 0 for none.
    #[arg(long, env = "SHOP_VISITS_PER_SECOND", default_value_t = 0)]
    pub visits: u32,
    /// No visits of its own, whatever else says how many.
    #[arg(long, env = "QUIET", value_parser = clap::builder::BoolishValueParser::new(), default_value_t = false)]
    pub quiet: bool,
}

impl Args {
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

/// Runs a service until it is told to stop (SIGTERM or Ctrl-C).
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&args, &error),
    };
    match runtime.block_on(services::run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&args, &*error),
    }
}

fn failed(args: &Args, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("shop {:?} on port {}: {error}", args.service, args.port);
    ExitCode::FAILURE
}
