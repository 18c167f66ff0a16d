//! Whether anybody has written, told from outside: by the log beside the file, without a query.
//!
//! Every commit of any process appends to the log (`-wal`) or writes it anew from its beginning (SQLite, "WAL-mode File
//! Format", section 2.1). Its length and the time of its last change tell one state from another, except for two changes
//! within one tick of the file system's clock. So a log that was changed just now has no stamp.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Longer than a tick of any file system's clock: NFS and FAT aside, on which a log cannot be shared anyway.
const SETTLED: Duration = Duration::from_secs(1);

/// The stamp of the database at `path`. Only names are looked at: opening and closing the file itself would give up the
/// locks that this process holds on it.
pub(super) fn of(path: &Path) -> Option<u64> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let mut hasher = DefaultHasher::new();
    for file in [path, Path::new(&log)] {
        let (length, changed) = settled(&std::fs::metadata(file).ok()?)?;
        (length, changed).hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// Length and time of the last change, unless that was just now, or in the future of a clock that was set back.
fn settled(metadata: &Metadata) -> Option<(u64, SystemTime)> {
    let changed = metadata.modified().ok()?;
    (changed.elapsed().ok()? > SETTLED).then_some((metadata.len(), changed))
}
