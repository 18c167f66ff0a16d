//! Problems of a document, shown in its text.

use anstyle::{AnsiColor, Style};
use orch::spec::{Diagnostic, Diagnostics};

pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(crate) const HELP: Style = AnsiColor::Cyan.on_default().bold();
const FRAME: Style = AnsiColor::Blue.on_default();

/// The most characters of a line that are shown.
const WIDTH: usize = 100;

/// All problems with their places, the line each stands in, and what to do.
pub(crate) fn report(diagnostics: &Diagnostics, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut report = String::new();
    for problem in &diagnostics.problems {
        report.push_str(&one(&diagnostics.file, problem, lines.get(problem.line.saturating_sub(1)).copied()));
    }
    let count = diagnostics.problems.len();
    let problems = if count == 1 { "problem" } else { "problems" };
    report.push_str(&format!("{ERROR}{}{ERROR:#}: {count} {problems}", diagnostics.file));
    report
}

fn one(file: &str, problem: &Diagnostic, line: Option<&str>) -> String {
    let Diagnostic { code, message, line: number, column, hint, .. } = problem;
    let gutter = number.to_string().len();
    let mut text = format!("{file}:{number}:{column}: {ERROR}error[{code}]{ERROR:#}: {message}\n");
    if let Some(line) = line.filter(|line| !line.trim().is_empty()) {
        let (shown, at) = excerpt(line, *column);
        text.push_str(&format!("{FRAME}{:gutter$} |{FRAME:#}\n", ""));
        text.push_str(&format!("{FRAME}{number} |{FRAME:#} {shown}\n"));
        text.push_str(&format!("{FRAME}{:gutter$} |{FRAME:#} {:at$}{ERROR}^{ERROR:#}\n", "", ""));
    }
    if let Some(hint) = hint {
        text.push_str(&format!("{FRAME}{:gutter$} ={FRAME:#} {HELP}hint{HELP:#}: {hint}\n", ""));
    }
    text.push('\n');
    text
}

/// The part of a line around a column, harmless to a terminal, and where the column is in it.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let at = column.saturating_sub(1);
    let skipped = if at >= WIDTH { at - WIDTH / 2 } else { 0 };
    let part: String = line.chars().skip(skipped).take(WIDTH).map(harmless).collect();
    if skipped > 0 { (format!("…{part}"), at - skipped + 1) } else { (part, at) }
}

/// A character that moves no cursor and sets no colour.
fn harmless(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let line = format!("{}x{}", "a".repeat(500), "b".repeat(500));
        let (shown, at) = excerpt(&line, 501);
        assert_eq!(shown.chars().nth(at), Some('x'));
        assert!(shown.chars().count() <= WIDTH + 1);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(excerpt("a\u{1b}[31m\tb", 1), ("a [31m b".to_owned(), 0));
    }
}
