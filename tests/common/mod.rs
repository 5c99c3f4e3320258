//! What the black-box tests share: a scripted registry to stand upstream, a
//! mirror under test, a byte-exact client, and images to pull.
//!
//! The tests know roadstead through `App::start` and HTTP alone.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test file is its own crate and uses a part of these helpers"
)]

pub mod bucket;
pub mod client;
pub mod collector;
pub mod fake_body;
pub mod fake_log;
pub mod fake_registry;
pub mod fake_script;
pub mod http2;
pub mod images;
pub mod layer;
pub mod mirror;
pub mod parts;
pub mod world;

pub use client::{Answer, Client, Ending};
pub use fake_log::{Kind, Record};
pub use fake_registry::FakeRegistry;
pub use fake_script::{Asked, Auth, Fault, Gate, LinkForm, Rule};
pub use images::{Blob, Dialect, Image, Manifest};
pub use layer::Layer;
pub use mirror::{ADMIN, Mirror, MirrorBuilder, Samples, secure};
pub use world::World;

use std::time::Duration;

/// No single wait of a test takes longer: past it the test fails with a name
/// instead of hanging. Far above what a loaded two-core machine needs.
pub const WAIT_MAX: Duration = Duration::from_mins(1);

/// Awaits `future`, and fails the test, naming `what`, when it does not come.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let outcome = tokio::time::timeout(WAIT_MAX, future).await;
    outcome.unwrap_or_else(|elapsed| panic!("waited for {what}: {elapsed}"))
}
