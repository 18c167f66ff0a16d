//! A pure simulator of workers, and the properties that every state must have.

mod exhaustive;
mod explanations;
mod fence;
mod loops;
mod operations;
mod order;
mod outcomes;
mod plans;
mod properties;
mod random;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::attempt::{Finish, Start};
use super::*;
use crate::digest::Digest;
use crate::error::Result;
use crate::executor::{Failure, Outcome};
use crate::expr::LazyValue;
use crate::id::{RunId, StepKey, TenantId, WorkerId};
use crate::ledger::{Chain, Entry, Event, Head, RunCreated, RunStatus, StepStatus, Stream};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::time::Timestamp;

pub(crate) const T0: Timestamp = Timestamp::EPOCH;
pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) fn dag_of(steps: &[Value]) -> Value {
    json!({"apiVersion": "orch/v1", "kind": "Dag", "id": "d", "steps": steps})
}

pub(crate) fn plan_of(steps: &[Value]) -> SharedPlan {
    plan_from(dag_of(steps))
}

pub(crate) fn plan_from(dag: Value) -> SharedPlan {
    let limits = Limits { steps: Limits::STEPS_CEILING, ..Limits::default() };
    SharedPlan::new(Plan::new(serde_json::from_value(dag).unwrap(), &limits).unwrap())
}

/// A step that a worker runs.
pub(crate) fn task(id: &str, needs: &[&str]) -> Value {
    json!({"id": id, "uses": "fn/x", "needs": needs})
}

pub(crate) fn with(mut step: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        step[name] = value.clone();
    }
    step
}

pub(crate) fn key(text: &str) -> StepKey {
    text.parse().unwrap()
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::new("w")
}

/// What a run begins with.
fn first_entry(plan: &SharedPlan, inputs: &Value, token: &str) -> Entry {
    let tenant = TenantId::new("acme").unwrap();
    let inputs = Payload::new(inputs).unwrap();
    let created = RunCreated {
        baggage: None,
        dag_id: plan.dag().id.clone(),
        dag_version: Some(1),
        inputs_hash: inputs.digest(),
        inputs,
        parent: None,
        plan: plan.document().clone(),
        plan_hash: plan.hash(),
        priority: 0,
        rationale: None,
        replay_of: None,
        run_token: token.into(),
        sandbox: None,
        traceparent: None,
    };
    let run = RunId::derive(&tenant, &created.dag_id, &created.run_token, &created.inputs_hash);
    let (actor, stream) = ("tester".to_owned(), Stream::Run(run));
    Entry { actor, at: T0, event: created.into(), prev: Digest::ZERO, seq: 1, stream, tenant }
}

/// One run with its recorded lines, driven by hand.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) state: RunState,
    pub(crate) lines: String,
    pub(crate) events: Vec<Event>,
    pub(crate) now: Timestamp,
    pub(crate) limits: Limits,
}

impl Sim {
    pub(crate) fn new(plan: &SharedPlan) -> Self {
        Self::with_inputs(plan, &json!({}))
    }

    pub(crate) fn with_inputs(plan: &SharedPlan, inputs: &Value) -> Self {
        let mut sim = Self::unopened(plan, inputs, "t1");
        sim.settle();
        sim
    }

    /// A run of which nothing but its first entry is recorded.
    pub(crate) fn unopened(plan: &SharedPlan, inputs: &Value, token: &str) -> Self {
        let entry = first_entry(plan, inputs, token);
        let mut chain = Chain::new(&entry.tenant, entry.stream, Head::EMPTY);
        chain.push(&entry.actor, entry.at, &entry.event).unwrap();
        let (lines, head) = chain.finish().unwrap();
        assert_eq!(Entry::read(lines.trim_end()).unwrap(), entry);
        let state = RunState::open(&entry, head, |_| Ok(plan.clone())).unwrap();
        let events = vec![entry.event];
        Self { state, lines: lines.to_string(), events, now: T0, limits: Limits::default() }
    }

    /// Applies events of a change, decides what follows, and records both, as the engine does.
    pub(crate) fn record(&mut self, events: Vec<Event>) {
        self.record_as("tester", events);
    }

