//! From a spec to a plan, and from a plan and what has happened to what happens next. Pure: no I/O, no clock, no
//! randomness, no async.

pub mod attempt;
mod decide;
mod explain;
mod fold;
mod gates;
mod operate;
mod pages;
mod plan;
mod scope;
mod state;
mod step_set;
#[cfg(test)]
pub(crate) mod tests;

pub use decide::{advance, advance_some, child_token, decide};
pub use explain::{Explanation, Reason, explain};
pub use fold::unshared_plan;
pub use gates::{WaitingGate, waiting_gates};
pub use operate::{Operation, operate};
pub use pages::Pages;
pub use plan::{Compiled, Plan, PlanSummary, SharedPlan, StepSummary};
pub use state::{
    Ended, Ending, HINT_CHECK, MapState, RunState, StepError, StepRef, StepState, Verdict, Wait,
};
