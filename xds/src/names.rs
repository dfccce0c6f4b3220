//! The one grammar of resource names, as Istio's: parse and print. No I/O.
//!
//! In:  the parts of a name, or a name from the wire.
//! Out: [`ClusterName`], [`RouteName`], [`ListenerName`], [`VirtualHostName`], [`VirtualHostResource`], and their parts.
//!
//! Any text is a name, because a peer may choose its own; `parts()` says which of the known forms it has, or `Other`.

use std::{borrow::Borrow, fmt, net::IpAddr, ops::Deref, sync::Arc};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The shared text, without a copy.
            pub fn shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }
        impl From<$name> for Arc<str> {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }
        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

// ---- clusters

/// Where an unknown destination goes under `ALLOW_ANY`.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// A cluster without endpoints: where nothing should go.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";

name! {
    /// `outbound|<port>|<subset>|<host>`, `inbound|<port>||`, `PassthroughCluster`, `BlackHoleCluster`.
    /// Source: Istio's `model.BuildSubsetKey` and `BuildInboundSubsetKey`.
    ClusterName
}

/// What a cluster's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterParts<'a> {
    /// A service port as its clients see it; `subset` is empty for the whole service.
    Outbound {
        port: u16,
        subset: &'a str,
        host: &'a str,
    },
    /// The application beside the proxy; `port` is its container port.
    Inbound {
        port: u16,
    },
    Passthrough,
    BlackHole,
    Other(&'a str),
}

impl ClusterName {
    /// `subset` is empty for the whole service; it must not have a `|` (no label name or subset name has).
    pub fn outbound(port: u16, subset: &str, host: &str) -> Self {
        Self(format!("outbound|{port}|{subset}|{host}").into())
    }

    pub fn inbound(container_port: u16) -> Self {
        Self(format!("inbound|{container_port}||").into())
    }

    pub fn passthrough() -> Self {
        Self(PASSTHROUGH_CLUSTER.into())
    }

    pub fn black_hole() -> Self {
        Self(BLACK_HOLE_CLUSTER.into())
    }

    pub fn parts(&self) -> ClusterParts<'_> {
        ClusterParts::parse(&self.0)
    }
}

impl<'a> ClusterParts<'a> {
    pub fn parse(name: &'a str) -> Self {
        match name {
            PASSTHROUGH_CLUSTER => return Self::Passthrough,
            BLACK_HOLE_CLUSTER => return Self::BlackHole,
            _ => {}
        }
        let mut parts = name.splitn(4, '|');
        match (parts.next(), parts.next().and_then(port), parts.next(), parts.next()) {
            (Some("outbound"), Some(port), Some(subset), Some(host)) if !host.is_empty() => Self::Outbound { port, subset, host },
            (Some("inbound"), Some(port), Some(""), Some("")) => Self::Inbound { port },
            _ => Self::Other(name),
        }
    }
}

// ---- route configurations

/// The route configuration (and the listener) of the explicit mode.
pub const HTTP_PROXY: &str = "http_proxy";

name! {
    /// `http_proxy`, `<port>`, `http.<port>` at a gateway, `inbound|<container port>||`.
    RouteName
}

/// What a route configuration's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteParts<'a> {
    /// Explicit mode: every service on every port.
    HttpProxy,
    /// Every HTTP service on this service port.
    Port(u16),
    /// The HTTP servers of a gateway on this port.
    Gateway(u16),
    /// To the application; inline in its listener.
    Inbound {
        port: u16,
    },
    Other(&'a str),
}

impl RouteName {
    pub fn http_proxy() -> Self {
        Self(HTTP_PROXY.into())
    }

    pub fn port(port: u16) -> Self {
        Self(port.to_string().into())
    }

    pub fn gateway(port: u16) -> Self {
        Self(format!("http.{port}").into())
    }

    pub fn inbound(container_port: u16) -> Self {
        Self(format!("inbound|{container_port}||").into())
    }

    pub fn parts(&self) -> RouteParts<'_> {
        RouteParts::parse(&self.0)
    }
}

impl<'a> RouteParts<'a> {
    pub fn parse(name: &'a str) -> Self {
        if name == HTTP_PROXY {
            Self::HttpProxy
        } else if let Some(port) = port(name) {
            Self::Port(port)
        } else if let Some(port) = name.strip_prefix("http.").and_then(port) {
            Self::Gateway(port)
        } else if let ClusterParts::Inbound { port } = ClusterParts::parse(name) {
            Self::Inbound { port }
        } else {
            Self::Other(name)
        }
    }
}

// ---- listeners

