//! Parameters of the query, read with all their problems told.

use axum::extract::FromRequestParts;
use http::request::Parts;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::body;
use super::error::{ApiError, ApiResult, Detail};

/// The query of a request: a type whose fields are optional and read from text.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + JsonSchema + 'static, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        read(parts.uri.query().unwrap_or("")).map(Self)
    }
}

fn read<T: DeserializeOwned + JsonSchema + 'static>(query: &str) -> ApiResult<T> {
    let mut fields = Map::new();
    let mut twice = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = typed(&name, value.into_owned());
        if fields.insert(name.clone().into_owned(), value).is_some() {
            twice.push(Detail::new(format!("?{name}"), "the parameter is given twice"));
        }
    }
    let text = serde_json::to_vec(&Value::Object(fields)).unwrap_or_default();
    let read = body::read(&text).map_err(|error| {
        let at = |pointer: &str| format!("?{}", pointer.trim_start_matches('/'));
        let details =
            error.details.into_iter().map(|detail| Detail { pointer: at(&detail.pointer), ..detail });
        details.collect::<Vec<_>>()
    });
    match read {
        Ok(value) if twice.is_empty() => Ok(value),
        Ok(_) => Err(ApiError::invalid(twice)),
        Err(problems) => Err(ApiError::invalid(twice.into_iter().chain(problems).collect())),
    }
}

/// Numbers and booleans of parameters that are such.
fn typed(name: &str, value: String) -> Value {
    match name {
        "page_size" | "after" | "version" | "wait" => {
            value.parse::<u64>().map_or(Value::String(value), Into::into)
        }
        "active" | "follow" => value.parse::<bool>().map_or(Value::String(value), Into::into),
        _ => Value::String(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct List {
        #[schemars(range(min = 1, max = 500))]
        page_size: Option<u32>,
        status: Option<String>,
    }

    #[test]
    fn unknown_repeated_and_malformed_parameters_are_all_told() {
        let good: List = read("page_size=7&status=a%20b").unwrap();
        assert_eq!(good, List { page_size: Some(7), status: Some("a b".to_owned()) });
        let error = read::<List>("page_size=x&status=a&status=b&other=1").unwrap_err();
        let places: Vec<&str> = error.details.iter().map(|detail| detail.pointer.as_str()).collect();
        assert!(places.contains(&"?page_size") && places.contains(&"?status"), "{error:?}");
        assert!(error.details.iter().any(|detail| detail.message.contains("other")), "{error:?}");
    }
}
