//! Which executor runs which step.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::guard::Guard;
use super::task::{Task, TaskResult};
use super::{Executor, StepContext};
use crate::error::{Error, Result};
use crate::spec::Uses;

/// The executors of a process, by what steps write after `uses`. Cheap to clone once built.
///
/// ```
/// use orch::executor::{Executors, Failure, StepContext};
///
/// #[derive(serde::Deserialize)]
/// struct Greeting { name: String }
///
/// let executors = Executors::new().task("greet", |_: StepContext, input: Greeting| async move {
///     if input.name.is_empty() {
///         return Err(Failure::fatal("no_name", "nobody to greet"));
///     }
///     Ok(format!("hello {}", input.name))
/// });
/// assert_eq!(executors.names().collect::<Vec<_>>(), ["fn/greet"]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Executors {
    registered: Arc<BTreeMap<String, Registered>>,
    /// Those registered for one way to write `uses`.
    exact: Arc<HashMap<Uses, Registered>>,
    problems: Vec<String>,
}

#[derive(Clone, Debug)]
struct Registered {
    executor: Arc<dyn Executor>,
    version: Arc<str>,
}

impl Executors {
    /// The version of a task that names none.
    pub const FIRST_VERSION: &'static str = "1";

    /// No executors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an async function as `fn/NAME`, version `1`.
    ///
    /// - An input of another shape is the failure `invalid_input`, final, and names the field.
    /// - A panic is the failure `panic`, retryable: it may stem from a passing state of the world, and the step's
    ///   own `nonRetryable` can say otherwise.
    /// - On cancellation the function's future is dropped at its next await point; what must be undone belongs
    ///   into `Drop`. A function that never awaits cannot be stopped.
    #[must_use]
    pub fn task<T, F, Fut>(self, name: &str, function: F) -> Self
    where
        F: Fn(StepContext, T) -> Fut + Send + Sync + 'static,
        T: DeserializeOwned + Send + 'static,
        Fut: Future<Output: TaskResult + Send> + Send + 'static,
    {
        self.task_version(name, Self::FIRST_VERSION, function)
    }

    /// As [`Executors::task`], with a version of your own. It is part of a step's hash: raise it when the function
    /// gives other results for the same input, so that no result of the old one is reused.
    #[must_use]
    pub fn task_version<T, F, Fut>(self, name: &str, version: &str, function: F) -> Self
    where
        F: Fn(StepContext, T) -> Fut + Send + Sync + 'static,
        T: DeserializeOwned + Send + 'static,
        Fut: Future<Output: TaskResult + Send> + Send + 'static,
    {
        self.executor(&format!("fn/{name}"), version, Arc::new(Task::new(function)))
    }

    /// Registers an executor for one way to write `uses`, such as `process` or `fn/scan`, or for all targets of a
    /// kind, such as `worker/*`. The exact one goes before the general one.
    ///
    /// Every executor is guarded: a panic becomes the failure `panic`, and what stands in its outcome of the step's
    /// secrets becomes `[redacted]`.
    ///
    /// A pattern that no step can match, or that is taken, is a problem that [`Executors::check`] reports.
    #[must_use]
    pub fn executor(mut self, pattern: &str, version: &str, executor: Arc<dyn Executor>) -> Self {
        match check_pattern(pattern) {
            Err(problem) => self.problems.push(problem.to_string()),
            Ok(_) if self.registered.contains_key(pattern) => {
                self.problems.push(format!("`{pattern}` is registered twice"));
            }
            Ok(uses) => {
                let registered = Registered { executor: Arc::new(Guard(executor)), version: version.into() };
                if let Some(uses) = uses {
                    Arc::make_mut(&mut self.exact).insert(uses, registered.clone());
                }
                Arc::make_mut(&mut self.registered).insert(pattern.to_owned(), registered);
            }
        }
        self
    }

    /// Whether everything could be registered. An engine asks before it starts.
    ///
    /// # Errors
    /// `Invalid` naming every problem.
    pub fn check(&self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("executors cannot be registered").with("problems", self.problems.join("; ")))
    }

    /// Who runs such a step, and in which version.
    #[must_use]
    pub fn lookup(&self, uses: &Uses) -> Option<(&Arc<dyn Executor>, &str)> {
        let general = || {
            let pattern = match uses {
                Uses::Function(_) => "fn/*",
                Uses::Worker(_) => "worker/*",
                Uses::Wasm(_) => "wasm/*",
                _ => return None,
            };
            self.registered.get(pattern)
        };
        let registered = self.exact.get(uses).or_else(general)?;
        Some((&registered.executor, &registered.version))
    }

    /// The registered patterns in byte order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.registered.keys().map(String::as_str)
    }
}

