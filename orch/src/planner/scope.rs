//! What the expressions of a run can see: its inputs, its steps, the item at hand.

use serde_json::{Value, json};

use super::plan::{Compiled, Input, Plan};
use super::state::{RunState, StepRef};
use crate::error::{Error, Result};
use crate::expr::{Bounds, ErrorView, EvalError, LazyValue, Scope, StepView, Template};
use crate::limits::Limits;
use crate::lock::Slot;
use crate::payload::Payload;
use crate::spec::Items;

/// A run as expressions see it, from the place of one step or child.
#[derive(Debug)]
pub(super) struct StepScope<'a> {
    state: &'a RunState,
    at: StepRef,
}

impl<'a> StepScope<'a> {
    pub(super) fn new(state: &'a RunState, at: StepRef) -> Self {
        Self { state, at }
    }

    fn compiled(&self) -> Option<&'a Compiled> {
        self.state.plan.compiled(self.at.step)
    }

    /// Whether the step may run: its own condition, or that every need succeeded.
    pub(super) fn condition(&self, limits: &Limits) -> Result<bool, EvalError> {
        let Some(when) = self.compiled().and_then(|compiled| compiled.when.as_ref()) else {
            let succeeded =
                |need: &u32| self.state.steps[*need as usize].status == crate::ledger::StepStatus::Succeeded;
            return Ok(self.state.plan.needs(self.at.step).iter().all(succeeded));
        };
        when.condition(self, Bounds::payload(limits))
    }

    /// The items of a `forEach` step.
    pub(super) fn items(&self, limits: &Limits) -> Result<Vec<Value>, EvalError> {
        let each = self.state.spec(self.at).for_each.as_ref();
        match (each.map(|each| &each.items), self.compiled().and_then(|compiled| compiled.items.as_ref())) {
            (Some(Items::List(items)), _) => Ok(items.clone()),
            (Some(Items::Expression(_)), Some(expression)) => {
                match expression.evaluate(self, Bounds::items(limits))? {
                    Value::Array(items) => Ok(items),
                    other => Err(not_a_list(&other)),
                }
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The input of the step: what `with` says, expressions filled in.
    pub(super) fn input(&self, limits: &Limits) -> Result<Input> {
        match self.compiled().and_then(|compiled| compiled.with.as_ref()) {
            None => self.state.plan.constant_input(self.at.step).cloned(),
            Some(template) => Payload::new(&self.render(template, limits)?).map(Input::from),
        }
    }

    /// The slots the step must hold while it runs.
    pub(super) fn slots(&self, limits: &Limits) -> Result<Vec<Slot>> {
        let declared = &self.state.spec(self.at).concurrency;
        let keys: Vec<String> = match self.compiled().and_then(|compiled| compiled.slots.as_ref()) {
            None => declared.iter().map(|slot| slot.key.clone()).collect(),
            Some(template) => match self.render(template, limits)? {
                Value::Array(keys) => keys.into_iter().map(|key| text_of(&key)).collect(),
                _ => return Err(Error::internal("a list of templates renders to a list")),
            },
        };
        let mut slots: Vec<Slot> =
            keys.into_iter().zip(declared).map(|(key, slot)| Slot { key, capacity: slot.limit }).collect();
        slots.sort();
        slots.dedup_by(|a, b| a.key == b.key);
        Ok(slots)
    }

    fn render(&self, template: &Template, limits: &Limits) -> Result<Value, EvalError> {
        // Larger than what is recorded: an input that is not recorded is made again from what is.
        template.render(self, Bounds::items(limits))
    }
}

fn not_a_list(got: &Value) -> EvalError {
    let kind = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    };
    EvalError { code: EvalError::TYPE, message: format!("`forEach.items` must give a list, and gave {kind}") }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Scope for StepScope<'_> {
    fn inputs(&self) -> &Value {
        self.state.inputs.get()
    }

    fn step(&self, id: &str) -> Option<StepView<'_>> {
        let step = &self.state.steps[self.state.plan.position(id)? as usize];
        Some(StepView {
            status: step.status.as_str(),
            output: step.output.as_deref(),
            error: step.error.as_ref().map(|e| ErrorView { code: &e.code, message: &e.message }),
        })
    }

    fn item(&self) -> Option<&Value> {
        self.state.item(self.at).map(LazyValue::get)
    }

    fn index(&self) -> Option<u64> {
        self.at.child.map(u64::from)
    }

    fn run(&self) -> &Value {
        &self.state.run_view
    }
}

impl RunState {
    /// The input of the attempt scheduled last: as recorded, or made again from what is recorded.
    ///
    /// # Errors
    /// `Corrupt` when the input made again has another hash than the recorded one.
    pub fn attempt_input(&self, at: StepRef, limits: &Limits) -> Result<Payload> {
        let step = self.at(at);
        if let Some(input) = &step.input {
            return Ok(input.clone());
        }
        let input = StepScope::new(self, at).input(limits)?;
        if Some(input.hash) == step.input_hash {
            return Ok(input.payload);
        }
        Err(Error::corrupt("input made again differs from the recorded one").with("step", self.key_of(at)))
    }

    /// The slots an attempt of a step must hold while it runs, sorted by key.
    ///
    /// # Errors
    /// `Invalid` when an expression in a key fails.
    pub fn slots(&self, at: StepRef, limits: &Limits) -> Result<Vec<Slot>> {
        StepScope::new(self, at).slots(limits)
    }

    /// What makes two attempts the same work within a tenant, for `cache: true`: SHA-256 over step, input and
    /// version of the executor.
    ///
    /// # Errors
    /// `Internal` when the step does not serialise, which no step does.
    pub fn result_key(&self, at: StepRef, executor: &str) -> Result<crate::digest::Digest> {
        let step = Plan::step_hash(&self.plan, at.step)?;
        let input = self.at(at).input_hash.unwrap_or_default();
        Ok(crate::digest::Digest::of_parts(&[
            b"orch/result/v1",
            step.as_bytes(),
            input.as_bytes(),
            executor.as_bytes(),
        ]))
    }
}

/// The output of a gate that was opened.
pub(super) fn verdict_output(verdict: &super::state::Verdict) -> Result<Payload> {
    Payload::new(&json!({
        "actor": verdict.actor,
        "approved": verdict.approved,
        "at": verdict.at.to_string(),
        "reason": verdict.reason,
    }))
}
