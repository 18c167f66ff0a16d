//! `orch dag`.

use orch::engine::DagVersion;
use orch::planner::Plan;
use orch::{Clock as _, DagId, SystemClock};

use super::document::print_plan;
use crate::args::{DagCommand, Globals};
use crate::connect::{self, Mode, Session};
use crate::fault::{Fault, Result};
use crate::inputs;
use crate::output::table::{table, text};
use crate::output::{Out, style, words};

pub(crate) async fn execute(globals: &Globals, out: &Out, command: DagCommand) -> Result<()> {
    match command {
        DagCommand::List => list(globals, out).await,
        DagCommand::Show { dag, release } => {
            let (dag, number) = match dag.contains('@') {
                true => version(&dag).map(|(dag, number)| (dag, Some(number)))?,
                false => (DagId::new(&dag)?, None),
            };
            show(globals, out, &dag, release.or(number)).await
        }
        DagCommand::Publish { file } => {
            let dag = inputs::document(&file)?;
            let id = dag.id.clone();
            let session = Session::open(globals, Mode::Record).await?;
            let version = session.desk.publish(dag).await?;
            print_version(out, "published", &id, &version);
            session.close().await;
            Ok(())
        }
        DagCommand::Disable { release } => set_disabled(globals, out, &release, true).await,
        DagCommand::Enable { release } => set_disabled(globals, out, &release, false).await,
    }
}

fn print_version(out: &Out, word: &str, dag: &DagId, version: &DagVersion) {
    if out.json {
        out.document(&serde_json::json!({ "dag": dag, "version": version }));
    } else {
        let steps = words::count(version.steps as usize, "step");
        out.line(format_args!("{word} {dag}@{}: {steps}, plan {}", version.version, version.plan_hash));
    }
}

async fn list(globals: &Globals, out: &Out) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let dags = session.desk.dags().await?;
    session.close().await;
    if out.json {
        out.document(&dags);
        return Ok(());
    }
    if dags.is_empty() {
        out.note("no dag is published yet; `orch dag publish FILE` or `orch run FILE` does");
        return Ok(());
    }
    let now = SystemClock.now();
    let mut rows = table(&["DAG", "VERSIONS", "STEPS", "PUBLISHED", "BY", "DESCRIPTION"]);
    for dag in &dags {
        let Some(newest) = dag.versions.last() else { continue };
        rows.add_row([
            dag.dag.to_string(),
            dag.versions.len().to_string(),
            newest.steps.to_string(),
            words::relative(newest.published_at, now),
            words::one_line(&newest.actor),
            words::one_line(dag.description.as_deref().unwrap_or_default()),
        ]);
    }
    out.line(text(&rows));
    Ok(())
}

async fn show(globals: &Globals, out: &Out, dag: &DagId, number: Option<u32>) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let published = session.desk.dag(dag).await?;
    let version = session.desk.dag_version(dag, number).await?;
    session.close().await;
    let plan = Plan::read(&version.plan, &connect::limits())?;
    if out.json {
        let summary = plan.summary()?;
        out.document(&serde_json::json!({ "dag": published, "version": version.version, "plan": summary }));
        return Ok(());
    }
    let now = SystemClock.now();
    let mut rows = table(&["VERSION", "STEPS", "PUBLISHED", "BY", "STATUS", "PLAN"]);
    for known in &published.versions {
        rows.add_row([
            format!("{dag}@{}", known.version),
            known.steps.to_string(),
            words::relative(known.published_at, now),
            words::one_line(&known.actor),
            if known.disabled { "disabled" } else { "enabled" }.to_owned(),
            known.plan_hash.to_string()[..words::SHORT].to_owned(),
        ]);
    }
    if let Some(description) = &published.description {
        let dim = style::DIM;
        out.line(format_args!("{dim}{}{dim:#}", words::one_line(description)));
    }
    out.line(text(&rows));
    out.line("");
    print_plan(out, &plan)
}

/// A version as it is written.
fn version(text: &str) -> Result<(DagId, u32)> {
    let parts = text.split_once('@').and_then(|(dag, number)| Some((dag, number.parse::<u32>().ok()?)));
    let (dag, number) = parts.ok_or_else(|| {
        Fault::said(format!("`{text}` is no version")).hint("write it as DAG@N, like scan@2")
    })?;
    Ok((DagId::new(dag)?, number))
}

async fn set_disabled(globals: &Globals, out: &Out, text: &str, disabled: bool) -> Result<()> {
    let (dag, number) = version(text)?;
    let session = Session::open(globals, Mode::Record).await?;
    let version = session.desk.set_disabled(&dag, number, disabled).await?;
    print_version(out, if disabled { "disabled" } else { "enabled" }, &dag, &version);
    session.close().await;
    Ok(())
}
