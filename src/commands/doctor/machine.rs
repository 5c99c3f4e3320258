//! `disk`, `state`, `descriptors`: what the service needs of this machine. Nothing is written.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Access, StatVfs, StatVfsMountFlags, access, statfs, statvfs};
use rustix::process::{Resource, geteuid, getrlimit};

use super::finding::Finding;
use super::process::{self, Program};
use crate::format::size;
use crate::store::{self, Amount};

/// A store of images has a file for each blob: some ten thousand are a small one.
const FILES_FREE_MIN: u64 = 20_000;
/// Write, search and read, for the owner.
const OWNER_MAY: u32 = 0o700;
/// Read, write or search, for others.
const OTHERS_MAY: u32 = 0o007;

/// File systems that are not a disk of this machine: magic number, name, and the trouble with each.
const ODD: &[(u64, &str, &str)] = &[
    (0x6969, "NFS", NETWORK),
    (0xff53_4d42, "CIFS", NETWORK),
    (0xfe53_4d42, "SMB", NETWORK),
    (0x517b, "SMB", NETWORK),
    (0x00c3_6400, "CephFS", NETWORK),
    (0x0bd0_0bd0, "Lustre", NETWORK),
    (0x0116_1970, "GFS2", NETWORK),
    (0x7461_636f, "OCFS2", NETWORK),
    (0x0102_1997, "9p", NETWORK),
    (0x6573_5546, "FUSE", NETWORK),
    (0x0102_1994, "tmpfs", MEMORY),
    (0x8584_58f6, "ramfs", MEMORY),
];
const NETWORK: &str = "locks and syncs are only as good as the server's, and each hit crosses the network: use a disk of this machine";
const MEMORY: &str = "the cache is in memory, and gone after a restart: use a disk";

/// A reason that a directory cannot be used by the service, and what to do.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// It cannot be.
    Fatal(String, String),
    /// This user cannot tell.
    Unknown(String, String),
}

impl Trouble {
    fn finding(self, id: &str) -> Finding {
        match self {
            Self::Fatal(summary, advice) => Finding::fail(id, summary, advice),
            Self::Unknown(summary, advice) => Finding::warn(id, summary, advice),
        }
    }
}

/// Checks the cache directory; `used`: what a server that runs says that it takes. Blocks.
pub(super) fn disk(cache: &store::Config, used: Option<u64>) -> Finding {
    let id = "disk";
    let dir = &cache.dir;
    let shown = dir.display();
    let (there, is_new) = match usable(dir, "cache.dir") {
        Ok(found) => found,
        Err(trouble) => return trouble.finding(id),
    };
    let space = match statvfs(there) {
        Ok(space) => space,
        Err(error) => {
            let advice = "see the mount of cache.dir";
            return Finding::fail(id, format!("{shown} cannot be measured: {error}"), advice);
        }
    };
    let used = used.or(is_new.then_some(0));
    if let Some(finding) = bounds(id, cache, &space, used) {
        return finding;
    }
    let kind = kind(there);
    if let Some((name, trouble)) = kind {
        return Finding::warn(id, format!("{shown} is on {name}"), trouble);
    }
    if let Some(other) = other_owner(dir) {
        let advice = format!("chown -R that of {shown}, and run roadstead as one user alone");
        return Finding::warn(id, other, advice);
    }
    let total = bytes(&space, space.f_blocks);
    let free = bytes(&space, space.f_bavail);
    let new = if is_new { ", made at the start" } else { "" };
    let summary = format!(
        "{shown}{new}: {} free of {}, max_size {}",
        size(free),
        size(total),
        size(cache.max_size.of(total))
    );
    Finding::ok(id, summary)
}

/// Room for what the configuration says.
fn bounds(id: &str, cache: &store::Config, space: &StatVfs, used: Option<u64>) -> Option<Finding> {
    let shown = cache.dir.display();
    let total = bytes(space, space.f_blocks);
    let free = bytes(space, space.f_bavail);
    let max = cache.max_size.of(total);
    let least = cache.min_free.of(total);
    if matches!(cache.max_size, Amount::Bytes(_)) && max > total {
        let summary = format!(
            "cache.max_size ({}) is more than the file system of {shown} has in all ({})",
            size(max),
            size(total)
        );
        let advice = "lower cache.max_size, or write it as a part: \"80%\"";
        return Some(Finding::fail(id, summary, advice));
    }
    // What the cache has can make room for something else.
    if used.unwrap_or_default().saturating_add(free) <= least {
        let summary = format!(
            "{} free at {shown}, and cache.min_free keeps {}: nothing more is stored",
            size(free),
            size(least)
        );
        let advice = "free space there (what else is on it?), or lower cache.min_free";
        return Some(Finding::fail(id, summary, advice));
    }
    if space.f_files > 0 && space.f_favail < FILES_FREE_MIN {
        let summary = format!(
            "{shown}: {} files can still be made (inodes)",
            space.f_favail
        );
        let advice = "remove small files there, or use a file system with more inodes (df -i)";
        return Some(match space.f_favail {
            0 => Finding::fail(id, summary, advice),
            _ => Finding::warn(id, summary, advice),
        });
    }
    let room = used?.saturating_add(free.saturating_sub(least));
    (room < max).then(|| {
        let summary = format!(
            "room for {} at {shown}, and cache.max_size is {}: other files take the rest",
            size(room),
            size(max)
        );
        let advice = "it works, with a smaller cache: lower cache.max_size, or free space there";
        Finding::warn(id, summary, advice)
    })
}

