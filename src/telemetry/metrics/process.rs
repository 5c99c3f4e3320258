//! The operating system's figures of the process, under the names that Prometheus' own clients use.

use std::fmt::Write as _;
use std::fs;

use rustix::process::{Resource, getrlimit};

use super::Set;
use crate::format;

/// A name, its type and help, and what it is now.
type Family = (&'static str, &'static str, &'static str, f64);

/// Registers what says which build runs.
pub(super) fn build_info(set: &Set) {
    let build = set.gauges(
        "roadstead_build_info",
        "1; its labels say what runs.",
        &["version", "commit"],
    );
    build
        .with_label_values(&[format::VERSION, format::COMMIT])
        .set(1);
}

/// The families as text; nothing where the system does not say (elsewhere than on Linux).
pub(super) fn render(text: &mut String) {
    for (name, kind, help, value) in families() {
        // Writing to a string does not fail.
        let _written = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        )
        .is_ok();
    }
}

fn families() -> Vec<Family> {
    let mut families = Vec::new();
    let stat = fs::read_to_string("/proc/self/stat").ok();
    if let Some(stat) = stat.as_deref().and_then(Stat::parse) {
        let booted = fs::read_to_string("/proc/stat").ok();
        stat.tell(booted.as_deref().and_then(boot_time), &mut families);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory.
        let open = float(open.count().saturating_sub(1) as u64);
        families.push(("process_open_fds", "gauge", "Open file descriptors.", open));
        let max = getrlimit(Resource::Nofile)
            .current
            .map_or(f64::INFINITY, float);
        families.push((
            "process_max_fds",
            "gauge",
            "The most that may be open.",
            max,
        ));
    }
    families.sort_by_key(|family| family.0);
    families
}

/// Of `/proc/self/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // The program's name stands in brackets, and may have some itself.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of them is the third of all.
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    fn tell(&self, booted: Option<u64>, families: &mut Vec<Family>) {
        let seconds = |ticks| float(ticks) / float(rustix::param::clock_ticks_per_second().max(1));
        let resident = self
            .resident_pages
            .saturating_mul(rustix::param::page_size() as u64);
        families.extend([
            (
                "process_cpu_seconds_total",
                "counter",
                "Processor time, of user and system.",
                seconds(self.cpu_ticks),
            ),
            ("process_threads", "gauge", "Threads.", float(self.threads)),
            (
                "process_virtual_memory_bytes",
                "gauge",
                "Virtual memory, mapped files included.",
                float(self.virtual_bytes),
            ),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory, mapped files included.",
                float(resident),
            ),
        ]);
        if let Some(booted) = booted {
            families.push((
                "process_start_time_seconds",
                "gauge",
                "When the process started, since the Unix epoch.",
                float(booted) + seconds(self.started_ticks),
            ));
        }
    }
}

/// When the system started, of `/proc/stat`.
fn boot_time(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 321 18446744073709551615 1";
        let expected = Stat {
            cpu_ticks: 300,
            threads: 9,
            started_ticks: 12_345,
            virtual_bytes: 1_000_000,
            resident_pages: 321,
        };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(Stat::parse("7 (x) S 1"), None);
        assert_eq!(boot_time("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let mut text = String::new();
        render(&mut text);
        for name in [
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
            "process_virtual_memory_bytes",
        ] {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name} ")));
            let value: f64 = value
                .unwrap_or_else(|| panic!("{name} in {text}"))
                .parse()
                .unwrap();
            assert!(
                value > 0.0 || name == "process_cpu_seconds_total",
                "{name} {value}"
            );
        }
    }
}
