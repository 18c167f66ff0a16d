//! Pictures of a DAG: a layered layout, and the same graph as SVG, DOT and Mermaid text.
//!
//! Everything here is a pure function of its input and works in whole pixels, so the same graph gives the
//! same bytes on every machine. Pictures run left to right: a column holds the steps that can start after
//! the columns before it, and a very wide fan-out reads, and scrolls, like a list.

mod layout;
mod measure;
mod svg;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::ledger::StepStatus;
use crate::spec::{Dag, Items, Step};

pub use layout::{COMPACT_ABOVE, Layout, Placed, layout};
pub use svg::to_svg;
pub use text::{to_dot, to_mermaid};

/// What is drawn: cards and the arrows between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// The heading of the picture.
    pub title: String,
    /// The cards. Their order breaks ties in the layout.
    pub nodes: Vec<Node>,
    /// Arrows as (from, to) indices into `nodes`. An arrow from a node to itself, or to a node that is not
    /// there, is not drawn in a picture.
    pub edges: Vec<(usize, usize)>,
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Unique within the graph.
    pub id: String,
    /// The words in bold; usually the id.
    pub label: String,
    /// A smaller line under the label, such as `fn/echo ×12`. May be empty.
    pub detail: String,
    /// How the step stands; `None` in a picture of a document, which has no run.
    pub status: Option<StepStatus>,
}

/// The statuses in the order of a legend: what matters most first.
const LEGEND: [StepStatus; 9] = [
    StepStatus::Succeeded,
    StepStatus::Failed,
    StepStatus::Running,
    StepStatus::Waiting,
    StepStatus::Parked,
    StepStatus::Queued,
    StepStatus::Pending,
    StepStatus::Skipped,
    StepStatus::Cancelled,
];

impl Graph {
    /// The graph of a document: nodes in topological order with ties in lexical order of step id, edges from
    /// both `needs` and `edges`.
    ///
    /// Meant for a checked document, yet it never fails: a need that names no step has no arrow, and a cycle is
    /// entered at its lexically first step, so that a faulty document can be looked at too.
    #[must_use]
    pub fn of_dag(dag: &Dag) -> Self {
        let mut steps: Vec<&Step> = dag.steps.iter().collect();
        steps.sort_by(|a, b| a.id.cmp(&b.id));
        let mut index = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            index.entry(&step.id).or_insert(at);
        }

        let needs = steps.iter().flat_map(|step| step.needs.iter().map(|need| (need, &step.id)));
        let arrows = dag.edges.iter().map(|edge| (&edge.from, &edge.to));
        let edges: BTreeSet<(usize, usize)> =
            needs.chain(arrows).filter_map(|(from, to)| Some((*index.get(from)?, *index.get(to)?))).collect();
        let edges: Vec<_> = edges.into_iter().collect();

        let order = topological(steps.len(), &edges);
        let mut place = vec![0; steps.len()];
        for (at, &step) in order.iter().enumerate() {
            place[step] = at;
        }
        let mut edges: Vec<_> = edges.into_iter().map(|(from, to)| (place[from], place[to])).collect();
        edges.sort_unstable();
        let nodes = order.into_iter().map(|step| Node::of_step(steps[step])).collect();
        Self { title: dag.id.to_string(), nodes, edges }
    }
}

impl Node {
    fn of_step(step: &Step) -> Self {
        let uses = &step.uses;
        let detail = match step.for_each.as_ref().map(|each| &each.items) {
            None => uses.to_string(),
            Some(Items::List(items)) => format!("{uses} ×{}", items.len()),
            Some(Items::Expression(_)) => format!("{uses} ×n"),
        };
        Self { id: step.id.to_string(), label: step.id.to_string(), detail, status: None }
    }

    /// What is known besides the label, as one line; may be empty.
    fn caption(&self) -> String {
        let word = self.status.map_or("", StepStatus::as_str);
        let parts: Vec<&str> =
            [self.detail.as_str(), word].into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(" · ")
    }
}

/// Orders `count` nodes so that edges go forward, the lowest index first among those that are ready (Kahn 1962
/// with an ordered set). Where a cycle leaves nothing ready, the lowest index that is left goes first.
fn topological(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut next = vec![Vec::new(); count];
    let mut missing = vec![0_usize; count];
    for &(from, to) in edges {
        next[from].push(to);
        missing[to] += 1;
    }
    let mut ready: BTreeSet<usize> = (0..count).filter(|&node| missing[node] == 0).collect();
    let mut taken = vec![false; count];
    let mut lowest = 0;
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        let node = ready.pop_first().unwrap_or_else(|| {
            while taken[lowest] {
                lowest += 1;
            }
            lowest
        });
        taken[node] = true;
        order.push(node);
        for &to in &next[node] {
            missing[to] -= 1;
            if missing[to] == 0 && !taken[to] {
                ready.insert(to);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests;
