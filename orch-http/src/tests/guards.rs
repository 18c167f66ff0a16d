//! Every route against everybody who must not pass, from the table that the routes are made of.

use http::{Method, StatusCode};
use serde_json::json;

use super::{FULL, STRANGER, Service, ask, only};
use crate::api::Guard;
use crate::api::route::RouteFacts;
use crate::auth::Scope;
use crate::resources::routes;

/// The path of a route with things in it that are nowhere.
pub(super) fn somewhere(facts: &RouteFacts) -> String {
    let mut path = facts.path.as_str().to_owned();
    for name in facts.path.parameters() {
        let value = match name {
            "runId" => "0123456789abcdef0123456789abcdef",
            "version" => "1",
            "leaseId" => "bm93aGVyZQ",
            "exportId" => "0123456789abcdef-0123456789abcdef",
            "hash" => "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            _ => "nowhere",
        };
        path = path.replace(&format!("{{{name}}}"), value);
    }
    path
}

fn body(facts: &RouteFacts) -> Option<serde_json::Value> {
    (facts.method == Method::POST).then(|| json!({}))
}

fn guarded() -> Vec<(RouteFacts, Scope)> {
    let facts = routes().into_iter().map(|route| route.facts);
    let scope = |facts: RouteFacts| match facts.guard {
        Guard::Open | Guard::Every(_) => None,
        Guard::Scope(scope) => Some((facts, scope)),
    };
    facts.filter_map(scope).collect()
}

#[tokio::test]
async fn nobody_passes_without_a_good_token() {
    let service = Service::start().await;
    for (facts, _) in guarded() {
        let path = somewhere(&facts);
        for token in [None, Some("wrong"), Some("")] {
            let answer =
                service.send(ask(facts.method.clone(), &path, token, Some("acme"), body(&facts))).await;
            assert_eq!(
                (answer.status, answer.code()),
                (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
                "{path}"
            );
            assert!(answer.headers.contains_key("www-authenticate"), "{path}");
        }
    }
}

#[tokio::test]
async fn nobody_passes_with_another_scope() {
    let service = Service::start().await;
    for (facts, scope) in guarded() {
        let path = somewhere(&facts);
        for other in Scope::ALL {
            let implied = *other == Scope::Admin && matches!(scope, Scope::Read | Scope::Write);
            if *other == scope || implied {
                continue;
            }
            let token = only(*other);
            let answer = service
                .send(ask(facts.method.clone(), &path, Some(&token), Some("acme"), body(&facts)))
                .await;
            assert_eq!(
                (answer.status, answer.code()),
                (StatusCode::FORBIDDEN, "SCOPE_REQUIRED"),
                "{path} {other}"
            );
        }
    }
}

#[tokio::test]
async fn t1_nobody_passes_without_a_tenant_or_with_anothers() {
    let service = Service::start().await;
    for (facts, _) in guarded() {
        let path = somewhere(&facts);
        for (tenant, code) in [
            (None, "TENANT_REQUIRED"),
            (Some("stranger"), "TENANT_FORBIDDEN"),
            (Some("nobody"), "TENANT_FORBIDDEN"),
            (Some("NOT A TENANT"), "TENANT_FORBIDDEN"),
        ] {
            let answer =
                service.send(ask(facts.method.clone(), &path, Some(FULL), tenant, body(&facts))).await;
            assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, code), "{path} {tenant:?}");
        }
    }
}

#[tokio::test]
async fn t1_what_belongs_to_another_tenant_looks_like_what_is_not_there() {
    let service = Service::start().await;
    let order = json!({ "dagId": "hello", "inputs": { "name": "you" } });
    let run = service.post("/runs", order).await.expect(StatusCode::CREATED)["runId"].clone();
    let run = run.as_str().unwrap();
    for (facts, _) in
        guarded().into_iter().filter(|(facts, _)| facts.path.parameters().any(|name| name == "runId"))
    {
        let unknown = somewhere(&facts);
        let real = unknown.replace("0123456789abcdef0123456789abcdef", run);
        let ask =
            |path: &str| ask(facts.method.clone(), path, Some(STRANGER), Some("stranger"), body(&facts));
        let (unknown, real) = (service.send(ask(&unknown)).await, service.send(ask(&real)).await);
        assert_eq!(unknown.status, real.status, "{}", facts.path.as_str());
        let plain = |answer: super::Answered| {
            let trace = answer.headers["x-stella-trace-id"].to_str().unwrap().to_owned();
            answer.text.replace(&trace, "").replace(run, "0123456789abcdef0123456789abcdef")
        };
        assert_eq!(plain(unknown), plain(real), "{}", facts.path.as_str());
    }
}

#[tokio::test]
async fn elevated_actions_need_a_reason_and_a_ticket_of_good_length() {
    let service = Service::start().await;
    for (facts, scope) in guarded() {
        let Some(elevation) = scope.elevation() else { continue };
        let path = somewhere(&facts);
        let request = || ask(facts.method.clone(), &path, Some(FULL), Some("acme"), body(&facts));
        let mut silent = request();
        silent.headers_mut().remove("x-stella-operator-reason");
        let mut long = request();
        long.headers_mut().insert("x-stella-operator-reason", "x".repeat(257).parse().unwrap());
        let mut untold = request();
        untold.headers_mut().remove("x-stella-operator-ticket");
        for (wrong, request) in [(true, silent), (true, long), (elevation.needs_ticket, untold)] {
            let answer = service.send(request).await;
            assert_eq!(answer.code() == "REASON_REQUIRED", wrong, "{path} {}", answer.text);
        }
    }
}

#[tokio::test]
async fn whoever_has_the_right_token_passes() {
    let service = Service::start().await;
    for (facts, scope) in guarded() {
        let path = somewhere(&facts);
        if facts.endless {
            continue;
        }
        let answer = service
            .send(ask(facts.method.clone(), &path, Some(&only(scope)), Some("acme"), body(&facts)))
            .await;
        let kept_out = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        assert!(
            !kept_out.contains(&answer.status) && !answer.status.is_server_error(),
            "{path} {}",
            answer.text
        );
        assert_ne!(answer.code(), "REASON_REQUIRED", "{path}");
    }
}

#[test]
fn every_route_has_a_name_of_its_own_and_says_what_it_does_and_gives() {
    let mut names = std::collections::BTreeSet::new();
    for facts in routes().into_iter().map(|route| route.facts) {
        assert!(names.insert(facts.operation), "{} is taken", facts.operation);
        assert!(facts.summary.ends_with('.'), "{} says nothing", facts.operation);
        assert!(!facts.good.is_empty(), "{} gives nothing", facts.operation);
        let post = facts.method != Method::POST || facts.body.is_some() || facts.path.action().is_some();
        assert!(post, "{} takes nothing", facts.operation);
    }
}
