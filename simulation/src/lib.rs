//! The real engine on seams that fail on purpose: one seed is one world, and the same seed is the same world, byte by
//! byte.
//!
//! A world has one to three processes, two tenants and a handful of small runs. While calls fail before and after they
//! happen, come late, twice or in another order, processes die and come back, hang and go on, clocks jump and queues are
//! flushed, clients submit and steer the runs. Then everything heals, and every run must end within the bound that
//! `docs/guarantees.md` states. [`Observed`](orch::proof::Observed) watches all of it and names the invariant that does
//! not hold. Time is tokio's, paused: it jumps from timer to timer, so hours cost nothing.
//!
//! ```
//! let outcome = orch_simulation::simulate(1, None);
//! assert!(outcome.is_good(), "{:?}", outcome.problems);
//! assert_eq!(outcome.trace, orch_simulation::simulate(1, None).trace);
//! ```

mod bug;
mod dags;
mod dice;
pub mod faulty;
mod play;
mod rogue;
mod switch;
mod trace;
mod world;

pub use bug::Bug;
pub use dice::{Dice, Fired};
pub use switch::Switch;
pub use trace::Trace;

use orch::Digest;
use orch::ledger::Stream;
use orch::proof::Problem;
use orch::store::{EntriesRequest, MemoryStore, RunsQuery, Store};
use tokio::runtime::Builder;

/// Every fault that a simulation can bring about; over enough seeds each of them must have struck.
pub const FAULTS: &[&str] = &[
    "clock.backward",
    "clock.forward",
    "lock.delay",
    "lock.indeterminate",
    "lock.unavailable",
    "process.crashed_after",
    "process.crashed_before",
    "process.held",
    "process.left_dead",
    "process.restarted",
    "process.shut_down",
    "process.zombie",
    "queue.delay",
    "queue.dropped",
    "queue.flushed",
    "queue.indeterminate",
    "queue.reordered",
    "queue.twice",
    "queue.unavailable",
    "race",
    "store.conflict",
    "store.delay",
    "store.indeterminate",
    "store.unavailable",
];

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The invariants that did not hold.
    pub problems: Vec<Problem>,
    /// What else nobody expected.
    pub odd: Vec<String>,
    /// How often each fault struck, and what else happened how often.
    pub fired: Fired,
    /// Every call of a seam and its answer, in order.
    pub trace: String,
    /// SHA-256 of all entries of all streams at the end.
    pub ledger: Digest,
    /// Entries that were verified.
    pub entries: u64,
}

impl Outcome {
    /// What is known of a seed whose world broke down.
    #[must_use]
    pub fn panicked(seed: u64) -> Self {
        let (problems, odd) = (Vec::new(), vec!["the world panicked".to_owned()]);
        let (fired, trace, ledger) = Default::default();
        Self { seed, problems, odd, fired, trace, ledger, entries: 0 }
    }

    /// Whether everything held.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty() && self.odd.is_empty()
    }
}

/// Plays the world of a seed, with a defect or without.
///
/// # Panics
/// When no runtime can be built, or the in-memory store cannot be read.
#[must_use]
pub fn simulate(seed: u64, bug: Option<Bug>) -> Outcome {
    let before = panics::seen();
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let dice = Dice::new(seed);
        // Every other store cannot tell whether anybody has written.
        let play = play::Play::new(&dice, bug, seed.is_multiple_of(2));
        play.run().await;
        let report = play.check().await.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        let world = play.world();
        let mut odd = play.odd();
        if panics::seen() > before {
            odd.push("a task panicked".to_owned());
        }
        Outcome {
            seed,
            problems: report.problems,
            odd,
            fired: dice.all_fired(),
            trace: world.trace.text(),
            ledger: ledger(&world.backend.store).await,
            entries: report.entries,
        }
    })
}

/// Panics of tasks: the runtime keeps them to itself, and a world has one thread.
mod panics {
    use std::cell::Cell;
    use std::sync::Once;

    thread_local! {
        static SEEN: Cell<u64> = const { Cell::new(0) };
    }

    /// How many there were on this thread since this was first asked on any.
    pub(crate) fn seen() -> u64 {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                SEEN.with(|seen| seen.set(seen.get() + 1));
                told(info);
            }));
        });
        SEEN.with(Cell::get)
    }
}

/// SHA-256 of everything in the ledger.
async fn ledger(store: &MemoryStore) -> Digest {
    let mut all = String::new();
    for tenant in world::tenants() {
        let query = RunsQuery { limit: 500, ..RunsQuery::all(tenant.clone()) };
        let runs = store.runs(&query).await.map(|page| page.runs).unwrap_or_default();
        let runs = runs.into_iter().map(|row| Stream::Run(row.run));
        for stream in runs.chain([Stream::Audit, Stream::Checkpoint]) {
            let request = EntriesRequest { tenant: tenant.clone(), stream, after: 0, limit: usize::MAX };
            for page in store.entries(&[request]).await.unwrap_or_default() {
                all.push_str(&page.lines);
            }
        }
    }
    Digest::of(all.as_bytes())
}
