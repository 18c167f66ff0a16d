//! Planning a million steps with three million edges: `cargo run --release -p orch-benches --example plan-million`.

use std::time::Instant;

use orch::Limits;
use orch::planner::Plan;
use orch_benches::layered;

#[expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement reads the time and is printed"
)]
fn main() -> orch::Result<()> {
    let limits = Limits { steps: Limits::STEPS_CEILING, ..Limits::default() };
    for round in 1..=3 {
        let dag = layered(1_000_000, 1_000);
        let begun = Instant::now();
        let plan = Plan::new(dag, &limits)?;
        println!("{round}: {} steps in {:.2?}, plan {}", plan.steps().len(), begun.elapsed(), plan.hash());
    }
    Ok(())
}
