//! `orch work --server`: a worker of a service, which executes what it leases by a command.

use crate::args::{Globals, JobArgs};
use crate::fault::Result;
use crate::output::Out;

/// Says what to build.
#[cfg(not(feature = "remote"))]
pub(crate) async fn work(_: &Globals, _: &Out, _: &str, _: &JobArgs) -> Result<()> {
    Err(crate::desk::missing())
}

/// Leases and executes until Ctrl-C, or until nothing is left to lease.
#[cfg(feature = "remote")]
pub(crate) async fn work(globals: &Globals, out: &Out, server: &str, args: &JobArgs) -> Result<()> {
    worker::Worker::new(globals, server, args)?.work(out, args.until_idle).await
}

#[cfg(feature = "remote")]
mod worker {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use orch::engine::{Lease, Leased};
    use orch::executor::{
        Executor as _, Failure, LogLine, Outcome, ProcessExecutor, ProcessSettings, Secret, StepContext,
    };
    use orch::ledger::{ArtifactRef, StepStatus};
    use orch::spec::Uses;
    use orch::{Clock as _, ErrorKind, Payload, RunKey, SystemClock, Timestamp};
    use orch_http::client::Client;
    use serde_json::json;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use crate::args::{Globals, JobArgs};
    use crate::carry::Interrupts;
    use crate::connect::{self, DRAIN};
    use crate::desk::There;
    use crate::fault::{Fault, Result};
    use crate::output::{Out, style, words};

    /// How long the service is to wait for the first step. Short enough that a worker that is told to stop does.
    const WAIT: Duration = Duration::from_secs(20);
    /// The same for a worker that stops when nothing is left.
    const WAIT_UNTIL_IDLE: Duration = Duration::from_secs(1);
    /// The longest rest between two questions to a service that is away.
    const AWAY_MAX: Duration = Duration::from_secs(30);
    /// How long the answer to the last question is waited for at the end.
    const LATE: Duration = Duration::from_millis(500);
    /// Words of a lease in its time: two may get lost before it is over.
    const WORDS: u32 = 3;

    /// A worker of a service.
    pub(super) struct Worker {
        lease: Lease,
        slots: usize,
        execution: Arc<Execution>,
    }

    /// How a step is executed.
    struct Execution {
        client: Client,
        command: Vec<String>,
        executor: ProcessExecutor,
        secrets: BTreeMap<String, Secret>,
        /// How long the worker is believed without a further word.
        span: Duration,
        /// What was begun is to end now.
        stop: CancellationToken,
    }

    /// What became of a step.
    struct Ended {
        leased: Leased,
        outcome: Outcome,
        took: Duration,
        /// Why the service does not count it.
        unheard: Option<orch::Error>,
    }

    impl Worker {
        pub(super) fn new(globals: &Globals, server: &str, args: &JobArgs) -> Result<Self> {
            if args.types.is_empty() || args.command.is_empty() {
                return Err(Fault::said("a worker of a service needs to know what it executes, and how")
                    .hint("orch work --server URL --type TYPE -- COMMAND [ARGUMENTS]"));
            }
            if args.work.no_work || args.work.sandbox.is_some() {
                return Err(Fault::said("--no-work and --sandbox say nothing to a worker of a service"));
            }
            let who = connect::identity(globals)?;
            let client = There::reach(globals, server, &who)?;
            let secrets = connect::secrets(&args.work)?;
            let (_, root) = connect::grounds(globals)?;
            let mut lease = Lease::of(name(), args.types.iter().map(ToString::to_string));
            lease.lease = args.work.lease;
            lease.wait = if args.until_idle { WAIT_UNTIL_IDLE } else { WAIT };
            if !args.from.is_empty() {
                lease.queues = args.from.clone();
            }
            let execution = Execution {
                client,
                command: args.command.clone(),
                executor: ProcessExecutor::unsandboxed(ProcessSettings::below(root)),
                secrets,
                span: args.work.lease,
                stop: CancellationToken::new(),
            };
            Ok(Self { lease, slots: args.work.slots.max(1), execution: Arc::new(execution) })
        }

