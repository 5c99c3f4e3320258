//! The result of one check, and how results are shown.

use serde::Serialize;

use crate::commands::cache::screen::{Screen, Tone, clean};
use crate::commands::output::{say, say_json};
use crate::format::{VERSION, plural};

/// The state of what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Nothing is wrong.
    Ok,
    /// It works, and something should be changed.
    Warn,
    /// It does not work.
    Fail,
    /// It does not apply here, or could not be checked.
    Skipped,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Its stable name.
    pub(super) id: String,
    pub(super) status: Status,
    /// One line.
    pub(super) summary: String,
    /// The next step, a line or several, where it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    /// Nothing is wrong.
    pub(super) fn ok(id: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new(id, Status::Ok, summary, None)
    }

    /// Something should be changed.
    pub(super) fn warn(
        id: impl Into<String>,
        summary: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(id, Status::Warn, summary, Some(advice.into()))
    }

    /// It does not work.
    pub(super) fn fail(
        id: impl Into<String>,
        summary: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(id, Status::Fail, summary, Some(advice.into()))
    }

    /// It was not checked.
    pub(super) fn skipped(id: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(id, Status::Skipped, why, None)
    }

    fn new(
        id: impl Into<String>,
        status: Status,
        summary: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self {
            id: id.into(),
            status,
            summary: summary.into(),
            advice,
        }
    }

    /// The line of it, and those of the advice below.
    fn lines(&self, screen: Screen, width: usize) -> Vec<String> {
        let (word, tone) = match self.status {
            Status::Ok => ("ok", Tone::Good),
            Status::Warn => ("warn", Tone::Weak),
            Status::Fail => ("FAIL", Tone::Bad),
            Status::Skipped => ("skipped", Tone::Plain),
        };
        let gap = " ".repeat(WORD_WIDTH.saturating_sub(word.len()));
        let word = screen.paint(word, tone);
        let (id, summary) = (clean(&self.id), clean(&self.summary));
        let mut lines = vec![format!("{word}{gap} {id:<width$}  {summary}")];
        let advice = self.advice.as_deref().unwrap_or_default();
        lines.extend(
            advice
                .lines()
                .map(|line| format!("{INDENT}{}", clean(line))),
        );
        lines
    }
}

/// The width of `skipped`.
const WORD_WIDTH: usize = 7;
/// Advice stands under the name of its check.
const INDENT: &str = "          ";
/// Longer names make the column no wider.
const ID_WIDTH_MAX: usize = 28;

/// The numbers of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    ok: u64,
    warn: u64,
    fail: u64,
    skipped: u64,
}

impl Counts {
    pub(super) fn of(findings: &[Finding]) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            *match finding.status {
                Status::Ok => &mut counts.ok,
                Status::Warn => &mut counts.warn,
                Status::Fail => &mut counts.fail,
                Status::Skipped => &mut counts.skipped,
            } += 1;
        }
        counts
    }

    /// True if nothing has failed.
    pub(super) fn is_well(self) -> bool {
        self.fail == 0
    }

    /// The last line.
    fn line(self) -> String {
        let all = self.ok + self.warn + self.fail + self.skipped;
        format!(
            "{}: {} ok, {}, {}, {} skipped",
            plural(all, "check"),
            self.ok,
            plural(self.warn, "warning"),
            plural(self.fail, "failure"),
            self.skipped
        )
    }
}

/// The whole as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: &'static str,
    mode: &'static str,
    healthy: bool,
    counts: Counts,
    checks: &'a [Finding],
}

/// Shows the results; true if nothing has failed.
pub(super) fn show(mode: &'static str, findings: &[Finding], screen: Screen) -> bool {
    let counts = Counts::of(findings);
    if screen.json {
        say_json(&Report {
            version: VERSION,
            mode,
            healthy: counts.is_well(),
            counts,
            checks: findings,
        });
        return counts.is_well();
    }
    let widths = findings.iter().map(|it| it.id.chars().count());
    let width = widths.max().unwrap_or(0).min(ID_WIDTH_MAX);
    for finding in findings {
        for line in finding.lines(screen, width) {
            say(&line);
        }
    }
    say("");
    say(&counts.line());
    counts.is_well()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_result_is_a_line_with_its_advice_below() {
        let mut screen = Screen {
            json: false,
            colours: false,
            now: Timestamp(0),
        };
        let bad = Finding::fail("listener", "taken\u{1b}[2J", "stop it\nor move");
        assert_eq!(
            bad.lines(screen, 10),
            [
                "FAIL    listener    taken\u{fffd}[2J",
                "          stop it",
                "          or move"
            ]
        );
        screen.colours = true;
        let good = Finding::ok("clock", "right");
        assert_eq!(
            good.lines(screen, 5),
            ["\u{1b}[32mok\u{1b}[0m      clock  right"]
        );
        let counts = Counts::of(&[bad, good, Finding::skipped("a", "b")]);
        assert!(!counts.is_well());
        assert_eq!(
            counts.line(),
            "3 checks: 1 ok, 0 warnings, 1 failure, 1 skipped"
        );
    }
}
