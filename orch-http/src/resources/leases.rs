//! `/workers/leases`: attempts that workers outside lease, in any language.
//!
//! A worker leases steps of its job types, says now and then that it lives, hands in what it made, and says how it ended.
//! A lease is an entry of the run's record: any process of the service may take the next word about it.

use std::time::Duration;

use axum::extract::{Request, State};
use http::StatusCode;
use orch::engine::{Lease, LeaseToken, Leased, Renewed};
use orch::executor::{Failure, LogSink, LogStream, Outcome, ProgressSink, Redactor};
use orch::ledger::ArtifactRef;
use orch::{DagId, Digest, Payload, QueueName, RunId, StepId, StepKey, SystemClock, TenantId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::workers;
use crate::App;
use crate::api::body::{collect, essence};
use crate::api::code::Code;
use crate::api::{Answer, ApiError, ApiResult, At, Body, Caller, Checked, Guard, Query, Route, schema};
use crate::auth::Scope;

const OF_LEASE: &[Code] = &[Code::NotFound, Code::LeaseLost];
const OF_UPLOAD: &[Code] = &[Code::NotFound, Code::LimitExceeded];
/// What logs are sent as, and kept as.
const TEXT: &str = "text/plain";
const NDJSON: &str = "application/x-ndjson";
const BYTES: &str = "application/octet-stream";

pub(super) fn routes() -> Vec<Route> {
    let guard = Guard::Scope(Scope::Work);
    vec![
        Route::post("/workers/leases", "leaseJobs", guard, lease)
            .says("Lease attempts of steps that use `worker/TYPE`: those that wait, or the first that come in time.")
            .takes::<LeaseJobs>()
            .like(r#"{"worker":"scanner-7","jobTypes":["scan"],"leaseSeconds":60,"waitSeconds":1}"#)
            .gives::<Leases>(StatusCode::OK)
            .waits(),
        Route::post("/workers/leases/{leaseId}:heartbeat", "renewLease", guard, heartbeat)
            .says("Say that the worker lives and how far it is, and hear whether to stop.")
            .takes::<Heartbeat>()
            .like(r#"{"leaseSeconds":60,"progress":"12 of 40 files"}"#)
            .gives::<RenewedView>(StatusCode::OK)
            .may(OF_LEASE),
        Route::post("/workers/leases/{leaseId}/logs", "uploadLog", guard, upload_log)
            .says("Keep the log of an attempt: text, of which each line becomes a line of the log.")
            .takes_as::<schema::Text>(&[TEXT])
            .gives::<ArtifactView>(StatusCode::CREATED)
            .may(OF_UPLOAD),
        Route::post("/workers/leases/{leaseId}/artifacts", "uploadArtifact", guard, upload_artifact)
            .says("Keep bytes that the attempt made, to be named in its output.")
            .query::<AskUpload>()
            .takes_as::<schema::Binary>(&[BYTES])
            .gives::<ArtifactView>(StatusCode::CREATED)
            .may(OF_UPLOAD),
        Route::post("/workers/leases/{leaseId}:complete", "completeLease", guard, complete)
            .says("End the attempt well, with its output.")
            .takes::<Complete>()
            .like(r#"{"output":{"found":2}}"#)
            .gives_as(StatusCode::NO_CONTENT, "", None)
            .may(&[Code::NotFound, Code::LeaseLost, Code::LimitExceeded]),
        Route::post("/workers/leases/{leaseId}:fail", "failLease", guard, fail)
            .says("End the attempt badly: it is tried again as its step says.")
            .takes::<Fail>()
            .like(r#"{"code":"busy","message":"the scanner is busy","retryAfterSeconds":5}"#)
            .gives_as(StatusCode::NO_CONTENT, "", None)
            .may(OF_LEASE),
        Route::post("/workers/leases/{leaseId}:release", "releaseLease", guard, release)
            .says("Give the attempt back: another worker may have it at once.")
            .gives_as(StatusCode::NO_CONTENT, "", None)
            .may(OF_LEASE),
    ]
}

/// What a worker asks for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeaseJobs {
    /// What the worker is called: by people, and in the record.
    #[schemars(length(min = 1, max = 64))]
    worker: String,
    /// Its version: part of the key under which results of steps with `cache: true` are used again.
    #[serde(default = "first_version")]
    #[schemars(length(min = 1, max = 64))]
    version: String,
    /// The job types it can do: the `TYPE` of `worker/TYPE`.
    #[schemars(with = "Vec<schema::Slug>", length(min = 1, max = 64))]
    job_types: Vec<StepId>,
    /// The queues it takes from; steps that name none are in `default`.
    #[serde(default = "default_queues")]
    #[schemars(with = "Vec<schema::Slug>", length(min = 1, max = 16))]
    queues: Vec<QueueName>,
    /// Attempts at most.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    max: u32,
    /// For how long the worker is believed without a further word; the time of the step may cut it.
    #[serde(default = "lease_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    lease_seconds: u32,
    /// How long to wait for the first attempt. Nothing is an answer, too.
    #[serde(default)]
    #[schemars(range(min = 0, max = 60))]
    wait_seconds: u32,
}

fn first_version() -> String {
    "1".to_owned()
}

fn default_queues() -> Vec<QueueName> {
    vec![QueueName::default_queue()]
}

fn one() -> u32 {
    1
}

fn lease_seconds() -> u32 {
    30
}

/// What was leased.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Leases {
    /// The attempts, in the order of their queue; none when none came in time.
    pub(crate) items: Vec<LeaseView>,
}

/// An attempt that is the worker's for a while.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseView {
    /// What every further word about it names. Keep it to yourself.
    lease_id: String,
    /// Until when the worker is believed without a further word.
    #[schemars(with = "schema::Time")]
    lease_until: Timestamp,
    /// When the attempt is out of time, whatever is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    deadline_utc: Option<Timestamp>,
    /// The same for all attempts of this step in this run and for no other: hand it to what must not happen twice.
    #[schemars(with = "schema::Hash")]
    idempotency_key: String,
    /// What kind of work it is.
    #[schemars(with = "schema::Slug")]
    job_type: String,
    /// What to work on.
    #[schemars(with = "schema::Json")]
    input: Payload,
    /// Whose run it is.
    #[schemars(with = "schema::Slug")]
    tenant: TenantId,
    /// The run.
    #[schemars(with = "schema::RunId")]
    run_id: RunId,
    /// Its DAG.
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    /// The step.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// Which attempt it is, from 1.
    attempt: u32,
    /// What is known of further attempts.
    retry: RetryHints,
    /// Who submitted the run.
    actor: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    rationale: Option<String>,
    /// What belongs together across services: the trace id of the run's submission, or else the run.
    correlation_id: String,
    /// The trace that the attempt is a span of (W3C Trace Context): hand it on to whatever the worker calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// What goes along with the run (W3C Baggage): hand it on, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    baggage: Option<String>,
    /// The names of the secrets that the step declares; their values are the worker's to have.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    #[schemars(default)]
    secrets: Vec<String>,
}

/// What is known of further attempts.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RetryHints {
    /// How many failed attempts the step may have, this one included.
    max_attempts: u32,
    /// How many have failed.
    failures: u32,
    /// Whether another one follows if this one fails in a way that may pass.
    last: bool,
}

impl LeaseView {
    fn of(leased: Leased, tenant: &TenantId) -> Self {
        let trace = leased.traceparent.as_deref().and_then(|text| text.split('-').nth(1));
        Self {
            correlation_id: trace.map_or_else(|| leased.run.to_string(), str::to_owned),
            lease_id: leased.token.as_str().to_owned(),
            lease_until: leased.lease_until,
            deadline_utc: leased.deadline,
            idempotency_key: leased.idempotency_key,
            job_type: leased.job_type,
            input: leased.input,
            tenant: tenant.clone(),
            run_id: leased.run,
            dag_id: leased.dag,
            step_id: leased.step,
            attempt: leased.attempt,
            retry: RetryHints {
                max_attempts: leased.max_attempts,
                failures: leased.failures,
                last: leased.failures + 1 >= leased.max_attempts,
            },
            actor: leased.actor,
            rationale: leased.rationale,
            traceparent: leased.traceparent,
            baggage: leased.baggage,
            secrets: leased.secrets,
        }
    }
}

impl TryFrom<LeaseView> for Leased {
    type Error = orch::Error;

    fn try_from(view: LeaseView) -> orch::Result<Self> {
        Ok(Self {
            token: view.lease_id.parse()?,
            lease_until: view.lease_until,
            deadline: view.deadline_utc,
            idempotency_key: view.idempotency_key,
            job_type: view.job_type,
            input: view.input,
            run: view.run_id,
            dag: view.dag_id,
            step: view.step_id,
            attempt: view.attempt,
            max_attempts: view.retry.max_attempts,
            failures: view.retry.failures,
            actor: view.actor,
            rationale: view.rationale,
            traceparent: view.traceparent,
            baggage: view.baggage,
            secrets: view.secrets,
        })
    }
}

async fn lease(
    State(app): State<App>,
    caller: Caller,
    Checked(asked): Checked<LeaseJobs>,
) -> ApiResult<Answer<Leases>> {
    workers::seen(&app, &caller, &asked.worker, &asked.version, &asked.job_types, &asked.queues).await;
    let lease = Lease {
        worker: asked.worker,
        version: asked.version,
        types: asked.job_types.iter().map(ToString::to_string).collect(),
        queues: asked.queues,
        max: asked.max as usize,
        lease: Duration::from_secs(asked.lease_seconds.into()),
        wait: Duration::from_secs(asked.wait_seconds.into()),
    };
    let leased = tokio::select! {
        biased;
        leased = app.orch.lease(&caller.who, lease) => leased?,
        () = app.settings.closing.cancelled() => Vec::new(),
    };
    let items = leased.into_iter().map(|leased| LeaseView::of(leased, &caller.who.tenant)).collect();
    Ok(Answer::ok(Leases { items }))
}

/// A word of a worker that lives.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Heartbeat {
    /// For how long it is believed from now on.
    #[serde(default = "lease_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    lease_seconds: u32,
    /// How far it is, such as `12 of 40 files`.
    #[schemars(length(min = 1, max = NOTE_MAX))]
    progress: Option<String>,
}

