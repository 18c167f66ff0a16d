//! Where everything goes: the layered method of Sugiyama, Tagawa and Toda, "Methods for Visual Understanding
//! of Hierarchical System Structures", IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981.
//!
//! 1. [`net`]: the column of a card is the longest path to it; an edge that crosses columns gets a bend in each.
//! 2. [`order`]: sweeps sort every column by the barycentre of its neighbours.
//! 3. [`align`]: sweeps pull cards and bends to the median of their neighbours.
//!
//! Each sweep costs O(E log E), and the number of bends is bounded by a multiple of nodes and edges.

mod align;
mod net;
mod order;

use serde::Serialize;

use self::net::{Net, Way};
use super::measure::{DETAIL, LABEL, SMALL_LABEL, width};
use super::{Graph, Node};

/// Above this many nodes cards have one line and stand closer together.
pub const COMPACT_ABOVE: usize = 300;

/// Passes over all columns, in each of the two kinds of sweep.
const SWEEPS: usize = 8;

/// Edges too long for a bend in every column run side by side below the cards, in this many lanes.
const LANES: i64 = 16;
const LANE_HEIGHT: i64 = 6;

/// Where everything goes, in whole pixels from the top left corner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// The width of the picture.
    pub width: i64,
    /// The height of the picture.
    pub height: i64,
    /// Whether cards have one line only.
    pub compact: bool,
    /// The cards, one for each node of the graph, in the same order.
    pub nodes: Vec<Placed>,
    /// The arrows, one for each edge of the graph, in the same order: an even number of points. Segments go, in
    /// turn, through the gap between two columns (draw a curve that is level at both ends) and level through
    /// columns. Without points: an edge that cannot be drawn.
    pub edges: Vec<Vec<(i64, i64)>>,
}

/// Where a card goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Its left side.
    pub x: i64,
    /// Its upper side.
    pub y: i64,
    /// Its width.
    pub w: i64,
    /// Its height.
    pub h: i64,
    /// Its column, from 0 at the left.
    pub layer: usize,
}

/// The sizes of a picture, in pixels.
#[derive(Debug)]
struct Metrics {
    compact: bool,
    margin: i64,
    /// Even, so that a card has a middle.
    card_height: i64,
    card_width: (i64, i64),
    /// Between two cards of a column, and between a card and a bend.
    card_gap: i64,
    bend_gap: i64,
    /// Between two columns; steep edges widen it.
    column_gap: (i64, i64),
}

const ROOMY: Metrics = Metrics {
    compact: false,
    margin: 28,
    card_height: 56,
    card_width: (168, 300),
    card_gap: 20,
    bend_gap: 12,
    column_gap: (64, 168),
};

const COMPACT: Metrics = Metrics {
    compact: true,
    margin: 20,
    card_height: 26,
    card_width: (96, 220),
    card_gap: 8,
    bend_gap: 5,
    column_gap: (48, 240),
};

impl Metrics {
    /// The width a card would like. It leaves room for any status, so that a change of status moves nothing.
    fn wish(&self, node: &Node) -> i64 {
        if self.compact {
            return width(&node.label, SMALL_LABEL) + 40;
        }
        let label = width(&node.label, LABEL) + 60;
        let detail = width(&node.detail, DETAIL) + 60 + 74;
        label.max(detail)
    }
}

/// Lays `graph` out: no two cards overlap, every edge leads to a column further right, and the statuses of the
/// nodes make no difference. In a cycle, one edge leads back.
#[must_use]
pub fn layout(graph: &Graph) -> Layout {
    let metrics = if graph.nodes.len() > COMPACT_ABOVE { COMPACT } else { ROOMY };
    let mut net = Net::of(graph);
    order::untangle(&mut net);
    let mut middles = align::middles(&net, &metrics);

    let half = metrics.card_height / 2;
    let top = middles.iter().copied().min().unwrap_or(0) - half - metrics.margin;
    middles.iter_mut().for_each(|middle| *middle -= top);
    let columns = columns(graph, &net, &middles, &metrics);

    let nodes = (0..graph.nodes.len())
        .map(|node| {
            let layer = net.layer_of[node];
            let (x, w) = columns[layer];
            Placed { x, y: middles[node] - half, w, h: metrics.card_height, layer }
        })
        .collect();
    let floor = middles.iter().copied().max().unwrap_or(half) + half;
    let lanes = i64::try_from(net.lanes()).unwrap_or(LANES).min(LANES);
    Layout {
        width: columns.last().map_or(metrics.margin, |(x, w)| x + w) + metrics.margin,
        height: floor + lanes * LANE_HEIGHT + metrics.margin,
        compact: metrics.compact,
        nodes,
        edges: routes(&net, &middles, &columns, floor),
    }
}

/// The left side and the width of every column.
fn columns(graph: &Graph, net: &Net, middles: &[i64], metrics: &Metrics) -> Vec<(i64, i64)> {
    let (narrowest, widest) = metrics.card_width;
    let (gap_min, gap_max) = metrics.column_gap;
    let mut x = metrics.margin;
    let mut columns = Vec::with_capacity(net.layers.len());
    for layer in &net.layers {
        let cards = layer.iter().filter_map(|&item| graph.nodes.get(item));
        let width = cards.map(|node| metrics.wish(node)).max().unwrap_or(0).clamp(narrowest, widest);
        columns.push((x, width));
        let rise =
            |item: usize| net.right.of(item).iter().map(move |&to| (middles[to] - middles[item]).abs());
        let steepest = layer.iter().flat_map(|&item| rise(item)).max().unwrap_or(0);
        x += width + (gap_min + steepest / 8).min(gap_max);
    }
    columns
}

/// The points of every edge.
fn routes(net: &Net, middles: &[i64], columns: &[(i64, i64)], floor: i64) -> Vec<Vec<(i64, i64)>> {
    let left = |layer: usize| columns[layer].0;
    let right = |layer: usize| columns[layer].0 + columns[layer].1;
    let mut lane = 0;
    let mut route = |way: &Way| {
        let Some((from, to)) = way.ends() else { return Vec::new() };
        let (first, last) = (net.layer_of[from], net.layer_of[to]);
        let mut points = vec![(right(first), middles[from])];
        match way {
            Way::Nowhere => {}
            Way::Bends { bends, .. } => {
                for bend in bends.clone() {
                    let layer = net.layer_of[bend];
                    points.extend([(left(layer), middles[bend]), (right(layer), middles[bend])]);
                }
            }
            Way::Lane { .. } => {
                let y = floor + (lane % LANES + 1) * LANE_HEIGHT;
                lane += 1;
                points.extend([(left(first + 1), y), (right(last - 1), y)]);
            }
        }
        points.push((left(last), middles[to]));
        points
    };
    let mut edges: Vec<_> = net.ways.iter().map(&mut route).collect();
    for (points, _) in edges.iter_mut().zip(&net.backward).filter(|(_, backward)| **backward) {
        points.reverse();
    }
    edges
}

#[cfg(test)]
mod tests;
