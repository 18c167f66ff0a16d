//! Progress of a run: drawn over itself on a terminal, as plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::Write as _;

use console::Term;
use orch::ledger::{Entry, Event, StepStatus};
use orch::planner::{RunState, StepRef, StepState};
use orch::{Clock as _, StepKey, SystemClock};

use super::tell::{Failures, children, sentence};
use super::{Out, style, words};

/// The most lines of steps.
const LINES: usize = 10;
/// Signs of life.
const BEATS: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// How something is followed on the screen.
#[derive(Debug)]
pub(crate) struct Progress {
    screen: Screen,
    failures: Failures,
    /// What the steps said last.
    notes: BTreeMap<StepKey, String>,
    /// What was last said of the store.
    trouble: Option<String>,
}

#[derive(Debug)]
enum Screen {
    /// Nothing is shown.
    None,
    /// One line per event.
    Plain,
    /// Lines drawn over themselves.
    Live(Box<Live>),
}

/// What stands on the terminal: lines that are never wider than it.
#[derive(Debug)]
struct Live {
    term: Term,
    rows: Vec<String>,
    /// How many of them stand there.
    drawn: usize,
    beat: usize,
    color: bool,
}

impl Progress {
    /// The way that suits where standard error goes.
    pub(crate) fn new(out: &Out) -> Self {
        let screen = if out.quiet || out.json {
            Screen::None
        } else if out.is_live() {
            Screen::Live(Box::new(Live::new()))
        } else {
            Screen::Plain
        };
        Self { screen, failures: Failures::default(), notes: BTreeMap::new(), trouble: None }
    }

    /// The run is known.
    pub(crate) fn begin(&self, state: &RunState) {
        if let Screen::Plain = self.screen {
            let (run, dag) = (words::short(state.key.run), &state.created.dag_id);
            plain(format_args!("run {run} of {dag}: {}", words::count(state.steps().len(), "step")));
        }
    }

    /// An entry was appended; the state has it already.
    pub(crate) fn observe(&mut self, state: &RunState, entry: &Entry) {
        let event = &entry.event;
        match &mut self.screen {
            Screen::None => {}
            Screen::Plain => {
                let line = children(state, event).unwrap_or_else(|| sentence(state, event));
                if let Some(line) = line.and_then(|line| self.failures.told(event, line)) {
                    plain(format_args!("{} {line}", &entry.at.to_string()[11..19]));
                }
            }
            Screen::Live(live) => match event {
                Event::AttemptProgress(progress) => {
                    for note in &progress.notes {
                        self.notes.insert(note.step.clone(), words::one_line(&note.note));
                    }
                }
                // What went wrong stays on the screen; the rest is in the counts.
                Event::StepFailed(_)
                | Event::StepParked(_)
                | Event::StepLost(_)
                | Event::GateRequested(_) => {
                    let line = sentence(state, event);
                    if let Some(line) = line.and_then(|line| self.failures.told(event, line)) {
                        live.print(&line);
                    }
                }
                _ => {}
            },
        }
    }

    /// Says something that stays on the screen.
    pub(crate) fn say(&mut self, text: &str) {
        match &mut self.screen {
            Screen::None => {}
            Screen::Plain => plain(text),
            Screen::Live(live) => live.print(text),
        }
    }

    /// Says something that a terminal shows anyhow.
    pub(crate) fn log(&self, text: &str) {
        if let Screen::Plain = self.screen {
            plain(text);
        }
    }

    /// Prints something of the answer, which may go to the same terminal.
    pub(crate) fn aside(&mut self, print: impl FnOnce()) {
        match &mut self.screen {
            Screen::None | Screen::Plain => print(),
            Screen::Live(live) => live.over(|term| {
                term.flush()?;
                print();
                Ok(())
            }),
        }
    }

    /// Time has passed; the store may be in trouble.
    pub(crate) fn draw(&mut self, state: &RunState, trouble: Option<String>) {
        if let Screen::Live(_) = self.screen {
            let mut rows = vec![head(state)];
            rows.extend(bounded(self.rows(state)));
            self.show(rows, trouble);
        } else {
            self.show(Vec::new(), trouble);
        }
    }

    /// Lines to stand on a terminal, and what the store suffers from: a line there, told once elsewhere.
    pub(crate) fn show(&mut self, mut rows: Vec<String>, trouble: Option<String>) {
        let said = trouble.as_ref().map(|trouble| {
            let style = style::WARNING;
            let trouble = words::one_line(trouble);
            format!("{style}⚠{style:#} {trouble}; trying again")
        });
        match &mut self.screen {
            Screen::None => {}
            Screen::Plain => {
                if let Some(said) = said.filter(|_| trouble != self.trouble) {
                    plain(said);
                }
            }
            Screen::Live(live) => {
                rows.extend(said);
                live.show(rows);
            }
        }
        self.trouble = trouble;
    }

