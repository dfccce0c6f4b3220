//! Gathers changes that come close together into one push, and watches who is late.
//!
//! In:  generations from [`Configs`].
//! Out: the generation that every stream should bring its proxy to.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Configs, status::Proxies};

/// A push goes out when nothing has changed for this long …
pub const QUIET: Duration = Duration::from_millis(10);
/// … and at the latest this long after its first change.
pub const LONGEST: Duration = Duration::from_millis(100);

/// When to push, given when changes come. Pure.
#[derive(Debug, Default)]
pub struct Debounce {
    /// The first and the last change that was not pushed.
    waiting: Option<(Instant, Instant)>,
}

impl Debounce {
    /// A change came.
    pub fn change(&mut self, now: Instant) {
        let first = self.waiting.map_or(now, |(first, _)| first);
        self.waiting = Some((first, now));
    }

    /// When the push is due; `None` without a change.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }

    /// Whether to push now; the changes count as pushed then.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.waiting = None;
        }
        due
    }
}

/// Runs until the source of generations is gone; `pushes` is what the streams follow.
pub async fn run(configs: Arc<dyn Configs>, proxies: Proxies, pushes: watch::Sender<u64>) {
    let mut generations = configs.subscribe();
    let mut debounce = Debounce::default();
    // What is there at the start needs no quiet moment.
    let mut newest = *generations.borrow_and_update();
    push(&proxies, &pushes, newest);
    loop {
        let wake = debounce.due().into_iter().chain(proxies.next_late()).min();
        tokio::select! {
            changed = generations.changed() => {
                if changed.is_err() {
                    return;
                }
                newest = *generations.borrow_and_update();
                let now = Instant::now();
                proxies.noticed(newest, now);
                debounce.change(now);
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            // A proxy that came, went or caught up moves the next deadline.
            () = proxies.changed() => {}
        }
        if debounce.take(Instant::now()) {
            push(&proxies, &pushes, newest);
        }
        proxies.tell_late(Instant::now());
    }
}

fn push(proxies: &Proxies, pushes: &watch::Sender<u64>, generation: u64) {
    if generation > *pushes.borrow() {
        proxies.published(generation, Instant::now());
        pushes.send_replace(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_waits_for_quiet_but_not_for_ever() {
        let cases: [(&str, &[u64], u64); 4] = [
            ("one change", &[0], 10),
            ("two close together", &[0, 9], 19),
            ("a steady stream", &[0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99], 100),
            ("the last just before the limit", &[0, 95], 100),
        ];
        let start = Instant::now();
        for (name, changes, want) in cases {
            let mut debounce = Debounce::default();
            for at in changes {
                debounce.change(start + Duration::from_millis(*at));
            }
            let want = start + Duration::from_millis(want);
            assert_eq!(debounce.due(), Some(want), "{name}");
            assert!(!debounce.take(want - Duration::from_nanos(1)), "{name}");
            assert!(debounce.take(want), "{name}");
            assert_eq!(debounce.due(), None, "{name}");
        }
    }
}
