//! `--workflow` and `--shape`: how close a run of any DAG comes to the soonest end there can be.
//!
//! Only the shape of the DAG counts. Every step becomes one that sleeps, or does nothing; conditions, inputs, retries,
//! limits and shared slots are left out. The bound is made of how long steps were told to sleep. They sleep longer, because
//! timers are coarse and because the processor may be busy, with orch too; what they really slept is told beside it.

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use orch::engine::{Orchestrator, Settings};
use orch::executor::{Failure, StepContext};
use orch::planner::Plan;
use orch::spec::{Dag, ForEach, Items, Retry, Step, Uses};
use orch::store::{MemoryStore, Store};
use orch::{Limits, StepKey};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_benches::{chain, fan_out, layered, now, publish, run_all, settings};
use serde_json::Value;

use crate::bound::{Bound, Work};
use crate::figure::{Aim, Figure};
use crate::{Failed, runtime};

/// Where the ledger lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    Memory,
    Sqlite,
}

/// A DAG that is made and not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Chain(usize),
    FanOut(usize),
    Layered(usize, usize),
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| text.parse().ok().filter(|count| (1..=1_000_000).contains(count));
        let shape = match text.split_once(':') {
            Some(("chain", steps)) => count(steps).map(Self::Chain),
            Some(("fan-out", items)) => count(items).map(Self::FanOut),
            Some(("layered", size)) => size
                .split_once('x')
                .and_then(|(steps, width)| Some(Self::Layered(count(steps)?, count(width)?))),
            _ => None,
        };
        shape.ok_or_else(|| "expected chain:STEPS, fan-out:ITEMS or layered:STEPSxWIDTH".to_owned())
    }
}

impl Shape {
    fn dag(self) -> Dag {
        match self {
            Self::Chain(steps) => chain(steps),
            Self::FanOut(items) => fan_out(items),
            Self::Layered(steps, width) => layered(steps, width),
        }
    }
}

/// What to run, and how.
#[derive(Clone, Debug)]
pub(crate) struct Workflow<'a> {
    pub(crate) file: Option<&'a Path>,
    pub(crate) shape: Option<Shape>,
    pub(crate) sleep: Option<Duration>,
    /// More than one without sleeping only.
    pub(crate) runs: usize,
    pub(crate) slots: usize,
    pub(crate) items: u32,
    pub(crate) place: Place,
}

/// Makes the DAG that is run: the shape of what was named.
pub(crate) fn shape(workflow: &Workflow<'_>) -> Result<Dag, Failed> {
    let limits = Limits { spec_bytes: 256 << 20, ..orch_benches::rules::limits() };
    let dag = match (workflow.file, workflow.shape) {
        (Some(path), _) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            orch::spec::parse(&path.display().to_string(), &text, &limits)?
        }
        (None, shape) => shape.ok_or("neither a file nor a shape is named")?.dag(),
    };
    bare(dag, workflow.items)
}

/// The same steps with the same needs, and nothing else.
fn bare(dag: Dag, items: u32) -> Result<Dag, Failed> {
    let carried: Vec<String> = dag
        .steps
        .iter()
        .filter(|step| !step.uses.is_task())
        .map(|step| format!("{} ({})", step.id, step.uses))
        .collect();
    if !carried.is_empty() {
        let problem = "gates, waits and sub-DAGs wait for somebody or something else; only steps that a worker \
                       executes have a makespan of their own";
        return Err(format!("{problem}: {}", carried.join(", ")).into());
    }
    let steps = dag.steps.into_iter().map(|step| Step {
        uses: Uses::Function("step".to_owned()),
        with: Value::Null,
        when: None,
        for_each: step.for_each.map(|each| ForEach { items: list(each.items, items), ..each }),
        retry: Retry::default(),
        timeout: None,
        total_timeout: None,
        concurrency: Vec::new(),
        limits: None,
        network: None,
        secrets: Vec::new(),
        cache: false,
        ..step
    });
    Ok(Dag { steps: steps.collect(), inputs: None, timeout: None, ..dag })
}

