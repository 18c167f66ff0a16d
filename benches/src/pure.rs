//! The pure rooms on one core, each beside hashing the bytes it makes.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use orch::Timestamp;
use orch::ledger::{Chain, Head};
use orch::planner::Plan;
use orch_benches::rules::{created, decide_all, limits, stream, succeeded};
use orch_benches::{fan_out, layered, now, who};

use crate::Failed;
use crate::figure::{Aim, Figure, Size};
use crate::machine::peak;
use crate::raw::{self, ENTRY_BYTES};

/// Planning a million steps. The process that does it does nothing else, so its peak is the plan's.
pub(crate) fn plan(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let (steps, width) = size.of((1_000_000, 1_000), (1_000, 50));
    let dag = layered(steps, width);
    let begun = now();
    let plan = Plan::new(dag, &limits())?;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = peak();
    let bytes = plan.document().len();
    let hash = 1.0 / raw::hashes(bytes, bytes * 2);
    let edges: usize = plan.steps().iter().map(|step| step.needs.len()).sum();
    let what = format!("plan {steps} steps, layered, {edges} edges");
    let mut figures = vec![
        Figure::new("plan", &*what, seconds, "s")
            .raw(raw::SHA256, hash)
            .aim(Aim::AtMost(1.5))
            .note(format!("{bytes} bytes of canonical JSON are written and hashed")),
    ];
    figures.extend(peak.map(|bytes| {
        Figure::new("plan.peak", format!("{what}: peak memory"), bytes / f64::from(1 << 20), "MiB")
            .aim(Aim::AtMost(1_024.0))
            .note("of the whole process, the DAG that is planned included")
    }));
    Ok(figures)
}

/// Deciding and folding whole runs.
pub(crate) fn decide(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let count = size.of(100_000, 1_000);
    let loads = [
        ("decide.layered", format!("decide + fold, {count} steps in layers"), layered(count, 100)),
        ("decide.fan-out", format!("decide + fold, fan-out of {count}"), fan_out(count)),
    ];
    let mut figures = Vec::new();
    for (id, what, dag) in loads {
        let plan = Arc::new(Plan::new(dag, &limits())?);
        let state = created(&plan);
        let hashes = raw::hashes(ENTRY_BYTES, size.of(100_000_000, 100_000));
        let begun = now();
        let events = decide_all(state, &limits());
        let rate = events as f64 / begun.elapsed().as_secs_f64();
        let figure = Figure::new(id, what, rate, "events/s");
        figures.push(figure.raw("SHA-256 of entries of 400 bytes", hashes).aim(Aim::AtLeast(2e6)));
    }
    Ok(figures)
}

/// Encoding entries, chaining and hashing them.
pub(crate) fn encode(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let (who, stream, event) = (who(), stream(), succeeded());
    let count = size.of(1_000, 1);
    let mut bytes = 0;
    let begun = now();
    for _ in 0..count {
        let mut chain = Chain::new(&who.tenant, stream, Head::EMPTY);
        for _ in 0..1_000 {
            chain.push("bench", Timestamp::EPOCH, black_box(&event))?;
        }
        bytes = chain.finish()?.0.len() / 1_000;
    }
    let rate = f64::from(count) * 1_000.0 / begun.elapsed().as_secs_f64();
    let hashes = raw::hashes(bytes, size.of(200_000_000, 100_000));
    let what = format!("encode, chain and hash an entry of {bytes} bytes");
    let figure = Figure::new("encode", what, rate, "entries/s");
    Ok(vec![figure.raw(raw::SHA256, hashes).aim(Aim::AtLeast(800_000.0))])
}
