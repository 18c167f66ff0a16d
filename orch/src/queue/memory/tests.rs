//! The queue against a list that is looked through from beginning to end.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::digest::Digest;

#[derive(Clone, Debug)]
enum Operation {
    Push {
        tenant: usize,
        queue: usize,
        number: u32,
        priority: i32,
        ready_at: i64,
    },
    Claim {
        queues: Option<Vec<usize>>,
        tenants: Option<Vec<usize>>,
        limit: usize,
    },
    Renew {
        delivery: usize,
        until: i64,
    },
    Settle {
        delivery: usize,
        release: Option<i64>,
    },
    /// Mostly forward, but clocks jump.
    Pass {
        micros: i64,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let some = || prop::option::of(subsequence(vec![0usize, 1, 2], 0..=3));
    prop_oneof![
        6 => (0..3usize, 0..3usize, 0..9u32, -1..2i32, 0..8i64).prop_map(
            |(tenant, queue, number, priority, ready_at)| Operation::Push {
                tenant, queue, number, priority, ready_at
            }
        ),
        4 => (some(), some(), 0..5usize)
            .prop_map(|(queues, tenants, limit)| Operation::Claim { queues, tenants, limit }),
        1 => (0..6usize, 0..9i64).prop_map(|(delivery, until)| Operation::Renew { delivery, until }),
        3 => (0..6usize, prop::option::of(0..9i64))
            .prop_map(|(delivery, release)| Operation::Settle { delivery, release }),
        2 => (-2..4i64).prop_map(|micros| Operation::Pass { micros }),
    ]
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(["a", "b", "c"][number]).unwrap()
}

fn queue(number: usize) -> QueueName {
    QueueName::new(["x", "y", "z"][number]).unwrap()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_000 + micros)
}

/// How long a claim leases, in microseconds.
const LEASE: i64 = 3;

#[derive(Default)]
struct List {
    items: Vec<Row>,
    turn: Option<TenantId>,
    now: i64,
}

struct Row {
    item: Item,
    /// The number of the delivery and when its lease ends.
    lease: Option<(usize, Timestamp)>,
}

impl List {
    fn claim(&mut self, claim: &Claim, delivered: &mut usize) -> Vec<Item> {
        for row in &mut self.items {
            row.lease = row.lease.filter(|(_, until)| *until > claim.now);
        }
        let asked = |item: &Item| {
            claim.queues.as_ref().is_none_or(|queues| queues.contains(&item.queue))
                && claim.tenants.as_ref().is_none_or(|tenants| tenants.contains(&item.tenant))
        };
        let mut taken = Vec::new();
        while taken.len() < claim.limit {
            let turn = self.turn.clone();
            let ready = self
                .items
                .iter_mut()
                .filter(|row| row.lease.is_none() && row.item.ready_at <= claim.now && asked(&row.item));
            let next = ready.min_by_key(|row| {
                (turn.as_ref() >= Some(&row.item.tenant), row.item.tenant.clone(), row.item.clone())
            });
            let Some(row) = next else { break };
            row.lease = Some((*delivered, claim.now.plus(claim.lease)));
            *delivered += 1;
            self.turn = Some(row.item.tenant.clone());
            taken.push(row.item.clone());
        }
        taken
    }

    fn leased(&mut self, delivery: Option<usize>) -> Option<usize> {
        let now = at(self.now);
        self.items
            .iter()
            .position(|row| row.lease.is_some_and(|(number, until)| Some(number) == delivery && until > now))
    }

    fn depth(&self, tenant: &TenantId) -> Vec<Depth> {
        let now = at(self.now);
        let depth = |queue: QueueName| {
            let mut depth = Depth { queue, ready: 0, delayed: 0, leased: 0, oldest_at: None };
            for row in &self.items {
                if row.item.queue != depth.queue || row.item.tenant != *tenant {
                    continue;
                }
                let ready_at = row.item.ready_at;
                if row.lease.is_some_and(|(_, until)| until > now) {
                    depth.leased += 1;
                } else if ready_at > now {
                    depth.delayed += 1;
                } else {
                    depth.ready += 1;
                    depth.oldest_at = Some(depth.oldest_at.map_or(ready_at, |oldest| oldest.min(ready_at)));
                }
            }
            depth
        };
        let depths = (0..3).map(queue).map(depth);
        depths.filter(|depth| depth.ready + depth.delayed + depth.leased > 0).collect()
    }
}

fn item(tenant_number: usize, queue_number: usize, number: u32, priority: i32, ready_at: Timestamp) -> Item {
    let (tenant, dag) = (tenant(tenant_number), DagId::new("dag").unwrap());
    Item {
        run: RunId::derive(&tenant, &dag, &number.to_string(), &Digest::ZERO),
        queue: queue(queue_number),
        plan_index: 0,
        step: crate::id::StepId::new("step").unwrap().into(),
        attempt: 1,
        tenant,
        priority,
        ready_at,
        dag,
    }
}