/// What an expression would yield only the real steps know.
fn list(items: Items, count: u32) -> Items {
    match items {
        Items::Expression(_) => Items::List((0..count).map(Value::from).collect()),
        list @ Items::List(_) => list,
    }
}

/// Runs it once, in a folder of its own.
pub(crate) fn measure(workflow: &Workflow<'_>, dag: &Dag, dir: &Path) -> Result<Vec<Figure>, Failed> {
    let slept: Arc<Mutex<Vec<(StepKey, Duration)>>> = Arc::default();
    let makespan = runtime()?.block_on(run(workflow, dag, dir, &slept))?;
    let slept = std::mem::take(&mut *slept.lock().unwrap_or_else(PoisonError::into_inner));
    let (executed, mut micros) =
        (slept.len(), slept.iter().map(|(_, took)| took.as_secs_f64() * 1e6).collect::<Vec<_>>());
    let works = works(dag, slept)?;
    let place = if workflow.place == Place::Memory { "in memory" } else { "SQLite FULL" };
    let runs = if workflow.runs == 1 { String::new() } else { format!(" in {} runs", workflow.runs) };
    let what = format!("{} of {executed} steps{runs}, {} slots, {place}", dag.id, workflow.slots);
    let seconds = makespan.as_secs_f64();
    let each = micros.iter().sum::<f64>() / micros.len() as f64 / 1e6;
    let took = Figure::new("workflow.step", "a step by itself", each, "s").latencies(&mut micros);
    let rate = Figure::new("workflow.rate", format!("{what}: steps"), executed as f64 / seconds, "steps/s");
    let makespan = Figure::new("workflow.makespan", format!("{what}: makespan"), seconds, "s");
    // Without sleeping there is next to no work, and nothing to compare with.
    let Some(sleep) = workflow.sleep else { return Ok(vec![makespan, rate, took]) };
    let really = Bound::of(&works, workflow.slots).lower().as_secs_f64();
    let bound = Bound::of(&as_told(works, sleep), workflow.slots);
    let lower = bound.lower().as_secs_f64();
    let over = |bound: f64| (seconds / bound - 1.0) * 100.0;
    Ok(vec![
        makespan.raw("the lower bound", lower),
        rate,
        took,
        Figure::new("workflow.critical-path", "critical path", bound.critical_path.as_secs_f64(), "s"),
        Figure::new("workflow.per-slot", "total work ÷ slots", bound.per_slot.as_secs_f64(), "s"),
        Figure::new("workflow.overhead", "overhead over the lower bound", over(lower), "%")
            .aim(Aim::AtMost(3.0))
            .note("the aim is for 10 000 steps"),
        Figure::new(
            "workflow.overhead-slept",
            "the same if steps had been told what they slept",
            over(really),
            "%",
        ),
    ])
}

/// From the submission to the end of the run.
async fn run(
    workflow: &Workflow<'_>,
    dag: &Dag,
    dir: &Path,
    slept: &Arc<Mutex<Vec<(StepKey, Duration)>>>,
) -> Result<Duration, Failed> {
    let backend = match workflow.place {
        Place::Memory => None,
        Place::Sqlite => Some(SqliteBackend::open(SqliteConfig::new(dir.join("workflow.db"))).await?),
    };
    let store: Arc<dyn Store> = match &backend {
        Some(backend) => Arc::new(backend.store()),
        None => Arc::new(MemoryStore::new()),
    };
    let (slept, sleep) = (Arc::clone(slept), workflow.sleep);
    let step = move |context: StepContext, _: Value| {
        let slept = Arc::clone(&slept);
        async move {
            let begun = now();
            if let Some(sleep) = sleep {
                tokio::time::sleep(sleep).await;
            }
            let took = begun.elapsed();
            slept.lock().unwrap_or_else(PoisonError::into_inner).push((context.step, took));
            Ok::<_, Failure>(())
        }
    };
    let orchestrator = Orchestrator::builder()
        .settings(Settings { slots: workflow.slots, ..settings() })
        .store(store)
        .task("step", step)
        .start()?;
    let published = publish(&orchestrator, dag).await;
    let begun = now();
    run_all(&orchestrator, &published, workflow.runs).await;
    let makespan = begun.elapsed();
    orchestrator.shutdown().await;
    if let Some(backend) = backend {
        backend.close().await;
    }
    Ok(makespan)
}

