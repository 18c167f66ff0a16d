//! Log lines: JSON for machines, text on a terminal, on standard error; and as JSON in the directory of telemetry.

use std::io::IsTerminal as _;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::archive::Archive;
use super::config::{Config, LogFormat};

/// Begins to log. A host that logs already goes on as it does.
///
/// # Errors
/// `Unavailable` when the directory of telemetry cannot be written to.
pub fn start(config: &Config) -> orch::Result<()> {
    let levels: Targets = config.log.level.parse().unwrap_or_else(|_| Targets::new());
    let json = match config.log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let said = match json {
        true => layer.json().flatten_event(true).with_current_span(false).boxed(),
        false => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    let archive =
        config.telemetry.directory.as_deref().map(|directory| Archive::open(directory, "logs.ndjson"));
    let kept = archive.transpose()?.map(|archive| {
        let layer = tracing_subscriber::fmt::layer().with_writer(archive);
        layer.json().flatten_event(true).with_current_span(false)
    });
    drop(tracing_subscriber::registry().with(levels).with(said).with(kept).try_init());
    Ok(())
}