/// Checks the state directory. Blocks.
pub(super) fn state(dir: &Path, cache: &Path) -> Finding {
    let id = "state";
    let shown = dir.display();
    let is_new = match usable(dir, "state.dir") {
        Ok((_, is_new)) => is_new,
        Err(trouble) => return trouble.finding(id),
    };
    if is_new {
        return Finding::ok(id, format!("{shown}, made at the start"));
    }
    let Ok(about) = fs::metadata(dir) else {
        return Finding::skipped(id, format!("{shown} cannot be looked at"));
    };
    let mode = about.permissions().mode() & 0o7777;
    if mode & OTHERS_MAY != 0 {
        let summary = format!(
            "{shown} has mode {mode:04o}: everybody on this machine gets in, and keys are in it"
        );
        return Finding::warn(id, summary, format!("chmod o-rwx {shown}"));
    }
    if let Some(other) = other_owner(dir) {
        let advice = format!("chown -R that of {shown}, and run roadstead as one user alone");
        return Finding::warn(id, other, advice);
    }
    if let Ok(other) = fs::metadata(cache)
        && other.uid() != about.uid()
    {
        let summary = format!(
            "{shown} belongs to user {}, and {} to user {}",
            about.uid(),
            cache.display(),
            other.uid()
        );
        return Finding::warn(id, summary, "give both to the service's user");
    }
    Finding::ok(
        id,
        format!("{shown}, mode {mode:04o}, user {}", about.uid()),
    )
}

/// The directory itself or, where it is not there yet, the one that it would be made in; true for that.
fn usable<'a>(dir: &'a Path, key: &str) -> Result<(&'a Path, bool), Trouble> {
    let mut there = dir;
    let about = loop {
        match fs::metadata(there) {
            Ok(about) => break about,
            Err(error) if is_missing(&error) => match there.parent() {
                Some(above) if above.as_os_str().is_empty() => there = Path::new("."),
                Some(above) => there = above,
                None => return Err(unreachable(dir, &error)),
            },
            Err(error) => return Err(unreachable(dir, &error)),
        }
    };
    if !about.is_dir() {
        return Err(Trouble::Fatal(
            format!("{} is no directory", there.display()),
            format!("remove it, or set {key} to a directory"),
        ));
    }
    may_write(there, &about, key).map(|()| (there, there != dir))
}

/// True if nothing is there, or a file is in the way, which the look above then finds.
fn is_missing(error: &std::io::Error) -> bool {
    [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind())
}

fn unreachable(dir: &Path, error: &std::io::Error) -> Trouble {
    let summary = format!("{} cannot be looked at: {error}", dir.display());
    let advice = "run doctor as the service's user or as root";
    Trouble::Unknown(summary, advice.to_owned())
}

/// The service's user may write there: the directory's owner, where this is root.
fn may_write(dir: &Path, about: &Metadata, key: &str) -> Result<(), Trouble> {
    let shown = dir.display();
    let (me, owner) = (geteuid().as_raw(), about.uid());
    let mode = about.permissions().mode() & 0o7777;
    let flags = statvfs(dir).map(|it| it.f_flag);
    if flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::RDONLY)) {
        let advice =
            format!("mount it read-write (a container's volume: without :ro), or set {key}");
        return Err(Trouble::Fatal(
            format!("{shown} is on a file system that is read-only"),
            advice,
        ));
    }
    let is_owners = mode & OWNER_MAY == OWNER_MAY;
    let allowed = access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if (me == 0 && (owner == 0 || is_owners)) || (me != 0 && allowed) {
        return Ok(());
    }
    if me == 0 || me == owner {
        let summary = format!("{shown} has mode {mode:04o}: its user {owner} may not write there");
        return Err(Trouble::Fatal(summary, format!("chmod u+rwx {shown}")));
    }
    let summary = format!("{shown} belongs to user {owner}, and this is user {me}");
    let advice = format!(
        "run doctor as the service's user; if that is user {me}: chown it, or set {key} to a directory of its own"
    );
    Err(Trouble::Unknown(summary, advice))
}

