//! Traces: spans of clients' requests and of the work that they cause, in the words of OpenTelemetry.
//!
//! | file | what it does |
//! | --- | --- |
//! | `context` | the identity of a span, as W3C Trace Context writes it |
//! | `span` | a span while its work goes on |
//! | `ended` | a span after that, and its attributes |
//! | `sample` | which requests are traced |
//! | `queue` | ended spans that wait for their export, bounded in number and in bytes |
//! | `tracer` | begins traces |
//!
//! Nothing here waits: a span that finds no room in the queue is dropped and counted. The export is `otlp`'s. While
//! tracing is off a request costs one branch, and one that is not sampled costs the reading of its `traceparent`.

mod context;
mod ended;
mod queue;
mod sample;
mod span;
mod tracer;

pub use context::Context;
pub(crate) use context::random_id;
pub use ended::{Ended, Facts, Parent, SpanKind, Value};
pub use sample::Ratio;
pub use span::{Span, Trace};
pub use tracer::{Spans, Tracer};
