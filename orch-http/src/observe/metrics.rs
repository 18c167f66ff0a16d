//! The metrics, and how they are written down (OpenMetrics 1.0).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use orch::engine::{AttemptEnded, Observer, RunEnded, Stats};
use orch::queue::Depth;
use orch::{Orchestrator, TenantId, Timestamp};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::bounded::{
    OfCode, OfOperation, OfOutcome, OfQueue, OfReason, OfRequest, OfRun, OfSeam, OfTenant, Tenants,
};
use crate::api::code::Code;
use crate::api::count::Count;

/// Queues of a tenant that have labels of their own, those that hold most first.
const QUEUES_MAX: usize = 50;

/// From half a millisecond to half a minute.
const QUICK: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// From ten milliseconds to a day.
const SLOW: [f64; 12] = [0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0];
const BATCH: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 50.0, 200.0, 1_000.0, 2_000.0];

type Seconds = fn() -> Histogram;

/// What is counted and measured in this process. Cheap to clone; all clones are the same metrics.
///
/// Hand it to the engine ([`OrchestratorBuilder::observe`](orch::OrchestratorBuilder::observe), as
/// [`observer`](Self::observer)) and to the router ([`Settings::metrics`](crate::Settings::metrics)).
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    tenants: Tenants,
    engine: Engine,
    state: State,
    http: Http,
    /// Requests and streams that are under way, once there is a router.
    under_way: OnceLock<(Count, Count)>,
}

/// What the engine tells as it happens.
#[derive(Debug)]
struct Engine {
    runs: Family<OfRun, Counter>,
    run_duration: Histogram,
    attempts: Family<OfOutcome, Counter>,
    attempt_duration: Histogram,
    retries: Family<OfTenant, Counter>,
    commit_duration: Histogram,
    commit_batch: Histogram,
}

/// What is looked up when somebody asks.
#[derive(Debug, Default)]
struct State {
    queue_depth: Family<OfQueue, Gauge>,
    queue_age: Family<OfQueue, Gauge<f64, AtomicU64>>,
    appends: Counter,
    failures: Family<OfSeam, Counter>,
    active: Gauge,
    free: Gauge,
    lease_age: Gauge<f64, AtomicU64>,
    waiting_workers: Gauge,
    loaded_runs: Gauge,
    trouble: Gauge,
}

/// What the service tells.
#[derive(Debug)]
struct Http {
    requests: Family<OfRequest, Counter>,
    duration: Family<OfOperation, Histogram, Seconds>,
    errors: Family<OfCode, Counter>,
    replays: Counter,
    in_flight: Gauge,
    streams: Gauge,
    streams_ended: Family<OfReason, Counter>,
}

fn quick() -> Histogram {
    Histogram::new(QUICK)
}

fn slow() -> Histogram {
    Histogram::new(SLOW)
}

impl Default for Inner {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("orchestrator");
        let (engine, state, http) = (
            Engine::in_registry(&mut registry),
            State::in_registry(&mut registry),
            Http::in_registry(&mut registry),
        );
        Self { registry, tenants: Tenants::default(), engine, state, http, under_way: OnceLock::new() }
    }
}

impl Engine {
    fn in_registry(registry: &mut Registry) -> Self {
        let engine = Self {
            runs: Family::default(),
            run_duration: slow(),
            attempts: Family::default(),
            attempt_duration: slow(),
            retries: Family::default(),
            commit_duration: quick(),
            commit_batch: Histogram::new(BATCH),
        };
        registry.register("runs", "Runs that ended, by tenant and how", engine.runs.clone());
        registry.register_with_unit(
            "run_duration",
            "From the submission of a run to its end",
            Unit::Seconds,
            engine.run_duration.clone(),
        );
        registry.register("attempts", "Attempts that ended, by how", engine.attempts.clone());
        registry.register_with_unit(
            "attempt_duration",
            "From the start of an attempt to its end",
            Unit::Seconds,
            engine.attempt_duration.clone(),
        );
        registry.register(
            "step_retries",
            "Attempts after which another follows, by tenant",
            engine.retries.clone(),
        );
        registry.register_with_unit(
            "commit_duration",
            "How long the store took to make appends durable",
            Unit::Seconds,
            engine.commit_duration.clone(),
        );
        registry.register(
            "commit_batch_size",
            "Runs appended to in one call of the store",
            engine.commit_batch.clone(),
        );
        engine
    }

