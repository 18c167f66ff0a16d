//! From a checked spec to the order in which its steps are looked at.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::expr::{Expression, Template};
use crate::id::{DagId, StepId};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::spec::{Dag, Items, Step};

/// A DAG whose steps stand in execution order, with its graph and compiled expressions.
///
/// The plan's document *is* the normalised DAG in that order: whoever can read a spec can read a plan. Its hash
/// is SHA-256 over the canonical JSON (RFC 8785) of that document.
#[derive(Debug)]
pub struct Plan {
    dag: Dag,
    document: Payload,
    hash: Digest,
    graph: Graph,
    by_id: Vec<u32>,
    compiled: Vec<Option<Box<Compiled>>>,
}

/// What the expressions of one step compile to; steps without any have none.
#[derive(Debug)]
pub struct Compiled {
    /// The condition.
    pub when: Option<Expression>,
    /// The items of a `forEach`.
    pub items: Option<Expression>,
    /// The input, unless it is constant.
    pub with: Option<Template>,
    /// The keys of the slots, unless all are constant.
    pub slots: Option<Template>,
}

/// Who needs whom, as two compressed adjacency lists over plan positions.
#[derive(Debug, Default)]
struct Graph {
    needs: Adjacency,
    dependents: Adjacency,
}

/// Compressed sparse rows: the neighbours of `i` are `targets[starts[i]..starts[i + 1]]`.
#[derive(Debug, Default)]
struct Adjacency {
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Adjacency {
    /// Builds the rows of `nodes` nodes from `edges`, keeping the order of the edges within a row.
    fn new(nodes: usize, edges: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut starts = vec![0u32; nodes + 1];
        for (from, _) in edges.clone() {
            starts[from as usize + 1] += 1;
        }
        for i in 0..nodes {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut targets = vec![0; starts[nodes] as usize];
        for (from, to) in edges {
            let slot = &mut next[from as usize];
            targets[*slot as usize] = to;
            *slot += 1;
        }
        Self { starts, targets }
    }

    fn row(&self, node: u32) -> &[u32] {
        &self.targets[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }
}

/// What a person or a program sees of a plan: `orch plan --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// The DAG.
    pub dag_id: DagId,
    /// SHA-256 of the plan.
    pub plan_hash: Digest,
    /// The steps in execution order.
    pub order: Vec<StepId>,
    /// The steps in the same order.
    pub steps: Vec<StepSummary>,
}

/// A step of a [`PlanSummary`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepSummary {
    /// The step.
    pub id: StepId,
    /// SHA-256 over the canonical JSON of the step as declared.
    pub step_hash: Digest,
    /// What it needs, sorted.
    pub needs: Vec<StepId>,
}

impl Plan {
    /// Plans a DAG.
    ///
    /// The order is Kahn's (Kahn 1962, "Topological sorting of large networks"), always taking the smallest ready
    /// step id in byte order. It takes time O(n log n + edges) and no recursion.
    ///
    /// # Errors
    /// `Invalid` for what [`spec::parse`](crate::spec::parse) would have reported: duplicate ids, unknown needs,
    /// a cycle, an expression that does not compile. `LimitExceeded` for too many steps.
    pub fn new(mut dag: Dag, limits: &Limits) -> Result<Self> {
        let allowed = limits.steps.min(Limits::STEPS_CEILING);
        if dag.steps.len() > allowed {
            return Err(Error::limit_exceeded("too many steps")
                .with("steps", dag.steps.len())
                .with("limit", allowed));
        }
        fold_edges_into_needs(&mut dag)?;
        let sorted = positions_by_id(&dag.steps)?;
        let needs = needs(&dag.steps)?;
        let order = kahn(&dag.steps, &sorted, &needs)?;
        let mut place = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            place[*old as usize] = index(new);
        }
        let place = |old: &u32| place[*old as usize];
        let edges = order
            .iter()
            .flat_map(|to| needs.row(*to).iter().map(move |from| (to, from)))
            .map(|(to, from)| (place(to), place(from)));
        let edges: Vec<(u32, u32)> = edges.collect();
        let by_id = sorted.iter().map(place).collect();
        reorder(&mut dag.steps, &order);
        Self::of_ordered(dag, by_id, &edges, limits)
    }

    /// Reads a plan back from the first entry of a run.
    ///
    /// # Errors
    /// `Corrupt` when the document is not a plan or its steps do not stand in execution order.
    pub fn read(document: &Payload, limits: &Limits) -> Result<Self> {
        let dag: Dag = document.decode().map_err(|cause| Error::corrupt("not a plan").caused_by(cause))?;
        let given: Vec<StepId> = dag.steps.iter().map(|step| step.id.clone()).collect();
        // Limits bound what comes in. What is recorded was within those of its time.
        let generous =
            Limits { steps: Limits::STEPS_CEILING, expression_bytes: usize::MAX, ..limits.clone() };
        let plan =
            Self::new(dag, &generous).map_err(|cause| Error::corrupt("not a plan").caused_by(cause))?;
        if plan.document != *document || plan.dag.steps.iter().zip(&given).any(|(step, id)| step.id != *id) {
            return Err(Error::corrupt("plan is not in its canonical form and order"));
        }
        Ok(plan)
    }

