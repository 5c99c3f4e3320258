//! Output for users: a table, JSON for scripts, and a bar on a terminal meanwhile.

use indicatif::ProgressBar;

use super::failure::Group;
use super::figures::{Range, Spread, float};
use super::report::{Measured, Ratios, Report};
use crate::commands::output::{self, Output};
use crate::commands::progress::style;
use crate::format::{self, plural, size};

/// The progress of a round.
#[derive(Debug)]
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar for so many pulls, on a terminal.
    pub(super) fn new(output: Output, title: String, pulls: usize) -> Self {
        if output != Output::Human || !output::is_watched() {
            return Self(None);
        }
        let bar = ProgressBar::new(pulls as u64).with_style(style(BAR));
        Self(Some(bar.with_prefix(title)))
    }

    /// So many pulls are done, and so many bytes came for all.
    pub(super) fn show(&self, done: usize, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done as u64);
            bar.set_message(size(bytes));
        }
    }

    /// The round is over.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The name of a round while it goes on.
pub(super) fn title(target: usize, number: usize, warmup: usize, rounds: usize) -> String {
    let name = letter(target);
    match number.checked_sub(warmup) {
        Some(counted) => format!("{name}: round {} of {rounds}", counted + 1),
        None => format!("{name}: warming up, {} of {warmup}", number + 1),
    }
}

/// Shows the report.
pub(super) fn show(report: &Report, output: Output) {
    match output {
        Output::Human => output::write(&format::shown(&text(report))),
        Output::Json => output::say_json(report),
        Output::Silent => {}
    }
}

/// The report for people.
fn text(report: &Report) -> String {
    let mut lines = vec![heading(report), String::new()];
    for (at, target) in report.targets.iter().enumerate() {
        lines.push(format!("{}  {}", letter(at), target.url));
    }
    lines.push(String::new());
    lines.extend(table(&rows(report)));
    lines.extend(each_round(report));
    lines.extend(notes(report));
    for (at, target) in report.targets.iter().enumerate() {
        lines.extend(errors(letter(at), target));
    }
    lines.join("\n") + "\n"
}

fn heading(report: &Report) -> String {
    let rounds = plural(report.rounds as u64, "round");
    let warmup = match report.warmup {
        0 => String::new(),
        some => format!(" after {} to warm up", plural(some as u64, "round")),
    };
    format!(
        "{} ({}): {} at once, {} at once in each, {rounds}{warmup}",
        report.image,
        report.platform,
        plural(report.pulls as u64, "pull"),
        plural(report.parallel as u64, "blob"),
    )
}

/// A label, a figure of each registry, and their ratio.
type Row = (String, Vec<String>, Option<f64>);

fn rows(report: &Report) -> Vec<Row> {
    let ratios = report.ratios.as_ref();
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |label: &str, figure: &dyn Fn(&Measured) -> String, ratio: Option<f64>| {
        let figures = report.targets.iter().map(figure).collect();
        rows.push((label.to_owned(), figures, ratio));
    };
    let of = |ratio: fn(&Ratios) -> Option<f64>| ratios.and_then(ratio);
    row(
        "wall time",
        &|it| range(it, |range| range.median),
        of(|it| it.wall),
    );
    if report.rounds > 1 {
        row("  fastest round", &|it| range(it, |range| range.min), None);
        row("  slowest round", &|it| range(it, |range| range.max), None);
    }
    row(
        "pull, median",
        &|it| spread(it.pull_seconds, |spread| spread.median),
        of(|it| it.pull_median),
    );
    row(
        "pull, 95%",
        &|it| spread(it.pull_seconds, |spread| spread.p95),
        of(|it| it.pull_p95),
    );
    row(
        "pull, slowest",
        &|it| spread(it.pull_seconds, |spread| spread.max),
        of(|it| it.pull_max),
    );
    row(
        "first byte, median",
        &|it| spread(it.first_byte_seconds, |spread| spread.median),
        of(|it| it.first_byte_median),
    );
    row(
        "first byte, 95%",
        &|it| spread(it.first_byte_seconds, |spread| spread.p95),
        of(|it| it.first_byte_p95),
    );
    row(
        "first byte, slowest",
        &|it| spread(it.first_byte_seconds, |spread| spread.max),
        of(|it| it.first_byte_max),
    );
    row("throughput", &throughput, of(|it| it.bytes_per_second));
    row("bytes", &|it| size(it.bytes), None);
    row("requests", &|it| it.requests.to_string(), None);
    row("failed", &failed, None);
    row("client's CPU", &|it| time(it.client_cpu_seconds), None);
    row(
        "  share of its CPUs",
        &|it| load(it, report.client_cpus),
        None,
    );
    rows
}