    fn attempt_ended(&self, tenants: &Tenants, ended: &AttemptEnded) {
        let outcome = ended.outcome.as_str();
        self.attempts.get_or_create(&OfOutcome { outcome }).inc();
        self.attempt_duration.observe(ended.ended_at.since(ended.started_at).as_secs_f64());
        if ended.again {
            self.retries.get_or_create(&OfTenant { tenant: tenants.label(&ended.run.tenant) }).inc();
        }
    }
}

impl State {
    fn in_registry(registry: &mut Registry) -> Self {
        let state = Self::default();
        registry.register(
            "queue_depth",
            "Steps that may start now, by tenant and queue",
            state.queue_depth.clone(),
        );
        registry.register_with_unit(
            "queue_age",
            "For how long the oldest step that may start has waited, by tenant and queue",
            Unit::Seconds,
            state.queue_age.clone(),
        );
        registry.register("appends", "Appends that have landed", state.appends.clone());
        registry.register(
            "backend_failures",
            "Calls of the backends that failed, by seam",
            state.failures.clone(),
        );
        registry.register("active_attempts", "Attempts that execute in this process", state.active.clone());
        registry.register(
            "free_slots",
            "Attempts that could execute in this process besides",
            state.free.clone(),
        );
        registry.register_with_unit(
            "lease_age",
            "For how long the oldest attempt in this process has been under way",
            Unit::Seconds,
            state.lease_age.clone(),
        );
        registry.register(
            "waiting_workers",
            "Outside workers that wait for work",
            state.waiting_workers.clone(),
        );
        registry.register(
            "loaded_runs",
            "Unfinished runs that are kept in memory",
            state.loaded_runs.clone(),
        );
        registry.register(
            "trouble",
            "1 while a backend keeps this process from getting on",
            state.trouble.clone(),
        );
        state
    }

    fn set(&self, stats: &Stats, now: Timestamp) {
        let int = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.appends.inner().store(stats.appends, Ordering::Relaxed);
        let failures = stats.failures;
        for (seam, count) in [
            ("store", failures.store),
            ("queue", failures.queue),
            ("lock", failures.lock),
            ("artifacts", failures.artifacts),
        ] {
            self.failures.get_or_create(&OfSeam { seam }).inner().store(count, Ordering::Relaxed);
        }
        self.active.set(int(stats.active_attempts));
        self.free.set(int(stats.free_slots));
        self.lease_age.set(stats.oldest_attempt.map_or(0.0, |since| now.since(since).as_secs_f64()));
        self.waiting_workers.set(int(stats.waiting_workers));
        self.loaded_runs.set(int(stats.loaded_runs));
        self.trouble.set(i64::from(stats.trouble.is_some()));
    }

    fn set_depths(&self, tenant: &Arc<str>, mut depths: Vec<Depth>, now: Timestamp) {
        depths.sort_by_key(|depth| std::cmp::Reverse(depth.ready));
        for depth in depths.into_iter().take(QUEUES_MAX) {
            let of = OfQueue { tenant: Arc::clone(tenant), queue: depth.queue.as_str().into() };
            self.queue_depth.get_or_create(&of).set(i64::try_from(depth.ready).unwrap_or(i64::MAX));
            let age = depth.oldest_at.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
            self.queue_age.get_or_create(&of).set(age);
        }
    }
}

impl Http {
    fn in_registry(registry: &mut Registry) -> Self {
        let http = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(quick),
            errors: Family::default(),
            replays: Counter::default(),
            in_flight: Gauge::default(),
            streams: Gauge::default(),
            streams_ended: Family::default(),
        };
        registry.register(
            "http_requests",
            "Requests, by operation and class of status",
            http.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "How long requests took, by operation; streams and long polls not counted",
            Unit::Seconds,
            http.duration.clone(),
        );
        registry.register("http_errors", "Errors answered, by code", http.errors.clone());
        registry.register(
            "http_idempotent_replays",
            "Requests answered as they were the first time",
            http.replays.clone(),
        );
        registry.register("http_requests_in_flight", "Requests under way", http.in_flight.clone());
        registry.register("streams_open", "Streams that are open", http.streams.clone());
        registry.register("streams_ended", "Streams that ended, by reason", http.streams_ended.clone());
        http
    }
}

