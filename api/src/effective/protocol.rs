//! Which protocol a port speaks: it decides which rules apply at all.
//!
//! In:  `appProtocol`, port name, transport protocol and number of a Service, or `protocol` of a ServiceEntry or Gateway port.
//! Out: [`Protocol`].

use std::fmt;

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    Grpc,
    /// gRPC-Web: HTTP/1.1 or HTTP/2 requests, translated at a gateway.
    GrpcWeb,
    /// TLS that the proxy does not terminate, routed by SNI; at a gateway HTTP within terminated TLS.
    Https,
    Tls,
    Tcp,
    Mongo,
    Redis,
    Mysql,
    /// Not carried by the mesh.
    Udp,
    /// Not declared: sniffed (HTTP/1.1, HTTP/2 prior knowledge, TLS, else TCP).
    Unknown,
}

/// Well-known server-first ports, never sniffed: the proxy would wait for the client's first bytes for ever. Source: Istio's `protocol.Instance` rules.
const SERVER_FIRST: [u32; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// The protocol that a word names, in any case; `None` for a word Istio does not know. Source: `protocol.Parse`.
    pub fn parse(word: &str) -> Option<Self> {
        let known = [
            ("http", Self::Http),
            ("http2", Self::Http2),
            ("grpc", Self::Grpc),
            ("grpc-web", Self::GrpcWeb),
            ("https", Self::Https),
            ("tls", Self::Tls),
            ("tcp", Self::Tcp),
            ("mongo", Self::Mongo),
            ("redis", Self::Redis),
            ("mysql", Self::Mysql),
            ("udp", Self::Udp),
            ("kubernetes.io/h2c", Self::Http2),
            ("kubernetes.io/ws", Self::Http),
            ("kubernetes.io/wss", Self::Https),
        ];
        known.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, protocol)| *protocol)
    }

    /// Of a Kubernetes Service port: `transport` is its `protocol` (`TCP` when empty). `appProtocol`, else the name up to its first `-`
    /// (`grpc-web` counts whole), else sniffing, except for ports whose servers speak first.
    pub fn of_service_port(app_protocol: &str, name: &str, transport: &str, number: u32) -> Self {
        if transport.eq_ignore_ascii_case("UDP") {
            return Self::Udp;
        }
        if let Some(protocol) = Self::parse(app_protocol) {
            return protocol;
        }
        let prefix = match name.get(..8) {
            Some(web) if web.eq_ignore_ascii_case("grpc-web") => web,
            _ => name.split('-').next().unwrap_or(name),
        };
        Self::parse(prefix).unwrap_or(if SERVER_FIRST.contains(&number) { Self::Tcp } else { Self::Unknown })
    }

    /// Of a ServiceEntry port: its `protocol`, else as a Service port of that name.
    pub fn of_entry_port(protocol: &str, name: &str, number: u32) -> Self {
        Self::parse(protocol).unwrap_or_else(|| Self::of_service_port("", name, "", number))
    }

    /// Whether HTTP routes apply: the proxy reads requests.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the upstream is spoken to in HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the proxy must look at the first bytes.
    pub fn is_sniffed(self) -> bool {
        self == Self::Unknown
    }

    /// Whether HTTP routes may apply: declared HTTP, or sniffed.
    pub fn may_be_http(self) -> bool {
        self.is_http() || self.is_sniffed()
    }

    /// Whether the bytes are TLS that the sidecar only forwards, by SNI.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether the bytes are opaque, forwarded by address and port.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Mongo | Self::Redis | Self::Mysql)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "Mongo",
            Self::Redis => "Redis",
            Self::Mysql => "MySQL",
            Self::Udp => "UDP",
            Self::Unknown => "UnsupportedProtocol",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_wins_over_the_name_and_the_name_over_sniffing() {
        use Protocol::*;
        let cases = [
            ("http2", "tcp-x", "TCP", 80, Http2),
            ("", "http", "TCP", 80, Http),
            ("", "http-web", "TCP", 80, Http),
            ("", "HTTP-web", "", 80, Http),
            ("", "httpweb", "TCP", 80, Unknown),
            ("", "grpc-web-x", "TCP", 80, GrpcWeb),
            ("", "grpc-api", "TCP", 80, Grpc),
            ("", "grpc-webhook", "TCP", 80, GrpcWeb),
            ("", "https", "TCP", 443, Https),
            ("kubernetes.io/h2c", "", "TCP", 80, Http2),
            ("kubernetes.io/ws", "", "TCP", 80, Http),
            ("kubernetes.io/wss", "", "TCP", 80, Https),
            ("acme.org/x", "http", "TCP", 80, Http),
            ("", "db", "TCP", 3306, Tcp),
            ("", "", "TCP", 27017, Tcp),
            ("", "", "TCP", 8080, Unknown),
            ("", "http", "UDP", 80, Udp),
        ];
        for (app, name, transport, number, want) in cases {
            assert_eq!(Protocol::of_service_port(app, name, transport, number), want, "{app}/{name}/{transport}/{number}");
        }
    }
}
