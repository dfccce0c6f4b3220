//! The life of a local mesh, from the first line to the last.
//!
//! In:  [`Args`].
//! Out: an exit code: 0 after an orderly end, 1 when it could not start, 130 when somebody could not wait for the end.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use pillion_api::finding::{Finding, Severity};
use pillion_control_plane::{app::Running, model::world::World};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    banner::{self, Facts, card},
    child::Spawner,
    control::{self, Peers},
    events::{Event, Problem, Ready},
    from_world::{Desired, desired},
    hints,
    mesh::LocalMesh,
    news,
    output::{Output, Printer},
    ports::PortPool,
    proxy_command::ProxySettings,
    replica::Surroundings,
    sample,
    signals::Signals,
    state::StateDir,
    sweeper::Sweeper,
};
use crate::{
    admin_client::{StateFile, StatePath},
    commands::run::Args,
};

/// Waiting for `ready` is looked at this often: states change in a dozen places, and this ends with the start.
const LOOK: Duration = Duration::from_millis(20);
/// What cannot start is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// Who is late is said after this long, and again.
const LATE: Duration = Duration::from_secs(30);
/// The whole end takes no longer.
const END: Duration = Duration::from_secs(10);
const CONTROL_PLANE_END: Duration = Duration::from_secs(2);
/// Exit code after a second Ctrl-C.
const INTERRUPTED: u8 = 130;