/// A request that was answered.
#[derive(Debug)]
pub(crate) struct Answered {
    /// Its name; nothing for what is no route.
    pub(crate) operation: Option<&'static str>,
    pub(crate) status: http::StatusCode,
    /// The error it was answered with.
    pub(crate) code: Option<Code>,
    /// It was answered as the first time.
    pub(crate) replayed: bool,
    /// How long it took; nothing where that says nothing.
    pub(crate) took: Option<Duration>,
}

impl Metrics {
    /// What an engine is to be observed by.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(self.clone())
    }

    /// A request has been answered.
    pub(crate) fn answered(&self, answered: &Answered) {
        let http = &self.0.http;
        let operation = answered.operation.unwrap_or("none");
        let status = match answered.status.as_u16() {
            0..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        http.requests.get_or_create(&OfRequest { operation, status }).inc();
        if let Some(code) = answered.code {
            http.errors.get_or_create(&OfCode { code: code.as_str() }).inc();
        }
        if answered.replayed {
            http.replays.inc();
        }
        if let Some(took) = answered.took {
            http.duration.get_or_create(&OfOperation { operation }).observe(took.as_secs_f64());
        }
    }

    /// A stream has ended.
    pub(crate) fn stream_ended(&self, reason: &'static str) {
        self.0.http.streams_ended.get_or_create(&OfReason { reason }).inc();
    }

    /// A tenant has made itself known: its queues are looked at from now on.
    pub(crate) fn know(&self, tenant: &TenantId) {
        self.0.tenants.label(tenant);
    }

    /// What counts the requests and streams of the router.
    pub(crate) fn watch(&self, requests: &Count, streams: &Count) {
        let _ = self.0.under_way.set((requests.clone(), streams.clone()));
    }

    /// Everything as OpenMetrics text. Looks at the queues of the tenants that have made themselves known.
    pub(crate) async fn text(&self, orch: &Orchestrator) -> String {
        let (inner, now) = (&self.0, orch.now());
        let int = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        inner.state.set(&orch.stats(), now);
        if let Some((requests, streams)) = inner.under_way.get() {
            inner.http.in_flight.set(int(requests.now()));
            inner.http.streams.set(int(streams.now()));
        }
        inner.state.queue_depth.clear();
        inner.state.queue_age.clear();
        for tenant in inner.tenants.all() {
            let who = orch::Identity::new(tenant.clone(), "metrics");
            match orch.depth(&who).await {
                Ok(depths) => inner.state.set_depths(&inner.tenants.label(&tenant), depths, now),
                // That the queue is away stands in the other metrics.
                Err(error) => {
                    tracing::debug!(%error, "the queues cannot be looked at");
                    break;
                }
            }
        }
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &inner.registry);
        text
    }
}

/// The same in the older text format of Prometheus, where a counter is declared by the name of its series.
pub(crate) fn plain(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let declared = line.strip_prefix("# ").and_then(|rest| {
            let (word, rest) = rest.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            counters.contains(&name).then(|| format!("# {word} {name}_total {rest}"))
        });
        text.push_str(declared.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}

impl Observer for Metrics {
    fn attempt_ended(&self, ended: &AttemptEnded) {
        self.0.engine.attempt_ended(&self.0.tenants, ended);
    }

    fn run_ended(&self, ended: &RunEnded) {
        let tenant = self.0.tenants.label(&ended.run.tenant);
        let of = OfRun { tenant, status: ended.status.as_str() };
        self.0.engine.runs.get_or_create(&of).inc();
        self.0.engine.run_duration.observe(ended.ended_at.since(ended.created_at).as_secs_f64());
    }

    fn committed(&self, appends: usize, took: Duration) {
        self.0.engine.commit_duration.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a batch is far smaller than what a double holds")]
        self.0.engine.commit_batch.observe(appends as f64);
    }
}
