//! A unified diff of two texts, by lines.

use std::fmt::Write as _;
use std::ops::Range;

/// Lines around a change.
const CONTEXT: usize = 3;
/// More cells than this are not compared line by line: some megabytes for files of two thousand lines that have
/// nothing in common.
const CELLS_MAX: usize = 4_000_000;

/// A line of a diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Kept(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// The diff, with these names in its head; empty where both texts are the same. `None`: there is no such file.
pub(super) fn unified(path: &str, old: Option<&str>, new: Option<&str>) -> String {
    if old == new {
        return String::new();
    }
    let lines = compared(&split(old), &split(new));
    let name = |side: &str, text: Option<&str>| match text {
        Some(_) => format!("{side}{path}"),
        None => "/dev/null".to_owned(),
    };
    let mut text = format!("--- {}\n+++ {}\n", name("a", old), name("b", new));
    for hunk in hunks(&lines) {
        write_hunk(&mut text, &lines, &hunk);
    }
    text
}

fn split(text: Option<&str>) -> Vec<&str> {
    text.unwrap_or_default().split_inclusive('\n').collect()
}

fn compared<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let head = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (
        old.get(head..).unwrap_or_default(),
        new.get(head..).unwrap_or_default(),
    );
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev());
    let tail = tail.take_while(same).count();
    let middle = |lines: &[&'a str]| -> Vec<&'a str> {
        let end = lines.len().saturating_sub(tail);
        lines.get(..end).unwrap_or_default().to_vec()
    };
    let mut lines: Vec<Line<'a>> = old.iter().take(head).map(|it| Line::Kept(it)).collect();
    lines.extend(longest(&middle(old_rest), &middle(new_rest)));
    let kept = old.iter().skip(old.len().saturating_sub(tail));
    lines.extend(kept.map(|it| Line::Kept(it)));
    lines
}

/// The longest common part of both, by the table of all pairs of their ends.
fn longest<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > CELLS_MAX {
        let old = old.iter().map(|it| Line::Old(it));
        return old.chain(new.iter().map(|it| Line::New(it))).collect();
    }
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let at = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, before) in old.iter().enumerate().rev() {
        for (j, after) in new.iter().enumerate().rev() {
            let length = if before == after {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = length;
            }
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(before), Some(after)) if before == after => {
                lines.push(Line::Kept(before));
                (i, j) = (i + 1, j + 1);
            }
            (Some(before), after)
                if after.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) =>
            {
                lines.push(Line::Old(before));
                i += 1;
            }
            (_, Some(after)) => {
                lines.push(Line::New(after));
                j += 1;
            }
            (_, None) => return lines,
        }
    }
}

/// Ranges of lines that have changes, each with its context.
fn hunks(lines: &[Line<'_>]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if matches!(line, Line::Kept(_)) {
            continue;
        }
        let range = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(lines.len());
        match hunks.last_mut() {
            Some(last) if last.end >= range.start => last.end = range.end,
            Some(_) | None => hunks.push(range),
        }
    }
    hunks
}

fn write_hunk(text: &mut String, lines: &[Line<'_>], hunk: &Range<usize>) {
    let before = lines.get(..hunk.start).unwrap_or_default();
    let within = lines.get(hunk.clone()).unwrap_or_default();
    let count = |lines: &[Line<'_>], old: bool| {
        let counts = |it: &&Line<'_>| match it {
            Line::Kept(_) => true,
            Line::Old(_) => old,
            Line::New(_) => !old,
        };
        lines.iter().filter(counts).count()
    };
    let range = |old: bool| {
        let (first, length) = (count(before, old), count(within, old));
        // A range without lines is named by the line before it.
        format!("{},{length}", first + usize::from(length > 0))
    };
    // Writing to a String cannot fail.
    writeln!(text, "@@ -{} +{} @@", range(true), range(false)).ok();
    for line in within {
        let (sign, line) = match line {
            Line::Kept(line) => (' ', line),
            Line::Old(line) => ('-', line),
            Line::New(line) => ('+', line),
        };
        text.push(sign);
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str("\n\\ No newline at end of file\n");
        }
    }
}
