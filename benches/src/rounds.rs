//! Runs measurements, each in a process of its own, and makes one table of all rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;
use tempfile::TempDir;

use crate::figure::{Figure, Size, merge};
use crate::machine::Machine;
use crate::workflow::Workflow;
use crate::{Arguments, Failed, engine, footprint, pure, raw, servers, table, tell, workflow};

/// One thing to measure.
struct Measurement {
    name: &'static str,
    measure: fn(&Path, Size) -> Result<Vec<Figure>, Failed>,
    /// Measured in the first round only: it takes long, or leaves a file for others.
    once: bool,
    /// What must have been measured before it.
    after: &'static [&'static str],
}

const fn each(name: &'static str, measure: fn(&Path, Size) -> Result<Vec<Figure>, Failed>) -> Measurement {
    Measurement { name, measure, once: false, after: &[] }
}

const fn once(
    name: &'static str,
    after: &'static [&'static str],
    measure: fn(&Path, Size) -> Result<Vec<Figure>, Failed>,
) -> Measurement {
    Measurement { name, measure, once: true, after }
}

const MEASUREMENTS: [Measurement; 18] = [
    each("raw", raw::measure),
    each("plan", pure::plan),
    each("decide", pure::decide),
    each("encode", pure::encode),
    each("memory", engine::memory),
    each("sqlite", engine::sqlite),
    each("chain-memory", engine::chain_memory),
    each("chain-sqlite", engine::chain_sqlite),
    each("redis", servers::redis),
    each("chain-redis", servers::chain_redis),
    each("mongo", servers::mongo),
    each("processes", servers::processes),
    each("executing", footprint::executing),
    each("queued", footprint::queued),
    once("finished", &[], footprint::finished),
    once("active", &["finished"], footprint::active),
    Measurement { name: "open", measure: footprint::open, once: false, after: &["active"] },
    once("idle", &["finished"], footprint::idle),
];

fn find(name: &str) -> Result<&'static Measurement, Failed> {
    MEASUREMENTS
        .iter()
        .find(|measurement| measurement.name == name)
        .ok_or_else(|| format!("nothing is called `{name}`; `--help` lists what is").into())
}

/// Measures one thing in this process; answers its figures as JSON.
pub(crate) fn measure(name: &str, arguments: &Arguments) -> Result<String, Failed> {
    let dir = arguments.dir.as_deref().ok_or("no folder")?;
    let figures = (find(name)?.measure)(dir, arguments.size())?;
    Ok(serde_json::to_string(&figures)?)
}

/// What is asked for with what it needs, in the order of the list.
fn chosen(only: &[String]) -> Result<Vec<&'static Measurement>, Failed> {
    let mut wanted = only.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
    if only.is_empty() {
        return Ok(MEASUREMENTS.iter().collect());
    }
    let mut names = Vec::new();
    while let Some(measurement) = wanted.pop() {
        names.push(measurement.name);
        wanted.extend(measurement.after.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(MEASUREMENTS.iter().filter(|measurement| names.contains(&measurement.name)).collect())
}

/// The document of `--json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    version: &'static str,
    quick: bool,
    rounds: u32,
    machine: &'a Machine,
    figures: &'a [Figure],
}

/// Measures what is asked for, round by round.
pub(crate) fn run(arguments: &Arguments) -> Result<String, Failed> {
    let chosen = chosen(&arguments.only)?;
    let (dir, machine) = place(arguments)?;
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let mut measured = Measured::default();
    for round in 1..=rounds {
        for measurement in chosen.iter().filter(|measurement| round == 1 || !measurement.once) {
            tell(&format!("round {round} of {rounds}: {}", measurement.name));
            measured.add(child(measurement.name, dir.path(), arguments.quick)?);
        }
    }
    report(arguments, rounds, &machine, &measured)
}