/// The steps of the DAG in the order of their plan, with what each took.
fn works(dag: &Dag, slept: Vec<(StepKey, Duration)>) -> Result<Vec<Work>, Failed> {
    let plan = Plan::new(dag.clone(), &orch_benches::rules::limits())?;
    let mut works: Vec<Work> = (0..)
        .zip(plan.steps())
        .map(|(position, step)| Work {
            needs: plan.needs(position).iter().map(|need| *need as usize).collect(),
            takes: Vec::new(),
            at_once: step.for_each.as_ref().and_then(|each| each.max_parallel),
        })
        .collect();
    for (step, took) in slept {
        let position = plan.position(step.id.as_str()).ok_or("a step of another plan was executed")?;
        works[position as usize].takes.push(took);
    }
    Ok(works)
}

/// The same steps, each as long as it was told to be.
fn as_told(works: Vec<Work>, sleep: Duration) -> Vec<Work> {
    let told = |work: Work| Work { takes: vec![sleep; work.takes.len()], ..work };
    works.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAG: &str = "
apiVersion: orch/v1
kind: Dag
id: d
inputs: { type: object, required: [list] }
steps:
  - { id: a, uses: process, with: { argv: [x] }, retry: { maxAttempts: 3 } }
  - { id: b, uses: fn/f, needs: [a], when: \"steps.a.output == 'x'\", forEach: { items: inputs.list, maxParallel: 2 } }
";

    fn parse(text: &str) -> Dag {
        orch::spec::parse("d.yaml", text, &Limits::default()).unwrap()
    }

    #[test]
    fn only_the_shape_is_left_and_it_runs() {
        let dag = bare(parse(DAG), 5).unwrap();
        assert_eq!(dag.steps.iter().map(|step| step.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let workflow = Workflow {
            file: None,
            shape: None,
            sleep: Some(Duration::from_millis(1)),
            runs: 1,
            slots: 4,
            items: 5,
            place: Place::Memory,
        };
        let figures = measure(&workflow, &dag, Path::new("")).unwrap();
        let value = |id: &str| figures.iter().find(|figure| figure.id == id).unwrap().value;
        // One step, then five at two a time: 1 + 2.5 of a millisecond; six on four slots.
        assert_eq!((value("workflow.critical-path"), value("workflow.per-slot")), (0.0035, 0.0015));
        assert!(value("workflow.makespan") >= value("workflow.critical-path"), "{figures:?}");
        assert!(figures[0].what.starts_with("d of 6 steps"), "{figures:?}");
    }

    #[test]
    fn what_waits_for_others_is_refused_by_name() {
        let gate = "
apiVersion: orch/v1
kind: Dag
id: d
steps:
  - { id: a, uses: process, with: { argv: [x] } }
  - { id: b, uses: gate/approval, needs: [a] }
";
        let error = bare(parse(gate), 5).unwrap_err().to_string();
        assert!(error.contains("gates") && error.contains("b (gate/approval)"), "{error}");
    }

    #[test]
    fn shapes_are_read_as_they_are_written() {
        assert_eq!("layered:10000x100".parse(), Ok(Shape::Layered(10_000, 100)));
        assert_eq!("fan-out:7".parse(), Ok(Shape::FanOut(7)));
        assert_eq!("chain:3".parse(), Ok(Shape::Chain(3)));
        for text in ["", "chain", "chain:0", "layered:10", "layered:10x", "wide:3", "chain:1000001"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }
}