/// `pillion run`.
pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().thread_name("mesh").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    logging();
    let code = runtime.block_on(async {
        let broken = CancellationToken::new();
        let (output, printer) = match Output::start(args.json, args.logs, broken.clone()) {
            Ok(started) => started,
            Err(error) => {
                eprintln!("error: cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
        live(args, output, printer, broken).await
    });
    // Whatever still runs is dropped here, and its processes end with it.
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}

/// What `PILLION_LOG` says, else this.
fn log_levels(otherwise: &str) -> String {
    std::env::var("PILLION_LOG").ok().filter(|levels| !levels.is_empty()).unwrap_or_else(|| otherwise.to_owned())
}

/// The planes' own log goes to standard error; findings and generations have lines of their own.
fn logging() {
    let filter =
        tracing_subscriber::EnvFilter::try_new(log_levels("error")).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    // A second subscriber in one process is impossible and harmless.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Leaves the API's address where `pillion status` looks for it.
fn announce_api(control: &Running, output: &Output) -> Option<StateFile> {
    let written = StatePath::of_this_user().write(control.api);
    if let Err(error) = &written {
        output.say(&format!("pillion status will need --api {}: its address cannot be left for it ({error})", control.api));
    }
    written.ok()
}

async fn live(args: Args, output: Output, printer: Printer, broken: CancellationToken) -> ExitCode {
    let code = match Session::start(args, output.clone(), broken).await {
        Ok(session) => session.run().await,
        Err(error) => {
            output.event(&Event::Error(Problem { reason: "start", message: format!("{error:#}"), ..Problem::default() }));
            output.fail(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    };
    printer.finish();
    code
}

/// A mesh that runs.
struct Session {
    args: Args,
    output: Output,
    signals: Signals,
    control: Running,
    worlds: watch::Receiver<Arc<World>>,
    peers: Peers,
    announce: watch::Sender<bool>,
    mesh: LocalMesh,
    /// Findings about what runs here that were printed already.
    told: Vec<Finding>,
    begun: Instant,
    ready: bool,
    /// Where `pillion status` finds this mesh, while it runs.
    found: Option<StateFile>,
    _state: StateDir,
}

impl Session {
    async fn start(args: Args, output: Output, broken: CancellationToken) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let signals = Signals::new(broken).context("cannot listen to signals")?;
        let here = std::env::current_dir().context("the current folder cannot be read")?;
        let choice = sample::choose(args.directories.clone(), &here, pillion_shop::MESH_FILES).context("cannot write the shop's YAML")?;
        if let Some(note) = &choice.note {
            output.say(note);
        }
        for directory in &choice.directories {
            anyhow::ensure!(directory.exists(), "{} is not there", directory.display());
        }
        let (control, moved) = control::start(&args, choice.directories).await?;
        moved.iter().for_each(|note| output.say(note));
        let worlds = control.subscribe_world();
        let (announce, announced) = watch::channel(false);
        let (acked, answers) = watch::channel(0);
        tokio::spawn(news::follow(control.events(), output.clone(), acked, announced));
        news::findings(&control.findings(), 0, &output);
        let unenforced: Vec<String> = control.unenforced().iter().map(news::unenforced_line).collect();
        if !unenforced.is_empty() {
            output.say(banner::unenforced(&unenforced).trim_end());
        }

        let found = announce_api(&control, &output);
        let state = StateDir::open(args.state_dir.as_deref()).with_context(|| match &args.state_dir {
            Some(path) => format!("--state-dir {}", path.display()),
            None => "cannot make a folder for state".to_owned(),
        })?;
        let around = Surroundings {
            spawner: Spawner::start(output.clone(), Sweeper::start(state.temporary()).context("cannot start a process")?)?,
            output: output.clone(),
            registry: control.registry.clone(),
            proxy: Arc::new(ProxySettings { xds: control.xds, state: state.path().to_owned(), log: log_levels("warn") }),
            java_tool_options: std::env::var("JAVA_TOOL_OPTIONS").ok(),
            quiet: args.quiet,
        };
        let mut pool = PortPool::of_this_machine();
        [control.xds, control.api, control.metrics].iter().for_each(|address| pool.reserve(address.port()));
        let peers = Peers::new(worlds.clone(), answers, control.proxies().clone());
        let mesh = LocalMesh::new(around, peers.clone(), pool, args.gateway_address);
        let mut session = Self {
            args,
            output,
            signals,
            control,
            worlds,
            peers,
            announce,
            mesh,
            told: Vec::new(),
            begun,
            ready: false,
            found,
            _state: state,
        };
        session.first_plan()?;
        Ok(session)
    }

    /// Nothing starts when fixed ports collide.
    fn first_plan(&mut self) -> anyhow::Result<()> {
        let desired = self.desired();
        let wrong = desired.findings.iter().any(|finding| finding.severity == Severity::Error);
        self.tell(desired.findings);
        anyhow::ensure!(!wrong, "the Workloads cannot run together as they are");
        if desired.plan.is_empty() {
            self.output.say("There is no Workload in this YAML, so nothing is started; docs/local-mesh.md says how to write one.");
        }
        self.mesh.apply(desired.plan);
        Ok(())
    }

    fn desired(&mut self) -> Desired {
        let world = self.worlds.borrow_and_update().clone();
        desired(world.effective(), &control::own_ports(&self.args))
    }

    /// Prints what was not said before.
    fn tell(&mut self, findings: Vec<Finding>) {
        let new: Vec<Finding> = findings.iter().filter(|finding| !self.told.contains(finding)).cloned().collect();
        news::findings(&new, 0, &self.output);
        self.told = findings;
    }

    async fn run(mut self) -> ExitCode {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry = tokio::time::interval(RETRY);
        let mut late = LATE;
        loop {
            tokio::select! {
                () = self.signals.first() => break,
                changed = self.worlds.changed() => match changed {
                    Ok(()) => self.follow_edit(),
                    Err(_) => {
                        self.output.fail("error: the control plane ended");
                        break;
                    }
                },
                () = self.mesh.progress() => {}
                _ = retry.tick() => {
                    self.mesh.retry();
                    if let Some(found) = &self.found {
                        found.keep();
                    }
                }
                _ = look.tick(), if !self.ready => {
                    self.look();
                    if !self.ready && self.begun.elapsed() >= late {
                        self.say_late(late);
                        late += LATE;
                    }
                }
            }
        }
        self.end().await
    }

    /// The YAML changed, or an instance did.
    fn follow_edit(&mut self) {
        let desired = self.desired();
        let wrong = desired.findings.iter().any(|finding| finding.severity == Severity::Error);
        let news = desired.findings.iter().any(|finding| !self.told.contains(finding));
        self.tell(desired.findings);
        if !wrong {
            self.mesh.apply(desired.plan);
        } else if news {
            self.output.say("What runs stays as it is until this is resolved.");
        }
    }

    /// Says `ready` when everything is.
    fn look(&mut self) {
        if !self.mesh.waiting().is_empty() {
            return;
        }
        let Some(generation) = self.peers.know_all(&self.mesh.ready_ids(), self.mesh.proxies()) else {
            return;
        };
        self.ready = true;
        let ready = Ready {
            api: format!("http://{}", self.control.api),
            metrics: format!("http://{}/metrics", self.control.metrics),
            xds: self.control.xds.to_string(),
            gateways: self.mesh.gateway_addresses(),
            workloads: self.mesh.workload_addresses(),
        };
        if !self.output.is_json() {
            let facts = self.facts(&ready, generation);
            self.output.say(&card(&facts));
        }
        self.output.event(&Event::Ready(ready));
        self.mesh.card_is_shown();
        self.announce.send_replace(true);
    }

    fn facts(&self, ready: &Ready, generation: u64) -> Facts {
        let world = self.control.world();
        let plan = self.mesh.plan();
        Facts {
            seconds: self.begun.elapsed().as_secs_f64(),
            generation,
            proxies: self.mesh.proxies(),
            workloads: ready.workloads.clone(),
            gateways: ready.gateways.clone(),
            moved: self.mesh.moved_ports(),
            tries: hints::tries(world.effective(), plan, &ready.workloads, &ready.gateways),
            edit: hints::edit(world.effective()),
            api: ready.api.clone(),
            metrics: ready.metrics.clone(),
            unenforced: self.control.unenforced().iter().map(news::unenforced_line).collect(),
        }
    }

    fn say_late(&self, after: Duration) {
        let mut waiting = self.mesh.waiting();
        if waiting.is_empty() {
            waiting.push(("the control plane".into(), "not every proxy has answered for the newest generation".into()));
        }
        let reasons: Vec<String> = waiting.iter().map(|(name, reason)| format!("{name} ({reason})")).collect();
        let message = format!("not ready after {} s; waiting for {}", after.as_secs(), reasons.join(", "));
        let late = waiting.into_iter().map(|(name, _)| name).collect();
        self.output.problem(Problem { reason: "late", message, generation: None, late });
    }

    /// Ends in order, in bounded time; a second signal ends at once.
    async fn end(self) -> ExitCode {
        let Self { output, mut signals, control, announce, mesh, found: _found, _state, .. } = self;
        announce.send_replace(false);
        output.say("\nEnding: gateways first, then each sidecar and its program (again to end at once)");
        let orderly = tokio::select! {
            ended = tokio::time::timeout(END, mesh.end_all()) => {
                if ended.is_err() {
                    output.say("Some processes did not end in time and are killed.");
                }
                true
            }
            () = signals.again() => false,
        };
        if !orderly {
            return ExitCode::from(INTERRUPTED);
        }
        // What it serves has ended; its own tasks may take a moment.
        let _ = tokio::time::timeout(CONTROL_PLANE_END, control.shutdown()).await;
        output.say("Ended; nothing is left behind.");
        ExitCode::SUCCESS
    }
}
