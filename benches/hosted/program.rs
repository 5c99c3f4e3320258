//! The real program on a catalogue, and somebody who asks it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::made::Made;

const USER: &str = "reader";
const PASSWORD: &str = "a password of the benchmark";

/// `reader` with this password, as HTTP has it.
const BASIC: &str = "Basic cmVhZGVyOmEgcGFzc3dvcmQgb2YgdGhlIGJlbmNobWFyaw==";

/// The program.
pub(crate) struct Program {
    child: Child,
    /// Until the line that says that it listens.
    pub(crate) ready: Duration,
    client: String,
    admin: String,
}

fn program() -> OsString {
    std::env::var_os("HOSTED_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_roadstead").into())
}

fn configuration(made: &Made) -> String {
    let dir = made.dir.display();
    let [one, two, three] = made.visible();
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[cache]
dir = "{dir}/cache"
max_size = "100MB"
[state]
dir = "{dir}/state"
[hosted]
enabled = true
[[access.policy]]
name = "three"
[[access.policy.statement]]
effect = "allow"
actions = ["pull", "list"]
resources = ["repository/{one}/*", "repository/{two}/*", "repository/{three}/*"]
[[access.attach]]
user = "{USER}"
policies = ["three"]
[upstream."docker.io"]
endpoints = ["http://127.0.0.1:1"]
default = true
"#
    )
}

impl Program {
    /// Starts it.
    pub(crate) fn start(made: &Made) -> Self {
        let file = made.dir.join("roadstead.toml");
        fs::write(&file, configuration(made)).unwrap();
        let command = || {
            let mut command = Command::new(program());
            command.env("ROADSTEAD_LOG", "warn").current_dir(&made.dir);
            command
        };
        let added = made.dir.join("added");
        if !added.exists() {
            let mut adding = command()
                .args(["user", "add", USER, "--password-stdin", "--state-dir"])
                .arg(made.dir.join("state"))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut input = adding.stdin.take().unwrap();
            input.write_all(PASSWORD.as_bytes()).unwrap();
            drop(input);
            assert!(adding.wait().unwrap().success(), "the user is not added");
            fs::write(added, "").unwrap();
        }
        let before = Instant::now();
        let mut child = command()
            .args(["serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let ready = before.elapsed();
        let mut hosts = line.split("http://").skip(1).map(|it| {
            let end = it.find([' ', ')']).unwrap_or(it.len());
            it[..end].trim().to_owned()
        });
        let (client, admin) = (hosts.next().expect(&line), hosts.next().expect(&line));
        Self {
            child,
            ready,
            client,
            admin,
        }
    }

    /// An answer for a client, and how long it took.
    pub(crate) fn client(&self, path: &str) -> (Duration, String) {
        get(&self.client, path)
    }

    /// An answer of the admin listener.
    pub(crate) fn admin(&self, path: &str) -> (Duration, String) {
        get(&self.admin, path)
    }

    /// The most that was ever resident.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let mut words = peak.unwrap().split_whitespace();
        words.next().unwrap().parse().unwrap()
    }

    /// Ends it.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // After a failed check; it has ended otherwise.
        self.child.kill().ok();
    }
}

/// Asks over a connection of its own, whose making is not counted: one that is kept may be closed meanwhile.
fn get(host: &str, path: &str) -> (Duration, String) {
    let stream = TcpStream::connect(host).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    // The admin listener takes the credentials of operators alone, and none from this machine.
    let who = if path.starts_with("/v2/") {
        format!("Authorization: {BASIC}\r\n")
    } else {
        String::new()
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{who}\r\n");
    let before = Instant::now();
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).unwrap();
        assert!(read > 0, "{path}: {head}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).unwrap();
    let took = before.elapsed();
    let body = String::from_utf8(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}{body}");
    (took, body)
}
