//! The stock: gRPC on its own port, health and faults over HTTP on the first.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use tokio::sync::{Mutex, broadcast, oneshot};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    Args,
    inventory::{
        ReserveReply, ReserveRequest, StockReply, StockRequest,
        inventory_server::{Inventory, InventoryServer},
    },
    server::{Asked, Reply, Serve, not_found, ok, serve},
};

/// Stock of a product nobody has taken from; the shelf is filled again when it is empty.
const FULL_SHELF: u32 = 1_000_000;
/// Changes a slow watcher may lag behind before it misses some.
const WATCH_BACKLOG: usize = 256;
/// Products beyond this many are unknown: a stranger cannot fill our memory with names.
const MAX_PRODUCTS: usize = 10_000;

#[derive(Clone)]
struct Shelf {
    release: Arc<str>,
    left: Arc<Mutex<BTreeMap<String, u32>>>,
    changes: broadcast::Sender<StockReply>,
}

impl Shelf {
    async fn stock(&self, product: &str) -> StockReply {
        let left = self.left.lock().await.get(product).copied().unwrap_or(FULL_SHELF);
        StockReply { product: product.to_owned(), left, release: self.release.to_string() }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<StockReply, Status>> + Send>>;

#[tonic::async_trait]
impl Inventory for Shelf {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReserveReply>, Status> {
        let ReserveRequest { product, quantity } = request.into_inner();
        let mut left = self.left.lock().await;
        if product.is_empty() || (left.len() >= MAX_PRODUCTS && !left.contains_key(&product)) {
            return Err(Status::invalid_argument("no such product"));
        }
        let shelf = left.entry(product.clone()).or_insert(FULL_SHELF);
        *shelf = shelf
            .checked_sub(quantity)
            .ok_or_else(|| Status::failed_precondition(format!("{quantity} of {product} asked for, {shelf} left")))?;
        let now = *shelf;
        if *shelf == 0 {
            *shelf = FULL_SHELF;
        }
        drop(left);
        let _ = self.changes.send(StockReply { product: product.clone(), left: now, release: self.release.to_string() });
        Ok(Response::new(ReserveReply { product, left: now }))
    }

    async fn stock(&self, request: Request<StockRequest>) -> Result<Response<StockReply>, Status> {
        Ok(Response::new(self.stock(&request.into_inner().product).await))
    }

    type WatchStream = Replies;

    async fn watch(&self, request: Request<StockRequest>) -> Result<Response<Replies>, Status> {
        let product = request.into_inner().product;
        let first = self.stock(&product).await;
        let changes = BroadcastStream::new(self.changes.subscribe()).filter_map(move |change| {
            let wanted = change.ok().filter(|change| change.product == product);
            async move { wanted.map(Ok) }
        });
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(changes))))
    }

    type ConverseStream = Replies;

    async fn converse(&self, request: Request<Streaming<StockRequest>>) -> Result<Response<Replies>, Status> {
        let shelf = self.clone();
        let replies = request.into_inner().then(move |asked| {
            let shelf = shelf.clone();
            async move { Ok(shelf.stock(&asked?.product).await) }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

struct Desk;

impl Serve for Desk {
    async fn handle(&self, asked: Asked) -> Reply {
        if asked.path == "/" { ok(&"the stock is spoken to by gRPC".into()) } else { not_found(&asked) }
    }
}

pub async fn run(args: &Args, stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
    let shelf = Shelf { release: args.release.as_str().into(), left: Arc::default(), changes: broadcast::Sender::new(WATCH_BACKLOG) };
    let (stopped, until) = oneshot::channel::<()>();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], args.grpc_port));
    let grpc = async move {
        let until = async move {
            let _ = until.await;
        };
        let served = Server::builder().add_service(InventoryServer::new(shelf)).serve_with_shutdown(address, until).await;
        served.map_err(|error| format!("cannot serve gRPC on {address}: {error}"))
    };
    let http = async move {
        let served = serve(args.address(), Desk, stop).await.map_err(|error| error.to_string());
        let _ = stopped.send(());
        served
    };
    tokio::try_join!(grpc, http)?;
    Ok(())
}
