//! `orch check`.

use std::path::PathBuf;

use orch::planner::Plan;
use orch::spec;
use serde_json::json;

use crate::connect;
use crate::fault::{FAILED, Fault, Result};
use crate::functions;
use crate::inputs;
use crate::output::{Out, source, style, words};

/// Checks every document and reports all problems.
pub(crate) fn check(out: &Out, files: &[PathBuf]) -> Result<()> {
    let limits = connect::limits();
    let mut reports = Vec::new();
    let mut bad = 0;
    for file in files {
        let name = file.display().to_string();
        let text = inputs::text(file)?;
        let mut warnings = Vec::new();
        let problems = match spec::parse(&name, &text, &limits) {
            Ok(dag) => {
                let steps = dag.steps.len();
                warnings = functions::unknown(&dag);
                let plan = Plan::new(dag, &limits)?;
                if !out.json {
                    let ok = style::symbol(orch::ledger::StepStatus::Succeeded);
                    let id = &plan.dag().id;
                    out.line(format_args!("{ok} ok {name}: {id}, {}", words::count(steps, "step")));
                    warnings.iter().for_each(|warning| out.warn(format_args!("{name}: {warning}")));
                }
                Vec::new()
            }
            Err(diagnostics) => {
                bad += 1;
                if !out.json {
                    out.error(source::report(&diagnostics, &text));
                }
                diagnostics.problems
            }
        };
        reports.push(
            json!({ "file": name, "ok": problems.is_empty(), "problems": problems, "warnings": warnings }),
        );
    }
    if out.json {
        out.document(&json!({ "ok": bad == 0, "files": reports }));
    }
    if bad == 0 { Ok(()) } else { Err(Fault::Code(FAILED)) }
}
