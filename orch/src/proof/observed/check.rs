//! Holding what was seen against the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::{Observed, SeenStream};
use crate::digest::Digest;
use crate::error::Result;
use crate::id::{RunId, RunKey, StepKey, TenantId};
use crate::ledger::{Entry, Event, Head, Stream, StreamHead};
use crate::proof::verify::verify_seen;
use crate::proof::{END, PAGE, Problem, Report, VerifyOptions, read_page, read_runs};
use crate::store::{PAGE_MAX, RunRow, Store};

/// What is known of the world when a check is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Faults stopped so long ago that, by the bound of R4, every run must have ended that waits for no person and no
    /// signal.
    pub calm: bool,
    /// Nobody uses the queues any more: they may be emptied, to see whether everything they owe is there.
    pub still: bool,
}

type Started = Mutex<BTreeMap<RunId, BTreeSet<(StepKey, u32)>>>;

impl Observed {
    /// Checks every invariant, of every tenant that was seen: first what contradicted itself when it was seen, then
    /// everything that [`verify_store`](crate::proof::verify_store) looks at, then what was seen against the ledger.
    /// Problems come in that order.
    ///
    /// # Errors
    /// As the store and the queues.
    pub async fn check(&self, store: &dyn Store, outside: Outside) -> Result<Report> {
        let mut report = Report::default();
        if outside.still {
            let queues = self.seen().queues.clone();
            for queue in queues {
                queue.drain().await?;
            }
        }
        report.problems.append(&mut self.seen().problems.clone());
        for tenant in self.tenants() {
            self.check_races(store, &tenant, &mut report).await?;
            self.check_ledger(store, &tenant, &mut report).await?;
            self.check_pruned(store, &tenant, &mut report).await?;
        }
        if outside.calm {
            for tenant in self.tenants() {
                check_ends(store, &tenant, &mut report).await?;
            }
        }
        Ok(report)
    }

    fn tenants(&self) -> BTreeSet<TenantId> {
        self.seen().streams.keys().map(|(tenant, _)| tenant.clone()).collect()
    }

    /// The streams of a tenant, as `pick` sees them.
    fn pick<T>(
        &self,
        tenant: &TenantId,
        pick: impl Fn(Stream, &SeenStream) -> Option<T>,
    ) -> Vec<(Stream, T)> {
        let seen = self.seen();
        let own = seen.streams.iter().filter(|((of, _), _)| of == tenant);
        own.filter_map(|((_, stream), seen)| Some((*stream, pick(*stream, seen)?))).collect()
    }

    /// L2: a refused append is not there; where two appends to one head were acknowledged, not both of them are. If one of
    /// them is not, it was lost (L1).
    async fn check_races(&self, store: &dyn Store, tenant: &TenantId, report: &mut Report) -> Result<()> {
        let rivals = self.pick(tenant, |_, seen| (!seen.rivals.is_empty()).then(|| seen.rivals.clone()));
        for (stream, rivals) in rivals {
            let hashes = all_hashes(store, tenant, stream).await?;
            let there = |head: &Head| hashes.contains(&head.hash);
            if let Some((rival, _)) = rivals.iter().find(|(rival, first)| there(rival) && there(first)) {
                let message = "two appends to one head were acknowledged, and both are there";
                report.problems.push(Problem::new(stream, rival.seq, "two_winners", message));
            } else if let Some((rival, _)) = rivals.iter().find(|(rival, _)| !there(rival)) {
                let message = "an acknowledged append is not there";
                report.problems.push(Problem::new(stream, rival.seq, "rewritten", message));
            }
        }
        let refused = self.pick(tenant, |_, seen| {
            (!seen.refused.is_empty()).then(|| (seen.refused.clone(), seen.landed.clone()))
        });
        for (stream, (refused, landed)) in refused {
            let last = read_page(store, tenant, stream, END, 1).await?.head;
            // It is the last word, or what somebody built on.
            let there = |head: &Head| {
                *head == last || landed.get(&head.seq).is_some_and(|landed| landed.from == head.hash)
            };
            if let Some(head) = refused.iter().find(|head| there(head)) {
                let message = "an append that was refused is there";
                report.problems.push(Problem::new(stream, head.seq, "refused_yet_there", message));
            }
        }
        Ok(())
    }

