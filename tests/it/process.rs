//! The real program, as a test starts and ends it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "several test files use a part of these helpers"
)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{Client, within};

/// The real program in a directory of its own; killed when dropped.
pub struct Process {
    pub child: Child,
    pub dir: TempDir,
}

impl Process {
    pub fn start(dir: TempDir, arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
            .args(arguments)
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    pub fn serve(upstream: &str) -> Self {
        Self::serve_in(TempDir::new().unwrap(), upstream, &[])
    }

    /// With `more` arguments, in a directory that may have something already.
    pub fn serve_in(dir: TempDir, upstream: &str, more: &[&str]) -> Self {
        let cache = dir.path().join("cache").display().to_string();
        let upstream = format!("docker.io={upstream}");
        let mut arguments = vec![
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--cache-dir",
            &cache,
            "--upstream",
            &upstream,
            "--default-upstream",
            "docker.io",
        ];
        arguments.extend(more);
        Self::start(dir, &arguments)
    }

    /// The addresses in the ready line, and the rest of standard output.
    pub fn ready(&mut self) -> (Client, Client, BufReader<ChildStdout>) {
        let mut output = BufReader::new(self.child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            sender.send((line, output)).unwrap();
        });
        let said = receiver.recv_timeout(crate::common::WAIT_MAX);
        let (line, output) = said.expect("no ready line");
        let parse = |line: &str| {
            let rest = line.strip_prefix("listening on ")?;
            let rest = rest
                .strip_prefix("http://")
                .or_else(|| rest.strip_prefix("https://"))?;
            let (address, admin) = rest.trim_end().split_once(" (admin http://")?;
            let admin = admin.strip_suffix(')')?;
            Some((Client(address.parse().ok()?), Client(admin.parse().ok()?)))
        };
        let (client, admin) = parse(&line).unwrap_or_else(|| panic!("ready line: {line:?}"));
        (client, admin, output)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        // The clock here is a thread's: there is no event for a child's end in std.
        for _ in 0..3000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the process did not end");
    }

    /// Exit status and standard error of a process that does not start.
    pub fn fails(mut self) -> (i32, String) {
        let status = self.wait();
        let mut text = String::new();
        let mut errors = self.child.stderr.take().unwrap();
        errors.read_to_string(&mut text).unwrap();
        (status.code().unwrap(), text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone in most tests.
        let _gone: std::io::Result<()> = self.child.kill();
        let _reaped: std::io::Result<ExitStatus> = self.child.wait();
    }
}

/// Runs the program, with these variables and nothing else of ours, from an empty directory.
pub async fn program(
    dir: &std::path::Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (bool, String) {
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output();
    let output = within("the program", child).await.unwrap();
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}
