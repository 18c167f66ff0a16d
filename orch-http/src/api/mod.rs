//! What all resources have in common: routes and their guards, errors, bodies, pages.

pub(crate) mod body;
pub(crate) mod code;
pub(crate) mod conditional;
pub(crate) mod count;
pub(crate) mod error;
pub(crate) mod forget;
pub(crate) mod guard;
pub(crate) mod idempotency;
pub(crate) mod page;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod rate;
pub(crate) mod route;
pub(crate) mod schema;
pub(crate) mod trace;
pub(crate) mod wrap;

pub(crate) use body::{Answer, Body, Checked};
pub(crate) use error::{ApiError, ApiResult};
pub(crate) use guard::Caller;
pub(crate) use path::At;
pub(crate) use query::Query;
pub(crate) use route::{Guard, Route};
