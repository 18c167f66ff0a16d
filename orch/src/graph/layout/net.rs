//! The graph as a net in which every link joins two neighbouring columns.

use std::ops::Range;

use super::super::{Graph, topological};

/// Cards and bends ("items"; cards come first, with the index of their node), and the links between them.
#[derive(Debug)]
pub(super) struct Net {
    /// How many items are cards.
    pub(super) cards: usize,
    /// The items of every column, from top to bottom.
    pub(super) layers: Vec<Vec<usize>>,
    /// The column of every item.
    pub(super) layer_of: Vec<usize>,
    /// The neighbours of every item in the column before.
    pub(super) left: Neighbours,
    /// The neighbours of every item in the column after.
    pub(super) right: Neighbours,
    /// How every edge of the graph goes, from left to right.
    pub(super) ways: Vec<Way>,
    /// Whether an edge of the graph points from right to left, which happens in a cycle only.
    pub(super) backward: Vec<bool>,
}

/// How an edge goes from left to right.
#[derive(Debug)]
pub(super) enum Way {
    /// It cannot be drawn.
    Nowhere,
    /// Through one bend in every column between its ends.
    Bends { from: usize, to: usize, bends: Range<usize> },
    /// In a lane below all cards.
    Lane { from: usize, to: usize },
}

impl Way {
    /// The cards at its ends.
    pub(super) fn ends(&self) -> Option<(usize, usize)> {
        match *self {
            Self::Nowhere => None,
            Self::Bends { from, to, .. } | Self::Lane { from, to } => Some((from, to)),
        }
    }
}

/// Lists of neighbours, in one piece of memory.
#[derive(Debug)]
pub(super) struct Neighbours {
    starts: Vec<usize>,
    items: Vec<usize>,
}

impl Neighbours {
    fn new(count: usize, links: impl Iterator<Item = (usize, usize)> + Clone) -> Self {
        let mut starts = vec![0; count + 1];
        for (item, _) in links.clone() {
            starts[item + 1] += 1;
        }
        for item in 0..count {
            starts[item + 1] += starts[item];
        }
        let mut free = starts.clone();
        let mut items = vec![0; starts[count]];
        for (item, neighbour) in links {
            items[free[item]] = neighbour;
            free[item] += 1;
        }
        Self { starts, items }
    }

    /// The neighbours of `item`.
    pub(super) fn of(&self, item: usize) -> &[usize] {
        &self.items[self.starts[item]..self.starts[item + 1]]
    }
}

impl Net {
    /// Puts every card into the column that its longest path from a source needs, and bends on the links.
    pub(super) fn of(graph: &Graph) -> Self {
        let cards = graph.nodes.len();
        let drawn: Vec<(usize, usize)> = graph
            .edges
            .iter()
            .copied()
            .map(|(from, to)| if from < cards && to < cards { (from, to) } else { (0, 0) })
            .collect();
        let real: Vec<(usize, usize)> = drawn.iter().copied().filter(|(from, to)| from != to).collect();
        let order = topological(cards, &real);
        let mut place = vec![0; cards];
        for (at, &node) in order.iter().enumerate() {
            place[node] = at;
        }
        let backward: Vec<bool> =
            drawn.iter().map(|&(from, to)| from != to && place[from] > place[to]).collect();
        let forward: Vec<(usize, usize)> = drawn
            .iter()
            .zip(&backward)
            .map(|(&(from, to), &backward)| if backward { (to, from) } else { (from, to) })
            .collect();

        let mut layer_of = ranks(&order, &forward);
        let (ways, links) = ways(&forward, &mut layer_of);
        let columns = layer_of.iter().max().map_or(0, |last| last + 1);
        let mut layers = vec![Vec::new(); columns];
        for item in order.into_iter().chain(cards..layer_of.len()) {
            layers[layer_of[item]].push(item);
        }
        let left = Neighbours::new(layer_of.len(), links.iter().map(|&(from, to)| (to, from)));
        let right = Neighbours::new(layer_of.len(), links.iter().copied());
        Self { cards, layers, layer_of, left, right, ways, backward }
    }

    /// Whether `item` is a bend of an edge.
    pub(super) fn is_bend(&self, item: usize) -> bool {
        item >= self.cards
    }

    /// How many edges go below the cards.
    pub(super) fn lanes(&self) -> usize {
        self.ways.iter().filter(|way| matches!(way, Way::Lane { .. })).count()
    }
}

/// The length of the longest path to every node.
fn ranks(order: &[usize], edges: &[(usize, usize)]) -> Vec<usize> {
    let next = Neighbours::new(order.len(), edges.iter().copied().filter(|(from, to)| from != to));
    let mut rank = vec![0; order.len()];
    for &node in order {
        for &to in next.of(node) {
            rank[to] = rank[to].max(rank[node] + 1);
        }
    }
    rank
}

/// Gives every edge its way, appends the columns of bends to `layer_of`, and lists the links.
fn ways(edges: &[(usize, usize)], layer_of: &mut Vec<usize>) -> (Vec<Way>, Vec<(usize, usize)>) {
    let span = |layer_of: &[usize], from: usize, to: usize| layer_of[to] - layer_of[from];
    let budget = 4 * (layer_of.len() + edges.len()) + 512;
    let spans = edges.iter().filter(|(from, to)| from != to).map(|&(from, to)| span(layer_of, from, to));
    let longest = longest_bent(spans.collect(), budget);

    let mut links = Vec::with_capacity(edges.len());
    let mut ways = Vec::with_capacity(edges.len());
    for &(from, to) in edges {
        if from == to {
            ways.push(Way::Nowhere);
            continue;
        }
        if span(layer_of, from, to) > longest {
            ways.push(Way::Lane { from, to });
            continue;
        }
        let first = layer_of.len();
        layer_of.extend(layer_of[from] + 1..layer_of[to]);
        let bends = first..layer_of.len();
        let mut last = from;
        for item in bends.clone().chain([to]) {
            links.push((last, item));
            last = item;
        }
        ways.push(Way::Bends { from, to, bends });
    }
    (ways, links)
}

/// The longest span whose edges, and all shorter ones, can have their bends within `budget`.
fn longest_bent(mut spans: Vec<usize>, budget: usize) -> usize {
    spans.sort_unstable();
    let mut spent = 0;
    for &span in &spans {
        spent += span - 1;
        if spent > budget {
            return span - 1;
        }
    }
    spans.last().copied().unwrap_or(0)
}
