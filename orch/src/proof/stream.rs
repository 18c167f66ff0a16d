//! Verifying one stream, line by line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::checkpoint::PublicKey;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::{RunId, TenantId};
use crate::invariant::Invariant;
use crate::ledger::{Entry, Event, Head, RunStatus, Stream};
use crate::limits::Limits;
use crate::planner::{Plan, RunState, SharedPlan};
use crate::store::RunRow;

/// Something that is wrong with a stream; its first problem, where the ledger alone was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The stream.
    pub stream: Stream,
    /// The first bad entry, or the one that should be there.
    pub seq: u64,
    /// The line of an export, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The invariant that it breaks.
    pub invariant: Invariant,
    /// A stable code: `unreadable`, `out_of_order`, `misplaced`, `not_canonical`, `chain_broken`, `impossible`,
    /// `hash_differs`, `wrong_id`, `rewritten`, `tail_cut`, `head_differs`, `row_differs`, `row_missing`, `deleted`,
    /// `left_behind`, `bad_signature`, `manifest_differs`, `not_sorted`; and what only an
    /// [observer](super::Observed) sees: `two_winners`, `refused_yet_there`, `executed_twice`, `never_started`,
    /// `not_ended`, `two_runs`, `foreign_data`, `too_many_slots`, `fence_reused`, `slot_withheld`, `unsandboxed`,
    /// `not_delivered`.
    pub code: &'static str,
    /// In words.
    pub message: String,
}

impl Problem {
    /// A problem of a kind that always breaks the same invariant.
    pub(super) fn new(stream: Stream, seq: u64, code: &'static str, message: impl Into<String>) -> Self {
        let invariant = match code {
            "two_winners" | "refused_yet_there" => Invariant::L2,
            "impossible" | "hash_differs" | "row_differs" | "row_missing" => Invariant::L3,
            "executed_twice" | "never_started" => Invariant::R1,
            "not_ended" => Invariant::R4,
            "wrong_id" | "two_runs" => Invariant::R5,
            "foreign_data" => Invariant::T1,
            "too_many_slots" | "fence_reused" | "slot_withheld" => Invariant::A1,
            "unsandboxed" => Invariant::S1,
            "not_delivered" => Invariant::Q1,
            "left_behind" => Invariant::P1,
            _ => Invariant::L1,
        };
        Self { stream, seq, line: None, invariant, code, message: message.into() }
    }
}

