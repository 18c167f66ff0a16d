//! `orch run`.

use orch::engine::{DagRef, Submit, Submitted};
use orch::store::RunRow;
use orch::{Digest, ErrorKind};
use serde_json::json;

use crate::args::{Globals, RunArgs};
use crate::carry::{self, Verdict};
use crate::connect::{Mode, Session};
use crate::fault::{Advise as _, FAILED, Fault, Result};
use crate::inputs;
use crate::output::{Out, words};

/// Publishes a document, submits a run and carries it on.
pub(crate) async fn run(globals: &Globals, out: &Out, args: &RunArgs) -> Result<()> {
    let dag = inputs::document(&args.file)?;
    let inputs = inputs::inputs(&dag, args.inputs.iter().chain(&args.more_inputs))?;
    let session = Session::open(globals, Mode::of(&args.work)).await?;
    let id = dag.id.clone();
    let version = session.desk.publish(dag).await?;
    let mut submit = Submit::new(DagRef::Version(id, version.version), inputs);
    submit.run_token.clone_from(&args.run_token);
    submit.rationale = args.rationale.clone().or_else(|| globals.reason.clone());
    submit.priority = args.priority;
    let Submitted { run, new } = session.desk.submit(submit).await.advise(advice)?;
    if run.plan_hash != version.plan_hash {
        session.close().await;
        return Err(other_plan(&run, &version.plan_hash));
    }
    if args.work.no_work {
        if out.json {
            out.document(&json!({ "run": run.run, "new": new, "status": run.status }));
        } else {
            out.line(format_args!("submitted {} of {}", words::short(run.run), run.dag));
        }
        session.close().await;
        return Ok(());
    }
    if !new {
        out.note(format_args!("run {} is there already: going on with it", words::short(run.run)));
    }
    let seen = if new { 0 } else { run.head.seq };
    carry::carry_on(session, out, (run.run, seen), Verdict::Run).await
}

/// The token names a run that was made from another document.
fn other_plan(run: &RunRow, plan: &Digest) -> Fault {
    let error = orch::Error::already_exists("this token, dag id and inputs name a run of another document")
        .with("run", run.run)
        .with("plan of the run", run.plan_hash)
        .with("plan of the document", plan);
    let short = words::short(run.run);
    Fault::from(error).code(FAILED).hint(format!(
        "take another --run-token to run this document; `orch runs show {short}` shows the other one"
    ))
}

/// What to do about a run that is not accepted.
pub(crate) fn advice(error: &orch::Error) -> Option<String> {
    let context = |name: &str| error.context().iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    match error.kind() {
        ErrorKind::Unsupported => Some(match context("steps") {
            Some(steps) if steps.contains("process (") => {
                "process steps run on this machine without isolation; allow them with `--sandbox none`, \
                 which is recorded in the run"
                    .to_owned()
            }
            _ => "orch alone runs the built-in functions and, with `--sandbox none`, process steps; other steps \
                  need a program that embeds orch"
                .to_owned(),
        }),
        ErrorKind::Invalid if context("problems").is_some() => {
            Some("give inputs as key=value, or as a file with --inputs".to_owned())
        }
        _ => None,
    }
}
