//! Faults that an operator asks a service for (`POST /fault`), and how often each kind of request was served (`GET /count`).
//!
//! In:  `{"status": 503, "percent": 20, "delay_ms": 250}`; every request.
//! Out: the status to answer instead, after the delay; counts.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    status: Option<StatusCode>,
    /// 0 to 100; how many of the requests it meets.
    percent: f64,
    delay: Duration,
}

#[derive(Debug, Default)]
pub struct Faults {
    now: Mutex<Fault>,
    served: Mutex<BTreeMap<String, u64>>,
}

impl Faults {
    /// Takes an order from `POST /fault`; an empty object ends the fault.
    pub fn set(&self, order: &Value) -> Result<(), String> {
        let status = match order.get("status") {
            None => None,
            Some(value) => Some(
                value
                    .as_u64()
                    .and_then(|code| u16::try_from(code).ok())
                    .and_then(|code| StatusCode::from_u16(code).ok())
                    .ok_or_else(|| format!("status: {value} is no HTTP status"))?,
            ),
        };
        let percent = order.get("percent").map_or(Some(100.0), Value::as_f64).filter(|percent| (0.0..=100.0).contains(percent));
        let percent = percent.ok_or("percent: a number from 0 to 100")?;
        let delay = order.get("delay_ms").map_or(Some(0), Value::as_u64).filter(|ms| *ms <= 600_000);
        let delay = Duration::from_millis(delay.ok_or("delay_ms: a whole number up to 600000")?);
        if let Ok(mut now) = self.now.lock() {
            *now = Fault { status, percent, delay };
        }
        Ok(())
    }

    /// What this request meets: a delay, and a status to answer instead of serving it.
    pub fn meet(&self) -> (Duration, Option<StatusCode>) {
        let fault = self.now.lock().map(|now| *now).unwrap_or_default();
        if fastrand::f64() * 100.0 < fault.percent { (fault.delay, fault.status) } else { (Duration::ZERO, None) }
    }

    pub fn count(&self, method: &Method, route: &str) {
        if let Ok(mut served) = self.served.lock() {
            *served.entry(format!("{method} {route}")).or_default() += 1;
        }
    }

    pub fn counts(&self) -> Value {
        self.served.lock().map(|served| json!(*served)).unwrap_or_default()
    }
}
