//! `orch gate` and `orch signal`: what people tell a run.

use orch::planner::{Operation, waiting_gates};
use orch::store::RunsQuery;
use orch::{Clock as _, Payload, RunId, StepKey, SystemClock, Timestamp};
use serde::Serialize;

use crate::args::{GateCommand, Globals, SignalCommand};
use crate::connect::{Mode, Session};
use crate::fault::{Fault, Result};
use crate::output::table::{table, text};
use crate::output::{Out, words};
use crate::{commands, select};

/// A gate that waits.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Gate {
    run: RunId,
    dag_id: String,
    step: StepKey,
    gate: String,
    asked: Payload,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

pub(crate) async fn gate(globals: &Globals, out: &Out, command: GateCommand) -> Result<()> {
    match command {
        GateCommand::List => list(globals, out).await,
        GateCommand::Decide { run, step, verdict, work } => {
            let session = Session::open(globals, Mode::of(&work)).await?;
            let run = select::run(&session, &run).await?;
            let approved = verdict.approves();
            let row = session.desk.operate(run, Operation::Decide { step, approved }).await?;
            let word = if approved { "approved" } else { "rejected" };
            commands::runs::go_on(session, out, &row, word, &work).await
        }
    }
}

pub(crate) async fn signal(globals: &Globals, out: &Out, command: SignalCommand) -> Result<()> {
    let SignalCommand::Send { run, name, payload, work } = command;
    let payload = Payload::parse(&payload).map_err(|error| {
        Fault::from(error).hint("what a signal carries is JSON, such as '{\"ok\": true}'")
    })?;
    let session = Session::open(globals, Mode::of(&work)).await?;
    let run = select::run(&session, &run).await?;
    let row = session.desk.operate(run, Operation::Signal { name, payload }).await?;
    commands::runs::go_on(session, out, &row, "signalled", &work).await
}

async fn list(globals: &Globals, out: &Out) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let mut gates = Vec::new();
    for status in [orch::ledger::RunStatus::Running, orch::ledger::RunStatus::Paused] {
        let mut query = RunsQuery { limit: 500, ..RunsQuery::all(session.who.tenant.clone()) };
        query.status = Some(status);
        loop {
            let page = session.orch.runs(&session.who, query.clone()).await?;
            for row in page.runs.iter().filter(|row| row.steps.waiting > 0) {
                gates.extend(waiting(&session, row.run).await?);
            }
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
    }
    session.close().await;
    if out.json {
        out.document(&gates);
        return Ok(());
    }
    if gates.is_empty() {
        out.note("no gate waits for a verdict");
        return Ok(());
    }
    let now = SystemClock.now();
    let mut rows = table(&["RUN", "DAG", "STEP", "GATE", "SINCE", "EXPIRES", "ASKED"]);
    for gate in &gates {
        let when = |at: Option<Timestamp>| at.map_or_else(|| "–".to_owned(), |at| words::relative(at, now));
        rows.add_row([
            words::short(gate.run),
            gate.dag_id.clone(),
            gate.step.to_string(),
            gate.gate.clone(),
            when(gate.since),
            when(gate.expires_at),
            words::one_line(gate.asked.as_str()),
        ]);
    }
    out.line(text(&rows));
    Ok(())
}

async fn waiting(session: &Session, run: RunId) -> Result<Vec<Gate>> {
    let state = session.orch.inspect(&session.who, run).await?;
    let gates = waiting_gates(&state).map(|gate| Gate {
        run,
        dag_id: state.created.dag_id.to_string(),
        step: gate.step,
        gate: gate.uses.to_string(),
        asked: gate.asked,
        since: gate.since,
        expires_at: gate.expires_at,
    });
    Ok(gates.collect())
}