        pub(super) async fn work(self, out: &Out, until_idle: bool) -> Result<()> {
            let mut interrupts = Interrupts::listen()?;
            let mut under_way = JoinSet::new();
            let mut rest = Duration::ZERO;
            // It goes on while steps end: what it brings would otherwise be leased by nobody.
            let mut asking: Option<Asking<'_>> = None;
            let ended = loop {
                let free = self.slots - under_way.len();
                if asking.is_none() && free > 0 {
                    asking = Some(self.ask(free, rest).boxed());
                }
                tokio::select! {
                    leased = answer(&mut asking) => match leased {
                        Ok(leased) => {
                            if leased.is_empty() && until_idle && under_way.is_empty() {
                                break Ok(());
                            }
                            rest = Duration::ZERO;
                            for leased in leased {
                                let execution = Arc::clone(&self.execution);
                                under_way.spawn(async move { execution.execute(leased).await });
                            }
                        }
                        Err(error) if error.is_retryable() => {
                            if rest.is_zero() {
                                out.note(format_args!("{error}; asking again"));
                            }
                            rest = (rest * 2).clamp(Duration::from_secs(1), AWAY_MAX);
                        }
                        Err(error) => break Err(error.into()),
                    },
                    Some(ended) = under_way.join_next() => tell(out, ended),
                    () = interrupts.next() => break Ok(()),
                }
            };
            // What is on its way already is given back; a service that still waits notices that nobody listens.
            if let Ok(Ok(late)) = tokio::time::timeout(LATE, answer(&mut asking)).await {
                for leased in late {
                    if let Err(error) = self.execution.client.release_lease(&leased.token).await {
                        out.note(format_args!("step {} could not be given back: {error}", leased.step));
                    }
                }
            }
            drop(asking);
            self.end(out, under_way, &mut interrupts).await;
            ended
        }

        /// Asks for so many steps, after a rest.
        async fn ask(&self, most: usize, rest: Duration) -> orch::Result<Vec<Leased>> {
            tokio::time::sleep(rest).await;
            let lease = Lease { max: most.clamp(1, Lease::MOST.0), ..self.lease.clone() };
            self.execution.client.lease(&lease).await
        }

        /// Lets what was begun end, for a while; what then still runs is stopped and given back.
        async fn end(&self, out: &Out, mut under_way: JoinSet<Ended>, interrupts: &mut Interrupts) {
            if !under_way.is_empty() {
                let (left, span) = (words::count(under_way.len(), "step"), words::span(DRAIN));
                out.note(format_args!("waiting up to {span} for {left}; Ctrl-C stops them now"));
            }
            let mut patience = std::pin::pin!(tokio::time::sleep(DRAIN));
            let mut stopped = false;
            while !under_way.is_empty() {
                tokio::select! {
                    Some(ended) = under_way.join_next() => tell(out, ended),
                    () = interrupts.next(), if !stopped => stopped = true,
                    () = &mut patience, if !stopped => stopped = true,
                }
                if stopped {
                    self.execution.stop.cancel();
                }
            }
        }
    }

    type Asking<'a> = BoxFuture<'a, orch::Result<Vec<Leased>>>;

    /// The answer to what was asked, which is then asked no more; never one where nothing is.
    async fn answer(asking: &mut Option<Asking<'_>>) -> orch::Result<Vec<Leased>> {
        let answered = match asking.as_mut() {
            Some(asked) => asked.await,
            None => std::future::pending().await,
        };
        *asking = None;
        answered
    }

    impl Execution {
        async fn execute(&self, leased: Leased) -> Ended {
            let begun = SystemClock.now();
            let (outcome, unheard) = match self.context(&leased) {
                Ok(context) => self.run(&leased, context).await,
                Err(failure) => {
                    let outcome = Outcome::from(failure);
                    let told = self.hand_in(&leased, &outcome, None).await;
                    (outcome, told.err())
                }
            };
            Ended { leased, outcome, took: SystemClock.now().since(begun), unheard }
        }

        /// What the command is told about the step.
        fn context(&self, leased: &Leased) -> std::result::Result<StepContext, Failure> {
            let mut secrets = BTreeMap::new();
            for name in &leased.secrets {
                let missing =
                    || Failure::fatal("secret_missing", format!("this worker has no secret {name}"));
                secrets.insert(name.clone(), self.secrets.get(name).cloned().ok_or_else(missing)?);
            }
            let uses: Uses = format!("worker/{}", leased.job_type).parse()?;
            let context = StepContext::standalone(uses).with_secrets(secrets);
            let tenant = self.client.tenant().clone();
            Ok(StepContext {
                run: RunKey { tenant, run: leased.run },
                dag: leased.dag.clone(),
                step: leased.step.clone(),
                attempt: leased.attempt,
                submitted_in: leased.traceparent.clone(),
                baggage: leased.baggage.clone(),
                deadline: leased.deadline,
                ..context
            })
        }

