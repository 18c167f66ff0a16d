use proptest::prelude::*;

use super::*;
use crate::ledger::StepStatus;

fn graph(count: usize, edges: Vec<(usize, usize)>) -> Graph {
    let node = |at: usize| {
        let id = format!("step-{at}{}", "x".repeat(at % 7 * 5));
        Node { label: id.clone(), id, detail: "fn/echo ×3".into(), status: None }
    };
    Graph { title: "test".into(), nodes: (0..count).map(node).collect(), edges }
}

/// Acyclic, with a shuffled numbering, some long edges and some duplicates.
fn any_dag() -> impl Strategy<Value = Graph> {
    (1_usize..60)
        .prop_flat_map(|count| {
            let names = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
            (names, prop::collection::vec((0..count, 0..count), 0..count * 3))
        })
        .prop_map(|(names, pairs)| {
            let forward = pairs.into_iter().filter(|(a, b)| a != b).map(|(a, b)| (a.min(b), a.max(b)));
            graph(names.len(), forward.map(|(a, b)| (names[a], names[b])).collect())
        })
}

fn overlap(a: &Placed, b: &Placed) -> bool {
    a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
}

proptest! {
    #[test]
    fn no_two_cards_overlap(graph in any_dag()) {
        let layout = layout(&graph);
        for (at, a) in layout.nodes.iter().enumerate() {
            for b in &layout.nodes[..at] {
                prop_assert!(!overlap(a, b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn every_edge_leads_to_a_later_column_and_joins_its_cards(graph in any_dag()) {
        let layout = layout(&graph);
        for (&(from, to), points) in graph.edges.iter().zip(&layout.edges) {
            let (from, to) = (layout.nodes[from], layout.nodes[to]);
            prop_assert!(from.layer < to.layer);
            prop_assert_eq!(points.first(), Some(&(from.x + from.w, from.y + from.h / 2)));
            prop_assert_eq!(points.last(), Some(&(to.x, to.y + to.h / 2)));
            prop_assert_eq!(points.len() % 2, 0);
            for (at, pair) in points.windows(2).enumerate() {
                prop_assert!(pair[0].0 < pair[1].0);
                prop_assert!(at % 2 == 0 || pair[0].1 == pair[1].1);
            }
        }
    }

    #[test]
    fn no_edge_runs_through_a_card(graph in any_dag()) {
        let layout = layout(&graph);
        for points in &layout.edges {
            for pair in points.windows(2).skip(1).step_by(2) {
                let ((left, y), (right, _)) = (pair[0], pair[1]);
                let hit = layout.nodes.iter().find(|n| n.x < right && left < n.x + n.w && n.y < y && y < n.y + n.h);
                prop_assert!(hit.is_none(), "{pair:?} {hit:?}");
            }
        }
    }

    #[test]
    fn everything_lies_within_the_picture(graph in any_dag()) {
        let layout = layout(&graph);
        for n in &layout.nodes {
            prop_assert!(n.x >= 0 && n.y >= 0 && n.x + n.w <= layout.width && n.y + n.h <= layout.height);
        }
        for (x, y) in layout.edges.iter().flatten() {
            prop_assert!((0..=layout.width).contains(x) && (0..=layout.height).contains(y));
        }
    }

    #[test]
    fn statuses_move_nothing_and_twice_gives_the_same(graph in any_dag(), seed in any::<usize>()) {
        let mut other = graph.clone();
        for (at, node) in other.nodes.iter_mut().enumerate() {
            node.status = StepStatus::ALL.get((at ^ seed) % 12).copied();
        }
        prop_assert_eq!(layout(&graph), layout(&other));
    }

    #[test]
    fn any_edges_at_all_can_be_laid_out(
        count in 0_usize..12,
        edges in prop::collection::vec((0_usize..14, 0_usize..14), 0..30),
    ) {
        let graph = graph(count, edges);
        let layout = layout(&graph);
        prop_assert_eq!(layout.nodes.len(), count);
        for (&(from, to), points) in graph.edges.iter().zip(&layout.edges) {
            prop_assert_eq!(points.is_empty(), from >= count || to >= count || from == to);
        }
    }
}

#[test]
fn one_edge_of_a_cycle_leads_back() {
    let layout = layout(&graph(3, vec![(0, 1), (1, 2), (2, 0)]));
    assert_eq!(layout.nodes.iter().map(|n| n.layer).collect::<Vec<_>>(), [0, 1, 2]);
    let (first, last) = (layout.edges[2][0], layout.edges[2][layout.edges[2].len() - 1]);
    assert!(first.0 > last.0);
}

#[test]
fn a_diamond_is_symmetric_and_a_chain_is_straight() {
    let layout = layout(&graph(6, vec![(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5)]));
    let y: Vec<i64> = layout.nodes.iter().map(|n| n.y).collect();
    assert_eq!((y[0], y[3], y[4]), (y[3], y[4], y[5]));
    assert_eq!(y[0] - y[1], y[2] - y[0]);
}

#[test]
fn crossings_that_can_be_avoided_are_avoided() {
    let layout = layout(&graph(6, vec![(0, 5), (1, 4), (2, 3)]));
    let y = |node: usize| layout.nodes[node].y;
    assert!([(0, 5), (1, 4), (2, 3)].iter().all(|&(from, to)| y(from) == y(to)));
}

#[test]
fn edges_beyond_the_budget_of_bends_run_below_all_cards() {
    let count = 400;
    let mut edges: Vec<_> = (1..count).map(|at| (at - 1, at)).collect();
    edges.extend((0..count / 2).map(|at| (at, at + count / 2)));
    let layout = layout(&graph(count, edges));
    let floor = layout.nodes.iter().map(|n| n.y + n.h).max().unwrap();
    let long = &layout.edges[count - 1..];
    assert!(
        long.iter().all(|points| points.len() == 4 && points[1].1 > floor && points[1].1 < layout.height)
    );
    assert!(layout.compact);
}

#[test]
fn coordinates_are_the_same_on_every_machine() {
    let layout = layout(&graph(4, vec![(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]));
    let places: Vec<_> = layout.nodes.iter().map(|n| (n.x, n.y, n.w, n.layer)).collect();
    assert_eq!(places, [(28, 104, 201, 0), (302, 28, 210, 1), (302, 104, 210, 1), (585, 104, 259, 2)]);
    assert_eq!(layout.edges[4], [(229, 132), (302, 180), (512, 180), (585, 132)]);
    assert_eq!((layout.width, layout.height), (872, 236));
}
