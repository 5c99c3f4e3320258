//! Output for users.

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands::output::{self, Output, say, say_json};
use crate::commands::progress::Progress;
use crate::format::{harmless, plural, size};
use crate::mirror::{Fault, Finding, VerifyProgress, VerifySummary};

/// Shows a run.
pub(super) struct Reporter {
    output: Output,
    progress: Progress,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Finding(&'a Finding),
    Summary(&'a VerifySummary),
}

impl Reporter {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            progress: Progress::new(output),
        }
    }

    pub(super) fn note(&self, text: &str) {
        if self.output != Output::Silent {
            output::note(text);
        }
    }

    pub(super) fn progress(&self, progress: &VerifyProgress) {
        let (blobs, all) = (progress.blobs, progress.of_blobs);
        let what = format!("{blobs} of {}", plural(all, "blob"));
        self.progress.set(progress.bytes, progress.of_bytes, &what);
    }

    pub(super) fn finding(&self, finding: &Finding) {
        match self.output {
            Output::Human => self.progress.show(|| say(&words(finding))),
            Output::Json => say_json(&Line::Finding(finding)),
            Output::Silent => {}
        }
    }

    /// `None`: it did not come to its end.
    pub(super) fn finish(self, summary: Option<&VerifySummary>) {
        let Self { output, progress } = self;
        drop(progress);
        match (output, summary) {
            (Output::Human, Some(summary)) => say(&summary_line(summary)),
            (Output::Json, Some(summary)) => say_json(&Line::Summary(summary)),
            (Output::Human | Output::Json | Output::Silent, _) => {}
        }
    }
}

fn words(finding: &Finding) -> String {
    let fault = match finding.fault {
        Fault::Damaged => "damaged",
        Fault::WrongSize => "wrong size",
        Fault::Missing => "missing",
        Fault::Unknown => "unknown",
        Fault::Stray => "stray",
    };
    let mut text = fault.to_owned();
    let images = finding.images.join(", ");
    // Writing to a String cannot fail.
    match &finding.digest {
        Some(digest) => {
            write!(text, "  {digest}: {}", harmless(&finding.why)).ok();
            if !finding.images.is_empty() {
                write!(text, "\n    needed by {}", harmless(&images)).ok();
            }
        }
        None => {
            write!(text, "  {}: {}", harmless(&images), harmless(&finding.why)).ok();
        }
    }
    match (finding.repaired, &finding.unrepaired) {
        (Some(true), _) => text.push_str("\n    repaired"),
        (Some(false), Some(why)) => {
            write!(text, "\n    NOT repaired: {}", harmless(why)).ok();
        }
        (Some(false), None) => text.push_str("\n    NOT repaired"),
        (None, _) => {}
    }
    text
}

fn summary_line(summary: &VerifySummary) -> String {
    let blobs = plural(summary.blobs, "blob");
    let bytes = size(summary.bytes);
    let state = match (summary.findings, summary.repaired) {
        (0, _) => "all well".to_owned(),
        (findings, 0) => format!("{findings} NOT well"),
        (findings, repaired) => format!("{findings} not well, {repaired} of them repaired"),
    };
    let unreadable = match summary.unreadable {
        0 => String::new(),
        number => format!("; {number} could not be read now (see the log)"),
    };
    let seconds = summary.seconds;
    format!("{blobs}, {bytes}: {state}{unreadable}; {seconds:.1} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_and_summaries_in_words() {
        let mut finding = Finding {
            fault: Fault::Damaged,
            digest: Some("sha256:aa".to_owned()),
            why: "its content hashes to sha256:bb".to_owned(),
            images: vec!["docker.io/library/a:1".to_owned(), "ghcr.io/b".to_owned()],
            repaired: None,
            unrepaired: None,
        };
        let plain = "damaged  sha256:aa: its content hashes to sha256:bb\n    \
                     needed by docker.io/library/a:1, ghcr.io/b";
        assert_eq!(words(&finding), plain);
        finding.repaired = Some(true);
        assert_eq!(words(&finding), format!("{plain}\n    repaired"));
        finding.repaired = Some(false);
        finding.unrepaired = Some("502".to_owned());
        assert_eq!(words(&finding), format!("{plain}\n    NOT repaired: 502"));
        let mut summary = VerifySummary {
            blobs: 3,
            bytes: 80_000,
            seconds: 0.25,
            ..VerifySummary::default()
        };
        assert_eq!(summary_line(&summary), "3 blobs, 80.0 kB: all well; 0.2 s");
        summary.findings = 2;
        assert!(summary_line(&summary).contains(": 2 NOT well; "));
        summary.repaired = 1;
        assert!(summary_line(&summary).contains("2 not well, 1 of them repaired"));
    }
}
