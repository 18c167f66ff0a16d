//! `orch ledger`, `orch export`, `orch explain`, `orch runs compare` and `prune`: the record and what it proves.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use comfy_table::Cell;
use orch::ledger::StepStatus;
use orch::planner::explain;
use orch::proof::{
    Checkpoint, Manifest, PublicKey, Report, Scope, SigningKey, StepComparison, VerifyOptions,
};
use orch::{Clock as _, Digest, RunId, StepKey, SystemClock, Timestamp, proof};
use serde::Serialize;
use serde_json::json;

use super::document::write;
use crate::args::{ExportArgs, Globals, LedgerCommand, VerifyArgs};
use crate::connect::{self, Mode, Session};
use crate::fault::{Advise as _, FAILED, Fault, Result};
use crate::output::table::{table, text};
use crate::output::{Out, style, words};
use crate::select;

pub(crate) async fn ledger(globals: &Globals, out: &Out, command: LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Verify(args) => verify(globals, out, &args).await,
        LedgerCommand::Checkpoint { output, since_last, key } => {
            let key = key.as_deref().map(signing_key).transpose()?;
            let session = Session::open(globals, Mode::Record).await?;
            let scope = if since_last { Scope::SinceLast } else { Scope::All };
            let taken = session.desk.checkpoint(scope, key).await?;
            session.close().await;
            match taken {
                Some(checkpoint) => write(out, output.as_deref(), checkpoint.to_json().as_bytes()),
                None => {
                    if out.json {
                        out.document(&json!(null));
                    }
                    out.note("nothing has ended since the last checkpoint");
                    Ok(())
                }
            }
        }
    }
}

async fn verify(globals: &Globals, out: &Out, args: &VerifyArgs) -> Result<()> {
    let options = VerifyOptions {
        limits: connect::limits(),
        checkpoints: args.checkpoint.iter().map(|path| checkpoint(path)).collect::<Result<_>>()?,
        key: args.public_key.as_deref().map(str::parse::<PublicKey>).transpose()?,
    };
    let (report, damage) = match &args.export {
        Some(path) => (verify_file(globals, path, &options)?, Vec::new()),
        None => {
            let session = Session::open(globals, Mode::Look).await?;
            let store = session.orch.store();
            let report = proof::verify_store(store.as_ref(), &session.who.tenant, &options).await?;
            // What no row and no checkpoint leads to, only the file shows.
            let damage = session.integrity().await?;
            session.close().await;
            (report, damage)
        }
    };
    print_report(out, &report, &damage);
    if report.is_clean() && damage.is_empty() { Ok(()) } else { Err(Fault::Code(FAILED)) }
}

fn verify_file(globals: &Globals, path: &Path, options: &VerifyOptions) -> Result<Report> {
    let tenant = connect::identity(globals)?.tenant;
    let manifest = manifest_path(path);
    let manifest = match manifest.exists() {
        true => Some(
            serde_json::from_str::<Manifest>(&read(&manifest)?)
                .map_err(|cause| Fault::said(format!("{} is no manifest: {cause}", manifest.display())))?,
        ),
        false => None,
    };
    let file = File::open(path).map_err(|cause| unreadable(path, &cause))?;
    Ok(proof::verify_export(BufReader::new(file), &tenant, manifest.as_ref(), options)?)
}

fn print_report(out: &Out, report: &Report, damage: &[String]) {
    if out.json {
        let ok = report.is_clean() && damage.is_empty();
        out.document(&json!({ "ok": ok, "report": report, "damage": damage }));
        return;
    }
    let what = format!(
        "{} in {}",
        if report.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", report.entries) },
        words::count(usize::try_from(report.streams).unwrap_or(usize::MAX), "stream"),
    );
    for problem in &report.problems {
        let line = problem.line.map_or_else(String::new, |line| format!(" (line {line})"));
        let (stream, seq) = (problem.stream, problem.seq);
        let failed = style::step(StepStatus::Failed);
        let (invariant, code, message) = (problem.invariant, problem.code, &problem.message);
        out.line(format_args!("{failed}  {stream} entry {seq}{line}: {code}: {message} ({invariant})"));
    }
    for finding in damage {
        out.line(format_args!("{}  store: {}", style::step(StepStatus::Failed), words::one_line(finding)));
    }
    let verdict = match report.problems.len() + damage.len() {
        0 => format!("{} verified", style::symbol(StepStatus::Succeeded)),
        count => format!("{} found in", words::count(count, "problem")),
    };
    out.line(format_args!("{verdict} {what}"));
}

fn checkpoint(path: &Path) -> Result<Checkpoint> {
    Checkpoint::from_json(&read(path)?)
        .advise(|_| Some(format!("{} should be what `orch ledger checkpoint` wrote", path.display())))
}

fn signing_key(path: &Path) -> Result<SigningKey> {
    SigningKey::from_hex(&read(path)?)
        .advise(|_| Some(format!("{} should hold the 32 bytes of an Ed25519 seed in hex", path.display())))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|cause| unreadable(path, &cause))
}

fn unreadable(path: &Path, cause: &std::io::Error) -> Fault {
    Fault::said(format!("{} cannot be read: {cause}", path.display()))
}