const NOTE_MAX: usize = ProgressSink::NOTE_BYTES_MAX;

/// A lease that was prolonged.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RenewedView {
    /// Until when the worker is believed without a further word.
    #[schemars(with = "schema::Time")]
    lease_until: Timestamp,
    /// The run is to end: stop, and say so with `:fail` and `status: canceled`, or with what was achieved.
    cancel: bool,
}

async fn heartbeat(
    State(app): State<App>,
    caller: Caller,
    At(lease): At<LeaseToken>,
    Checked(word): Checked<Heartbeat>,
) -> ApiResult<Answer<RenewedView>> {
    let span = Duration::from_secs(word.lease_seconds.into());
    let renewed = app.orch.renew_lease(&caller.who, &lease, span, word.progress.as_deref()).await?;
    let Renewed { lease_until, cancel } = renewed;
    Ok(Answer::ok(RenewedView { lease_until, cancel }))
}

/// Bytes that were kept.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ArtifactView {
    /// SHA-256 of the bytes: `/artifacts/{hash}` gives them back.
    #[schemars(with = "schema::Hash")]
    hash: Digest,
    /// What kind of bytes they are.
    #[schemars(length(min = 1, max = 255))]
    media_type: String,
    /// What they are called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// How many there are.
    size: u64,
}

