//! The document an author writes, as types. Field order here is the order a person reads them in.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::id::{DagId, QueueName, StepId};
use crate::time::Span;

/// The version of the document format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The format described here.
    #[default]
    #[serde(rename = "orch/v1")]
    V1,
}

/// What the document declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// A directed acyclic graph of steps.
    #[default]
    Dag,
}

/// A DAG: steps and what each of them needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dag {
    /// The version of the document format.
    pub api_version: ApiVersion,
    /// Always `Dag`.
    pub kind: Kind,
    /// The name of the DAG within its tenant.
    pub id: DagId,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema (2020-12) that a run's inputs must satisfy. Defaults of its properties are filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Value>,
    /// How long a run may take from its creation; after that it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// The steps, in any order.
    #[schemars(length(min = 1))]
    pub steps: Vec<Step>,
    /// Another way to write `needs`: `to` needs `from`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<Edge>,
}

/// An edge of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edge {
    /// The step that settles first.
    pub from: StepId,
    /// The step that needs it.
    pub to: StepId,
}

/// One step of a DAG.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// The name of the step within its DAG.
    pub id: StepId,
    /// What runs it: `fn/NAME`, `process`, `worker/JOB-TYPE`, `wasm/PLUGIN`, `http`, `dag/ID@VERSION`,
    /// `gate/approval`, `gate/policy`, `wait/sleep` or `wait/signal`.
    pub uses: Uses,
    /// The steps that must be settled before this one is looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<StepId>,
    /// The input. Strings may hold `${{ }}` expressions; one that is a single expression keeps its type.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub with: Value,
    /// A CEL condition over `inputs`, `steps.ID.status`, `steps.ID.output` and `run`. Without one, every
    /// need must have succeeded. A step whose condition is false is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Runs the step once for each item of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// What happens when an attempt fails.
    #[serde(default, skip_serializing_if = "Retry::is_default")]
    pub retry: Retry,
    /// How long one attempt may take. For gates and waits: how long until they expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How long all attempts together may take, from the first one being scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<Span>,
    /// The queue its work goes to.
    #[serde(default = "QueueName::default_queue", skip_serializing_if = "is_default_queue")]
    pub queue: QueueName,
    /// Higher goes first within a queue, -1000 to 1000.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// Slots it must hold while running, shared by all runs of the tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concurrency: Vec<Concurrency>,
    /// Bounds on what an attempt may consume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceLimits>,
    /// The network it may reach. Without it: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Names of secrets handed to the step; their values appear in no log, error or ledger entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = "^[A-Z][A-Z0-9_]{0,127}$")))]
    pub secrets: Vec<String>,
    /// Whether an earlier success with the same step and input may be reused within the tenant.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cache: bool,
}

/// The items of a `forEach` step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForEach {
    /// A list, or a CEL expression (with or without `${{ }}`) that yields one.
    pub items: Items,
    /// How many children may be queued or running at once. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_parallel: Option<u32>,
}

/// Where the items of a `forEach` come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Items {
    /// A CEL expression that yields a list.
    Expression(String),
    /// The list itself.
    List(Vec<Value>),
}

/// What happens when an attempt fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first one included.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// The wait before the second attempt; it doubles with each further one.
    pub backoff: Span,
    /// The longest wait between attempts.
    pub max_backoff: Span,
    /// Error codes that are final at once.
    pub non_retryable: Vec<String>,
    /// What happens after the last attempt.
    pub on_exhausted: OnExhausted,
    /// What happens to an attempt whose worker died.
    pub on_lost: OnLost,
}

impl Retry {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            backoff: Span::new(std::time::Duration::from_secs(1)),
            max_backoff: Span::new(std::time::Duration::from_secs(300)),
            non_retryable: Vec::new(),
            on_exhausted: OnExhausted::Fail,
            on_lost: OnLost::Retry,
        }
    }
}

/// What happens when the last attempt has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnExhausted {
    /// The step fails.
    #[default]
    Fail,
    /// The step is parked: the run waits for a person to retry or cancel it.
    Park,
}

/// What happens to an attempt whose worker died: nobody knows how far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnLost {
    /// Another attempt, which does not count against `maxAttempts`.
    #[default]
    Retry,
    /// The step fails with code `lost`.
    Fail,
    /// The step is parked.
    Park,
}

/// A slot shared by all runs of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Concurrency {
    /// The name of the slot; may hold `${{ }}` expressions.
    #[schemars(length(min = 1))]
    pub key: String,
    /// How many holders it has room for.
    #[schemars(range(min = 1))]
    pub limit: u32,
}

/// Bounds on what one attempt may consume. Only a sandbox can enforce `cpu`, `memory` and `processes`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourceLimits {
    /// Processor cores, such as `0.5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01))]
    pub cpu: Option<f64>,
    /// Bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory: Option<u64>,
    /// Processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub processes: Option<u32>,
    /// Wall-clock time of one attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<Span>,
    /// Bytes of output, standard output and standard error each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output: Option<u64>,
}

