//! `orch work`: carry on every run that has not ended.

use std::collections::BTreeMap;
use std::time::Duration;

use orch::RunId;
use orch::ledger::RunStatus;
use orch::store::{RunRow, RunsQuery};
use serde_json::json;
use tokio::time::Instant;

use crate::args::{Globals, WorkArgs};
use crate::carry::{self, Interrupts};
use crate::connect::{Mode, Session};
use crate::fault::{Fault, Result};
use crate::output::live::{self, Progress};
use crate::output::{Out, style, words};

/// How often it is looked whether anything has happened, which costs nothing.
const TICK: Duration = Duration::from_millis(500);
/// The longest rest between two looks at the runs of a store that cannot tell whether anybody has written, while this
/// process writes nothing: what others do is told so late.
const REST_MAX: Duration = Duration::from_secs(60);

/// The same where the process ends once nothing goes on by itself.
const REST_MAX_UNTIL_IDLE: Duration = Duration::from_secs(5);
/// How many times as long as a look took is rested after it, whatever has happened: where there are thousands of runs, the
/// server is there for them and not for telling of them.
const SHARE: u32 = 10;

/// When the runs are looked at: after something was written, as far as that is known, and otherwise less and less often.
#[derive(Debug)]
struct Watch {
    /// The stamp of the store and this process's appends at the last look.
    seen: Option<(Option<u64>, u64)>,
    rest: Duration,
    most: Duration,
    next: Instant,
    /// No look before that.
    earliest: Instant,
    /// The last look got no answer.
    failing: bool,
}

impl Watch {
    fn new(most: Duration) -> Self {
        Self { seen: None, rest: TICK, most, next: Instant::now(), earliest: Instant::now(), failing: false }
    }

    /// Whether it is time to look.
    fn is_due(&mut self, stamp: Option<u64>, appends: u64) -> bool {
        let (news, rested) = (self.seen != Some((stamp, appends)), Instant::now() >= self.next);
        // A store that tells has nothing to show until it says so.
        if Instant::now() < self.earliest {
            return false;
        }
        let due = if self.failing { rested } else { news || (stamp.is_none() && rested) };
        if due {
            self.rest = if news { TICK } else { (self.rest * 2).min(self.most) };
            self.next = Instant::now() + self.rest;
            self.seen = Some((stamp, appends));
            self.failing = false;
        }
        due
    }

    /// A look took so long.
    fn took(&mut self, span: Duration) {
        self.earliest = Instant::now() + span * SHARE;
    }

    /// The store did not answer: it is asked again, with or without news.
    fn failed(&mut self) {
        self.failing = true;
    }
}

/// Carries runs on until Ctrl-C, or until nothing goes on by itself.
pub(crate) async fn work(globals: &Globals, out: &Out, until_idle: bool, work: &WorkArgs) -> Result<()> {
    if work.no_work {
        return Err(Fault::said("`orch work` does nothing but work; leave --no-work out"));
    }
    let session = Session::open(globals, Mode::Work(work)).await?;
    session.warnings().iter().for_each(|warning| out.note(warning));
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new(out);
    let mut open: BTreeMap<RunId, u32> = BTreeMap::new();
    let mut watch = Watch::new(if until_idle { REST_MAX_UNTIL_IDLE } else { REST_MAX });
    let mut rows = Vec::new();
    loop {
        let stats = session.orch.stats();
        let mut trouble = stats.trouble;
        if watch.is_due(session.orch.store().stamp(), stats.appends) {
            let begun = Instant::now();
            let found = look(&session, out, &mut progress, &mut open, until_idle).await;
            watch.took(begun.elapsed());
            match found {
                Ok(unfinished) => {
                    rows = unfinished.rows.iter().map(line).collect();
                    if unfinished.idle {
                        break;
                    }
                }
                // The engine goes on as soon as the store does.
                Err(Fault::Error { error, .. }) if error.is_retryable() => {
                    watch.failed();
                    trouble = trouble.or_else(|| Some(format!("runs cannot be read: {error}")));
                }
                Err(fault) => return Err(fault),
            }
        }
        progress.show(live::bounded(rows.clone()), trouble);
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = interrupts.next() => break,
        }
    }
    progress.end();
    carry::finish(session, out, &mut interrupts).await;
    Ok(())
}

/// The runs that have not ended.
struct Unfinished {
    rows: Vec<RunRow>,
    /// It was asked whether each of them waits for a person, and each does.
    idle: bool,
}

/// Looks which runs there are and tells what is new about them.
async fn look(
    session: &Session,
    out: &Out,
    progress: &mut Progress,
    open: &mut BTreeMap<RunId, u32>,
    until_idle: bool,
) -> Result<Unfinished> {
    let rows = unfinished(session).await?;
    for row in &rows {
        let quarter = words::settled(&row.steps) * 4 / row.steps.total().max(1);
        let before = open.insert(row.run, quarter);
        if before.is_some_and(|before| before < quarter) {
            progress.log(&line(row));
        }
        if before.is_none() {
            progress.say(&format!("{} {} run {}", style::run(row.status), row.dag, words::short(row.run)));
        }
    }
    report_ended(session, out, progress, open, &rows).await?;
    let idle = until_idle && is_idle(session, &rows).await?;
    Ok(Unfinished { rows, idle })
}

/// Tells of the runs that have ended since the last look.
async fn report_ended(
    session: &Session,
    out: &Out,
    progress: &mut Progress,
    open: &mut BTreeMap<RunId, u32>,
    unfinished: &[RunRow],
) -> Result<()> {
    let ended: Vec<RunId> =
        open.keys().filter(|run| !unfinished.iter().any(|row| row.run == **run)).copied().collect();
    for run in ended {
        let row = session.orch.run(&session.who, run).await?;
        open.remove(&run);
        progress.aside(|| {
            if out.json {
                out.record(
                    &json!({ "run": row.run, "dagId": row.dag, "status": row.status, "steps": row.steps }),
                );
            } else {
                let (status, short) = (style::run(row.status), words::short(run));
                out.line(format_args!("{status} {} run {short}: {}", row.dag, words::counts(&row.steps)));
            }
        });
    }
    Ok(())
}

/// How far a run is.
fn line(row: &RunRow) -> String {
    let (run, counts) = (words::short(row.run), &row.steps);
    format!(
        "{} {run}  {}/{} steps ({})",
        row.dag,
        words::settled(counts),
        counts.total(),
        words::counts(counts)
    )
}

async fn unfinished(session: &Session) -> Result<Vec<RunRow>> {
    let mut rows = Vec::new();
    for status in RunStatus::ALL.iter().filter(|status| !status.is_terminal()) {
        let mut query = RunsQuery::all(session.who.tenant.clone());
        query.status = Some(*status);
        query.limit = 500;
        loop {
            let page = session.orch.runs(&session.who, query.clone()).await?;
            rows.extend(page.runs);
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
    }
    Ok(rows)
}

/// Whether every run waits for a person.
async fn is_idle(session: &Session, unfinished: &[RunRow]) -> Result<bool> {
    for row in unfinished {
        let state = session.orch.inspect(&session.who, row.run).await?;
        if state.ended.is_some() || carry::needs(session, &state).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
