//! The catalogue. Release v2 recommends a second product with each.

use http::Method;
use serde_json::{Value, json};

use crate::server::{Asked, Reply, Serve, not_found, ok};

const NAMES: &[&str] = &["bicycle", "helmet", "saddle", "lamp", "bell", "pump", "lock", "basket"];

pub struct Products {
    release: String,
}

impl Products {
    pub fn new(release: &str) -> Self {
        Self { release: release.to_owned() }
    }

    fn product(&self, id: usize) -> Value {
        let name = NAMES[id % NAMES.len()];
        let mut product = json!({"id": id, "name": name, "price": 5 + 7 * (id % 40), "release": self.release});
        if self.release != "v1" {
            product["recommended"] = json!(NAMES[(id + 3) % NAMES.len()]);
        }
        product
    }
}

impl Serve for Products {
    async fn handle(&self, asked: Asked) -> Reply {
        match (&asked.method, asked.segments().as_slice()) {
            (&Method::GET, ["api", "products"]) => {
                ok(&json!({"release": self.release, "products": (0..NAMES.len()).map(|id| self.product(id)).collect::<Vec<_>>()}))
            }
            (&Method::GET, ["api", "products", id]) => {
                id.parse().ok().filter(|id| *id < 1000).map_or_else(|| not_found(&asked), |id| ok(&self.product(id)))
            }
            _ => not_found(&asked),
        }
    }
}
