//! `/.well-known/openapi`: what the service says of itself, to anybody.

use axum::response::IntoResponse as _;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use http::{HeaderMap, header};
use orch::Digest;
use serde_json::Value;

use crate::api::conditional::ETag;
use crate::openapi::page;

/// No script, nothing from elsewhere: a page of ours needs neither.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The document and its page.
pub(crate) fn described(document: &Value) -> (MethodRouter, MethodRouter) {
    let text = Bytes::from(serde_json::to_vec(document).unwrap_or_default());
    let html = Bytes::from(page(document));
    let tag = |text: &Bytes| ETag::new(&[&Digest::of(text).to_string()[..32]]);
    let (text_tag, html_tag) = (tag(&text), tag(&html));
    let document = get(move |headers: HeaderMap| async move {
        text_tag.answer(&headers, ([(header::CONTENT_TYPE, "application/json")], text).into_response())
    });
    let page = get(move |headers: HeaderMap| async move {
        let kind =
            [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
        html_tag.answer(&headers, (kind, html).into_response())
    });
    (document, page)
}
