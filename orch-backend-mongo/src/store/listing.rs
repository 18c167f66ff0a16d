//! Listing runs, and correcting what the listings say where it differs from the last rows.

use std::collections::HashMap;

use mongodb::bson::{Document, doc};
use orch::ledger::Stream;
use orch::store::{DuePage, DueQuery, RunRow, RunsCursor, RunsPage, RunsQuery};
use orch::{Result, RunKey, RunStatus, Timestamp};

use super::Inner;
use super::chunk::{Stand, name_of};
use super::place::{self, Listed, Place};
use crate::error::DUPLICATE_KEY;
use crate::indexes::RUNS;

/// How often a listing is read again because it was corrected. It converges, unless rows move all the time.
const ROUNDS: usize = 8;

/// Runs with an append under way that are looked at before a listing is read.
const OPEN_MAX: i64 = 1_000;

/// The parts of a listing that are not its page.
const OPEN: i32 = 0;
const BEYOND: i32 = 9;

fn stream_of(listed: &Listed) -> String {
    name_of(&listed.tenant, Stream::Run(listed.run))
}

fn query(filter: Document, order: Document, limit: i64, part: i32) -> Vec<Document> {
    vec![
        doc! {"$match": filter},
        doc! {"$sort": order},
        doc! {"$limit": limit},
        doc! {"$set": {"part": {"$literal": part}, "stale": place::stale()}},
    ]
}

impl Inner {
    pub(super) async fn runs(&self, query: &RunsQuery, cursor: Option<RunsCursor>) -> Result<RunsPage> {
        let mut last_round = RunsPage { runs: Vec::new(), next: None };
        for round in 0..ROUNDS {
            let mut listed: Vec<Listed> = self.connection.union(RUNS, queries_of_runs(query, cursor)).await?;
            let open: Vec<_> = listed.extract_if(.., |listed| listed.part == OPEN).collect();
            if round == 0 && self.correct(&open).await? {
                continue;
            }
            let more = listed.len() > query.limit;
            listed.truncate(query.limit);
            let (stands, corrected) = self.compared(&listed).await?;
            let mut rows: HashMap<String, RunRow> =
                stands.into_iter().filter_map(|(name, stand)| Some((name, stand.row?))).collect();
            let runs: Vec<_> = listed.iter().filter_map(|listed| rows.remove(&stream_of(listed))).collect();
            let next = runs.last().filter(|_| more).map(|last| RunsCursor::of(last).to_text());
            last_round = RunsPage { runs, next };
            if !corrected {
                return Ok(last_round);
            }
            last_round.runs.retain(|row| {
                query.status.is_none_or(|status: RunStatus| row.status == status)
                    && query.dag.as_ref().is_none_or(|dag| row.dag == *dag)
            });
        }
        Ok(last_round)
    }

