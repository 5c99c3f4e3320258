//! The registry's API: requests of clients under `/v2/`, and their answers.

pub(super) mod arrival;
mod blob;
mod catalog;
pub(super) mod door;
mod elsewhere;
pub(super) mod handler;
pub(super) mod hosted;
mod named;
mod node;
mod owner;
mod refusals;
pub(super) mod reply;
pub(super) mod restraint;
mod search;
mod token;
