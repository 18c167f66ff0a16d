//! Appending: one document each, all in one insert that need not be in order.

use std::collections::{BTreeMap, HashMap};

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind as DriverKind;
use orch::ledger::{Head, Stream};
use orch::store::{Append, RunRow, stale_head};
use orch::{Error, ErrorKind, Result};

use super::chunk::{Chunk, NewChunk, chunk_id, name_of};
use super::known::Known;
use super::place::{self, Place};
use super::{APPEND_BYTES, Inner};
use crate::error::{DUPLICATE_KEY, of_statement, writing};
use crate::indexes::{APPENDS, RUNS};

/// What one stream gets at once: appends that follow each other, merged into one chunk, or one that replaces the row.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) name: String,
    /// The appends by number; they share their fate.
    pub(super) items: Vec<usize>,
    /// The stream as it was; nothing when it begins now.
    pub(super) before: Option<Known>,
    pub(super) head: Head,
    pub(super) row: Option<&'a RunRow>,
    lines: Vec<&'a str>,
    /// Which of the streams of this name it is.
    pub(super) life: ObjectId,
    /// Somebody replaced the row meanwhile, so the listings may say something else.
    moved: bool,
}

/// The answers to a call, by number; nothing where there is none yet.
pub(super) type Answers = Vec<Option<Result<()>>>;

impl Plan<'_> {
    pub(super) fn expected(&self) -> Head {
        self.before.as_ref().map_or(Head::EMPTY, |known| known.head)
    }

    pub(super) fn replaces_row(&self) -> bool {
        self.lines.is_empty()
    }

    /// What will be known when it has landed.
    pub(super) fn after(&self) -> Known {
        let before = self.before.as_ref();
        let after = self.expected().seq;
        Known {
            head: self.head,
            after,
            life: self.life,
            replaced: before.map_or(0, |known| known.replaced),
            revision: 0,
            row_after: if self.row.is_some() {
                Some(after)
            } else {
                before.and_then(|known| known.row_after)
            },
            place: match self.is_told() {
                true => before.and_then(|known| known.place.clone()),
                false => self.row.map(Place::of),
            },
        }
    }

    fn with_known(self) -> (Self, Known) {
        let known = self.after();
        (self, known)
    }

    fn chunk<'c>(&self, lines: &'c str) -> Result<NewChunk<'c>> {
        let after = self.expected().seq;
        let pointer =
            if self.row.is_some() { None } else { self.before.as_ref().and_then(|known| known.row_after) };
        Ok(NewChunk {
            id: chunk_id(&self.name, after),
            life: self.life,
            last: self.head.seq.cast_signed(),
            hash: self.head.hash.to_string(),
            prev: self.expected().hash.to_string(),
            lines,
            row: self.row.map(text_of).transpose()?,
            row_after: pointer.map(u64::cast_signed),
        })
    }

    /// What the listings must be told first.
    fn told_before(&self) -> Option<Document> {
        let row = self.row?;
        let Some(before) = &self.before else { return Some(place::will_begin(row)) };
        let after = before.head.seq.cast_signed() - i64::from(self.replaces_row());
        Place::of(row).must_be_told_before(before.place.as_ref()).then(|| place::will_move(row, after))
    }

    /// Whether the listings say already what they are to say.
    fn is_told(&self) -> bool {
        let listed = self.before.as_ref().and_then(|before| before.place.as_ref());
        self.row.is_none_or(|row| listed.is_some_and(|listed| listed.says(&Place::of(row))))
    }

    /// What the listings must be told afterwards.
    fn told_after<'p>(&'p self, known: &Known) -> Option<(&'p Self, Document)> {
        let row = self.row?;
        (!self.is_told() || self.moved).then(|| (self, place::stands(row, known, false)))
    }
}

pub(super) fn text_of(row: &RunRow) -> Result<String> {
    serde_json::to_string(row)
        .map_err(|cause| Error::internal("row of a run does not serialize").caused_by(cause))
}

/// The same error once more: it is told to everybody whose work was in the same command.
pub(super) fn echo(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.message().to_owned());
    match std::error::Error::source(error) {
        Some(cause) => copy.caused_by(cause.to_string()),
        None => copy,
    }
}

/// How often a call begins anew with what is left, such as rows that were replaced by somebody else meanwhile.
const PASSES: usize = 8;

