//! What calls and idle workers cost.

use super::*;

/// Commands that were sent, by name; those that a sharded cluster would not take are told apart.
type Commands = Arc<Mutex<Vec<String>>>;

async fn counted(shared: Shared) -> Option<(MongoBackend, Commands)> {
    let config = config(shared)?;
    let mut options = connect::options(&config).await.unwrap();
    let commands = Commands::default();
    let noted = Arc::clone(&commands);
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Started(started) = event {
            let fits = fits_shards(&started.command);
            let name = started.command_name;
            noted.lock().unwrap().push(if fits { name } else { format!("{name} without its key") });
        }
    }));
    Some((MongoBackend::on(Connection::open_with(config, options).await.unwrap()), commands))
}

/// Whether a cluster that is sharded by `_id` knows where a command belongs: what changes one document names its whole key,
/// and nothing is in a transaction. (What changes many documents goes to every shard.)
fn fits_shards(command: &Document) -> bool {
    let whole_key = |filter: Option<&Document>| {
        let key = filter.and_then(|filter| filter.get("_id"));
        key.is_some_and(|key| {
            !key.as_document().is_some_and(|key| key.keys().any(|name| name.starts_with('$')))
        })
    };
    let each = |list: &str, filter: &str, many: &dyn Fn(&Document) -> bool| {
        let statements = command.get_array(list).unwrap().iter().map(|one| one.as_document().unwrap());
        statements.clone().all(|one| many(one) || whole_key(one.get_document(filter).ok()))
    };
    let known = match command.keys().next().map(String::as_str) {
        Some("update") => each("updates", "q", &|one| one.get_bool("multi").unwrap_or(false)),
        Some("delete") => each("deletes", "q", &|one| one.get_i32("limit").unwrap() == 0),
        Some("findAndModify") => whole_key(command.get_document("query").ok()),
        _ => true,
    };
    known && !command.contains_key("startTransaction")
}

#[test]
fn a_command_that_no_sharded_cluster_would_take_is_seen() {
    let of = |query: Document, multi: bool| doc! {"update": "c", "updates": [{"q": query, "u": {}, "multi": multi}]};
    assert!(fits_shards(&of(doc! {"_id": "a", "state": 1}, false)));
    assert!(fits_shards(&of(doc! {"state": 1}, true)));
    assert!(!fits_shards(&of(doc! {"state": 1}, false)));
    assert!(!fits_shards(&of(doc! {"_id": {"$gt": "a"}}, false)));
    assert!(!fits_shards(&doc! {"delete": "c", "deletes": [{"q": {"a": 1}, "limit": 1}]}));
    assert!(!fits_shards(&doc! {"findAndModify": "c", "query": {"a": 1}}));
}

fn take(commands: &Commands) -> Vec<String> {
    std::mem::take(&mut *commands.lock().unwrap())
}

