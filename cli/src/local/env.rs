//! The environment of a program in the local mesh: its ports, and how every common client library finds the sidecar.
//!
//! In:  the replica's ports, its sidecar's outbound address, what its Workload declares, what this process inherited.
//! Out: variables to set; `$(NAME)` in values and in commands is replaced as Kubernetes does it.

use std::collections::BTreeMap;

/// What the environment is made of.
#[derive(Clone, Debug, Default)]
pub struct Ingredients<'a> {
    /// Name (may be empty) and port on 127.0.0.1, in the Workload's order.
    pub ports: Vec<(&'a str, u16)>,
    /// The sidecar's port for outgoing requests.
    pub outbound: u16,
    /// The Workload's `env`, in its order.
    pub declared: &'a [(String, String)],
    /// `JAVA_TOOL_OPTIONS` of this process.
    pub java_tool_options: Option<&'a str>,
    /// Programs are asked to make no traffic of their own.
    pub quiet: bool,
}

/// Variables that name a proxy; set in both cases, because half of the libraries read one and half the other.
const PROXY: [&str; 3] = ["http_proxy", "https_proxy", "grpc_proxy"];
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// The program's variables, sorted by name; everything else it inherits from this process.
///
/// `PORT` and `PORT_<NAME>` are ours whatever the Workload declares: a Deployment that says `PORT=8080` for its pod means the pod's
/// network, and here many programs share one. Everything else that the Workload declares wins over ours.
pub fn environment(from: &Ingredients<'_>) -> BTreeMap<String, String> {
    let mut variables = ports(&from.ports);
    variables.extend(client_settings(from.outbound));
    if from.quiet {
        variables.insert("QUIET".into(), "1".into());
    }
    let ours = ports(&from.ports);
    for (name, value) in from.declared {
        if !ours.contains_key(name) {
            let value = expand(value, &variables);
            variables.insert(name.clone(), value);
        }
    }
    let java = variables.remove("JAVA_TOOL_OPTIONS").or_else(|| from.java_tool_options.map(str::to_owned));
    variables.insert("JAVA_TOOL_OPTIONS".into(), java_options(java.as_deref(), from.outbound));
    variables
}

fn ports(ports: &[(&str, u16)]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    if let Some((_, first)) = ports.first() {
        variables.insert("PORT".to_owned(), first.to_string());
    }
    for (name, port) in ports.iter().filter(|(name, _)| !name.is_empty()) {
        variables.insert(port_variable(name), port.to_string());
    }
    variables
}

/// `grpc-web` -> `PORT_GRPC_WEB`.
pub fn port_variable(name: &str) -> String {
    let upper: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("PORT_{upper}")
}

fn client_settings(outbound: u16) -> impl Iterator<Item = (String, String)> {
    let proxy = format!("http://127.0.0.1:{outbound}");
    let proxies = PROXY.into_iter().flat_map(|name| [name.to_owned(), name.to_uppercase()]).map(move |name| (name, proxy.clone()));
    let exceptions = ["no_proxy", "NO_PROXY"].map(|name| (name.to_owned(), NO_PROXY.to_owned()));
    // Node reads `http_proxy` only when it is told to (from 22.21 and 24 on).
    proxies.chain(exceptions).chain([("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned())])
}

fn java_options(before: Option<&str>, outbound: u16) -> String {
    let ours = format!(
        "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort={outbound} -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={outbound} \
         -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    );
    match before.map(str::trim).filter(|text| !text.is_empty()) {
        Some(before) => format!("{before} {ours}"),
        None => ours,
    }
}

/// Replaces `$(NAME)` by the variable's value; `$$(NAME)` stays as `$(NAME)`, and so does a name that is not there.
///
/// Source: Kubernetes, `command`, `args` and `env` of a container.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(after) = tail.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        match tail.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            Some((name, after)) if variables.contains_key(name) => {
                out.push_str(&variables[name]);
                rest = after;
            }
            _ => {
                out.push('$');
                rest = &tail[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(declared: &[(&str, &str)], java: Option<&str>) -> BTreeMap<String, String> {
        let declared: Vec<_> = declared.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment(&Ingredients {
            ports: vec![("http", 20_001), ("grpc-web", 20_002), ("", 20_003)],
            outbound: 20_010,
            declared: &declared,
            java_tool_options: java,
            quiet: false,
        })
    }

    #[test]
    fn every_client_finds_the_sidecar() {
        let variables = of(&[], None);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy", "GRPC_PROXY"] {
            assert_eq!(variables[name], "http://127.0.0.1:20010", "{name}");
        }
        assert_eq!(variables["no_proxy"], "localhost,127.0.0.1,::1");
        assert_eq!(variables["NO_PROXY"], "localhost,127.0.0.1,::1");
        assert_eq!(variables["NODE_USE_ENV_PROXY"], "1");
        assert!(variables["JAVA_TOOL_OPTIONS"].contains("-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=20010"));
        assert!(!variables.contains_key("QUIET"));
    }

    #[test]
    fn ports_have_the_first_and_each_name() {
        let variables = of(&[], None);
        let got: Vec<_> = variables.iter().filter(|(name, _)| name.starts_with("PORT")).map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(got, [("PORT", "20001"), ("PORT_GRPC_WEB", "20002"), ("PORT_HTTP", "20001")]);
    }

    #[test]
    fn a_declared_variable_wins_except_over_ports() {
        let cases = [
            ("its own", ("COLOR", "blue"), "COLOR", "blue"),
            ("over ours", ("http_proxy", ""), "http_proxy", ""),
            ("not over a port", ("PORT", "8080"), "PORT", "20001"),
            ("with a port inside", ("SELF", "127.0.0.1:$(PORT_HTTP)"), "SELF", "127.0.0.1:20001"),
        ];
        for (name, declared, variable, want) in cases {
            assert_eq!(of(&[declared], None)[variable], want, "{name}");
        }
    }

    #[test]
    fn java_options_are_appended() {
        let ours = of(&[], None)["JAVA_TOOL_OPTIONS"].clone();
        assert_eq!(of(&[], Some("-Xmx64m"))["JAVA_TOOL_OPTIONS"], format!("-Xmx64m {ours}"));
        assert_eq!(of(&[("JAVA_TOOL_OPTIONS", "-Xss1m")], Some("-Xmx64m"))["JAVA_TOOL_OPTIONS"], format!("-Xss1m {ours}"));
    }

    #[test]
    fn references_expand_as_in_kubernetes() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let cases = [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
        ];
        for (text, want) in cases {
            assert_eq!(expand(text, &variables), want, "{text}");
        }
    }
}
