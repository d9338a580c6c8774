//! The figures of a server, for Prometheus.
//!
//! Owns: every metric, its name, its labels and its help text ([`Metrics`]). Promises: no label holds what a client or a model's maker wrote:
//! each has a few words that stand in this source, so the number of series is bounded; no figure is a secret or names a model; a
//! name says its unit. Leaves out: who may read them (`routes::metrics`), and looking at the disk (there, too).

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The format that [`Metrics::text`] is in.
pub(crate) const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a look at memory to the hashing of a large model.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// One side had enough.
    Done,
    /// No whole head of a request came in time: an idle connection, or a slow one.
    HeaderTimeout,
    /// The client took nothing of its answer.
    Stalled,
    /// It was idle, and others wanted in.
    Evicted,
    /// What came was no HTTP, or the network failed.
    Error,
}

impl End {
    const ALL: [End; 5] = [End::Done, End::HeaderTimeout, End::Stalled, End::Evicted, End::Error];

    fn as_str(self) -> &'static str {
        match self {
            End::Done => "done",
            End::HeaderTimeout => "header_timeout",
            End::Stalled => "stalled",
            End::Evicted => "evicted",
            End::Error => "error",
        }
    }
}

/// See the module's documentation.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    latency: HistogramVec,
    auth_refused: IntCounter,
    pub(crate) in_flight: IntGauge,
    pub(crate) connections: IntGauge,
    pub(crate) connections_refused: IntCounter,
    connections_closed: IntCounterVec,
    pub(crate) accept_errors: IntCounter,
    /// What is asked for at each look.
    pub(crate) looked: Looked,
}

/// Figures that are set when somebody looks, rather than when something happens.
pub(crate) struct Looked {
    pub(crate) complete: IntGauge,
    pub(crate) calls_running: IntGaugeVec,
    pub(crate) calls_limit: IntGaugeVec,
    pub(crate) jobs: IntGaugeVec,
    pub(crate) promotions: IntCounterVec,
    pub(crate) reads_refused: IntCounterVec,
    pub(crate) integrity_failures: IntCounterVec,
    pub(crate) catalog_good: IntGauge,
    pub(crate) generation: IntGauge,
    pub(crate) models_promoted: IntGauge,
    pub(crate) models_quarantined: IntGaugeVec,
    pub(crate) models_blocked: IntGauge,
    pub(crate) verified_at: Gauge,
    pub(crate) verified_age: Gauge,
    pub(crate) monitor_alive: IntGauge,
    pub(crate) monitor_interval: IntGauge,
    pub(crate) pass_done: IntGauge,
    pub(crate) pass_total: IntGauge,
    pub(crate) audit_lines: IntCounter,
    pub(crate) disk_free: IntGauge,
    pub(crate) disk_size: IntGauge,
    pub(crate) temp_bytes: IntGauge,
    pub(crate) uploads: IntGauge,
    pub(crate) upload_bytes: IntGauge,
    pub(crate) mounts: IntGauge,
    pub(crate) resident: IntGauge,
    pub(crate) descriptors: IntGauge,
    pub(crate) descriptors_limit: IntGauge,
    pub(crate) cpu: prometheus::Counter,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let made = Made(Registry::new());
        let metrics = Metrics {
            requests: made.counters(
                "securereg_http_requests_total",
                "Requests by the pattern of their route, method and class of status.",
                &["route", "method", "status"],
            ),
            latency: made.add(HistogramVec::new(
                HistogramOpts::new(
                    "securereg_http_request_duration_seconds",
                    "Time until an answer began, without the time its body took.",
                )
                .buckets(BUCKETS.to_vec()),
                &["route"],
            )),
            auth_refused: made
                .counter("securereg_http_auth_refused_total", "Requests without a right token or right (401, 403)."),
            in_flight: made.gauge("securereg_http_requests_in_flight", "Requests being worked on."),
            connections: made.gauge("securereg_http_connections_open", "Connections that are open."),
            connections_refused: made.counter(
                "securereg_http_connections_refused_total",
                "Connections refused at the cap, all others being at work.",
            ),
            connections_closed: made.counters(
                "securereg_http_connections_closed_total",
                "Connections that ended, by cause.",
                &["cause"],
            ),
            accept_errors: made.counter(
                "securereg_http_accept_errors_total",
                "Times that no connection could be taken, for lack of descriptors as a rule.",
            ),
            looked: Looked::new(&made),
            registry: made.0,
        };
        for end in End::ALL {
            metrics.connections_closed.with_label_values(&[end.as_str()]);
        }
        metrics
    }

    /// Notes a request that was answered with `status`, or that its client gave up.
    pub(crate) fn request(&self, route: &str, method: &'static str, status: Option<u16>, took: Duration) {
        let class = match status {
            None => "aborted",
            Some(100..=199) => "1xx",
            Some(200..=299) => "2xx",
            Some(300..=399) => "3xx",
            Some(400..=499) => "4xx",
            Some(_) => "5xx",
        };
        self.requests.with_label_values(&[route, method, class]).inc();
        let histogram: Histogram = self.latency.with_label_values(&[route]);
        histogram.observe(took.as_secs_f64());
        if matches!(status, Some(401 | 403)) {
            self.auth_refused.inc();
        }
    }

    pub(crate) fn connection_ended(&self, end: End) {
        self.connections_closed.with_label_values(&[end.as_str()]).inc();
    }

    /// All figures in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Into memory, and of families that were checked when they were made: an empty answer would show as a failed look.
        if let Err(e) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(error = %e, "the figures cannot be written");
        }
        text
    }
}

