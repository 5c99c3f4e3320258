//! The identity of a span, and how it is sent along: W3C Trace Context (<https://www.w3.org/TR/trace-context/>).

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The trace, the span that the request belongs to, and whether it is recorded.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Data of tracing systems, which goes along as it is.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of `traceparent` in version 00.
const TRACEPARENT_BYTES: usize = 55;
/// Bytes of `tracestate` that are sent along (section 3.3.1.5 asks for at least 512). A longer one is left away.
const TRACESTATE_BYTES_MAX: usize = 512;
/// Entries that `tracestate` may have (section 3.3.1.1).
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// The flag of a trace that is recorded (section 3.2.2.5.1).
const SAMPLED: u8 = 1;

/// The identity of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    trace_id: NonZeroU128,
    span_id: NonZeroU64,
    is_sampled: bool,
    state: Option<Arc<str>>,
}

impl Context {
    /// The span that a request says it belongs to; `None` where it says nothing, or nothing that can be understood.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        // Several cannot be told apart (section 4.3).
        let (Some(parent), None) = (values.next(), values.next()) else {
            return None;
        };
        let (trace_id, span_id, is_sampled) = parse(parent.to_str().ok()?)?;
        Some(Self {
            trace_id,
            span_id,
            is_sampled,
            state: state(headers),
        })
    }

    /// The first span of a new trace, which is recorded.
    pub(super) fn new() -> Self {
        Self {
            trace_id: random_trace(),
            span_id: random_span(),
            is_sampled: true,
            state: None,
        }
    }

    /// Another span of the same trace.
    pub(super) fn sibling(&self) -> Self {
        Self {
            span_id: random_span(),
            ..self.clone()
        }
    }

    /// True if the trace is recorded by whoever has begun it.
    pub(super) fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> u128 {
        self.trace_id.get()
    }

    /// The span.
    #[must_use]
    pub fn span_id(&self) -> u64 {
        self.span_id.get()
    }

    /// `tracestate`, as it came.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Says in the headers of a request which span it belongs to.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        let mut text = String::with_capacity(TRACEPARENT_BYTES);
        let (trace, span, flags) = (self.trace_id, self.span_id, u8::from(self.is_sampled));
        // Writing to a string does not fail.
        write!(text, "00-{trace:032x}-{span:016x}-{flags:02x}").ok();
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
        let state = self.state.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(value)) = state {
            headers.insert(TRACESTATE, value);
        }
    }
}

/// Reads `traceparent`: the trace, the span, and if it is recorded.
fn parse(text: &str) -> Option<(NonZeroU128, NonZeroU64, bool)> {
    let (head, more) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let mut parts = head.split('-');
    let mut part = |digits: usize| parts.next().filter(|part| is_hex(part, digits));
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Version ff is forbidden, 00 ends here, and a later one may go on after a dash (section 3.2.4).
    let goes_on = version != "00" && more.starts_with('-');
    if parts.next().is_some() || version == "ff" || !(more.is_empty() || goes_on) {
        return None;
    }
    Some((
        NonZeroU128::new(u128::from_str_radix(trace, 16).ok()?)?,
        NonZeroU64::new(u64::from_str_radix(span, 16).ok()?)?,
        u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0,
    ))
}

/// True if a part of `traceparent` is so many digits; capital ones are none (section 3.2.2).
fn is_hex(part: &str, digits: usize) -> bool {
    part.len() == digits
        && part
            .bytes()
            .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// The lists of `tracestate`, as one.
fn state(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?;
    let mut all = first.to_str().ok()?.to_owned();
    for value in values {
        all.push(',');
        all.push_str(value.to_str().ok()?);
        if all.len() > TRACESTATE_BYTES_MAX {
            return None;
        }
    }
    let fits = !all.is_empty()
        && all.len() <= TRACESTATE_BYTES_MAX
        && all.split(',').count() <= TRACESTATE_MEMBERS_MAX;
    fits.then(|| all.into())
}

/// A number that nobody can foresee well enough to meet it by chance: the keys of `RandomState` are random, and others
/// each time, and so is the hash of nothing.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// A name that nothing else has.
pub(crate) fn random_id() -> u128 {
    u128::from(random()) << 64 | u128::from(random())
}

fn random_trace() -> NonZeroU128 {
    NonZeroU128::new(random_id()).unwrap_or(NonZeroU128::MIN)
}

fn random_span() -> NonZeroU64 {
    NonZeroU64::new(random()).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(parents: &[&str], states: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in [(TRACEPARENT, parents), (TRACESTATE, states)] {
            for value in values {
                headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
        }
        headers
    }

    #[test]
    fn a_context_is_read_and_written_as_it_was() {
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            let parent = format!("00-{TRACE}-{SPAN}-{flags}");
            let read = Context::of(&headers(&[&parent], &["a=1", "b=2,c=3"])).unwrap();
            assert_eq!(read.is_sampled(), sampled, "{flags}");
            let mut written = HeaderMap::new();
            read.write_to(&mut written);
            let expected = format!("00-{TRACE}-{SPAN}-0{}", u8::from(sampled));
            assert_eq!(written[TRACEPARENT], expected);
            assert_eq!(written[TRACESTATE], "a=1,b=2,c=3");
            assert_eq!(Context::of(&written), Some(read));
        }
        // What a later version adds is not understood, and does no harm.
        for later in [
            format!("cc-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-x"),
        ] {
            assert!(Context::of(&headers(&[&later], &[])).is_some(), "{later}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_context() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let upper = TRACE.to_uppercase();
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-x"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-{:032}-{SPAN}-01", 0),
            format!("00-{TRACE}-{:016}-01", 0),
            format!("cc-{TRACE}-{SPAN}-01x"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}+{SPAN}-01"),
            format!(" {good}"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            "00-é".repeat(14),
            "\u{e9}".repeat(30),
        ] {
            assert_eq!(Context::of(&headers(&[&bad], &[])), None, "{bad}");
        }
        assert_eq!(Context::of(&headers(&[&good, &good], &[])), None);
        assert_eq!(Context::of(&headers(&[], &["a=1"])), None);
    }

    #[test]
    fn what_goes_along_is_bounded() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| Context::of(&headers(&[&good], states)).unwrap().state;
        let long = format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX - 2));
        assert_eq!(state(&[&long]).as_deref(), Some(&*long));
        let many = vec!["a=1"; TRACESTATE_MEMBERS_MAX + 1];
        for dropped in [
            &[&*long, "b=2"][..],
            &[&format!("{long}x")],
            &many,
            &[""],
            &["a=é"],
        ] {
            assert_eq!(state(dropped), None, "{dropped:?}");
        }
    }

    #[test]
    fn identities_differ() {
        let (mut traces, mut spans) = (HashSet::new(), HashSet::new());
        let count = 10_000;
        for _ in 0..count {
            let context = Context::new();
            traces.insert(context.trace_id());
            spans.extend([context.span_id(), context.sibling().span_id()]);
            assert_eq!(context.sibling().trace_id(), context.trace_id());
        }
        assert_eq!((traces.len(), spans.len()), (count, 2 * count));
    }
}
