//! Finding the run that a person means.

use orch::engine::Orchestrator;
use orch::store::RunsQuery;
use orch::{ErrorKind, RunId};

use crate::connect::Session;
use crate::fault::{Fault, Result};
use crate::output::words;

/// The fewest digits of an id that name a run.
const PREFIX_MIN: usize = 4;
/// The digits of a whole id.
const WHOLE: usize = 32;

/// The run that `text` names: an id, the beginning of one, or `latest`.
pub(crate) async fn run(session: &Session, text: &str) -> Result<RunId> {
    if text == "latest" {
        return latest(session).await?.ok_or_else(|| none(session, text));
    }
    let hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !hex || !(PREFIX_MIN..=WHOLE).contains(&text.len()) {
        return Err(Fault::said(format!("`{text}` does not name a run"))
            .hint("name it by its id, by the first 4 digits or more, or by `latest`"));
    }
    if text.len() == WHOLE {
        let run = text.parse()?;
        return match session.orch.run(&session.who, run).await {
            Ok(_) => Ok(run),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(none(session, text)),
            Err(error) => Err(error.into()),
        };
    }
    match &matching(&session.orch, session, text).await?[..] {
        [] => Err(none(session, text)),
        [run] => Ok(*run),
        several => {
            let ids: Vec<String> = several.iter().map(|run| words::short(*run)).collect();
            Err(Fault::said(format!("`{text}` is the beginning of several runs: {}", ids.join(", ")))
                .hint("write more digits"))
        }
    }
}

/// The newest run that somebody submitted, as opposed to one that a sub-DAG made.
async fn latest(session: &Session) -> Result<Option<RunId>> {
    let mut query = RunsQuery::all(session.who.tenant.clone());
    loop {
        let page = session.orch.runs(&session.who, query.clone()).await?;
        match (page.runs.iter().find(|row| row.parent.is_none()), page.next) {
            (None, Some(next)) => query.cursor = Some(next),
            (found, _) => return Ok(found.map(|row| row.run)),
        }
    }
}

async fn matching(orch: &Orchestrator, session: &Session, text: &str) -> Result<Vec<RunId>> {
    let mut found = Vec::new();
    let mut query = RunsQuery { limit: 500, ..RunsQuery::all(session.who.tenant.clone()) };
    loop {
        let page = orch.runs(&session.who, query.clone()).await?;
        found.extend(page.runs.iter().map(|row| row.run).filter(|run| run.to_string().starts_with(text)));
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(found),
        }
    }
}

fn none(session: &Session, text: &str) -> Fault {
    let tenant = &session.who.tenant;
    Fault::from(orch::Error::not_found("no such run").with("run", text).with("tenant", tenant))
        .hint("`orch runs list` shows the runs there are")
}
