//! Which proxy is asked, and where: by its name through the control plane, by an address, or a file in its place.
//!
//! In:  a workload's name, `--admin`, `--file`.
//! Out: its admin pages; its configuration dump.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{
    admin_client::{AdminPages, Api, Where, authority},
    commands::{
        proxies::{List, Proxy},
        suggest,
    },
    output::Misuse,
};

/// Which proxy.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// The proxy of this workload.
    #[arg(value_name = "WORKLOAD", required_unless_present_any = ["file", "admin"])]
    workload: Option<String>,
    /// A saved `/config_dump` instead of a running proxy; endpoints need `?include_eds`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload", "admin"])]
    pub file: Option<PathBuf>,
    /// Admin pages of a proxy that no control plane knows here, a stock Envoy for example.
    #[arg(long, value_name = "ADDR", value_parser = authority, conflicts_with = "workload")]
    admin: Option<String>,
    #[command(flatten)]
    api: Where,
}

impl Source {
    /// The configuration dump, endpoints included.
    pub async fn dump(&self) -> anyhow::Result<Value> {
        match &self.file {
            Some(file) => {
                let wrong = |reason: String| Misuse(format!("--file {}: {reason}", file.display()));
                let text = fs::read(file).map_err(|error| wrong(error.to_string()))?;
                let dump: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
                if !dump["configs"].is_array() {
                    return Err(wrong("it is no /config_dump: there is no list `configs` in it".to_owned()).into());
                }
                Ok(dump)
            }
            None => Ok(self.pages().await?.json("/config_dump?include_eds").await?),
        }
    }

    /// The admin pages of the proxy.
    pub async fn pages(&self) -> anyhow::Result<AdminPages> {
        if let Some(authority) = &self.admin {
            return Ok(AdminPages { proxy: "the proxy".to_owned(), authority: authority.clone() });
        }
        let name = self.workload.as_deref().unwrap_or_default();
        let list: List = Api::find(&self.api).get("/api/v1/proxies").await?;
        let proxy = choose(&list.proxies, name)?;
        let authority = proxy.admin.clone().ok_or_else(|| {
            let words = "does not say where its admin pages are; give their address with --admin, or a saved dump with --file";
            anyhow::anyhow!("{} ({}) {words}", proxy.name(), proxy.user_agent)
        })?;
        Ok(AdminPages { proxy: proxy.name(), authority })
    }
}

/// The proxy that `name` means: in the namespace `default` rather than in another, the first replica of a workload.
fn choose<'a>(proxies: &'a [Proxy], name: &str) -> Result<&'a Proxy, Misuse> {
    let mut meant: Vec<&Proxy> = proxies.iter().filter(|proxy| proxy.is_called(name)).collect();
    if meant.iter().any(|proxy| proxy.namespace == "default") {
        meant.retain(|proxy| proxy.namespace == "default");
    }
    meant.sort_by_key(|proxy| (proxy.instance.len(), proxy.instance.clone()));
    let Some(first) = meant.first() else {
        let known: Vec<String> = proxies.iter().map(spelling).collect();
        return Err(Misuse(suggest::unknown("proxy of a workload", name, &known)));
    };
    match meant.iter().find(|proxy| proxy.namespace != first.namespace) {
        None => Ok(first),
        Some(other) => Err(Misuse(format!("{name} may be {} or {}: say which", spelling(first), spelling(other)))),
    }
}

/// As short as it is clear.
fn spelling(proxy: &Proxy) -> String {
    match (proxy.workload.as_str(), proxy.namespace.as_str()) {
        ("", _) => proxy.name(),
        (workload, "default") => workload.to_owned(),
        (workload, namespace) => format!("{workload}.{namespace}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(instance: &str, workload: &str, namespace: &str) -> Proxy {
        Proxy { instance: instance.into(), workload: workload.into(), namespace: namespace.into(), ..Proxy::default() }
    }

    #[test]
    fn a_name_means_one_proxy_or_says_why_not() {
        let proxies = [
            proxy("a-10", "a", "default"),
            proxy("a-2", "a", "default"),
            proxy("a-0", "a", "shop"),
            proxy("b-0", "b", "x"),
            proxy("b-0", "b", "y"),
        ];
        let cases = [
            ("a", Ok("a-2.default")),
            ("a-10", Ok("a-10.default")),
            ("a.shop", Ok("a-0.shop")),
            ("shop/a-0", Ok("a-0.shop")),
            ("b.y", Ok("b-0.y")),
            ("b", Err("b may be b.x or b.y: say which")),
            ("c", Err("there is no proxy of a workload c; did you mean a?\n\nThere is: a, a, a.shop, b.x, b.y")),
        ];
        for (name, want) in cases {
            let got = choose(&proxies, name).map(Proxy::name).map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{name}");
        }
    }
}
