//! The needs of all steps as a graph: names, cycles and reachability. Nothing recurses.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::diagnostic::{Problem, Problems};
use super::read::{Draft, Place};
use super::source::Offset;
use super::suggest::did_you_mean;
use crate::id::StepId;

/// The most steps of a cycle that a message spells out.
const CYCLE_SHOWN_MAX: usize = 64;

/// The most names that an unknown one is compared with.
const NAMES_COMPARED_MAX: usize = 2_000;

/// The steps in lexical order of their names, each with what it needs.
#[derive(Debug)]
pub(super) struct Graph<'d> {
    steps: BTreeMap<&'d str, usize>,
    names: Vec<&'d str>,
    /// What each step needs, in lexical order.
    links: Vec<Vec<Link>>,
}

/// A need that leads somewhere.
#[derive(Debug)]
struct Link {
    to: usize,
    at: Offset,
    origin: Origin,
}

/// Where a need was written.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Need { step: usize, index: usize },
    Edge { index: usize },
}

impl Origin {
    /// The JSON pointer; `end` says which end of an edge is meant.
    fn path(self, end: &str) -> String {
        match self {
            Self::Need { step, index } => format!("/steps/{step}/needs/{index}"),
            Self::Edge { index } => format!("/edges/{index}/{end}"),
        }
    }
}

/// The steps in an order in which every step comes after what it needs.
#[derive(Debug)]
pub(super) struct Order(Vec<usize>);

impl<'d> Graph<'d> {
    /// Connects the steps, reporting names that come twice and needs that lead nowhere.
    pub(super) fn new(draft: &'d Draft<'_>, problems: &mut Problems) -> Self {
        let mut firsts: BTreeMap<&str, &Place<StepId>> = BTreeMap::new();
        for id in draft.steps.iter().filter_map(|step| step.id.as_ref()) {
            if let Some(first) = firsts.get(id.value.as_str()) {
                let message = format!("the step id `{}` is taken", id.value);
                let path = format!("/steps/{}/id", id.index);
                let problem = Problem::new("duplicate-id", id.at, path, message).first_at(first.at);
                problems.push(problem.hint("give every step its own id"));
            } else {
                firsts.insert(id.value.as_str(), id);
            }
        }
        let names: Vec<&str> = firsts.keys().copied().collect();
        let steps = names.iter().enumerate().map(|(rank, name)| (*name, rank)).collect();
        let mut graph = Self { steps, links: names.iter().map(|_| Vec::new()).collect(), names };
        graph.link_needs(draft, problems);
        graph.link_edges(draft, problems);
        graph.links.iter_mut().for_each(|links| links.sort_by_key(|link| (link.to, link.at)));
        graph
    }

    fn link_needs(&mut self, draft: &'d Draft<'_>, problems: &mut Problems) {
        for step in &draft.steps {
            let mut firsts: BTreeMap<&str, Offset> = BTreeMap::new();
            for need in &step.needs {
                let origin = Origin::Need { step: step.index, index: need.index };
                if let Some(first) = firsts.get(need.value.as_str()) {
                    let message = format!("`{}` is needed twice", need.value);
                    let problem = Problem::new("duplicate-need", need.at, origin.path(""), message);
                    problems.push(problem.first_at(*first).hint("remove one"));
                    continue;
                }
                firsts.insert(need.value.as_str(), need.at);
                let from = step.id.as_ref().and_then(|id| self.rank(id.value.as_str()));
                let to = self.resolve(need, origin, "", problems);
                self.link(from, to, need.at, origin, problems);
            }
        }
    }

    fn link_edges(&mut self, draft: &'d Draft<'_>, problems: &mut Problems) {
        for edge in &draft.edges {
            let origin = Origin::Edge { index: edge.from.index };
            let to = self.resolve(&edge.from, origin, "from", problems);
            let from = self.resolve(&edge.to, origin, "to", problems);
            self.link(from, to, edge.from.at, origin, problems);
        }
    }

    fn resolve(
        &self,
        place: &Place<StepId>,
        origin: Origin,
        end: &str,
        problems: &mut Problems,
    ) -> Option<usize> {
        let rank = self.rank(place.value.as_str());
        if rank.is_none() {
            let message = format!("there is no step `{}`", place.value);
            problems.push(self.unknown(
                "missing-need",
                place.at,
                origin.path(end),
                message,
                place.value.as_str(),
                problems,
            ));
        }
        rank
    }

