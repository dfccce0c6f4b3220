//! The mesh's own answer, without sockets: YAML -> world -> translation -> the proxy's compiler -> the choice of a route.
//!
//! In:  the objects of a world, a client; requests.
//! Out: verdicts in the reference's words.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use pillion_control_plane::{model::world::World, translate::Translator};
use pillion_proxy::{
    config::{
        LocalNode, RuntimeConfig,
        compile::{Compiler, WARMING},
        listener::PathForm,
        route_table::{ClusterChoice, Forward, HostRewrite, Route, RouteAction},
    },
    http::{
        normal_path::normal,
        path::{look, set_path},
    },
    route::{redirect, rewrite, select::select},
    telemetry::log_sink::LogSinks,
};
use pillion_xds::{
    node::{InterceptionMode, Node},
    resource::ResourceType,
    subscription::{Changed, Decoded},
};
use tokio::{sync::watch, time::Instant};

use crate::interpret::{Client, Door, Request, Then, Verdict};

/// A client's proxy with what it has been told.
pub struct System(RuntimeConfig);

impl System {
    pub fn new(world: &Arc<World>, translator: &Translator, client: &Client) -> Self {
        let mut node = Node::sidecar(Ipv4Addr::LOCALHOST.into(), "client-0", client.namespace);
        node.interception_mode = InterceptionMode::None;
        node.http_proxy_port = Some(15_101);
        node.labels = client.labels.clone();
        let config = translator.translate(world, &node);
        let mut compiler = Compiler::new(Arc::new(LogSinks::default()), LocalNode::default());
        let now = Instant::now();
        for kind in ResourceType::ALL {
            let resources = config.of(kind).values();
            let changed = resources
                .map(|encoded| Changed { encoded: encoded.clone(), message: Decoded::from_encoded(kind, encoded).expect("readable") })
                .collect::<Vec<_>>();
            let verdict = compiler.take(kind, &changed, &[], now);
            assert!(verdict.refused.is_empty(), "{:?}", verdict.refused);
        }
        Self(compiler.config(1, now + 2 * WARMING))
    }

    /// Whether connections to a port are read as HTTP at all.
    pub fn has_table(&self, port: u32) -> bool {
        self.0.routes.contains_key(port.to_string().as_str())
    }

    pub fn decide(&self, request: &Request) -> Verdict {
        let table = match request.door {
            Door::Explicit => "http_proxy".to_owned(),
            Door::Port(port) => port.to_string(),
        };
        let table = &self.0.routes[table.as_str()];
        let mut head = head(request);
        // As the control plane asks for it when the MeshConfig says nothing.
        let form = PathForm { normalize: true, ..PathForm::AS_IT_IS };
        if let Some(path) = normal(head.uri.path(), form).ok().flatten() {
            let query = request.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
            set_path(&mut head.uri, format!("{path}{query}").parse().expect("a path")).expect("a path");
        }
        let seen = look(&head, false);
        let Ok((_, route)) = select(table, &seen, || 0) else {
            return Verdict { by: String::new(), then: Then::NoRoute };
        };
        let then = match &route.action {
            RouteAction::Forward(forward) => self.forward(route, forward, request, &seen),
            RouteAction::Redirect(rule) => {
                let location = redirect::location(rule, &route.matches.path, &seen).expect("a location");
                Then::Redirect { status: rule.status.as_u16(), location: location.to_str().expect("text").to_owned() }
            }
            RouteAction::Direct(rule) => Then::Direct { status: rule.status.as_u16(), body: rule.body.to_vec() },
        };
        Verdict { by: route.name.to_string(), then }
    }

    fn forward(&self, route: &Route, forward: &Forward, request: &Request, head: &pillion_proxy::route::Head<'_>) -> Then {
        let clusters: Vec<(String, u64)> = match &forward.cluster {
            ClusterChoice::Single(name) if name.to_string() == "PassthroughCluster" => return Then::Passthrough,
            ClusterChoice::Single(name) => vec![(name.to_string(), 1)],
            ClusterChoice::Weighted(several) => {
                let mut before = 0;
                let weight = |up_to: u64| up_to - std::mem::replace(&mut before, up_to);
                let weights: Vec<u64> = several.entries.iter().map(|entry| entry.up_to).map(weight).collect();
                several.entries.iter().map(|entry| entry.name.to_string()).zip(weights).collect()
            }
            ClusterChoice::Header(_) => Vec::new(),
        };
        let exists = |name: &str| self.0.clusters.contains_key(&name.into());
        let missing = clusters.iter().map(|(name, _)| name).filter(|name| !exists(name)).cloned().collect();
        let path = rewrite::path(&forward.path, &route.matches.path, head.path(), head.uri.query());
        let path = path.map_or_else(|| head.path_and_query().to_owned(), |path| path.as_str().to_owned());
        let authority = match &forward.host {
            HostRewrite::Literal(host) => host.to_str().expect("text").to_owned(),
            _ => request.authority.clone(),
        };
        Then::Forward { clusters, missing, path, authority }
    }
}

/// As the codec hands it over: absolute form at the explicit proxy, origin form with `Host` elsewhere.
fn head(request: &Request) -> http::request::Parts {
    let query = request.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
    let target = format!("{}{query}", request.path);
    let mut builder = http::Request::builder().method(request.method.as_str()).header("host", &request.authority);
    builder = match request.door {
        Door::Explicit => builder.uri(format!("{}://{}{target}", request.scheme, request.authority)),
        Door::Port(_) => builder.uri(target),
    };
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    builder.body(()).unwrap_or_else(|error| panic!("{request:?}: {error}")).into_parts().0
}

/// A translator; generations are given to it by hand.
pub fn translator() -> Translator {
    Translator::new(watch::Sender::new(None).subscribe(), watch::Sender::new(0).subscribe())
}

pub fn world(set: &pillion_api::set::ObjectSet) -> Arc<World> {
    Arc::new(World::build(1, set.clone(), Arc::new(BTreeMap::new()), None))
}
