//! The state of an item as its message says it.

use std::sync::Arc;

use orch::queue::Item;
use orch::{Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::corrupt;

/// The form of the messages.
const VERSION: u8 = 1;

/// An item, how often it was delivered, and its lease if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) item: Arc<Item>,
    pub(crate) count: u32,
    pub(crate) lease: Option<Lease>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The sequence of the message that it replaced when it was taken: the name of the delivery.
    pub(crate) of: u64,
    pub(crate) until: Timestamp,
}

/// The JSON of a message. The lease is written at one length whether there is one or not, so that a full stream, which
/// takes a message only in place of one that is no smaller, still lets items be leased and settled.
#[derive(Serialize, Deserialize)]
struct Message<'a> {
    v: u8,
    /// `count-of-until` in hexadecimal digits; without a lease the last two are zeros.
    lease: std::borrow::Cow<'a, str>,
    item: std::borrow::Cow<'a, Item>,
}

impl Stored {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (of, until) = self.lease.map_or((0, 0), |lease| (lease.of, lease.until.as_micros()));
        let message = Message {
            v: VERSION,
            lease: format!("{:08x}-{of:016x}-{until:016x}", self.count).into(),
            item: std::borrow::Cow::Borrowed(&self.item),
        };
        serde_json::to_vec(&message).expect("plain fields serialise")
    }

    pub(crate) fn from_bytes(subject: &str, bytes: &[u8]) -> Result<Self> {
        let message: Message<'_> = serde_json::from_slice(bytes).map_err(|cause| corrupt(subject, cause))?;
        if message.v != VERSION {
            return Err(corrupt(subject, format!("form {}", message.v)));
        }
        let number = |part: Option<&str>| part.and_then(|part| u64::from_str_radix(part, 16).ok());
        let mut parts = message.lease.split('-');
        let read = (number(parts.next()), number(parts.next()), number(parts.next()));
        let (Some(count), Some(of), Some(until)) = read else {
            return Err(corrupt(subject, "lease"));
        };
        let until = Timestamp::from_micros(until.try_into().unwrap_or(i64::MAX));
        let lease = (of > 0).then_some(Lease { of, until });
        let count = count.try_into().unwrap_or(u32::MAX);
        Ok(Self { item: Arc::new(message.item.into_owned()), count, lease })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use orch::{DagId, Digest, QueueName, RunId, StepId, TenantId};

    pub(crate) fn item(number: u32) -> Item {
        let (tenant, dag) = (TenantId::new("acme.eu").unwrap(), DagId::new("dag").unwrap());
        Item {
            queue: QueueName::default_queue(),
            priority: 0,
            ready_at: Timestamp::from_micros(1_795_000_000_123_457),
            run: RunId::derive(&tenant, &dag, &number.to_string(), &Digest::ZERO),
            plan_index: 0,
            step: orch::StepKey::from(StepId::new("step").unwrap()).child(3),
            attempt: 1,
            tenant,
            dag,
        }
    }

    #[test]
    fn a_message_comes_back_and_is_as_long_with_a_lease_as_without() {
        let waiting = Stored { item: Arc::new(item(1)), count: 0, lease: None };
        let until = Timestamp::from_micros(1_795_000_000_123_457);
        let leased = Stored { count: 7, lease: Some(Lease { of: 99, until }), ..waiting.clone() };
        for stored in [&waiting, &leased] {
            assert_eq!(Stored::from_bytes("s", &stored.to_bytes()).unwrap(), *stored);
        }
        assert_eq!(waiting.to_bytes().len(), leased.to_bytes().len());
        let text = String::from_utf8(leased.to_bytes()).unwrap();
        assert!(
            text.starts_with(
                r#"{"v":1,"lease":"00000007-0000000000000063-0006608b01611241","item":{"tenant""#
            ),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_message_is_corrupt() {
        let good =
            String::from_utf8(Stored { item: Arc::new(item(1)), count: 0, lease: None }.to_bytes()).unwrap();
        for bad in ["{", "{}", &good.replace("\"v\":1", "\"v\":2"), &good.replace("00000000-", "x-")] {
            let error = Stored::from_bytes("subject", bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), orch::ErrorKind::Corrupt, "{bad}");
        }
    }
}
