//! The export of traces to an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! | file | what it does |
//! | --- | --- |
//! | `config` | the collector, as it is configured |
//! | `headers` | the headers that its requests carry, which are secrets |
//! | `message` | spans as OTLP writes them |
//! | `collector` | one export: the request, and what its answer means |
//! | `export` | one after the other, and what happens when the collector takes none |
//!
//! Nothing waits for the export but the end of the process, and that for two seconds.

mod collector;
mod config;
mod export;
mod headers;
mod message;

pub use config::Config;
pub use export::{Exporter, Prepared};
pub use headers::Headers;
