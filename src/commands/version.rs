//! `version`: which build this is.

use serde::Serialize;

use super::output::{say, say_json};
use crate::format::{COMMIT, VERSION};

/// The facts that a bug report should name.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the JSON")]
struct Version {
    version: &'static str,
    commit: &'static str,
    os: &'static str,
    arch: &'static str,
}

/// Shows it.
pub fn show(json: bool) {
    let version = Version {
        version: VERSION,
        commit: COMMIT,
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
    };
    if json {
        say_json(&version);
        return;
    }
    let Version {
        version,
        commit,
        os,
        arch,
    } = version;
    say(&format!(
        "roadstead {version} (commit {commit}, {os}/{arch})"
    ));
}
