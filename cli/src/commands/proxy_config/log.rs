//! `proxy-config log`.
//!
//! In:  a level, or levels by module. Out: what the proxy logs from now on.

use hyper::Method;

use super::Source;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  pillion proxy-config log visitor
  pillion proxy-config log visitor --level debug
  pillion proxy-config log visitor --level info,pillion_proxy::config=debug";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// `debug`, or by module: `info,pillion_proxy::config=debug`; as istioctl spells it (`http:debug`) for a stock Envoy.
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
}

pub async fn show(args: &Args) -> anyhow::Result<()> {
    if args.source.file.is_some() {
        return Err(output::Misuse("--file: a dump does not say what is logged; name a workload".to_owned()).into());
    }
    let pages = args.source.pages().await?;
    let answer = pages.ask(Method::POST, &path(args.level.as_deref())).await?;
    output::say(&format!("{}:\n{}", pages.proxy, String::from_utf8_lossy(&answer).trim_end()));
    Ok(())
}

fn path(level: Option<&str>) -> String {
    let Some(level) = level else { return "/logging".to_owned() };
    let key = if level.contains(':') && !level.contains('=') && !level.contains("::") { "paths" } else { "level" };
    format!("/logging?{key}={}", encode(level))
}

/// Percent-encoded, but for what every query may have.
fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b',' | b':' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_asked_for_as_each_proxy_takes_them() {
        let cases = [
            (None, "/logging"),
            (Some("debug"), "/logging?level=debug"),
            (Some("info,pillion_proxy::config=debug"), "/logging?level=info,pillion_proxy::config%3Ddebug"),
            (Some("http:debug,redis:info"), "/logging?paths=http:debug,redis:info"),
            (Some("a b&c"), "/logging?level=a%20b%26c"),
        ];
        for (level, want) in cases {
            assert_eq!(path(level), want);
        }
    }
}
