//! From the tree to the types of the document, gathering every problem on the way.

use super::diagnostic::Problems;
use super::fields::{Fields, Reader};
use super::model::{
    ApiVersion, Concurrency, Dag, ForEach, Items, Kind, Network, OnExhausted, OnLost, ResourceLimits, Retry,
    Step, Uses,
};
use super::source::{Data, Node, Offset};
use crate::id::{QueueName, StepId};
use crate::limits::Limits;
use crate::payload::INTEGER_MAX;

/// A document as far as it could be read.
#[derive(Debug)]
pub(super) struct Draft<'t> {
    /// Everything but steps and edges, if it is whole.
    pub(super) head: Option<Dag>,
    /// The steps.
    pub(super) steps: Vec<StepDraft<'t>>,
    /// The edges that could be read.
    pub(super) edges: Vec<EdgeDraft>,
    /// Where the list of steps stands.
    pub(super) steps_at: Offset,
}

/// A step as far as it could be read.
#[derive(Debug)]
pub(super) struct StepDraft<'t> {
    /// Its position in the list.
    pub(super) index: usize,
    /// Where it was read from.
    pub(super) node: &'t Node,
    /// Its name, if it has a good one.
    pub(super) id: Option<Place<StepId>>,
    /// The needs that are names.
    pub(super) needs: Vec<Place<StepId>>,
    /// The whole step, without its needs, if it has a name and something that runs it.
    pub(super) step: Option<Step>,
}

/// An edge.
#[derive(Debug)]
pub(super) struct EdgeDraft {
    /// The step that settles first.
    pub(super) from: Place<StepId>,
    /// The step that needs it.
    pub(super) to: Place<StepId>,
}

/// A value, its position in the list it came from, and its place in the text.
#[derive(Clone, Debug)]
pub(super) struct Place<T> {
    pub(super) value: T,
    pub(super) index: usize,
    pub(super) at: Offset,
}

const DAG: &[&str] = &["apiVersion", "kind", "id", "description", "inputs", "timeout", "steps", "edges"];
const STEP: &[&str] = &[
    "id",
    "uses",
    "needs",
    "with",
    "when",
    "forEach",
    "retry",
    "timeout",
    "totalTimeout",
    "queue",
    "priority",
    "concurrency",
    "limits",
    "network",
    "secrets",
    "cache",
];
const RETRY: &[&str] = &["maxAttempts", "backoff", "maxBackoff", "nonRetryable", "onExhausted", "onLost"];
const LIMITS: &[&str] = &["cpu", "memory", "processes", "wall", "output"];

/// Reads a document.
pub(super) fn read<'t>(root: &'t Node, limits: &Limits, problems: &mut Problems) -> Draft<'t> {
    let mut reader = Reader::new(problems);
    let mut draft = Draft { head: None, steps: Vec::new(), edges: Vec::new(), steps_at: root.at() };
    let Some(fields) = reader.map(root, DAG) else { return draft };
    draft.head = head(&mut reader, fields);
    fields.required(&mut reader, "steps", |reader, node| {
        draft.steps_at = node.at();
        if !within_limit(reader, node, limits) {
            return None;
        }
        draft.steps = reader.list(node, |r, index, item| Some(step(r, index, item, limits)))?;
        Some(())
    });
    let edges = fields.defaulted(&mut reader, "edges", |reader, node| reader.list(node, edge));
    draft.edges = edges.unwrap_or_default();
    draft
}

fn within_limit(reader: &mut Reader<'_>, node: &Node, limits: &Limits) -> bool {
    let (count, most) = (node.items().len(), limits.steps.min(Limits::STEPS_CEILING));
    if count > most {
        let message = format!("the document has {count} steps, the limit is {most}");
        let problem = reader.problem("limit-exceeded", node.at(), message);
        reader.report(problem.hint("split it into sub-DAGs, or use `forEach`"));
    }
    count <= most
}

