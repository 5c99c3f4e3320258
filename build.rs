//! Says which commit is built: `BUILD_COMMIT` in the environment, or what git says, or `unknown`, as of an archive of
//! the sources.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script is told what to do by its environment"
)]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let given = std::env::var("BUILD_COMMIT").ok().filter(|it| is_plain(it));
    let commit = given.or_else(|| {
        let head = git(&["rev-parse", "--git-path", "HEAD"])?;
        // A path that does not exist would have everything built again each time.
        if Path::new(&head).exists() {
            println!("cargo:rerun-if-changed={head}");
        }
        // Of another repository around an archive of the sources there is nothing to say.
        git(&["ls-files", "--error-unmatch", "build.rs"])?;
        git(&["rev-parse", "--short=12", "HEAD"])
    });
    let commit = commit.filter(|it| is_plain(it));
    println!(
        "cargo:rustc-env=BUILD_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
}

/// What a git command prints, if it works.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

fn is_plain(commit: &str) -> bool {
    (1..=64).contains(&commit.len())
        && commit
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
