//! Progress of a run: drawn over itself on a terminal, as plain lines elsewhere.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use orch::ledger::{Entry, Event, StepStatus};
use orch::planner::{RunState, StepRef};
use orch::{Clock as _, StepKey, SystemClock};

use super::{Out, style, words};

/// The most lines of running steps.
const LINES: usize = 10;

/// How a run is followed on the screen.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Not at all.
    None,
    /// One line per event.
    Plain,
    /// One line per running step, drawn over itself.
    Live(Box<Live>),
}

/// What stands on the terminal.
#[derive(Debug)]
pub(crate) struct Live {
    screen: MultiProgress,
    head: ProgressBar,
    more: ProgressBar,
    lines: BTreeMap<StepRef, ProgressBar>,
    notes: BTreeMap<StepKey, String>,
    color: bool,
}

impl Progress {
    /// The way that suits where standard error goes.
    pub(crate) fn new(out: &Out) -> Self {
        if out.quiet || out.json {
            Self::None
        } else if out.is_live() {
            Self::Live(Box::new(Live::new()))
        } else {
            Self::Plain
        }
    }

    /// The run is known.
    pub(crate) fn begin(&mut self, state: &RunState) {
        let run = words::short(state.key.run);
        let dag = &state.created.dag_id;
        match self {
            Self::None => {}
            Self::Plain => {
                plain(format_args!("run {run} of {dag}: {}", words::count(state.steps().len(), "step")));
            }
            Self::Live(live) => live.begin(state),
        }
    }

    /// An entry was appended; the state has it already.
    pub(crate) fn observe(&mut self, state: &RunState, entry: &Entry) {
        match self {
            Self::None => {}
            Self::Plain => {
                if let Some(line) =
                    children(state, &entry.event).unwrap_or_else(|| sentence(state, &entry.event))
                {
                    plain(format_args!("{} {line}", &entry.at.to_string()[11..19]));
                }
            }
            Self::Live(live) => live.observe(state, entry),
        }
    }

    /// Time has passed.
    pub(crate) fn draw(&mut self, state: &RunState) {
        if let Self::Live(live) = self {
            live.draw(state);
        }
    }

    /// Nothing more comes: the screen belongs to the result.
    pub(crate) fn end(&mut self) {
        if let Self::Live(live) = self {
            // A bar that is not finished would draw itself once more when it is dropped.
            live.lines.values().chain([&live.head, &live.more]).for_each(ProgressBar::finish_and_clear);
            live.screen.clear().unwrap_or_default();
        }
    }
}

fn plain(line: impl std::fmt::Display) {
    use std::io::Write as _;
    writeln!(anstream::stderr(), "{line}").unwrap_or_default();
}

impl Live {
    fn new() -> Self {
        let screen = MultiProgress::new();
        let head = screen.add(ProgressBar::new(0));
        head.set_style(template("{spinner} {prefix}  {msg}  {elapsed}"));
        let more = screen.add(ProgressBar::new_spinner());
        more.set_style(template("    {msg}"));
        let color = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
        Self { screen, head, more, lines: BTreeMap::new(), notes: BTreeMap::new(), color }
    }

    fn begin(&mut self, state: &RunState) {
        let (bold, run) = (style::BOLD, words::short(state.key.run));
        self.head.set_prefix(self.painted(&format!("{bold}{}{bold:#} {run}", state.created.dag_id)));
    }

    fn observe(&mut self, state: &RunState, entry: &Entry) {
        match &entry.event {
            Event::AttemptProgress(progress) => {
                for note in &progress.notes {
                    self.notes.insert(note.step.clone(), words::one_line(&note.note));
                }
            }
            // What went wrong stays on the screen; the rest is in the counts.
            Event::StepFailed(_) | Event::StepParked(_) | Event::StepLost(_) | Event::GateRequested(_) => {
                if let Some(line) = sentence(state, &entry.event) {
                    self.screen.println(self.painted(&line)).unwrap_or_default();
                }
            }
            _ => {}
        }
    }

