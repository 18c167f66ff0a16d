//! `orch work`: carry on every run that has not ended.

use std::collections::BTreeMap;
use std::time::Duration;

use orch::RunId;
use orch::ledger::RunStatus;
use orch::store::{RunRow, RunsQuery};
use serde_json::json;

use crate::args::{Globals, WorkArgs};
use crate::carry::{self, Interrupts};
use crate::connect::{Mode, Session};
use crate::fault::{Fault, Result};
use crate::output::live::{self, Progress};
use crate::output::{Out, style, words};

/// How often it is looked which runs there are.
const LOOK: Duration = Duration::from_millis(500);

/// Carries runs on until Ctrl-C, or until nothing goes on by itself.
pub(crate) async fn work(globals: &Globals, out: &Out, until_idle: bool, work: &WorkArgs) -> Result<()> {
    if work.no_work {
        return Err(Fault::said("`orch work` does nothing but work; leave --no-work out"));
    }
    let session = Session::open(globals, Mode::Work(work)).await?;
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new(out);
    let mut open: BTreeMap<RunId, u32> = BTreeMap::new();
    loop {
        let unfinished = unfinished(&session).await?;
        for row in &unfinished {
            let quarter = words::settled(&row.steps) * 4 / row.steps.total().max(1);
            let before = open.insert(row.run, quarter);
            if before.is_some_and(|before| before < quarter) {
                progress.log(&line(row));
            }
            if before.is_none() {
                progress.say(&format!(
                    "{} {} run {}",
                    style::run(row.status),
                    row.dag,
                    words::short(row.run)
                ));
            }
        }
        report_ended(&session, out, &mut progress, &mut open, &unfinished).await?;
        progress.show(live::bounded(unfinished.iter().map(line).collect()), session.orch.stats().trouble);
        if until_idle && is_idle(&session, &unfinished).await? {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = interrupts.next() => break,
        }
    }
    progress.end();
    carry::finish(session, out, &mut interrupts).await;
    Ok(())
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
        open.remove(&run);
        let row = session.orch.run(&session.who, run).await?;
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
