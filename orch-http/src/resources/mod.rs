//! The resources: a file each, with its routes, its guards and what it says.

mod admin;
mod artifacts;
mod audit;
mod checkpoints;
mod dags;
mod described;
mod entries;
mod events;
mod exports;
mod gates;
mod graph;
mod jobs;
mod leases;
mod logs;
mod queues;
mod runs;
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
        queues::routes(),
        runs::routes(),
        signals::routes(),
        steps::routes(),
        streams::routes(),
        workers::routes(),
    ];
    resources.into_iter().flatten().collect()
}