/// What is wrong with an entry.
type Fault = (&'static str, String, Option<Invariant>);

/// A fault that always breaks the same invariant.
fn fault(code: &'static str, message: impl Into<String>) -> Fault {
    (code, message.into(), None)
}

/// What the fold refuses; it says which invariant stood in the way.
fn impossible(error: &Error) -> Fault {
    let named = error.context().iter().find(|(key, _)| *key == "invariant");
    ("impossible", error.to_string(), named.and_then(|(_, id)| id.parse().ok()))
}

/// What is known of a stream's heads from elsewhere: sequence numbers and the hashes they must have.
pub(super) type Anchors = BTreeMap<u64, Digest>;

/// Checks the lines of one stream in order and keeps the first problem.
#[derive(Debug)]
pub struct StreamVerifier {
    tenant: TenantId,
    stream: Stream,
    limits: Limits,
    anchors: Anchors,
    key: Option<PublicKey>,
    head: Head,
    run: Run,
    suspect: Option<Suspect>,
    problem: Option<Problem>,
}

/// What the entries of a run have come to.
#[derive(Debug)]
enum Run {
    None,
    Open(Box<RunState>),
    /// Nothing can follow any more; only the row is kept.
    Closed(Box<RunRow>),
}

/// A break between two entries. Which of them was changed, the next entry or the head shows.
#[derive(Debug)]
struct Suspect {
    seq: u64,
    hash: Digest,
}

/// Just enough of an entry to know what it says of the one before.
#[derive(Deserialize)]
struct Link {
    prev: Digest,
}

impl StreamVerifier {
    /// A verifier for the stream from its first entry on.
    #[must_use]
    pub fn new(tenant: TenantId, stream: Stream, limits: Limits) -> Self {
        Self {
            tenant,
            stream,
            limits,
            anchors: Anchors::new(),
            key: None,
            head: Head::EMPTY,
            run: Run::None,
            suspect: None,
            problem: None,
        }
    }

    /// Heads that the stream must have passed through.
    #[must_use]
    pub(super) fn anchored(mut self, anchors: Anchors) -> Self {
        self.anchors = anchors;
        self
    }

    /// The key that checkpoints must be signed with.
    #[must_use]
    pub fn signed_by(mut self, key: Option<PublicKey>) -> Self {
        self.key = key;
        self
    }

    /// The head after the lines so far.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Whether something is known to be wrong; further lines are not looked at then.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.problem.is_some()
    }

    /// The row that follows from the entries of a run so far.
    #[must_use]
    pub fn row(&self) -> Option<RunRow> {
        match &self.run {
            Run::None => None,
            Run::Open(state) => Some(state.row()),
            Run::Closed(row) => Some((**row).clone()),
        }
    }

    /// Looks at the next line (without its newline). Answers the entry if nothing is wrong with it.
    pub fn push(&mut self, line: &str) -> Option<Entry> {
        if let Some(suspect) = self.suspect.take() {
            let intact = serde_json::from_str::<Link>(line).is_ok_and(|next| next.prev == suspect.hash);
            self.convict(&suspect, intact);
        }
        if self.problem.is_some() {
            return None;
        }
        match self.check(line) {
            Ok(entry) => entry,
            Err((code, message, invariant)) => {
                let mut problem = Problem::new(self.stream, self.head.seq + 1, code, message);
                problem.invariant = invariant.unwrap_or(problem.invariant);
                self.problem.get_or_insert(problem);
                None
            }
        }
    }

    fn report(&mut self, seq: u64, code: &'static str, message: String) {
        self.problem.get_or_insert(Problem::new(self.stream, seq, code, message));
    }

    fn convict(&mut self, suspect: &Suspect, intact: bool) {
        let (seq, message) = if intact {
            (suspect.seq - 1, "its hash is not the one that the entry after it names")
        } else {
            (suspect.seq, "it does not name the hash of the entry before it")
        };
        self.report(seq, "chain_broken", message.to_owned());
    }

    fn check(&mut self, line: &str) -> Result<Option<Entry>, Fault> {
        let entry = Entry::read(line).map_err(|error| fault("unreadable", error.to_string()))?;
        let seq = self.head.seq + 1;
        if entry.seq != seq {
            return Err(fault("out_of_order", format!("entry {} stands in its place", entry.seq)));
        }
        if entry.tenant != self.tenant || entry.stream != self.stream {
            return Err(fault("misplaced", format!("it says it is of {} {}", entry.tenant, entry.stream)));
        }
        if !is_canonical(&entry, line) {
            return Err(fault("not_canonical", "its bytes are not the one spelling of what it says"));
        }
        let hash = Digest::of(line);
        if entry.prev != self.head.hash {
            let suspect = Suspect { seq, hash };
            if seq == 1 {
                self.convict(&suspect, false);
            } else {
                self.suspect = Some(suspect);
            }
            return Ok(None);
        }
        if self.anchors.get(&seq).is_some_and(|known| *known != hash) {
            return Err(fault("rewritten", "another hash is known for it"));
        }
        let head = Head { hash, seq };
        match self.stream {
            Stream::Run(_) => self.fold(&entry, head)?,
            Stream::Audit | Stream::Checkpoint => self.check_kind(&entry)?,
        }
        self.head = head;
        Ok(Some(entry))
    }

    fn check_kind(&self, entry: &Entry) -> Result<(), Fault> {
        match (self.stream, &entry.event) {
            (Stream::Audit, Event::AuditAction(_)) | (Stream::Checkpoint, Event::CheckpointPruned(_)) => {
                Ok(())
            }
            (Stream::Checkpoint, Event::CheckpointTaken(_)) => {
                checkpoint::verify_entry(entry, self.key.as_ref())
                    .map_err(|error| fault("bad_signature", error.to_string()))
            }
            (_, event) => Err(fault("misplaced", format!("{} does not belong here", event.type_name()))),
        }
    }

    fn fold(&mut self, entry: &Entry, head: Head) -> Result<(), Fault> {
        match &mut self.run {
            Run::None => {
                let limits = &self.limits;
                let read = |document: &_| Plan::read(document, limits).map(SharedPlan::new);
                let state = RunState::open(entry, head, read).map_err(|error| impossible(&error))?;
                check_id(&state)?;
                self.run = Run::Open(Box::new(state));
            }
            Run::Closed(_) => {
                let outcome = matches!(&entry.event, Event::AttemptProgress(_))
                    || entry.event.type_name().starts_with("step.");
                let invariant = outcome.then_some(Invariant::R2);
                return Err(("impossible", "the run has ended".to_owned(), invariant));
            }
            Run::Open(state) => {
                state.apply(entry.at, &entry.actor, &entry.event).map_err(|error| impossible(&error))?;
                check_hashes(state, &entry.event, &self.limits)
                    .map_err(|error| fault("hash_differs", error.to_string()))?;
                state.head = head;
                // Only a failed run can go on; the others need no state any more.
                if state.ended.as_ref().is_some_and(|ended| ended.status != RunStatus::Failed) {
                    self.run = Run::Closed(Box::new(state.row()));
                }
            }
        }
        Ok(())
    }

    /// Ends the stream. `known` is the head that is recorded beside the entries.
    pub fn finish(&mut self, known: Option<Head>) -> Option<Problem> {
        if let Some(suspect) = self.suspect.take() {
            let intact = known.is_some_and(|head| head.hash == suspect.hash);
            self.convict(&suspect, intact);
        }
        let last = self.head.seq;
        let promised = self.anchors.keys().next_back().copied().max(known.map(|head| head.seq));
        if let Some(promised) = promised.filter(|promised| *promised > last) {
            self.report(
                last + 1,
                "tail_cut",
                format!("entries up to {promised} are known to have been there"),
            );
        }
        if known.is_some_and(|head| head != self.head) {
            self.report(
                last,
                "head_differs",
                "its hash is not the one recorded for the stream's head".to_owned(),
            );
        }
        self.problem.clone()
    }

    /// Compares the row that is stored beside a run with the one that follows from its entries. `wake_at` is a hint
    /// and left out.
    pub fn compare_row(&mut self, stored: &RunRow) -> Option<Problem> {
        let fields = |row: &RunRow| {
            let mut row = row.clone();
            row.wake_at = None;
            serde_json::to_value(row).unwrap_or_default()
        };
        let (right, stored) = (fields(&self.row()?), fields(stored));
        if right != stored {
            let names =
                right.as_object().into_iter().chain(stored.as_object()).flatten().map(|(name, _)| name);
            let differing: std::collections::BTreeSet<&str> =
                names.filter(|name| right.get(name) != stored.get(name)).map(String::as_str).collect();
            let list = differing.into_iter().collect::<Vec<_>>().join(", ");
            self.report(
                self.head.seq,
                "row_differs",
                format!("the stored row differs from the entries in {list}"),
            );
        }
        self.problem.clone()
    }
}