    /// `edges` lead from a step to what it needs.
    fn of_ordered(dag: Dag, by_id: Vec<u32>, edges: &[(u32, u32)], limits: &Limits) -> Result<Self> {
        let graph = Graph {
            needs: Adjacency::new(dag.steps.len(), edges.iter().copied()),
            dependents: Adjacency::new(dag.steps.len(), edges.iter().map(|(to, from)| (*from, *to))),
        };
        let compiled = dag.steps.iter().map(|step| compile(step, limits)).collect::<Result<_>>()?;
        let document = Payload::of_trusted(&dag)?;
        Ok(Self { hash: document.digest(), document, graph, by_id, compiled, dag })
    }

    /// The DAG, its steps in execution order.
    #[must_use]
    pub fn dag(&self) -> &Dag {
        &self.dag
    }

    /// The steps in execution order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.dag.steps
    }

    /// The step at a position.
    #[must_use]
    pub fn step(&self, position: u32) -> &Step {
        &self.dag.steps[position as usize]
    }

    /// What the expressions of the step at a position compile to.
    #[must_use]
    pub fn compiled(&self, position: u32) -> Option<&Compiled> {
        self.compiled[position as usize].as_deref()
    }

    /// The plan's document in canonical JSON.
    #[must_use]
    pub fn document(&self) -> &Payload {
        &self.document
    }

    /// SHA-256 of the document.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Where a step stands.
    #[must_use]
    pub fn position(&self, id: &str) -> Option<u32> {
        position(&self.dag.steps, &self.by_id, id)
    }

    /// The positions a step needs.
    #[must_use]
    pub fn needs(&self, position: u32) -> &[u32] {
        self.graph.needs.row(position)
    }

    /// The positions that need a step.
    #[must_use]
    pub fn dependents(&self, position: u32) -> &[u32] {
        self.graph.dependents.row(position)
    }

    /// SHA-256 over the canonical JSON of the step at a position, as declared.
    ///
    /// # Errors
    /// `Internal` when the step does not serialise, which no step does.
    pub fn step_hash(&self, position: u32) -> Result<Digest> {
        Ok(Payload::of_trusted(self.step(position))?.digest())
    }

    /// What a person or a program sees of the plan.
    ///
    /// # Errors
    /// As [`Plan::step_hash`].
    pub fn summary(&self) -> Result<PlanSummary> {
        let steps = (0..index(self.dag.steps.len()))
            .map(|position| {
                let step = self.step(position);
                Ok(StepSummary {
                    id: step.id.clone(),
                    step_hash: self.step_hash(position)?,
                    needs: step.needs.clone(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let order = steps.iter().map(|step| step.id.clone()).collect();
        Ok(PlanSummary { dag_id: self.dag.id.clone(), plan_hash: self.hash, order, steps })
    }

    /// `positions` and everything downstream of them, as a set of flags by position.
    #[must_use]
    pub fn downstream(&self, positions: &[u32]) -> Vec<bool> {
        self.reach(positions, &self.graph.dependents)
    }

    /// `positions` and everything they need, directly or not, as a set of flags by position.
    #[must_use]
    pub fn upstream(&self, positions: &[u32]) -> Vec<bool> {
        self.reach(positions, &self.graph.needs)
    }

    fn reach(&self, positions: &[u32], along: &Adjacency) -> Vec<bool> {
        let mut reached = vec![false; self.dag.steps.len()];
        let mut open: Vec<u32> = positions.to_vec();
        while let Some(position) = open.pop() {
            if !std::mem::replace(&mut reached[position as usize], true) {
                open.extend(along.row(position));
            }
        }
        reached
    }
}

/// Plans are shared between all runs of the same document.
pub type SharedPlan = Arc<Plan>;

/// A position as the ledger's rooms count them; [`Limits::STEPS_CEILING`] keeps it within 32 bits.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn unknown_need(step: &Step, need: &StepId) -> Error {
    Error::invalid("step needs a step that does not exist").with("step", &step.id).with("need", need)
}

fn fold_edges_into_needs(dag: &mut Dag) -> Result<()> {
    if !dag.edges.is_empty() {
        let by_id = positions_by_id(&dag.steps)?;
        for edge in std::mem::take(&mut dag.edges) {
            let to = position(&dag.steps, &by_id, edge.to.as_str()).ok_or_else(|| {
                Error::invalid("edge leads to a step that does not exist").with("to", &edge.to)
            })?;
            dag.steps[to as usize].needs.push(edge.from);
        }
    }
    for step in &mut dag.steps {
        step.needs.sort();
        step.needs.dedup();
    }
    Ok(())
}

/// Positions sorted by step id: the index of ids, and the rank of each step among ties.
fn positions_by_id(steps: &[Step]) -> Result<Vec<u32>> {
    let mut sorted: Vec<u32> = (0..index(steps.len())).collect();
    sorted.sort_by(|a, b| steps[*a as usize].id.cmp(&steps[*b as usize].id));
    match sorted.windows(2).find(|pair| steps[pair[0] as usize].id == steps[pair[1] as usize].id) {
        Some(pair) => {
            Err(Error::invalid("two steps have the same id").with("step", &steps[pair[0] as usize].id))
        }
        None => Ok(sorted),
    }
}

fn position(steps: &[Step], by_id: &[u32], id: &str) -> Option<u32> {
    by_id.binary_search_by(|probe| steps[*probe as usize].id.as_str().cmp(id)).ok().map(|found| by_id[found])
}

/// What each step needs, by position.
fn needs(steps: &[Step]) -> Result<Adjacency> {
    let position: HashMap<&str, u32> =
        steps.iter().enumerate().map(|(position, step)| (step.id.as_str(), index(position))).collect();
    let mut edges = Vec::with_capacity(steps.iter().map(|step| step.needs.len()).sum());
    for (to, step) in steps.iter().enumerate() {
        for need in &step.needs {
            edges.push((index(to), *position.get(need.as_str()).ok_or_else(|| unknown_need(step, need))?));
        }
    }
    Ok(Adjacency::new(steps.len(), edges.iter().copied()))
}

fn kahn(steps: &[Step], by_id: &[u32], needs: &Adjacency) -> Result<Vec<u32>> {
    let mut rank = vec![0u32; steps.len()];
    for (place, position) in by_id.iter().enumerate() {
        rank[*position as usize] = index(place);
    }
    let positions = 0..index(steps.len());
    let mut open: Vec<u32> = positions.clone().map(|position| index(needs.row(position).len())).collect();
    let edges = positions.flat_map(|to| needs.row(to).iter().map(move |from| (*from, to)));
    let dependents = Adjacency::new(steps.len(), edges);
    let mut ready: BinaryHeap<Reverse<u32>> =
        by_id.iter().filter(|p| open[**p as usize] == 0).map(|p| Reverse(rank[*p as usize])).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some(Reverse(smallest)) = ready.pop() {
        let position = by_id[smallest as usize];
        order.push(position);
        for dependent in dependents.row(position) {
            let left = &mut open[*dependent as usize];
            *left -= 1;
            if *left == 0 {
                ready.push(Reverse(rank[*dependent as usize]));
            }
        }
    }
    if order.len() == steps.len() {
        return Ok(order);
    }
    let stuck = by_id.iter().find(|p| open[**p as usize] > 0).map_or("", |p| steps[*p as usize].id.as_str());
    Err(Error::invalid("steps need each other in a circle").with("step", stuck))
}

fn reorder(steps: &mut Vec<Step>, order: &[u32]) {
    let mut slots: Vec<Option<Step>> = std::mem::take(steps).into_iter().map(Some).collect();
    steps.extend(order.iter().filter_map(|position| slots[*position as usize].take()));
}

fn compile(step: &Step, limits: &Limits) -> Result<Option<Box<Compiled>>> {
    let wrong = |what: &'static str, message: String| {
        Error::invalid("expression does not compile")
            .with("step", &step.id)
            .with("in", what)
            .with("problem", message)
    };
    let expression = |what, source: &str| {
        Expression::compile(bare(source), limits).map_err(|error| wrong(what, error.message))
    };
    let template = |what, value: &serde_json::Value| match Template::compile(value, limits) {
        Ok(template) => Ok(Some(template).filter(|template| !template.is_constant())),
        Err(problems) => {
            let list: Vec<String> = problems.iter().map(|(at, e)| format!("{at}: {}", e.message)).collect();
            Err(wrong(what, list.join("; ")))
        }
    };
    let keys = step.concurrency.iter().map(|slot| serde_json::Value::from(slot.key.as_str())).collect();
    let compiled = Compiled {
        when: step.when.as_deref().map(|source| expression("when", source)).transpose()?,
        items: match step.for_each.as_ref().map(|each| &each.items) {
            Some(Items::Expression(source)) => Some(expression("forEach.items", source)?),
            Some(Items::List(_)) | None => None,
        },
        with: template("with", &step.with)?,
        slots: template("concurrency", &serde_json::Value::Array(keys))?,
    };
    let any = compiled.when.is_some()
        || compiled.items.is_some()
        || compiled.with.is_some()
        || compiled.slots.is_some();
    Ok(any.then(|| Box::new(compiled)))
}

/// The expression itself when a condition is written as a whole `${{ … }}`.
fn bare(source: &str) -> &str {
    let trimmed = source.trim();
    trimmed.strip_prefix("${{").and_then(|rest| rest.strip_suffix("}}")).map_or(trimmed, str::trim)
}