    pub(super) async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        let mut last_round = DuePage { runs: Vec::new(), next_at: None };
        for round in 0..ROUNDS {
            let mut listed: Vec<Listed> = self.connection.union(RUNS, queries_of_due(query)).await?;
            let open: Vec<_> = listed.extract_if(.., |listed| listed.part == OPEN).collect();
            let beyond: Vec<_> = listed.extract_if(.., |listed| listed.part == BEYOND).collect();
            if round == 0 && self.correct(&open).await? {
                continue;
            }
            listed.truncate(query.limit);
            let (_, corrected) = self.compared(&listed).await?;
            let due = |listed: Listed| {
                let key = RunKey { tenant: listed.tenant, run: listed.run };
                Some((Timestamp::from_micros(listed.wake?), key))
            };
            let next_at = beyond.first().and_then(|listed| listed.wake).map(Timestamp::from_micros);
            last_round = DuePage { runs: listed.into_iter().filter_map(due).collect(), next_at };
            if !corrected {
                break;
            }
        }
        Ok(last_round)
    }

    /// Corrects documents of runs whose appends were on their way, as far as these have landed. Answers whether any was.
    async fn correct(&self, open: &[Listed]) -> Result<bool> {
        if open.is_empty() {
            return Ok(false);
        }
        let names: Vec<_> = open.iter().map(stream_of).collect();
        let stands = self.stands(&names).await?;
        let (mut told, mut gone, mut never) = (Vec::new(), Vec::new(), Vec::new());
        for listed in open {
            match stands.get(&stream_of(listed)) {
                Some(Stand { known, row: Some(row) })
                    if known.head.seq.cast_signed() > listed.open.unwrap_or(-1) =>
                {
                    told.push(place::stands(row, known, false));
                }
                None if listed.seq.is_some() => gone.push(place::is_gone(listed)),
                None if listed.stale => never.push(place::never_began(listed)),
                // An append is on its way: the one that was told, the first, or the first with a row.
                _ => {}
            }
        }
        let changed = !told.is_empty() || !gone.is_empty();
        self.tell_listings(told, [gone, never].concat()).await?;
        Ok(changed)
    }

    /// Where the listed runs stand, and whether any document had to be corrected.
    async fn compared(&self, listed: &[Listed]) -> Result<(HashMap<String, Stand>, bool)> {
        let names: Vec<_> = listed.iter().map(stream_of).collect();
        let stands = self.stands(&names).await?;
        let (mut told, mut gone) = (Vec::new(), Vec::new());
        for listed in listed {
            match stands.get(&stream_of(listed)) {
                Some(Stand { known, row: Some(row) }) => {
                    if listed.life != Some(known.life) || listed.place().as_ref() != Some(&Place::of(row)) {
                        told.push(place::stands(row, known, false));
                    }
                }
                _ => gone.push(place::is_gone(listed)),
            }
        }
        let corrected = !told.is_empty() || !gone.is_empty();
        self.tell_listings(told, gone).await?;
        Ok((stands, corrected))
    }

    async fn tell_listings(&self, told: Vec<Document>, gone: Vec<Document>) -> Result<()> {
        if !told.is_empty() {
            let outcome = self.connection.update(RUNS, told).await?;
            if let Some((_, code, words)) =
                outcome.refused.into_iter().find(|refused| refused.1 != DUPLICATE_KEY)
            {
                return Err(crate::error::of_statement(code, &words));
            }
        }
        if !gone.is_empty() {
            self.connection.delete(RUNS, gone).await?;
        }
        Ok(())
    }
}

fn queries_of_runs(asked: &RunsQuery, cursor: Option<RunsCursor>) -> Vec<Vec<Document>> {
    let tenant = asked.tenant.as_str();
    let order = || doc! {"created": -1, "runId": 1};
    let limit = i64::try_from(asked.limit + 1).unwrap_or(i64::MAX);
    let mut filter = doc! {"tenant": tenant};
    if let Some(dag) = &asked.dag {
        filter.insert("dagId", dag.as_str());
    }
    if let Some(status) = asked.status {
        filter.insert("status", status.as_str());
    }
    let from = asked.from.map_or(0, Timestamp::as_micros);
    let to = asked.to.map_or(i64::MAX, Timestamp::as_micros);
    let with = |created: Document, run: Option<Document>| {
        let mut filter = filter.clone();
        filter.insert("created", created);
        run.into_iter().for_each(|run| drop(filter.insert("runId", run)));
        filter
    };
    let mut queries =
        vec![query(doc! {"tenant": tenant, "open": {"$exists": true}}, doc! {"open": 1}, OPEN_MAX, OPEN)];
    let mut before = to;
    if let Some(cursor) = cursor {
        let at = cursor.created_at.as_micros();
        let beside = doc! {"$gte": from.max(at), "$lt": to.min(at.saturating_add(1))};
        queries.push(query(with(beside, Some(doc! {"$gt": cursor.run.to_string()})), order(), limit, 1));
        before = before.min(at);
    }
    queries.push(query(with(doc! {"$gte": from, "$lt": before}, None), order(), limit, 2));
    queries
}

fn queries_of_due(asked: &DueQuery) -> Vec<Vec<Document>> {
    let order = || doc! {"wake": 1, "tenant": 1, "runId": 1};
    let limit = i64::try_from(asked.limit).unwrap_or(i64::MAX).max(1);
    let until = asked.until.as_micros();
    let mut queries = vec![query(doc! {"open": {"$exists": true}}, doc! {"open": 1}, OPEN_MAX, OPEN)];
    let mut begin = doc! {"$lte": until};
    if let Some((at, key)) = &asked.after {
        let (at, tenant) = (at.as_micros(), key.tenant.as_str());
        let beside = doc! {"wake": at, "tenant": tenant, "runId": {"$gt": key.run.to_string()}};
        queries.push(query(beside, order(), limit, 1));
        queries.push(query(doc! {"wake": at, "tenant": {"$gt": tenant}}, order(), limit, 2));
        begin.insert("$gt", at);
    }
    queries.push(query(doc! {"wake": begin}, order(), limit, 3));
    queries.push(query(doc! {"wake": {"$gt": until}}, order(), 1, BEYOND));
    queries
}
