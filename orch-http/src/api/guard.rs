//! Before any handler: who asks, for which tenant, with which scope, and why.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, header};
use orch::{Identity, TenantId};

use super::code::Code;
use super::error::{ApiError, ApiResult, Detail};
use super::idempotency::{self, Met, Named};
use super::route::{Guard, RouteFacts};
use super::trace::Trace;
use crate::App;
use crate::auth::{Elevation, Principal, REASON_HEADER, Scope, TICKET_HEADER, Tenants};
use crate::stream;

/// Whoever makes a request that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The tenant, the subject, and why.
    pub(crate) who: Identity,
    pub(crate) principal: Arc<Principal>,
    pub(crate) trace: Trace,
    /// Names the request for good, if it came with an idempotency key: done again, it makes the same.
    pub(crate) request: Option<Named>,
}

impl Caller {
    /// Names what the request starts, unless the request names it itself.
    pub(crate) fn run_token(&self) -> Option<String> {
        self.request.as_ref().map(|request| request.name.clone())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| orch::Error::internal("a route without a tenant has no caller").into())
    }
}

/// What the outermost layer is to know of a request once it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) operation: &'static str,
    /// The path of its route, below the base.
    #[cfg(feature = "otel")]
    pub(crate) route: &'static str,
    pub(crate) tenant: Option<TenantId>,
    /// How long it took says how quick the service is.
    pub(crate) telling: bool,
}

