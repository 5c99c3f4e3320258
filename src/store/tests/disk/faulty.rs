//! A disk that fails when it is told to, and knows what would be left of it without power.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;

/// The operations that fail.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// None: they are counted.
    Count,
    /// The n-th alone. A write is cut in half.
    Nth(usize, Errno),
    /// The n-th and all after it, until the disk is healed.
    From(usize, Errno),
    /// Before the n-th the power is lost: all fail from there on, and what is left is kept.
    PowerLoss(usize),
}

/// The part that is left when the power is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All that was made durable, names and bytes, and nothing else.
    Durable,
    /// All names and lengths as they were; of the bytes what was made durable, and zeros.
    Names,
    /// The same, but every other block of what was not made durable has reached the disk too.
    Torn,
    /// Everything: the process was killed and the system goes on.
    Everything,
}

impl Left {
    pub(super) const ALL: [Self; 4] = [Self::Durable, Self::Names, Self::Torn, Self::Everything];
}

#[derive(Debug)]
pub(super) struct FaultyDisk {
    plan: Mutex<(Plan, usize)>,
    seen: Mutex<BTreeMap<&'static str, usize>>,
    durable: Option<Mutex<Durable>>,
}

/// All that was made durable.
#[derive(Debug)]
struct Durable {
    root: PathBuf,
    /// The names in each directory, and the inodes that they stand for.
    names: HashMap<PathBuf, Vec<(PathBuf, u64)>>,
    /// The bytes of each inode. Each file is kept open, so that no other gets its number.
    bytes: HashMap<u64, (File, Vec<u8>)>,
    /// The directories that were left when the power was lost.
    left: Vec<(Left, TempDir)>,
}

impl FaultyDisk {
    pub(super) fn new(plan: Plan, root: &Path) -> Arc<Self> {
        let durable = matches!(plan, Plan::PowerLoss(_)).then(|| {
            Mutex::new(Durable {
                root: root.to_path_buf(),
                names: HashMap::new(),
                bytes: HashMap::new(),
                left: Vec::new(),
            })
        });
        Arc::new(Self {
            plan: Mutex::new((plan, 0)),
            seen: Mutex::default(),
            durable,
        })
    }

    /// From now on everything works.
    pub(super) fn heal(&self) {
        self.plan.lock().unwrap().0 = Plan::Count;
    }

    /// Number of operations.
    pub(super) fn count(&self) -> usize {
        self.plan.lock().unwrap().1
    }

    pub(super) fn has_power(&self) -> bool {
        let (plan, number) = *self.plan.lock().unwrap();
        !matches!(plan, Plan::PowerLoss(n) if n <= number)
    }

    /// And of which kinds.
    pub(super) fn kinds(&self) -> BTreeMap<&'static str, usize> {
        self.seen.lock().unwrap().clone()
    }

    /// The directories that were left when the power was lost; none if it was not.
    pub(super) fn left(&self) -> Vec<(Left, TempDir)> {
        let durable = self.durable.as_ref();
        durable.map_or_else(Vec::new, |durable| {
            std::mem::take(&mut durable.lock().unwrap().left)
        })
    }
}

impl Faults for FaultyDisk {
    fn before(&self, op: DiskOp, _path: &Path) -> Result<(), Fault> {
        let (plan, number) = {
            let mut plan = self.plan.lock().unwrap();
            plan.1 += 1;
            *plan
        };
        *self.seen.lock().unwrap().entry(op.label()).or_default() += 1;
        match plan {
            Plan::Nth(n, errno) if n == number => Err(Fault {
                error: errno.into(),
                written: 2000,
            }),
            Plan::From(n, errno) if n <= number => Err(io::Error::from(errno).into()),
            Plan::PowerLoss(n) if n <= number => {
                if n == number {
                    let mut durable = self.durable.as_ref().unwrap().lock().unwrap();
                    durable.lose_power();
                }
                Err(io::Error::from(Errno::IO).into())
            }
            Plan::Count | Plan::Nth(..) | Plan::From(..) | Plan::PowerLoss(_) => Ok(()),
        }
    }

    fn after(&self, op: DiskOp, path: &Path) {
        if let Some(durable) = &self.durable {
            let mut durable = durable.lock().unwrap();
            match op {
                DiskOp::Create | DiskOp::WriteIndex if path.is_file() => durable.see(path),
                DiskOp::Sync | DiskOp::SyncIndex => durable.sync(path),
                DiskOp::SyncDirectory => durable.sync_directory(path),
                DiskOp::Create
                | DiskOp::Read
                | DiskOp::Write
                | DiskOp::Truncate
                | DiskOp::Rename
                | DiskOp::Remove
                | DiskOp::ReadIndex
                | DiskOp::WriteIndex => {}
            }
        }
    }
}

impl Durable {
    fn see(&mut self, path: &Path) {
        let file = File::open(path).unwrap();
        let inode = file.metadata().unwrap().ino();
        self.bytes.entry(inode).or_insert((file, Vec::new()));
    }

    fn sync(&mut self, path: &Path) {
        self.see(path);
        let inode = std::fs::metadata(path).unwrap().ino();
        self.bytes.get_mut(&inode).unwrap().1 = std::fs::read(path).unwrap();
    }

    fn sync_directory(&mut self, path: &Path) {
        let names = names(path);
        self.names.insert(self.relative(path), names);
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap().to_path_buf()
    }

    fn lose_power(&mut self) {
        for left in Left::ALL {
            let dir = new_dir();
            self.leave(left, Path::new(""), dir.path());
            self.left.push((left, dir));
        }
    }

    fn leave(&self, left: Left, directory: &Path, to: &Path) {
        let names = match left {
            Left::Durable => self.names.get(directory).cloned().unwrap_or_default(),
            Left::Names | Left::Torn | Left::Everything => names(&self.root.join(directory)),
        };
        for (name, inode) in names {
            let path = directory.join(&name);
            let now = self.root.join(&path);
            if self.names.contains_key(&path) || now.is_dir() {
                std::fs::create_dir(to.join(&path)).unwrap();
                self.leave(left, &path, to);
                continue;
            }
            let durable = self.bytes.get(&inode).map(|(_, bytes)| bytes.clone());
            let mut bytes = durable.unwrap_or_default();
            if left != Left::Durable {
                let written = std::fs::read(&now).unwrap();
                bytes.resize(written.len(), 0);
                for (block, written) in written.chunks(4096).enumerate() {
                    let reached =
                        left == Left::Everything || (left == Left::Torn && block % 2 == 0);
                    if reached {
                        bytes[block * 4096..][..written.len()].copy_from_slice(written);
                    }
                }
            }
            std::fs::write(to.join(&path), bytes).unwrap();
        }
    }
}

fn names(path: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    entries
        .map(|entry| (entry.file_name().into(), entry.metadata().unwrap().ino()))
        .collect()
}