fn head(reader: &mut Reader<'_>, fields: Fields<'_>) -> Option<Dag> {
    let api_version =
        fields.required(reader, "apiVersion", |r, node| r.choice(node, &[("orch/v1", ApiVersion::V1)]));
    let kind = fields.required(reader, "kind", |r, node| r.choice(node, &[("Dag", Kind::Dag)]));
    let id = fields.required(reader, "id", |r, node| r.parsed(node, "bad-id"));
    let description = fields.optional(reader, "description", |r, node| r.string(node).map(str::to_owned));
    let inputs = fields.optional(reader, "inputs", |_, node| Some(node.to_value()));
    let timeout = fields.optional(reader, "timeout", |r, node| r.parsed(node, "bad-span"));
    Some(Dag {
        api_version: api_version?,
        kind: kind?,
        id: id?,
        description,
        inputs,
        timeout,
        steps: Vec::new(),
        edges: Vec::new(),
    })
}

fn edge(reader: &mut Reader<'_>, index: usize, node: &Node) -> Option<EdgeDraft> {
    let fields = reader.map(node, &["from", "to"])?;
    let from = fields.required(reader, "from", |r, node| step_id(r, index, node));
    let to = fields.required(reader, "to", |r, node| step_id(r, index, node));
    Some(EdgeDraft { from: from?, to: to? })
}

fn step_id(reader: &mut Reader<'_>, index: usize, node: &Node) -> Option<Place<StepId>> {
    reader.parsed(node, "bad-id").map(|value| Place { value, index, at: node.at() })
}

fn step<'t>(reader: &mut Reader<'_>, index: usize, node: &'t Node, limits: &Limits) -> StepDraft<'t> {
    let mut draft = StepDraft { index, node, id: None, needs: Vec::new(), step: None };
    let Some(fields) = reader.map(node, STEP) else { return draft };
    draft.id = fields.required(reader, "id", |r, node| step_id(r, index, node));
    let needs = fields.defaulted(reader, "needs", |r, node| r.list(node, step_id));
    draft.needs = needs.unwrap_or_default();
    let uses = fields.required(reader, "uses", |r, node| r.parsed(node, "bad-uses"));
    let id = draft.id.as_ref().map(|place| place.value.clone());
    draft.step = whole_step(reader, fields, limits, id, uses);
    draft
}

/// Reads the rest of a step; there is a step only if it has a name and something that runs it.
fn whole_step(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    limits: &Limits,
    id: Option<StepId>,
    uses: Option<Uses>,
) -> Option<Step> {
    let attempts = i64::from(limits.attempts.min(100));
    let span = |r: &mut Reader<'_>, node: &Node| r.parsed(node, "bad-span");
    let with = fields.optional(reader, "with", |_, node| Some(node.to_value()));
    let when = fields.optional(reader, "when", |r, node| r.string(node).map(str::to_owned));
    let for_each = fields.optional(reader, "forEach", for_each);
    let retry = fields.defaulted(reader, "retry", |r, node| retry(r, node, attempts));
    let timeout = fields.optional(reader, "timeout", span);
    let total_timeout = fields.optional(reader, "totalTimeout", span);
    let queue = fields.defaulted(reader, "queue", |r, node| r.parsed(node, "bad-id"));
    let priority = fields.defaulted(reader, "priority", |r, node| r.integer(node, -1000..=1000));
    let concurrency = fields.defaulted(reader, "concurrency", |r, node| r.list(node, concurrency));
    let limits = fields.optional(reader, "limits", resource_limits);
    let network = fields.optional(reader, "network", network);
    let secrets = fields.defaulted(reader, "secrets", |r, node| r.list(node, secret));
    let cache = fields.defaulted(reader, "cache", |r, node| r.boolean(node));
    Some(Step {
        id: id?,
        uses: uses?,
        needs: Vec::new(),
        with: with.unwrap_or_default(),
        when,
        for_each,
        retry: retry.unwrap_or_default(),
        timeout,
        total_timeout,
        queue: queue.unwrap_or_else(QueueName::default_queue),
        priority: priority.unwrap_or_default(),
        concurrency: concurrency.unwrap_or_default(),
        limits,
        network,
        secrets: secrets.unwrap_or_default(),
        cache: cache.unwrap_or_default(),
    })
}

fn for_each(reader: &mut Reader<'_>, node: &Node) -> Option<ForEach> {
    let fields = reader.map(node, &["items", "maxParallel"])?;
    let items = fields.required(reader, "items", |reader, node| match &node.data {
        Data::Text(text) => Some(Items::Expression(text.clone())),
        Data::List(items) => Some(Items::List(items.iter().map(Node::to_value).collect())),
        _ => {
            let message = format!("expected a list or an expression, found {}", node.kind());
            let problem = reader.problem("wrong-type", node.at(), message);
            reader.report(problem);
            None
        }
    });
    let max_parallel =
        fields.optional(reader, "maxParallel", |r, node| r.integer(node, 1..=i64::from(u32::MAX)));
    Some(ForEach { items: items?, max_parallel })
}

