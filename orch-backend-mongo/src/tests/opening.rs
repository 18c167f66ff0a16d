//! Queries, indexes and schema, and what opening says.

use super::*;

#[tokio::test]
async fn no_query_reads_a_whole_collection() {
    let Some(server) = Server::start(Kind::Mongo, &["--setParameter", "notablescan=1"]) else {
        return skipped(Kind::Mongo);
    };
    let backend = MongoBackend::open(MongoConfig::new(server.url()).unwrap()).await.unwrap();
    let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
    let head = begin(&store, 1, Some(5)).await;
    assert_eq!(due(&store, 5).await.len(), 1);
    let after = Some((at(5), row(1, head, RunStatus::Running, None).key()));
    store.due(&DueQuery { until: at(9), after, limit: 5 }).await.unwrap();
    for (dag, status) in
        [(None, None), (Some(DagId::new("dag").unwrap()), None), (None, Some(RunStatus::Running))]
    {
        let query = RunsQuery {
            dag,
            status,
            limit: 1,
            from: Some(at(0)),
            to: Some(at(9)),
            ..RunsQuery::all(tenant())
        };
        store.runs(&query).await.unwrap();
        let cursor = RunsCursor { created_at: at(3), run: run_id(1) }.to_text();
        store.runs(&RunsQuery { cursor: Some(cursor), ..query }).await.unwrap();
    }
    let end = append(&store, &entry(1, head, "end", RunStatus::Completed, None)).await.unwrap();
    assert_eq!(page(&store, 1).await.head, end);
    assert_eq!(prune(&store, 1, end).await, 1);
    let docs = DocsQuery { tenant: tenant(), kind: "dag", after: None, limit: 5 };
    store.docs(&docs).await.unwrap();
    queue.push(&[item(1), item(2)]).await.unwrap();
    let delivery = queue.claim(&claim(1)).await.unwrap().deliveries.remove(0);
    queue.claim(&Claim { now: at(70_000_000), ..claim(2) }).await.unwrap();
    queue.renew(std::slice::from_ref(&delivery.token), at(9), at(1)).await.unwrap();
    queue.settle(&[Settle::done(delivery.token)], at(1)).await.unwrap();
    queue.depth(&tenant(), at(1)).await.unwrap();
    let take = Take { tenant: tenant(), key: "k".into(), tokens: 1, rate: 1.0, burst: 2, now: at(0) };
    lock.take(&take).await.unwrap();
    let scan = documents(&backend, APPENDS).find_one(doc! {"lines": "x"}).await;
    assert!(scan.is_err(), "the server refuses what reads a whole collection");
}

#[tokio::test]
async fn the_indexes_are_made_once() {
    let Some(backend) = open().await else { return };
    let names = async || {
        let mut names = documents(&backend, RUNS).list_index_names().await.unwrap();
        names.extend(documents(&backend, QUEUE).list_index_names().await.unwrap());
        names.sort();
        names
    };
    let before = names().await;
    for name in [
        "byDag",
        "byStart",
        "due",
        "newest",
        "newestOfDag",
        "newestOfStatus",
        "open",
        "order",
        "waits",
        "ends",
    ] {
        assert!(before.iter().any(|found| found == name), "{name}");
    }
    let again = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    assert_eq!(names().await, before);
    drop(again);
}