/// The listener of captured outbound connections, port 15001.
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener of captured inbound connections, port 15006.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";

name! {
    /// `http_proxy`, `virtualOutbound`, `virtualInbound`, `<ip>_<port>`. Source: Istio's `getListenerName`.
    ListenerName
}

/// What a listener's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerParts<'a> {
    HttpProxy,
    VirtualOutbound,
    VirtualInbound,
    /// `0.0.0.0_<port>`, `<vip>_<port>`, or an inbound address.
    Address {
        ip: IpAddr,
        port: u16,
    },
    Other(&'a str),
}

impl ListenerName {
    pub fn http_proxy() -> Self {
        Self(HTTP_PROXY.into())
    }

    pub fn virtual_outbound() -> Self {
        Self(VIRTUAL_OUTBOUND.into())
    }

    pub fn virtual_inbound() -> Self {
        Self(VIRTUAL_INBOUND.into())
    }

    pub fn address(ip: IpAddr, port: u16) -> Self {
        Self(format!("{ip}_{port}").into())
    }

    pub fn parts(&self) -> ListenerParts<'_> {
        ListenerParts::parse(&self.0)
    }
}

impl<'a> ListenerParts<'a> {
    pub fn parse(name: &'a str) -> Self {
        match name {
            HTTP_PROXY => return Self::HttpProxy,
            VIRTUAL_OUTBOUND => return Self::VirtualOutbound,
            VIRTUAL_INBOUND => return Self::VirtualInbound,
            _ => {}
        }
        let address = name.rsplit_once('_').and_then(|(ip, number)| Some((ip.parse().ok()?, port(number)?)));
        match address {
            Some((ip, port)) => Self::Address { ip, port },
            None => Self::Other(name),
        }
    }
}

// ---- virtual hosts

/// The last virtual host under `ALLOW_ANY`.
pub const ALLOW_ANY: &str = "allow_any";
/// The last virtual host under `REGISTRY_ONLY`.
pub const BLOCK_ALL: &str = "block_all";

name! {
    /// `<fqdn>:<port>`, `allow_any`, `block_all`.
    VirtualHostName
}

/// What a virtual host's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualHostParts<'a> {
    Host { host: &'a str, port: u16 },
    AllowAny,
    BlockAll,
    Other(&'a str),
}

impl VirtualHostName {
    pub fn host(host: &str, port: u16) -> Self {
        Self(format!("{host}:{port}").into())
    }

    pub fn allow_any() -> Self {
        Self(ALLOW_ANY.into())
    }

    pub fn block_all() -> Self {
        Self(BLOCK_ALL.into())
    }

    pub fn parts(&self) -> VirtualHostParts<'_> {
        match &*self.0 {
            ALLOW_ANY => VirtualHostParts::AllowAny,
            BLOCK_ALL => VirtualHostParts::BlockAll,
            name => match name.rsplit_once(':').and_then(|(host, number)| Some((host, port(number)?))) {
                Some((host, port)) if !host.is_empty() => VirtualHostParts::Host { host, port },
                _ => VirtualHostParts::Other(name),
            },
        }
    }
}

name! {
    /// The name of a virtual host as a resource of its own: `<route config>/<virtual host name>` (VHDS).
    VirtualHostResource
}

impl VirtualHostResource {
    /// `route` must not have a `/`; no route name above has.
    pub fn new(route: &str, virtual_host: &str) -> Self {
        Self(format!("{route}/{virtual_host}").into())
    }

    /// (route configuration, virtual host); `None` when a part is missing.
    pub fn parts(&self) -> Option<(&str, &str)> {
        Self::split(&self.0)
    }

    /// [`Self::parts`] of a text.
    pub fn split(name: &str) -> Option<(&str, &str)> {
        name.split_once('/').filter(|(route, host)| !route.is_empty() && !host.is_empty())
    }
}

