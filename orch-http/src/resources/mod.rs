//! The resources: a file each, with its routes, its guards and what it says.

mod admin;
mod artifacts;
mod audit;
mod checkpoints;
pub(crate) mod dags;
mod described;
pub(crate) mod entries;
mod events;
mod exports;
mod gates;
mod graph;
mod jobs;
pub(crate) mod leases;
mod logs;
pub(crate) mod prunings;
mod queues;
pub(crate) mod runs;
mod signals;
mod steps;
mod streams;
mod workers;

use crate::api::Route;

pub(crate) use described::described;

/// All routes.
pub(crate) fn routes() -> Vec<Route> {
    let resources = [
        admin::routes(),
        artifacts::routes(),
        audit::routes(),
        checkpoints::routes(),
        dags::routes(),
        events::routes(),
        exports::routes(),
        gates::routes(),
        graph::routes(),
        jobs::routes(),
        leases::routes(),
        logs::routes(),
        prunings::routes(),
        queues::routes(),
        runs::routes(),
        signals::routes(),
        steps::routes(),
        streams::routes(),
        workers::routes(),
    ];
    resources.into_iter().flatten().collect()
}
