//! How often a tenant, and a caller, may ask: token buckets in this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::response::Response;
use http::{HeaderName, HeaderValue};
use orch::lock::{Bucket, Take, Taken};
use orch::{TenantId, Timestamp};

use super::code::Code;
use super::error::{ApiError, ApiResult};
use super::guard::Caller;
use crate::settings::{HttpLimits, RateLimit};

/// Buckets that are kept. Beyond that the full ones are forgotten, which changes nothing: a new one is full.
const BUCKETS_MAX: usize = 100_000;

/// The buckets of tenants, and of the callers of each.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<(TenantId, Option<String>), Bucket>>);

/// What is left of a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    limit: u32,
    remaining: i64,
    /// When it is full again, in seconds since 1970.
    reset: i64,
}

impl Rates {
    /// Takes a token of the tenant's bucket, and one of the caller's. Answers what is left of the emptier one, if there are any.
    pub(crate) fn take(
        &self,
        limits: &HttpLimits,
        caller: &Caller,
        now: Timestamp,
    ) -> ApiResult<Option<Left>> {
        let asked = [(limits.tenant_rate, None), (limits.subject_rate, Some(caller.who.actor.clone()))];
        let mut left: Option<Left> = None;
        for (limit, subject) in asked {
            let Some(limit) = limit else { continue };
            let found = self.one(limit, caller.who.tenant.clone(), subject, now)?;
            left = Some(left.filter(|before| before.remaining <= found.remaining).unwrap_or(found));
        }
        Ok(left)
    }

    fn one(
        &self,
        limit: RateLimit,
        tenant: TenantId,
        subject: Option<String>,
        now: Timestamp,
    ) -> ApiResult<Left> {
        let take = Take {
            tenant: tenant.clone(),
            key: String::new(),
            tokens: 1,
            rate: limit.per_second,
            burst: limit.burst,
            now,
        };
        let mut buckets = self.lock();
        if buckets.len() >= BUCKETS_MAX {
            let fills =
                Duration::from_secs_f64((f64::from(limit.burst) / limit.per_second.max(0.001)).min(3600.0));
            buckets.retain(|_, bucket| now.since(bucket.at) < fills);
        }
        let key = (tenant, subject);
        let (after, taken) = Bucket::take(buckets.get(&key).copied(), &take)?;
        buckets.insert(key, after);
        drop(buckets);
        let missing = i64::from(limit.burst) * 1_000_000 - after.parts;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "seconds, for people"
        )]
        let fills = (missing as f64 / 1e6 / limit.per_second).ceil() as i64;
        let left = Left {
            limit: limit.burst,
            remaining: after.parts / 1_000_000,
            reset: after.at.as_micros() / 1_000_000 + fills,
        };
        match taken {
            Taken::Granted => Ok(left),
            Taken::RetryAt(at) => {
                let wait = at.since(now) + Duration::from_millis(999);
                let refused = ApiError::new(Code::RateLimited, "too many requests").retry_after(wait);
                Err(left
                    .headers()
                    .into_iter()
                    .fold(refused, |error, (name, value)| error.with_header(name, value)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, Option<String>), Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Left {
    fn headers(self) -> [(HeaderName, HeaderValue); 3] {
        [
            (HeaderName::from_static("x-ratelimit-limit"), HeaderValue::from(self.limit)),
            (HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(self.remaining)),
            (HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(self.reset)),
        ]
    }

    /// Tells a client what is left.
    pub(crate) fn tell(self, response: &mut Response) {
        response.headers_mut().extend(self.headers());
    }
}
