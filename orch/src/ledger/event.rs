//! What can happen: the payloads of ledger entries.
//!
//! Fields stand in byte order of their JSON names, so that plain serialisation is canonical JSON (RFC 8785);
//! a test holds every event to that.

use serde::{Deserialize, Serialize};

use super::Head;
use super::status::GateKind;
use super::stream::Stream;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::{DagId, RunId, StepKey, WorkerId};
use crate::payload::{Payload, verbatim};
use crate::store::ParentStep;
use crate::time::Timestamp;

macro_rules! events {
    ($( $(#[$doc:meta])* $tag:literal $name:ident { $( $(#[$attr:meta])* $field:ident : $ty:ty, )* } )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            pub struct $name { $( $(#[$attr])* pub $field: $ty, )* }

            impl From<$name> for Event {
                fn from(event: $name) -> Self {
                    Self::$name(event)
                }
            }
        )*

        /// Something that happened, as an entry records it.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Event {
            $( $(#[$doc])* $name($name), )*
        }

        impl Event {
            /// Every type of event, as entries name them.
            pub const TYPES: &'static [&'static str] = &[$($tag),*];

            /// The type as entries name it, such as `step.started`.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $( Self::$name(_) => $tag, )* }
            }

            /// Writes the data as canonical JSON.
            pub(crate) fn write_data(&self, out: &mut Vec<u8>) -> Result<()> {
                match self { $( Self::$name(data) => serde_json::to_writer(out, data), )* }
                    .map_err(|cause| Error::internal("event does not serialise").caused_by(cause))
            }

            /// Reads the data of an event of type `type_name`.
            ///
            /// # Errors
            /// `Corrupt` when the type is unknown or the data has another shape.
            pub fn read(type_name: &str, data: &str) -> Result<Self> {
                match type_name {
                    $( $tag => serde_json::from_str::<$name>(data).map(Self::$name), )*
                    _ => return Err(Error::corrupt("unknown type of entry").with("type", type_name)),
                }
                .map_err(|cause| Error::corrupt("entry data has another shape than its type")
                    .with("type", type_name).caused_by(cause))
            }
        }
    };
}

