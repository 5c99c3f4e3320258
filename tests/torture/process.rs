//! The real program.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Client, Samples, WAIT_MAX, within};

/// What it logs when index and files were not the same. After a kill they are.
pub const DISAGREED: &str = "the index did not agree with them";

pub struct Process {
    child: Child,
    addresses: Option<(Client, Client)>,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts it in `dir`, with its store in `dir/cache`.
    pub fn serve(dir: &Path, upstream: &str, max_size: &str) -> Self {
        Self::serve_with(dir, upstream, max_size, "")
    }

    /// Starts it with more tables in its configuration.
    pub fn serve_with(dir: &Path, upstream: &str, max_size: &str, more: &str) -> Self {
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndrain_timeout = \"10s\"\n\
             [cache]\ndir = \"{}\"\nmax_size = \"{max_size}\"\nmin_free = \"0B\"\n\
             [upstream.\"docker.io\"]\nendpoints = [\"{upstream}\"]\ndefault = true\n\
             parallel = 3\nparallel_above = \"4MiB\"\nsegment_size = \"2MiB\"\n\
             [state]\ndir = \"{}\"\n{more}",
            dir.join("cache").display(),
            dir.join("state").display(),
        );
        std::fs::write(dir.join("roadstead.toml"), config).unwrap();
        let program = std::env::var_os("TORTURE_PROGRAM");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_roadstead").into());
        let mut child = Command::new(program)
            .arg("serve")
            .current_dir(dir)
            .env("HOME", dir)
            .env("ROADSTEAD_LOG", "info,roadstead::access=off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (errors, written) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self {
            child,
            addresses: None,
            log,
            reader: Some(reader),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) {
        let mut output = BufReader::new(self.child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        let reading = tokio::task::spawn_blocking(move || {
            std::thread::spawn(move || {
                let mut line = String::new();
                output.read_line(&mut line).unwrap();
                sender.send(line).ok();
                // Kept open, so that it can always write.
                output.read_to_string(&mut String::new()).ok();
            });
            receiver.recv_timeout(WAIT_MAX)
        });
        let line = reading.await.unwrap().expect("no ready line");
        let parse = |line: &str| {
            let rest = line.strip_prefix("listening on http://")?;
            let (address, admin) = rest.trim_end().split_once(" (admin http://")?;
            let admin = admin.strip_suffix(')')?;
            Some((Client(address.parse().ok()?), Client(admin.parse().ok()?)))
        };
        let addresses = parse(&line);
        assert!(addresses.is_some(), "{line:?}\n{}", self.log());
        self.addresses = addresses;
    }

    pub fn client(&self) -> Client {
        self.addresses.unwrap().0
    }

    pub fn admin(&self) -> Client {
        self.addresses.unwrap().1
    }

    pub async fn metrics(&self) -> Samples {
        self.try_metrics().await.expect("no metrics")
    }

    pub async fn try_metrics(&self) -> Option<Samples> {
        let answer = self.addresses?.1.get("/metrics").await;
        (answer.status == 200).then(|| Samples::parse(&answer.text()))
    }

    /// How many blobs, and bytes of blobs and partial files, it opened its store with.
    pub async fn opened(&self) -> (u64, u64) {
        let line = within("the line about the store", async {
            loop {
                // It is written before the ready line, and read by another thread.
                let log = self.log();
                if let Some(line) = log.lines().find(|line| line.contains("store is open")) {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let number = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}="))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        number("blobs")
            .zip(number("bytes"))
            .unwrap_or_else(|| panic!("{line}"))
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Kills it, if it still lives.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.wait(), 0, "{}", self.log());
    }

    /// Exit code and log of one that does not start.
    pub fn fails(&mut self) -> (i32, String) {
        let code = self.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (code, self.log())
    }

    fn wait(&mut self) -> i32 {
        // There is no event for a child's end in std.
        for _ in 0..3000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("ended by a signal");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
