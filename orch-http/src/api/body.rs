//! Bodies: taken with all their problems told, given as JSON.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jsonschema::Validator;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::code::Code;
use super::error::{ApiError, ApiResult, DETAILS_MAX, Detail};
use crate::App;

/// A JSON body.
///
/// A good one is read once. Only a bad one is held against its schema as well, so that all problems can be told and not
/// just the first.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + JsonSchema + 'static> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> ApiResult<Self> {
        read(&text(request, app).await?).map(Self)
    }
}

/// A JSON body of which the schema says more than its type: it is held against it before it is read.
#[derive(Debug)]
pub(crate) struct Checked<T>(pub(crate) T);

impl<T: DeserializeOwned + JsonSchema + 'static> FromRequest<App> for Checked<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> ApiResult<Self> {
        let text = text(request, app).await?;
        let value =
            serde_json::from_slice(&text).map_err(|error| ApiError::invalid_at("", error.to_string()))?;
        match problems::<T>(&value) {
            problems if problems.is_empty() => read(&text).map(Self),
            problems => Err(ApiError::invalid(problems)),
        }
    }
}

/// The text of a JSON body.
async fn text(request: Request, app: &App) -> ApiResult<Bytes> {
    check_media(request.headers())?;
    let bytes = collect(request, app.settings.limits.body_bytes).await?;
    // Where every field may be left out, so may the body.
    Ok(if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes })
}

/// The media type that a body is said to be of, without its parameters.
pub(crate) fn essence(headers: &HeaderMap) -> Option<String> {
    let media = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or(""));
    media.map(|media| media.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

fn check_media(headers: &HeaderMap) -> ApiResult<()> {
    match essence(headers).as_deref() {
        None | Some("application/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        Some(_) => Err(ApiError::new(Code::UnsupportedMediaType, "the body must be application/json")),
    }
}

/// The whole body, as far as it may be long.
pub(crate) async fn collect(request: Request, most: usize) -> ApiResult<Bytes> {
    // Nothing is unpacked here, so nothing grows when it is.
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding.as_bytes() != b"identity") {
        return Err(ApiError::new(Code::UnsupportedMediaType, "the body must not be packed"));
    }
    let body = Limited::new(request.into_body(), most);
    match body.collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() || is_too_long(error.as_ref()) => {
            Err(ApiError::new(Code::BodyTooLarge, format!("the body may hold at most {most} bytes")))
        }
        Err(_) => Err(ApiError::new(Code::InvalidRequest, "the body did not arrive whole")),
    }
}

fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<LengthLimitError>())
}

/// Reads JSON, or tells everything that is wrong with it.
pub(crate) fn read<T: DeserializeOwned + JsonSchema + 'static>(text: &[u8]) -> ApiResult<T> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let first = match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => match reader.end() {
            Ok(()) => return Ok(value),
            Err(error) => return Err(ApiError::invalid_at("", error.to_string())),
        },
        Err(error) => error,
    };
    let value: serde_json::Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => return Err(ApiError::invalid_at("", error.to_string())),
    };
    let mut problems = problems::<T>(&value);
    if problems.is_empty() {
        problems.push(Detail::new(pointer(first.path()), first.inner().to_string()));
    }
    Err(ApiError::invalid(problems))
}

/// Everything about a document that its schema does not allow.
fn problems<T: JsonSchema + 'static>(value: &serde_json::Value) -> Vec<Detail> {
    let schema = validator::<T>();
    let errors = schema.iter_errors(value).take(DETAILS_MAX + 1);
    errors.map(|error| Detail::new(error.instance_path().to_string(), error.to_string())).collect()
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |text, segment| match segment {
        Segment::Seq { index } => format!("{text}/{index}"),
        Segment::Map { key } => format!("{text}/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => text,
    })
}

/// The schemas of bodies, compiled when first needed.
static VALIDATORS: RwLock<Option<HashMap<TypeId, Arc<Validator>>>> = RwLock::new(None);

fn validator<T: JsonSchema + 'static>() -> Arc<Validator> {
    let known = VALIDATORS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.as_ref().and_then(|known| known.get(&TypeId::of::<T>())) {
        return Arc::clone(found);
    }
    drop(known);
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let options = jsonschema::options().should_validate_formats(true).offline();
    let built = options.build(schema.as_value()).expect("a schema made from a type is a schema");
    let mut known = VALIDATORS.write().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(known.get_or_insert_default().entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(built)))
}

/// A JSON answer.
#[derive(Debug)]
pub(crate) struct Answer<T>(pub(crate) StatusCode, pub(crate) T);

impl<T> Answer<T> {
    pub(crate) fn ok(value: T) -> Self {
        Self(StatusCode::OK, value)
    }

    pub(crate) fn created(value: T) -> Self {
        Self(StatusCode::CREATED, value)
    }

    pub(crate) fn accepted(value: T) -> Self {
        Self(StatusCode::ACCEPTED, value)
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(body) => (self.0, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                ApiError::from(orch::Error::internal("an answer is no json").caused_by(error)).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read by serde only")]
    struct Order {
        #[schemars(with = "super::super::schema::Slug")]
        dag: orch::DagId,
        count: u32,
    }

    #[test]
    fn all_problems_of_a_body_are_told_at_once_with_their_places() {
        let error = read::<Order>(br#"{"dag":"NO","count":"x","extra":1}"#).unwrap_err();
        let places: Vec<&str> = error.details.iter().map(|detail| detail.pointer.as_str()).collect();
        assert_eq!(error.code, Code::InvalidRequest);
        assert!(places.contains(&"/dag") && places.contains(&"/count") && places.len() == 3, "{error:?}");
        assert!(read::<Order>(br#"{"dag":"a","count":1}"#).is_ok());
        for broken in ["", "{", "[1]", r#"{"dag":"a","count":1} x"#] {
            assert_eq!(read::<Order>(broken.as_bytes()).unwrap_err().code, Code::InvalidRequest, "{broken}");
        }
    }
}