#[tokio::test]
async fn a_schema_of_the_future_is_left_alone() {
    let Some(backend) = open().await else { return };
    documents(&backend, "meta")
        .update_one(doc! {"_id": "schema"}, doc! {"$inc": {"version": 1}})
        .await
        .unwrap();
    let error = MongoBackend::open(backend.connection.config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_and_says_where() {
    let config = MongoConfig::new("mongodb://me:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=300").unwrap();
    let error = MongoBackend::open(config).await.unwrap_err();
    let text = format!("{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(text.contains("127.0.0.1:1") && !text.contains("s3cret"), "{text}");
}

/// A server that says of itself what MongoDB 4.2 says, to whoever asks and whatever is asked.
fn old_server() -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |mut client: std::net::TcpStream| {
        let hello = doc! { "ismaster": true, "helloOk": true, "minWireVersion": 0, "maxWireVersion": 8,
        "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "ok": 1.0 };
        let hello = mongodb::bson::serialize_to_vec(&hello).unwrap();
        let mut header = [0; 16];
        while client.read_exact(&mut header).is_ok() {
            let word = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            std::io::copy(&mut (&client).take(u64::try_from(word(0) - 16).unwrap()), &mut std::io::sink())
                .unwrap();
            // OP_MSG is answered in kind; what came before it (OP_QUERY), with OP_REPLY: flags, cursor, from, count.
            let (op, head): (i32, Vec<u8>) = match word(12) {
                2013 => (2013, vec![0; 5]),
                _ => (1, [[0; 16].as_slice(), &1_i32.to_le_bytes()].concat()),
            };
            let length = i32::try_from(16 + head.len() + hello.len()).unwrap();
            let words = [length, 1, word(4), op].map(i32::to_le_bytes).concat();
            client.write_all(&[words, head, hello.clone()].concat()).unwrap();
        }
    };
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|client| drop(std::thread::spawn(move || answer(client))))
    });
    port
}

#[tokio::test]
async fn an_old_server_is_told() {
    let url = format!("mongodb://127.0.0.1:{}/?serverSelectionTimeoutMS=2000", old_server());
    let error = MongoBackend::open(MongoConfig::new(url).unwrap()).await.unwrap_err();
    let text = format!("{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
    assert!(text.contains("4.4 or later"), "{text}");
}

#[tokio::test]
async fn weak_writes_promise_less() {
    let Some(url) = address(Shared::Mongo) else { return };
    let mut config = MongoConfig::new(format!("{url}&w=1&journal=false&allowWeakWrites=true")).unwrap();
    config.namespace = namespace();
    let weak = MongoBackend::open(config).await.unwrap();
    assert!(!weak.store().capability().survives_power_loss);
    let head = begin(&weak.store(), 1, None).await;
    append(&weak.store(), &entry(1, head, "more", RunStatus::Running, None)).await.unwrap();
    let strong = open().await.unwrap();
    assert!(strong.store().capability().survives_power_loss);
}

#[tokio::test]
async fn who_may_not_is_refused() {
    let Some(server) = Server::start(Kind::Mongo, &["--auth"]) else { return skipped(Kind::Mongo) };
    let host = server.url().replace("mongodb://", "");
    let client = mongodb::Client::with_uri_str(server.url()).await.unwrap();
    let admin = client.database("admin");
    let user = |name: &str, roles: Vec<Document>| doc! {"createUser": name, "pwd": "p@ss", "roles": roles};
    admin.run_command(user("root", vec![doc! {"role": "root", "db": "admin"}])).await.unwrap();
    let root = mongodb::Client::with_uri_str(format!("mongodb://root:p%40ss@{host}/admin")).await.unwrap();
    for (name, roles) in [
        ("worker", vec![doc! {"role": "readWrite", "db": "orch"}]),
        ("reader", vec![doc! {"role": "read", "db": "orch"}]),
    ] {
        root.database("admin").run_command(user(name, roles)).await.unwrap();
    }
    let opened = async |user: &str| {
        let url =
            format!("mongodb://{user}@{host}/?namespace=orch&authSource=admin&serverSelectionTimeoutMS=2000");
        MongoBackend::open(MongoConfig::new(url).unwrap()).await
    };
    let backend = opened("worker:p%40ss").await.unwrap();
    begin(&backend.store(), 1, None).await;
    for (user, says) in
        [("worker:wr0ng", "authSource"), ("reader:p%40ss", "readWrite"), ("nobody:p%40ss", "authSource")]
    {
        let error = opened(user).await.unwrap_err();
        let text = format!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::Refused, "{text}");
        assert!(text.contains(says) && text.contains(&host), "{text}");
        assert!(!text.contains("p%40ss") && !text.contains("p@ss") && !text.contains("wr0ng"), "{text}");
    }
    let error =
        MongoBackend::open(MongoConfig::new(format!("mongodb://{host}/")).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}
