//! The ends of runs, in the log.

use orch::engine::{Observer, RunEnded};
use orch::trace::TraceParent;

/// Logs how each run ended: hand it to the engine with
/// [`OrchestratorBuilder::observe`](orch::OrchestratorBuilder::observe). What a run was given and made is not told.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunLog;

impl Observer for RunLog {
    fn run_ended(&self, ended: &RunEnded) {
        let trace = ended.traceparent.as_deref().and_then(|text| text.parse::<TraceParent>().ok());
        let took = ended.ended_at.since(ended.created_at);
        tracing::info!(
            tenant = ended.run.tenant.as_str(),
            dagId = ended.dag.as_str(),
            runId = %ended.run.run,
            status = ended.status.as_str(),
            trace_id = trace.map(|trace| crate::api::trace::hex(trace.trace)),
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "run ended"
        );
    }
}
