//! The resources: a file each, with its routes, its guards and what it says.

mod admin;
mod artifacts;
mod audit;
mod dags;
mod described;
mod entries;
mod events;
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
        dags::routes(),
        events::routes(),
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
