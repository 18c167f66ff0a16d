//! Paths: where a route is, and what a request's path names.
//!
//! A path is written as in OpenAPI, with an action after a colon where there is one: `/runs/{runId}:cancel`. The router
//! underneath knows whole segments only, so actions are told apart here, and parameters are read from the end of the
//! path: it is the same under any prefix.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::error::{ApiError, ApiResult, Detail};
use super::route::RouteFacts;

/// The segments of a path below the service, and the action after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Template(&'static str);

impl Template {
    pub(crate) const fn new(path: &'static str) -> Self {
        Self(path)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        self.0
    }

    /// The path without its action, which is what the router knows.
    pub(crate) fn base(self) -> &'static str {
        self.action().map_or(self.0, |action| &self.0[..self.0.len() - action.len() - 1])
    }

    /// The action, such as `cancel`.
    pub(crate) fn action(self) -> Option<&'static str> {
        self.0.rsplit_once(':').map(|(_, action)| action)
    }

    /// The names of the parameters, in order.
    pub(crate) fn parameters(self) -> impl Iterator<Item = &'static str> {
        self.base().split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }

    /// What `path` says where the template has `name`.
    fn find(self, path: &str, name: &str) -> Option<String> {
        let path = self.action().map_or(Some(path), |action| path.strip_suffix(action)?.strip_suffix(':'))?;
        let mut segments = path.rsplit('/');
        for template in self.base().rsplit('/') {
            let segment = segments.next()?;
            if template.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) == Some(name) {
                return percent_decode_str(segment).decode_utf8().ok().map(Into::into);
            }
        }
        None
    }
}

/// The action that a request's path ends with.
pub(crate) fn action_of(path: &str) -> Option<&str> {
    let last = path.rsplit('/').next()?;
    last.rsplit_once(':').map(|(_, action)| action)
}

/// Parameters that name things: what they are called in paths, and what a thing is called that is not there.
pub(crate) trait Named: FromStr<Err = orch::Error> + Send + 'static {
    /// The name of the parameter.
    const PARAMETER: &'static str;
    /// The thing, in words.
    const WHAT: &'static str;
}

macro_rules! named {
    ($($type:ty = $parameter:literal, $what:literal;)*) => {
        $(impl Named for $type { const PARAMETER: &'static str = $parameter; const WHAT: &'static str = $what; })*
    };
}

named! {
    orch::DagId = "dagId", "dag";
    orch::RunId = "runId", "run";
    orch::StepKey = "stepId", "step";
    orch::Digest = "hash", "artifact";
    orch::engine::LeaseToken = "leaseId", "lease";
    DagVersionNumber = "version", "version";
}

/// The number of a version of a DAG.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DagVersionNumber(pub(crate) u32);

impl FromStr for DagVersionNumber {
    type Err = orch::Error;

    fn from_str(text: &str) -> orch::Result<Self> {
        match text.parse() {
            Ok(number) if number > 0 && !text.starts_with(['0', '+']) => Ok(Self(number)),
            _ => Err(orch::Error::invalid("a version is a number from 1 on")),
        }
    }
}

/// Takes a parameter from the path. What does not even look like a name names nothing: 404, as for a stranger's.
#[derive(Debug)]
pub(crate) struct At<T>(pub(crate) T);

impl<T: Named, S: Sync> FromRequestParts<S> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parameter(parts, T::PARAMETER)?.parse().map(At).map_err(|_| ApiError::not_found(T::WHAT))
    }
}

/// Takes a parameter that is no name of a known kind.
pub(crate) fn parameter(parts: &Parts, name: &'static str) -> ApiResult<String> {
    let facts = parts.extensions.get::<&'static RouteFacts>();
    let found = facts.and_then(|facts| facts.path.find(parts.uri.path(), name));
    found.ok_or_else(|| ApiError::invalid(vec![Detail::new(format!("{{{name}}}"), "the path is not UTF-8")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_under_any_prefix_and_before_any_action() {
        let cancel = Template::new("/runs/{runId}:cancel");
        assert_eq!((cancel.base(), cancel.action()), ("/runs/{runId}", Some("cancel")));
        for path in ["/runs/ab:cancel", "/x/api/v1/orchestrator/runs/ab:cancel"] {
            assert_eq!(cancel.find(path, "runId").as_deref(), Some("ab"));
            assert_eq!(action_of(path), Some("cancel"));
        }
        let step = Template::new("/runs/{runId}/steps/{stepId}");
        assert_eq!(step.parameters().collect::<Vec<_>>(), ["runId", "stepId"]);
        let path = "/p/runs/ab/steps/scan%5B3%5D";
        assert_eq!(step.find(path, "stepId").as_deref(), Some("scan[3]"));
        assert_eq!(step.find(path, "runId").as_deref(), Some("ab"));
        assert_eq!(step.find(path, "other"), None);
        assert_eq!(step.find("/runs/ab/steps/%ff", "stepId"), None);
        assert_eq!(action_of("/a:b/runs"), None);
    }
}