impl Inner {
    pub(super) async fn append(&self, appends: &[Append]) -> Vec<Result<()>> {
        let capability = self.capability();
        let checked = |append: &Append| append.check(&capability).err().map(Err);
        let mut answers: Answers = appends.iter().map(checked).collect();
        for _ in 0..PASSES {
            let left: Vec<usize> = (0..appends.len()).filter(|item| answers[*item].is_none()).collect();
            if left.is_empty() {
                break;
            }
            let mut plans = self.plan(appends, &left, &mut answers).await;
            self.land(appends, &mut plans, &mut answers).await;
        }
        let busy = || Err(Error::unavailable("stream changes too fast"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(busy)).collect()
    }

    /// Compares the appends with the heads of their streams, one after the other.
    async fn plan<'a>(&self, appends: &'a [Append], left: &[usize], answers: &mut Answers) -> Vec<Plan<'a>> {
        let mut streams: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for item in left {
            let append = &appends[*item];
            streams.entry(name_of(&append.tenant, append.stream)).or_default().push(*item);
        }
        let mut starts: HashMap<&str, Option<Known>> = HashMap::new();
        let mut unsure = Vec::new();
        for (name, items) in &streams {
            let known = self.cache.get(name);
            let head = known.as_ref().map_or(Head::EMPTY, |known| known.head);
            // A head that was seen may have moved on. The insert compares it once more, a mere comparison would not.
            if follow(appends, items, head) && items.iter().all(|item| !appends[*item].lines.is_empty()) {
                starts.insert(name, known);
            } else {
                unsure.push(name.clone());
            }
        }
        match self.stands(&unsure).await {
            Ok(mut stands) => {
                for name in &unsure {
                    starts.insert(name, stands.remove(name).map(|stand| stand.known));
                }
            }
            Err(error) => {
                let items = unsure.iter().filter_map(|name| streams.get(name)).flatten();
                items.for_each(|item| answers[*item] = Some(Err(nothing_written(&error))));
            }
        }
        let mut plans = Vec::new();
        for (name, items) in &streams {
            if let Some(before) = starts.remove(name.as_str()) {
                plans.extend(merge(name, items, before, appends, answers));
            }
        }
        plans
    }

    async fn land(&self, appends: &[Append], plans: &mut Vec<Plan<'_>>, answers: &mut Answers) {
        let told: Vec<_> = plans.iter().filter_map(Plan::told_before).collect();
        if let Err(error) = self.tell(told).await {
            let error = nothing_written(&error);
            plans.drain(..).for_each(|plan| answer(&plan, answers, || Err(echo(&error))));
            return;
        }
        let (rows, mut chunks): (Vec<_>, Vec<_>) = plans.drain(..).partition(Plan::replaces_row);
        self.insert(appends, &mut chunks, answers).await;
        self.verify(appends, &mut chunks, answers).await;
        let mut landed: Vec<_> = chunks.into_iter().map(Plan::with_known).collect();
        landed.extend(self.replace_rows(appends, rows, answers).await);
        let known = self.place(&landed).await;
        for (plan, mut after) in landed {
            if !known {
                after.place = None;
            }
            let ended = plan.row.is_some_and(|row| row.status.is_terminal());
            if ended {
                self.cache.forget(&plan.name)
            } else {
                self.cache.put(plan.name.clone(), after)
            }
            answer(&plan, answers, || Ok(()));
        }
    }

    async fn tell(&self, statements: Vec<Document>) -> Result<()> {
        if statements.is_empty() {
            return Ok(());
        }
        let outcome = self.connection.update(RUNS, statements).await?;
        // Two who begin the same run at once both say so; one of them did.
        match outcome.refused.into_iter().find(|(_, code, _)| *code != DUPLICATE_KEY) {
            Some((_, code, words)) => Err(of_statement(code, &words)),
            None => Ok(()),
        }
    }

    /// Inserts the chunks; answers and drops those that do not land.
    async fn insert(&self, appends: &[Append], plans: &mut Vec<Plan<'_>>, answers: &mut Answers) {
        if plans.is_empty() {
            return;
        }
        let lines: Vec<_> = plans.iter().map(|plan| plan.lines.concat()).collect();
        let chunks: Result<Vec<_>> =
            plans.iter().zip(&lines).map(|(plan, lines)| plan.chunk(lines)).collect();
        let mut failures: HashMap<usize, Error> = HashMap::new();
        match chunks {
            Err(error) => failures.extend((0..plans.len()).map(|at| (at, echo(&error)))),
            Ok(chunks) => {
                let inserted = self.connection.collection(APPENDS).insert_many(chunks).ordered(false).await;
                if let Err(error) = inserted {
                    failures = failed(error, plans.len());
                }
            }
        }
        let mut at = 0;
        plans.retain(|plan| {
            let failure = failures.remove(&at);
            at += 1;
            if let Some(failure) = &failure {
                self.cache.forget(&plan.name);
                answer(plan, answers, || Err(of_plan(failure, plan, appends)));
            }
            failure.is_none()
        });
    }

    /// Holds what has landed against the first chunks of its streams. A stream may have been pruned, and begun anew, since its
    /// head was seen: then the chunk follows nothing, and goes. What is being pruned is kept by whoever appends to it,
    /// unless that has been decided.
    async fn verify(&self, appends: &[Append], plans: &mut Vec<Plan<'_>>, answers: &mut Answers) {
        let followers: Vec<_> = plans.iter().filter(|plan| plan.before.is_some()).collect();
        if followers.is_empty() {
            return;
        }
        let firsts = self.firsts(followers.iter().map(|plan| (&plan.name, plan.life))).await;
        let mut orphans = Vec::new();
        plans.retain_mut(|plan| {
            let Some(before) = &plan.before else { return true };
            match &firsts {
                Ok(firsts) => match firsts.get(&plan.name) {
                    Some(first) => plan.moved = first.replaced != before.replaced,
                    None => {
                        orphans.push(doc! {
                            "q": {"_id": chunk_id(&plan.name, before.head.seq), "life": plan.life, "hash": plan.head.hash.to_string()},
                            "limit": 1,
                        });
                        self.cache.forget(&plan.name);
                        answer(plan, answers, || Err(stale_head(&appends[plan.items[0]], Head::EMPTY)));
                        return false;
                    }
                },
                Err(error) => {
                    self.cache.forget(&plan.name);
                    let doubt = || Error::indeterminate("append landed, but not verifiably").caused_by(error.to_string());
                    answer(plan, answers, || Err(doubt()));
                    return false;
                }
            }
            true
        });
        if !orphans.is_empty()
            && let Err(error) = self.connection.delete(APPENDS, orphans).await
        {
            // Whoever reads the stream next clears them away.
            tracing::warn!(%error, "appends to pruned streams are left behind");
        }
    }

    /// The first chunks of streams that live; a pruning of one that has not been decided is called off.
    async fn firsts(
        &self,
        streams: impl Iterator<Item = (&String, ObjectId)>,
    ) -> Result<HashMap<String, Chunk>> {
        let mut left: HashMap<String, ObjectId> = streams.map(|(name, life)| (name.clone(), life)).collect();
        let mut alive = HashMap::new();
        for _ in 0..super::chunk::ROUNDS {
            let ids: Vec<_> = left.keys().map(|name| chunk_id(name, 0)).collect();
            let fields = doc! {"life": 1, "replaced": 1, "prune": 1};
            let found: Vec<Chunk> = self.connection.find(APPENDS, doc! {"_id": {"$in": ids}}, fields).await?;
            let mut calls_off = Vec::new();
            let mut again = HashMap::new();
            for first in found {
                let name = first.name_and_after()?.0.to_owned();
                let same = left.get(&name) == Some(&first.life);
                match &first.prune {
                    None if same => drop(alive.insert(name, first)),
                    Some(mark) if same && !mark.decided => {
                        calls_off.push(doc! {
                            "q": {"_id": &first.id, "prune.by": mark.by, "prune.decided": {"$ne": true}},
                            "u": {"$unset": {"prune": 1}},
                        });
                        again.insert(name, first.life);
                    }
                    _ => {}
                }
            }
            if again.is_empty() {
                return Ok(alive);
            }
            self.connection.update(APPENDS, calls_off).await?;
            left = again;
        }
        Err(Error::unavailable("stream is being pruned again and again"))
    }

    /// Tells the listings where the rows stand now. Answers whether they know: if not, a reader will find out.
    async fn place(&self, landed: &[(Plan<'_>, Known)]) -> bool {
        let told: Vec<_> = landed.iter().filter_map(|(plan, known)| plan.told_after(known)).collect();
        if told.is_empty() {
            return true;
        }
        let count = told.len();
        let (plans, statements): (Vec<_>, Vec<_>) = told.into_iter().unzip();
        let outcome = match self.connection.update(RUNS, statements).await {
            Ok(outcome) if outcome.matched == count => return true,
            Ok(_) => self.place_again(plans.into_iter().map(|plan| plan.name.clone()).collect()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            tracing::warn!(%error, "listings of runs lag behind; they are corrected when they are read");
        }
        outcome.is_ok()
    }

    /// Writes documents of the listings that somebody has deleted, or that know a later row.
    async fn place_again(&self, names: Vec<String>) -> Result<()> {
        let stands = self.stands(&names).await?;
        let statements: Vec<_> = stands
            .values()
            .filter_map(|stand| Some(place::stands(stand.row.as_ref()?, &stand.known, true)))
            .collect();
        // A duplicate key is a document that knows a later row.
        if !statements.is_empty() {
            self.tell(statements).await?;
        }
        Ok(())
    }
}

/// Whether the appends follow each other, beginning at `head`.
fn follow(appends: &[Append], items: &[usize], mut head: Head) -> bool {
    items.iter().all(|item| std::mem::replace(&mut head, appends[*item].head) == appends[*item].expected)
}

/// Takes the appends that follow each other; what does not fit into one document any more is left for the next pass.
fn merge<'a>(
    name: &str,
    items: &[usize],
    before: Option<Known>,
    appends: &'a [Append],
    answers: &mut Answers,
) -> Option<Plan<'a>> {
    let life = before.as_ref().map_or_else(ObjectId::new, |known| known.life);
    let head = before.as_ref().map_or(Head::EMPTY, |known| known.head);
    let mut plan = Plan {
        name: name.to_owned(),
        items: Vec::new(),
        before,
        head,
        row: None,
        lines: Vec::new(),
        life,
        moved: false,
    };
    let mut bytes = 0;
    for item in items {
        let append = &appends[*item];
        if append.expected != plan.head {
            answers[*item] = Some(Err(stale_head(append, plan.head)));
            continue;
        }
        if bytes + append.lines.len() > APPEND_BYTES {
            break;
        }
        bytes += append.lines.len();
        plan.head = append.head;
        plan.items.push(*item);
        plan.row = append.row.as_ref().or(plan.row);
        if !append.lines.is_empty() {
            plan.lines.push(&append.lines);
        }
    }
    if plan.lines.is_empty() && plan.row.is_none() {
        // Comparing was all that was asked for.
        plan.items.iter().for_each(|item| answers[*item] = Some(Ok(())));
        return None;
    }
    Some(plan)
}