/// A pattern is a task's `uses`, its target possibly `*`. Answers the `uses` of a pattern without.
fn check_pattern(pattern: &str) -> Result<Option<Uses>> {
    let kind = pattern.strip_suffix("/*");
    let uses: Uses = kind.map_or_else(|| pattern.to_owned(), |kind| format!("{kind}/any")).parse()?;
    if uses.is_task() {
        return Ok(kind.is_none().then_some(uses));
    }
    Err(Error::invalid("the engine itself carries steps of this kind").with("uses", pattern))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Failure, Outcome, Secret};
    use crate::payload::Payload;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sum {
        parts: Vec<u32>,
        #[serde(default)]
        plus: u32,
    }

    async fn run(executors: &Executors, input: serde_json::Value) -> Outcome {
        run_in(executors, StepContext::standalone("fn/t".parse().unwrap()), input).await
    }

    async fn run_in(executors: &Executors, context: StepContext, input: serde_json::Value) -> Outcome {
        executors.check().unwrap();
        let (executor, _) = executors.lookup(&context.uses).unwrap();
        executor.execute(context, Payload::new(&input).unwrap()).await
    }

    fn failure(outcome: Outcome) -> Failure {
        let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
        failure
    }

    fn sum() -> Executors {
        Executors::new().task("t", |_, input: Sum| async move {
            let sum = input.parts.iter().sum::<u32>() + input.plus;
            if sum == 0 { Err(Failure::retryable("empty", "nothing to add")) } else { Ok(sum) }
        })
    }

    #[tokio::test]
    async fn a_function_gets_its_input_and_its_output_is_json() {
        let outcome = run(&sum(), json!({"parts": [1, 2]})).await;
        assert_eq!(outcome, Outcome::Succeeded(Payload::parse("3").unwrap()));
        assert_eq!(failure(run(&sum(), json!({"parts": []})).await).code, "empty");
    }

    #[tokio::test]
    async fn an_input_of_another_shape_is_final_and_names_the_field() {
        for (input, message) in [
            (json!({"parts": [1, "x"]}), "with.parts[1]: invalid type: string \"x\", expected u32"),
            (
                json!({"parts": [], "pluss": 1}),
                "with.pluss: unknown field `pluss`, expected `parts` or `plus`",
            ),
            (json!(null), "with: missing field `parts`"),
            (json!(7), "with: invalid type: integer `7`, expected struct Sum"),
        ] {
            let failure = failure(run(&sum(), input).await);
            assert_eq!(failure, Failure::fatal("invalid_input", message));
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_wherever_it_happens() {
        fn at_once(_: StepContext, (): ()) -> std::future::Ready<Result<(), Failure>> {
            panic!("at once")
        }
        let later = Executors::new().task("t", |_, (): ()| async {
            tokio::task::yield_now().await;
            std::panic::panic_any(5);
            #[expect(unreachable_code, reason = "names the type")]
            Ok::<(), Failure>(())
        });
        let at_once = failure(run(&Executors::new().task("t", at_once), json!(null)).await);
        assert_eq!(at_once, Failure::retryable("panic", "the executor panicked: at once"));
        assert_eq!(failure(run(&later, json!(null)).await).message, "the executor panicked");
    }

    #[tokio::test]
    async fn a_secret_stays_out_of_outputs_and_failures() {
        let executors = Executors::new().task("t", |context: StepContext, fails: bool| async move {
            let text = format!("key {}", context.secrets["KEY"].expose());
            if fails { Err(Failure::fatal("refused", text)) } else { Ok(text) }
        });
        let secrets = BTreeMap::from([("KEY".to_owned(), Secret::new("hunter22").unwrap())]);
        let context = StepContext::standalone("fn/t".parse().unwrap()).with_secrets(secrets);
        let outcome = run_in(&executors, context.clone(), json!(false)).await;
        assert_eq!(outcome, Outcome::Succeeded(Payload::parse("\"key [redacted]\"").unwrap()));
        assert_eq!(failure(run_in(&executors, context, json!(true)).await).message, "key [redacted]");
    }

    #[tokio::test]
    async fn an_output_that_is_no_payload_is_a_failure() {
        let executors = Executors::new().task("t", |_, (): ()| async { Ok::<_, Failure>(u64::MAX) });
        let failure = failure(run(&executors, json!(null)).await);
        assert!(failure.code == "invalid_output" && !failure.retryable, "{failure}");
    }

    #[tokio::test]
    async fn cancellation_drops_the_function() {
        let executors = Executors::new().task("t", |context: StepContext, (): ()| async move {
            context.cancellation.cancel();
            std::future::pending::<()>().await;
            Ok::<_, Failure>(())
        });
        assert_eq!(run(&executors, json!(null)).await, Outcome::Cancelled);
    }

    #[test]
    fn the_exact_name_goes_before_the_pattern() {
        let task = |_: StepContext, (): ()| async { Ok::<_, Failure>(()) };
        let executors = Executors::new()
            .executor("worker/*", "any", Arc::new(Task::new(task)))
            .executor("worker/scan", "own", Arc::new(Task::new(task)))
            .task_version("t", "7", task);
        executors.check().unwrap();
        let version = |uses: &str| executors.lookup(&uses.parse().unwrap()).map(|(_, version)| version);
        assert_eq!(version("worker/scan"), Some("own"));
        assert_eq!(version("worker/other"), Some("any"));
        assert_eq!(version("fn/t"), Some("7"));
        assert_eq!(version("fn/other"), None);
        assert_eq!(version("process"), None);
        assert_eq!(executors.names().collect::<Vec<_>>(), ["fn/t", "worker/*", "worker/scan"]);
    }

    #[test]
    fn all_bad_registrations_are_reported_together() {
        let task = |_: StepContext, (): ()| async { Ok::<_, Failure>(()) };
        let executors = Executors::new()
            .task("Bad Name", task)
            .task("twice", task)
            .task("twice", task)
            .executor("gate/approval", "1", Arc::new(Task::new(task)))
            .executor("shell/*", "1", Arc::new(Task::new(task)));
        let error = executors.check().unwrap_err().to_string();
        for part in ["Bad Name", "`fn/twice` is registered twice", "gate/approval", "shell/any"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