/// Whether the bytes are what this crate would have written, payloads included.
pub(super) fn is_canonical(entry: &Entry, line: &str) -> bool {
    let whole = serde_json::from_str::<serde_json::Value>(line)
        .ok()
        .and_then(|value| serde_json_canonicalizer::to_string(&value).ok());
    whole.is_some_and(|text| text == line) && entry.to_line().is_ok_and(|text| text == line)
}

/// A run's id is derived from what makes it this run. That of a sub-DAG's run is named by its parent, from its input
/// before the defaults are filled in.
fn check_id(state: &RunState) -> Result<(), Fault> {
    let created = &state.created;
    if created.parent.is_some() {
        return Ok(());
    }
    let id = RunId::derive(&state.key.tenant, &created.dag_id, &created.run_token, &created.inputs_hash);
    if id == state.key.run {
        return Ok(());
    }
    Err(fault("wrong_id", format!("its tenant, dag, token and inputs are those of the run {id}")))
}

/// Re-computes the hashes that an event names from what they cover; `state` is the one after it.
fn check_hashes(state: &RunState, event: &Event, limits: &Limits) -> Result<()> {
    let (step, named, actual) = match event {
        Event::StepScheduled(e) => {
            let Some(at) = state.find(&e.step) else { return Ok(()) };
            (Some(&e.step), e.input_hash, state.attempt_input(at, limits)?.digest())
        }
        Event::StepSucceeded(e) => {
            let output = state.find(&e.step).and_then(|at| state.get(at)?.output.as_ref());
            let actual = output.map(|output| output.payload().digest());
            (Some(&e.step), e.output_hash, actual.unwrap_or_default())
        }
        Event::RunCompleted(e) => (None, e.outputs_hash, state.outputs_hash()),
        Event::RunFailed(e) => (None, e.outputs_hash, state.outputs_hash()),
        Event::RunCancelled(e) => (None, e.outputs_hash, state.outputs_hash()),
        _ => return Ok(()),
    };
    if named == actual {
        return Ok(());
    }
    let error = Error::corrupt("the hash it names is not that of what it covers").with("hash", named);
    Err(step.map_or(error.with("type", event.type_name()), |step| {
        Error::corrupt("hash differs").with("step", step)
    }))
}
