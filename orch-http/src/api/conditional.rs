//! Conditional requests (RFC 9110, section 13): a document is sent again only if it has changed, and changed only if it is
//! still what its caller has seen.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::code::Code;
use super::error::{ApiError, ApiResult};

/// The name of a state of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ETag(String);

impl ETag {
    /// Names a state by what makes it different from all others: hashes, numbers, words.
    pub(crate) fn new(parts: &[&str]) -> Self {
        Self(format!("\"{}\"", parts.join("-")))
    }

    /// Whether a header names this state; nothing without the header.
    fn named_by(&self, headers: &HeaderMap, name: HeaderName) -> Option<bool> {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).peekable();
        values.peek()?;
        let mut tags =
            values.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        Some(tags.any(|tag| tag == "*" || tag == self.0))
    }

    /// Lets a change through unless its caller has seen another state.
    pub(crate) fn check(&self, headers: &HeaderMap) -> ApiResult<()> {
        match self.named_by(headers, header::IF_MATCH) {
            Some(false) => Err(ApiError::new(Code::PreconditionFailed, "it has changed since it was read")),
            Some(true) | None => Ok(()),
        }
    }

    /// The answer with this state, or that nothing has changed.
    pub(crate) fn answer(&self, headers: &HeaderMap, answer: impl IntoResponse) -> Response {
        let mut response = match self.named_by(headers, header::IF_NONE_MATCH) {
            Some(true) => StatusCode::NOT_MODIFIED.into_response(),
            Some(false) | None => answer.into_response(),
        };
        if let Ok(tag) = HeaderValue::from_str(&self.0) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        let revalidate = HeaderValue::from_static("private, no-cache");
        response.headers_mut().insert(header::CACHE_CONTROL, revalidate);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_among_the_named_ones() {
        let tag = ETag::new(&["a", "1"]);
        let headers = |value: &str| HeaderMap::from_iter([(header::IF_MATCH, value.parse().unwrap())]);
        for good in ["\"a-1\"", "*", "\"x\", \"a-1\"", "W/\"a-1\""] {
            assert!(tag.check(&headers(good)).is_ok(), "{good}");
        }
        assert_eq!(tag.check(&headers("\"a-2\"")).unwrap_err().code, Code::PreconditionFailed);
        assert!(tag.check(&HeaderMap::new()).is_ok());
    }
}
