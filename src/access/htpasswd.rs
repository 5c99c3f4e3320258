//! A file of users and the bcrypt hashes of their passwords, in the format of Apache's `htpasswd -B`. It is read again
//! when it changes; one that is broken then leaves the users as they were.

use crate::stamp::Stamp;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The largest file in bytes: some hundred thousand users.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The dearest hash that is taken: each step doubles what a login costs, and this one takes some seconds.
const COST_MAX: u32 = 15;

/// Salt and hash of a password that nobody knows.
const NOBODY: &str = "CwTycUXWue0Thq9StjUM0uJ8c1l8c1l8c1l8c1l8c1l8c1l8c1l8e";

/// The same, as hashes of the catalogue are.
const NOBODY_ARGON2: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The reason why a file cannot be used: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct HtpasswdError {
    path: PathBuf,
    why: String,
}

/// Users and hashes.
#[derive(Clone, Debug, Default)]
pub(super) struct Htpasswd {
    users: HashMap<String, String>,
    /// Of the content that was read. `None`: nothing was.
    stamp: Option<Stamp>,
}

impl Htpasswd {
    /// Reads a file. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or a line makes no sense.
    pub(super) fn read(path: &Path) -> Result<Self, HtpasswdError> {
        let wrong = |why: String| HtpasswdError {
            path: path.to_owned(),
            why,
        };
        let read = || -> io::Result<(String, Stamp)> {
            let file = fs::File::open(path)?;
            let stamp = Stamp::of(&file.metadata()?);
            let mut text = String::new();
            file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
            Ok((text, stamp))
        };
        let (text, stamp) = read().map_err(|error| wrong(format!("cannot read it: {error}")))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!("has more than {FILE_BYTES_MAX} bytes")));
        }
        let users = parse(&text).map_err(wrong)?;
        let stamp = Some(stamp);
        Ok(Self { users, stamp })
    }

    /// True if the file has other content than was read. A file that is not there for the moment has not changed: some
    /// editors replace it in two steps.
    pub(super) fn has_changed(&self, path: &Path) -> bool {
        Stamp::look(path).is_some_and(|now| self.stamp != Some(now))
    }

    /// The hash of a user's password.
    pub(super) fn hash_of(&self, user: &str) -> Option<&str> {
        self.users.get(user).map(String::as_str)
    }

    /// All users, sorted.
    pub(super) fn users(&self) -> Vec<String> {
        let mut users: Vec<String> = self.users.keys().cloned().collect();
        users.sort();
        users
    }

    /// The hash for a user that there is not: as dear as others are, and right for no password.
    pub(super) fn hash_of_nobody(&self) -> String {
        let cost = |hash: &String| hash.get(4..6)?.parse::<u32>().ok();
        let cost = self.users.values().filter_map(cost).max();
        match cost {
            Some(cost) => format!("$2b${cost:02}${NOBODY}"),
            // All users are those of the catalogue then.
            None => NOBODY_ARGON2.to_owned(),
        }
    }

    /// Takes a file that cannot be used for read, so that it is not told of again before it changes.
    pub(super) fn skip(&mut self, path: &Path) {
        if let Some(now) = Stamp::look(path) {
            self.stamp = Some(now);
        }
    }
}

/// Reads the lines. What is wrong is told with the number of its line, never with a hash.
fn parse(text: &str) -> Result<HashMap<String, String>, String> {
    let mut users = HashMap::new();
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(':').filter(|(user, _)| !user.is_empty());
        let Some((user, hash)) = entry else {
            return Err(format!("line {number}: must be user:hash"));
        };
        check(hash).map_err(|why| format!("line {number}: user {user:?}: {why}"))?;
        if users.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(format!("line {number}: user {user:?} is there twice"));
        }
    }
    Ok(users)
}

fn check(hash: &str) -> Result<(), String> {
    let is_bcrypt = ["$2y$", "$2b$", "$2a$", "$2x$"]
        .iter()
        .any(|beginning| hash.starts_with(beginning));
    let parts: Vec<&str> = hash.split('$').collect();
    let cost = parts.get(2).and_then(|cost| cost.parse::<u32>().ok());
    match cost {
        Some(cost) if is_bcrypt && hash.len() == 60 && cost <= COST_MAX => Ok(()),
        Some(cost) if is_bcrypt && hash.len() == 60 => Err(format!(
            "the cost of its hash is {cost}, more than {COST_MAX}: each login would take many seconds"
        )),
        _ => Err("its hash is not bcrypt: make it with `htpasswd -B`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    #[test]
    fn lines_are_users() {
        let text = format!("# people\n\nalice:{HASH}\r\nbob:{HASH}\n");
        let users = parse(&text).expect("users");
        assert_eq!(users.len(), 2);
        assert_eq!(users.get("alice").map(String::as_str), Some(HASH));
    }

    #[test]
    fn nobody_has_a_hash_that_is_as_dear() {
        let users = parse(&format!("a:{HASH}")).expect("users");
        let nobody = Htpasswd { users, stamp: None }.hash_of_nobody();
        assert!(nobody.starts_with("$2b$05$"), "{nobody}");
        assert_eq!(bcrypt::verify("", &nobody).ok(), Some(false));
        let nobody = Htpasswd::default().hash_of_nobody();
        argon2::password_hash::phc::PasswordHash::new(&nobody).expect("a hash that can be checked");
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_without_the_hash() {
        let table = [
            ("alice", "line 1: must be user:hash"),
            (":x", "line 1: must be user:hash"),
            (
                "\na:$apr1$abc$def",
                "line 2: user \"a\": its hash is not bcrypt",
            ),
            ("a:{SHA}xyz=", "line 1: user \"a\": its hash is not bcrypt"),
            ("a:plain", "line 1: user \"a\": its hash is not bcrypt"),
        ];
        for (text, expected) in table {
            let why = parse(text).expect_err(text);
            assert!(why.starts_with(expected), "{why}");
            assert!(!why.contains("xyz") && !why.contains("def") && !why.contains("plain"));
        }
        let twice = format!("a:{HASH}\na:{HASH}");
        assert!(parse(&twice).expect_err("twice").contains("line 2"));
        let dear = format!("a:{}", HASH.replace("$05$", "$16$"));
        assert!(parse(&dear).expect_err("dear").contains("cost"));
    }
}