/// Lets a request in, or not.
pub(crate) async fn check(
    State((app, facts)): State<(App, &'static RouteFacts)>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(facts);
    let (mut parts, body) = request.into_parts();
    if facts.endless && parts.headers.contains_key(header::UPGRADE) {
        stream::credentials(&mut parts.headers, &app.settings.tenant_headers[0]);
    }
    let (mut parts, caller) = match admit(&app, facts, parts).await {
        Ok(admitted) => admitted,
        Err(error) => return seen(facts, None, error.into_response()),
    };
    let tenant = caller.as_ref().map(|caller| caller.who.tenant.clone());
    if let Some(caller) = &caller {
        parts.extensions.insert(caller.clone());
    }
    let request = Request::from_parts(parts, body);
    let left =
        match caller.as_ref().map(|caller| app.rates.take(&app.settings.limits, caller, app.orch.now())) {
            None => None,
            Some(Ok(left)) => left,
            Some(Err(error)) => return seen(facts, tenant, error.into_response()),
        };
    let keyed = facts.idempotent_by_key && request.headers().contains_key(idempotency::HEADER);
    let mut response = match caller.filter(|_| keyed) {
        None => answer(&app, facts, request, next).await,
        Some(caller) => {
            once(&app, facts, &caller, request, next).await.unwrap_or_else(IntoResponse::into_response)
        }
    };
    if let Some(left) = left {
        left.tell(&mut response);
    }
    seen(facts, tenant, response)
}

/// Has the handler answer, in time unless it answers for as long as somebody listens, or waits for a time of its own.
async fn answer(app: &App, facts: &RouteFacts, request: Request, next: Next) -> Response {
    let answered = next.run(request);
    if facts.endless {
        return answered.await;
    }
    let busy =
        |what| ApiError::new(Code::Unavailable, what).retry_after(Duration::from_secs(1)).into_response();
    if facts.waits {
        let Some(_place) = app.waiting.enter(app.settings.limits.waiting_workers) else {
            return busy("too many workers wait for work");
        };
        return answered.await;
    }
    let Some(_place) = app.requests.enter(app.settings.limits.in_flight) else {
        return busy("too many requests are under way");
    };
    match tokio::time::timeout(app.settings.limits.request_time, answered).await {
        Ok(response) => response,
        Err(_) => ApiError::new(Code::RequestTimeout, "the request took too long").into_response(),
    }
}

/// Has the handler answer the first request with an idempotency key, and the others with that answer.
async fn once(
    app: &App,
    facts: &RouteFacts,
    caller: &Caller,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let path = request.uri().path().to_owned();
    match idempotency::claim(app, caller, &path, request, facts.endless).await? {
        Met::Answered(response) => Ok(response),
        Met::First(first) => {
            let (mut request, claim) = *first;
            request.extensions_mut().insert(Caller { request: Some(claim.named()), ..caller.clone() });
            let response = answer(app, facts, request, next).await;
            Ok(idempotency::keep(app, claim, response).await)
        }
    }
}

fn seen(facts: &'static RouteFacts, tenant: Option<TenantId>, mut response: Response) -> Response {
    let telling = !facts.endless && !facts.waits;
    response.extensions_mut().insert(Seen {
        operation: facts.operation,
        #[cfg(feature = "otel")]
        route: facts.path.as_str(),
        tenant,
        telling,
    });
    response
}

/// The caller of a request, if its route wants one.
async fn admit(app: &App, facts: &RouteFacts, parts: Parts) -> ApiResult<(Parts, Option<Caller>)> {
    let scope = match facts.guard {
        Guard::Open => return Ok((parts, None)),
        Guard::Scope(scope) => scope,
        Guard::Every(scope) => {
            let principal = app.auth.authenticate(&parts, app.orch.now()).await?;
            if principal.tenants != Tenants::Every {
                let message = "the token does not speak for every tenant";
                return Err(ApiError::new(Code::TenantForbidden, message));
            }
            return check_scope(&principal, scope).map(|()| (parts, None));
        }
    };
    let principal = app.auth.authenticate(&parts, app.orch.now()).await?;
    let tenant = tenant(app, &parts.headers, &principal)?;
    check_scope(&principal, scope)?;
    app.settings.metrics.know(&tenant);
    let (reason, ticket) = reason(scope, &parts.headers, &principal)?;
    let mut who = Identity::new(tenant, principal.subject.clone());
    who.reason = reason;
    who.ticket = ticket;
    let trace = parts.extensions.get::<Trace>().cloned().unwrap_or_else(|| Trace::of(&parts.headers));
    Ok((parts, Some(Caller { who, principal: Arc::new(principal), trace, request: None })))
}

fn check_scope(principal: &Principal, scope: Scope) -> ApiResult<()> {
    if principal.scopes.allow(scope) {
        return Ok(());
    }
    Err(ApiError::new(Code::ScopeRequired, format!("this needs the scope `{scope}`")))
}

/// The tenant that the request names, if the token speaks for it.
fn tenant(app: &App, headers: &HeaderMap, principal: &Principal) -> ApiResult<TenantId> {
    let names = &app.settings.tenant_headers;
    let mut given = names.iter().filter_map(|name| Some((name, headers.get(name)?)));
    let Some((name, value)) = given.next() else {
        let message = format!("the header {} must name a tenant", names[0]);
        return Err(ApiError::new(Code::TenantRequired, message));
    };
    if given.any(|(_, other)| other != value) || headers.get_all(name).iter().count() > 1 {
        return Err(ApiError::invalid_at(format!("{name}:"), "the request names two tenants"));
    }
    let tenant = value.to_str().ok().and_then(|text| TenantId::new(text).ok());
    tenant
        .filter(|tenant| principal.tenants.holds(tenant))
        .ok_or_else(|| ApiError::new(Code::TenantForbidden, "the token does not speak for this tenant"))
}

/// Why the request is made: what the token says, or else what the headers say.
fn reason(
    scope: Scope,
    headers: &HeaderMap,
    principal: &Principal,
) -> ApiResult<(Option<String>, Option<String>)> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().map(|text| text.trim().to_owned()));
    let mut problems = Vec::new();
    let given = |name: &'static str, most: usize| match text(name) {
        None => Ok(None),
        Some(Ok(text)) if text.is_empty() => Ok(None),
        Some(Ok(text)) if text.len() <= most => Ok(Some(text)),
        Some(_) => {
            Err(Detail::new(format!("{name}:"), format!("must hold 1 to {most} visible ASCII characters")))
        }
    };
    let reason = given(REASON_HEADER, Elevation::REASON_MAX).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let ticket = given(TICKET_HEADER, Elevation::TICKET_MAX).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let elevation = scope.elevation();
    let claimed =
        elevation.and_then(|elevation| principal.elevated.get(elevation.name)).cloned().unwrap_or_default();
    let (reason, ticket) = (claimed.reason.or(reason), claimed.ticket.or(ticket));
    if let Some(elevation) = elevation {
        let missing = |header: &str, claim: String| {
            Detail::new(format!("{header}:"), format!("`{scope}` needs the claim {claim} or this header"))
        };
        if reason.is_none() && problems.is_empty() {
            problems.push(missing(REASON_HEADER, elevation.reason_claim()));
        }
        if ticket.is_none() && elevation.needs_ticket {
            problems.push(missing(TICKET_HEADER, elevation.ticket_claim()));
        }
    }
    if problems.is_empty() {
        return Ok((reason, ticket));
    }
    let message = format!("`{scope}` is used for a stated reason only");
    Err(ApiError { details: problems, ..ApiError::new(Code::ReasonRequired, message) })
}
