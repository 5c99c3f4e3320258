//! Other programs of this machine, as `/proc` shows them. What this user may not see is as if it were not there.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The state of a socket that listens (`TCP_LISTEN`).
const LISTENS: &str = "0A";
/// Units of a process's start time: `USER_HZ`, which is 100 on every architecture of Linux in use.
const TICKS_PER_SECOND: u64 = 100;

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// The program that listens at an address, or at its port on all addresses.
pub(super) fn listener(address: SocketAddr) -> Option<Program> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        inode_of(&text, address.port())
    })?;
    let link = format!("socket:[{inode}]");
    let pid = pids().find(|pid| holds(*pid, &link))?;
    Some(Program {
        pid,
        name: name_of(pid)?,
    })
}

/// The first program of this name.
pub(super) fn named(name: &str) -> Option<Program> {
    let pid = pids().find(|pid| name_of(*pid).as_deref() == Some(name))?;
    Some(Program {
        pid,
        name: name.to_owned(),
    })
}

/// The time at which it was started.
pub(super) fn started(program: &Program) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", program.pid)).ok()?;
    let all = fs::read_to_string("/proc/stat").ok()?;
    let boot = all.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: u64 = boot.trim().parse().ok()?;
    let since = Duration::from_secs(ticks_of(&stat)? / TICKS_PER_SECOND);
    Some(UNIX_EPOCH + Duration::from_secs(boot) + since)
}

/// The limit on open files of a program, if it has one: the one that it may raise itself to.
pub(super) fn open_files(program: &Program) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", program.pid)).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The inode of the socket that listens at a port, in a table of `/proc/net`.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?;
        (state == LISTENS && local.ends_with(&port)).then(|| inode.parse().ok())?
    })
}

/// The time of the start in `/proc/PID/stat`, in ticks since the boot. The name before it may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn name_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}

fn holds(pid: u32, link: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_of_a_port_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1388 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
             1: 00000000:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n";
        assert_eq!(inode_of(table, 5000), Some(4242));
        assert_eq!(inode_of(table, 5001), None);
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listener(held.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(open_files(&found).is_none_or(|limit| limit > 0));
    }

    #[test]
    fn the_start_of_a_program_is_read_behind_its_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4321 20";
        assert_eq!(ticks_of(stat), Some(4321));
        let own = Program {
            pid: std::process::id(),
            name: String::new(),
        };
        assert!(started(&own).is_some());
    }
}
