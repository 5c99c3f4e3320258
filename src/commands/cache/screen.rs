//! Output for users: tables on a terminal and in pipes, JSON for scripts.

use std::time::Duration;

use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::commands::output::has_colours;
pub(in crate::commands) use crate::commands::output::{say, say_json};
use crate::format;
use crate::mirror::inspect::When;

/// Rows that are aligned with each other; a longer table goes on with widths of its own.
const ROWS_MAX: usize = 2_000;

/// Characters of a digest that tell it from others, for people.
const DIGEST_CHARS: usize = 12;

/// The place that output goes to.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// JSON instead of tables.
    pub json: bool,
    /// True if colours are wanted: on a terminal, without `NO_COLOR`.
    pub colours: bool,
    /// The time now, for ages.
    pub now: Timestamp,
}

/// The look of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Tone {
    /// Not at all.
    Plain,
    /// A heading.
    Strong,
    /// All is well.
    Good,
    /// Something is amiss.
    Bad,
    /// Something is not as it could be.
    Weak,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

/// Rows under headings.
#[derive(Debug)]
pub(in crate::commands) struct Table {
    screen: Screen,
    head: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
    headed: bool,
}

impl Screen {
    /// The screen of this process.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self {
            json,
            colours: has_colours(),
            now: SystemClock.now(),
        }
    }

    /// A text that stands out.
    pub(in crate::commands) fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Weak => "33",
            Tone::Plain => "",
        };
        if !self.colours || code.is_empty() || text.is_empty() {
            return text.to_owned();
        }
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// The age of something.
    pub(in crate::commands) fn ago(&self, when: Option<When>) -> String {
        match when {
            None => "-".to_owned(),
            Some(When(at)) if at > self.now => format!("in {}", span(at.since(self.now))),
            Some(When(at)) => format!("{} ago", span(self.now.since(at))),
        }
    }
}

impl Table {
    /// Headings; those that begin with `>` stand over numbers.
    pub(in crate::commands) fn new(screen: Screen, head: &[&str]) -> Self {
        let head = head.iter().map(|text| Cell {
            text: text.trim_start_matches('>').to_owned(),
            tone: Tone::Strong,
            right: text.starts_with('>'),
        });
        Self {
            screen,
            head: head.collect(),
            rows: Vec::new(),
            headed: false,
        }
    }

    /// One more row.
    pub(in crate::commands) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
        if self.rows.len() >= ROWS_MAX {
            self.flush();
        }
    }

    /// Shows the rows.
    pub(in crate::commands) fn flush(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut self.rows);
        let head = (!self.headed).then(|| self.head.clone());
        self.headed = true;
        let all: Vec<Vec<Cell>> = head.into_iter().chain(rows).collect();
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = all.iter().filter_map(|row| row.get(column));
                cells.map(Cell::width).max().unwrap_or(0)
            })
            .collect();
        for row in &all {
            let mut line = String::new();
            let last = row.len().saturating_sub(1);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let right = self.head.get(column).is_some_and(|head| head.right);
                let gap = " ".repeat(width.saturating_sub(cell.width()));
                let text = self.screen.paint(&cell.text, cell.tone);
                match (right, column == last) {
                    (true, _) => line.push_str(&(gap + &text)),
                    (false, true) => line.push_str(&text),
                    (false, false) => line.push_str(&(text + &gap)),
                }
                if column != last {
                    line.push_str("  ");
                }
            }
            say(line.trim_end());
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Cell {
    fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// A cell that stands out.
    pub(in crate::commands) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self {
            text: clean(text.as_ref()),
            tone,
            right: false,
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// The words of a registry or an image's maker, without what a terminal would take for a command.
pub(in crate::commands) fn clean(text: &str) -> String {
    format::harmless(text).into_owned()
}

/// A part of a whole.
pub(in crate::commands) fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0))
}

/// The beginning of a digest.
pub(in crate::commands) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(DIGEST_CHARS).collect()
}

/// A length of time in its two largest units.
pub(in crate::commands) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit);
    let Some(first) = first else {
        return format!("{} ms", time.subsec_millis());
    };
    let mut left = seconds;
    let parts = units.iter().skip(first).take(2).filter_map(|(name, unit)| {
        let count = left / unit;
        left %= unit;
        (count > 0).then(|| format!("{count} {name}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_readable() {
        let of = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(span(Duration::from_millis(12)), "12 ms");
        assert_eq!(
            (of(59), of(60), of(3661)),
            ("59 s".into(), "1 min".into(), "1 h 1 min".into())
        );
        assert_eq!(
            (of(86_400 * 3 + 60), of(86_400 + 7200)),
            ("3 d".into(), "1 d 2 h".into())
        );
        assert_eq!(percent(Some(0.5)), "50.0%");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn what_others_wrote_gives_the_terminal_no_commands() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        let mut screen = Screen {
            json: false,
            colours: false,
            now: Timestamp(0),
        };
        assert_eq!(screen.paint("down", Tone::Bad), "down");
        screen.colours = true;
        assert_eq!(screen.paint("down", Tone::Bad), "\u{1b}[31mdown\u{1b}[0m");
        assert_eq!(screen.ago(Some(When(Timestamp(60_000)))), "in 1 min");
    }
}
