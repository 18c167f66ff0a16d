//! Figures as a table that people read, in Markdown.

use comfy_table::{CellAlignment, Table, presets};

use crate::figure::{Aim, Figure};

/// The table, and what has to be said of some of its lines.
pub(crate) fn render(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["what", "rate", "p50", "p99", "raw limit", "ratio", "aim", "met"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for figure in figures {
        table.add_row(row(figure));
    }
    let mut text = format!("{table}\n");
    for figure in figures {
        if let Some(note) = &figure.note {
            text.push_str(&format!("\n- {}: {note}", figure.what));
        }
    }
    text
}

fn row(figure: &Figure) -> [String; 8] {
    let none = || "—".to_owned();
    let unit = figure.unit.as_str();
    let aim = figure.aim.map_or_else(none, |aim| match aim {
        Aim::AtLeast(least) => format!("≥ {}", amount(least, unit)),
        Aim::AtMost(most) => format!("≤ {}", amount(most, unit)),
    });
    let raw =
        figure.raw.as_ref().map_or_else(none, |raw| format!("{}, {}", amount(raw.value, unit), raw.what));
    let met = figure.met.map_or_else(none, |met| if met { "yes" } else { "no" }.to_owned());
    [
        figure.what.clone(),
        amount(figure.value, unit),
        figure.p50_micros.map_or_else(none, micros),
        figure.p99_micros.map_or_else(none, micros),
        raw,
        figure
            .ratio
            .map_or_else(none, |ratio| format!("{ratio:.places$}", places = if ratio < 0.1 { 3 } else { 2 })),
        aim,
        met,
    ]
}

/// A number with its unit: three digits that say something.
pub(crate) fn amount(value: f64, unit: &str) -> String {
    match unit {
        "s" if value < 1.0 => micros(value * 1e6),
        unit if value.abs() >= 1e6 => format!("{} M {unit}", digits(value / 1e6)),
        unit if value.abs() >= 1e4 => format!("{} k {unit}", digits(value / 1e3)),
        unit => format!("{} {unit}", digits(value)),
    }
}

/// A length of time.
pub(crate) fn micros(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} s", digits(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", digits(value / 1e3)),
        value => format!("{} µs", digits(value)),
    }
}

fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 || size == size.trunc() => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_their_unit() {
        for (value, unit, text) in [
            (1_234_567.0, "steps/s", "1.23 M steps/s"),
            (65_432.0, "steps/s", "65.4 k steps/s"),
            (6_300.0, "steps/s", "6300 steps/s"),
            (1.004, "commits/step", "1.00 commits/step"),
            (0.0, "calls", "0 calls"),
            (-12.0, "B", "-12 B"),
            (1.5, "s", "1.50 s"),
            (0.0203, "s", "20.3 ms"),
        ] {
            assert_eq!(amount(value, unit), text);
        }
        assert_eq!(micros(158.4), "158 µs");
        assert_eq!(micros(0.28), "0.28 µs");
        assert_eq!(micros(1_030.0), "1.03 ms");
    }

    #[test]
    fn a_table_shows_every_column_and_the_notes_below() {
        let mut figure = Figure::new("e", "engine", 60_000.0, "steps/s")
            .latencies(&mut [150.0, 100.0, 1_000.0])
            .raw("rows", 120_000.0)
            .aim(Aim::AtLeast(50_000.0))
            .note("all of it");
        figure.met = Some(true);
        let text = render(&[figure, Figure::new("m", "memory", 90.0, "MiB")]);
        let lines: Vec<&str> = text.lines().collect();
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(
            cells(lines[2]),
            [
                "engine",
                "60 k steps/s",
                "150 µs",
                "1 ms",
                "120 k steps/s, rows",
                "0.50",
                "≥ 50 k steps/s",
                "yes"
            ]
        );
        assert_eq!(cells(lines[3]), ["memory", "90 MiB", "—", "—", "—", "—", "—", "—"]);
        assert_eq!(lines.last(), Some(&"- engine: all of it"));
    }
}
