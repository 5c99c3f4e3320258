//! Connections: accepted, secured, counted, watched, and sent to as fast as the client takes it.
//!
//! A connection is accepted in `accept`, gets its place in the `table`, is secured by `tls` and served by hyper as
//! `connection` sets it up. What each measured part at the socket is worth stands in docs/performance.md:
//! `send_buffer`, `record_writer`, `deferred_flush`, `h2_executor`, and windows of files sent by the kernel
//! (`client_stream`).

pub(super) mod accept;
pub(super) mod buffers;
pub(super) mod client_stream;
pub(super) mod connection;
pub(super) mod deferred_flush;
pub(super) mod fd_limit;
pub(super) mod h2_executor;
pub(super) mod limits;
pub mod proxy_protocol;
pub(super) mod record_writer;
pub(super) mod send_buffer;
pub(super) mod stall_guard;
pub(super) mod table;
pub(super) mod tls;
