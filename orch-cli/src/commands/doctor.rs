//! `orch doctor`: is everything in order here?

use std::path::Path;

use orch::lock::Holder;
use orch::store::{Capability, RunsQuery};
use orch::{Clock as _, SystemClock, TenantId, Timestamp};
use serde::Serialize;
use tokio::time::Instant;

use crate::args::Globals;
use crate::connect::{self, Address, Backends, Mode, Places, Seam};
use crate::fault::{FAILED, Fault, Result};
use crate::output::table::{table, text};
use crate::output::{Out, style};

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    /// It works, and yet something could be better.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    warning: bool,
    found: String,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(what, true, found)
    }

    fn new(what: &'static str, ok: bool, found: impl Into<String>) -> Self {
        Self { what, ok, warning: false, found: found.into() }
    }

    fn warning(what: &'static str, found: String) -> Self {
        Self { what, ok: true, warning: true, found }
    }
}

/// Before this the clock is certainly wrong: orch did not exist.
const BORN: &str = "2025-01-01T00:00:00Z";

pub(crate) async fn doctor(globals: &Globals, out: &Out) -> Result<()> {
    let mut findings = vec![Finding::good("version", env!("CARGO_PKG_VERSION")), identity(globals), clock()];
    match &globals.server {
        Some(server) => findings.extend(service(globals, server).await?),
        None => findings.extend(machine(globals).await?),
    }
    let ok = findings.iter().all(|finding| finding.ok);
    if out.json {
        out.document(&serde_json::json!({ "ok": ok, "findings": findings }));
    } else {
        let mut rows = table(&["WHAT", "STATE", "FOUND"]);
        for finding in &findings {
            rows.add_row([
                finding.what.into(),
                style::finding(finding.ok, finding.warning),
                comfy_table::Cell::from(&finding.found),
            ]);
        }
        out.line(text(&rows));
    }
    if ok { Ok(()) } else { Err(Fault::Code(FAILED)) }
}

/// Looks at what runs are carried on with here.
async fn machine(globals: &Globals) -> Result<Vec<Finding>> {
    let places = connect::places(globals)?;
    let mut findings = vec![directory("working directory", Path::new("."))];
    if let Some(artifacts) = places.artifacts(globals.artifacts.as_deref()) {
        findings.push(directory("artifacts", &artifacts));
    }
    findings.extend(seams(globals, &places).await);
    findings.push(Finding::good("sandbox", "none; process steps run only with `--sandbox none`"));
    Ok(findings)
}

/// Says what to build.
#[cfg(not(feature = "remote"))]
async fn service(_: &Globals, _: &str) -> Result<Vec<Finding>> {
    Err(crate::desk::missing())
}

/// Looks whether the service can do its work, and whether the token is good for looking at runs.
#[cfg(feature = "remote")]
async fn service(globals: &Globals, server: &str) -> Result<Vec<Finding>> {
    use orch::store::Store as _;
    let who = connect::identity(globals)?;
    let client = crate::desk::There::reach(globals, server, &who)?;
    let begun = Instant::now();
    let ready = client.ready().await;
    let took = begun.elapsed().as_millis().max(1);
    let ready = match ready {
        Ok(()) => Finding::good("service", format!("{server}: ready, answers in {took} ms")),
        Err(error) => Finding::new("service", false, format!("{server}: {error}")),
    };
    let runs = client.runs(&RunsQuery { limit: 1, ..RunsQuery::all(who.tenant) }).await;
    let token = match runs {
        Ok(_) => Finding::good("token", "may look at the runs of the tenant"),
        Err(error) => Finding::new("token", false, error.to_string()),
    };
    Ok(vec![ready, token])
}

fn identity(globals: &Globals) -> Finding {
    match connect::identity(globals) {
        Ok(who) => Finding::good("identity", format!("{} for tenant {}", who.actor, who.tenant)),
        Err(_) => Finding::new("identity", false, format!("`{}` is no tenant", globals.tenant)),
    }
}

fn clock() -> Finding {
    let now = SystemClock.now();
    let ok = BORN.parse::<Timestamp>().is_ok_and(|born| now > born);
    Finding::new("clock", ok, now.to_string())
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
    Finding::new(what, written.is_ok(), found)
}

/// Looks at each of the three.
async fn seams(globals: &Globals, places: &Places) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut backends = Backends::default();
    let mut warned: Vec<&Address> = Vec::new();
    for seam in Seam::ALL {
        let (what, address) = (seam.name(), places.get(seam));
        match address {
            Address::Memory if seam == Seam::Queue && places.store != Address::Memory => {
                findings.push(Finding::good(what, "in memory; hints are made again at every start"));
                continue;
            }
            Address::Sqlite(config) if !config.path.exists() => {
                let found = format!("{} is not there yet; the first run makes it", config.path.display());
                findings.push(Finding::good(what, found));
                continue;
            }
            _ => {}
        }
        match examine(globals, &mut backends, seam, address).await {
            Ok(found) => findings.push(Finding::good(what, found)),
            Err(error) => {
                let hint = connect::advice(&error, address).map(|hint| format!("; {hint}"));
                let found = format!("{error}{}", hint.unwrap_or_default());
                findings.push(Finding::new(what, false, found));
            }
        }
        if !warned.contains(&address) {
            warned.push(address);
            let warnings = backends.warnings().filter(|(of, _)| *of == address);
            findings.extend(warnings.map(|(_, warning)| Finding::warning(what, warning)));
        }
    }
    if let Some(backend) = backends.sqlite() {
        findings.push(match backend.integrity().await {
            Ok(damage) if damage.is_empty() => Finding::good("integrity", "the file is sound"),
            Ok(damage) => Finding::new("integrity", false, damage.join("; ")),
            Err(error) => Finding::new("integrity", false, error.to_string()),
        });
    }
    backends.close().await;
    findings
}

/// Opens one of the three, asks it something that changes nothing, and says what it promises and how long it took.
async fn examine(
    globals: &Globals,
    backends: &mut Backends,
    seam: Seam,
    address: &Address,
) -> orch::Result<String> {
    let backend = backends.get(address, Mode::Look.access()).await?;
    let (who, now) = (TenantId::new(&globals.tenant)?, SystemClock.now());
    let begun = Instant::now();
    let mut promise = String::new();
    match seam {
        Seam::Store => {
            if let Some(store) = backend.store() {
                store.runs(&RunsQuery { limit: 1, ..RunsQuery::all(who) }).await?;
                promise = promises(store.capability());
            } else {
                promise = "; gone with the process".to_owned();
            }
        }
        Seam::Queue => {
            if let Some(queue) = backend.queue() {
                let waiting: u64 =
                    queue.depth(&who, now).await?.iter().map(|depth| depth.ready + depth.delayed).sum();
                promise = format!("; {waiting} hints wait");
            }
        }
        Seam::Lock => {
            if let Some(lock) = backend.lock() {
                // Nobody has this name, and so nothing is prolonged.
                lock.renew(&[Holder { tenant: who, name: "doctor".to_owned() }], now, now).await?;
            }
        }
    }
    let took = begun.elapsed().as_millis().max(1);
    let version = backend.version().map(|version| format!(", {version}")).unwrap_or_default();
    Ok(format!("{address}{version}{promise}; answers in {took}ms"))
}

fn promises(capability: Capability) -> String {
    let survives = match (capability.survives_process, capability.survives_power_loss) {
        (_, true) => "survives loss of power",
        (true, false) => "survives the process, not loss of power",
        (false, false) => "gone with the process",
    };
    let shared = if capability.shared { "several processes may use it" } else { "one process at a time" };
    format!("; {survives}; {shared}")
}
