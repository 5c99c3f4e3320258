//! A span while its work goes on.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::time::Instant;

use super::context::Context;
use super::ended::{Ended, Facts, Parent, SpanKind, Value, cut};

/// Links of one span: a request waits for one blob, and seldom asks for it again.
const LINKS_MAX: usize = 16;

/// Room for the attributes of a usual span, so that they are allocated once.
const ATTRIBUTES_USUAL: usize = 24;

/// A trace as far as a piece of work belongs to it: what it causes is caused by this span. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Carried>);

/// A span, which ends when this is dropped.
#[derive(Debug)]
pub struct Span(Trace);

#[derive(Debug)]
struct Carried {
    context: Context,
    /// `None`: it is sent along, and not recorded here.
    recorded: Option<Recorded>,
}

/// A span that is recorded.
struct Recorded {
    takers: Arc<dyn Take>,
    parent: Option<Parent>,
    kind: SpanKind,
    start: SystemTime,
    began: Instant,
    /// `None`: it has ended.
    facts: Mutex<Option<Facts>>,
}

/// Takes spans that have ended.
pub(super) trait Take: Send + Sync {
    fn take(&self, span: Ended);
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

impl Span {
    /// The span of a client's request that is recorded. `parent`: the client's own.
    pub(super) fn begin(parent: Option<&Context>, takers: Arc<dyn Take>) -> Self {
        let context = parent.map_or_else(Context::new, Context::sibling);
        let parent = parent.map(|parent| Parent {
            span_id: parent.span_id(),
            is_remote: true,
        });
        let recorded = Recorded::begin(takers, parent, "".into(), SpanKind::Server);
        Self(Trace::of(context, Some(recorded)))
    }

    /// The client's own span, which is sent along.
    pub(super) fn passed_on(context: Context) -> Self {
        Self(Trace::of(context, None))
    }

    /// The trace, for the work that belongs to this span.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.0
    }

    /// Says something of it.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.0.set(key, value);
    }

    /// Names it.
    pub fn name(&self, name: impl Into<Cow<'static, str>>) {
        self.0.change(|facts| facts.name = name.into());
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Carried { context, recorded } = &*self.0.0;
        let Some(recorded) = recorded else {
            return;
        };
        let mut facts = recorded
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let facts = facts.take();
        if let Some(facts) = facts {
            recorded.takers.take(Ended {
                context: context.clone(),
                parent: recorded.parent,
                kind: recorded.kind,
                start: recorded.start,
                took: recorded.began.elapsed(),
                facts,
            });
        }
    }
}

impl Trace {
    fn of(context: Context, recorded: Option<Recorded>) -> Self {
        Self(Arc::new(Carried { context, recorded }))
    }

    /// The identity of the span.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// True if it is recorded here.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.0.recorded.is_some()
    }

    /// A span that this one causes, if it is recorded.
    #[must_use]
    pub fn child(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Option<Span> {
        let recorded = self.0.recorded.as_ref()?;
        let parent = Parent {
            span_id: self.context().span_id(),
            is_remote: false,
        };
        let takers = Arc::clone(&recorded.takers);
        let child = Recorded::begin(takers, Some(parent), name.into(), kind);
        Some(Span(Self::of(self.context().sibling(), Some(child))))
    }

    /// Says something of the span. What has ended hears nothing any more.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.change(|facts| facts.attributes.push((key, value.into())));
    }

    /// The span waits for the work of another one.
    pub fn link(&self, other: &Self) {
        self.change(|facts| {
            if facts.links.contains(other.context()) {
                return;
            }
            if facts.links.len() < LINKS_MAX {
                facts.links.push(other.context().clone());
            } else {
                facts.links_dropped = facts.links_dropped.saturating_add(1);
            }
        });
    }

    /// It has failed. `class`: one of few; `why`: for people. The first failure counts.
    pub fn fail(&self, class: impl Into<Value>, why: &str) {
        self.change(|facts| {
            if facts.failure.is_none() {
                facts.attributes.push(("error.type", class.into()));
                facts.failure = Some(cut(why).to_owned());
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        if let Some(recorded) = &self.0.recorded {
            let mut facts = recorded
                .facts
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(facts) = facts.as_mut() {
                change(facts);
            }
        }
    }
}

impl Recorded {
    fn begin(
        takers: Arc<dyn Take>,
        parent: Option<Parent>,
        name: Cow<'static, str>,
        kind: SpanKind,
    ) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a span has the time of log lines and of other programs' spans, which is the system's"
        )]
        let start = SystemTime::now();
        Self {
            takers,
            parent,
            kind,
            start,
            began: Instant::now(),
            facts: Mutex::new(Some(Facts {
                name,
                attributes: Vec::with_capacity(ATTRIBUTES_USUAL),
                ..Facts::default()
            })),
        }
    }
}
