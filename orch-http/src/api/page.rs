//! Lists: pages, and the opaque cursors between them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orch::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiResult};

/// Rows of a page that was asked for without a size.
pub(crate) const PAGE_SIZE: u32 = 50;
/// Rows of a page at most.
pub(crate) const PAGE_SIZE_MAX: u32 = 500;

/// A page of a list.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Page<T> {
    /// The rows, in the order that the list has.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_page_token: Option<String>,
}

/// Which page is asked for. Flattened into a query by hand, because flattening and refusing unknown fields do not mix.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) size: usize,
    pub(crate) after: Option<String>,
}

/// Reads `page_size` and `page_token` of a list. `list` names it and its filters: a token is good for the list that
/// made it and no other.
pub(crate) fn asked(list: &str, size: Option<u32>, token: Option<&str>) -> ApiResult<Asked> {
    let size = size.unwrap_or(PAGE_SIZE);
    if !(1..=PAGE_SIZE_MAX).contains(&size) {
        return Err(ApiError::invalid_at("?page_size", format!("a page holds 1 to {PAGE_SIZE_MAX} rows")));
    }
    let after = token.map(|token| read(list, token)).transpose()?;
    Ok(Asked { size: size as usize, after })
}

#[derive(Serialize, Deserialize)]
struct Token {
    /// The beginning of the hash of the list's name.
    l: String,
    /// Where the page begins, in the words of the list.
    a: String,
}

fn mark(list: &str) -> String {
    Digest::of(list).to_string()[..8].to_owned()
}

/// The token of the page after `after`.
pub(crate) fn token(list: &str, after: String) -> String {
    let token = serde_json::to_vec(&Token { l: mark(list), a: after }).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(token)
}

fn read(list: &str, token: &str) -> ApiResult<String> {
    let foreign =
        || ApiError::invalid_at("?page_token", "the token was not made by this list with these filters");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| foreign())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| foreign())?;
    if token.l == mark(list) { Ok(token.a) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_the_list_that_made_it_and_no_other() {
        let token = token("runs?dag=a", "x/1".to_owned());
        assert_eq!(asked("runs?dag=a", None, Some(&token)).unwrap().after.as_deref(), Some("x/1"));
        for (list, token) in [("runs?dag=b", token.as_str()), ("runs?dag=a", "e30"), ("runs?dag=a", "%%")] {
            assert!(asked(list, None, Some(token)).is_err(), "{list} {token}");
        }
        assert!(asked("runs", Some(0), None).is_err() && asked("runs", Some(501), None).is_err());
        assert_eq!(asked("runs", None, None).unwrap().size, 50);
    }
}
