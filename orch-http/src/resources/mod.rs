//! The resources: a file each, with its routes, its guards and what it says.

mod admin;
mod queues;
mod runs;
mod steps;

use crate::api::Route;

/// All routes.
pub(crate) fn routes() -> Vec<Route> {
    [admin::routes(), queues::routes(), runs::routes(), steps::routes()].into_iter().flatten().collect()
}
