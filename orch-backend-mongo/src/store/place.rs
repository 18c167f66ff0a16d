//! Where a run stands in the listings: its document in `runs`.
//!
//! The document says at any time what the last row says, or less: a wake that is too early, or an earlier status of a run
//! that has a wake. Whatever must not be found late is told before the append (`open`), the rest afterwards; a reader
//! compares both with the last chunk and corrects the document. So a process that dies in between hides nothing.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use orch::store::RunRow;
use orch::{DagId, RunId, RunStatus, TenantId};
use serde::Deserialize;

use super::known::Known;

/// How much later than the listings say a run may want to be woken, in microseconds. While it is worked on, its wake moves
/// with each append: half of what that is ahead.
const LAZY: i64 = 15_000_000;

/// The part of a row that listings look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) dag: DagId,
    pub(super) status: RunStatus,
    /// Microseconds, as all times.
    pub(super) created: i64,
    pub(super) started: Option<i64>,
    pub(super) wake: Option<i64>,
}

/// A document of `runs`, as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) tenant: TenantId,
    #[serde(rename = "runId")]
    pub(super) run: RunId,
    #[serde(rename = "dagId")]
    pub(super) dag: Option<DagId>,
    pub(super) status: Option<RunStatus>,
    pub(super) created: Option<i64>,
    pub(super) started: Option<i64>,
    pub(super) wake: Option<i64>,
    /// The head that this was written for; nothing for a run of which only the intention is known.
    pub(super) seq: Option<i64>,
    pub(super) life: Option<ObjectId>,
    /// An append that follows this entry is on its way, or was when its process died.
    pub(super) open: Option<i64>,
    /// When the intention was told, by the server's clock, and whether that is an hour ago.
    pub(super) since: Option<DateTime>,
    #[serde(default)]
    pub(super) stale: bool,
    /// Which of the queries of one command found it.
    #[serde(default)]
    pub(super) part: i32,
}

impl Listed {
    /// Nothing while only the intention is known.
    pub(super) fn place(&self) -> Option<Place> {
        Some(Place {
            dag: self.dag.clone()?,
            status: self.status?,
            created: self.created?,
            started: self.started,
            wake: self.wake,
        })
    }
}

impl Place {
    pub(super) fn of(row: &RunRow) -> Self {
        Self {
            dag: row.dag.clone(),
            status: row.status,
            created: row.created_at.as_micros(),
            started: row.started_at.map(orch::Timestamp::as_micros),
            wake: row.wake_at.map(orch::Timestamp::as_micros),
        }
    }

    /// Whether who knows this place needs not be told of another: it is the same, but for a wake that comes a little later.
    /// Whoever looks at the run at the earlier one finds that out.
    pub(super) fn says(&self, other: &Self) -> bool {
        let wake = match (self.wake, other.wake) {
            (Some(listed), Some(wake)) if (0..LAZY).contains(&(wake - listed)) => Some(listed),
            (_, wake) => wake,
        };
        *self == Self { wake, ..other.clone() }
    }

    /// Whether a reader must be told of this place before the append lands. Where the listings have a wake that comes no
    /// later, somebody will look at the run at that time and correct them.
    pub(super) fn must_be_told_before(&self, old: Option<&Self>) -> bool {
        let Some(old) = old else { return true };
        match (old.wake, self.wake) {
            (Some(old), Some(new)) => new < old,
            (Some(_), None) => false,
            (None, _) => self != old,
        }
    }
}

/// The key of a run's document.
pub(super) fn id_of(tenant: &TenantId, run: RunId) -> String {
    format!("{tenant}/{run}")
}