    /// Nothing more comes: the screen belongs to the result.
    pub(crate) fn end(&mut self) {
        if let Screen::Live(live) = &mut self.screen {
            live.end();
        }
    }

    /// A line for each step that is under way, in the order of the plan.
    fn rows(&self, state: &RunState) -> Vec<String> {
        let now = SystemClock.now();
        let row = |(at, step): (StepRef, &StepState)| {
            let key = state.key_of(at);
            if step.map.is_some() && !step.status.is_settled() {
                return Some(format!("  {key}  {}", spread(step)));
            }
            let since = step.started_at.filter(|_| step.status == StepStatus::Running)?;
            let note = self.notes.get(&key).map_or_else(String::new, |note| format!("  {note}"));
            Some(format!("  {key}  {}{note}", words::span(now.since(since))))
        };
        (0..).map(StepRef::top).zip(state.steps()).filter_map(row).collect()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn head(state: &RunState) -> String {
    let (bold, run, counts) = (style::BOLD, words::short(state.key.run), state.counts());
    let (dag, took) = (&state.created.dag_id, SystemClock.now().since(state.created_at));
    let (settled, all) = (words::settled(&counts), counts.total());
    format!(
        "{bold}{dag}{bold:#} {run}  {settled}/{all} steps  {}  ({})",
        words::span(took),
        words::counts(&counts)
    )
}

/// How far the children of a step are.
fn spread(step: &StepState) -> String {
    let Some(map) = &step.map else { return String::new() };
    let mut text = format!("{}/{}", map.settled, map.children.len());
    let running = map.children.iter().filter(|child| child.status == StepStatus::Running).count();
    for (count, word) in [(running, "running"), (map.failed as usize, "failed")] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text
}

/// As many lines as there is room for, and how many there are besides.
pub(crate) fn bounded(mut rows: Vec<String>) -> Vec<String> {
    if rows.len() > LINES {
        let hidden = rows.len() - (LINES - 1);
        rows.truncate(LINES - 1);
        rows.push(format!("  … and {hidden} more"));
    }
    rows
}

fn plain(line: impl std::fmt::Display) {
    writeln!(anstream::stderr(), "{line}").unwrap_or_default();
}

impl Live {
    fn new() -> Self {
        let color = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
        Self { term: Term::buffered_stderr(), rows: Vec::new(), drawn: 0, beat: 0, color }
    }

    /// Draws these lines instead of those that stand there, the first one with a sign of life.
    fn show(&mut self, rows: Vec<String>) {
        self.rows = rows;
        self.beat = (self.beat + 1) % BEATS.len();
        self.over(|_| Ok(()));
    }

    /// Prints a line above the others, cut to the width of the terminal.
    fn print(&mut self, text: &str) {
        let text = self.cut(text);
        self.over(|term| term.write_line(&text));
    }

    /// Takes the lines away, prints something else, and draws the lines below it, in one write if it is short.
    fn over(&mut self, print: impl FnOnce(&Term) -> std::io::Result<()>) {
        // A terminal that has gone away has nothing to show progress on.
        self.draw(print).unwrap_or_default();
    }

    fn draw(&mut self, print: impl FnOnce(&Term) -> std::io::Result<()>) -> std::io::Result<()> {
        // The cursor rests below the lines; what a terminal echoes there, such as `^C`, goes with them.
        self.term.clear_line()?;
        self.term.clear_last_lines(std::mem::take(&mut self.drawn))?;
        print(&self.term)?;
        for (place, row) in self.rows.iter().enumerate() {
            let row = if place == 0 { format!("{} {row}", BEATS[self.beat]) } else { row.clone() };
            self.term.write_line(&self.cut(&row))?;
        }
        self.drawn = self.rows.len();
        self.term.flush()
    }

    /// Takes the lines away for good.
    fn end(&mut self) {
        if self.drawn > 0 {
            self.rows.clear();
            self.over(|_| Ok(()));
        }
    }

    /// A text that is no wider than the terminal, in colour where that is wanted.
    fn cut(&self, text: &str) -> String {
        let text = console::truncate_str(text, usize::from(self.term.size().1), "…");
        if self.color { text.into_owned() } else { anstream::adapter::strip_str(&text).to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_lines_than_room_for_them() {
        let rows = |count: usize| bounded((0..count).map(|n| n.to_string()).collect());
        assert_eq!(rows(LINES).len(), LINES);
        let cut = rows(LINES + 5);
        assert_eq!((cut.len(), cut.last().unwrap().as_str()), (LINES, "  … and 6 more"));
    }
}
