//! What a run gives: the outputs of its final steps, as people read them.

use orch::Payload;
use orch::planner::RunState;
use serde_json::Value;

use super::{style, words};

/// The most lines of one output.
const LINES: usize = 20;
/// The most bytes of one output.
const BYTES: usize = 2 << 10;
/// The most outputs.
const OUTPUTS: usize = 10;

/// The outputs of the final steps, or nothing when there are none that say something.
pub(crate) fn outputs(state: &RunState) -> Option<String> {
    let spoken = |step: &str| {
        let position = state.plan.position(step)?;
        // What `fn/write` made is in the table of artifacts.
        (state.plan.step(position).uses.to_string() != "fn/write").then_some(())
    };
    let outputs = state.outputs();
    let mut said = outputs
        .iter()
        .filter(|(step, output)| !is_silent(output.payload()) && spoken(step).is_some())
        .map(|(step, output)| one(step, output.payload()));
    let mut blocks: Vec<(String, bool)> = said.by_ref().take(OUTPUTS).collect();
    let (dim, run) = (style::DIM, words::short(state.key.run));
    let more = said.count();
    let cut = more > 0 || blocks.iter().any(|(_, cut)| *cut);
    if more > 0 {
        blocks.push((format!("{dim}… and the outputs of {}{dim:#}", words::count(more, "more step")), true));
    }
    if cut {
        blocks.push((format!("{dim}all of it: orch runs show {run} --json{dim:#}"), false));
    }
    let blocks: Vec<String> = blocks.into_iter().map(|(block, _)| block).collect();
    (!blocks.is_empty()).then(|| blocks.join("\n"))
}

/// Whether an output says nothing: null, or a list of nothing but that.
fn is_silent(output: &Payload) -> bool {
    match output.to_value() {
        Value::Array(items) => items.iter().all(Value::is_null),
        value => value.is_null(),
    }
}

/// One output, and whether it was cut: on the line of its step when it is short, else below it.
fn one(step: &str, output: &Payload) -> (String, bool) {
    let bold = style::BOLD;
    let (lines, cut) = bounded(&pretty(&output.to_value()));
    let mut text = match &lines[..] {
        [line] if line.chars().count() <= 100 => format!("{bold}{step}{bold:#}: {line}"),
        _ => format!("{bold}{step}{bold:#}:\n  {}", lines.join("\n  ")),
    };
    if cut {
        let dim = style::DIM;
        text.push_str(&format!("\n  {dim}… of {}{dim:#}", words::size(output.len() as u64)));
    }
    (text, cut)
}

/// Text as text, also that of a process; anything else as JSON.
fn pretty(value: &Value) -> String {
    let printed =
        value.as_object().filter(|object| object.len() == 1).and_then(|object| object.get("stdout"));
    match printed.unwrap_or(value) {
        Value::String(text) => text.trim_end().to_owned(),
        _ => format!("{value:#}"),
    }
}

fn bounded(text: &str) -> (Vec<String>, bool) {
    let (mut lines, mut left) = (Vec::new(), BYTES);
    for line in text.split('\n') {
        if lines.len() == LINES || (left == 0 && !line.is_empty()) {
            return (lines, true);
        }
        let end = line.floor_char_boundary(left);
        lines.push(words::harmless(&line[..end]));
        left = left.saturating_sub(line.len() + 1);
        if end < line.len() {
            return (lines, true);
        }
    }
    (lines, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: &Value) -> (String, bool) {
        let (text, cut) = one("s", &Payload::new(value).unwrap());
        (anstream::adapter::strip_str(&text).to_string(), cut)
    }

    #[test]
    fn short_outputs_stand_beside_their_step_and_text_is_text() {
        assert_eq!(of(&json!("hello")), ("s: hello".to_owned(), false));
        assert_eq!(of(&json!({ "stdout": "1\n2\n" })), ("s:\n  1\n  2".to_owned(), false));
        assert_eq!(of(&json!([1])), ("s:\n  [\n    1\n  ]".to_owned(), false));
    }

    #[test]
    fn long_outputs_are_cut_at_lines_and_bytes_and_steer_no_terminal() {
        let (text, cut) = of(&json!("x\n".repeat(30)));
        assert!(cut && text.lines().count() == LINES + 2, "{text}");
        let (text, cut) = of(&json!("é".repeat(3_000)));
        assert!(cut && text.len() < BYTES + 100);
        assert_eq!(of(&json!("a\u{1b}[31m")).0, "s: a[31m");
    }
}
