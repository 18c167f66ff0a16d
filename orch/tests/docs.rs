//! What the written documentation says in YAML is true: every document in it reads, checks and plans.

use std::path::Path;

use orch::Limits;
use orch::planner::Plan;

/// The fenced blocks of a language, each with the line it begins at.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, bool)> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(name)) => open = Some((number + 2, String::new(), name.trim() == language)),
            (Some(_), Some(_)) => found.extend(open.take().filter(|(.., wanted)| *wanted)),
            (Some((_, block, _)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is never closed");
    found.into_iter().map(|(line, block, _)| (line, block)).collect()
}

#[test]
fn every_document_of_the_reference_parses_and_plans() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dag-reference.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = blocks(&text, "yaml");
    assert!(blocks.len() > 5, "the reference has examples");
    let limits = Limits::default();
    for (line, block) in blocks {
        // A block without a head is a list of steps.
        let document = if block.contains("apiVersion") {
            block
        } else {
            let steps: String = block.lines().map(|line| format!("  {line}\n")).collect();
            format!("apiVersion: orch/v1\nkind: Dag\nid: fragment\nsteps:\n{steps}")
        };
        let dag = orch::spec::parse("dag-reference.md", &document, &limits)
            .unwrap_or_else(|problems| panic!("block at line {line}: {problems}"));
        Plan::new(dag, &limits).unwrap_or_else(|error| panic!("block at line {line}: {error}"));
    }
}
