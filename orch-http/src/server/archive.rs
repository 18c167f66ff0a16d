//! Files of lines that are carried to where they are read: bounded in size, for this user alone.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};
use orch::{Error, Result};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of a file after which the next one is begun.
const FILE_BYTES: usize = 32 << 20;
/// Files that are kept besides the one that is written to; they are called `.1` and so on.
const KEPT: usize = 7;

/// A file of lines. Cheap to clone; all clones write to the same one.
#[derive(Clone)]
pub(super) struct Archive(Arc<Mutex<FileRotate<AppendCount>>>);

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Archive")
    }
}

impl Archive {
    /// A file in a directory that is made if it is not there.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Self> {
        let failed = |cause: io::Error| {
            Error::unavailable("the directory of telemetry cannot be written to")
                .with("path", directory.display())
                .caused_by(cause)
        };
        if !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        // What rotates the files does not say that it cannot.
        options.open(&path).map_err(failed)?;
        let (suffix, limit) = (AppendCount::new(KEPT), ContentLimit::BytesSurpassed(FILE_BYTES));
        let file = FileRotate::new(path, suffix, limit, Compression::None, Some(options));
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    fn lock(&self) -> MutexGuard<'_, FileRotate<AppendCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

impl MakeWriter<'_> for Archive {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn lines_go_on_after_a_restart_in_bounded_files_that_nobody_else_reads() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("told");
        let line = [vec![b'x'; (1 << 20) - 1], vec![b'\n']].concat();
        for _ in 0..2 {
            let mut archive = Archive::open(&directory, "logs.ndjson").unwrap();
            (0..200).for_each(|_| archive.write_all(&line).unwrap());
        }
        let mut sizes = Vec::new();
        for file in std::fs::read_dir(&directory).unwrap() {
            let meta = file.unwrap().metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o600);
            sizes.push(meta.len());
        }
        assert_eq!(sizes.len(), 1 + KEPT);
        // Whole lines, and no more than the bound and a line.
        assert!(sizes.iter().all(|size| size % (1 << 20) == 0 && *size <= (FILE_BYTES + (1 << 20)) as u64));
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
