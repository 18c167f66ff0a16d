use proptest::prelude::*;
use serde_json::json;

use super::*;

fn dag(steps: serde_json::Value) -> Dag {
    serde_json::from_value(json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": "nightly", "steps": steps,
        "edges": [{ "from": "fetch", "to": "report" }] }))
    .unwrap()
}

fn small() -> Graph {
    let mut graph = Graph::of_dag(&dag(json!([
        { "id": "report", "uses": "http", "needs": ["scan", "end"] },
        { "id": "scan", "uses": "worker/scan", "needs": ["fetch"], "forEach": { "items": [1, 2, 3] } },
        { "id": "end", "uses": "gate/approval", "needs": ["fetch"], "forEach": { "items": "inputs.list" } },
        { "id": "fetch", "uses": "fn/echo" },
    ])));
    graph.nodes[0].status = Some(StepStatus::Succeeded);
    graph.nodes[1].status = Some(StepStatus::Waiting);
    graph
}

fn hostile() -> Graph {
    let text = "a\"]; <b> & `#\\N\n%%";
    let node = Node { id: text.into(), label: text.into(), detail: String::new(), status: None };
    Graph { title: "t\"\n---\nx: y".into(), nodes: vec![node], edges: vec![(0, 0), (0, 7)] }
}

#[test]
fn a_document_becomes_nodes_in_topological_order_with_lexical_ties() {
    let graph = small();
    let ids: Vec<&str> = graph.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["fetch", "end", "scan", "report"]);
    assert_eq!(graph.edges, [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]);
    let details: Vec<&str> = graph.nodes.iter().map(|node| node.detail.as_str()).collect();
    assert_eq!(details, ["fn/echo", "gate/approval ×n", "worker/scan ×3", "http"]);
}

#[test]
fn a_faulty_document_can_be_looked_at() {
    let graph = Graph::of_dag(&dag(json!([
        { "id": "b", "uses": "http", "needs": ["a", "nowhere"] },
        { "id": "a", "uses": "http", "needs": ["b"] },
        { "id": "a", "uses": "http" },
    ])));
    assert_eq!(graph.nodes.len(), 3);
    assert_eq!(layout(&graph).nodes.len(), 3);
}

#[test]
fn dot_is_as_expected() {
    assert_eq!(
        to_dot(&small()),
        r##"digraph "nightly" {
  rankdir=LR;
  node [shape=box, style="rounded,filled", color="#8c959f", fillcolor="#ffffff", fontname="Helvetica", fontsize=11, margin="0.16,0.08"];
  edge [color="#8c959f", arrowsize=0.7];
  "fetch" [label="fetch\nfn/echo · succeeded", color="#1a7f37", fillcolor="#eaf6ed"];
  "end" [label="end\ngate/approval ×n · waiting", color="#8250df", fillcolor="#f3edfd"];
  "scan" [label="scan\nworker/scan ×3"];
  "report" [label="report\nhttp"];
  "fetch" -> "end";
  "fetch" -> "scan";
  "fetch" -> "report";
  "end" -> "report";
  "scan" -> "report";
}
"##
    );
}

#[test]
fn mermaid_is_as_expected() {
    assert_eq!(
        to_mermaid(&small()),
        r##"---
title: "nightly"
---
flowchart LR
  n0["fetch<br/>fn/echo · succeeded"]:::succeeded
  n1["end<br/>gate/approval ×n · waiting"]:::waiting
  n2["scan<br/>worker/scan ×3"]
  n3["report<br/>http"]
  n0 --> n1
  n0 --> n2
  n0 --> n3
  n1 --> n3
  n2 --> n3
  classDef waiting fill:#f3edfd,stroke:#8250df,color:#1f2328
  classDef succeeded fill:#eaf6ed,stroke:#1a7f37,color:#1f2328
"##
    );
}

#[test]
fn hostile_text_stays_text_in_dot_and_mermaid() {
    let dot = to_dot(&hostile());
    assert!(dot.starts_with(r#"digraph "t\" --- x: y" {"#), "{dot}");
    assert!(dot.contains(r#"  "a\"]; <b> & `#\\N %%" [label="a\"]; <b> &amp; `#\\N %%"];"#), "{dot}");
    let mermaid = to_mermaid(&hostile());
    assert!(mermaid.starts_with("---\ntitle: \"t\\\" --- x: y\"\n---\nflowchart LR\n"), "{mermaid}");
    let label = "a#34;#93;#59; #60;b#62; #38; #96;#35;#92;N #37;#37;";
    assert!(mermaid.contains(&format!("  n0[\"{label}\"]\n")), "{mermaid}");
}

#[test]
fn the_legend_knows_every_status_once() {
    let mut legend = LEGEND.to_vec();
    legend.sort_unstable();
    assert_eq!(legend, StepStatus::ALL);
}

proptest! {
    #[test]
    fn the_order_is_the_lexically_first_of_all_topological_orders(
        edges in prop::collection::btree_set((0_usize..6, 0_usize..6), 0..9),
    ) {
        let edges: Vec<_> = edges.into_iter().filter(|(from, to)| from < to).map(|(a, b)| (5 - a, 5 - b)).collect();
        let order = topological(6, &edges);
        for at in 0..6 {
            let free = |node: usize| edges.iter().all(|&(from, to)| to != node || order[..at].contains(&from));
            let first = (0..6).find(|node| !order[..at].contains(node) && free(*node));
            prop_assert_eq!(Some(order[at]), first);
        }
    }
}
