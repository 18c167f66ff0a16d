//! Claiming: tenants take turns, and each tenant's items come in their order.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use futures::future::join_all;
use orch::queue::*;
use orch::{Error, Result, TenantId, Timestamp};

use super::{Named, RedisQueue};
use crate::error::unexpected;
use crate::order::{instant, item_id, read_instant, read_place};
use crate::script::{CLAIM, FORGET_TENANT};

/// Which tenant was served last.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Option<TenantId>>);

impl Turns {
    fn last(&self) -> Option<TenantId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn served(&self, tenant: &TenantId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tenant.clone());
    }
}

/// What one tenant's queue answered.
struct Served {
    tenant: TenantId,
    deliveries: Vec<Delivery>,
    next_at: Option<Timestamp>,
    /// Whether it had fewer than it was asked for.
    exhausted: bool,
    /// Whether it kept back what it had.
    more: bool,
}

pub(super) async fn claim(queue: &RedisQueue, claim: &Claim) -> Result<Claimed> {
    let mut claimed = Claimed::default();
    if claim.limit == 0 || claim.queues.as_ref().is_some_and(Vec::is_empty) {
        return Ok(claimed);
    }
    let (mut left, mut failed) = (tenants(queue, claim).await?, Vec::new());
    while claimed.deliveries.len() < claim.limit && !left.is_empty() {
        let wanted = claim.limit - claimed.deliveries.len();
        let shares = shares(&left, queue.shared.turns.last().as_ref(), wanted);
        let serve =
            shares.iter().map(|(tenant, share)| serve(queue, claim, tenant, *share, left[tenant].as_deref()));
        for served in join_all(serve).await {
            let served = match served {
                Ok(served) => served,
                Err(error) => {
                    failed.push(error);
                    continue;
                }
            };
            claimed.more |= served.more;
            claimed.next_at = claimed.next_at.into_iter().chain(served.next_at).min();
            if !served.deliveries.is_empty() {
                queue.shared.turns.served(&served.tenant);
            }
            if served.exhausted {
                left.remove(&served.tenant);
            }
            claimed.deliveries.extend(served.deliveries);
        }
        if !failed.is_empty() {
            break;
        }
    }
    match failed.into_iter().next() {
        Some(error) if claimed.deliveries.is_empty() => Err(error),
        // What is leased already would be lost until its lease ends. When nothing else is left, the error is answered.
        Some(error) => {
            let failures = queue.shared.failures.fetch_add(1, Ordering::Relaxed) + 1;
            if failures.is_power_of_two() {
                let address = queue.server.config.address();
                tracing::warn!(address, %error, failures, "a tenant's queue cannot be read; others are served");
            }
            Ok(claimed)
        }
        None => Ok(claimed),
    }
}

/// The tenants that may have items, each with the number of its last push as it stands in the register.
async fn tenants(queue: &RedisQueue, claim: &Claim) -> Result<BTreeMap<TenantId, Option<String>>> {
    if let Some(tenants) = &claim.tenants {
        return Ok(tenants.iter().map(|tenant| (tenant.clone(), None)).collect());
    }
    let mut range = redis::cmd("ZRANGE");
    range.arg(queue.register()).arg(0).arg(-1).arg("WITHSCORES");
    let found: Vec<(String, String)> = queue.server.read(&range).await?;
    found.into_iter().map(|(tenant, pushes)| Ok((TenantId::new(tenant)?, Some(pushes)))).collect()
}

/// How many items each tenant may get of `wanted`, in turn: the tenants after the last one served, then those before.
fn shares(
    tenants: &BTreeMap<TenantId, Option<String>>,
    last: Option<&TenantId>,
    wanted: usize,
) -> Vec<(TenantId, usize)> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let turn = tenants.range::<TenantId, _>((after, Bound::Unbounded));
    let begin = last.map(|last| tenants.range::<TenantId, _>((Bound::Unbounded, Bound::Included(last))));
    let order = turn.chain(begin.into_iter().flatten()).map(|(tenant, _)| tenant.clone());
    let (each, rest) = (wanted / tenants.len(), wanted % tenants.len());
    let share = |(at, tenant)| (tenant, each + usize::from(at < rest));
    order.enumerate().map(share).filter(|(_, share)| *share > 0).collect()
}

async fn serve(
    queue: &RedisQueue,
    claim: &Claim,
    tenant: &TenantId,
    share: usize,
    pushes: Option<&str>,
) -> Result<Served> {
    let (lease_until, name) = (claim.now.plus(claim.lease), queue.next_name());
    let mut call = CLAIM.on(&[&queue.of(tenant)]);
    call.arg(instant(claim.now)).arg(instant(lease_until)).arg(share).arg(&name);
    for queue in claim.queues.iter().flatten() {
        call.arg(queue.as_str());
    }
    let answer: Vec<String> = call.send(&queue.server).await?;
    let [next_at, fullness, items @ ..] = &answer[..] else {
        return Err(unexpected("a claim without a head"));
    };
    let next_at = Some(next_at).filter(|at| !at.is_empty()).map(|at| read_instant(at)).transpose()?;
    let deliver = |item: &[String]| {
        let [queue, place, count] = item else { return Err(unexpected("a delivery without a count")) };
        let item = read_place(tenant, queue, place)?;
        let token = Named { tenant: tenant.as_str(), item: &item_id(&item), claim: &name }.token();
        let count = count.parse().map_err(|_| unexpected("a count that does not read"))?;
        Ok(Delivery { item, token, lease_until, count })
    };
    let deliveries = items.chunks(3).map(deliver).collect::<Result<Vec<_>>>()?;
    if fullness == "0"
        && let Some(pushes) = pushes
    {
        forget(queue, tenant, pushes).await?;
    }
    let (exhausted, more) = (deliveries.len() < share, fullness == "2");
    Ok(Served { tenant: tenant.clone(), exhausted, more, deliveries, next_at })
}

/// Strikes a tenant off the register that has no items any more.
async fn forget(queue: &RedisQueue, tenant: &TenantId, pushes: &str) -> Result<()> {
    let mut call = FORGET_TENANT.on(&[&queue.register()]);
    call.arg(tenant.as_str()).arg(pushes);
    call.send::<i64>(&queue.server).await.map(|_| ()).map_err(|error: Error| error.during("queue.claim"))
}