    pub(crate) fn record_as(&mut self, actor: &str, events: Vec<Event>) {
        let mut chain = Chain::new(&self.state.key.tenant, Stream::Run(self.state.key.run), self.state.head);
        for event in &events {
            self.state.apply(self.now, actor, event).unwrap_or_else(|e| panic!("{e:?} {event:?}"));
            chain.push(actor, self.now, event).unwrap();
        }
        let next = advance(&mut self.state, self.now, "orch", &self.limits)
            .unwrap_or_else(|e| panic!("{e:?}\n{}", self.lines));
        for event in &next {
            chain.push("orch", self.now, event).unwrap();
        }
        let (lines, head) = chain.finish().unwrap();
        self.state.head = head;
        self.lines.push_str(&lines);
        self.events.extend(events);
        self.events.extend(next);
    }

    pub(crate) fn settle(&mut self) {
        self.record(Vec::new());
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.settle();
    }

    pub(crate) fn operate(&mut self, operation: &Operation) -> Result<()> {
        let events = operate(&self.state, operation, None, &self.limits)?;
        self.record(events);
        Ok(())
    }

    pub(crate) fn start(&mut self, at: StepRef) {
        let attempt = self.state.get(at).unwrap().attempt;
        let start = Start { at, attempt, worker: worker(), executor: "v1".into(), lease: LEASE };
        let events = attempt::start(&self.state, &start, self.now).unwrap();
        self.record(events);
    }

    pub(crate) fn finish(&mut self, at: StepRef, outcome: Outcome) {
        let step = self.state.get(at).unwrap();
        let (attempt, worker) = (step.attempt, step.worker.clone());
        let finish = Finish { at, attempt, worker, outcome, logs: None };
        let event = attempt::finish(&self.state, finish, self.now, &self.limits).unwrap();
        self.record(vec![event]);
    }

    pub(crate) fn at(&self, step: &str) -> StepRef {
        self.state.find(&key(step)).unwrap()
    }

    pub(crate) fn status(&self, step: &str) -> StepStatus {
        self.state.get(self.at(step)).unwrap().status
    }

    pub(crate) fn step(&self, step: &str) -> &StepState {
        self.state.get(self.at(step)).unwrap()
    }

    /// Starts a queued attempt, waiting for its backoff, and finishes it.
    pub(crate) fn run(&mut self, step: &str, outcome: Outcome) {
        let at = self.at(step);
        self.wait_for(at);
        self.start(at);
        self.finish(at, outcome);
    }

    pub(crate) fn wait_for(&mut self, at: StepRef) {
        if let Some(instant) = self.state.get(at).unwrap().not_before.filter(|instant| *instant > self.now) {
            self.now = instant;
            self.settle();
        }
    }

    /// What a new process makes of the recorded lines.
    pub(crate) fn refolded(&self) -> RunState {
        let plan = self.state.plan.clone();
        RunState::fold([&*self.lines], |_| Ok(plan.clone())).unwrap().unwrap()
    }

    /// What must hold at every moment: L3 (the fold is the live state and decides the same), and R4 (nothing
    /// stands still).
    pub(crate) fn check(&self) {
        let again = self.refolded();
        assert_eq!(again.row(), self.state.row(), "L3");
        assert!(unread(again.steps()) == unread(self.state.steps()), "L3: steps differ\n{}", self.lines);
        for later in [Duration::ZERO, Duration::from_secs(1 << 20)] {
            let at = self.now.plus(later);
            let encode = |state: &RunState| {
                let events = decide(state, at, &self.limits);
                let mut chain = Chain::new(&state.key.tenant, Stream::Run(state.key.run), state.head);
                for event in &events {
                    chain.push("orch", at, event).unwrap();
                }
                chain.finish().unwrap()
            };
            assert_eq!(encode(&again), encode(&self.state), "L3: decisions differ");
        }
        self.check_alive();
        self.check_counts();
    }