#[tokio::test]
async fn every_call_of_the_store_costs_what_is_said() {
    for shared in [Shared::Mongo, Shared::MongoStandalone] {
        let Some((backend, commands)) = counted(shared).await else { return };
        let store = backend.store();
        take(&commands);
        let new: Vec<_> = (0..50).map(|n| entry(n, Head::EMPTY, "x", RunStatus::Running, Some(10))).collect();
        store.append(&new).await.unwrap();
        assert_eq!(take(&commands), ["update", "insert", "update"], "fifty runs begin");
        let next = |wake| -> Vec<_> {
            new.iter().enumerate().map(|(n, a)| entry(n, a.head, "y", RunStatus::Running, wake)).collect()
        };
        let same = next(Some(12));
        store.append(&same).await.unwrap();
        assert_eq!(take(&commands), ["insert", "find"], "fifty runs go on, and wake a little later");
        let ends: Vec<_> =
            same.iter().enumerate().map(|(n, a)| entry(n, a.head, "z", RunStatus::Completed, None)).collect();
        store.append(&ends).await.unwrap();
        assert_eq!(take(&commands), ["insert", "find", "update"], "fifty runs end");
        let requests: Vec<_> = ends
            .iter()
            .map(|a| EntriesRequest { tenant: tenant(), stream: a.stream, after: 0, limit: 10 })
            .collect();
        store.entries(&requests).await.unwrap();
        assert_eq!(take(&commands), ["find"], "fifty runs are read");
        let known = |after: u64| -> Vec<_> {
            requests[..30].iter().cloned().map(|request| EntriesRequest { after, ..request }).collect()
        };
        store.entries(&known(1)).await.unwrap();
        assert_eq!(take(&commands), ["find"], "what is new of thirty runs is read");
        store.entries(&known(3)).await.unwrap();
        assert_eq!(take(&commands), ["find", "aggregate"], "nothing of thirty runs is new");
        let short = requests.iter().cloned().map(|request| EntriesRequest { limit: 1, ..request });
        store.entries(&short.collect::<Vec<_>>()).await.unwrap();
        assert_eq!(take(&commands), ["find", "aggregate"], "of fifty runs more than a page is there");
        store.run(&ends[0].row.as_ref().unwrap().key()).await.unwrap();
        assert_eq!(take(&commands), ["aggregate"]);
        store.runs(&RunsQuery::all(tenant())).await.unwrap();
        assert_eq!(take(&commands), ["aggregate", "aggregate"]);
        due(&store, 100).await;
        assert_eq!(take(&commands), ["aggregate"], "nothing is due");
        let key = DocKey { tenant: tenant(), kind: "dag", key: "k".into() };
        let put =
            |expect, body: Option<&str>| PutDoc { key: key.clone(), expect, body: body.map(Into::into) };
        store.put_doc(&put(Expect::Absent, Some("1"))).await.unwrap();
        store.put_doc(&put(Expect::Version(1), Some("2"))).await.unwrap();
        store.doc(&key).await.unwrap();
        store.docs(&DocsQuery { tenant: tenant(), kind: "dag", after: None, limit: 10 }).await.unwrap();
        store.put_doc(&put(Expect::Any, None)).await.unwrap();
        assert_eq!(take(&commands), ["insert", "findAndModify", "find", "find", "delete"]);
        let runs = ends.iter().map(|a| (a.row.as_ref().unwrap().run, a.head)).collect();
        assert_eq!(store.prune(&Prune { tenant: tenant(), runs }).await.unwrap(), 50);
        let pruning = ["aggregate", "update", "aggregate", "update", "find", "delete", "delete", "delete"];
        assert_eq!(take(&commands), pruning, "fifty runs are pruned");
    }
}

