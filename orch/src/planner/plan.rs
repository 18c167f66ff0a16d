//! From a checked spec to the order in which its steps are looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, OnceLock};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use serde::{Deserialize, Serialize};
use std::hash::BuildHasher;

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
    places: Places,
    compiled: Vec<Option<Box<Compiled>>>,
    /// The inputs that no expression makes, each made when it is first asked for.
    inputs: Vec<OnceLock<Box<Input>>>,
}

/// An input and its hash.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) payload: Payload,
    pub(super) hash: Digest,
}

impl From<Payload> for Input {
    fn from(payload: Payload) -> Self {
        Self { hash: payload.digest(), payload }
    }
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
        let mut places = Places::of(&dag.steps)?;
        let needs = needs(&dag.steps, &places)?;
        let order = kahn(&dag.steps, &needs)?;
        let mut place = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            place[*old as usize] = index(new);
        }
        let edges = order
            .iter()
            .flat_map(|to| needs.row(*to).iter().map(move |from| (to, from)))
            .map(|(to, from)| (place[*to as usize], place[*from as usize]));
        let graph = Graph {
            needs: Adjacency::new(order.len(), edges.clone()),
            dependents: Adjacency::new(order.len(), edges.map(|(to, from)| (from, to))),
        };
        drop((needs, order));
        places.table.iter_mut().for_each(|known| *known = place[*known as usize]);
        reorder(&mut dag.steps, place);
        let compiled = dag.steps.iter().map(|step| compile(step, limits)).collect::<Result<_>>()?;
        let inputs = dag.steps.iter().map(|_| OnceLock::new()).collect();
        let document = document(&mut dag)?;
        Ok(Self { hash: document.digest(), document, graph, places, compiled, inputs, dag })
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
        self.places.find(&self.dag.steps, id)
    }

    /// The input of the step at a position, for a step whose input no expression makes.
    ///
    /// # Errors
    /// As [`Payload::new`].
    pub(super) fn constant_input(&self, position: u32) -> Result<&Input> {
        static NULL: OnceLock<Input> = OnceLock::new();
        let with = &self.step(position).with;
        let slot = &self.inputs[position as usize];
        match (with.is_null(), slot.get()) {
            (true, _) => Ok(NULL.get_or_init(|| Payload::null().into())),
            (false, Some(made)) => Ok(made),
            (false, None) => {
                let made = Payload::new(with)?;
                Ok(slot.get_or_init(|| Box::new(made.into())))
            }
        }
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
        let places = Places::of(&dag.steps)?;
        for edge in std::mem::take(&mut dag.edges) {
            let to = places.find(&dag.steps, edge.to.as_str()).ok_or_else(|| {
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

/// The canonical JSON of a plan. After its steps comes nothing but its `timeout`, a string without brackets.
fn document(dag: &mut Dag) -> Result<Payload> {
    let steps = std::mem::take(&mut dag.steps);
    let frame = Payload::of_trusted(&*dag);
    dag.steps = steps;
    frame?.with_last_list(dag.steps.iter().map(Payload::of_trusted))
}

/// Where each step stands, by its id. Looked up only, never listed: the order within means nothing.
#[derive(Debug)]
struct Places {
    hasher: DefaultHashBuilder,
    table: HashTable<u32>,
}

impl Places {
    fn of(steps: &[Step]) -> Result<Self> {
        let hasher = DefaultHashBuilder::default();
        let hash = |place: &u32| hasher.hash_one(steps[*place as usize].id.as_str());
        let mut table = HashTable::with_capacity(steps.len());
        for place in 0..index(steps.len()) {
            let same = |known: &u32| steps[*known as usize].id == steps[place as usize].id;
            match table.entry(hash(&place), same, hash) {
                Entry::Vacant(entry) => drop(entry.insert(place)),
                Entry::Occupied(_) => {
                    return Err(
                        Error::invalid("two steps have the same id").with("step", &steps[place as usize].id)
                    );
                }
            }
        }
        Ok(Self { hasher, table })
    }

    fn find(&self, steps: &[Step], id: &str) -> Option<u32> {
        let same = |place: &u32| steps[*place as usize].id.as_str() == id;
        self.table.find(self.hasher.hash_one(id), same).copied()
    }
}

/// What each step needs, by position.
fn needs(steps: &[Step], places: &Places) -> Result<Adjacency> {
    let mut edges = Vec::with_capacity(steps.iter().map(|step| step.needs.len()).sum());
    for (to, step) in steps.iter().enumerate() {
        for need in &step.needs {
            let from = places.find(steps, need.as_str()).ok_or_else(|| unknown_need(step, need))?;
            edges.push((index(to), from));
        }
    }
    Ok(Adjacency::new(steps.len(), edges.iter().copied()))
}

fn kahn(steps: &[Step], needs: &Adjacency) -> Result<Vec<u32>> {
    let positions = 0..index(steps.len());
    let mut by_id: Vec<u32> = positions.clone().collect();
    by_id.sort_unstable_by(|a, b| steps[*a as usize].id.cmp(&steps[*b as usize].id));
    let mut rank = vec![0u32; steps.len()];
    for (place, position) in by_id.iter().enumerate() {
        rank[*position as usize] = index(place);
    }
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

/// Moves each step to its place, cycle by cycle: no second list of steps.
fn reorder(steps: &mut [Step], mut place: Vec<u32>) {
    for at in 0..steps.len() {
        while place[at] as usize != at {
            let to = place[at] as usize;
            steps.swap(at, to);
            place.swap(at, to);
        }
    }
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