/// Says that a run is about to begin, unless it has. The server's clock serves for one thing: a run that never began is
/// forgotten after an hour.
pub(super) fn will_begin(row: &RunRow) -> Document {
    let unless_begun = doc! {"$cond": [{"$eq": [{"$type": "$seq"}, "missing"]}, 0_i64, "$$REMOVE"]};
    doc! {
        "q": {"_id": id_of(&row.tenant, row.run)},
        "u": [{"$set": {
            "tenant": row.tenant.as_str(),
            "runId": row.run.to_string(),
            "open": {"$ifNull": ["$open", unless_begun]},
            "since": {"$ifNull": ["$since", "$$NOW"]},
        }}],
        "upsert": true,
    }
}

/// Says that the row is about to change, by an append that follows entry `after`.
pub(super) fn will_move(row: &RunRow, after: i64) -> Document {
    doc! {"q": {"_id": id_of(&row.tenant, row.run)}, "u": {"$max": {"open": after}}}
}

/// Says where the row stands, unless a later one is known already.
pub(super) fn stands(row: &RunRow, known: &Known, upsert: bool) -> Document {
    let place = Place::of(row);
    let (seq, revision) = (known.head.seq.cast_signed(), known.revision);
    // A date for people, who sort by it; it has milliseconds only.
    let date = |micros: Option<i64>| {
        micros.map_or(Bson::Null, |micros| DateTime::from_millis(micros.div_euclid(1_000)).into())
    };
    let or_remove = |micros: Option<i64>| micros.map_or_else(|| Bson::from("$$REMOVE"), Bson::from);
    let still = |field: &str| doc! {"$cond": [{"$lt": ["$open", seq]}, "$$REMOVE", field]};
    doc! {
        "q": {"_id": id_of(&row.tenant, row.run), "$or": [
            {"life": {"$ne": known.life}},
            {"seq": {"$lt": seq}},
            {"seq": seq, "rev": {"$lte": revision}},
        ]},
        "u": [{"$set": {
            "tenant": row.tenant.as_str(),
            "runId": row.run.to_string(),
            "dagId": place.dag.as_str(),
            "status": place.status.as_str(),
            "created": place.created,
            "started": or_remove(place.started),
            "startedUtc": date(place.started),
            "wake": or_remove(place.wake),
            "seq": seq,
            "rev": revision,
            "life": known.life,
            "open": still("$open"),
            "since": still("$since"),
        }}],
        "upsert": upsert,
    }
}

/// Forgets a document that was written for a run that is gone.
pub(super) fn is_gone(listed: &Listed) -> Document {
    let (seq, life) = (listed.seq.map_or(Bson::Null, Bson::from), listed.life.map_or(Bson::Null, Bson::from));
    doc! {"q": {"_id": &listed.id, "seq": seq, "life": life}, "limit": 1}
}

/// Whether an intention is an hour old. Whoever reads it asks: before version 5 a deletion does not know the server's time.
pub(super) fn stale() -> Document {
    doc! {"$lt": ["$since", {"$subtract": ["$$NOW", 3_600_000_i64]}]}
}

/// Forgets a run that was about to begin an hour ago and has not.
pub(super) fn never_began(listed: &Listed) -> Document {
    doc! {"q": {"_id": &listed.id, "seq": null, "since": listed.since}, "limit": 1}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_found_late_is_told_before() {
        let place =
            |status, wake| Place { dag: DagId::new("d").unwrap(), status, created: 1, started: None, wake };
        use RunStatus::{Completed, Paused, Running};
        for (old, new, before) in [
            (None, place(Running, None), true),
            (Some(place(Running, Some(5))), place(Running, Some(5)), false),
            (Some(place(Running, Some(5))), place(Running, Some(4)), true),
            (Some(place(Running, Some(5))), place(Running, Some(6)), false),
            (Some(place(Running, Some(5))), place(Completed, None), false),
            (Some(place(Paused, None)), place(Completed, None), true),
            (Some(place(Paused, None)), place(Paused, None), false),
            (Some(place(Paused, None)), place(Running, Some(9)), true),
        ] {
            assert_eq!(new.must_be_told_before(old.as_ref()), before, "{old:?} {new:?}");
        }
    }
}