#[tokio::test]
async fn every_call_of_the_queue_and_the_lock_costs_what_is_said() {
    for shared in [Shared::Mongo, Shared::MongoStandalone] {
        let Some((backend, commands)) = counted(shared).await else { return };
        let (queue, lock) = (backend.queue(), backend.lock());
        take(&commands);
        queue.claim(&claim(10)).await.unwrap();
        assert_eq!(take(&commands), ["aggregate", "aggregate"], "the first claim learns the segments");
        queue.claim(&claim(10)).await.unwrap();
        assert_eq!(take(&commands), ["aggregate"], "nothing waits");
        queue.push(&(0..60).map(item).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(take(&commands), ["insert", "find"]);
        let mut deliveries = queue.claim(&claim(10)).await.unwrap().deliveries;
        assert_eq!(
            take(&commands),
            ["aggregate", "aggregate", "update", "find", "update"],
            "the first lease"
        );
        deliveries.extend(queue.claim(&claim(50)).await.unwrap().deliveries);
        assert_eq!(deliveries.len(), 60);
        assert_eq!(take(&commands), ["aggregate", "aggregate", "update", "find"]);
        let tokens: Vec<_> = deliveries.iter().map(|delivery| delivery.token.clone()).collect();
        queue.renew(&tokens, at(90_000_000), at(1)).await.unwrap();
        assert_eq!(take(&commands), ["update", "find"]);
        let mut settles: Vec<_> = tokens.iter().cloned().map(Settle::done).collect();
        let released = settles.split_off(25).into_iter().map(|settle| Settle::release(settle.token, at(0)));
        let released: Vec<_> = released.collect();
        queue.settle(&settles, at(2)).await.unwrap();
        assert_eq!(take(&commands), ["update", "delete"]);
        queue.settle(&released, at(2)).await.unwrap();
        assert_eq!(take(&commands), ["update", "find"]);
        queue.depth(&tenant(), at(2)).await.unwrap();
        assert_eq!(take(&commands), ["find", "aggregate"]);

        let holder = Holder { tenant: tenant(), name: "h".into() };
        let slots = vec![Slot { key: "k".into(), capacity: 1 }];
        let acquire = Acquire { holder: holder.clone(), slots, lease: Duration::from_secs(1), now: at(0) };
        lock.acquire(&acquire).await.unwrap().unwrap();
        assert_eq!(take(&commands), ["find", "insert"]);
        lock.renew(std::slice::from_ref(&holder), at(2_000_000), at(1)).await.unwrap().remove(0).unwrap();
        assert_eq!(take(&commands), ["find", "update"]);
        lock.release(&[holder]).await.unwrap();
        assert_eq!(take(&commands), ["find", "update"]);
        let tokens = Take { tenant: tenant(), key: "k".into(), tokens: 1, rate: 1.0, burst: 2, now: at(0) };
        lock.take(&tokens).await.unwrap();
        lock.take(&tokens).await.unwrap();
        assert_eq!(take(&commands), ["find", "insert", "find", "update"]);
    }
}

/// What the server did for a query, and how many keys and documents it looked at.
async fn explained(backend: &MongoBackend, collection: &str, pipeline: Vec<Document>) -> (String, i64) {
    let query = doc! {"aggregate": collection, "pipeline": pipeline, "cursor": {}};
    let explain = doc! {"explain": query, "verbosity": "executionStats"};
    let plan = backend.connection.database.run_command(explain).await.unwrap();
    let stats = plan.get_document("executionStats").cloned().unwrap_or_else(|_| {
        let first = plan.get_array("stages").unwrap()[0].as_document().unwrap();
        first.get_document("$cursor").unwrap().get_document("executionStats").unwrap().clone()
    });
    let count = |name: &str| i64::from(stats.get_i32(name).unwrap());
    (plan.to_string(), count("totalKeysExamined") + count("totalDocsExamined"))
}

#[tokio::test]
async fn a_claim_looks_at_no_more_than_it_asks_for_however_much_waits() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    let late = |number: usize| {
        let mut late = item(number);
        (late.priority, late.ready_at) = (9, at(i64::try_from(number).unwrap() + 1));
        late
    };
    queue.push(&(0..3_000).map(item).collect::<Vec<_>>()).await.unwrap();
    queue.push(&(3_000..6_000).map(late).collect::<Vec<_>>()).await.unwrap();
    let leased = queue.claim(&claim(500)).await.unwrap().deliveries;
    assert_eq!(leased.len(), 500);
    let (plan, seen) = explained(&backend, QUEUE, queue::take::waiting_lanes(1)).await;
    assert!(plan.contains("DISTINCT_SCAN") && seen <= 4, "{seen} looked at: {plan}");
    let (plan, seen) =
        explained(&backend, QUEUE, queue::take::ready_in(1, "a/default/7fffffff", "", at(0), 10)).await;
    assert!(!plan.contains("\"SORT\"") && seen <= 30, "{seen} looked at: {plan}");
}

