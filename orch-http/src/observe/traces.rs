//! Spans of requests, runs and attempts, handed to whoever collects them (OpenTelemetry).
//!
//! A span is told when it has ended, from what the record says of it; its id follows from the run, the step and the
//! attempt ([`orch::trace`]), so that what a worker hands on belongs below it. Spans carry names and how things ended, and
//! nothing of what steps were given, made or said: there is no secret to hide in them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::{Method, StatusCode};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use orch::engine::{AttemptEnded, AttemptOutcome, Observer, RunEnded};
use orch::trace::{TraceParent, attempt_span, run_span};
use orch::{RunStatus, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::api::trace::Trace;

/// Spans that wait to be collected; what comes beyond is dropped and counted.
const WAITING_MAX: usize = 16_384;
/// It is told of dropped spans once for so many.
const DROPPED_TOLD: u64 = 10_000;
/// Spans of one batch.
const BATCH: usize = 512;
/// How long a span waits for others to be collected with.
const WAIT: Duration = Duration::from_secs(1);
/// How long the last spans may take at the end.
const LAST: Duration = Duration::from_secs(5);

/// Who collects spans. One call at a time.
#[async_trait]
pub trait Collector: Send + Sync + 'static {
    /// Takes a batch of spans that have ended, in no particular order.
    ///
    /// # Errors
    /// In words, when they were not taken; they are not offered again.
    async fn collect(&self, spans: Vec<SpanData>) -> Result<(), String>;
}

/// Tells collectors of spans. Cheap to clone; all clones tell the same ones.
///
/// Hand it to the engine ([`OrchestratorBuilder::observe`](orch::OrchestratorBuilder::observe)) and to the router
/// ([`Settings::traces`](crate::Settings::traces)).
#[derive(Clone, Debug)]
pub struct Traces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    told: mpsc::Sender<Told>,
    dropped: AtomicU64,
    scope: InstrumentationScope,
    ratio: f64,
}

enum Told {
    Span(Box<SpanData>),
    /// Everything told before is to be collected, and this answered.
    End(oneshot::Sender<()>),
}

impl Traces {
    /// Begins to tell these collectors, in a task of the present runtime. Of traces that begin here this share is recorded, 0.0 to
    /// 1.0; of others, those that their caller records.
    #[must_use]
    pub fn start(collectors: Vec<Box<dyn Collector>>, ratio: f64) -> Self {
        let (told, spans) = mpsc::channel(WAITING_MAX);
        tokio::spawn(collect(spans, collectors));
        let scope = InstrumentationScope::builder("orch").with_version(env!("CARGO_PKG_VERSION")).build();
        Self(Arc::new(Inner { told, dropped: AtomicU64::new(0), scope, ratio: ratio.clamp(0.0, 1.0) }))
    }

    /// Spans that were dropped because collectors were too slow or away.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Has everything collected that was told until now, for as long as that may take.
    pub async fn finish(&self) {
        let (answer, collected) = oneshot::channel();
        let ended = async {
            if self.0.told.send(Told::End(answer)).await.is_ok() {
                let _ = collected.await;
            }
        };
        let _ = timeout(LAST, ended).await;
    }

    /// Whether a trace that begins here is recorded: the same answer in every process with the same share.
    pub(crate) fn samples(&self, trace: &[u8; 16]) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&trace[8..]);
        // 53 bits of it, which a float holds exactly.
        let place = (u64::from_be_bytes(low) >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.0.ratio
    }

    fn tell(&self, span: Span) {
        let Span { place, parent, remote, kind, name, from, to, attributes, failed } = span;
        let context = SpanContext::new(
            TraceId::from_bytes(place.trace),
            SpanId::from_bytes(place.span),
            TraceFlags::new(place.flags),
            false,
            TraceState::default(),
        );
        let data = SpanData {
            span_context: context,
            parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: remote,
            span_kind: kind,
            name: name.into(),
            start_time: time(from),
            end_time: time(to),
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: if failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.0.scope.clone(),
        };
        if self.0.told.try_send(Told::Span(Box::new(data))).is_err() {
            let before = self.0.dropped.fetch_add(1, Ordering::Relaxed);
            if before.is_multiple_of(DROPPED_TOLD) {
                tracing::warn!(
                    dropped = before + 1,
                    "spans are dropped: they are not collected as fast as they end"
                );
            }
        }
    }

    /// Tells of a request that was answered. Of mere looking only if the caller records it.
    pub(crate) fn answered(&self, request: &AnsweredRequest<'_>) {
        let AnsweredRequest { trace, method, route, tenant, status, from, to } = request;
        let Some(place) = trace.place().filter(|place| place.is_sampled()) else { return };
        if *method == Method::GET && trace.parent.is_none() {
            return;
        }
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.as_str().to_owned()),
            KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
        ];
        attributes.extend(route.clone().map(|route| KeyValue::new("http.route", route)));
        attributes.extend(tenant.as_ref().map(|tenant| KeyValue::new("orch.tenant", tenant.clone())));
        self.tell(Span {
            place,
            parent: trace.parent_span(),
            remote: true,
            kind: SpanKind::Server,
            name: route.as_ref().map_or_else(|| method.to_string(), |route| format!("{method} {route}")),
            from: *from,
            to: *to,
            attributes,
            failed: status.is_server_error(),
        });
    }
}

