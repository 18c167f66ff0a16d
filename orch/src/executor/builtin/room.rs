//! A directory that functions cannot leave.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::Failure;
use crate::digest::Digest;

/// A directory opened as a capability: paths are resolved below it by the operating system, symbolic links included.
pub(super) struct Room {
    directory: Dir,
}

impl Room {
    /// Opens a directory that is there.
    pub(super) fn open(directory: &Path) -> Result<Self, Failure> {
        Dir::open_ambient_dir(directory, ambient_authority())
            .map(|directory| Self { directory })
            .map_err(|error| file_failure(directory, &error))
    }

    /// Opens a directory, making it first if it is not there.
    pub(super) fn create(directory: &Path) -> Result<Self, Failure> {
        Dir::create_ambient_dir_all(directory, ambient_authority())
            .map_err(|error| file_failure(directory, &error))?;
        Self::open(directory)
    }

    /// A directory of this one, made if it is not there, as a room of its own.
    pub(super) fn below(&self, name: &str) -> Result<Self, Failure> {
        let failed = |error| file_failure(Path::new(name), &error);
        match self.directory.create_dir(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        self.directory.open_dir(name).map(|directory| Self { directory }).map_err(failed)
    }

    /// All bytes of a regular file.
    pub(super) fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, Failure> {
        let path = inside(path)?;
        let failed = |error| file_failure(&path, &error);
        // Opening a pipe or a device could block or worse, so the kind is looked at first.
        if !self.directory.metadata(&path).map_err(failed)?.is_file() {
            return Err(Failure::fatal("not_a_file", format!("{} is not a regular file", path.display())));
        }
        let mut bytes = Vec::new();
        let file = self.directory.open(&path).map_err(failed)?;
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > bytes_max {
            let message = format!("{} is larger than {bytes_max} bytes", path.display());
            return Err(Failure::fatal("too_large", message));
        }
        Ok(bytes)
    }

    /// Writes a whole file, named by a path from [`inside`]: a reader sees the old one or the new one. Makes the
    /// directories above it.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], attempt: &str) -> Result<(), Failure> {
        let failed = |error| file_failure(path, &error);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            // Opened first, because making it would only say that something is there when a link leads outside.
            match self.directory.open_dir(parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.directory.create_dir_all(parent)
                }
                other => other.map(drop),
            }
            .map_err(failed)?;
        }
        if self.directory.metadata(path).is_ok_and(|found| found.is_dir()) {
            return Err(Failure::fatal("not_a_file", format!("{} is a directory", path.display())));
        }
        // The same attempt takes the same name again, so an interrupted one leaves at most one file behind.
        let unique = Digest::of_parts(&[attempt.as_bytes(), path.as_os_str().as_encoded_bytes()]).to_string();
        let temporary = parent.unwrap_or(Path::new("")).join(format!(".orch-{}.tmp", &unique[..16]));
        self.replace(&temporary, path, bytes).map_err(|error| {
            // What matters is said by the first error.
            let _ = self.directory.remove_file(&temporary);
            failed(error)
        })
    }

    fn replace(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.directory.create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.directory.rename(temporary, &self.directory, path)
    }
}

/// A relative path without `..`, in its plain spelling.
pub(super) fn inside(path: &str) -> Result<PathBuf, Failure> {
    let outside = |why| Failure::fatal("path_outside_root", format!("{path:?} {why}"));
    let mut plain = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(outside("holds `..`; name a path below the root")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(outside("is absolute; name a path below the root"));
            }
        }
    }
    if plain.as_os_str().is_empty() || path.contains('\0') {
        return Err(Failure::fatal("invalid_input", format!("path: {path:?} names no file")));
    }
    Ok(plain)
}

fn file_failure(path: &Path, error: &io::Error) -> Failure {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        // cap-std's own refusal carries no error number; the operating system's does.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
            Failure::fatal("path_outside_root", message)
        }
        io::ErrorKind::NotFound => Failure::fatal("file_not_found", message),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Failure::fatal("permission_denied", message)
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Failure::fatal("not_a_file", message),
        _ => Failure::retryable("file_error", message),
    }
}
