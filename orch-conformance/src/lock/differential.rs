//! Random operations on the backend and on the model, side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch::TenantId;
use orch::lock::{Lock, MemoryLock};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{LEASE, acquire, asks_tokens, holder, renew};
use crate::Pair;
use crate::fixture::*;

const HOLDERS: [&str; 3] = ["one", "two", "three"];
const KEYS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
enum Operation {
    Acquire { holder: &'static str, keys: Vec<&'static str>, capacity: u32 },
    Renew { holder: &'static str, halves: i64 },
    Release { holder: &'static str },
    Take { tokens: u32 },
    Pass { halves: i64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let holder = || select(&HOLDERS[..]);
    prop_oneof![
        4 => (holder(), subsequence(KEYS.to_vec(), 1..=3), 1..3u32)
            .prop_map(|(holder, keys, capacity)| Operation::Acquire { holder, keys, capacity }),
        2 => (holder(), 1..5i64).prop_map(|(holder, halves)| Operation::Renew { holder, halves }),
        1 => holder().prop_map(|holder| Operation::Release { holder }),
        1 => (1..4u32).prop_map(|tokens| Operation::Take { tokens }),
        2 => (0..3i64).prop_map(|halves| Operation::Pass { halves }),
    ]
}

#[derive(Default)]
struct Side {
    now: i64,
    /// The highest fence seen of each key, and who had it.
    fences: BTreeMap<&'static str, (u64, &'static str)>,
}

impl Side {
    async fn apply(&mut self, lock: &dyn Lock, tenant: &TenantId, operation: &Operation) -> String {
        let half = LEASE / 2;
        match operation {
            Operation::Acquire { holder: name, keys, capacity } => {
                let slots: Vec<_> = keys.iter().map(|key| (*key, *capacity)).collect();
                let grants = acquire(lock, &holder(tenant, name), &slots, self.now).await;
                // Fences are compared by whether they are new: backends count in their own way.
                let mut fresh = Vec::new();
                for (key, grant) in keys.iter().zip(grants.iter().flatten()) {
                    let highest = self.fences.entry(key).or_default();
                    fresh.push(grant.fence > highest.0);
                    if grant.fence > highest.0 {
                        *highest = (grant.fence, name);
                    }
                }
                format!(
                    "{} {fresh:?} {:?}",
                    grants.is_some(),
                    self.fences.values().map(|f| f.1).collect::<Vec<_>>()
                )
            }
            Operation::Renew { holder: name, halves } => {
                format!("{:?}", renew(lock, &holder(tenant, name), self.now + halves * half, self.now).await)
            }
            Operation::Release { holder: name } => {
                format!("{:?}", lock.release(&[holder(tenant, name)]).await.map_err(|error| error.kind()))
            }
            Operation::Take { tokens } => {
                format!("{:?}", lock.take(&asks_tokens(tenant, *tokens, 1.5, 3, self.now)).await.unwrap())
            }
            Operation::Pass { halves } => {
                self.now += halves * half;
                String::new()
            }
        }
    }
}

/// The same operations have the same answers as on [`MemoryLock`], whichever process carries them out.
pub async fn differs_nowhere_from_the_model(pair: Pair<dyn Lock>) {
    let pair = Arc::new(pair);
    let operations = prop::collection::vec((operation(), 0..2usize), 1..30);
    hold(60, operations, move |tenant, operations| {
        let pair = Arc::clone(&pair);
        async move {
            let (model, mut model_side, mut side) = (MemoryLock::new(), Side::default(), Side::default());
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
