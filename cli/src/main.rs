//! `pillion`: the user's command. It links both planes, so that one binary is a whole mesh on a laptop.
//!
//! In:  arguments.
//! Out: an exit code: 0 done, 1 failed or findings, 2 misuse, 127 a child's program that is not there.
#![deny(unsafe_code)]

mod admin_client;
mod commands;
mod local;
mod output;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  pillion run                          the example shop, on this machine
  pillion run ./mesh                   your own YAML: Istio's kinds, Services, and Workloads that say how to start programs
  pillion validate ./mesh              what is wrong with it, with file, line and remedy
  kustomize build . | pillion validate -
  pillion status                       what the running mesh has in force
  pillion proxies                      every proxy, and the generation it has
  pillion proxy-config routes product-v1       what one proxy does with requests
  pillion translate ./mesh --workload default/product-v1 --out ./out      the same as files, for Envoy too

Guide: docs/ in the repository. Colour: --color, or the variables NO_COLOR and CLICOLOR_FORCE.";

/// A service mesh that takes Istio's YAML: a proxy beside each service, and a control plane that tells the proxies what to do.
#[derive(Debug, Parser)]
#[command(name = "pillion", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole mesh on this machine: control plane, a sidecar per workload, and the programs.
    Run(commands::run::Args),
    /// Check YAML and explain what it will do.
    Validate(commands::validate::Args),
    /// Write what one workload's proxy would be told as files for Envoy, or for `pillion-proxy --resources`.
    Translate(commands::translate::Args),
    /// Show what the running mesh has in force, and what is wrong.
    Status(commands::status::Args),
    /// List the proxies of the running mesh.
    Proxies(commands::proxies::Args),
    /// Say of each proxy what it has of clusters, listeners, endpoints and routes: istioctl's table.
    #[command(visible_alias = "ps")]
    ProxyStatus(commands::proxy_status::Args),
    /// Show what one proxy has in force, in istioctl's columns.
    #[command(visible_alias = "pc")]
    ProxyConfig(commands::proxy_config::Args),
    /// Run one sidecar or gateway by itself (`pillion proxy --help`).
    #[command(disable_help_flag = true)]
    Proxy(Passed),
    /// Run the control plane by itself (`pillion control-plane --help`).
    #[command(disable_help_flag = true)]
    ControlPlane(Passed),
    /// Run one service of the example shop (`pillion shop --help`).
    #[command(disable_help_flag = true)]
    Shop(Passed),
    /// Become a command that dies with its parent.
    #[command(hide = true)]
    Child(commands::child::Args),
    /// End what a killed mesh left behind.
    #[command(hide = true)]
    Sweep(commands::sweep::Args),
    /// Print the version.
    Version,
}

/// Arguments that another program of this binary reads.
#[derive(Debug, clap::Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = other_program(&arguments) {
        return code;
    }
    let cli = Cli::parse_from(arguments);
    colors(cli.color);
    match cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Validate(args) => commands::validate::run(args),
        Command::Translate(args) => commands::translate::run(&args),
        Command::Status(args) => commands::status::run(args),
        Command::Proxies(args) => commands::proxies::run(args),
        Command::ProxyStatus(args) => commands::proxy_status::run(args),
        Command::ProxyConfig(args) => commands::proxy_config::run(args),
        Command::Child(args) => commands::child::run(&args),
        Command::Sweep(args) => commands::sweep::run(args),
        Command::Version => commands::version::run(),
        // Reached only with a global flag before the word, such as `pillion --color never proxy …`.
        Command::Proxy(passed) => run_other("proxy", passed.arguments),
        Command::ControlPlane(passed) => run_other("control-plane", passed.arguments),
        Command::Shop(passed) => run_other("shop", passed.arguments),
    }
}

/// The programs that read their own arguments. A mesh starts dozens of them at once, so they do not wait for the command tree.
fn other_program(arguments: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = arguments.get(1..)?.split_first()?;
    let word = word.to_str()?;
    matches!(word, "proxy" | "control-plane" | "shop").then(|| run_other(word, rest.to_vec()))
}

fn run_other(word: &str, rest: Vec<OsString>) -> ExitCode {
    let arguments = std::iter::once(OsString::from(format!("pillion {word}"))).chain(rest);
    match word {
        "proxy" => pillion_proxy::main_with(arguments),
        "control-plane" => pillion_control_plane::main_with(arguments),
        _ => pillion_shop::main_with(arguments),
    }
}

fn colors(color: Color) {
    let choice = match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn other_programs_get_their_arguments_untouched() {
        let cli = Cli::try_parse_from(["pillion", "--color", "never", "proxy", "--help", "-x", "--color=1"]).unwrap();
        let Command::Proxy(passed) = cli.command else { panic!("{cli:?}") };
        assert_eq!(passed.arguments, ["--help", "-x", "--color=1"]);
    }

    #[test]
    fn misuse_is_exit_code_two() {
        for arguments in [&["pillion", "nonsense"][..], &["pillion", "run", "--nonsense"], &["pillion", "run", "--api", "x"]] {
            assert_eq!(Cli::try_parse_from(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }
}