/// Applies one operation to both and compares what they answer.
fn apply(
    operation: Operation,
    state: &mut State,
    list: &mut List,
    tokens: &mut Vec<DeliveryToken>,
) -> std::result::Result<(), TestCaseError> {
    let now = at(list.now);
    let nth = |delivery: usize, tokens: &[DeliveryToken]| tokens.len().checked_sub(delivery + 1);
    let token = |number: Option<usize>, tokens: &[DeliveryToken]| {
        number.map_or_else(|| DeliveryToken::new("none"), |number| tokens[number].clone())
    };
    match operation {
        Operation::Push { tenant, queue, number, priority, ready_at } => {
            let item = item(tenant, queue, number, priority, at(list.now + ready_at - 4));
            state.push(&item);
            if list.items.iter().all(|row| row.item.run != item.run) {
                list.items.push(Row { item, lease: None });
            }
        }
        Operation::Claim { queues, tenants, limit } => {
            let queues = queues.map(|queues| queues.into_iter().map(queue).collect());
            let tenants = tenants.map(|tenants| tenants.into_iter().map(tenant).collect());
            let lease = Duration::from_micros(LEASE.unsigned_abs());
            let claim = Claim { worker: WorkerId::new("w"), queues, tenants, limit, lease, now };
            let mut delivered = tokens.len();
            let deliveries = state.lanes.claim(&claim).deliveries;
            tokens.extend(deliveries.iter().map(|delivery| delivery.token.clone()));
            let taken: Vec<_> = deliveries.into_iter().map(|delivery| delivery.item).collect();
            prop_assert_eq!(taken, list.claim(&claim, &mut delivered));
        }
        Operation::Renew { delivery, until } => {
            let number = nth(delivery, tokens);
            let (until, row) = (at(list.now + until), list.leased(number));
            prop_assert_eq!(state.renew(&token(number, tokens), until, now).is_ok(), row.is_some());
            if let (Some(row), Some(number)) = (row, number) {
                list.items[row].lease = Some((number, until));
            }
        }
        Operation::Settle { delivery, release } => {
            let number = nth(delivery, tokens);
            let (release_until, row) = (release.map(|micros| at(list.now + micros)), list.leased(number));
            let settle = Settle { token: token(number, tokens), release_until };
            prop_assert_eq!(state.settle(&settle, now).is_ok(), row.is_some());
            match (row, release_until) {
                (Some(row), None) => drop(list.items.remove(row)),
                (Some(row), Some(ready_at)) => {
                    list.items[row].lease = None;
                    list.items[row].item.ready_at = ready_at;
                }
                (None, _) => {}
            }
        }
        Operation::Pass { micros } => list.now += micros,
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn it_differs_nowhere_from_a_list(operations in prop::collection::vec(operation(), 1..60)) {
        let (mut state, mut list, mut tokens) = (State::default(), List::default(), Vec::new());
        for operation in operations {
            apply(operation, &mut state, &mut list, &mut tokens)?;
            for tenant in state.lanes.tenants.values() {
                let firsts = tenant.lanes.values().filter_map(|lane| lane.ready.first()).cloned();
                prop_assert!(tenant.firsts == firsts.collect::<BTreeSet<_>>());
            }
            for number in 0..3 {
                prop_assert_eq!(state.lanes.depth(&tenant(number), at(list.now)), list.depth(&tenant(number)));
            }
        }
        // What is settled leaves nothing behind.
        let (worker, lease, now) = (WorkerId::new("w"), Duration::from_secs(1), at(1_000_000));
        let all = Claim { worker, queues: None, tenants: None, limit: 1_000, lease, now };
        for delivery in state.lanes.claim(&all).deliveries {
            state.settle(&Settle::done(delivery.token), now).unwrap();
        }
        prop_assert!(state.known.is_empty() && state.lanes.tenants.is_empty());
        prop_assert!(state.lanes.ready.is_empty() && state.lanes.ready_in.is_empty());
        prop_assert!(state.lanes.delayed.is_empty() && state.lanes.leases.is_empty() && state.lanes.ends.is_empty());
    }
}

#[test]
fn what_is_taken_out_leaves_nothing_behind_wherever_it_was() {
    let mut lanes = Lanes::default();
    let items: Vec<_> = (0..6).map(|n| Arc::new(item(0, 0, n, 0, at(i64::from(n) / 2)))).collect();
    items.iter().for_each(|item| lanes.add(Arc::clone(item), 0));
    assert!(lanes.promote(at(0)).is_empty(), "no lease has ended");
    let lease = lanes.lease(Arc::new(item(1, 1, 9, 0, at(0))), 3, at(1));
    // Ready ones, the first and not; delayed ones, the first and not.
    for taken in [1, 0, 5, 3] {
        lanes.remove(&items[taken]);
    }
    lanes.remove(&items[0]);
    let depth = |lanes: &Lanes| lanes.depth(&tenant(0), at(1)).iter().map(|depth| depth.ready).sum::<u64>();
    assert_eq!(depth(&lanes), 1);
    lanes.remove(&items[2]);
    lanes.remove(&items[4]);
    assert_eq!((lanes.end(lease).unwrap().1, lanes.end(lease)), (3, None));
    assert!(lanes.tenants.is_empty() && lanes.ready.is_empty() && lanes.ready_in.is_empty());
    assert!(lanes.delayed.is_empty() && lanes.leases.is_empty() && lanes.ends.is_empty());
}
