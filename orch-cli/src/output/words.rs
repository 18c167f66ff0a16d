//! Times, lengths of time, sizes and ids as people read them.

use std::time::Duration;

use orch::ledger::StepCounts;
use orch::ledger::StepStatus;
use orch::{RunId, Timestamp};

/// The digits of a run id that people see.
pub(crate) const SHORT: usize = 12;

/// The beginning of a run id.
pub(crate) fn short(run: RunId) -> String {
    run.to_string()[..SHORT].to_owned()
}

/// A length of time in one or two units.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{:.1}s", span.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long ago something was, or how soon it will be.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    // To the nearest of its unit: a deadline of a day is told as 24 hours, not 23, right after it was set.
    let round = |length: Duration| {
        let seconds = (length.as_millis() + 500) / 1000;
        match seconds {
            0..60 => format!("{seconds}s"),
            60..3570 => format!("{}m", (seconds + 30) / 60),
            3570..170_000 => format!("{}h", (seconds + 1800) / 3600),
            _ => format!("{}d", (seconds + 43_200) / 86_400),
        }
    };
    if at > now { format!("in {}", round(at.since(now))) } else { format!("{} ago", round(now.since(at))) }
}

/// A number of bytes.
pub(crate) fn size(bytes: u64) -> String {
    let mut rest = bytes;
    let mut tenths = 0;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1024 || unit == "GiB" {
            return if unit == "B" { format!("{rest} B") } else { format!("{rest}.{tenths} {unit}") };
        }
        tenths = rest % 1024 * 10 / 1024;
        rest /= 1024;
    }
    format!("{bytes} B")
}

/// A number with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// How many steps are settled.
pub(crate) fn settled(counts: &StepCounts) -> u32 {
    StepStatus::ALL.iter().filter(|status| status.is_settled()).map(|status| counts.get(*status)).sum()
}

/// How many steps stand where, those that nobody asks about left out.
pub(crate) fn counts(counts: &StepCounts) -> String {
    let order = [
        StepStatus::Succeeded,
        StepStatus::Running,
        StepStatus::Queued,
        StepStatus::Waiting,
        StepStatus::Parked,
        StepStatus::Failed,
        StepStatus::Skipped,
        StepStatus::Cancelled,
        StepStatus::Pending,
    ];
    let parts: Vec<String> = order
        .iter()
        .filter(|status| counts.get(**status) > 0)
        .map(|status| format!("{} {status}", counts.get(*status)))
        .collect();
    parts.join(", ")
}

/// Text from a step on one line: nothing in it moves a cursor or sets a colour.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .collect()
}

/// A line from a step as it stands, blanks and all: nothing in it moves a cursor or sets a colour.
pub(crate) fn harmless(line: &str) -> String {
    line.replace('\t', "    ").chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_take_two_units_at_most() {
        let cases =
            [(5, "5ms"), (1_500, "1.5s"), (61_000, "1m 01s"), (7_260_000, "2h 01m"), (90_000_000, "1d 01h")];
        for (millis, text) in cases {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn instants_are_told_from_now() {
        let now = Timestamp::from_micros(1_000_000_000_000);
        assert_eq!(relative(now.plus(Duration::from_secs(90)), now), "in 2m");
        assert_eq!(relative(now.plus(Duration::from_millis(86_399_200)), now), "in 24h");
        assert_eq!(relative(now, now.plus(Duration::from_secs(7_200))), "2h ago");
    }

    #[test]
    fn sizes_are_rounded_down_to_a_tenth() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn text_of_steps_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\nb\u{1b}[31m\tc"), "a b[31m c");
    }
}
