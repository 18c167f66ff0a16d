mod checks;
mod roundtrip;
mod shapes;

use super::check::ExpressionCheck;
use super::parse::parse_with;
use super::*;
use crate::limits::Limits;

/// Stands in for CEL: any `steps.NAME` is a reference, and `!!` is a syntax error.
struct Fake;

impl ExpressionCheck for Fake {
    fn check(&self, source: &str) -> Result<Vec<String>, (String, usize)> {
        if let Some(at) = source.find("!!") {
            return Err(("two exclamation marks".to_owned(), at));
        }
        let name = |rest: &str| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default().to_owned()
        };
        Ok(source.split("steps.").skip(1).map(name).collect())
    }
}

fn read(text: &str) -> Result<Dag, Diagnostics> {
    parse_with("x", text, &Limits::default(), &Fake)
}

/// The problems of a text, each as `line:column code path`.
fn problems(text: &str) -> Vec<String> {
    let report = read(text).expect_err("the document is wrong");
    report.problems.iter().map(|p| format!("{}:{} {} {}", p.line, p.column, p.code, p.path)).collect()
}

/// A document with these steps, which begin on line 5.
fn dag(steps: &str) -> String {
    format!("apiVersion: orch/v1\nkind: Dag\nid: d\nsteps:\n{steps}")
}
