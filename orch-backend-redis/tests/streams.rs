//! Appends in hard cases: long calls on one stream, and a cluster whose wires, nodes and slots change.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::store::{Append, EntriesRequest, FeedQuery, Store};
use orch::{ErrorKind, TenantId};
use orch_backend_redis::{RedisBackend, RedisConfig, RedisStore};
use orch_servers::{Cluster, Kind, Server, redis_command, skipped};

fn append_of(tenant: &str, head: Head, note: &str) -> Append {
    let tenant = TenantId::new(tenant).unwrap();
    let mut chain = Chain::new(&tenant, Stream::Audit, head);
    let event = Event::from(RunPaused { reason: Some(note.to_owned()) });
    chain.push("test", orch::Timestamp::from_micros(1), &event).unwrap();
    let (lines, after) = chain.finish().unwrap();
    Append { tenant, stream: Stream::Audit, expected: head, lines, head: after, row: None }
}

async fn land(store: &RedisStore, append: &Append) -> orch::Result<Head> {
    store.append(std::slice::from_ref(append)).await?.remove(0).map(|()| append.head)
}

async fn head_of(store: &RedisStore, tenant: &str) -> orch::Result<Head> {
    let tenant = TenantId::new(tenant).unwrap();
    let request = EntriesRequest { tenant, stream: Stream::Audit, after: 0, limit: 1_000_000 };
    Ok(store.entries(&[request]).await?.remove(0).head)
}

