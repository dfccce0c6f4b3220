//! Orders: takes stock by gRPC, money and a parcel by HTTP, and tells the customer.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::{
    client::{Http, grpc},
    inventory::{ReserveRequest, inventory_client::InventoryClient},
    server::{Asked, Reply, Serve, not_found, ok, reply},
};

const KEPT: usize = 10_000;
const STOCK_DEADLINE: Duration = Duration::from_secs(5);

pub struct Orders {
    http: Http,
    inventory: InventoryClient<Channel>,
    next: AtomicU64,
    orders: Mutex<BTreeMap<u64, Value>>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            http: Http::default(),
            inventory: InventoryClient::new(grpc("inventory-service:9090")),
            next: AtomicU64::new(1),
            orders: Mutex::default(),
        }
    }
}

impl Orders {
    async fn place(&self, asked: &Asked) -> Reply {
        let product = asked.body.get("product").and_then(Value::as_str).unwrap_or("bicycle").to_owned();
        let quantity = asked.body.get("quantity").and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
        let mut reserve = tonic::Request::new(ReserveRequest { product: product.clone(), quantity });
        reserve.set_timeout(STOCK_DEADLINE);
        let left = match self.inventory.clone().reserve(reserve).await {
            Ok(answer) => answer.into_inner().left,
            Err(status) => {
                let error = format!("inventory: {:?}: {}", status.code(), status.message());
                return reply(StatusCode::BAD_GATEWAY, &json!({"error": error}));
            }
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut order = json!({"id": id, "product": product, "quantity": quantity, "left": left});
        for (step, uri) in [
            ("payment", "http://payment-service/payments"),
            ("shipment", "http://logistics-service/shipments"),
            ("notification", "http://notification-service/notifications"),
        ] {
            match self.step(uri, &asked.headers, id).await {
                Ok(state) => order[step] = state,
                Err(error) => {
                    order["error"] = json!(error);
                    return reply(StatusCode::BAD_GATEWAY, &order);
                }
            }
        }
        order["state"] = json!("placed");
        if let Ok(mut orders) = self.orders.lock() {
            orders.insert(id, order.clone());
            if orders.len() > KEPT {
                orders.pop_first();
            }
        }
        reply(StatusCode::CREATED, &order)
    }

    async fn step(&self, uri: &str, headers: &HeaderMap, order: u64) -> Result<Value, String> {
        let answer = self.http.call(Method::POST, uri, headers, Some(&json!({"order": order}))).await?;
        if answer.status.is_success() { Ok(answer.body["state"].clone()) } else { Err(format!("{uri}: {} {}", answer.status, answer.body)) }
    }
}

impl Serve for Orders {
    async fn handle(&self, asked: Asked) -> Reply {
        match (&asked.method, asked.segments().as_slice()) {
            (&Method::POST, ["orders"]) => self.place(&asked).await,
            (&Method::GET, ["orders", id]) => {
                let found = id.parse().ok().and_then(|id: u64| self.orders.lock().ok()?.get(&id).cloned());
                found.map_or_else(|| not_found(&asked), |order| ok(&order))
            }
            _ => not_found(&asked),
        }
    }
}