fn retry(reader: &mut Reader<'_>, node: &Node, attempts: i64) -> Option<Retry> {
    let fields = reader.map(node, RETRY)?;
    let default = Retry::default();
    let span = |r: &mut Reader<'_>, node: &Node| r.parsed(node, "bad-span");
    Some(Retry {
        max_attempts: fields
            .defaulted(reader, "maxAttempts", |r, node| r.integer(node, 1..=attempts))
            .unwrap_or(default.max_attempts),
        backoff: fields.defaulted(reader, "backoff", span).unwrap_or(default.backoff),
        max_backoff: fields.defaulted(reader, "maxBackoff", span).unwrap_or(default.max_backoff),
        non_retryable: fields
            .defaulted(reader, "nonRetryable", |r, node| r.strings(node))
            .unwrap_or_default(),
        on_exhausted: fields
            .defaulted(reader, "onExhausted", |r, node| {
                r.choice(node, &[("fail", OnExhausted::Fail), ("park", OnExhausted::Park)])
            })
            .unwrap_or_default(),
        on_lost: fields
            .defaulted(reader, "onLost", |r, node| {
                r.choice(node, &[("retry", OnLost::Retry), ("fail", OnLost::Fail), ("park", OnLost::Park)])
            })
            .unwrap_or_default(),
    })
}

fn concurrency(reader: &mut Reader<'_>, _: usize, node: &Node) -> Option<Concurrency> {
    let fields = reader.map(node, &["key", "limit"])?;
    let key = fields.required(reader, "key", |reader, node| {
        let key = reader.string(node)?;
        if key.is_empty() {
            let problem = reader.problem("bad-value", node.at(), "the key of a slot cannot be empty");
            reader.report(problem);
        }
        Some(key.to_owned())
    });
    let limit = fields.required(reader, "limit", |r, node| r.integer(node, 1..=i64::from(u32::MAX)));
    Some(Concurrency { key: key?, limit: limit? })
}

fn resource_limits(reader: &mut Reader<'_>, node: &Node) -> Option<ResourceLimits> {
    let fields = reader.map(node, LIMITS)?;
    let bytes = |r: &mut Reader<'_>, node: &Node| r.integer(node, 1..=INTEGER_MAX.cast_signed());
    Some(ResourceLimits {
        cpu: fields.optional(reader, "cpu", |r, node| r.float(node, 0.01)),
        memory: fields.optional(reader, "memory", bytes),
        processes: fields.optional(reader, "processes", |r, node| r.integer(node, 1..=i64::from(u32::MAX))),
        wall: fields.optional(reader, "wall", |r, node| r.parsed(node, "bad-span")),
        output: fields.optional(reader, "output", bytes),
    })
}

fn network(reader: &mut Reader<'_>, node: &Node) -> Option<Network> {
    let fields = reader.map(node, &["allow"])?;
    let allow = fields.required(reader, "allow", |r, node| r.list(node, endpoint))?;
    Some(Network { allow })
}

fn endpoint(reader: &mut Reader<'_>, _: usize, node: &Node) -> Option<String> {
    let text = reader.string(node)?;
    if let Err(reason) = check_endpoint(text) {
        let problem = reader.problem("bad-endpoint", node.at(), reason);
        reader.report(problem.hint("write `host:port`, such as `example.org:443` or `[2001:db8::1]:443`"));
    }
    Some(text.to_owned())
}

/// Checks `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
fn check_endpoint(text: &str) -> Result<(), String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("the port is missing".to_owned());
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("a port is a number from 1 to 65535".to_owned());
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(drop).map_err(|error| error.to_string());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("the host is neither a name nor an address".to_owned());
    }
    Ok(())
}

fn secret(reader: &mut Reader<'_>, _: usize, node: &Node) -> Option<String> {
    let name = reader.string(node)?;
    let mut bytes = name.bytes();
    let good = name.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_uppercase())
        && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !good {
        let message = "the name of a secret matches `[A-Z][A-Z0-9_]{0,127}`";
        let problem = reader.problem("bad-secret", node.at(), message);
        reader.report(problem);
    }
    Some(name.to_owned())
}
