//! `orch plan` and `orch graph`: what can be known of a document before it runs.

use std::path::Path;

use orch::graph::{Graph, layout, to_dot, to_mermaid, to_svg};
use orch::planner::Plan;

use crate::args::GraphFormat;
use crate::connect;
use crate::fault::{Fault, Result};
use crate::functions;
use crate::inputs;
use crate::output::table::{table, text};
use crate::output::{Out, style, words};

/// Shows the order of the steps.
pub(crate) fn plan(out: &Out, file: &Path) -> Result<()> {
    let dag = inputs::document(file)?;
    let warnings = functions::unknown(&dag);
    let plan = Plan::new(dag, &connect::limits())?;
    print_plan(out, &plan)?;
    warnings.iter().for_each(|warning| out.warn(warning));
    Ok(())
}

/// Prints a plan.
pub(crate) fn print_plan(out: &Out, plan: &Plan) -> Result<()> {
    let summary = plan.summary()?;
    if out.json {
        out.document(&summary);
        return Ok(());
    }
    let mut rows = table(&["#", "STEP", "USES", "NEEDS", "STEP HASH"]);
    for ((number, step), spec) in (1..).zip(&summary.steps).zip(plan.steps()) {
        let needs: Vec<&str> = step.needs.iter().map(|need| need.as_str()).collect();
        rows.add_row([
            format!("{number}"),
            step.id.to_string(),
            spec.uses.to_string(),
            needs.join(", "),
            step.step_hash.to_string()[..words::SHORT].to_owned(),
        ]);
    }
    let bold = style::BOLD;
    out.line(format_args!("{bold}{}{bold:#}  plan {}", summary.dag_id, summary.plan_hash));
    out.line(text(&rows));
    Ok(())
}

/// Draws a document.
pub(crate) fn graph(out: &Out, file: &Path, format: GraphFormat, output: Option<&Path>) -> Result<()> {
    let graph = Graph::of_dag(&inputs::document(file)?);
    if out.json {
        out.document(&graph);
        return Ok(());
    }
    let picture = match format {
        GraphFormat::Svg => to_svg(&graph, &layout(&graph)),
        GraphFormat::Dot => to_dot(&graph),
        GraphFormat::Mermaid => to_mermaid(&graph),
    };
    write(out, output, picture.as_bytes())
}

/// Writes an answer to a file, or to standard output.
pub(crate) fn write(out: &Out, output: Option<&Path>, bytes: &[u8]) -> Result<()> {
    let Some(path) = output else {
        out.bytes(bytes);
        return Ok(());
    };
    std::fs::write(path, bytes)
        .map_err(|cause| Fault::said(format!("{} cannot be written: {cause}", path.display())))?;
    out.note(format_args!("wrote {} ({})", path.display(), words::size(bytes.len() as u64)));
    Ok(())
}