    fn draw(&mut self, state: &RunState) {
        let counts = state.counts();
        let settled: u32 = StepStatus::ALL.iter().filter(|s| s.is_settled()).map(|s| counts.get(*s)).sum();
        self.head.set_message(format!("{settled}/{} steps ({})", counts.total(), words::counts(&counts)));
        self.head.tick();
        let running: Vec<StepRef> = state.running().collect();
        let shown = &running[..running.len().min(LINES)];
        self.lines.retain(|at, line| {
            let stays = shown.contains(at);
            if !stays {
                line.finish_and_clear();
            }
            stays
        });
        let now = SystemClock.now();
        for at in shown {
            let key = state.key_of(*at);
            let line = self.lines.entry(*at).or_insert_with(|| {
                let since = state.get(*at).and_then(|step| step.started_at).unwrap_or(now);
                let line = ProgressBar::new_spinner().with_elapsed(now.since(since));
                let line = self.screen.insert_before(&self.more, line);
                line.set_style(template("  {spinner} {prefix}  {elapsed}  {msg}"));
                line.set_prefix(key.to_string());
                line
            });
            if let Some(note) = self.notes.get(&key) {
                line.set_message(note.clone());
            }
            line.tick();
        }
        let hidden = running.len() - shown.len();
        self.more.set_message(if hidden > 0 { format!("… and {hidden} more") } else { String::new() });
        self.more.tick();
    }

    fn painted(&self, text: &str) -> String {
        if self.color { text.to_owned() } else { anstream::adapter::strip_str(text).to_string() }
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

/// Children that do well are worth a line a quarter, or a log drowns in a wide fan-out; nothing for any other event.
fn children(state: &RunState, event: &Event) -> Option<Option<String>> {
    match event {
        Event::StepStarted(e) if e.step.index.is_some() => Some(None),
        Event::StepSucceeded(e) if e.step.index.is_some() => {
            let parent = StepRef { child: None, ..state.find(&e.step)? };
            let map = state.get(parent)?.map.as_ref()?;
            let (done, all) = (map.settled as usize, map.children.len());
            let quarter = (done * 4 / all) > ((done - 1) * 4 / all) && done < all;
            Some(
                quarter
                    .then(|| format!("{}  {}  {done} of {all}", style::step(StepStatus::Running), e.step.id)),
            )
        }
        _ => None,
    }
}

/// An event as a line for people, if they care.
fn sentence(state: &RunState, event: &Event) -> Option<String> {
    let took = |key: &StepKey| {
        let step = state.find(key).and_then(|at| state.get(at))?;
        Some(words::span(step.ended_at?.since(step.started_at?)))
    };
    let again = |attempt: u32| if attempt > 1 { format!("  attempt {attempt}") } else { String::new() };
    let (status, key, rest) = match event {
        Event::StepStarted(e) => (StepStatus::Running, &e.step, again(e.attempt)),
        Event::StepSucceeded(e) => {
            let rest = took(&e.step).map_or_else(String::new, |took| format!("  {took}"));
            (StepStatus::Succeeded, &e.step, rest)
        }
        Event::StepFailed(e) => {
            let retry = if e.retry_at.is_some() { "; it is tried again" } else { "" };
            let message = words::one_line(&e.message);
            (StepStatus::Failed, &e.step, format!("  attempt {}: {}: {message}{retry}", e.attempt, e.code))
        }
        Event::StepParked(e) => {
            (StepStatus::Parked, &e.step, format!("  {}: {}", e.code, words::one_line(&e.message)))
        }
        Event::StepLost(e) => {
            (StepStatus::Failed, &e.step, format!("  attempt {} was lost with its process", e.attempt))
        }
        Event::StepSkipped(e) => (StepStatus::Skipped, &e.step, format!("  {}", words::one_line(&e.reason))),
        Event::StepCancelled(e) => (StepStatus::Cancelled, &e.step, String::new()),
        Event::StepWaiting(e) => (StepStatus::Waiting, &e.step, String::new()),
        Event::GateRequested(e) => (StepStatus::Waiting, &e.step, "  for a verdict".to_owned()),
        _ => return None,
    };
    Some(format!("{}  {key}{rest}", style::step(status)))
}
