//! The registry's API: requests of clients under `/v2/`, and their answers.

pub(super) mod arrival;
mod blob;
pub(super) mod door;
mod elsewhere;
pub(super) mod handler;
mod named;
mod node;
mod owner;
pub(super) mod reply;
pub(super) mod restraint;
mod token;