impl From<ArtifactView> for ArtifactRef {
    fn from(ArtifactView { hash, media_type, name, size }: ArtifactView) -> Self {
        Self { hash, media_type, name, size }
    }
}

impl From<RenewedView> for Renewed {
    fn from(RenewedView { lease_until, cancel }: RenewedView) -> Self {
        Self { lease_until, cancel }
    }
}

impl From<ArtifactRef> for ArtifactView {
    fn from(ArtifactRef { hash, media_type, name, size }: ArtifactRef) -> Self {
        Self { hash, media_type, name, size }
    }
}

/// What is uploaded for a lease is of a run of the tenant.
async fn of_tenant(app: &App, caller: &Caller, lease: &LeaseToken) -> ApiResult<()> {
    match lease.run() {
        Some(run) => Ok(app.orch.run(&caller.who, run).await.map(drop)?),
        None => Err(ApiError::not_found("lease")),
    }
}

async fn upload_log(
    State(app): State<App>,
    caller: Caller,
    At(lease): At<LeaseToken>,
    request: Request,
) -> ApiResult<Answer<ArtifactView>> {
    of_tenant(&app, &caller, &lease).await?;
    check_media(&request, TEXT)?;
    let bytes = collect(request, app.settings.limits.body_bytes).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::invalid_at("", "the log is not UTF-8"))?;
    let log = LogSink::new(std::sync::Arc::new(SystemClock), Redactor::default(), LogSink::BYTES_MAX);
    log.line(LogStream::Step, text);
    let lines = log.finish().unwrap_or_default();
    let kept = app.orch.artifacts().put(&caller.who.tenant, NDJSON, Some("attempt.log".to_owned()), lines);
    Ok(Answer::created(kept.await?.into()))
}

/// What uploaded bytes are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskUpload {
    /// What they are called.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// What kind of bytes they are.
    #[schemars(length(min = 1, max = 255))]
    media_type: Option<String>,
}

