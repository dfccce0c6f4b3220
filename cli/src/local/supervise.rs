//! Keeps one process running: starts it again after it ended, later each time.
//!
//! In:  what to start, a token that says stop.
//! Out: the process' state as a watch; sentences about every end and restart.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::child::ProcessSpec;

/// First pause before a restart; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that lived this long starts afresh at the first pause.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// How long to wait before the next start. Pure: the time is passed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    ends: u32,
}

impl BackOff {
    /// The pause after a process ended that had lived for `life`.
    pub fn pause(&mut self, life: Duration) -> Duration {
        if life >= LONG_LIFE {
            self.ends = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.ends.min(16)).min(LONGEST_PAUSE);
        self.ends = self.ends.saturating_add(1);
        pause
    }
}

/// Starts processes; replaced in tests.
pub trait Launch {
    type Process: Process;
    fn launch(&self, spec: &ProcessSpec) -> impl Future<Output = io::Result<Self::Process>> + Send;
}

/// A running process.
pub trait Process: Send {
    fn pid(&self) -> u32;
    /// Until it ends; says how, as the end of a sentence.
    fn wait(&mut self) -> impl Future<Output = String> + Send;
    /// Asks it to end, and makes it end after `grace`, with all that it started.
    fn stop(self, grace: Duration) -> impl Future<Output = ()> + Send;
}

/// What a supervised process does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    Starting,
    Running {
        pid: u32,
        /// Counts starts from 1.
        start: u32,
    },
    /// It ended and will be started again.
    Pausing,
    Stopped,
}

impl ProcessState {
    /// The process id while there is one.
    pub fn pid(self) -> Option<u32> {
        match self {
            Self::Running { pid, .. } => Some(pid),
            Self::Starting | Self::Pausing | Self::Stopped => None,
        }
    }
}

/// How a supervised process is told to end.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Cancelled: end now.
    pub token: CancellationToken,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// Runs `spec` until `stop`; `say` gets a sentence for every end.
pub async fn supervise<L: Launch>(
    launcher: &L,
    spec: Arc<ProcessSpec>,
    stop: Stop,
    state: watch::Sender<ProcessState>,
    say: impl Fn(String) + Send,
) {
    let mut back_off = BackOff::default();
    let mut start: u32 = 0;
    while !stop.token.is_cancelled() {
        let started = Instant::now();
        start = start.saturating_add(1);
        let end = match launcher.launch(&spec).await {
            Ok(mut process) => {
                state.send_replace(ProcessState::Running { pid: process.pid(), start });
                tokio::select! {
                    end = process.wait() => end,
                    () = stop.token.cancelled() => {
                        process.stop(stop.grace).await;
                        break;
                    }
                }
            }
            Err(error) => format!("cannot be started: {error}"),
        };
        if stop.token.is_cancelled() {
            break;
        }
        let life = started.elapsed();
        let pause = back_off.pause(life);
        state.send_replace(ProcessState::Pausing);
        say(format!("{end} after {:.1} s; started again in {:.1} s", life.as_secs_f64(), pause.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.token.cancelled() => break,
        }
    }
    state.send_replace(ProcessState::Stopped);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::local::output::Label;

    const MS: Duration = Duration::from_millis(1);
    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_to_ten_seconds_and_start_over_after_a_long_life() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..9).map(|_| back_off.pause(SEC).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(back_off.pause(9 * SEC), 10 * SEC);
        assert_eq!(back_off.pause(10 * SEC), 100 * MS);
        assert_eq!(back_off.pause(SEC), 200 * MS);
    }

    /// Processes that live for the given times, the last one for ever.
    struct Lives {
        lives: Mutex<Vec<Duration>>,
        starts: Mutex<Vec<Duration>>,
        epoch: Instant,
    }

    struct Fake(Duration);

    impl Launch for Lives {
        type Process = Fake;

        async fn launch(&self, _: &ProcessSpec) -> io::Result<Fake> {
            self.starts.lock().unwrap().push(self.epoch.elapsed());
            match self.lives.lock().unwrap().pop() {
                Some(Duration::ZERO) => Err(io::Error::from(io::ErrorKind::NotFound)),
                Some(life) => Ok(Fake(life)),
                None => Ok(Fake(1_000_000 * SEC)),
            }
        }
    }

    impl Process for Fake {
        fn pid(&self) -> u32 {
            7
        }
        async fn wait(&mut self) -> String {
            tokio::time::sleep(self.0).await;
            "exited with status 1".into()
        }
        async fn stop(self, _: Duration) {}
    }

    fn spec() -> Arc<ProcessSpec> {
        Arc::new(ProcessSpec {
            label: Label::new("a-0"),
            command: vec![],
            env: Default::default(),
            env_remove: vec![],
            directory: "/".into(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_crashing_process_is_started_later_each_time() {
        let lives = Lives {
            // Popped from the end: cannot start, 1 s, 12 s, 1 s, for ever.
            lives: Mutex::new(vec![SEC, 12 * SEC, SEC, Duration::ZERO]),
            starts: Mutex::default(),
            epoch: Instant::now(),
        };
        let (state, mut seen) = watch::channel(ProcessState::Starting);
        let stop = Stop { token: CancellationToken::new(), grace: SEC };
        let said = Mutex::new(Vec::new());
        let run = supervise(&lives, spec(), stop.clone(), state, |text| said.lock().unwrap().push(text));
        let watcher = async {
            seen.wait_for(|state| matches!(state, ProcessState::Running { start: 5, .. })).await.unwrap();
            stop.token.cancel();
        };
        tokio::join!(run, watcher);
        let starts: Vec<_> = lives.starts.lock().unwrap().iter().map(Duration::as_millis).collect();
        // 0; +0.1; 1 s and 0.2; 12 s and (long life) 0.1; 1 s and 0.2.
        let close = |got: u128, want: u128| got.abs_diff(want) < 20;
        for (got, want) in starts.iter().zip([0, 100, 1_300, 13_400, 14_600]) {
            assert!(close(*got, want), "{starts:?}");
        }
        assert_eq!(starts.len(), 5);
        assert_eq!(*seen.borrow(), ProcessState::Stopped);
        assert_eq!(said.lock().unwrap()[1], "exited with status 1 after 1.0 s; started again in 0.2 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_when_the_mesh_does() {
        let lives = Lives { lives: Mutex::new(vec![MS]), starts: Mutex::default(), epoch: Instant::now() };
        let (state, seen) = watch::channel(ProcessState::Starting);
        let stop = Stop { token: CancellationToken::new(), grace: SEC };
        let token = stop.token.clone();
        tokio::join!(supervise(&lives, spec(), stop, state, |_| token.cancel()), async {});
        assert_eq!(*seen.borrow(), ProcessState::Stopped);
        assert_eq!(lives.starts.lock().unwrap().len(), 1);
    }
}
