//! The real program on a store, until it is ready, until it has looked through the files, and ended.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How the program is ended.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    Stopped,
    Killed,
}

/// What a start took.
pub(crate) struct Started {
    /// Until the line that says so.
    pub(crate) ready: Duration,
    /// The most that was resident until then, in KiB.
    pub(crate) peak_kib: u64,
    /// From then on until the files had been looked through.
    pub(crate) scan: Duration,
    /// The most until the files had been looked through, or a bounded time.
    pub(crate) scanned_kib: u64,
}

/// What the program logs when it has looked through the files.
const SCANNED: &str = "the files have been looked through";

/// How long the look through the files is waited for.
const SCAN_WAIT: Duration = Duration::from_mins(2);

/// The program of this build, or another one to compare with.
fn program() -> OsString {
    std::env::var_os("STARTUP_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_roadstead").into())
}

/// Starts the program on the store of `dir`, which has `count` blobs, and ends it. If it has `lost` its
/// index, it knows of them only when it has looked through the files.
pub(crate) fn start(dir: &Path, count: usize, ended: Ended, lost: bool) -> Started {
    let before = Instant::now();
    let mut child = Command::new(program())
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .args(["--cache-size", "100TB", "--cache-dir"])
        .arg(dir)
        .current_dir(dir)
        .env("XDG_STATE_HOME", dir.join("state"))
        .env("ROADSTEAD_LOG", "info")
        // The files are not what their names say.
        .env("ROADSTEAD_CACHE__SCRUB", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let ready = before.elapsed();
    let peak_kib = peak_kib(&child);
    let admin = line.split("(admin http://").nth(1).expect(&line);
    let admin = admin.trim_end().trim_end_matches(')');
    let blobs = || metric(admin, "roadstead_cache_blobs");
    assert!(lost || blobs() == Some(count as u64), "{:?}", blobs());
    let (sender, scanned) = mpsc::channel();
    let log = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || {
        // To the end, so that the program can always write.
        for line in log.lines().map_while(Result::ok) {
            if line.contains(SCANNED) {
                sender.send(()).ok();
            }
        }
    });
    // Not at all in a program from before there was such a line.
    scanned.recv_timeout(SCAN_WAIT).ok();
    let scan = before.elapsed().saturating_sub(ready);
    assert_eq!(blobs(), Some(count as u64), "after the scan");
    let scanned_kib = self::peak_kib(&child);
    end(child, ended);
    Started {
        ready,
        peak_kib,
        scan,
        scanned_kib,
    }
}

fn end(mut child: Child, ended: Ended) {
    let pid = Pid::from_child(&child);
    let signal = match ended {
        Ended::Stopped => Signal::TERM,
        Ended::Killed => Signal::KILL,
    };
    kill_process(pid, signal).unwrap();
    child.wait().unwrap();
}

/// The most that was ever resident.
fn peak_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = peak.unwrap().split_whitespace();
    words.into_iter().next().unwrap().parse().unwrap()
}

/// What `/metrics` says, a whole number.
fn metric(admin: &str, name: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}
