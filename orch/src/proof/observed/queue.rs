//! A queue that is watched, and the model of what it owes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::Observed;
use crate::error::Result;
use crate::id::{QueueName, TenantId, WorkerId};
use crate::ledger::Stream;
use crate::proof::Problem;
use crate::queue::{Claim, Claimed, DeliveryToken, Depth, Item, Queue, Settle};
use crate::time::Timestamp;

/// What makes it the same item.
type Id = (TenantId, String);

/// What a queue owes.
#[derive(Debug, Default)]
struct Model {
    items: BTreeMap<Id, Owed>,
    leases: BTreeMap<DeliveryToken, Id>,
}

#[derive(Debug)]
struct Owed {
    queue: QueueName,
    ready_at: Timestamp,
    lease: Option<(DeliveryToken, Timestamp)>,
    item: Item,
}

impl Owed {
    fn is_ready(&self, now: Timestamp) -> bool {
        self.ready_at <= now && self.lease.as_ref().is_none_or(|(_, until)| *until <= now)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Watched {
    inner: Arc<dyn Queue>,
    observed: Observed,
    model: Arc<Mutex<Model>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn Queue>, observed: Observed) -> Self {
        Self { inner, observed, model: Arc::default(), turn: Arc::default() }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self) {
        *self.model() = Model::default();
    }

    /// Takes everything that is owed, however late, so that what was forgotten shows. The queue is empty afterwards.
    pub(super) async fn drain(&self) -> Result<()> {
        let lease = Duration::from_secs(3_600);
        let micros = i64::try_from(lease.as_micros()).unwrap_or_default();
        let now = Timestamp::from_micros(Timestamp::MAX.as_micros() - 2 * micros);
        let worker = WorkerId::new("observer");
        let claim = Claim { worker, queues: None, tenants: None, limit: 1_000, lease, now };
        loop {
            let claimed = self.claim(&claim).await?;
            if claimed.deliveries.is_empty() {
                return Ok(());
            }
            let done: Vec<Settle> =
                claimed.deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
            self.settle(&done, now).await?;
        }
    }

    fn delivered(&self, claim: &Claim, claimed: &Claimed) {
        let mut model = self.model();
        for delivery in &claimed.deliveries {
            let id = (delivery.item.tenant.clone(), delivery.item.id());
            if let Some(owed) = model.items.get_mut(&id) {
                owed.lease = Some((delivery.token.clone(), delivery.lease_until));
                model.leases.insert(delivery.token.clone(), id);
            }
        }
        let mut problems = Vec::new();
        let asked = |owed: &Owed| {
            claim.queues.as_ref().is_none_or(|queues| queues.contains(&owed.queue))
                && claim.tenants.as_ref().is_none_or(|tenants| tenants.contains(&owed.item.tenant))
        };
        if claimed.deliveries.len() < claim.limit {
            let forgotten: Vec<Id> = model
                .items
                .iter()
                .filter(|(_, owed)| asked(owed) && owed.is_ready(claim.now))
                .map(|(id, _)| id.clone())
                .collect();
            for id in forgotten {
                if let Some(owed) = model.items.remove(&id) {
                    let message = format!("the hint {} is owed, and a claim did not get it", owed.item.id());
                    problems.push(Problem::new(Stream::Run(owed.item.run), 0, "not_delivered", message));
                }
            }
        }
        drop(model);
        problems.into_iter().for_each(|problem| self.observed.report(problem));
        let foreign = |tenant: &TenantId| claim.tenants.as_ref().is_some_and(|own| !own.contains(tenant));
        for delivery in claimed.deliveries.iter().filter(|delivery| foreign(&delivery.item.tenant)) {
            self.observed.foreign(&delivery.item.tenant, Stream::Run(delivery.item.run), "a hint");
        }
    }
}

#[async_trait]
impl Queue for Watched {
    async fn push(&self, items: &[Item]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.inner.push(items).await?;
        let mut model = self.model();
        for item in items {
            let owed =
                Owed { queue: item.queue.clone(), ready_at: item.ready_at, lease: None, item: item.clone() };
            model.items.entry((item.tenant.clone(), item.id())).or_insert(owed);
        }
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let _turn = self.turn.lock().await;
        let claimed = self.inner.claim(claim).await?;
        self.delivered(claim, &claimed);
        Ok(claimed)
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let _turn = self.turn.lock().await;
        let answers = self.inner.renew(tokens, until, now).await?;
        let mut model = self.model();
        for (token, _) in tokens.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
            if let Some(id) = model.leases.get(token).cloned()
                && let Some(owed) = model.items.get_mut(&id)
            {
                owed.lease = Some((token.clone(), until));
            }
        }
        Ok(answers)
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let _turn = self.turn.lock().await;
        let answers = self.inner.settle(settles, now).await?;
        let mut model = self.model();
        for (settle, _) in settles.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
            let Some(id) = model.leases.remove(&settle.token) else { continue };
            match (settle.release_until, model.items.get_mut(&id)) {
                (Some(at), Some(owed)) => {
                    owed.ready_at = at;
                    owed.lease = None;
                }
                _ => drop(model.items.remove(&id)),
            }
        }
        Ok(answers)
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        self.inner.wait(timeout).await
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.inner.depth(tenant, now).await
    }
}