fn range(target: &Measured, figure: fn(&Range) -> f64) -> String {
    let range = target.wall_seconds.as_ref();
    range.map_or_else(nothing, |range| time(figure(range)))
}

fn spread(spread: Option<Spread>, figure: fn(&Spread) -> f64) -> String {
    spread.map_or_else(nothing, |spread| time(figure(&spread)))
}

fn throughput(target: &Measured) -> String {
    let range = target.bytes_per_second.as_ref();
    range.map_or_else(nothing, |range| format!("{}/s", size(whole(range.median))))
}

fn failed(target: &Measured) -> String {
    format!("{} of {}", target.failed, target.pulls)
}

fn load(target: &Measured, cpus: usize) -> String {
    let load = target.client_load(cpus);
    load.map_or_else(nothing, |load| format!("{:.0}%", load * 100.0))
}

fn nothing() -> String {
    "-".to_owned()
}

/// Aligns rows under the registries' letters.
fn table(rows: &[Row]) -> Vec<String> {
    let columns = rows.first().map_or(0, |(_, figures, _)| figures.len());
    let label_width = rows.iter().map(|(label, ..)| label.len()).max();
    let label_width = label_width.unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|(_, cells, _)| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(1)
        })
        .collect();
    let line = |label: &str, cells: &[String], ratio: &str| {
        let label = format!("{label:label_width$}");
        let cells = cells.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!("{cell:>width$}"));
        let ratio = (columns > 1).then(|| format!("{ratio:>RATIO_WIDTH$}"));
        let parts: Vec<String> = std::iter::once(label).chain(cells).chain(ratio).collect();
        parts.join("  ").trim_end().to_owned()
    };
    let letters: Vec<String> = (0..columns).map(|at| letter(at).to_string()).collect();
    let mut lines = vec![line("", &letters, "B/A")];
    for (label, cells, ratio) in rows {
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        lines.push(line(label, cells, &ratio));
    }
    lines
}

/// The rounds one by one: the first is often the one that a cache was cold in.
fn each_round(report: &Report) -> Vec<String> {
    if report.rounds < 2 {
        return Vec::new();
    }
    let mut lines = vec![String::new(), "wall time of each round".to_owned()];
    for (at, target) in report.targets.iter().enumerate() {
        let shown = target.each_round.iter().take(ROUNDS_SHOWN_MAX);
        let mut times: Vec<String> = shown.map(|round| time(round.wall_seconds)).collect();
        if target.each_round.len() > ROUNDS_SHOWN_MAX {
            times.push("…".to_owned());
        }
        lines.push(format!("  {}  {}", letter(at), times.join("  ")));
    }
    lines
}

/// Facts without which the figures cannot be judged.
fn notes(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let with = |wanted: &dyn Fn(&Measured) -> bool| {
        let found = report.targets.iter().enumerate();
        let found = found.filter(|(_, target)| wanted(target));
        let letters: Vec<String> = found.map(|(at, _)| letter(at).to_string()).collect();
        letters.join(" and ")
    };
    let here = with(&|target| target.shares_the_machine);
    if !here.is_empty() {
        lines.push(format!(
            "note: the client shares its machine with {here}: the CPU time that it takes to receive and to hash, \
             nobody else gets"
        ));
    }
    let busy = with(&|target| {
        let load = target.client_load(report.client_cpus);
        !target.shares_the_machine && load.is_some_and(|load| load > BUSY)
    });
    if !busy.is_empty() {
        lines.push(format!(
            "note: the client was busy while it measured {busy}: with more CPUs it might have been faster"
        ));
    }
    if !lines.is_empty() {
        lines.insert(0, String::new());
    }
    lines
}

fn errors(letter: char, target: &Measured) -> Vec<String> {
    if target.errors.is_empty() {
        return Vec::new();
    }
    let (failed, pulls) = (target.failed, plural(target.pulls, "pull"));
    let mut lines = vec![
        String::new(),
        format!("{letter}: {failed} of {pulls} failed"),
    ];
    for Group {
        what,
        why,
        pulls,
        examples,
    } in &target.errors
    {
        lines.push(format!("  {pulls} × {what}: {why}"));
        // A registry's words might move the cursor.
        let clean = |text: &String| format!("      {}", format::harmless(text));
        lines.extend(examples.iter().map(clean));
    }
    lines
}

/// Seconds in a unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        it if it < 0.001 => format!("{:.0} µs", it * 1e6),
        it if it < 0.01 => format!("{:.1} ms", it * 1e3),
        it if it < 1.0 => format!("{:.0} ms", it * 1e3),
        it if it < 100.0 => format!("{it:.2} s"),
        it => format!("{it:.0} s"),
    }
}

