//! What a status looks like: colour, symbol and word, so that none of the three is needed to understand it.

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Color};
use orch::ledger::{RunStatus, StepStatus};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const DIM: Style = Style::new().dimmed();

#[derive(Clone, Copy)]
struct Look {
    symbol: &'static str,
    color: AnsiColor,
}

const fn look(symbol: &'static str, color: AnsiColor) -> Look {
    Look { symbol, color }
}

fn of_step(status: StepStatus) -> Look {
    match status {
        StepStatus::Pending => look("·", AnsiColor::BrightBlack),
        StepStatus::Queued => look("○", AnsiColor::BrightBlack),
        StepStatus::Running => look("▶", AnsiColor::Blue),
        StepStatus::Waiting => look("◷", AnsiColor::Yellow),
        StepStatus::Succeeded => look("✓", AnsiColor::Green),
        StepStatus::Failed => look("✗", AnsiColor::Red),
        StepStatus::Skipped => look("↷", AnsiColor::BrightBlack),
        StepStatus::Parked => look("‖", AnsiColor::Magenta),
        StepStatus::Cancelled => look("⊘", AnsiColor::Yellow),
    }
}

fn of_run(status: RunStatus) -> Look {
    of_step(match status {
        RunStatus::Pending => StepStatus::Pending,
        RunStatus::Running => StepStatus::Running,
        RunStatus::Paused => StepStatus::Parked,
        RunStatus::Completed => StepStatus::Succeeded,
        RunStatus::Failed => StepStatus::Failed,
        RunStatus::Cancelled => StepStatus::Cancelled,
    })
}

fn painted(look: Look, word: &str) -> String {
    let style = look.color.on_default();
    format!("{style}{} {word}{style:#}", look.symbol)
}

fn cell(look: Look, word: &str) -> Cell {
    let color = match look.color {
        AnsiColor::Red => Color::DarkRed,
        AnsiColor::Green => Color::DarkGreen,
        AnsiColor::Yellow => Color::DarkYellow,
        AnsiColor::Blue => Color::DarkBlue,
        AnsiColor::Magenta => Color::DarkMagenta,
        _ => Color::DarkGrey,
    };
    Cell::new(format!("{} {word}", look.symbol)).fg(color)
}

/// A step's status within a line.
pub(crate) fn step(status: StepStatus) -> String {
    painted(of_step(status), status.as_str())
}

/// A step's status as its symbol alone, before words that say the rest.
pub(crate) fn symbol(status: StepStatus) -> String {
    let look = of_step(status);
    let style = look.color.on_default();
    format!("{style}{}{style:#}", look.symbol)
}

/// A run's status within a line.
pub(crate) fn run(status: RunStatus) -> String {
    painted(of_run(status), status.as_str())
}

/// A step's status in a table.
pub(crate) fn step_cell(status: StepStatus) -> Cell {
    cell(of_step(status), status.as_str())
}

/// A run's status in a table.
pub(crate) fn run_cell(status: RunStatus) -> Cell {
    cell(of_run(status), status.as_str())
}

/// A finding that is as it should be, could be better, or is not.
pub(crate) fn finding(good: bool, warning: bool) -> Cell {
    match (good, warning) {
        (true, false) => cell(of_step(StepStatus::Succeeded), "ok"),
        (true, true) => cell(of_step(StepStatus::Parked), "warning"),
        (false, _) => cell(of_step(StepStatus::Failed), "problem"),
    }
}
