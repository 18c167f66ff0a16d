//! The graph as text for other tools: DOT (Graphviz) and Mermaid.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Graph, Node};
use crate::ledger::StepStatus;

/// The outline and the fill of a status; readable on white, and the word is always written as well.
const fn colours(status: StepStatus) -> (&'static str, &'static str) {
    match status {
        StepStatus::Succeeded => ("#1a7f37", "#eaf6ed"),
        StepStatus::Failed => ("#cf222e", "#fdecec"),
        StepStatus::Running => ("#0969da", "#e8f2fd"),
        StepStatus::Waiting => ("#8250df", "#f3edfd"),
        StepStatus::Parked => ("#bc4c00", "#fdf0e6"),
        StepStatus::Pending | StepStatus::Queued | StepStatus::Skipped | StepStatus::Cancelled => {
            ("#59636e", "#f3f5f7")
        }
    }
}

/// Writes the graph in the DOT language of Graphviz.
#[must_use]
pub fn to_dot(graph: &Graph) -> String {
    let mut out = format!("digraph {} {{\n", dot_quote(&graph.title));
    out.push_str("  rankdir=LR;\n");
    out.push_str("  node [shape=box, style=\"rounded,filled\", color=\"#8c959f\", fillcolor=\"#ffffff\", ");
    out.push_str("fontname=\"Helvetica\", fontsize=11, margin=\"0.16,0.08\"];\n");
    out.push_str("  edge [color=\"#8c959f\", arrowsize=0.7];\n");
    for node in &graph.nodes {
        let lines =
            lines(node).map(|line| dot_escape(&line).replace('&', "&amp;")).collect::<Vec<_>>().join("\\n");
        let _ = write!(out, "  {} [label=\"{lines}\"", dot_quote(&node.id));
        if let Some((line, fill)) = node.status.map(colours) {
            let _ = write!(out, ", color=\"{line}\", fillcolor=\"{fill}\"");
        }
        out.push_str("];\n");
    }
    for (from, to) in ends(graph) {
        let _ = writeln!(out, "  {} -> {};", dot_quote(&from.1.id), dot_quote(&to.1.id));
    }
    out.push_str("}\n");
    out
}

/// Writes the graph as a Mermaid flowchart. Nodes are named `n0`, `n1`, … because ids such as `end` are words
/// of the language.
#[must_use]
pub fn to_mermaid(graph: &Graph) -> String {
    let title = serde_json::Value::from(printable(&graph.title)).to_string();
    let mut out = format!("---\ntitle: {title}\n---\nflowchart LR\n");
    for (at, node) in graph.nodes.iter().enumerate() {
        let lines = lines(node).map(|line| mermaid_escape(&line)).collect::<Vec<_>>().join("<br/>");
        let class = node.status.map_or(String::new(), |status| format!(":::{}", status.as_str()));
        let _ = writeln!(out, "  n{at}[\"{lines}\"]{class}");
    }
    for (from, to) in ends(graph) {
        let _ = writeln!(out, "  n{} --> n{}", from.0, to.0);
    }
    let used: BTreeSet<StepStatus> = graph.nodes.iter().filter_map(|node| node.status).collect();
    for status in used {
        let (line, fill) = colours(status);
        let _ = writeln!(out, "  classDef {} fill:{fill},stroke:{line},color:#1f2328", status.as_str());
    }
    out
}

/// The label and, if there is one, the caption.
fn lines(node: &Node) -> impl Iterator<Item = String> {
    [printable(&node.label), printable(&node.caption())].into_iter().filter(|line| !line.is_empty())
}

/// Both ends of every edge whose ends exist, with their indices.
fn ends(graph: &Graph) -> impl Iterator<Item = ((usize, &Node), (usize, &Node))> {
    let node = |at: usize| graph.nodes.get(at).map(|node| (at, node));
    graph.edges.iter().filter_map(move |&(from, to)| Some((node(from)?, node(to)?)))
}

/// Replaces control characters, which none of the formats can carry, with spaces.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c })
        .collect()
}

fn dot_escape(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('"', "\\\"")
}

fn dot_quote(text: &str) -> String {
    format!("\"{}\"", dot_escape(text))
}

/// Writes every ASCII sign that could mean something in a label as its character code.
fn mermaid_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | ',') {
            let _ = write!(out, "#{};", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}