pub(super) fn answer(plan: &Plan<'_>, answers: &mut Answers, mut with: impl FnMut() -> Result<()>) {
    plan.items.iter().for_each(|item| answers[*item] = Some(with()));
}

/// An error that came before anything was written.
fn nothing_written(error: &Error) -> Error {
    let copy = echo(error);
    if copy.kind() != ErrorKind::Indeterminate {
        return copy;
    }
    Error::unavailable("database did not answer; nothing was written").caused_by(error.to_string())
}

fn of_plan(failure: &Error, plan: &Plan<'_>, appends: &[Append]) -> Error {
    if failure.kind() != ErrorKind::Conflict {
        return echo(failure);
    }
    let stream: Stream = appends[plan.items[0]].stream;
    Error::conflict("stream has another head than expected")
        .with("stream", stream)
        .with("expected", plan.expected().seq)
}

/// Which of `count` inserts failed, and how.
fn failed(error: mongodb::error::Error, count: usize) -> HashMap<usize, Error> {
    let refused = match error.kind.as_ref() {
        DriverKind::InsertMany(many) => many.write_errors.as_ref().map(|errors| {
            let refused = errors.iter().map(|error| (error.index, of_statement(error.code, &error.message)));
            (refused.collect::<HashMap<_, _>>(), many.write_concern_error.is_none())
        }),
        _ => None,
    };
    match refused {
        Some((refused, true)) => refused,
        // The others were written, but nobody knows for how long.
        Some((mut refused, false)) => {
            let doubt = || Error::indeterminate("append was written, but not as safely as asked");
            for at in 0..count {
                refused.entry(at).or_insert_with(doubt);
            }
            refused
        }
        None => {
            let error = writing(error);
            (0..count).map(|at| (at, echo(&error))).collect()
        }
    }
}
