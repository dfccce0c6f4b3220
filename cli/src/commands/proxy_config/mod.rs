//! `pillion proxy-config`: what one proxy has in force, in the columns of `istioctl proxy-config`.
//!
//! In:  a workload's admin pages (found through the running mesh, or given), or a saved `/config_dump`.
//! Out: tables or the resources as JSON; exit code 2 for an unknown workload, 3 when nobody answers.

mod clusters;
mod dump;
mod endpoints;
mod listeners;
mod log;
mod routes;
mod source;

use std::process::ExitCode;

use crate::output::{self, Format};
use source::Source;

const EXAMPLES: &str = "\
Examples:
  pillion proxy-config clusters product-v1
  pillion proxy-config routes visitor --name 80 -o json
  pillion proxy-config listeners istio-ingressgateway.istio-system
  pillion proxy-config endpoints visitor --cluster 'outbound|80||product-service.default.svc.cluster.local'
  pillion proxy-config log product-v1 --level debug

  curl -s \"$ADMIN/config_dump?include_eds\" > dump.json       ADMIN: `admin` of the workload in `pillion run --json`
  pillion proxy-config clusters --file dump.json              a dump of a stock Envoy is read, too

A workload is named as NAME, NAME.NAMESPACE or NAMESPACE/NAME, or by one of its replicas; without a replica the first one answers.
Exit code: 0, 1 failed, 2 wrong use or no such workload, 3 when nobody answers.";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Clusters: where requests can go; who serves them is in `endpoints`.
    #[command(visible_aliases = ["cluster", "c"])]
    Clusters(clusters::Args),
    /// Listeners and where their filter chains lead.
    #[command(visible_aliases = ["listener", "l"])]
    Listeners(listeners::Args),
    /// Routes of every virtual host.
    #[command(visible_aliases = ["route", "r"])]
    Routes(routes::Args),
    /// Endpoints and how they stand.
    #[command(visible_aliases = ["endpoint", "ep"])]
    Endpoints(endpoints::Args),
    /// What the proxy logs; changed with --level.
    Log(log::Args),
}

/// How to print.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Print {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

/// Asks and prints.
pub fn run(args: Args) -> ExitCode {
    output::finish(async {
        match args.what {
            What::Clusters(args) => clusters::show(&args).await,
            What::Listeners(args) => listeners::show(&args).await,
            What::Routes(args) => routes::show(&args).await,
            What::Endpoints(args) => endpoints::show(&args).await,
            What::Log(args) => log::show(&args).await,
        }?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints rows under a header, or the things themselves.
fn print<const N: usize>(
    print: Print,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    things: &[&serde_json::Value],
) -> anyhow::Result<()> {
    if print.output == Format::Json {
        return output::json(&things);
    }
    let mut table = output::table(header);
    for row in rows {
        table.add_row(row);
    }
    output::say(&table.to_string());
    Ok(())
}
