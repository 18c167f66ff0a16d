//! W3C Trace Context and Baggage: where a request belongs, and what goes along with it.

use http::HeaderMap;
#[cfg(feature = "otel")]
use orch::trace::TraceParent;
use orch::trace::is_baggage;

/// The trace that a request is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// 32 hex digits.
    pub(crate) id: String,
    /// 16 hex digits: the span of the request itself.
    pub(crate) span: String,
    /// The span of the caller, if it told of one.
    pub(crate) parent: Option<String>,
    /// Whether the caller records this trace.
    pub(crate) sampled: bool,
    /// What goes along with whatever the request starts.
    pub(crate) baggage: Option<String>,
}

impl Trace {
    /// The trace of a request: the caller's, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let span = hex(draw::<8>());
        let given = headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(parse);
        let baggage = baggage(headers);
        match given {
            Some((id, parent, sampled)) => Self { id, span, parent: Some(parent), sampled, baggage },
            None => Self { id: hex(draw::<16>()), span, parent: None, sampled: true, baggage },
        }
    }

    /// Where the request stands, as a span of its own.
    #[cfg(feature = "otel")]
    pub(crate) fn place(&self) -> Option<TraceParent> {
        self.parent().parse().ok()
    }

    /// The span of the caller.
    #[cfg(feature = "otel")]
    pub(crate) fn parent_span(&self) -> Option<[u8; 8]> {
        let parent = Self { span: self.parent.clone()?, ..self.clone() };
        parent.place().map(|place| place.span)
    }

    /// What is handed on: the same trace, with this request as the parent.
    pub(crate) fn parent(&self) -> String {
        format!("00-{}-{}-0{}", self.id, self.span, u8::from(self.sampled))
    }
}

/// Trace, parent and flags of a `traceparent` (W3C Trace Context, section 3.2). Versions to come are read as the first.
fn parse(text: &str) -> Option<(String, String, bool)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let fits = |part: &str, digits| {
        part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let real = |part: &str, digits| fits(part, digits) && part.bytes().any(|b| b != b'0');
    let whole = fits(version, 2) && version != "ff" && real(trace, 32) && real(parent, 16) && fits(flags, 2);
    if !whole || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    Some((trace.to_owned(), parent.to_owned(), sampled))
}

/// All headers of that name as one. What cannot be carried on is left behind, as the standard allows: the request is good without it.
fn baggage(headers: &HeaderMap) -> Option<String> {
    let parts = headers.get_all("baggage").iter().map(|value| value.to_str());
    let whole = parts.collect::<Result<Vec<_>, _>>().ok()?.join(",");
    is_baggage(&whole).then_some(whole)
}

/// Random bytes. Names of requests and secrets that are handed out come from here; no ids of the ledger do.
pub(crate) fn draw<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without a source of randomness there is neither TLS nor a token, so the process has not come this far.
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}

/// Lowercase hex.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_trace_goes_on_and_a_broken_one_is_not_taken_over() {
        let mut headers = HeaderMap::new();
        let trace = "0af7651916cd43dd8448eb211c80319c";
        headers.insert("traceparent", format!("00-{trace}-b7ad6b7169203331-00").parse().unwrap());
        let given = Trace::of(&headers);
        assert_eq!(
            (given.id.as_str(), given.parent.as_deref(), given.sampled),
            (trace, Some("b7ad6b7169203331"), false)
        );
        assert_eq!(given.parent(), format!("00-{trace}-{}-00", given.span));
        for broken in ["", "00", "00-0-0-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            headers.insert("traceparent", broken.parse().unwrap());
            assert_ne!(Trace::of(&headers).id, trace, "{broken}");
        }
        assert_ne!(Trace::of(&HeaderMap::new()), Trace::of(&HeaderMap::new()));
    }
}