/// Runs one DAG, round by round.
pub(crate) fn workflow(arguments: &Arguments) -> Result<String, Failed> {
    let workflow = Workflow {
        file: arguments.workflow.as_deref(),
        shape: arguments.shape,
        sleep: arguments.sleep.map(|sleep| sleep.duration()),
        runs: arguments.runs as usize,
        slots: arguments.slots as usize,
        items: arguments.items,
        place: arguments.store,
    };
    let dag = workflow::shape(&workflow)?;
    let (dir, machine) = place(arguments)?;
    let mut measured = Measured::default();
    for round in 1..=arguments.rounds {
        tell(&format!("round {round} of {}", arguments.rounds));
        let own = tempfile::tempdir_in(dir.path())?;
        measured.add(workflow::measure(&workflow, &dag, own.path())?);
    }
    report(arguments, arguments.rounds, &machine, &measured)
}

/// The figures of all rounds, in the order in which they first came.
#[derive(Default)]
struct Measured {
    order: Vec<String>,
    rounds: BTreeMap<String, Vec<Figure>>,
}

impl Measured {
    fn add(&mut self, figures: Vec<Figure>) {
        for figure in figures {
            if !self.order.contains(&figure.id) {
                self.order.push(figure.id.clone());
            }
            self.rounds.entry(figure.id.clone()).or_default().push(figure);
        }
    }
}

fn report(
    arguments: &Arguments,
    rounds: u32,
    machine: &Machine,
    measured: &Measured,
) -> Result<String, Failed> {
    let merged = measured.order.iter().filter_map(|id| merge(measured.rounds.get(id)?, arguments.size()));
    let figures: Vec<Figure> = merged.collect();
    if arguments.json {
        let (version, quick) = (env!("CARGO_PKG_VERSION"), arguments.quick);
        let report = Report { version, quick, rounds, machine, figures: &figures };
        return Ok(serde_json::to_string_pretty(&report)?);
    }
    let many = if rounds == 1 { "one round".to_owned() } else { format!("median of {rounds} rounds") };
    Ok(format!("{}; {many}\n\n{}", machine.line(), table::render(&figures)))
}

/// A folder for databases that goes when it is dropped, and the machine it is on. Without a folder named, it is made
/// beside this program, in Cargo's target folder: that lies on a disk as a rule, and `/tmp` often does not.
fn place(arguments: &Arguments) -> Result<(TempDir, Machine), Failed> {
    let program = std::env::current_exe()?;
    let parent = arguments.dir.as_deref().or(program.parent()).ok_or("this program lies in no folder")?;
    let machine = Machine::look(parent);
    if machine.is_volatile() && arguments.dir.is_none() && !arguments.quick {
        let problem = format!("{} is kept in memory; name a folder on a disk with `--dir`", parent.display());
        return Err(problem.into());
    }
    Ok((tempfile::Builder::new().prefix("orch-bench-").tempdir_in(parent)?, machine))
}

/// Measures in a fresh process and a fresh folder; what is left for others lies in the folder they share.
fn child(name: &str, dir: &Path, quick: bool) -> Result<Vec<Figure>, Failed> {
    let shared = ["finished", "active", "open", "idle"].contains(&name);
    let own = tempfile::Builder::new().prefix(name).tempdir_in(dir)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--measure", name, "--dir"]).arg(if shared { dir } else { own.path() });
    if quick {
        command.arg("--quick");
    }
    let output = command.stderr(Stdio::inherit()).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("`{name}` cannot be measured ({})", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_brings_what_it_needs_in_its_order() {
        let names = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            chosen(&only).unwrap().iter().map(|measurement| measurement.name).collect()
        };
        assert_eq!(names(&["open", "raw"]), ["raw", "finished", "active", "open"]);
        assert_eq!(names(&["idle"]), ["finished", "idle"]);
        assert_eq!(names(&[]).len(), MEASUREMENTS.len());
        assert!(chosen(&["nothing".to_owned()]).is_err());
    }
}
