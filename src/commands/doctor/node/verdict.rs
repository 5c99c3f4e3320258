//! The verdict on a client's files.

use crate::commands::doctor::finding::Finding;

/// Remarks on the files of one client.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Reasons that pulls go past the mirror, each with what to do.
    faults: Vec<(String, String)>,
    /// What should be changed, each with how.
    hints: Vec<(String, String)>,
    /// What is as it should be.
    facts: Vec<String>,
}

impl Verdict {
    /// Pulls go past the mirror for this reason.
    pub(super) fn fault(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.faults.push((what.into(), advice.into()));
    }

    /// This should be changed.
    pub(super) fn hint(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.hints.push((what.into(), advice.into()));
    }

    /// This is as it should be.
    pub(super) fn fact(&mut self, what: impl Into<String>) {
        self.facts.push(what.into());
    }

    /// The check's result.
    pub(super) fn finding(&self, id: &str) -> Finding {
        let remarks = self.faults.iter().chain(&self.hints);
        let texts: Vec<&str> = remarks.clone().map(|(what, _)| what.as_str()).collect();
        let mut advice: Vec<&str> = remarks.map(|(_, advice)| advice.as_str()).collect();
        advice.dedup();
        let (texts, advice) = (texts.join("; "), advice.join("\n"));
        if !self.faults.is_empty() {
            Finding::fail(id, texts, advice)
        } else if !self.hints.is_empty() {
            Finding::warn(id, texts, advice)
        } else {
            Finding::ok(id, self.facts.join("; "))
        }
    }
}