        /// Runs the command, and says meanwhile that the worker lives.
        async fn run(&self, leased: &Leased, context: StepContext) -> (Outcome, Option<orch::Error>) {
            let (cancellation, log) = (context.cancellation.clone(), context.log.clone());
            let [command, args @ ..] = &self.command[..] else {
                return (Outcome::Cancelled, Some(orch::Error::internal("there is no command")));
            };
            let input = json!({ "command": command, "args": args, "stdin": leased.input.to_value() });
            let input = match Payload::new(&input) {
                Ok(input) => input,
                Err(error) => return (Failure::from(error).into(), None),
            };
            let end = {
                let mut executing = std::pin::pin!(self.executor.execute(context, input));
                tokio::select! {
                    outcome = &mut executing => Ok(outcome),
                    end = self.keep(leased) => {
                        cancellation.cancel();
                        // The command is gone before anybody else is told that it may begin again.
                        let _ = executing.await;
                        Err(end)
                    }
                }
            };
            let logs = match log.finish().map(|lines| text(&lines)) {
                Some(text) if !matches!(end, Err(End::Lost(_))) => {
                    self.client.upload_log(&leased.token, text).await.ok()
                }
                _ => None,
            };
            let outcome = match end {
                Ok(outcome) => outcome,
                Err(End::Lost(error)) => return (Outcome::Cancelled, Some(error)),
                Err(End::Cancelled) => Outcome::Cancelled,
                Err(End::OutOfTime) => Outcome::TimedOut,
                Err(End::Stopped) => {
                    let told = self.client.release_lease(&leased.token).await;
                    return (Outcome::Cancelled, told.err());
                }
            };
            let told = self.hand_in(leased, &outcome, logs).await;
            (outcome, told.err())
        }

        /// Says how the attempt ended, for as long as the lease may last: a service that is away for a moment costs no result.
        async fn hand_in(
            &self,
            leased: &Leased,
            outcome: &Outcome,
            logs: Option<ArtifactRef>,
        ) -> orch::Result<()> {
            let begun = SystemClock.now();
            loop {
                let told = self.client.finish_lease(&leased.token, outcome, logs.clone()).await;
                let late = SystemClock.now().since(begun) >= self.span;
                match told {
                    Err(error) if error.is_retryable() && !late => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    told => return told,
                }
            }
        }

        /// Prolongs the lease until something ends the attempt from outside.
        async fn keep(&self, leased: &Leased) -> End {
            let out_of_time = async {
                match leased.deadline {
                    None => std::future::pending().await,
                    Some(deadline) => tokio::time::sleep(deadline.since(SystemClock.now())).await,
                }
            };
            let mut out_of_time = std::pin::pin!(out_of_time);
            let mut until: Timestamp = leased.lease_until;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(self.span / WORDS) => {}
                    () = &mut out_of_time => return End::OutOfTime,
                    () = self.stop.cancelled() => return End::Stopped,
                }
                match self.client.renew_lease(&leased.token, self.span, None).await {
                    Ok(renewed) if renewed.cancel => return End::Cancelled,
                    Ok(renewed) => until = renewed.lease_until,
                    // Until its time is over the lease is the worker's, whether or not it is heard.
                    Err(error) if error.is_retryable() && SystemClock.now() < until => {}
                    Err(error) => return End::Lost(error),
                }
            }
        }
    }

    /// What ends an attempt from outside.
    enum End {
        Cancelled,
        OutOfTime,
        Stopped,
        Lost(orch::Error),
    }

    /// What people may know the worker by.
    fn name() -> String {
        format!("orch-{}", std::process::id())
    }

    /// The lines of a log as they were said.
    fn text(lines: &[u8]) -> String {
        let lines = String::from_utf8_lossy(lines);
        let said = lines.lines().filter_map(|line| serde_json::from_str::<LogLine>(line).ok());
        said.map(|line| line.line).collect::<Vec<_>>().join("\n")
    }

    fn tell(out: &Out, ended: std::result::Result<Ended, tokio::task::JoinError>) {
        let Ended { leased, outcome, took, unheard } = match ended {
            Ok(ended) => ended,
            Err(error) => return out.error(format_args!("a step could not be executed: {error}")),
        };
        let (status, why) = match (&outcome, &unheard) {
            (_, Some(error)) if error.kind() == ErrorKind::LeaseLost => {
                (StepStatus::Cancelled, Some("its lease was over".to_owned()))
            }
            (_, Some(error)) => (StepStatus::Cancelled, Some(error.to_string())),
            (Outcome::Succeeded(_), _) => (StepStatus::Succeeded, None),
            (Outcome::Failed(failure), _) => (StepStatus::Failed, Some(failure.to_string())),
            (Outcome::TimedOut, _) => (StepStatus::Failed, Some("it was out of time".to_owned())),
            (Outcome::Cancelled, _) => (StepStatus::Cancelled, None),
        };
        let Leased { run, step, dag, attempt, .. } = &leased;
        if out.json {
            out.record(&json!({
                "run": run, "dagId": dag, "step": step, "attempt": attempt, "status": status, "message": why,
            }));
            return;
        }
        let why = why.map(|why| format!(": {}", words::one_line(&why))).unwrap_or_default();
        let (status, short, took) = (style::step(status), words::short(*run), words::span(took));
        out.line(format_args!("{status}  {step}  {dag} run {short}, attempt {attempt}, {took}{why}"));
    }
}
