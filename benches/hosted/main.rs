//! What lists and pages of hosted repositories take, and the memory, with this many manifests.
//!
//! ```text
//! cargo bench --bench hosted                         1,000,000 manifests, 100,000 tags, 10,000 namespaces
//! cargo bench --bench hosted -- 50000                so many manifests, a tenth of them tags of one repository
//! cargo test --bench hosted                          2,000 manifests, and what must hold of any number
//! ```
//!
//! The catalogue is made once, under cargo's `target/tmp`, by the catalogue's own acts: what a server would have
//! written, in some minutes. Blobs are entered and have no files. The real program is started on it, and asked by a
//! client with an identity that may see three of the namespaces. `HOSTED_PROGRAM` names another build of the program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark is a test: it says what it expects by failing, and prints"
)]

mod made;
mod program;

use std::time::Duration;

use made::Made;
use program::Program;

/// Manifests where nobody names a number.
const MANIFESTS: usize = 1_000_000;
const MANIFESTS_FEW: usize = 2_000;

/// What a page of tags, of referrers or of repositories may take.
const LIST_MAX: Duration = Duration::from_millis(20);

/// What a page for people may take.
const PAGE_MAX: Duration = Duration::from_millis(200);

/// What the server may have in memory, in KiB.
const RESIDENT_KIB_MAX: u64 = 300_000;

/// Times that each is asked.
const ROUNDS: usize = 30;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // Of tests, and there are none in here.
        return;
    }
    let benchmark = arguments.iter().any(|argument| argument == "--bench");
    let named = arguments.iter().find_map(|it| it.parse().ok());
    let default = if benchmark { MANIFESTS } else { MANIFESTS_FEW };
    let made = Made::of(named.unwrap_or(default));
    println!(
        "{} manifests, {} tags in one repository, {} namespaces; the catalogue has {} MiB",
        made.manifests,
        made.tags,
        made.namespaces,
        made.bytes() >> 20
    );
    let program = Program::start(&made);
    println!("{:<52} {:>9.1} ms", "start", ms(program.ready));
    println!(
        "{:<52} {:>9} MiB",
        "resident after the start",
        program.peak_kib() >> 10
    );
    lists(&made, &program, benchmark);
    pages(&made, &program, benchmark);
    let peak = program.peak_kib();
    println!("{:<52} {:>9} MiB", "resident at most", peak >> 10);
    assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB");
    program.stop();
}

/// What clients ask for.
fn lists(made: &Made, program: &Program, benchmark: bool) {
    let most = benchmark.then_some(LIST_MAX);
    let tags = |after: usize| {
        let last = after.checked_sub(1).map(made::tag);
        let last = last.map_or(String::new(), |it| format!("&last={it}"));
        format!("/v2/{}/tags/list?n=100{last}", made::REPOSITORY)
    };
    let ends = made.tags - 100;
    for (what, from) in [("start", 0), ("middle", made.tags / 2), ("end", ends)] {
        let text = ask(
            program,
            &format!("tags, n=100, at the {what}"),
            &tags(from),
            most,
        );
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        let found = found["tags"].as_array().unwrap();
        assert_eq!(found.len(), 100);
        assert_eq!(found[0], made::tag(from));
    }
    let path = format!("/v2/{}/referrers/{}", made::REPOSITORY, made.subject);
    let text = ask(program, "referrers, n=100", &format!("{path}?n=100"), most);
    assert_eq!(text.matches("sha256:").count(), 100);
    let first = format!("referrers, the first of {}", made.referrers);
    ask(program, &first, &path, most);
    let what = format!("_catalog, who may see 3 of {} namespaces", made.namespaces);
    let text = ask(program, &what, "/v2/_catalog?n=100", most);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["repositories"], serde_json::json!(made.seen()));
}

/// What people look at.
fn pages(made: &Made, program: &Program, benchmark: bool) {
    let most = benchmark.then_some(PAGE_MAX);
    let tags = format!("/hosted/tags?repository={}", made::REPOSITORY);
    let middle = format!("{tags}&after={}", made::tag(made.tags / 2));
    let end = format!("{tags}&after={}", made::tag(made.tags - 50));
    let absent = format!("{tags}&q=absent");
    for (what, path) in [
        ("page of what is hosted", "/hosted"),
        ("page of repositories", "/hosted/repositories"),
        ("a search that finds none", "/hosted/repositories?q=absent"),
        ("page of tags, at the start", &tags),
        ("in the middle", &middle),
        ("at the end", &end),
        ("a search that finds none", &absent),
    ] {
        let text = measure(what, most, || program.admin(path));
        assert!(text.contains("</html>"), "{text}");
    }
}

fn ask(program: &Program, what: &str, path: &str, most: Option<Duration>) -> String {
    measure(what, most, || program.client(path))
}

/// Asks some times, and prints the median and the longest; the median is what counts. The first, which logs in and reads
/// from the disk, is by itself.
fn measure(what: &str, most: Option<Duration>, ask: impl Fn() -> (Duration, String)) -> String {
    let (first, text) = ask();
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| ask().0).collect();
    times.sort_unstable();
    let (median, longest) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!(
        "{what:<52} {:>9.1} ms  first {:.1} ms, longest {:.1} ms",
        ms(median),
        ms(first),
        ms(longest)
    );
    assert!(most.is_none_or(|most| median < most), "{what}: {median:?}");
    text
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
