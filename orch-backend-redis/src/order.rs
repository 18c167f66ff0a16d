//! Texts whose bytes sort as what they stand for: Redis orders members of equal score byte by byte.

use std::fmt::Write as _;

use orch::queue::Item;
use orch::store::RunRow;
use orch::{DagId, Digest, Error, QueueName, Result, RunId, RunKey, StepId, StepKey, TenantId, Timestamp};

use crate::error::unexpected;

/// An instant in 16 digits.
pub(crate) fn instant(at: Timestamp) -> String {
    format!("{:016x}", at.as_micros())
}

pub(crate) fn read_instant(text: &str) -> Result<Timestamp> {
    let micros = text.get(..16).and_then(|digits| i64::from_str_radix(digits, 16).ok());
    micros.map(Timestamp::from_micros).ok_or_else(|| unexpected("an instant that does not read"))
}

/// An instant in 16 digits, later ones first.
pub(crate) fn newest(at: Timestamp) -> String {
    format!("{:016x}", !at.as_micros().cast_unsigned())
}

/// The place of a run in the listings of its tenant: newest first, then by run.
pub(crate) fn listed(row: &RunRow) -> String {
    format!("{}{}", newest(row.created_at), row.run)
}

/// The run at a place in a listing.
pub(crate) fn listed_run(place: &str) -> Result<RunId> {
    place.get(16..).and_then(|run| run.parse().ok()).ok_or_else(|| unexpected("a place in a listing of runs"))
}

/// The place of a run among those that are due: by instant, tenant and run. The space sorts before every sign of a name,
/// so that a name comes before those that go on from it.
pub(crate) fn due(at: Timestamp, key: &RunKey) -> String {
    format!("{}{} {}", instant(at), key.tenant, key.run)
}

pub(crate) fn read_due(place: &str) -> Result<(Timestamp, RunKey)> {
    let wrong = || unexpected("a place among the due runs");
    let (tenant, run) = place.get(16..).and_then(|rest| rest.split_once(' ')).ok_or_else(wrong)?;
    let key = RunKey { tenant: TenantId::new(tenant)?, run: run.parse().map_err(|_: Error| wrong())? };
    Ok((read_instant(place)?, key))
}

/// What makes it the same item however often it is pushed: a digest of [`Item::id`], which is shorter, and always of one
/// length.
pub(crate) fn item_id(item: &Item) -> String {
    let step = item.step.to_string();
    let parts: [&[u8]; 3] = [item.run.as_bytes(), &item.attempt.to_be_bytes(), step.as_bytes()];
    let digest = Digest::of_parts(&parts).to_hex();
    String::from_utf8_lossy(&digest[..ID]).into_owned()
}

/// Digits of an item's id.
const ID: usize = 32;

/// The place of an item in its queue, in the order of [`Item`], with its id at the end.
pub(crate) fn place(item: &Item) -> String {
    let mut place = String::with_capacity(192);
    // Higher priorities go first.
    let rank = (i32::MAX.abs_diff(item.priority), item.ready_at.as_micros());
    let index = item.step.index.map_or("0".to_owned(), |index| format!("1{index:08x}"));
    write!(place, "{:08x}{:016x}{} ", rank.0, rank.1, item.dag).expect("a string takes all");
    write!(place, "{}{:08x}{} {index} {:08x} ", item.run, item.plan_index, item.step.id, item.attempt)
        .expect("a string takes all");
    place.push_str(&item_id(item));
    place
}

/// The item at a place of a queue.
pub(crate) fn read_place(tenant: &TenantId, queue: &str, place: &str) -> Result<Item> {
    let read = || {
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let mut words = place.split(' ');
        let (head, tail) = (words.next()?, words.next()?);
        let (index, attempt) = (words.next()?, words.next()?);
        Some(Item {
            tenant: tenant.clone(),
            queue: QueueName::new(queue).ok()?,
            priority: i32::MAX.wrapping_sub_unsigned(hex(head.get(..8)?)?),
            ready_at: read_instant(head.get(8..)?).ok()?,
            dag: DagId::new(head.get(24..)?).ok()?,
            run: tail.get(..32)?.parse().ok()?,
            plan_index: hex(tail.get(32..40)?)?,
            step: StepKey {
                id: StepId::new(tail.get(40..)?).ok()?,
                index: match index.split_at_checked(1)? {
                    ("1", index) => Some(hex(index)?),
                    _ => None,
                },
            },
            attempt: hex(attempt)?,
        })
    };
    read().ok_or_else(|| unexpected("a place in a queue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_sort_as_the_items_do_and_read_back() {
        let tenant = TenantId::new("t").unwrap();
        let mut items = Vec::new();
        for n in 0..2_usize.pow(7) {
            let bit = |at: usize| n >> at & 1;
            let dag = DagId::new(["d", "d-x"][bit(0)]).unwrap();
            let token = bit(1).to_string();
            let step = StepId::new(["s", "s.1"][bit(2)]).unwrap();
            items.push(Item {
                tenant: tenant.clone(),
                queue: QueueName::default_queue(),
                priority: [i32::MIN, -1, 0, i32::MAX][n % 4],
                ready_at: Timestamp::from_micros([5, 16][bit(3)]),
                run: RunId::derive(&tenant, &dag, &token, &Digest::ZERO),
                dag,
                plan_index: [9, 16][bit(4)],
                step: StepKey { id: step, index: [None, Some(0), Some(255)][n % 3] },
                attempt: [2, 11][bit(6)],
            });
        }
        let mut places: Vec<_> = items.iter().map(place).collect();
        items.sort();
        places.sort();
        let read: Vec<_> =
            places.iter().map(|place| read_place(&tenant, "default", place).unwrap()).collect();
        assert_eq!(read, items);
        assert!(
            places.iter().zip(&items).all(|(place, item)| place.ends_with(&format!(" {}", item_id(item))))
        );
        let ids: std::collections::BTreeSet<_> = items.iter().map(item_id).collect();
        let own: std::collections::BTreeSet<_> = items.iter().map(Item::id).collect();
        assert_eq!(ids.len(), own.len(), "items that are alike have one id, and others another");
    }

    #[test]
    fn due_places_sort_by_instant_tenant_and_run() {
        let due_of = |at, tenant: &str| {
            let tenant = TenantId::new(tenant).unwrap();
            let run = RunId::derive(&tenant, &DagId::new("d").unwrap(), "", &Digest::ZERO);
            (Timestamp::from_micros(at), RunKey { tenant, run })
        };
        let mut all: Vec<_> = [1, 16, 1 << 50]
            .into_iter()
            .flat_map(|at| ["a", "a-1", "b"].map(|tenant| due_of(at, tenant)))
            .collect();
        let mut places: Vec<_> = all.iter().map(|(at, key)| due(*at, key)).collect();
        all.sort();
        places.sort();
        assert_eq!(places.iter().map(|place| read_due(place).unwrap()).collect::<Vec<_>>(), all);
    }
}
