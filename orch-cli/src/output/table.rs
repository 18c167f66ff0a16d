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
    let mut text: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    text.retain(|line| !line.is_empty());
    text.join("\n")
}
