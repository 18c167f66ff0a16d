//! Tables without lines: columns that stand below each other.

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};

/// An empty table with a heading.
pub(crate) fn table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        // Colour is taken out again on the way to the terminal if it is not wanted.
        .enforce_styling()
        .set_header(heading.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    // Only a terminal has a width to keep to; what is piped stays one record a line.
    if table.width().is_none() {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

/// A table as text, no blanks at the ends of lines.
pub(crate) fn text(table: &Table) -> String {
    let mut text: Vec<String> = table.lines().map(|line| trimmed(&line)).collect();
    text.retain(|line| !line.is_empty());
    text.join("\n")
}

/// Blanks at the end of a line go, also before the end of a colour.
fn trimmed(line: &str) -> String {
    let mut line = line.trim_end().to_owned();
    let mut tail = String::new();
    while let Some(at) = line.rfind('\u{1b}').filter(|at| is_style(&line[*at..])) {
        tail.insert_str(0, &line[at..]);
        line.truncate(line[..at].trim_end().len());
    }
    line + &tail
}

/// Whether a text is one SGR sequence (ECMA-48, 8.3.117) and nothing else.
fn is_style(text: &str) -> bool {
    let inner = text.strip_prefix("\u{1b}[").and_then(|rest| rest.strip_suffix('m'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_ends_in_blanks() {
        let mut rows = table(&["A", "LONG HEADING"]);
        rows.add_row(["x", "y"]);
        let plain = anstream::adapter::strip_str(&text(&rows)).to_string();
        assert_eq!(plain, " A  LONG HEADING\n x  y");
        assert_eq!(trimmed("a \u{1b}[1mb  \u{1b}[0m  "), "a \u{1b}[1mb\u{1b}[0m");
    }
}