    fn check_alive(&self) {
        let nothing = |at| decide(&self.state, at, &self.limits).is_empty();
        match self.state.wake_at() {
            Some(wake) if wake > self.now => {
                let before = Timestamp::from_micros(wake.as_micros() - 1);
                assert!(
                    nothing(before),
                    "R4: something is to be decided before anybody looks\n{}",
                    self.lines
                );
            }
            Some(_) => {}
            None => assert!(nothing(Timestamp::MAX), "R4: nobody will look\n{}", self.lines),
        }
        if self.state.ended.is_some() || self.state.paused {
            return;
        }
        let all = self.all_steps();
        let moves = |at: &StepRef| {
            matches!(
                self.state.get(*at).unwrap().status,
                StepStatus::Queued | StepStatus::Waiting | StepStatus::Parked
            ) || self.state.running().any(|running| running == *at)
        };
        assert!(all.iter().any(moves), "R4: nothing queued, running, waiting or parked\n{}", self.lines);
        if self.state.queued().next().is_some() || self.state.sub_runs().next().is_some() {
            assert!(self.state.wake_at().is_some(), "R4: lost hints would never be found");
        }
    }

    fn check_counts(&self) {
        let mut counts = crate::ledger::StepCounts::default();
        self.state.steps().iter().for_each(|step| *counts.of(step.status) += 1);
        assert_eq!(counts, self.state.counts());
        for (position, step) in self.state.steps().iter().enumerate() {
            let Some(map) = &step.map else { continue };
            let count = |test: &dyn Fn(&StepState) -> bool| map.children.iter().filter(|c| test(c)).count();
            assert_eq!(map.settled as usize, count(&|c| c.status.is_settled()));
            assert_eq!(map.failed as usize, count(&|c| c.status == StepStatus::Failed));
            let each = self.state.plan.step(u32::try_from(position).unwrap()).for_each.as_ref().unwrap();
            assert!(map.active <= each.max_parallel.unwrap_or(u32::MAX), "more active than maxParallel");
        }
    }

    pub(crate) fn all_steps(&self) -> BTreeSet<StepRef> {
        let mut all = BTreeSet::new();
        for (position, step) in (0..).zip(self.state.steps()) {
            all.insert(StepRef::top(position));
            let children = step.map.as_ref().map_or(0, |map| u32::try_from(map.children.len()).unwrap());
            all.extend((0..children).map(|child| StepRef { step: position, child: Some(child) }));
        }
        all
    }

    pub(crate) fn ended(&self) -> Option<RunStatus> {
        self.state.ended.as_ref().map(|ended| ended.status)
    }

    /// The types of the events so far, with the step each is about.
    pub(crate) fn story(&self) -> Vec<String> {
        self.events
            .iter()
            .map(|event| {
                let data: Value = serde_json::from_slice(&{
                    let mut out = Vec::new();
                    event.write_data(&mut out).unwrap();
                    out
                })
                .unwrap();
                match data.get("step").and_then(Value::as_str) {
                    Some(step) => format!("{} {step}", event.type_name()),
                    None => event.type_name().to_owned(),
                }
            })
            .collect()
    }
}

/// The steps in full, as if no expression had read anything yet.
fn unread(steps: &Pages<StepState>) -> String {
    let fresh = |value: &LazyValue| LazyValue::new(value.payload().clone());
    let mut steps = steps.clone();
    for step in steps.iter_mut() {
        step.output = step.output.as_deref().map(|output| Arc::new(fresh(output)));
        if let Some(map) = &mut step.map {
            map.items = map.items.iter().map(fresh).collect();
            for child in map.children.iter_mut() {
                child.output = child.output.as_deref().map(|output| Arc::new(fresh(output)));
            }
        }
    }
    format!("{steps:?}")
}

pub(crate) fn good() -> Outcome {
    Outcome::Succeeded(Payload::new(&json!({"ok": true})).unwrap())
}

pub(crate) fn flaky() -> Outcome {
    Outcome::Failed(Failure::retryable("flaky", "again"))
}

pub(crate) fn fatal() -> Outcome {
    Outcome::Failed(Failure::fatal("broken", "never"))
}
