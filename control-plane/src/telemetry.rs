//! Metrics of the control plane and the set-up of its log. Metrics of pushes are declared in [`crate::push::status`].
//!
//! In:  what the store does; `/proc` of this process.
//! Out: one [`Registry`] as Prometheus text; log lines on standard error.

use std::{collections::BTreeMap, fs};

use pillion_api::finding::Severity;
use prometheus::{Counter, Encoder, Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::{
    bootstrap::LogFormat,
    model::store::{Review, State, Tally},
};

/// All metrics of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    passed: IntCounterVec,
    failed: IntCounterVec,
    generation: IntGauge,
    objects: IntGaugeVec,
    findings: IntGaugeVec,
    unenforced: IntGauge,
    process: Process,
}

impl Metrics {
    /// Declares them.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let labels = ["group", "version", "resource"];
        let metrics = Self {
            passed: IntCounterVec::new(Opts::new("galley_validation_passed", "Objects that were read and found valid."), &labels)?,
            failed: IntCounterVec::new(Opts::new("galley_validation_failed", "Objects that were read and found invalid."), &labels)?,
            generation: IntGauge::new("pillion_generation", "The newest generation of the configuration.")?,
            objects: IntGaugeVec::new(Opts::new("pillion_objects", "Objects by how they stand: in_force or quarantined."), &["state"])?,
            findings: IntGaugeVec::new(Opts::new("pillion_findings", "Findings that stand, by severity."), &["severity"])?,
            unenforced: IntGauge::new(
                "pillion_unenforced_security_policies",
                "Security policies that are present and that this version does not enforce.",
            )?,
            process: Process::new(&registry)?,
            registry,
        };
        let build = GaugeVec::new(Opts::new("istio_build", "Always 1; the labels say what runs."), &["component", "tag"])?;
        build.with_label_values(&["pilot", env!("CARGO_PKG_VERSION")]).set(1.0);
        metrics.registry.register(Box::new(build))?;
        metrics.registry.register(Box::new(metrics.passed.clone()))?;
        metrics.registry.register(Box::new(metrics.failed.clone()))?;
        metrics.registry.register(Box::new(metrics.generation.clone()))?;
        metrics.registry.register(Box::new(metrics.objects.clone()))?;
        metrics.registry.register(Box::new(metrics.findings.clone()))?;
        metrics.registry.register(Box::new(metrics.unenforced.clone()))?;
        Ok(metrics)
    }

    /// Where other modules declare theirs.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Objects were validated.
    pub fn validated(&self, tally: &Tally) {
        for (kind, (passed, failed)) in tally {
            let labels = [kind.group(), kind.versions().first().copied().unwrap_or_default(), kind.as_str()];
            self.passed.with_label_values(&labels).inc_by(*passed);
            self.failed.with_label_values(&labels).inc_by(*failed);
        }
    }

    /// A generation is published.
    pub fn published(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// How everything stands now.
    pub fn reviewed(&self, review: &Review) {
        let mut states = BTreeMap::from([("in_force", 0), ("quarantined", 0)]);
        for (_, state) in review.objects() {
            *states.entry(if state == State::InForce { "in_force" } else { "quarantined" }).or_default() += 1;
        }
        states.into_iter().for_each(|(state, count)| self.objects.with_label_values(&[state]).set(count));
        for (name, severity) in [("error", Severity::Error), ("warning", Severity::Warning), ("note", Severity::Note)] {
            let count = review.findings.iter().filter(|finding| finding.severity == severity).count();
            self.findings.with_label_values(&[name]).set(count as i64);
        }
        self.unenforced.set(review.unenforced.len() as i64);
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> prometheus::Result<String> {
        self.process.measure();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The usual `process_*` metrics, measured when somebody asks. Stay 0 where there is no `/proc`.
#[derive(Clone, Debug)]
struct Process {
    cpu: Counter,
    resident: Gauge,
    mapped: Gauge,
    threads: Gauge,
    files: Gauge,
    most_files: Gauge,
    started: Gauge,
}

/// `USER_HZ`: in this unit `/proc` tells times, on every machine that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let cpu = Counter::new("process_cpu_seconds_total", "User and system time spent, in seconds.")?;
        registry.register(Box::new(cpu.clone()))?;
        Ok(Self {
            cpu,
            resident: gauge("process_resident_memory_bytes", "Resident memory in bytes.")?,
            mapped: gauge("process_virtual_memory_bytes", "Mapped memory in bytes.")?,
            threads: gauge("process_threads", "Threads.")?,
            files: gauge("process_open_fds", "Open file descriptors.")?,
            most_files: gauge("process_max_fds", "The most file descriptors that may be open.")?,
            started: gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")?,
        })
    }

    fn measure(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        self.resident.set(field(&status, "VmRSS:") * 1024.0);
        self.mapped.set(field(&status, "VmSize:") * 1024.0);
        self.threads.set(field(&status, "Threads:"));
        self.files.set(fs::read_dir("/proc/self/fd").map_or(0.0, |entries| entries.count() as f64));
        self.most_files.set(field(&fs::read_to_string("/proc/self/limits").unwrap_or_default(), "Max open files"));
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may have blanks; numbers count from behind it, the first being field 3.
        let numbers: Vec<f64> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(|word| word.parse().unwrap_or_default()).collect();
        let at = |field: usize| numbers.get(field - 3).copied().unwrap_or_default();
        let cpu = (at(14) + at(15)) / TICKS_PER_SECOND;
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        let booted = field(&fs::read_to_string("/proc/stat").unwrap_or_default(), "btime");
        self.started.set(booted + at(22) / TICKS_PER_SECOND);
    }
}

/// The first number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    rest.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Starts the log on standard error; an error when `filter` is none, or a log is there already.
pub fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_names_that_dashboards_ask_for() {
        let metrics = Metrics::new().unwrap();
        crate::push::status::Metrics::new(metrics.registry()).unwrap();
        metrics.reviewed(&Review::default());
        metrics.validated(&Tally::from([(pillion_api::object::Kind::VirtualService, (2, 1))]));
        let text = metrics.text().unwrap();
        for line in [
            "galley_validation_passed{group=\"networking.istio.io\",resource=\"VirtualService\",version=\"v1\"} 2",
            "galley_validation_failed{group=\"networking.istio.io\",resource=\"VirtualService\",version=\"v1\"} 1",
            "istio_build{component=\"pilot\",tag=\"0.1.0\"} 1",
            "pillion_unenforced_security_policies 0",
            "pillion_objects{state=\"quarantined\"} 0",
            "pilot_xds 0",
            "pilot_proxy_convergence_time_count 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_measures_itself() {
        let metrics = Metrics::new().unwrap();
        metrics.text().unwrap();
        assert!(metrics.process.resident.get() > 1e5);
        assert!(metrics.process.files.get() >= 3.0);
        assert!(metrics.process.most_files.get() >= 3.0);
        assert!(metrics.process.started.get() > 1e9);
    }
}
