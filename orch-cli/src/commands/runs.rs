//! `orch runs`.

use orch::engine::Submitted;
use orch::planner::Operation;
use orch::store::{RunRow, RunsQuery};
use orch::{Clock as _, RunId, SystemClock};
use serde_json::json;

use crate::args::{Globals, RunsCommand, WorkArgs};
use crate::carry::{self, Verdict};
use crate::connect::{Mode, Session};
use crate::fault::{Advise as _, FAILED, Fault, Result};
use crate::output::live::Progress;
use crate::output::table::{table, text};
use crate::output::{Out, run as show, style, words};
use crate::select;

use super::run::advice;
use super::{look, prove};

/// The most runs of sub-DAGs that are named.
const CHILD_RUNS: usize = 10;

pub(crate) async fn execute(globals: &Globals, out: &Out, command: RunsCommand) -> Result<()> {
    match command {
        RunsCommand::List { dag, status, limit } => {
            let session = Session::open(globals, Mode::Look).await?;
            let query = RunsQuery { dag, status, ..RunsQuery::all(session.who.tenant.clone()) };
            let (rows, more) = rows(&session, query, limit).await?;
            session.close().await;
            list(out, &rows, more);
            Ok(())
        }
        RunsCommand::Show { run } => {
            let session = Session::open(globals, Mode::Look).await?;
            let run = select::run(&session, &run).await?;
            let state = session.orch.inspect(&session.who, run).await?;
            let needs = carry::needs(&session, &state).await?.unwrap_or_default();
            let reused = carry::reused(&session, run).await?;
            session.close().await;
            if !out.json {
                out.line(heading(&state));
                out.line("");
            }
            show::result(out, &state, &reused, &needs, None);
            Ok(())
        }
        RunsCommand::Events { run, after, follow } => events(globals, out, &run, after, follow).await,
        RunsCommand::Logs { run, step } => look::logs(globals, out, &run, step.as_ref()).await,
        RunsCommand::Watch { run } => watch(globals, out, &run).await,
        RunsCommand::Cancel { run, work } => {
            let (session, run) = begin(globals, &run, Mode::of(&work)).await?;
            let row = session.desk.operate(run, Operation::Cancel).await?;
            go_on(session, out, &row, "cancelled", &work).await
        }
        RunsCommand::Pause { run } => {
            let (session, run) = begin(globals, &run, Mode::Record).await?;
            let row = session.desk.operate(run, Operation::Pause).await?;
            recorded(out, "held", &row);
            session.close().await;
            Ok(())
        }
        RunsCommand::Resume { run, work } => {
            let (session, run) = begin(globals, &run, Mode::of(&work)).await?;
            let row = session.desk.operate(run, Operation::Resume).await?;
            go_on(session, out, &row, "resumed", &work).await
        }
        RunsCommand::Retry { run, steps, work } => {
            let (session, run) = begin(globals, &run, Mode::of(&work)).await?;
            let row = session.desk.operate(run, Operation::Retry(steps)).await?;
            go_on(session, out, &row, "retried", &work).await
        }
        RunsCommand::Replay { run, work } => {
            let (session, run) = begin(globals, &run, Mode::of(&work)).await?;
            let Submitted { run: again, .. } = session.desk.replay(run).await.advise(advice)?;
            if work.no_work {
                return go_on(session, out, &again, "submitted", &work).await;
            }
            carry::carry_on(session, out, (again.run, 0), Verdict::Replay(run)).await
        }
        RunsCommand::Rerun { run, from, work } => {
            let (session, run) = begin(globals, &run, Mode::of(&work)).await?;
            let Submitted { run, .. } = session.desk.rerun(run, &from).await.advise(advice)?;
            go_on(session, out, &run, "submitted", &work).await
        }
        RunsCommand::Compare { left, right } => prove::compare(globals, out, &left, &right).await,
        RunsCommand::Prune { older_than } => prove::prune(globals, out, older_than).await,
    }
}

async fn begin(globals: &Globals, run: &str, mode: Mode<'_>) -> Result<(Session, RunId)> {
    let session = Session::open(globals, mode).await?;
    let run = select::run(&session, run).await?;
    Ok((session, run))
}

/// After a change was recorded: carries the run on, unless another process is to do that.
pub(crate) async fn go_on(
    session: Session,
    out: &Out,
    row: &RunRow,
    word: &str,
    work: &WorkArgs,
) -> Result<()> {
    if !work.no_work {
        return carry::carry_on(session, out, (row.run, row.head.seq), Verdict::Operation).await;
    }
    recorded(out, word, row);
    session.close().await;
    Ok(())
}

fn recorded(out: &Out, word: &str, row: &RunRow) {
    if out.json {
        out.document(row);
    } else {
        out.line(format_args!("{word} {} of {}: {}", words::short(row.run), row.dag, style::run(row.status)));
    }
}

