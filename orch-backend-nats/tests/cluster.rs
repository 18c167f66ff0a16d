//! A cluster of three servers that keep everything thrice.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]
#![expect(clippy::disallowed_methods, reason = "how long a cluster takes is measured by the clock")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use orch::lock::{Acquire, Holder, Lock as _, Slot};
use orch::queue::{Claim, Item, Queue as _, Settle};
use orch::{
    DagId, Digest, Error, ErrorKind, QueueName, Result, RunId, StepId, TenantId, Timestamp, WorkerId,
};
use orch_backend_nats::{NatsBackend, NatsConfig};
use orch_servers::{Kind, Server, skipped};

/// Three servers that know each other.
fn start() -> Option<Vec<Server>> {
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let routes: Vec<_> =
        listeners.iter().map(|listener| format!("nats://{}", listener.local_addr().unwrap())).collect();
    drop(listeners);
    let all = routes.join(",");
    let servers: Vec<_> = (0..3)
        .filter_map(|n| {
            let name = format!("n{n}");
            let options =
                ["--cluster_name", "c", "--server_name", &name, "--cluster", &routes[n], "--routes", &all];
            Server::start(Kind::Nats, &options)
        })
        .collect();
    if servers.is_empty() {
        skipped(Kind::Nats);
        return None;
    }
    Some(servers)
}

/// Tries until the cluster has found a leader.
async fn eventually<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000).plus(Duration::from_secs(seconds))
}

fn items(count: usize) -> Vec<Item> {
    let (tenant, dag) = (TenantId::new("t").unwrap(), DagId::new("dag").unwrap());
    let item = |number: usize| Item {
        queue: QueueName::default_queue(),
        priority: 0,
        ready_at: at(0),
        run: RunId::derive(&tenant, &dag, &number.to_string(), &Digest::ZERO),
        plan_index: 0,
        step: StepId::new("step").unwrap().into(),
        attempt: 1,
        tenant: tenant.clone(),
        dag: dag.clone(),
    };
    (0..count).map(item).collect()
}

fn claim(limit: usize, seconds: u64) -> Claim {
    let (worker, lease) = (WorkerId::new("w"), Duration::from_secs(60));
    Claim { worker, queues: None, tenants: None, limit, lease, now: at(seconds) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_without_one_of_its_servers() {
    let Some(mut servers) = start() else { return };
    let mut config = NatsConfig::new("127.0.0.1", servers[0].port());
    config.hosts = servers.iter().map(|server| ("127.0.0.1".to_owned(), server.port())).collect();
    (config.replicas, config.max_bytes, config.timeout) = (3, 1 << 20, Duration::from_secs(2));
    let backend = eventually(|| NatsBackend::open(config.clone())).await;
    let other = eventually(|| NatsBackend::open(config.clone())).await;
    let (queue, lock) = (backend.queue(), backend.lock());
    let asks = |name: &str| Acquire {
        holder: Holder { tenant: TenantId::new("t").unwrap(), name: name.to_owned() },
        slots: vec![Slot { key: "x".into(), capacity: 1 }],
        lease: Duration::from_secs(600),
        now: at(0),
    };
    let (some, all, a, b) = (items(200), items(10_000), asks("a"), asks("b"));
    eventually(|| queue.push(&some)).await;
    let fence = eventually(|| lock.acquire(&a)).await.unwrap()[0].fence;

    // Two race for the same items, and each item is leased once.
    let (second, one, two) = (other.queue(), claim(150, 0), claim(150, 0));
    let (one, two) = futures::join!(queue.claim(&one), second.claim(&two));
    let mut held = [one.unwrap().deliveries, two.unwrap().deliveries].concat();
    held.extend(queue.claim(&claim(1_000, 0)).await.unwrap().deliveries);
    let mut ids: Vec<_> = held.iter().map(|delivery| delivery.item.id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), held.len()), (200, 200));

    // Any of them may lead either stream.
    for (turn, server) in servers.iter_mut().enumerate() {
        server.kill();
        let tokens: Vec<_> = held.iter().map(|delivery| delivery.token.clone()).collect();
        let until = at(600 + turn as u64);
        let renewed = eventually(|| async {
            let answers = queue.renew(&tokens, until, at(1)).await?;
            let lost = |error: &Error| error.kind() == ErrorKind::LeaseLost;
            assert!(!answers.iter().any(|answer| answer.as_ref().is_err_and(lost)), "{answers:?}");
            answers.into_iter().collect::<Result<Vec<()>>>()
        });
        assert_eq!(renewed.await.len(), 200);
        assert_eq!(eventually(|| lock.acquire(&a)).await.unwrap()[0].fence, fence);
        assert!(eventually(|| lock.acquire(&b)).await.is_none());
        server.start_again();
    }
    let settles: Vec<_> = held.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    eventually(|| async {
        // What was settled by a call that was not answered is lost to the next one.
        queue.settle(&settles, at(2)).await.map(drop)?;
        let depth = queue.depth(&TenantId::new("t").unwrap(), at(2)).await?;
        if depth.is_empty() { Ok(()) } else { Err(Error::unavailable("not all are settled")) }
    })
    .await;

    // A full stream lets what is there be done.
    let mut pushed = 0;
    while queue.push(&all[pushed..pushed + 50]).await.is_ok() {
        pushed += 50;
    }
    let everything = claim(10_000, 3);
    let held = eventually(|| queue.claim(&everything)).await.deliveries;
    assert!(held.len() >= pushed && pushed > 1_000, "{} of {pushed}", held.len());
    let settles: Vec<_> = held.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    assert!(queue.settle(&settles, at(4)).await.unwrap().iter().all(Result::is_ok));
    eventually(|| queue.push(&all[..50])).await;
}
