//! Slots in hard cases.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::Duration;

use orch::Timestamp;
use orch::lock::{Acquire, Holder, Lock as _, Slot};
use orch_backend_redis::{RedisBackend, RedisConfig, RedisLock};
use orch_servers::{Shared, address, namespace};

async fn fence(lock: &RedisLock, name: &str, now: Timestamp) -> u64 {
    let holder = Holder { tenant: orch::TenantId::new("t").unwrap(), name: name.to_owned() };
    let slots = vec![Slot { key: "k".to_owned(), capacity: 1 }];
    let acquire = Acquire { holder: holder.clone(), slots, lease: Duration::from_secs(30), now };
    let grants = lock.acquire(&acquire).await.unwrap().unwrap();
    lock.release(&[holder]).await.unwrap();
    grants[0].fence
}

#[tokio::test]
async fn fences_increase_also_after_somebody_whose_clock_is_wrong_by_centuries() {
    let Some(address) = address(Shared::Redis) else { return };
    let mut config: RedisConfig = address.parse().unwrap();
    config.namespace = namespace();
    let lock = RedisBackend::open(config).await.unwrap().lock();
    let clocks = [1_800_000_000_000_000, i64::MAX, i64::MAX, 1_800_000_000_000_000, i64::MAX];
    let mut last = 0;
    for (at, clock) in clocks.into_iter().enumerate() {
        let fence = fence(&lock, &format!("h{at}"), Timestamp::from_micros(clock)).await;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}
