//! What a user meets, module by module: a mirror under test behind its sockets, or the real program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing, and owns its files and tasks"
)]
#![allow(clippy::float_cmp, reason = "metrics are floats that count")]

#[path = "../common/mod.rs"]
mod common;
mod process;

mod access;
mod admin;
mod bench;
mod carry;
mod check;
mod cli;
mod client_config;
mod cluster;
mod coalesce;
mod commands;
mod config;
mod config_tags;
mod connections;
mod disagree;
mod disk;
mod doctor;
mod fake_registry;
mod fuzz_corpus;
mod hang;
mod hardening;
mod head;
mod hosted;
mod lazy;
mod links;
mod listeners;
mod lists;
mod loops;
mod lost;
mod manifests;
mod metrics;
mod mismatch;
mod negative;
mod offline;
mod old_cache;
mod parallel;
mod policies;
mod protocol;
mod range;
mod referrers;
mod reload;
mod resume;
mod retry_budget;
mod room;
mod service_manager;
mod shares;
mod shutdown;
mod state;
mod store;
mod tags;
mod take_over;
mod tier;
mod tls;
mod token;
mod traces;
mod upstreams;
mod verify;
mod warm;