/// The name of a registry in the table.
fn letter(at: usize) -> char {
    if at == 0 { 'A' } else { 'B' }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and beyond u64 it is shown as its largest"
)]
fn whole(rate: f64) -> u64 {
    rate.min(float(u64::MAX)) as u64
}

/// `1234.56`, and the heading.
const RATIO_WIDTH: usize = 6;
/// A line's worth.
const ROUNDS_SHOWN_MAX: usize = 10;
/// From this load on, the client is likely to be what limits.
const BUSY: f64 = 0.8;
const BAR: &str = "{prefix}  [{bar:30}] {pos} of {len} pulls  {msg:>9}  {elapsed}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::report::tests::round;

    fn report(targets: Vec<Measured>) -> Report {
        let ratios = match targets.as_slice() {
            [first, second] => Some(Ratios::of(second, first)),
            _ => None,
        };
        Report {
            image: "docker.io/library/app:1".to_owned(),
            platform: "linux/amd64".to_owned(),
            pulls: 2,
            parallel: 3,
            rounds: targets[0].each_round.len(),
            warmup: 0,
            client_cpus: 2,
            targets,
            ratios,
        }
    }

    /// True if a line has these words, whatever is between them.
    fn has(shown: &str, words: &str) -> bool {
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        shown.lines().any(|line| squeezed(line) == words)
    }

    #[test]
    fn two_registries_stand_side_by_side() {
        let first = vec![round(0.5, 0), round(0.004, 0), round(0.5, 0)];
        let second = vec![round(2.0, 0), round(1.0, 0), round(120.0, 0)];
        let shown = text(&report(vec![
            Measured::of("http://127.0.0.1:5000/", true, first),
            Measured::of("https://ghcr.io/", false, second),
        ]));
        for line in [
            "docker.io/library/app:1 (linux/amd64): 2 pulls at once, 3 blobs at once in each, 3 rounds",
            "A http://127.0.0.1:5000/",
            "wall time 500 ms 2.00 s 4.00",
            "fastest round 4.0 ms 1.00 s",
            "slowest round 500 ms 120 s",
            "pull, slowest 500 ms 120 s 240.00",
            "first byte, slowest 100 ms 24.00 s 240.00",
            "throughput 2.0 MB/s 500.0 kB/s 0.25",
            "requests 24 24",
            "failed 0 of 6 0 of 6",
            "A 500 ms 4.0 ms 500 ms",
            "B 2.00 s 1.00 s 120 s",
        ] {
            assert!(has(&shown, line), "{line}:\n{shown}");
        }
        // Each column ends where its letter stands.
        let mut lines = shown.lines().skip_while(|line| !line.ends_with("B/A"));
        let head = lines.next().unwrap();
        let column = head.find('A').unwrap();
        for line in lines.take_while(|line| !line.is_empty()) {
            let around: Vec<char> = line.chars().skip(column).take(2).collect();
            assert!(around[0] != ' ' && around[1] == ' ', "{line}");
        }
    }

    #[test]
    fn one_registry_stands_alone_and_its_failures_are_told() {
        let mut failing = round(0.5, 3);
        failing.errors = vec![Group {
            what: "manifest".to_owned(),
            why: "status 404".to_owned(),
            pulls: 3,
            examples: vec!["1.27: \u{1b}[31mstatus 404".to_owned()],
        }];
        failing.samples.clear();
        let far = Measured::of("https://r/", false, vec![failing]);
        let shown = text(&report(vec![far]));
        assert!(has(&shown, "pull, median -"), "{shown}");
        assert!(has(&shown, "failed 3 of 5"), "{shown}");
        assert!(
            !shown.contains("B/A") && !shown.contains("note:"),
            "{shown}"
        );
        let told = "A: 3 of 5 pulls failed\n  3 × manifest: status 404\n      1.27: \u{fffd}[31mstatus 404\n";
        assert!(shown.ends_with(told), "{shown}");
    }

    #[test]
    fn times_have_units_that_suit_them() {
        let shown = [0.0, 0.000_25, 0.0042, 0.25, 1.0, 99.0, 1234.5].map(time);
        let expected = [
            "0 µs", "250 µs", "4.2 ms", "250 ms", "1.00 s", "99.00 s", "1234 s",
        ];
        assert_eq!(shown, expected);
        assert_eq!(title(0, 0, 1, 3), "A: warming up, 1 of 1");
        assert_eq!(title(1, 1, 1, 3), "B: round 1 of 3");
    }
}