/// A port as names print it: decimal, without sign or leading zero, so that every name has one spelling.
fn port(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cluster_names_parse() {
        use ClusterParts::*;
        let cases = [
            (
                "outbound|80|v1|reviews.default.svc.cluster.local",
                Outbound { port: 80, subset: "v1", host: "reviews.default.svc.cluster.local" },
            ),
            ("outbound|443||*.example.com", Outbound { port: 443, subset: "", host: "*.example.com" }),
            ("inbound|9080||", Inbound { port: 9080 }),
            ("PassthroughCluster", Passthrough),
            ("BlackHoleCluster", BlackHole),
            ("", Other("")),
            ("outbound|80||", Other("outbound|80||")),
            ("outbound|080||a", Other("outbound|080||a")),
            ("outbound|+80||a", Other("outbound|+80||a")),
            ("outbound|65536||a", Other("outbound|65536||a")),
            ("outbound|80|a", Other("outbound|80|a")),
            ("inbound|9080|http|", Other("inbound|9080|http|")),
            ("Outbound|80||a", Other("Outbound|80||a")),
        ];
        for (name, want) in cases {
            assert_eq!(ClusterName::from(name).parts(), want, "{name}");
        }
    }

    #[test]
    fn route_names_parse() {
        use RouteParts::*;
        let cases = [
            ("http_proxy", HttpProxy),
            ("80", Port(80)),
            ("http.8080", Gateway(8080)),
            ("inbound|9080||", Inbound { port: 9080 }),
            ("080", Other("080")),
            ("http.", Other("http.")),
            ("https.443.https.gw.default", Other("https.443.https.gw.default")),
        ];
        for (name, want) in cases {
            assert_eq!(RouteName::from(name).parts(), want, "{name}");
        }
    }

    #[test]
    fn listener_names_parse() {
        use ListenerParts::*;
        let address = |ip: &str, port| Address { ip: ip.parse().unwrap(), port };
        let cases = [
            ("http_proxy", HttpProxy),
            ("virtualOutbound", VirtualOutbound),
            ("virtualInbound", VirtualInbound),
            ("0.0.0.0_80", address("0.0.0.0", 80)),
            ("240.240.1.2_3306", address("240.240.1.2", 3306)),
            ("::1_80", address("::1", 80)),
            ("0.0.0.0", Other("0.0.0.0")),
            ("localhost_80", Other("localhost_80")),
        ];
        for (name, want) in cases {
            assert_eq!(ListenerName::from(name).parts(), want, "{name}");
        }
    }

    #[test]
    fn virtual_host_names_parse() {
        use VirtualHostParts::*;
        let cases = [
            ("a.default.svc.cluster.local:80", Host { host: "a.default.svc.cluster.local", port: 80 }),
            ("*.example.com:443", Host { host: "*.example.com", port: 443 }),
            ("allow_any", AllowAny),
            ("block_all", BlockAll),
            ("a", Other("a")),
            (":80", Other(":80")),
        ];
        for (name, want) in cases {
            assert_eq!(VirtualHostName::from(name).parts(), want, "{name}");
        }
        assert_eq!(VirtualHostResource::from("80/a:80").parts(), Some(("80", "a:80")));
        assert_eq!(VirtualHostResource::from("80").parts(), None);
        assert_eq!(VirtualHostResource::from("/a").parts(), None);
    }

    proptest! {
        #[test]
        fn printed_names_parse_back(port: u16, subset in "[a-z0-9-]{0,20}", host in "[a-z0-9*][a-z0-9.-]{0,60}", ip: IpAddr) {
            let cluster = ClusterName::outbound(port, &subset, &host);
            prop_assert_eq!(cluster.parts(), ClusterParts::Outbound { port, subset: &subset, host: &host });
            let (inbound, own) = (ClusterName::inbound(port), RouteName::inbound(port));
            prop_assert_eq!(inbound.parts(), ClusterParts::Inbound { port });
            prop_assert_eq!(own.parts(), RouteParts::Inbound { port });
            let (by_port, gateway) = (RouteName::port(port), RouteName::gateway(port));
            prop_assert_eq!(by_port.parts(), RouteParts::Port(port));
            prop_assert_eq!(gateway.parts(), RouteParts::Gateway(port));
            let listener = ListenerName::address(ip, port);
            prop_assert_eq!(listener.parts(), ListenerParts::Address { ip, port });
            let virtual_host = VirtualHostName::host(&host, port);
            prop_assert_eq!(virtual_host.parts(), VirtualHostParts::Host { host: &host, port });
            let resource = VirtualHostResource::new("http_proxy", &virtual_host);
            prop_assert_eq!(resource.parts(), Some(("http_proxy", virtual_host.as_str())));
        }

        #[test]
        fn parsing_any_text_neither_panics_nor_loses_it(text in ".{0,80}") {
            if let ClusterParts::Outbound { port, subset, host } = ClusterParts::parse(&text) {
                let printed = ClusterName::outbound(port, subset, host);
                prop_assert_eq!(printed.as_str(), text.as_str());
            }
            let _ = (RouteParts::parse(&text), ListenerParts::parse(&text), VirtualHostResource::split(&text));
            let _ = VirtualHostName::from(text.as_str()).parts().eq(&VirtualHostParts::AllowAny);
        }
    }
}