    /// L1, L3, R1, R2, R3, R5 and P1 by the ledger, the acknowledged heads included; and that every attempt that was
    /// executed had been started, and once. Where the ledger was damaged that follows from the damage and is not told.
    async fn check_ledger(&self, store: &dyn Store, tenant: &TenantId, report: &mut Report) -> Result<()> {
        let heads: Vec<StreamHead> = self
            .pick(tenant, |_, seen| Some(seen.landed.values().map(|landed| landed.head).collect::<Vec<_>>()))
            .into_iter()
            .flat_map(|(stream, heads)| heads.into_iter().map(move |head| StreamHead { head, stream }))
            .collect();
        let started = Started::default();
        let note = |run: RunId, entry: &Entry| {
            if let Event::StepStarted(e) = &entry.event {
                let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
                started.entry(run).or_default().insert((e.step.clone(), e.attempt));
            }
        };
        let found = verify_seen(store, tenant, &VerifyOptions::default(), &heads, &note).await?;
        report.streams += found.streams;
        report.entries += found.entries;
        report.problems.extend(found.problems);
        let broken: BTreeSet<Stream> = report.problems.iter().map(|problem| problem.stream).collect();
        let started = started.into_inner().unwrap_or_else(PoisonError::into_inner);
        let gone: BTreeSet<Stream> = self
            .pick(tenant, |_, seen| seen.pruned.map(|_| ()))
            .into_iter()
            .map(|(stream, ())| stream)
            .collect();
        let seen = self.seen();
        for ((key, step, attempt), times) in
            seen.executed.iter().filter(|((key, ..), _)| key.tenant == *tenant)
        {
            let stream = Stream::Run(key.run);
            if broken.contains(&stream) || gone.contains(&stream) {
                continue;
            }
            let known =
                started.get(&key.run).is_some_and(|started| started.contains(&(step.clone(), *attempt)));
            if !known {
                let message = format!("attempt {attempt} of `{step}` was executed, and never started");
                report.problems.push(Problem::new(stream, 0, "never_started", message));
            } else if *times > 1 {
                let message = format!("attempt {attempt} of `{step}` was executed {times} times");
                report.problems.push(Problem::new(stream, 0, "executed_twice", message));
            }
        }
        Ok(())
    }

    /// P1: what the store said it had pruned is gone.
    async fn check_pruned(&self, store: &dyn Store, tenant: &TenantId, report: &mut Report) -> Result<()> {
        for (stream, ()) in self.pick(tenant, |_, seen| seen.pruned.map(|_| ())) {
            let Stream::Run(run) = stream else { continue };
            let head = read_page(store, tenant, stream, END, 1).await?.head;
            let row = store.run(&RunKey { tenant: tenant.clone(), run }).await?;
            if (head.seq > 0 || row.is_some()) && !report.problems.iter().any(|p| p.stream == stream) {
                let message = "the store said that it had pruned it, and something is still there";
                report.problems.push(Problem::new(stream, 1, "left_behind", message));
            }
        }
        Ok(())
    }
}

/// The hashes of all entries of a stream, whatever they say.
async fn all_hashes(store: &dyn Store, tenant: &TenantId, stream: Stream) -> Result<BTreeSet<Digest>> {
    let (mut hashes, mut after) = (BTreeSet::new(), 0);
    loop {
        let page = read_page(store, tenant, stream, after, PAGE).await?;
        hashes.extend(page.lines.split_terminator('\n').map(Digest::of));
        if !page.more() || page.lines.is_empty() {
            return Ok(hashes);
        }
        after = page.last;
    }
}

/// R4: what waits for no person and no signal has ended.
async fn check_ends(store: &dyn Store, tenant: &TenantId, report: &mut Report) -> Result<()> {
    let mut cursor = None;
    loop {
        let (rows, next) = read_runs(store, tenant, cursor, PAGE_MAX).await?;
        let stuck = |row: &&RunRow| !row.status.is_terminal() && row.wake_at.is_some();
        for row in rows.iter().filter(stuck) {
            let message = format!("it is {} long after faults have stopped", row.status);
            report.problems.push(Problem::new(Stream::Run(row.run), row.head.seq, "not_ended", message));
        }
        if next.is_none() {
            return Ok(());
        }
        cursor = next;
    }
}