    /// A problem about an unknown step, with the name that may have been meant.
    pub(super) fn unknown(
        &self,
        code: &'static str,
        at: Offset,
        path: String,
        message: String,
        name: &str,
        problems: &Problems,
    ) -> Problem {
        let problem = Problem::new(code, at, path, message);
        if problems.is_full() {
            return problem;
        }
        match did_you_mean(name, self.names.iter().copied().take(NAMES_COMPARED_MAX)) {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    fn link(
        &mut self,
        from: Option<usize>,
        to: Option<usize>,
        at: Offset,
        origin: Origin,
        problems: &mut Problems,
    ) {
        let (Some(from), Some(to)) = (from, to) else { return };
        if from == to {
            let message = format!("`{}` needs itself", self.names[from]);
            problems.push(Problem::new("self-need", at, origin.path("from"), message).hint("remove it"));
        } else {
            self.links[from].push(Link { to, at, origin });
        }
    }

    /// The position of a step in lexical order.
    pub(super) fn rank(&self, name: &str) -> Option<usize> {
        self.steps.get(name).copied()
    }

    /// Whether one step names another among its needs.
    pub(super) fn is_need(&self, step: usize, need: usize) -> bool {
        self.links[step].binary_search_by_key(&need, |link| link.to).is_ok()
    }

    /// What a step needs, in lexical order, each once.
    pub(super) fn needs(&self, step: usize) -> Vec<&'d str> {
        let mut needs: Vec<&str> = self.links[step].iter().map(|link| self.names[link.to]).collect();
        needs.dedup();
        needs
    }

    /// Puts needs before the steps that need them, or reports a shortest cycle of every knot.
    pub(super) fn order(&self, problems: &mut Problems) -> Option<Order> {
        let count = self.names.len();
        let links = self.links.iter().map(Vec::len).sum();
        let mut graph: DiGraph<(), (), usize> = DiGraph::with_capacity(count, links);
        for _ in 0..count {
            graph.add_node(());
        }
        for (from, links) in self.links.iter().enumerate() {
            for link in links {
                graph.add_edge(NodeIndex::new(from), NodeIndex::new(link.to), ());
            }
        }
        // Kosaraju's algorithm, unlike Tarjan's, is iterative in petgraph; it yields needs first.
        let knots = kosaraju_scc(&graph);
        let mut knot_of = vec![0; count];
        for (knot, members) in knots.iter().enumerate() {
            members.iter().for_each(|member| knot_of[member.index()] = knot);
        }
        let tied = knots.iter().filter(|members| members.len() > 1);
        let mut starts: Vec<usize> =
            tied.filter_map(|members| members.iter().map(|member| member.index()).min()).collect();
        starts.sort_unstable();
        for start in &starts {
            problems.push(self.cycle(*start, &knot_of));
        }
        starts.is_empty().then(|| Order(knots.into_iter().flatten().map(NodeIndex::index).collect()))
    }

    /// A shortest cycle through `start`, the first step of its knot; breadth first, in lexical order.
    fn cycle(&self, start: usize, knot_of: &[usize]) -> Problem {
        let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(step) = queue.pop_front() {
            let next = self.links[step].iter().map(|link| link.to);
            for to in next.filter(|to| knot_of[*to] == knot_of[start]) {
                if let Entry::Vacant(unseen) = came_from.entry(to) {
                    unseen.insert(step);
                    queue.push_back(to);
                }
            }
            if came_from.contains_key(&start) {
                break;
            }
        }
        let mut path = vec![start];
        let mut step = start;
        while let Some(before) = came_from.get(&step) {
            path.push(*before);
            step = *before;
            if step == start {
                break;
            }
        }
        path.reverse();
        self.cycle_problem(&path)
    }

    fn cycle_problem(&self, path: &[usize]) -> Problem {
        let shown: Vec<&str> = path.iter().take(CYCLE_SHOWN_MAX + 1).map(|step| self.names[*step]).collect();
        let mut text = shown.join(" -> ");
        if path.len() > CYCLE_SHOWN_MAX + 1 {
            text.push_str(&format!(" -> … ({} steps)", path.len() - 1));
        }
        let link = self.links[path[0]].iter().find(|link| Some(&link.to) == path.get(1));
        let (at, place) = link.map_or((0, String::new()), |link| (link.at, link.origin.path("from")));
        Problem::new("cycle", at, place, format!("steps need each other in a cycle: {text}"))
            .hint("each step here needs the next one; remove one of these needs")
    }

    /// Which of `pairs` (a step, and one it may need) are needs of needs. Works through the targets 128 at a
    /// time, each batch one pass over the graph.
    pub(super) fn reaches(&self, order: &Order, pairs: &[(usize, usize)]) -> Vec<bool> {
        let mut targets: Vec<usize> = pairs.iter().map(|(_, to)| *to).collect();
        targets.sort_unstable();
        targets.dedup();
        let mut reached = vec![false; pairs.len()];
        let mut by_target: Vec<usize> = (0..pairs.len()).collect();
        by_target.sort_by_key(|pair| pairs[*pair].1);
        let mut rest = by_target.as_slice();
        for batch in targets.chunks(128) {
            let masks = self.masks(order, batch);
            let end = rest.partition_point(|pair| Some(&pairs[*pair].1) <= batch.last());
            for pair in &rest[..end] {
                let (from, to) = pairs[*pair];
                let bit = batch.binary_search(&to).map_or(0, |bit| 1_u128 << bit);
                reached[*pair] = masks[from] & bit != 0;
            }
            rest = &rest[end..];
        }
        reached
    }

    /// For every step, which of up to 128 targets it needs, directly or not.
    fn masks(&self, order: &Order, targets: &[usize]) -> Vec<u128> {
        let mut own = vec![0_u128; self.names.len()];
        targets.iter().enumerate().for_each(|(bit, target)| own[*target] = 1 << bit);
        let mut masks = vec![0_u128; self.names.len()];
        for step in &order.0 {
            masks[*step] =
                self.links[*step].iter().fold(0, |mask, link| mask | masks[link.to] | own[link.to]);
        }
        masks
    }
}
