//! The OpenAPI 3.1 document, made from the table of routes and the types of bodies.

mod page;

use std::collections::BTreeMap;

use http::StatusCode;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::BASE;
use crate::api::Guard;
use crate::api::code::Code;
use crate::api::error::ErrorBody;
use crate::api::route::{JSON, Route, RouteFacts, Shape};
use crate::auth::Scope;

pub(crate) use page::page;

/// The document of these routes.
pub(crate) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<ErrorBody>();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for Route { facts, .. } in routes {
        let path = format!("{BASE}{}", facts.path.as_str());
        let method = facts.method.as_str().to_ascii_lowercase();
        paths.entry(path).or_default().insert(method, operation(facts, &mut generator));
    }
    let schemas: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "orch",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Runs of DAGs, executed in one deterministic order, with a record that proves what happened.",
        },
        "servers": [{ "url": "/", "description": "the service, or the prefix that a host mounts it under" }],
        "tags": tags(routes),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": format!("An access token. Scopes: {}", scopes()),
                },
            },
        },
    })
}

/// The scopes and what they allow, in one text.
fn scopes() -> String {
    let one = |scope: &Scope| format!("`{scope}`: {}", scope.meaning());
    Scope::ALL.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The first segment of a path names its resource.
fn tag(facts: &RouteFacts) -> &'static str {
    facts.path.base().trim_start_matches('/').split('/').next().unwrap_or("")
}

fn tags(routes: &[Route]) -> Vec<Value> {
    let mut names: Vec<&str> = routes.iter().map(|route| tag(&route.facts)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| json!({ "name": name })).collect()
}

fn operation(facts: &RouteFacts, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": facts.operation,
        "summary": facts.summary,
        "tags": [tag(facts)],
        "parameters": parameters(facts),
        "responses": responses(facts, generator),
    });
    operation["security"] = match facts.guard {
        Guard::Open => json!([]),
        Guard::Scope(scope) | Guard::Every(scope) => json!([{ "bearer": [scope.as_str()] }]),
    };
    if let Some((media, shape)) = facts.body {
        let schema = (shape.0)(generator).to_value();
        let content = media.iter().map(|media| match *media {
            JSON => {
                let mut content = json!({ "schema": schema });
                if let Some(example) = facts.example {
                    content["example"] = serde_json::from_str(example).expect("a test reads every example");
                }
                (JSON.to_owned(), content)
            }
            other => (other.to_owned(), json!({ "schema": { "type": "string" } })),
        });
        operation["requestBody"] = json!({ "required": true, "content": content.collect::<Map<_, _>>() });
    }
    operation
}

fn parameters(facts: &RouteFacts) -> Vec<Value> {
    let path = facts
        .path
        .parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": named(name) }));
    let mut parameters: Vec<Value> = path.collect();
    parameters.extend(facts.query.into_iter().flat_map(query));
    let header = |name: &str, required: bool, said: &str, schema: Value| json!({ "name": name, "in": "header", "required": required, "description": said, "schema": schema });
    if let Guard::Scope(scope) = facts.guard {
        let slug = json!({ "type": "string", "pattern": crate::api::schema::SLUG });
        parameters.push(header("X-Stella-Tenant", true, "The tenant that the request is about.", slug));
        if let Some(elevation) = scope.elevation() {
            let text = |most: usize| json!({ "type": "string", "minLength": 1, "maxLength": most });
            let reason = "Why, for the record; needed unless the token says it.";
            parameters.push(header("X-Stella-Operator-Reason", false, reason, text(256)));
            let ticket = match elevation.needs_ticket {
                true => "Which ticket asks for it; needed unless the token says it.",
                false => "Which ticket asks for it.",
            };
            parameters.push(header("X-Stella-Operator-Ticket", false, ticket, text(128)));
        }
    }
    if facts.idempotent_by_key {
        let key = json!({ "type": "string", "minLength": 1, "maxLength": 255 });
        let said =
            "Names the request: sent again with the same key it is answered as the first time, for a day.";
        parameters.push(header("Idempotency-Key", false, said, key));
    }
    parameters
}