/// The manifest beside an exported file.
fn manifest_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".manifest.json");
    name.into()
}

pub(crate) async fn export(globals: &Globals, out: &Out, args: &ExportArgs) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let run = match &args.run {
        Some(run) => Some(select::run(&session, run).await?),
        None => None,
    };
    if session.only_reads() {
        out.note("the store is only read: that it was exported is not recorded in it");
    }
    let manifest = match &args.output {
        None => session.desk.export(run, &mut Pipe(out)).await?,
        Some(path) => {
            let unwritable = |cause| Fault::said(format!("{} cannot be written: {cause}", path.display()));
            let mut file = BufWriter::new(File::create(path).map_err(unwritable)?);
            let manifest = session.desk.export(run, &mut file).await?;
            file.into_inner()
                .map_err(|error| unwritable(error.into_error()))?
                .sync_all()
                .map_err(unwritable)?;
            manifest
        }
    };
    session.close().await;
    if let Some(path) = &args.output {
        let document = serde_json::to_string_pretty(&manifest)
            .map_err(|cause| Fault::said(format!("the manifest is no json: {cause}")))?;
        write(out, Some(&manifest_path(path)), format!("{document}\n").as_bytes())?;
        if out.json {
            out.document(&manifest);
        }
    }
    if out.is_gone() {
        return Ok(());
    }
    let size = words::size(manifest.counts.bytes);
    out.note(format_args!(
        "exported {} entries ({size}), SHA-256 {}",
        manifest.counts.entries, manifest.sha256
    ));
    Ok(())
}

/// Standard output as a writer.
struct Pipe<'a>(&'a Out);

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) async fn explain_step(globals: &Globals, out: &Out, run: &str, step: &StepKey) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let run = select::run(&session, run).await?;
    let state = session.orch.inspect(&session.who, run).await?;
    session.close().await;
    let explanation = explain(&state, step, SystemClock.now()).advise(|_| {
        let ids: Vec<&str> = state.plan.steps().iter().take(20).map(|step| step.id.as_str()).collect();
        Some(format!("its steps are {}", ids.join(", ")))
    })?;
    if out.json {
        out.document(&explanation);
        return Ok(());
    }
    out.line(format_args!("{} {}", style::symbol(explanation.status), words::one_line(&explanation.summary)));
    for reason in explanation.reasons.iter().skip(1) {
        out.line(format_args!("  {}: {}", reason.step, words::one_line(&reason.message)));
    }
    Ok(())
}

/// Two runs, step by step.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    left: RunId,
    right: RunId,
    /// Whether every step did the same.
    pub(crate) same: bool,
    steps: Vec<StepComparison>,
}

impl Comparison {
    /// Compares two runs.
    pub(crate) async fn of(session: &Session, left: RunId, right: RunId) -> Result<Self> {
        let a = session.orch.inspect(&session.who, left).await?;
        let b = session.orch.inspect(&session.who, right).await?;
        let steps = proof::compare(&a, &b);
        Ok(Self { left, right, same: steps.iter().all(|step| step.same), steps })
    }

    /// The comparison for people.
    pub(crate) fn table(&self) -> String {
        let (left, right) = (words::short(self.left), words::short(self.right));
        let mut rows = table(&["STEP", "SAME", &left, "OUTPUT", &right, "OUTPUT"]);
        let status = |status: Option<StepStatus>| status.map_or_else(|| Cell::new("–"), style::step_cell);
        let hash = |hash: Option<Digest>| {
            hash.map_or_else(|| "–".to_owned(), |hash| hash.to_string()[..words::SHORT].to_owned())
        };
        for step in &self.steps {
            rows.add_row([
                Cell::new(&step.step),
                Cell::new(if step.same { "same" } else { "different" }),
                status(step.left),
                Cell::new(hash(step.left_output)),
                status(step.right),
                Cell::new(hash(step.right_output)),
            ]);
        }
        let different = self.steps.iter().filter(|step| !step.same).count();
        let verdict = match different {
            0 => "every step did the same".to_owned(),
            _ => format!("{different} of {} did not do the same", words::count(self.steps.len(), "step")),
        };
        format!("{}\n\n{verdict}", text(&rows))
    }
}

pub(crate) async fn compare(globals: &Globals, out: &Out, left: &str, right: &str) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let (left, right) = (select::run(&session, left).await?, select::run(&session, right).await?);
    let comparison = Comparison::of(&session, left, right).await?;
    session.close().await;
    if out.json {
        out.document(&comparison);
    } else {
        out.line(comparison.table());
    }
    if comparison.same { Ok(()) } else { Err(Fault::Code(FAILED)) }
}

pub(crate) async fn prune(globals: &Globals, out: &Out, older_than: Duration) -> Result<()> {
    let session = Session::open(globals, Mode::Record).await?;
    let span = i64::try_from(older_than.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp::from_micros(SystemClock.now().as_micros().saturating_sub(span));
    let gone = session.desk.prune(before).await?;
    session.close().await;
    if out.json {
        out.document(&json!({ "pruned": gone }));
    } else {
        out.line(format_args!(
            "pruned {}; their heads stay in the checkpoint stream",
            words::count(usize::try_from(gone).unwrap_or(usize::MAX), "run")
        ));
    }
    Ok(())
}