/// An entry of a directory that belongs to somebody else than the directory: of a start as root, once.
fn other_owner(dir: &Path) -> Option<String> {
    let owner = fs::metadata(dir).ok()?.uid();
    let entries = fs::read_dir(dir).ok()?.flatten();
    let mut about = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.uid())));
    about.find(|(_, uid)| *uid != owner).map(|(path, uid)| {
        format!(
            "{} belongs to user {uid}, and its directory to user {owner}",
            path.display()
        )
    })
}

/// The kind of a file system, where it is an odd place for a cache.
fn kind(dir: &Path) -> Option<(&'static str, &'static str)> {
    let kind = statfs(dir).ok()?.f_type;
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "a magic number of 32 bits, which the kernel widens with or without its sign"
    )]
    let kind = u64::from(kind as u32);
    let odd = ODD.iter().find(|(magic, ..)| *magic == kind);
    odd.map(|(_, name, trouble)| (*name, *trouble))
}

fn bytes(space: &StatVfs, blocks: u64) -> u64 {
    blocks.saturating_mul(space.f_frsize)
}

/// Checks the limit on open files: that of the server, where it is seen, or else of this process.
pub(super) fn descriptors(connections: usize, server: Option<&Program>) -> Finding {
    let id = "descriptors";
    let of_server = server.and_then(process::open_files);
    let limit = of_server.or(getrlimit(Resource::Nofile).maximum);
    let whose = match (of_server, server) {
        (Some(_), Some(server)) => format!("of the server (process {})", server.pid),
        (_, _) => "of this shell".to_owned(),
    };
    descriptors_of(id, connections, limit, &whose)
}

fn descriptors_of(id: &str, connections: usize, limit: Option<u64>, whose: &str) -> Finding {
    let Some(limit) = limit else {
        return Finding::ok(id, format!("the limit {whose}: none"));
    };
    // Half of them are for clients, as the server has it.
    let served = limit / 2;
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX);
    if served >= wanted {
        let summary =
            format!("the limit {whose}: {limit}, enough for server.max_connections ({wanted})");
        return Finding::ok(id, summary);
    }
    let summary = format!(
        "the limit {whose} is {limit}: {served} clients at once, and server.max_connections is {wanted}"
    );
    let advice = format!(
        "raise it to {} (LimitNOFILE= in the unit, ulimit -Hn, --ulimit nofile of a container), or lower server.max_connections",
        wanted.saturating_mul(2)
    );
    Finding::warn(id, summary, advice)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;
    use crate::store::Config;

    fn cache(dir: &Path, max: Amount) -> Config {
        Config::of(dir.to_owned(), max)
    }

    #[test]
    fn a_directory_is_there_or_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let max = Amount::Percent(1);
        let there = disk(&cache(dir.path(), max), Some(0));
        // A temporary directory may be in memory, of which is warned.
        assert_ne!(there.status, Status::Fail, "{there:?}");
        let new = disk(&cache(&dir.path().join("a/b"), max), None);
        assert_ne!(new.status, Status::Fail, "{new:?}");
        let file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        for path in [file.path().to_owned(), file.path().join("below")] {
            let bad = disk(&cache(&path, max), None);
            assert_eq!(bad.status, Status::Fail, "{bad:?}");
        }
    }

    #[test]
    fn a_cache_larger_than_its_file_system_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let large = disk(&cache(dir.path(), Amount::Bytes(1 << 60)), None);
        assert_eq!(large.status, Status::Fail);
        assert!(large.summary.contains("cache.max_size"), "{large:?}");
        let mut kept = cache(dir.path(), Amount::Percent(50));
        kept.min_free = Amount::Percent(100);
        let full = disk(&kept, None);
        assert!(full.summary.contains("cache.min_free"), "{full:?}");
    }

    #[test]
    fn state_that_everybody_reads_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let set = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            state(dir.path(), dir.path())
        };
        assert_eq!(set(0o750).status, Status::Ok);
        let open = set(0o755);
        assert_eq!(open.status, Status::Warn);
        assert!(open.summary.contains("0755"), "{open:?}");
        let new = state(&dir.path().join("new"), dir.path());
        assert_eq!(new.status, Status::Ok, "{new:?}");
    }

    #[test]
    fn half_of_the_descriptors_are_for_clients() {
        let of = |limit| descriptors_of("descriptors", 8192, limit, "of this shell").status;
        assert_eq!(of(None), Status::Ok);
        assert_eq!(of(Some(16_384)), Status::Ok);
        assert_eq!(of(Some(1024)), Status::Warn);
    }
}