/// The schema of a parameter of a path.
fn named(name: &str) -> Value {
    use crate::api::schema;
    let mut generator = SchemaGenerator::default();
    match name {
        "runId" => generator.subschema_for::<schema::RunId>().to_value(),
        "stepId" => generator.subschema_for::<schema::StepKey>().to_value(),
        "hash" => generator.subschema_for::<schema::Hash>().to_value(),
        "version" => json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
        _ => generator.subschema_for::<schema::Slug>().to_value(),
    }
}

/// The properties of a type as parameters of the query.
fn query(shape: Shape) -> Vec<Value> {
    let mut generator =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema = (shape.0)(&mut generator).to_value();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let parameter = |(name, mut schema): (String, Value)| {
        let said = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        drop_null(&mut schema);
        let needed = required.contains(&Value::from(name.as_str()));
        json!({ "name": name, "in": "query", "required": needed, "description": said, "schema": schema })
    };
    properties.into_iter().map(parameter).collect()
}

/// A parameter that is left out is left out: there is no null in a query.
fn drop_null(schema: &mut Value) {
    if let Some(types) = schema.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|word| word != "null");
        if let [only] = &types[..] {
            schema["type"] = only.clone();
        }
    }
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.retain(|word| !word.is_null());
    }
    if let Some(choices) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = &choices[..] {
            *schema = only.clone();
        }
    }
}

fn responses(facts: &RouteFacts, generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut responses = Map::new();
    for good in &facts.good {
        let said = good.status.canonical_reason().unwrap_or("done");
        let response =
            responses.entry(good.status.as_str()).or_insert_with(|| json!({ "description": said }));
        // What has no media type has no body.
        if good.status != StatusCode::SWITCHING_PROTOCOLS && !good.media.is_empty() {
            let schema = good
                .shape
                .map_or_else(|| json!({ "type": "string" }), |shape| (shape.0)(generator).to_value());
            response["content"][good.media] = json!({ "schema": schema });
        }
    }
    let mut bad: BTreeMap<StatusCode, Vec<Code>> = BTreeMap::new();
    for code in codes(facts) {
        bad.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in bad {
        let said: Vec<String> =
            codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.meaning())).collect();
        let example = json!({ "error": {
            "code": codes[0].as_str(),
            "message": codes[0].meaning(),
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        } });
        let schema = json!({ "$ref": "#/components/schemas/ErrorBody" });
        let body = json!({ "schema": schema, "example": example });
        let response = json!({ "description": said.join(" "), "content": { JSON: body } });
        responses.entry(status.as_str()).or_insert(response);
    }
    responses
}

/// Everything a route may answer when something is wrong.
pub(crate) fn codes(facts: &RouteFacts) -> Vec<Code> {
    let mut codes = vec![Code::InvalidRequest, Code::RequestTimeout, Code::Internal, Code::Unavailable];
    if let Guard::Scope(scope) = facts.guard {
        codes.extend([
            Code::Unauthenticated,
            Code::TenantRequired,
            Code::TenantForbidden,
            Code::ScopeRequired,
        ]);
        codes.extend(scope.elevation().map(|_| Code::ReasonRequired));
        codes.extend([Code::LedgerCorrupt, Code::Indeterminate, Code::RateLimited]);
    }
    if let Guard::Every(_) = facts.guard {
        codes.extend([Code::Unauthenticated, Code::TenantForbidden, Code::ScopeRequired]);
    }
    if facts.body.is_some() {
        codes.extend([Code::BodyTooLarge, Code::UnsupportedMediaType]);
    }
    if facts.idempotent_by_key {
        codes.extend([Code::IdempotencyInProgress, Code::IdempotencyKeyReused]);
    }
    codes.extend(facts.codes);
    codes.sort_unstable();
    codes.dedup();
    codes
}