/// Reads until the cluster answers again, without opening anything anew.
async fn recovered(store: &RedisStore, tenant: &str) -> Head {
    for _ in 0..600 {
        if let Ok(head) = head_of(store, tenant).await {
            return head;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the cluster is not found again");
}

async fn start() -> Option<(Cluster, RedisStore)> {
    let Some(cluster) = Cluster::start(&["--appendonly", "yes"]) else {
        skipped(Kind::Redis);
        return None;
    };
    let store = RedisBackend::open(cluster.url().parse().unwrap()).await.unwrap().store();
    Some((cluster, store))
}

/// One call with many appends on one stream, each on top of the one before, to a server that has yet to learn the script.
async fn lands_in_order(store: &RedisStore, forget: impl Fn()) {
    let mut head = Head::EMPTY;
    for round in 0..3 {
        forget();
        let mut appends = Vec::new();
        for entry in 0..128 * 60 {
            appends.push(append_of("t", head, &entry.to_string()));
            head = appends[entry].head;
        }
        let answers = store.append(&appends).await.unwrap();
        let refused = answers.iter().position(Result::is_err);
        assert_eq!(refused, None, "round {round}: {:?}", refused.map(|at| &answers[at]));
        assert_eq!(head_of(store, "t").await.unwrap(), head);
    }
}

#[tokio::test]
async fn appends_on_one_stream_land_in_order_however_many_they_are() {
    let Some(server) = Server::start(Kind::Redis, &[]) else { return skipped(Kind::Redis) };
    let store = RedisBackend::open(RedisConfig::new("127.0.0.1", server.port())).await.unwrap().store();
    let forget = |port| assert_eq!(redis_command(port, &["SCRIPT", "FLUSH"]), "+OK");
    lands_in_order(&store, || forget(server.port())).await;
    let Some((cluster, store)) = start().await else { return };
    lands_in_order(&store, || cluster.nodes.iter().for_each(|node| forget(node.port()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_an_answer_that_a_cluster_loses_is_indeterminate_and_nothing_is_sent_again() {
    let Some((cluster, store)) = start().await else { return };
    let (mut head, mut landed) = (Head::EMPTY, 0);
    for round in 0..12 {
        head = land(&store, &append_of("t", head, &format!("{round}"))).await.unwrap();
        let mut wires: Vec<TcpStream> = cluster
            .nodes
            .iter()
            .map(|node| {
                let mut wire = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
                wire.write_all(b"PING\r\n").unwrap();
                wire.read_exact(&mut [0; 7]).unwrap();
                wire
            })
            .collect();
        // The node finds both at once: it appends, and cuts the wire before it has answered.
        cluster.nodes.iter().for_each(Server::freeze);
        let append = append_of("t", head, &format!("{round}, unheard"));
        let (asking, asked) = (store.clone(), append.clone());
        let answer = tokio::spawn(async move { land(&asking, &asked).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        for wire in &mut wires {
            wire.write_all(b"CLIENT KILL TYPE normal SKIPME yes\r\n").unwrap();
        }
        cluster.nodes.iter().for_each(Server::thaw);
        let answer = answer.await.unwrap();
        let stands = recovered(&store, "t").await;
        match answer {
            Ok(answered) => assert_eq!(stands, answered),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error:?}"),
        }
        landed += u32::from(stands == append.head);
        head = stands;
    }
    assert!(landed > 0, "the fault struck after an append");
}

#[tokio::test]
async fn l1_a_killed_node_of_a_cluster_loses_nothing_and_is_found_again() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut cluster) = Cluster::start(&options) else { return skipped(Kind::Redis) };
    let mut config: RedisConfig = cluster.url().parse().unwrap();
    config.timeout = Duration::from_millis(500);
    let store = RedisBackend::open(config).await.unwrap().store();
    let tenants: Vec<_> = (0..12).map(|n| format!("t{n}")).collect();
    let mut heads = vec![Head::EMPTY; tenants.len()];
    for round in 0..2 {
        for (tenant, head) in tenants.iter().zip(&mut heads) {
            *head = land(&store, &append_of(tenant, *head, &format!("{round}"))).await.unwrap();
        }
        cluster.nodes[round + 1].kill();
        let mut failed = 0;
        for (tenant, head) in tenants.iter().zip(&mut heads) {
            match land(&store, &append_of(tenant, *head, "perhaps")).await {
                Ok(after) => *head = after,
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0, "some streams lie on the node");
        cluster.nodes[round + 1].start_again();
        for (tenant, head) in tenants.iter().zip(&heads) {
            assert_eq!(recovered(&store, tenant).await, *head);
        }
    }
}

/// The slots of the ledger's shards, and the nodes of the cluster by id.
fn slots(cluster: &Cluster) -> (Vec<String>, Vec<(u16, String)>) {
    let port = cluster.nodes[0].port();
    let slot = |shard| redis_command(port, &["CLUSTER", "KEYSLOT", &format!("{{orch:{shard:x}}}")]);
    let slots = (0..16).map(|shard| slot(shard).trim_start_matches(':').to_owned()).collect();
    let id = |node: &Server| (node.port(), redis_command(node.port(), &["CLUSTER", "MYID"]));
    (slots, cluster.nodes.iter().map(id).collect())
}

#[tokio::test]
async fn a_slot_that_has_moved_is_followed() {
    let Some((cluster, store)) = start().await else { return };
    assert_eq!(head_of(&store, "t").await.unwrap(), Head::EMPTY);
    let (slots, nodes) = slots(&cluster);
    let mut head = Head::EMPTY;
    for (_, owner) in &nodes {
        assert_eq!(head, Head::EMPTY, "what has no keys yet may move at once");
        for slot in &slots {
            for (port, _) in nodes.iter().filter(|(_, id)| id == owner).chain(&nodes) {
                assert_eq!(redis_command(*port, &["CLUSTER", "SETSLOT", slot, "NODE", owner]), "+OK");
            }
        }
        assert_eq!(head_of(&store, "t").await.unwrap(), Head::EMPTY);
    }
    head = land(&store, &append_of("t", head, "there")).await.unwrap();
    assert_eq!(head_of(&store, "t").await.unwrap(), head);
}

#[tokio::test]
async fn a_slot_on_its_way_is_away_and_nothing_of_it_is_torn() {
    let Some((cluster, store)) = start().await else { return };
    let head = land(&store, &append_of("t", Head::EMPTY, "before")).await.unwrap();
    let (slots, nodes) = slots(&cluster);
    let set = |port: u16, slot: &str, words: &[&str]| {
        redis_command(port, &[&["CLUSTER", "SETSLOT", slot], words].concat()) == "+OK"
    };
    let mut ways = Vec::new();
    for slot in &slots {
        // Only its owner may send a slot away.
        for (at, (port, _)) in nodes.iter().enumerate() {
            let (to_port, to) = &nodes[(at + 1) % nodes.len()];
            if set(*port, slot, &["MIGRATING", to]) {
                assert!(set(*to_port, slot, &["IMPORTING", &nodes[at].1]));
                ways.push((slot, *port, *to_port));
            }
        }
    }
    assert_eq!(ways.len(), slots.len());
    let append = append_of("t", head, "meanwhile");
    assert_eq!(land(&store, &append).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let new = append_of("other", Head::EMPTY, "meanwhile");
    assert_eq!(land(&store, &new).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(head_of(&store, "t").await.unwrap_err().kind(), ErrorKind::Unavailable);
    for (slot, from, to) in ways {
        assert!(set(from, slot, &["STABLE"]) && set(to, slot, &["STABLE"]));
    }
    assert_eq!(head_of(&store, "t").await.unwrap(), head);
    assert_eq!(land(&store, &append).await.unwrap(), append.head);
    land(&store, &new).await.unwrap();
}

#[tokio::test]
async fn a_feed_that_was_forgotten_meanwhile_says_so() {
    let Some(server) = Server::start(Kind::Redis, &[]) else { return skipped(Kind::Redis) };
    let config = RedisConfig::new("127.0.0.1", server.port());
    let store = RedisBackend::open(config).await.unwrap().store();
    let tenant = TenantId::new("t").unwrap();
    let ask = |after: Option<String>| FeedQuery { tenant: tenant.clone(), after, limit: 10 };
    let run = |number: u8| {
        let text = format!("{number:032x}");
        Stream::Run(text.parse().unwrap())
    };
    let append = |number: u8| {
        let mut chain = Chain::new(&tenant, run(number), Head::EMPTY);
        let event = Event::from(RunPaused { reason: None });
        chain.push("test", orch::Timestamp::from_micros(1), &event).unwrap();
        let (lines, head) = chain.finish().unwrap();
        let (tenant, stream) = (tenant.clone(), run(number));
        Append { tenant, stream, expected: Head::EMPTY, lines, head, row: None }
    };
    // Nothing is written down while nobody listens.
    land(&store, &append(1)).await.unwrap();
    assert_eq!(redis_command(server.port(), &["EXISTS", "{orch:0}:feed:t"]), ":0");
    let begin = store.feed(&ask(None)).await.unwrap().next;
    land(&store, &append(2)).await.unwrap();
    assert_eq!(store.feed(&ask(Some(begin.clone()))).await.unwrap().items.len(), 1);
    for key in ["{orch:0}:feeding:t", "{orch:0}:feed:t"] {
        let left = redis_command(server.port(), &["TTL", key]);
        assert!(left.trim_start_matches(':').parse::<u32>().is_ok_and(|left| left > 3_000), "{key}: {left}");
    }
    // As when an hour went by, in which something was appended.
    assert_eq!(redis_command(server.port(), &["DEL", "{orch:0}:feeding:t"]), ":1");
    land(&store, &append(3)).await.unwrap();
    let forgotten = store.feed(&ask(Some(begin))).await.unwrap_err();
    assert_eq!(forgotten.kind(), ErrorKind::NotFound);
    let anew = store.feed(&ask(None)).await.unwrap().next;
    land(&store, &append(4)).await.unwrap();
    let told = store.feed(&ask(Some(anew))).await.unwrap().items;
    assert_eq!(told.iter().map(|item| Stream::Run(item.run)).collect::<Vec<_>>(), [run(4)]);
}
