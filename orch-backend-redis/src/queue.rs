//! The queue: each tenant's items in a hash slot of their own, and a register of the tenants that have any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use orch::queue::*;
use orch::{Error, QueueName, Result, TenantId, Timestamp};
use uuid::Uuid;

use crate::connect::Server;
use crate::error::unexpected;
use crate::order::{instant, item_id, place, read_instant};
use crate::script::{Call, ENTER, PUSH, RENEW, SETTLE};

mod claim;
mod wake;

use wake::Wake;

/// Items in one script: others wait while it runs.
const SCRIPT_ITEMS: usize = 512;
/// Items in one answer when all are counted.
const SCAN: usize = 1_000;

/// A [`Queue`] on a Redis server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RedisQueue {
    server: Arc<Server>,
    shared: Arc<Shared>,
}

/// What the clones share.
#[derive(Debug)]
struct Shared {
    /// What the names of this handle's claims begin with, and how many there were: every delivery has its own name, also
    /// when the server has lost all it knew.
    name: String,
    claims: AtomicU64,
    /// Claims that served some tenants and failed with another.
    failures: AtomicU64,
    turns: claim::Turns,
    wake: Wake,
}

impl RedisQueue {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        let (claims, failures, turns) = Default::default();
        let wake = Wake::new(&server);
        let shared = Shared { name: fresh_name(), claims, failures, turns, wake };
        Self { server, shared: Arc::new(shared) }
    }

    pub(crate) fn close(&self) {
        self.shared.wake.close();
    }

    /// What a tenant's keys begin with.
    fn of(&self, tenant: &TenantId) -> String {
        format!("{{{}:queue:{tenant}}}", self.server.config.namespace)
    }

    /// The register of tenants that have items.
    fn register(&self) -> String {
        format!("{{{}:tenants}}", self.server.config.namespace)
    }

    fn next_name(&self) -> String {
        format!("{}.{:x}", self.shared.name, self.shared.claims.fetch_add(1, Ordering::Relaxed))
    }

    /// Where everybody is told of items.
    fn channel(&self) -> &str {
        self.shared.wake.channel()
    }

    /// Puts a tenant into the register. After its items: whoever finds the tenant empty before that strikes it off only
    /// if nobody has pushed since. It tells once more, for who was told by the push may have looked too early.
    async fn enter(&self, tenant: &TenantId) -> Result<()> {
        let mut enter = ENTER.on(&[&self.register()]);
        enter.arg(tenant.as_str()).arg(self.channel());
        enter.send::<i64>(&self.server).await.map(|_| ())
    }

    async fn push_of(&self, tenant: &TenantId, items: &[&Item]) -> Result<()> {
        let (queue, register) = (self.of(tenant), self.register());
        let in_cluster = self.server.is_cluster();
        for items in items.chunks(SCRIPT_ITEMS) {
            let mut call = match in_cluster {
                true => PUSH.on(&[&queue]),
                false => PUSH.on(&[&queue, &register]),
            };
            call.arg(tenant.as_str()).arg(self.channel());
            for item in items {
                call.arg(item_id(item)).arg(item.queue.as_str()).arg(instant(item.ready_at)).arg(place(item));
            }
            call.send::<i64>(&self.server).await?;
        }
        if in_cluster {
            self.enter(tenant).await?;
        }
        Ok(())
    }

    /// Calls a script for each tenant of the tokens and puts its answers in the order of the tokens: whether the delivery
    /// was still leased.
    async fn each_tenant(
        &self,
        tokens: &[&DeliveryToken],
        begin: impl Fn(&str) -> Call,
        fill: impl Fn(&mut Call, Named<'_>, usize),
    ) -> Result<Vec<Result<()>>> {
        let mut tenants: BTreeMap<&str, Vec<(usize, Named<'_>)>> = BTreeMap::new();
        for (at, token) in tokens.iter().enumerate() {
            if let Some(named) = Named::read(token) {
                tenants.entry(named.tenant).or_default().push((at, named));
            }
        }
        let call = |(tenant, named): (&str, Vec<(usize, Named<'_>)>)| {
            let tenant = TenantId::new(tenant);
            let calls: Vec<_> = tenant
                .map(|tenant| self.of(&tenant))
                .into_iter()
                .flat_map(|queue| {
                    let call = |named: &[(usize, Named<'_>)]| {
                        let mut call = begin(&queue);
                        named.iter().for_each(|(at, named)| fill(&mut call, *named, *at));
                        (call, named.iter().map(|(at, _)| *at).collect::<Vec<_>>())
                    };
                    named.chunks(SCRIPT_ITEMS).map(call).collect::<Vec<_>>()
                })
                .collect();
            async move {
                let mut answers = Vec::new();
                // One after the other: a delivery ends once.
                for (call, places) in calls {
                    answers.extend(places.into_iter().zip(call.send::<Vec<i64>>(&self.server).await?));
                }
                Ok::<_, Error>(answers)
            }
        };
        let answered = try_join_all(tenants.into_iter().map(call)).await?;
        let lost = |token: &&DeliveryToken| {
            Err(Error::lease_lost("delivery is no longer leased").with("token", token.as_str()))
        };
        let mut answers: Vec<_> = tokens.iter().map(lost).collect();
        for (at, _) in answered.into_iter().flatten().filter(|(_, answer)| *answer == 1) {
            answers[at] = Ok(());
        }
        Ok(answers)
    }
}

/// A name that no handle has had or will have.
#[expect(clippy::disallowed_methods, reason = "the name of a handle is drawn once, when it is made")]
pub(crate) fn fresh_name() -> String {
    Uuid::now_v7().simple().to_string()
}

/// What a token names: tenant, item and claim, with bars between.
#[derive(Clone, Copy)]
struct Named<'a> {
    tenant: &'a str,
    item: &'a str,
    claim: &'a str,
}

impl<'a> Named<'a> {
    fn read(token: &'a DeliveryToken) -> Option<Self> {
        let mut parts = token.as_str().splitn(3, '|');
        Some(Self { tenant: parts.next()?, item: parts.next()?, claim: parts.next()? })
    }

    fn token(self) -> DeliveryToken {
        DeliveryToken::new(format!("{}|{}|{}", self.tenant, self.item, self.claim))
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, items: &[Item]) -> Result<()> {
        let mut tenants: BTreeMap<&TenantId, Vec<&Item>> = BTreeMap::new();
        for item in items {
            tenants.entry(&item.tenant).or_default().push(item);
        }
        let pushes = tenants.iter().map(|(tenant, items)| self.push_of(tenant, items));
        try_join_all(pushes).await?;
        if !items.is_empty() {
            self.shared.wake.tell();
        }
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        claim::claim(self, claim).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let begin = |queue: &str| {
            let mut call = RENEW.on(&[queue]);
            call.arg(instant(now)).arg(instant(until));
            call
        };
        let fill = |call: &mut Call, named: Named<'_>, _: usize| {
            call.arg(named.item).arg(named.claim);
        };
        self.each_tenant(&tokens.iter().collect::<Vec<_>>(), begin, fill).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let begin = |queue: &str| {
            let mut call = SETTLE.on(&[queue]);
            call.arg(instant(now)).arg(self.channel());
            call
        };
        let fill = |call: &mut Call, named: Named<'_>, at: usize| {
            let release = settles[at].release_until.map_or(String::new(), instant);
            call.arg(named.item).arg(named.claim).arg(release);
        };
        let tokens: Vec<_> = settles.iter().map(|settle| &settle.token).collect();
        let answers = self.each_tenant(&tokens, begin, fill).await?;
        if settles.iter().any(|settle| settle.release_until.is_some()) {
            self.shared.wake.tell();
        }
        Ok(answers)
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        self.shared.wake.wait(timeout).await
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        let key = format!("{}:items", self.of(tenant));
        let mut depths: BTreeMap<QueueName, Depth> = BTreeMap::new();
        // An item that changes while all are looked at may be told twice.
        let mut seen = std::collections::HashSet::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(SCAN);
            let (next, found): (u64, Vec<String>) = self.server.read(&scan).await?;
            for item in found.chunks(2).filter(|item| seen.insert(item[0].clone())) {
                count(&mut depths, item.get(1).map_or("", String::as_str), now)?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(depths.into_values().collect());
            }
        }
    }
}

/// Counts an item, as the scripts keep it: end of the lease, name of the claim, count, queue and place.
fn count(depths: &mut BTreeMap<QueueName, Depth>, item: &str, now: Timestamp) -> Result<()> {
    let queued = item.splitn(3, '|').nth(2).and_then(|rest| rest.split_once(' '));
    let (queue, place) = queued.ok_or_else(|| unexpected("an item of a queue"))?;
    let queue = QueueName::new(queue)?;
    let empty = |queue| Depth { queue, ready: 0, delayed: 0, leased: 0, oldest_at: None };
    let depth = depths.entry(queue.clone()).or_insert_with(|| empty(queue));
    let ready_at = read_instant(place.get(8..).unwrap_or_default())?;
    if read_instant(item)? > now {
        depth.leased += 1;
    } else if ready_at > now {
        depth.delayed += 1;
    } else {
        depth.ready += 1;
        depth.oldest_at = Some(depth.oldest_at.map_or(ready_at, |oldest| oldest.min(ready_at)));
    }
    Ok(())
}