impl Looked {
    #[rustfmt::skip]
    fn new(made: &Made) -> Looked {
        let build = made.gauges("securereg_build_info", "Always 1: what is running.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        made.real("process_start_time_seconds", "When the process began to serve, in seconds since 1970.").set(since.as_secs_f64());
        Looked {
            complete: made.gauge("securereg_scrape_complete", "1 if all figures are of this look, 0 if the disk did not answer in time and some are older."),
            calls_running: made.gauges("securereg_calls_running", "Calls into the registry that hold a thread, by lane.", &["lane"]),
            calls_limit: made.gauges("securereg_calls_limit", "How many such calls a lane takes at once.", &["lane"]),
            jobs: made.gauges("securereg_jobs", "Promotions and verifications asked for over HTTP, by kind and state.", &["kind", "state"]),
            promotions: made.counters("securereg_promotions_total", "Promotions in this process by outcome: a word of success, or the kind of the error.", &["outcome"]),
            reads_refused: made.counters("securereg_reads_refused_total", "Opens and reads of model bytes that this process refused, by cause.", &["cause"]),
            integrity_failures: made.counters("securereg_integrity_failures_total", "Models that did not pass a check in this process, by cause.", &["cause"]),
            catalog_good: made.gauge("securereg_catalog_good", "1 while the manifest on disk can be served."),
            generation: made.gauge("securereg_catalog_generation", "The generation of the manifest."),
            models_promoted: made.gauge("securereg_models_promoted", "Models that are served."),
            models_quarantined: made.gauges("securereg_models_quarantined", "Models that are quarantined, by cause.", &["cause"]),
            models_blocked: made.gauge("securereg_models_blocked", "Deleted models whose bytes an incident still blocks."),
            verified_at: made.real("securereg_verify_all_timestamp_seconds", "When the last check of all models ended, in seconds since 1970; 0 before the first."),
            verified_age: made.real("securereg_verify_all_age_seconds", "Time since then; infinite before the first."),
            monitor_alive: made.gauge("securereg_monitor_alive", "1 while some process monitors the root."),
            monitor_interval: made.gauge("securereg_monitor_interval_seconds", "From the begin of one pass to that of the next."),
            pass_done: made.gauge("securereg_monitor_pass_done_bytes", "What the pass under way has read; 0 between passes."),
            pass_total: made.gauge("securereg_monitor_pass_total_bytes", "What it will have read at its end; 0 between passes."),
            audit_lines: made.counter("securereg_audit_lines_total", "Lines of the audit log."),
            disk_free: made.gauge("securereg_root_free_bytes", "What is free to this process on the file system of the root."),
            disk_size: made.gauge("securereg_root_size_bytes", "The size of that file system."),
            temp_bytes: made.gauge("securereg_temp_bytes", "What unfinished promotions hold on the disk."),
            uploads: made.gauge("securereg_uploads_open", "Uploads to repositories that are not finished."),
            upload_bytes: made.gauge("securereg_upload_bytes", "What they hold on the disk."),
            mounts: made.gauge("securereg_mounts", "Mounts of this registry that are alive, of whatever process."),
            resident: made.gauge("process_resident_memory_bytes", "Resident memory."),
            descriptors: made.gauge("process_open_fds", "Open descriptors."),
            descriptors_limit: made.gauge("process_max_fds", "How many descriptors there may be."),
            cpu: made.add(prometheus::Counter::new("process_cpu_seconds_total", "Time on the processors, user and system.")),
        }
    }
}

/// Brings a counter to a count that is kept elsewhere.
pub(crate) fn follow(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

/// A size as a gauge takes it.
pub(crate) fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A registry of metrics being filled.
struct Made(Registry);

impl Made {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("the names and labels stand above, and a test makes them all");
        self.0.register(Box::new(made.clone())).expect("each stands above once");
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn real(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_counter_only_grows() {
        let counter = IntCounter::new("x", "x").expect("made");
        for (count, shown) in [(3, 3), (3, 3), (1, 3), (7, 7)] {
            follow(&counter, count);
            assert_eq!(counter.get(), shown);
        }
    }

    #[test]
    fn requests_are_told_apart_by_class_and_refusals_are_counted() {
        let metrics = Metrics::new();
        for status in [Some(200), Some(204), Some(403), Some(401), Some(503), None] {
            metrics.request("/health", "GET", status, Duration::from_millis(2));
        }
        let text = metrics.text();
        for line in [
            r#"securereg_http_requests_total{method="GET",route="/health",status="2xx"} 2"#,
            r#"securereg_http_requests_total{method="GET",route="/health",status="4xx"} 2"#,
            r#"securereg_http_requests_total{method="GET",route="/health",status="5xx"} 1"#,
            r#"securereg_http_requests_total{method="GET",route="/health",status="aborted"} 1"#,
            r#"securereg_http_request_duration_seconds_count{route="/health"} 6"#,
            "securereg_http_auth_refused_total 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