events! {
    /// A run was submitted. Always the first entry of its stream.
    "run.created" RunCreated {
        /// What goes along with the run to whatever works for it (W3C Baggage).
        #[serde(skip_serializing_if = "Option::is_none", default)]
        baggage: Option<String>,
        /// The DAG.
        dag_id: DagId,
        /// The published version; absent for an unpublished spec.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        dag_version: Option<u32>,
        /// The inputs, defaults filled in.
        #[serde(deserialize_with = "verbatim::deserialize")]
        inputs: Payload,
        /// SHA-256 of the inputs.
        inputs_hash: Digest,
        /// The step this run carries out, for a sub-DAG.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        parent: Option<ParentStep>,
        /// The plan, whole: a later version of the DAG never changes a run.
        #[serde(deserialize_with = "verbatim::deserialize")]
        plan: Payload,
        /// SHA-256 of the plan.
        plan_hash: Digest,
        /// The run's own priority, added to that of its steps.
        priority: i32,
        /// Why it was submitted, in the words of the actor.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        rationale: Option<String>,
        /// The run this one repeats.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        replay_of: Option<RunId>,
        /// Names the run among those of the same DAG and inputs.
        run_token: String,
        /// How process steps are isolated in this run, such as `none`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        sandbox: Option<String>,
        /// The trace it was submitted in (W3C Trace Context).
        #[serde(skip_serializing_if = "Option::is_none", default)]
        traceparent: Option<String>,
    }
    /// The first step is about to start.
    "run.started" RunStarted {}
    /// Nothing new is started until the run is resumed.
    "run.paused" RunPaused {
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    }
    /// The run goes on.
    "run.resumed" RunResumed {
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    }
    /// Failed or parked steps were given another round of attempts; skipped steps after them are open again.
    "run.retried" RunRetried {
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
        /// The steps, in plan order.
        steps: Vec<StepKey>,
    }
    /// The run is to end: what has not started never will, what runs is told to stop.
    "run.cancelRequested" RunCancelRequested {
        /// Set when orch itself ends the run, which then counts as failed with this code, such as `run_timeout`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        code: Option<String>,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    }
    /// Every step is settled and none failed.
    "run.completed" RunCompleted {
        /// SHA-256 over the canonical JSON object of final steps and their output hashes.
        outputs_hash: Digest,
    }
    /// Every step is settled and at least one failed, or the run's time is up.
    "run.failed" RunFailed {
        /// What failed, such as `step_failed` or `run_timeout`.
        code: String,
        /// In words.
        message: String,
        /// As in `run.completed`, over what succeeded.
        outputs_hash: Digest,
    }
    /// The run was cancelled and nothing of it runs any more.
    "run.cancelled" RunCancelled {
        /// As in `run.completed`, over what succeeded.
        outputs_hash: Digest,
    }
    /// An attempt may start.
    "step.scheduled" StepScheduled {
        /// Which attempt, from 1.
        attempt: u32,
        /// The input, where expressions made it; otherwise it stands in the plan.
        #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "verbatim::option::deserialize")]
        input: Option<Payload>,
        /// SHA-256 of the input.
        input_hash: Digest,
        /// Not before this instant (the backoff of a retry).
        #[serde(skip_serializing_if = "Option::is_none", default)]
        not_before: Option<Timestamp>,
        /// The step.
        step: StepKey,
    }
    /// An attempt is real: from here on only its worker can record its outcome.
    "step.started" StepStarted {
        /// Which attempt.
        attempt: u32,
        /// The run that carries it out, for a sub-DAG.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        child_run: Option<RunId>,
        /// The version of the executor.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        executor: Option<String>,
        /// When the attempt counts as lost unless its lease is prolonged.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        lease_until: Option<Timestamp>,
        /// The step.
        step: StepKey,
        /// Who runs it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        worker: Option<WorkerId>,
    }
    /// A worker still works: the leases of its attempts in this run are prolonged.
    "attempt.progress" AttemptProgress {
        /// When they count as lost unless prolonged again.
        lease_until: Timestamp,
        /// What the attempts said of themselves, by step; the last word since the entry before.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        notes: Vec<ProgressNote>,
        /// Who works.
        worker: WorkerId,
    }
    /// The step is settled: it succeeded.
    "step.succeeded" StepSucceeded {
        /// Which attempt; 0 when an earlier result was reused.
        attempt: u32,
        /// What the step wrote to its log, if anything.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        logs: Option<ArtifactRef>,
        /// The output. Absent for a `forEach` step, whose output is the list of its children's.
        #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "verbatim::option::deserialize")]
        output: Option<Payload>,
        /// SHA-256 of the output.
        output_hash: Digest,
        /// Where the output comes from, when an earlier result was reused.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reused: Option<ReusedFrom>,
        /// The step.
        step: StepKey,
    }
    /// An attempt failed. Without `retryAt` the step is settled.
    "step.failed" StepFailed {
        /// Which attempt; 0 when it failed before any attempt.
        attempt: u32,
        /// A stable code, such as `exit_1` or `timeout`.
        code: String,
        /// What the step wrote to its log, if anything.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        logs: Option<ArtifactRef>,
        /// In words.
        message: String,
        /// When the next attempt may start.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        retry_at: Option<Timestamp>,
        /// Whether the failure was of a kind that another attempt may cure.
        retryable: bool,
        /// The step.
        step: StepKey,
    }
    /// The worker of an attempt died or lost touch; nobody knows how far it came.
    "step.lost" StepLost {
        /// Which attempt.
        attempt: u32,
        /// When the next attempt may start.
        retry_at: Timestamp,
        /// The step.
        step: StepKey,
        /// Who had it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        worker: Option<WorkerId>,
    }
    /// The step is settled: it was not run.
    "step.skipped" StepSkipped {
        /// Why not.
        reason: String,
        /// The step.
        step: StepKey,
    }
    /// The last attempt failed and the step waits for a person to retry it or cancel the run.
    "step.parked" StepParked {
        /// Which attempt.
        attempt: u32,
        /// As in `step.failed`.
        code: String,
        /// As in `step.failed`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        logs: Option<ArtifactRef>,
        /// As in `step.failed`.
        message: String,
        /// The step.
        step: StepKey,
    }
    /// The step is settled: it was stopped or never started, because the run was cancelled.
    "step.cancelled" StepCancelled {
        /// The attempt that was stopped, 0 when none ran.
        attempt: u32,
        /// What the step wrote to its log, if anything.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        logs: Option<ArtifactRef>,
        /// The step.
        step: StepKey,
    }
    /// The step waits: for time to pass or for a signal.
    "step.waiting" StepWaiting {
        /// When the wait fails.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expires_at: Option<Timestamp>,
        /// The name of the signal it waits for.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        signal: Option<String>,
        /// The step.
        step: StepKey,
        /// When the wait is over.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        until: Option<Timestamp>,
    }
    /// A `forEach` step was expanded into one child per item.
    "map.expanded" MapExpanded {
        /// The items, in order.
        #[serde(deserialize_with = "verbatim::list::deserialize")]
        items: Vec<Payload>,
        /// The step.
        step: StepKey,
    }
    /// A gate waits for somebody else's verdict.
    "gate.requested" GateRequested {
        /// When it expires undecided.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expires_at: Option<Timestamp>,
        /// Who may decide it.
        gate: GateKind,
        /// What is asked, for whoever decides.
        #[serde(deserialize_with = "verbatim::deserialize")]
        input: Payload,
        /// The step.
        step: StepKey,
    }
    /// A verdict was given; the entry's actor gave it.
    "gate.decided" GateDecided {
        /// Whether the gate opens.
        approved: bool,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
        /// The step.
        step: StepKey,
    }
    /// A signal arrived.
    "signal.received" SignalReceived {
        /// Its name.
        name: String,
        /// What it carries.
        #[serde(deserialize_with = "verbatim::deserialize")]
        payload: Payload,
    }
    /// Somebody did something to the tenant's orchestration; only in the `audit` stream.
    "audit.action" AuditAction {
        /// What was done, such as `dag.publish`.
        action: String,
        /// Its particulars.
        #[serde(deserialize_with = "verbatim::deserialize")]
        detail: Payload,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
        /// To what.
        target: String,
    }
    /// The heads of streams at one moment, signed; only in the `checkpoint` stream.
    "checkpoint.taken" CheckpointTaken {
        /// The heads, by stream name.
        heads: Vec<StreamHead>,
        /// The Ed25519 public key, hex.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key: Option<String>,
        /// The Ed25519 signature over tenant, time and heads, hex.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        signature: Option<String>,
    }
    /// Finished runs were deleted; their heads remain here. Only in the `checkpoint` stream.
    "checkpoint.pruned" CheckpointPruned {
        /// The heads of what was deleted, by stream name.
        heads: Vec<StreamHead>,
    }
}

/// What a running attempt says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgressNote {
    /// The attempt.
    pub attempt: u32,
    /// In words.
    pub note: String,
    /// The step.
    pub step: StepKey,
}

/// Bytes kept outside the ledger, named by their content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactRef {
    /// SHA-256 of the bytes.
    pub hash: Digest,
    /// What kind of bytes, such as `application/json`.
    pub media_type: String,
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// How many bytes.
    pub size: u64,
}

/// Where a reused output comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReusedFrom {
    /// The run that made it.
    pub run: RunId,
    /// The step that made it.
    pub step: StepKey,
}

/// The head of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamHead {
    /// The head.
    pub head: Head,
    /// The stream.
    pub stream: Stream,
}
