//! Warming.
pub mod platform;
pub mod sources;
