//! Faults to inject into a request, drawn by share.
//!
//! In:  the route's fault, the request's head, random numbers.
//! Out: how long to wait, and with what to answer instead of the upstream.

use std::time::Duration;

use super::Head;
use super::select::matches_header;
use crate::config::route_table::{Fault, FaultAbort};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injected {
    pub delay: Option<Duration>,
    pub abort: Option<FaultAbort>,
}

/// Draw delay and abort, independently of each other.
pub fn draw(fault: &Fault, head: &Head<'_>, mut random: impl FnMut() -> u64) -> Injected {
    if !fault.headers.iter().all(|wanted| matches_header(wanted, head)) {
        return Injected::default();
    }
    let delay = fault.delay.filter(|(share, _)| share.hit(random())).map(|(_, delay)| delay);
    let abort = fault.abort.filter(|(share, _)| share.hit(random())).map(|(_, abort)| abort);
    Injected { delay, abort }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route_table::Fraction;
    use http::{HeaderMap, Method, StatusCode, Uri};

    #[test]
    fn delay_and_abort_are_drawn_independently() {
        let half = Fraction { numerator: 500_000, denominator: 1_000_000 };
        let abort = FaultAbort::Http(StatusCode::IM_A_TEAPOT);
        let fault = Fault { delay: Some((half, Duration::from_secs(1))), abort: Some((half, abort)), headers: vec![] };
        let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
        let head = Head { method: &Method::GET, authority: "a", uri: &uri, headers: &headers, grpc: false };
        let (hit, miss) = (499_999, 500_000);
        let cases = [([hit, hit], true, true), ([hit, miss], true, false), ([miss, hit], false, true), ([miss, miss], false, false)];
        for (numbers, delayed, aborted) in cases {
            let mut numbers = numbers.into_iter();
            let got = draw(&fault, &head, || numbers.next().unwrap());
            assert_eq!((got.delay.is_some(), got.abort.is_some()), (delayed, aborted));
        }
    }
}
