//! `orch serve`: the HTTP service, as `orch-server` is.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::Globals;
use crate::output::Out;

/// Serves until told to stop, on the places that the command line names.
#[cfg(feature = "serve")]
pub(crate) fn serve(globals: &Globals, _: &Out, words: &[OsString]) -> ExitCode {
    orch_http::server::program(arguments(globals, words))
}

/// Says what to build.
#[cfg(not(feature = "serve"))]
pub(crate) fn serve(_: &Globals, out: &Out, _: &[OsString]) -> ExitCode {
    use crate::fault::Fault;
    let fault = Fault::from(orch::Error::unsupported("this build of orch has no service"));
    let build = "cargo build --release --package orch-cli --features serve";
    fault.hint(format!("build it with the feature, `{build}`, or run `orch-server`")).report(out)
}

/// What the program of the service is told: its own words after the places that were named before.
#[cfg(any(test, feature = "serve"))]
fn arguments(globals: &Globals, words: &[OsString]) -> Vec<OsString> {
    let Globals { store, queue, lock, artifacts, .. } = globals;
    let mut arguments = vec![OsString::from("orch serve")];
    let mut named = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    if store != crate::args::STORE {
        named("--store", store.into());
    }
    for (flag, value) in [("--queue", queue), ("--lock", lock)] {
        value.iter().for_each(|value| named(flag, value.into()));
    }
    artifacts.iter().for_each(|folder| named("--artifacts", folder.into()));
    arguments.extend(words.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn the_service_is_told_the_places_that_were_named_and_its_own_words() {
        let told = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Serve { words } = &cli.command else { panic!("{line}") };
            let told = arguments(&cli.globals, words);
            told.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told("orch serve"), "orch serve");
        assert_eq!(
            told("orch --store sqlite:x.db serve --queue memory: --listen 127.0.0.1:0"),
            "orch serve --store sqlite:x.db --queue memory: --listen 127.0.0.1:0"
        );
        assert_eq!(told("orch serve token new --subject x"), "orch serve token new --subject x");
    }
}