async fn upload_artifact(
    State(app): State<App>,
    caller: Caller,
    At(lease): At<LeaseToken>,
    Query(asked): Query<AskUpload>,
    request: Request,
) -> ApiResult<Answer<ArtifactView>> {
    of_tenant(&app, &caller, &lease).await?;
    check_media(&request, BYTES)?;
    let bytes = collect(request, app.settings.limits.body_bytes).await?;
    let media_type = asked.media_type.unwrap_or_else(|| BYTES.to_owned());
    let kept = app.orch.artifacts().put(&caller.who.tenant, media_type, asked.name, bytes).await?;
    Ok(Answer::created(kept.into()))
}

fn check_media(request: &Request, media: &str) -> ApiResult<()> {
    match essence(request.headers()).is_none_or(|essence| essence == media) {
        true => Ok(()),
        false => Err(ApiError::new(Code::UnsupportedMediaType, format!("the body must be {media}"))),
    }
}

/// An attempt that ended well.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Complete {
    /// What came out of it.
    #[serde(default)]
    #[schemars(with = "schema::Json")]
    output: Value,
    /// Its log, as `/logs` answered.
    logs: Option<ArtifactView>,
}

async fn complete(
    State(app): State<App>,
    caller: Caller,
    At(lease): At<LeaseToken>,
    Body(ended): Body<Complete>,
) -> ApiResult<StatusCode> {
    let output = Payload::new(&ended.output)?;
    finish(&app, &caller, &lease, Outcome::Succeeded(output), ended.logs).await
}

/// How an attempt ended that did not end well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Ended {
    /// It failed.
    #[default]
    Failed,
    /// It was told to stop and did.
    Canceled,
    /// It took longer than it may.
    TimedOut,
}

/// An attempt that ended badly.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fail {
    /// How it ended.
    #[serde(default)]
    status: Ended,
    /// A stable word for machines; `nonRetryable` of a step names these.
    #[serde(default = "failed")]
    #[schemars(regex(pattern = "^[a-z][a-z0-9_]{0,63}$"))]
    code: String,
    /// What happened, for people. No secrets.
    #[serde(default)]
    #[schemars(length(max = 65536))]
    message: String,
    /// Whether another attempt may end better.
    #[serde(default = "yes")]
    retryable: bool,
    /// The earliest moment at which another attempt makes sense, from now on.
    #[schemars(range(min = 0, max = 86400))]
    retry_after_seconds: Option<u32>,
    /// Its log, as `/logs` answered.
    logs: Option<ArtifactView>,
}

fn failed() -> String {
    "failed".to_owned()
}

fn yes() -> bool {
    true
}

async fn fail(
    State(app): State<App>,
    caller: Caller,
    At(lease): At<LeaseToken>,
    Checked(ended): Checked<Fail>,
) -> ApiResult<StatusCode> {
    let outcome = match ended.status {
        Ended::Canceled => Outcome::Cancelled,
        Ended::TimedOut => Outcome::TimedOut,
        Ended::Failed => Failure {
            code: ended.code,
            message: ended.message,
            retryable: ended.retryable,
            retry_after: ended.retry_after_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        }
        .into(),
    };
    finish(&app, &caller, &lease, outcome, ended.logs).await
}

async fn finish(
    app: &App,
    caller: &Caller,
    lease: &LeaseToken,
    outcome: Outcome,
    logs: Option<ArtifactView>,
) -> ApiResult<StatusCode> {
    let logs = match logs {
        Some(logs) => Some(kept(app, caller, logs).await?),
        None => None,
    };
    app.orch.finish_lease(&caller.who, lease, outcome, logs).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The log that a worker names, if it is there and as it says.
async fn kept(app: &App, caller: &Caller, named: ArtifactView) -> ApiResult<ArtifactRef> {
    let ArtifactView { hash, media_type, name, size } = named;
    let bytes = match app.orch.artifacts().get(&caller.who.tenant, &hash).await {
        Err(error) if error.kind() == orch::ErrorKind::NotFound => {
            return Err(ApiError::invalid_at("/logs/hash", "nothing with this hash was uploaded"));
        }
        bytes => bytes?,
    };
    if media_type != NDJSON || size != bytes.len() as u64 {
        return Err(ApiError::invalid_at("/logs", "not as the upload of the log was answered"));
    }
    Ok(ArtifactRef { hash, media_type, name, size })
}

async fn release(State(app): State<App>, caller: Caller, At(lease): At<LeaseToken>) -> ApiResult<StatusCode> {
    app.orch.release_lease(&caller.who, &lease).await?;
    Ok(StatusCode::NO_CONTENT)
}