/// A request as traces tell of it.
pub(crate) struct AnsweredRequest<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) method: &'a Method,
    pub(crate) route: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) status: StatusCode,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

/// What has ended.
struct Span {
    place: TraceParent,
    parent: Option<[u8; 8]>,
    /// The parent is another process's.
    remote: bool,
    kind: SpanKind,
    name: String,
    from: Timestamp,
    to: Timestamp,
    attributes: Vec<KeyValue>,
    failed: bool,
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(0))
}

/// The trace of a run, if it is recorded.
fn recorded(traceparent: Option<&str>) -> Option<TraceParent> {
    traceparent?.parse::<TraceParent>().ok().filter(|trace| trace.is_sampled())
}

impl Observer for Traces {
    fn attempt_ended(&self, ended: &AttemptEnded) {
        let Some(trace) = recorded(ended.traceparent.as_deref()) else { return };
        self.tell(Span {
            place: trace.below(attempt_span(ended.run.run, &ended.step, ended.attempt)),
            parent: Some(run_span(ended.run.run)),
            remote: false,
            kind: SpanKind::Internal,
            name: "orchestrator.step".to_owned(),
            from: ended.started_at,
            to: ended.ended_at,
            attributes: vec![
                KeyValue::new("orch.tenant", ended.run.tenant.to_string()),
                KeyValue::new("orch.dag_id", ended.dag.to_string()),
                KeyValue::new("orch.run_id", ended.run.run.to_string()),
                KeyValue::new("orch.step_id", ended.step.to_string()),
                KeyValue::new("orch.attempt", i64::from(ended.attempt)),
                KeyValue::new("orch.outcome", ended.outcome.as_str()),
            ],
            failed: !matches!(ended.outcome, AttemptOutcome::Succeeded | AttemptOutcome::Cancelled),
        });
    }

    fn run_ended(&self, ended: &RunEnded) {
        let Some(trace) = recorded(ended.traceparent.as_deref()) else { return };
        let own = run_span(ended.run.run);
        self.tell(Span {
            place: trace.below(own),
            // A run that was submitted in no trace begins its own.
            parent: Some(trace.span).filter(|span| *span != own),
            remote: true,
            kind: SpanKind::Internal,
            name: "orchestrator.run".to_owned(),
            from: ended.created_at,
            to: ended.ended_at,
            attributes: vec![
                KeyValue::new("orch.tenant", ended.run.tenant.to_string()),
                KeyValue::new("orch.dag_id", ended.dag.to_string()),
                KeyValue::new("orch.run_id", ended.run.run.to_string()),
                KeyValue::new("orch.status", ended.status.as_str()),
            ],
            failed: ended.status == RunStatus::Failed,
        });
    }
}

/// Hands spans to the collectors, some at a time.
async fn collect(mut told: mpsc::Receiver<Told>, collectors: Vec<Box<dyn Collector>>) {
    let mut failing = false;
    while let Some(first) = told.recv().await {
        let (mut batch, mut end, mut next) = (Vec::new(), None, Some(first));
        let mut over = pin!(sleep(WAIT));
        while let Some(told_next) = next {
            match told_next {
                Told::Span(span) => batch.push(*span),
                Told::End(answer) => end = Some(answer),
            }
            if end.is_some() || batch.len() >= BATCH {
                break;
            }
            next = tokio::select! {
                next = told.recv() => next,
                () = &mut over => None,
            };
        }
        for collector in collectors.iter().filter(|_| !batch.is_empty()) {
            match collector.collect(batch.clone()).await {
                Ok(()) => failing = false,
                // Said once, and again after it has worked.
                Err(why) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(why, "spans are not collected");
                }
                Err(_) => {}
            }
        }
        if let Some(answer) = end {
            let _ = answer.send(());
        }
    }
}