async fn rows(session: &Session, mut query: RunsQuery, limit: usize) -> Result<(Vec<RunRow>, bool)> {
    let mut rows = Vec::new();
    loop {
        query.limit = (limit - rows.len()).clamp(1, 500);
        let page = session.orch.runs(&session.who, query.clone()).await?;
        rows.extend(page.runs);
        match page.next {
            Some(next) if rows.len() < limit => query.cursor = Some(next),
            next => {
                rows.truncate(limit);
                return Ok((rows, next.is_some()));
            }
        }
    }
}

fn list(out: &Out, rows: &[RunRow], more: bool) {
    if out.json {
        out.document(&json!({ "runs": rows, "more": more }));
        return;
    }
    if rows.is_empty() {
        out.note("there are no such runs");
        return;
    }
    let now = SystemClock.now();
    let mut shown = table(&["RUN", "DAG", "STATUS", "CREATED", "TOOK", "BY", "STEPS"]);
    for row in rows {
        let took = row.ended_at.map_or_else(|| "–".to_owned(), |at| words::span(at.since(row.created_at)));
        let version = row.dag_version.map_or_else(String::new, |version| format!("@{version}"));
        shown.add_row([
            words::short(row.run).into(),
            format!("{}{version}", row.dag).into(),
            style::run_cell(row.status),
            words::relative(row.created_at, now).into(),
            took.into(),
            words::one_line(&row.actor).into(),
            comfy_table::Cell::from(words::counts(&row.steps)),
        ]);
    }
    out.line(text(&shown));
    if more {
        out.note("there are more; --limit shows them");
    }
}

/// What a run is, before where it stands.
fn heading(state: &orch::planner::RunState) -> String {
    let (created, now) = (&state.created, SystemClock.now());
    let version =
        created.dag_version.map_or_else(|| "unpublished".to_owned(), |version| format!("version {version}"));
    let mut rows = vec![
        ("run", state.key.run.to_string()),
        ("dag", format!("{} ({version})", created.dag_id)),
        ("by", format!("{}, {}", words::one_line(&state.actor), words::relative(state.created_at, now))),
        ("created", state.created_at.to_string()),
        ("token", words::one_line(&created.run_token)),
        ("inputs", shortened(created.inputs.as_str())),
        ("plan", created.plan_hash.to_string()),
    ];
    if let Some(why) = &created.rationale {
        rows.push(("why", words::one_line(why)));
    }
    if let Some(sandbox) = &created.sandbox {
        rows.push(("sandbox", words::one_line(sandbox)));
    }
    if let Some(replayed) = created.replay_of {
        rows.push(("replays", replayed.to_string()));
    }
    if let Some(parent) = &created.parent {
        rows.push(("part of", format!("{}, step {}", parent.run, parent.step)));
    }
    let children: Vec<String> = show::child_runs(state)
        .map(|(step, run)| format!("{run}, step {step}"))
        .take(CHILD_RUNS + 1)
        .collect();
    rows.extend(children.iter().take(CHILD_RUNS).map(|child| ("has part", child.clone())));
    if children.len() > CHILD_RUNS {
        rows.push(("", "… and more; --json names them all".to_owned()));
    }
    let dim = style::DIM;
    let lines: Vec<String> =
        rows.iter().map(|(name, value)| format!("{dim}{name:<8}{dim:#} {value}")).collect();
    lines.join("\n")
}

fn shortened(text: &str) -> String {
    let line: String = words::one_line(text).chars().take(160).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}

async fn events(globals: &Globals, out: &Out, run: &str, after: u64, follow: bool) -> Result<()> {
    let (session, run) = begin(globals, run, Mode::Look).await?;
    let mut events = session.orch.events(&session.who, run, after, follow);
    while let Some((entry, line)) = events.next().await? {
        if out.json {
            out.bytes(format!("{line}\n").as_bytes());
        } else {
            let (dim, actor) = (style::DIM, words::one_line(&entry.actor));
            let data = serde_json::from_str::<serde_json::Value>(&line).ok();
            let data = data.and_then(|mut entry| Some(entry.get_mut("data")?.take()));
            let data = shortened(&data.unwrap_or_default().to_string());
            let (seq, at, word) = (entry.seq, entry.at, entry.event.type_name());
            out.line(format_args!("{seq:>5} {dim}{at}{dim:#} {word:<20} {actor}  {dim}{data}{dim:#}"));
        }
        if out.is_gone() {
            break;
        }
    }
    drop(events);
    session.close().await;
    Ok(())
}

async fn watch(globals: &Globals, out: &Out, run: &str) -> Result<()> {
    let (session, run) = begin(globals, run, Mode::Look).await?;
    let seen = session.orch.run(&session.who, run).await?.head.seq;
    let mut progress = Progress::new(out);
    let mut interrupts = carry::Interrupts::listen()?;
    let (state, end) =
        carry::follow(&session, (run, seen), &mut interrupts, &mut progress, carry::Patience::Held).await?;
    progress.end();
    let reused = carry::reused(&session, run).await?;
    session.close().await;
    let needs = if let carry::End::Waiting(needs) = end { needs } else { Vec::new() };
    show::result(out, &state, &reused, &needs, None);
    if state.status() == orch::ledger::RunStatus::Completed { Ok(()) } else { Err(Fault::Code(FAILED)) }
}