/// The network a step may reach.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Endpoints written `host:port`.
    #[schemars(inner(regex(pattern = "^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]*[1-9][0-9]*$")))]
    pub allow: Vec<String>,
}

/// What runs a step: an executor and a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Uses {
    /// `process`: a child process.
    Process,
    /// `fn/NAME`: a function registered in this process.
    Function(String),
    /// `worker/JOB-TYPE`: a remote worker that leases jobs of this type.
    Worker(String),
    /// `wasm/PLUGIN`: a WebAssembly plugin.
    Wasm(String),
    /// `http`: an HTTP request.
    Http,
    /// `dag/ID@VERSION`: a run of another DAG of the same tenant.
    Dag {
        /// The DAG.
        id: DagId,
        /// Its version.
        version: u32,
    },
    /// `gate/approval`: a person decides.
    GateApproval,
    /// `gate/policy`: another service decides.
    GatePolicy,
    /// `wait/sleep`: time passes.
    Sleep,
    /// `wait/signal`: a signal arrives.
    Signal,
}

impl Uses {
    /// The forms a person can write, for messages.
    pub const FORMS: &'static [&'static str] = &[
        "fn/NAME",
        "process",
        "worker/JOB-TYPE",
        "wasm/PLUGIN",
        "http",
        "dag/ID@VERSION",
        "gate/approval",
        "gate/policy",
        "wait/sleep",
        "wait/signal",
    ];

    /// Whether a worker executes it; gates, waits and sub-DAGs are carried by the engine itself.
    #[must_use]
    pub fn is_task(&self) -> bool {
        matches!(self, Self::Process | Self::Function(_) | Self::Worker(_) | Self::Wasm(_) | Self::Http)
    }
}

impl fmt::Display for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::Function(name) => write!(f, "fn/{name}"),
            Self::Worker(job_type) => write!(f, "worker/{job_type}"),
            Self::Wasm(plugin) => write!(f, "wasm/{plugin}"),
            Self::Http => f.write_str("http"),
            Self::Dag { id, version } => write!(f, "dag/{id}@{version}"),
            Self::GateApproval => f.write_str("gate/approval"),
            Self::GatePolicy => f.write_str("gate/policy"),
            Self::Sleep => f.write_str("wait/sleep"),
            Self::Signal => f.write_str("wait/signal"),
        }
    }
}

impl FromStr for Uses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let target = |name: &str| StepId::new(name).map(|name| name.as_str().to_owned());
        match text.split_once('/') {
            None if text == "process" => Ok(Self::Process),
            None if text == "http" => Ok(Self::Http),
            Some(("fn", name)) => target(name).map(Self::Function),
            Some(("worker", job_type)) => target(job_type).map(Self::Worker),
            Some(("wasm", plugin)) => target(plugin).map(Self::Wasm),
            Some(("gate", "approval")) => Ok(Self::GateApproval),
            Some(("gate", "policy")) => Ok(Self::GatePolicy),
            Some(("wait", "sleep")) => Ok(Self::Sleep),
            Some(("wait", "signal")) => Ok(Self::Signal),
            Some(("dag", target)) => {
                let (id, version) = target.split_once('@').ok_or_else(|| {
                    Error::invalid("a sub-dag is written `dag/ID@VERSION`").with("value", text)
                })?;
                let version = version.parse().ok().filter(|v| *v > 0).ok_or_else(|| {
                    Error::invalid("the version of a sub-dag is a whole number from 1").with("value", text)
                })?;
                Ok(Self::Dag { id: DagId::new(id)?, version })
            }
            _ => Err(Error::invalid("unknown `uses`")
                .with("value", text)
                .with("expected", Self::FORMS.join(", "))),
        }
    }
}

impl Serialize for Uses {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Uses {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Uses".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(process|http|(fn|worker|wasm)/[a-z0-9][a-z0-9._-]{0,127}|dag/[a-z0-9][a-z0-9._-]{0,127}@[1-9][0-9]*|gate/(approval|policy)|wait/(sleep|signal))$",
            "examples": Self::FORMS,
        })
    }
}

fn is_default_queue(queue: &QueueName) -> bool {
    queue.as_str() == "default"
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_uses_round_trips() {
        for text in [
            "process",
            "http",
            "fn/echo",
            "worker/scan",
            "wasm/p1",
            "dag/a.b@3",
            "gate/approval",
            "gate/policy",
            "wait/sleep",
            "wait/signal",
        ] {
            assert_eq!(text.parse::<Uses>().unwrap().to_string(), text);
        }
        for text in ["", "fn", "fn/", "fn/A", "dag/a", "dag/a@0", "dag/a@x", "gate/x", "shell", "process/x"] {
            assert!(text.parse::<Uses>().is_err(), "{text}");
        }
    }
}