#[tokio::test]
async fn waiting_asks_nothing_while_changes_are_told() {
    let Some((backend, commands)) = counted(Shared::Mongo).await else { return };
    let queue = backend.queue();
    take(&commands);
    // The first wait opens the stream, and ends when it is open.
    queue.wait(Duration::from_secs(20)).await.unwrap();
    queue.wait(Duration::from_millis(1)).await.unwrap();
    let asked = take(&commands);
    assert_eq!(asked.iter().filter(|command| *command == "aggregate").count(), 1, "{asked:?}");
    for _ in 0..20 {
        queue.wait(Duration::from_millis(50)).await.unwrap();
    }
    let asked = take(&commands);
    assert!(asked.iter().all(|command| command == "getMore") && asked.len() <= 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_costs_what_its_engine_asks_for() {
    use orch::engine::{DagRef, Identity, Orchestrator, Submit};
    let Some((backend, commands)) = counted(Shared::Mongo).await else { return };
    let orchestrator = Orchestrator::builder()
        .store(Arc::new(backend.store()))
        .queue(Arc::new(backend.queue()))
        .lock(Arc::new(backend.lock()))
        .task("noop", |_, _: serde_json::Value| async { Ok::<_, orch::Failure>(()) })
        .start()
        .unwrap();
    let text = "apiVersion: orch/v1\nkind: Dag\nid: idle\nsteps: [{id: one, uses: fn/noop}, {id: two, uses: fn/noop, needs: [one]}]\n";
    let dag = orch::spec::parse("idle.yaml", text, &orch::Limits::default()).unwrap();
    let who = Identity::new(tenant(), "test");
    let version = orchestrator.publish(&who, dag.clone()).await.unwrap().version;
    for number in 0..5 {
        let submit =
            Submit::new(DagRef::Version(dag.id.clone(), version), serde_json::json!({ "number": number }));
        let run = orchestrator.submit(&who, submit).await.unwrap().run.run;
        assert_eq!(orchestrator.wait(&who, run).await.unwrap().status, RunStatus::Completed);
    }
    // What the runs left to do is done then: settles, and a sweep that found nothing.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(take(&commands).len() > 20, "the commands are counted");
    tokio::time::sleep(Duration::from_secs(21)).await;
    let asked = take(&commands);
    orchestrator.shutdown().await;
    let others = asked.iter().filter(|command| !["aggregate", "getMore"].contains(&command.as_str())).count();
    assert_eq!(others, 0, "nothing is written: {asked:?}");
    assert!(asked.len() <= 6, "one command for each claim and each sweep: {asked:?}");
}

#[tokio::test]
async fn a_push_of_another_process_wakes_who_waits() {
    for (shared, told) in [(Shared::Mongo, true), (Shared::MongoStandalone, false)] {
        let Some(mut config) = config(shared) else { return };
        config.poll_every = Duration::from_millis(100);
        let (backend, other) =
            (MongoBackend::open(config.clone()).await.unwrap(), MongoBackend::open(config).await.unwrap());
        assert_eq!(backend.connection.tells, told);
        let queue = backend.queue();
        queue.wait(Duration::from_secs(5)).await.unwrap();
        for number in 0..3 {
            let waiting = queue.clone();
            let waiter = tokio::spawn(async move { waiting.wait(Duration::from_secs(3_600)).await });
            tokio::time::sleep(Duration::from_millis(50)).await;
            other.queue().push(&[item(number)]).await.unwrap();
            let woken = tokio::time::timeout(Duration::from_secs(20), waiter).await;
            woken.expect("somebody pushed").unwrap().unwrap();
        }
        let waiting = queue.clone();
        let waiter = tokio::spawn(async move { waiting.wait(Duration::from_secs(3_600)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        backend.close().await;
        let woken =
            tokio::time::timeout(Duration::from_secs(20), waiter).await.expect("it was closed").unwrap();
        assert!(woken.is_ok() || kind(woken) == Some(ErrorKind::Closed));
        assert_eq!(kind(queue.wait(Duration::from_secs(3_600)).await), Some(ErrorKind::Closed));
        assert_eq!(kind(queue.claim(&claim(1)).await), Some(ErrorKind::Closed));
    }
}

#[tokio::test]
async fn q1_what_was_settled_but_for_its_deletion_is_not_delivered_again() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    queue.push(&[item(1), item(2)]).await.unwrap();
    let deliveries = queue.claim(&claim(2)).await.unwrap().deliveries;
    // The process died between settling the first and deleting it.
    let mark = doc! {"$set": {"end": ObjectId::new()}};
    let id = format!("a/{}", deliveries[0].item.id());
    documents(&backend, QUEUE).update_one(doc! {"_id": id}, mark).await.unwrap();
    let depth = queue.depth(&tenant(), at(0)).await.unwrap();
    assert_eq!((depth[0].ready, depth[0].leased), (0, 1));
    assert_eq!(
        kind(queue.settle(&[Settle::done(deliveries[0].token.clone())], at(1)).await.unwrap().remove(0)),
        Some(ErrorKind::LeaseLost)
    );
    let later = |seconds: i64| Claim { now: at(seconds * 1_000_000), ..claim(9) };
    let again = queue.claim(&later(60)).await.unwrap().deliveries;
    assert_eq!(
        again.iter().map(|delivery| delivery.item.id()).collect::<Vec<_>>(),
        [deliveries[1].item.id()]
    );
    let again = queue.claim(&later(4_000)).await.unwrap().deliveries;
    assert_eq!(again.len(), 1);
    assert_eq!(
        documents(&backend, QUEUE).count_documents(doc! {}).await.unwrap(),
        1,
        "long afterwards it is deleted"
    );
}
