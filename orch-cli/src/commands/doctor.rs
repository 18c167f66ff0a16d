//! `orch doctor`: is everything in order here?

use std::path::Path;

use orch::{Clock as _, SystemClock, Timestamp};
use serde::Serialize;

use crate::args::Globals;
use crate::connect::{self, Mode, Place, Session};
use crate::fault::{FAILED, Fault, Result};
use crate::output::table::{table, text};
use crate::output::{Out, style};

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    found: String,
}

/// Before this the clock is certainly wrong: orch did not exist.
const BORN: &str = "2025-01-01T00:00:00Z";

pub(crate) async fn doctor(globals: &Globals, out: &Out) -> Result<()> {
    let place = Place::of(globals)?;
    let mut findings = vec![
        Finding { what: "version", ok: true, found: env!("CARGO_PKG_VERSION").to_owned() },
        identity(globals),
        clock(),
        directory("working directory", Path::new(".")),
    ];
    if let Some(artifacts) = place.artifacts(globals) {
        findings.push(directory("artifacts", &artifacts));
    }
    findings.extend(store(globals, &place).await);
    findings.push(Finding {
        what: "sandbox",
        ok: true,
        found: "none; process steps run only with `--sandbox none`".to_owned(),
    });
    let ok = findings.iter().all(|finding| finding.ok);
    if out.json {
        out.document(&serde_json::json!({ "ok": ok, "findings": findings }));
    } else {
        let mut rows = table(&["WHAT", "STATE", "FOUND"]);
        for finding in &findings {
            rows.add_row([
                finding.what.into(),
                style::finding(finding.ok),
                comfy_table::Cell::from(&finding.found),
            ]);
        }
        out.line(text(&rows));
    }
    if ok { Ok(()) } else { Err(Fault::Code(FAILED)) }
}

fn identity(globals: &Globals) -> Finding {
    match connect::identity(globals) {
        Ok(who) => {
            Finding { what: "identity", ok: true, found: format!("{} for tenant {}", who.actor, who.tenant) }
        }
        Err(_) => {
            Finding { what: "identity", ok: false, found: format!("`{}` is no tenant", globals.tenant) }
        }
    }
}

fn clock() -> Finding {
    let now = SystemClock.now();
    let ok = BORN.parse::<Timestamp>().is_ok_and(|born| now > born);
    Finding { what: "clock", ok, found: now.to_string() }
}

/// Whether a directory, or the one it would be made in, can be written to.
fn directory(what: &'static str, path: &Path) -> Finding {
    let existing = path.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let nearest = existing.into_iter().find(|path| path.exists()).unwrap_or_else(|| Path::new("."));
    let probe = nearest.join(format!(".orch-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
    let found = match &written {
        Ok(()) => format!("{} can be written to", path.display()),
        Err(cause) => format!("{} cannot be written to: {cause}", nearest.display()),
    };
    Finding { what, ok: written.is_ok(), found }
}

async fn store(globals: &Globals, place: &Place) -> Vec<Finding> {
    let what = "store";
    if let Place::File(config) = place
        && !config.path.exists()
    {
        let found = format!("{} is not there yet; the first run makes it", config.path.display());
        return vec![Finding { what, ok: true, found }];
    }
    match examine(globals).await {
        Ok(findings) => findings,
        Err(Fault::Error { error, .. }) => vec![Finding { what, ok: false, found: error.to_string() }],
        Err(_) => vec![Finding { what, ok: false, found: "it cannot be opened".to_owned() }],
    }
}

async fn examine(globals: &Globals) -> Result<Vec<Finding>> {
    let session = Session::open(globals, Mode::Look).await?;
    let capability = session.orch.store().capability();
    let damage = session.integrity().await;
    session.close().await;
    let damage = damage?;
    let survives = match (capability.survives_process, capability.survives_power_loss) {
        (_, true) => "survives loss of power",
        (true, false) => "survives the process, not loss of power",
        (false, false) => "gone with the process",
    };
    let shared = if capability.shared { "several processes may use it" } else { "one process at a time" };
    let integrity = if damage.is_empty() { "the file is sound".to_owned() } else { damage.join("; ") };
    Ok(vec![
        Finding { what: "store", ok: true, found: format!("{}: {survives}; {shared}", globals.store) },
        Finding { what: "integrity", ok: damage.is_empty(), found: integrity },
    ])
}
