//! Random operations on the backend and on the model, side by side.

use std::sync::Arc;

use orch::queue::{Claim, Delivery, DeliveryToken, Item, MemoryQueue, Queue, Settle};
use orch::{QueueName, TenantId};
use proptest::prelude::*;

use super::{LEASE, renew, settle};
use crate::Pair;
use crate::fixture::*;

#[derive(Clone, Debug)]
enum Operation {
    Push { items: Vec<(usize, i32, i64)> },
    Claim { limit: usize },
    Renew { delivery: usize, until: i64 },
    Settle { delivery: usize, release: Option<i64> },
    Pass { halves: i64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let item = (0..6usize, -1..2i32, -2..3i64);
    prop_oneof![
        3 => prop::collection::vec(item, 1..4).prop_map(|items| Operation::Push { items }),
        3 => (0..4usize).prop_map(|limit| Operation::Claim { limit }),
        1 => (0..6usize, 0..4i64).prop_map(|(delivery, until)| Operation::Renew { delivery, until }),
        2 => (0..6usize, prop::option::of(-1..4i64))
            .prop_map(|(delivery, release)| Operation::Settle { delivery, release }),
        // Mostly forward, but clocks jump.
        2 => (-1..4i64).prop_map(|halves| Operation::Pass { halves }),
    ]
}

/// One side: a queue, its clock and the tokens it gave, newest first.
#[derive(Default)]
struct Side {
    now: i64,
    tokens: Vec<DeliveryToken>,
}

impl Side {
    async fn apply(&mut self, queue: &dyn Queue, tenant: &TenantId, operation: &Operation) -> String {
        let half = LEASE / 2;
        let token = |delivery: usize| {
            let at = self.tokens.len().checked_sub(delivery + 1);
            at.map_or_else(|| DeliveryToken::new("none"), |at| self.tokens[at].clone())
        };
        match operation {
            Operation::Push { items } => {
                let items: Vec<Item> = items
                    .iter()
                    .map(|(n, priority, ready)| {
                        let ready_at = at(self.now + ready * half);
                        Item { priority: *priority, ready_at, ..item(tenant, *n) }
                    })
                    .collect();
                format!("{:?}", queue.push(&items).await.map_err(|error| error.kind()))
            }
            Operation::Claim { limit } => {
                // One tenant's one queue: between them a backend may choose.
                let queues = Some(vec![QueueName::default_queue()]);
                let asked =
                    Claim { queues, tenants: Some(vec![tenant.clone()]), ..claim(*limit, at(self.now)) };
                let deliveries = queue.claim(&asked).await.unwrap().deliveries;
                self.tokens.extend(deliveries.iter().map(|delivery| delivery.token.clone()));
                let seen = |delivery: Delivery| (delivery.item, delivery.lease_until, delivery.count);
                format!("{:?}", deliveries.into_iter().map(seen).collect::<Vec<_>>())
            }
            Operation::Renew { delivery, until } => {
                format!("{:?}", renew(queue, &token(*delivery), self.now + until * half, self.now).await)
            }
            Operation::Settle { delivery, release } => {
                let release_until = release.map(|halves| at(self.now + halves * half));
                let end = Settle { token: token(*delivery), release_until };
                format!("{:?}", settle(queue, end, self.now).await)
            }
            Operation::Pass { halves } => {
                self.now += halves * half;
                format!("{:?}", queue.depth(tenant, at(self.now)).await.unwrap())
            }
        }
    }
}

/// The same operations have the same answers as on [`MemoryQueue`], whichever process carries them out.
pub async fn differs_nowhere_from_the_model(pair: Pair<dyn Queue>) {
    let pair = Arc::new(pair);
    let operations = prop::collection::vec((operation(), 0..2usize), 1..30);
    hold(60, operations, move |tenant, operations| {
        let pair = Arc::clone(&pair);
        async move {
            let (model, mut model_side, mut side) = (MemoryQueue::new(), Side::default(), Side::default());
            for (operation, turn) in operations {
                let answer = side.apply(&**pair.of(turn), &tenant, &operation).await;
                let expected = model_side.apply(&model, &tenant, &operation).await;
                prop_assert_eq!(answer, expected, "{:?}", operation);
            }
            Ok(())
        }
    })
    .await;
}
