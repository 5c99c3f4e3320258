//! The commands: clients of a mirror that runs, or of the store where none does.
//!
//! | module | commands |
//! | --- | --- |
//! | `serve` | `serve` |
//! | `version` | `version` |
//! | `cache` | `status`, `health`, `ls`, `du`, `inspect`, `rm`, `gc`, `pin`, `unpin` |
//! | `cluster` | `cluster` |
//! | `hosted` | `ns`, `tag` |
//! | `backup` | `backup`, `restore` |
//! | `access` | `access` |
//! | `credential_provider` | `credential-provider` |
//! | `ca` | `ca` |
//! | `client_config` | `client-config` |
//! | `doctor` | `doctor` |
//! | `people` | `user`, `token` |
//! | `warm` | `warm` |
//! | `airgap` | `export`, `import` |
//! | `adopt` | `adopt` |
//! | `verify` | `verify` |
//! | `bench` | `bench` |
//! | `target` | where a server or a directory is, and questions to either |
//! | `client` | requests to an admin listener |
//! | `plain` | requests to a client listener |
//! | `progress` | how far a command is |
//! | `output` | what is printed, and whether it could be |

pub mod access;
pub mod adopt;
pub mod airgap;
pub mod backup;
pub mod bench;
pub mod ca;
pub mod cache;
pub mod client;
pub mod client_config;
pub mod cluster;
pub mod credential_provider;
pub mod doctor;
pub mod events;
pub mod hosted;
pub mod output;
pub mod people;
mod plain;
mod progress;
pub mod repo;
pub mod serve;
pub mod target;
mod token;
pub mod verify;
pub mod version;
pub mod warm;

use std::fmt::Display;
use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::format;
use crate::oci::ImageName;
use crate::telemetry::logging;
use warm::PlatformError;

/// All went well.
pub const EXIT_DONE: u8 = 0;
/// It could not start.
pub const EXIT_START: u8 = 1;
/// Something was not done, is missing or is wrong.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 2;

/// A command line that makes no sense: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl From<PlatformError> for UsageError {
    fn from(error: PlatformError) -> Self {
        Self(format!("--platform: {error}"))
    }
}

impl From<UsageError> for String {
    fn from(UsageError(line): UsageError) -> Self {
        line
    }
}

/// The image that a user names.
fn image(name: &str) -> Result<ImageName, UsageError> {
    ImageName::parse(name).map_err(|why| UsageError(format!("image {name:?}: {why}")))
}

/// One clear line, and the exit code.
pub fn fail(code: u8, error: &dyn Display) -> u8 {
    let line = format!("error: {error}");
    logging::say(&format!("{}\n", format::shown(&line)));
    code
}

/// Runs a command to its exit code.
pub fn run_async(work: impl Future<Output = u8>) -> u8 {
    match runtime() {
        Ok(runtime) => runtime.block_on(async {
            serve::survive_large_files();
            work.await
        }),
        Err(error) => fail(EXIT_START, &format!("cannot start threads: {error}")),
    }
}

/// The runtime of everything asynchronous.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}
