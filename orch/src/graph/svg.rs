//! The picture itself: one SVG file with everything in it, for light and dark pages.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::measure::{DETAIL, HEADING, LABEL, SMALL_LABEL, fit, width};
use super::text::printable;
use super::{Graph, LEGEND, Layout, Node, Placed};
use crate::ledger::StepStatus;

/// Colours and fonts. Plain rules only, so that tools other than browsers show them too.
const STYLE: &str = include_str!("style.css");

/// How far the arrowhead reaches beyond the end of its line.
const TIP: i64 = 6;

/// The left side of the heading.
const MARGIN: i64 = 28;

/// The heading is cut to this width in pictures that are narrower.
const HEADING_WIDTH: i64 = 560;

/// Draws `graph` at the places of `layout`, which must be its own, as a self-contained SVG document: no script,
/// no external reference, colours for light and dark pages, and a name, a description and tooltips in words.
/// A status shows as a sign and a word besides its colour.
#[must_use]
pub fn to_svg(graph: &Graph, layout: &Layout) -> String {
    let legend = legend(graph);
    let head = if legend.is_empty() { 44 } else { 74 };
    let legend_width: i64 = legend.iter().map(|(_, words)| legend_step(words)).sum();
    let heading = fit(&graph.title, HEADING, layout.width.max(HEADING_WIDTH + 2 * MARGIN) - 2 * MARGIN);
    let full_width = layout.width.max(2 * MARGIN + legend_width.max(width(&heading, HEADING)));
    let full_height = layout.height + head;

    let mut out = String::with_capacity(4096 + 512 * (graph.nodes.len() + graph.edges.len()));
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"orch-graph\" role=\"img\" width=\"{full_width}\" \
         height=\"{full_height}\" viewBox=\"0 0 {full_width} {full_height}\">"
    );
    let _ = writeln!(out, "<title>{}</title>", escape(&graph.title));
    let _ = writeln!(out, "<desc>{}</desc>", escape(&description(graph, layout, &legend)));
    let _ = writeln!(out, "<style>\n{STYLE}</style>");
    definitions(&mut out, &legend);
    let _ = writeln!(out, "<rect class=\"page\" width=\"{full_width}\" height=\"{full_height}\" rx=\"12\"/>");
    let _ = writeln!(out, "<text class=\"heading\" x=\"{MARGIN}\" y=\"40\">{}</text>", escape(&heading));
    draw_legend(&mut out, &legend);

    let _ = writeln!(out, "<g transform=\"translate(0 {head})\">");
    for points in &layout.edges {
        draw_edge(&mut out, points);
    }
    for (node, placed) in graph.nodes.iter().zip(&layout.nodes) {
        if layout.compact {
            draw_small_card(&mut out, node, placed);
        } else {
            draw_card(&mut out, node, placed);
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// The statuses that occur, each with its count in words.
fn legend(graph: &Graph) -> Vec<(StepStatus, String)> {
    let mut counts: BTreeMap<StepStatus, usize> = BTreeMap::new();
    for status in graph.nodes.iter().filter_map(|node| node.status) {
        *counts.entry(status).or_default() += 1;
    }
    let words = |status: StepStatus| {
        counts.get(&status).map(|count| (status, format!("{count} {}", status.as_str())))
    };
    LEGEND.into_iter().filter_map(words).collect()
}

/// What a reader who cannot see the picture should know.
fn description(graph: &Graph, layout: &Layout, legend: &[(StepStatus, String)]) -> String {
    let columns = layout.nodes.iter().map(|placed| placed.layer + 1).max().unwrap_or(0);
    let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let mut text = format!(
        "A graph of steps, from left to right: {}, {}, {}.",
        count(graph.nodes.len(), "step"),
        count(graph.edges.len(), "dependency").replace("dependencys", "dependencies"),
        count(columns, "column"),
    );
    if !legend.is_empty() {
        let words: Vec<&str> = legend.iter().map(|(_, words)| words.as_str()).collect();
        let _ = write!(text, " Steps by status: {}.", words.join(", "));
    }
    text
}

/// The arrowhead, and the sign of every status in use: 16 pixels across, around the origin. Browsers style what
/// `<use>` shows as a tree of its own, so the classes of signs are styled without naming an ancestor.
fn definitions(out: &mut String, legend: &[(StepStatus, String)]) {
    out.push_str("<defs>\n<marker id=\"orch-tip\" markerUnits=\"userSpaceOnUse\" markerWidth=\"8\" ");
    out.push_str("markerHeight=\"8\" refX=\"2\" refY=\"4\" orient=\"auto\">");
    out.push_str("<path class=\"tip\" d=\"M0.5 0.5 8 4 0.5 7.5 2 4z\"/></marker>\n");
    for (status, _) in legend {
        let _ = writeln!(out, "<g id=\"orch-{}\">{}</g>", status.as_str(), sign(*status));
    }
    out.push_str("</defs>\n");
}

const fn sign(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Succeeded => {
            "<circle class=\"orch-disc\" r=\"8\"/><path class=\"orch-sign\" d=\"M-3.4 .3-1 2.7 3.6-2.3\"/>"
        }
        StepStatus::Failed => {
            "<circle class=\"orch-disc\" r=\"8\"/><path class=\"orch-sign\" d=\"M-2.7-2.7 2.7 2.7M2.7-2.7-2.7 2.7\"/>"
        }
        StepStatus::Running => {
            "<circle class=\"orch-disc\" r=\"8\"/><path class=\"orch-solid\" d=\"M-2.3-3.9 4.1 0-2.3 3.9z\"/>"
        }
        StepStatus::Waiting => {
            "<circle class=\"orch-disc\" r=\"8\"/><path class=\"orch-sign\" d=\"M0-4.2V.4L2.9 2.2\"/>"
        }
        StepStatus::Parked => {
            "<circle class=\"orch-disc\" r=\"8\"/><path class=\"orch-sign\" d=\"M-2.1-2.8V2.8M2.1-2.8V2.8\"/>"
        }
        StepStatus::Queued => {
            "<circle class=\"orch-ring\" r=\"7.2\"/><path class=\"orch-disc\" d=\"M-4.7-1h2v2h-2zM-1-1h2v2h-2zM2.7-1h2v2h-2z\"/>"
        }
        StepStatus::Pending => "<circle class=\"orch-ring\" r=\"7.2\" stroke-dasharray=\"2.6 1.92\"/>",
        StepStatus::Skipped => {
            "<circle class=\"orch-ring\" r=\"7.2\"/><path class=\"orch-disc\" d=\"M-3.7-3 0 0-3.7 3zM0-3 3.7 0 0 3z\"/>"
        }
        StepStatus::Cancelled => {
            "<circle class=\"orch-ring\" r=\"7.2\"/><path class=\"orch-ring\" d=\"M-4.6-4.6 4.6 4.6\"/>"
        }
    }
}

fn legend_step(words: &str) -> i64 {
    24 + width(words, DETAIL) + 18
}

fn draw_legend(out: &mut String, legend: &[(StepStatus, String)]) {
    let mut x = MARGIN;
    for (status, words) in legend {
        let word = status.as_str();
        let _ = write!(out, "<use class=\"{word}\" href=\"#orch-{word}\" x=\"{}\" y=\"66\"/>", x + 8);
        let _ = writeln!(out, "<text class=\"count\" x=\"{}\" y=\"70\">{words}</text>", x + 22);
        x += legend_step(words);
    }
}

/// One arrow: curves through the gaps, straight lines through the columns.
fn draw_edge(out: &mut String, points: &[(i64, i64)]) {
    let [(x, y), .., (last_x, _)] = points else { return };
    let before_tip = if last_x > x { last_x - TIP } else { last_x + TIP };
    let _ = write!(out, "<path class=\"edge\" d=\"M{x} {y}");
    for (at, pair) in points.windows(2).enumerate() {
        let ((x1, y1), (mut x2, y2)) = (pair[0], pair[1]);
        if at + 2 == points.len() {
            x2 = before_tip;
        }
        if y1 == y2 {
            let _ = write!(out, "H{x2}");
        } else {
            let middle = i64::midpoint(x1, x2);
            let _ = write!(out, "C{middle} {y1} {middle} {y2} {x2} {y2}");
        }
    }
    out.push_str("\" marker-end=\"url(#orch-tip)\"/>\n");
}

/// The words of a tooltip.
fn tooltip(node: &Node) -> String {
    let mut lines = vec![node.label.clone()];
    if node.id != node.label {
        lines.push(node.id.clone());
    }
    lines.push(node.caption());
    lines.retain(|line| !line.is_empty());
    escape(&lines.join(" · "))
}

/// Opens the group of a card and draws its box.
fn open_card(out: &mut String, node: &Node, placed: &Placed, size: &str, radius: i64) {
    let Placed { x, y, w, h, .. } = placed;
    let word = node.status.map_or("", StepStatus::as_str);
    let quiet = match node.status {
        Some(StepStatus::Pending | StepStatus::Skipped | StepStatus::Cancelled) => "quiet",
        _ => "",
    };
    let classes: Vec<&str> = [size, word, quiet].into_iter().filter(|class| !class.is_empty()).collect();
    let _ = write!(out, "<g class=\"{}\"><title>{}</title>", classes.join(" "), tooltip(node));
    let tinted = node.status.is_some() && quiet.is_empty();
    let rect = format!("x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{radius}\"");
    let _ = write!(out, "<rect class=\"card{}\" {rect}/>", if tinted { " tinted" } else { "" });
    if tinted {
        let _ = write!(out, "<rect class=\"glow\" {rect}/>");
    }
}

/// A card with a label above its detail and its status.
fn draw_card(out: &mut String, node: &Node, placed: &Placed) {
    let Placed { x, y, w, .. } = *placed;
    open_card(out, node, placed, "step", 10);
    let (text_x, mut room) =
        if node.status.is_some() { (x + 42, w - 42 - 14) } else { (x + 18, w - 18 - 18) };
    let label_y = if node.caption().is_empty() { y + 33 } else { y + 24 };
    let _ = write!(
        out,
        "<text class=\"label\" x=\"{text_x}\" y=\"{label_y}\">{}</text>",
        escape(&fit(&node.label, LABEL, room))
    );
    if let Some(word) = node.status.map(StepStatus::as_str) {
        let _ = write!(out, "<use href=\"#orch-{word}\" x=\"{}\" y=\"{}\"/>", x + 22, y + 28);
        let _ = write!(
            out,
            "<text class=\"word\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{word}</text>",
            x + w - 14,
            y + 42
        );
        room -= width(word, DETAIL) + 10;
    }
    if !node.detail.is_empty() {
        let detail = escape(&fit(&node.detail, DETAIL, room));
        let _ = write!(out, "<text class=\"detail\" x=\"{text_x}\" y=\"{}\">{detail}</text>", y + 42);
    }
    out.push_str("</g>\n");
}

/// A card of one line; the rest is in its tooltip.
fn draw_small_card(out: &mut String, node: &Node, placed: &Placed) {
    let Placed { x, y, w, .. } = *placed;
    open_card(out, node, placed, "small", 7);
    let text_x = if let Some(word) = node.status.map(StepStatus::as_str) {
        let _ = write!(out, "<use href=\"#orch-{word}\" x=\"{}\" y=\"{}\"/>", x + 14, y + 13);
        x + 28
    } else {
        x + 12
    };
    let label = escape(&fit(&node.label, SMALL_LABEL, x + w - 10 - text_x));
    let _ = writeln!(out, "<text class=\"label\" x=\"{text_x}\" y=\"{}\">{label}</text></g>", y + 17);
}

/// Makes `text` safe between tags and in attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
