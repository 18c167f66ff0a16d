//! The arithmetic of a token bucket, the same for every backend that counts in Rust.

use super::{Take, Taken};
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// Parts of a token that are counted.
const PARTS: i64 = 1_000_000;

/// What a bucket held when it was last changed: a token bucket (RFC 2697, section 3, with one rate) in integers, so
/// that rounding can never grant more than the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Millionths of a token.
    pub parts: i64,
    /// When it held them.
    pub at: Timestamp,
}

impl Bucket {
    /// Takes tokens; `before` is the bucket as it was, or nothing for a new one, which is full.
    ///
    /// Answers the bucket afterwards. A refusal leaves it as it was, so that asking often does not round the inflow
    /// away; a clock that goes backwards brings no tokens.
    ///
    /// # Errors
    /// `Invalid` when more tokens are asked for than the burst, or the rate is not a number from 0.
    pub fn take(before: Option<Self>, take: &Take) -> Result<(Self, Taken)> {
        if take.tokens > take.burst {
            return Err(Error::invalid("more tokens are asked for than the bucket holds")
                .with("tokens", take.tokens)
                .with("burst", take.burst));
        }
        if !take.rate.is_finite() || take.rate < 0.0 {
            return Err(Error::invalid("rate is not a finite number from 0").with("rate", take.rate));
        }
        let full = i64::from(take.burst) * PARTS;
        let before = before.unwrap_or(Self { parts: full, at: take.now });
        let inflow = inflow(take.rate, take.now.as_micros() - before.at.as_micros());
        let parts = before.parts.saturating_add(inflow).min(full);
        let missing = i64::from(take.tokens) * PARTS - parts;
        if missing > 0 {
            let wanted = i64::from(take.tokens) * PARTS - before.parts;
            return Ok((before, Taken::RetryAt(enough_at(before.at, take.rate, wanted))));
        }
        let after = Self { parts: -missing, at: before.at.max(take.now) };
        Ok((after, Taken::Granted))
    }
}

/// Parts that flow in over `micros`, rounded down: tokens per second are parts per microsecond.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the cast saturates")]
fn inflow(rate: f64, micros: i64) -> i64 {
    (rate * micros.max(0) as f64) as i64
}

/// The first instant at which `wanted` parts have flowed in since `at`.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the cast saturates")]
fn enough_at(at: Timestamp, rate: f64, wanted: i64) -> Timestamp {
    let mut micros = (wanted as f64 / rate).ceil() as i64;
    if inflow(rate, micros) < wanted {
        micros = micros.saturating_add(1);
    }
    Timestamp::from_micros(at.as_micros().saturating_add(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;
    use proptest::prelude::*;

    fn ask(tokens: u32, rate: f64, burst: u32, now: i64) -> Take {
        let tenant = TenantId::new("t").unwrap();
        Take { tenant, key: "k".into(), tokens, rate, burst, now: Timestamp::from_micros(now) }
    }

    proptest! {
        #[test]
        fn no_span_sees_more_than_burst_and_inflow_and_a_retry_is_granted(
            rate in 0.01f64..5_000_000.0,
            burst in 1u32..100,
            steps in prop::collection::vec((0i64..3_000_000, 1u32..5), 1..60),
        ) {
            let (mut now, mut bucket) = (1_000_000_000_000, None);
            let mut grants: Vec<(i64, u32)> = Vec::new();
            for (pause, tokens) in steps {
                now += pause;
                let tokens = tokens.min(burst);
                let (after, mut taken) = Bucket::take(bucket, &ask(tokens, rate, burst, now)).unwrap();
                bucket = Some(after);
                if let Taken::RetryAt(at) = taken {
                    prop_assert!(at.as_micros() > now);
                    now = at.as_micros();
                    let (after, again) = Bucket::take(bucket, &ask(tokens, rate, burst, now)).unwrap();
                    (bucket, taken) = (Some(after), again);
                }
                prop_assert_eq!(taken, Taken::Granted);
                grants.push((now, tokens));
            }
            for (first, (from, _)) in grants.iter().enumerate() {
                let mut sum = 0;
                for (until, tokens) in &grants[first..] {
                    sum += tokens;
                    let bound = f64::from(burst) + rate * (until - from) as f64 / 1e6;
                    prop_assert!(f64::from(sum) <= bound + 1e-3, "{sum} > {bound}");
                }
            }
        }
    }

    #[test]
    fn a_bucket_without_inflow_is_never_ready_again() {
        let (bucket, taken) = Bucket::take(None, &ask(1, 0.0, 1, 5)).unwrap();
        assert_eq!(taken, Taken::Granted);
        let (_, taken) = Bucket::take(Some(bucket), &ask(1, 0.0, 1, 6)).unwrap();
        assert_eq!(taken, Taken::RetryAt(Timestamp::MAX));
    }

    #[test]
    fn a_rate_that_is_no_number_is_refused() {
        for rate in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Bucket::take(None, &ask(1, rate, 1, 0)).is_err(), "{rate}");
        }
    }
}
