//! Where runs and attempts stand in a trace: W3C Trace Context (version 00) and W3C Baggage.
//!
//! A run is submitted in a trace and is a span of it, and so is each attempt of a step, below the run's. The ids of these spans follow from the
//! run, the step and the attempt: whoever tells of them, in whatever process, tells of the same ones.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, parse_hex, write_hex};
use crate::error::{Error, Result};
use crate::id::{RunId, StepKey};

/// The longest baggage, in bytes: what every carrier must be able to carry (W3C Baggage, section 3.3.2).
pub const BAGGAGE_BYTES_MAX: usize = 8_192;

/// A place in a trace: `00-<32 hex>-<16 hex>-<2 hex>` (W3C Trace Context, section 3.2), neither id all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace: [u8; 16],
    /// The span that what comes next is below of.
    pub span: [u8; 8],
    /// Flags; the lowest bit says that the trace is recorded.
    pub flags: u8,
}

impl TraceParent {
    /// The trace of a run that was submitted in none: it begins with the run.
    #[must_use]
    pub fn of_run(run: RunId) -> Self {
        let mut trace = [0; 16];
        trace.copy_from_slice(run.as_bytes());
        Self { trace, span: run_span(run), flags: 1 }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The same trace below another span.
    #[must_use]
    pub const fn below(self, span: [u8; 8]) -> Self {
        Self { span, ..self }
    }
}

impl FromStr for TraceParent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("traceparent is not a W3C trace context of version 00");
        let parts: Vec<&str> = text.split('-').collect();
        let ["00", trace, span, flags] = parts[..] else { return Err(wrong()) };
        let trace = parse_hex(trace).filter(|trace| *trace != [0; 16]).ok_or_else(wrong)?;
        let span = parse_hex(span).filter(|span| *span != [0; 8]).ok_or_else(wrong)?;
        let [flags] = parse_hex::<1>(flags).ok_or_else(wrong)?;
        Ok(Self { trace, span, flags })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        write_hex(&self.trace, f)?;
        f.write_str("-")?;
        write_hex(&self.span, f)?;
        write!(f, "-{:02x}", self.flags)
    }
}

/// The span of a run.
#[must_use]
pub fn run_span(run: RunId) -> [u8; 8] {
    let mut span = [0; 8];
    span.copy_from_slice(&run.as_bytes()[..8]);
    span
}

/// The span of an attempt of a step.
#[must_use]
pub fn attempt_span(run: RunId, step: &StepKey, attempt: u32) -> [u8; 8] {
    let (step, attempt) = (step.to_string(), attempt.to_be_bytes());
    let digest = Digest::of_parts(&[b"orch/span/v1", run.as_bytes(), step.as_bytes(), &attempt]);
    let mut span = [0; 8];
    span.copy_from_slice(&digest.as_bytes()[..8]);
    span
}

/// What an attempt of a run that was submitted with `traceparent` hands on.
pub(crate) fn of_attempt(traceparent: &str, run: RunId, step: &StepKey, attempt: u32) -> Option<String> {
    let parent = traceparent.parse::<TraceParent>().ok()?;
    Some(parent.below(attempt_span(run, step, attempt)).to_string())
}

/// Whether a text can be carried as baggage.
#[must_use]
pub fn is_baggage(text: &str) -> bool {
    let visible = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    !text.is_empty() && text.len() <= BAGGAGE_BYTES_MAX && text.bytes().all(visible)
}

/// Whether both can go along with a run.
///
/// # Errors
/// `Invalid` for a trace context that is none, and for what is no baggage.
pub fn check(traceparent: Option<&str>, baggage: Option<&str>) -> Result<()> {
    traceparent.map(str::parse::<TraceParent>).transpose()?;
    if baggage.is_some_and(|text| !is_baggage(text)) {
        return Err(Error::invalid("baggage must hold 1 to 8192 visible ASCII characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;

    fn run() -> RunId {
        RunId::derive(&TenantId::new("t").unwrap(), &"d".parse().unwrap(), "token", &Digest::ZERO)
    }

    #[test]
    fn a_traceparent_is_read_strictly_and_written_as_it_was() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read: TraceParent = text.parse().unwrap();
        assert!(read.is_sampled() && read.to_string() == text);
        for broken in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(broken.parse::<TraceParent>().is_err(), "{broken}");
        }
    }

    #[test]
    fn each_attempt_has_a_span_of_its_own_and_the_same_one_wherever_it_is_told_of() {
        let (a, b) = ("a".parse().unwrap(), "a[0]".parse().unwrap());
        let spans = [
            run_span(run()),
            attempt_span(run(), &a, 1),
            attempt_span(run(), &a, 2),
            attempt_span(run(), &b, 1),
        ];
        assert!((0..4).all(|i| (0..i).all(|j| spans[i] != spans[j])));
        assert_eq!(attempt_span(run(), &a, 1), spans[1]);
        let handed_on = of_attempt(&TraceParent::of_run(run()).to_string(), run(), &a, 1).unwrap();
        let read: TraceParent = handed_on.parse().unwrap();
        assert_eq!((read.trace.as_slice(), read.span), (run().as_bytes(), spans[1]));
    }

    #[test]
    fn baggage_is_what_a_header_can_carry() {
        assert!(is_baggage("user=alice,tier=1;p=2") && is_baggage("a=%C3%A4"));
        let long = "a".repeat(BAGGAGE_BYTES_MAX + 1);
        for bad in ["", "a=\n", "a=ä", long.as_str()] {
            assert!(!is_baggage(bad), "{bad}");
        }
    }
}
