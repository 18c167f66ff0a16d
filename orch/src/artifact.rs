//! Bytes kept outside the ledger, named by their content.
//!
//! A blob lies at `TENANT/HH/HASH`, where `HASH` is the SHA-256 of its bytes and `HH` its first two digits. Every part
//! is a checked type, so no path can be made that leaves its tenant.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::ledger::ArtifactRef;

/// The blobs of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    /// The directory, when the blobs are files: their modes are set there.
    root: Option<Arc<Path>>,
    bytes_max: u64,
}

impl Artifacts {
    /// The largest blob unless [`Artifacts::with_bytes_max`] says otherwise: 256 MiB.
    pub const BYTES_MAX: u64 = 256 << 20;

    /// Blobs in memory; gone with the last clone.
    #[must_use]
    pub fn memory() -> Self {
        Self { store: Arc::new(InMemory::new()), root: None, bytes_max: Self::BYTES_MAX }
    }

    /// Blobs as files below `directory`, which is made if it is not there. Every file, and every directory made
    /// here, is for its owner only (0600, 0700); a file is on disk before [`put`](Self::put) returns.
    ///
    /// # Errors
    /// `Unavailable` when the directory cannot be made or read.
    pub fn local(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let failed = |cause: io::Error| {
            Error::unavailable("artifact directory cannot be used")
                .with("path", directory.display())
                .with("reason", &cause)
                .during("artifact.local")
                .caused_by(cause)
        };
        make_private_directory(directory).map_err(failed)?;
        let root = directory.canonicalize().map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|e| failed(io::Error::other(e)))?;
        Ok(Self {
            store: Arc::new(store.with_fsync(true)),
            root: Some(root.into()),
            bytes_max: Self::BYTES_MAX,
        })
    }

    /// Refuses blobs of more than `bytes_max` bytes.
    #[must_use]
    pub fn with_bytes_max(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    /// The blobs of one tenant: what a step is handed.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> TenantArtifacts {
        TenantArtifacts { artifacts: self.clone(), tenant: tenant.clone() }
    }

    /// Keeps `bytes` and says how to find them. The same bytes are one blob, however often they are put;
    /// putting them again heals a damaged copy. A reader sees all of the bytes or none.
    ///
    /// # Errors
    /// `LimitExceeded` over the largest blob; `Unavailable` when they cannot be written.
    pub async fn put(
        &self,
        tenant: &TenantId,
        media_type: impl Into<String>,
        name: Option<String>,
        bytes: impl Into<Bytes>,
    ) -> Result<ArtifactRef> {
        let (bytes, media_type) = (bytes.into(), media_type.into());
        let size = bytes.len() as u64;
        self.check_size(size, "artifact.put")?;
        let hash = Digest::of(&bytes);
        let place = Place::new(tenant, &hash);
        let failed = |cause| unavailable("artifact.put", &hash, cause);
        if let Some(root) = &self.root {
            make_private_directory(&root.join(&place.directory)).map_err(|cause| failed(cause.into()))?;
        }
        self.store.put(&place.path(), bytes.into()).await.map_err(|cause| failed(cause.into()))?;
        if let Some(root) = &self.root {
            make_private_file(&root.join(&place.directory).join(&place.file))
                .map_err(|cause| failed(cause.into()))?;
        }
        Ok(ArtifactRef { hash, media_type, name, size })
    }

    /// The bytes whose digest is `hash`.
    ///
    /// # Errors
    /// `NotFound` when the tenant has none; `Corrupt` when what is stored has another digest;
    /// `LimitExceeded` over the largest blob; `Unavailable` when it cannot be read.
    pub async fn get(&self, tenant: &TenantId, hash: &Digest) -> Result<Bytes> {
        let found = self.store.get(&Place::new(tenant, hash).path()).await.map_err(|cause| match cause {
            object_store::Error::NotFound { .. } => {
                Error::not_found("no such artifact").with("hash", hash).during("artifact.get")
            }
            other => unavailable("artifact.get", hash, other.into()),
        })?;
        self.check_size(found.meta.size, "artifact.get")?;
        let bytes = found.bytes().await.map_err(|cause| unavailable("artifact.get", hash, cause.into()))?;
        let actual = Digest::of(&bytes);
        if actual != *hash {
            return Err(Error::corrupt("artifact does not have the digest it is named by")
                .with("hash", hash)
                .with("actual", actual)
                .during("artifact.get"));
        }
        Ok(bytes)
    }

    fn check_size(&self, size: u64, operation: &'static str) -> Result<()> {
        if size <= self.bytes_max {
            return Ok(());
        }
        Err(Error::limit_exceeded("artifact is too large")
            .with("bytes", size)
            .with("limit", self.bytes_max)
            .during(operation))
    }
}

impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifacts").field("store", &self.store.to_string()).finish_non_exhaustive()
    }
}

/// The blobs of one tenant; nobody else's can be reached through it (invariant T1).
#[derive(Clone, Debug)]
pub struct TenantArtifacts {
    artifacts: Artifacts,
    tenant: TenantId,
}

impl TenantArtifacts {
    /// [`Artifacts::put`] for this tenant.
    ///
    /// # Errors
    /// As [`Artifacts::put`].
    pub async fn put(
        &self,
        media_type: impl Into<String>,
        name: Option<String>,
        bytes: impl Into<Bytes>,
    ) -> Result<ArtifactRef> {
        self.artifacts.put(&self.tenant, media_type, name, bytes).await
    }

    /// [`Artifacts::get`] for this tenant.
    ///
    /// # Errors
    /// As [`Artifacts::get`].
    pub async fn get(&self, hash: &Digest) -> Result<Bytes> {
        self.artifacts.get(&self.tenant, hash).await
    }
}

/// Where a blob lies.
struct Place {
    directory: String,
    file: String,
}

impl Place {
    fn new(tenant: &TenantId, hash: &Digest) -> Self {
        let file = hash.to_string();
        Self { directory: format!("{tenant}/{}", &file[..2]), file }
    }

    fn path(&self) -> object_store::path::Path {
        object_store::path::Path::from(format!("{}/{}", self.directory, self.file))
    }
}

fn unavailable(
    operation: &'static str,
    hash: &Digest,
    cause: Box<dyn std::error::Error + Send + Sync>,
) -> Error {
    let (full, reason) = (is_full(&*cause), cause.to_string());
    let error = match full {
        true => Error::unavailable("disk of the artifacts is full; make room and try again"),
        false => Error::unavailable("artifact store cannot be used").with("reason", reason),
    };
    error.with("hash", hash).during(operation).caused_by(cause)
}

/// Whether there is no room left, as the system says somewhere below.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    })
}

/// Modes are a matter of Unix; elsewhere a directory inherits its owner's access rules.
fn make_private_directory(directory: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

#[cfg(unix)]
fn make_private_file(file: &Path) -> io::Result<()> {
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(not(unix))]
fn make_private_file(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    async fn keeps_and_gives_back(artifacts: Artifacts) {
        let a = artifacts.of(&tenant("a"));
        let first = a.put("text/plain", Some("greeting".into()), "hello").await.unwrap();
        let again = a.put("text/plain", Some("greeting".into()), "hello").await.unwrap();
        assert_eq!(first, again);
        assert_eq!((first.size, first.hash), (5, Digest::of("hello")));
        assert_eq!(a.get(&first.hash).await.unwrap(), "hello");
        let empty = a.put("text/plain", None, Bytes::new()).await.unwrap();
        assert_eq!(a.get(&empty.hash).await.unwrap(), "");
    }

    #[tokio::test]
    async fn what_was_put_comes_back_from_memory_and_from_disk() {
        keeps_and_gives_back(Artifacts::memory()).await;
        let directory = tempfile::tempdir().unwrap();
        keeps_and_gives_back(Artifacts::local(directory.path().join("new/blobs")).unwrap()).await;
    }

    #[tokio::test]
    async fn t1_another_tenants_blob_is_not_found() {
        let artifacts = Artifacts::memory();
        let made = artifacts.of(&tenant("a")).put("text/plain", None, "mine").await.unwrap();
        let refused = artifacts.of(&tenant("b")).get(&made.hash).await.unwrap_err();
        let absent = artifacts.of(&tenant("b")).get(&Digest::of("nobody's")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert_eq!((refused.kind(), refused.message()), (absent.kind(), absent.message()));
    }

    #[tokio::test]
    async fn a_changed_byte_is_corrupt_and_putting_it_again_heals_it() {
        let directory = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::local(directory.path()).unwrap().of(&tenant("a"));
        let made = artifacts.put("text/plain", None, "hello").await.unwrap();
        let hex = made.hash.to_string();
        let file = directory.path().join("a").join(&hex[..2]).join(&hex);
        std::fs::write(&file, "hellp").unwrap();
        assert_eq!(artifacts.get(&made.hash).await.unwrap_err().kind(), ErrorKind::Corrupt);
        artifacts.put("text/plain", None, "hello").await.unwrap();
        assert_eq!(artifacts.get(&made.hash).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_blob_over_the_limit_is_refused_both_ways() {
        let artifacts = Artifacts::memory();
        let made = artifacts.of(&tenant("a")).put("text/plain", None, "hello").await.unwrap();
        let small = artifacts.with_bytes_max(4).of(&tenant("a"));
        assert_eq!(small.get(&made.hash).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
        let refused = small.put("text/plain", None, "world").await.unwrap_err();
        assert_eq!(refused.to_string(), "artifact is too large bytes=`5` limit=`4`");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn files_and_directories_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::local(directory.path().join("blobs")).unwrap().of(&tenant("a"));
        let hex = artifacts.put("text/plain", None, "hello").await.unwrap().hash.to_string();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let blobs = directory.path().join("blobs");
        assert_eq!(mode(&blobs), 0o700);
        assert_eq!(mode(&blobs.join("a").join(&hex[..2])), 0o700);
        assert_eq!(mode(&blobs.join("a").join(&hex[..2]).join(&hex)), 0o600);
    }

    #[test]
    fn a_full_disk_is_said_so_and_everything_else_with_its_reason() {
        let said = |source: io::Error| {
            let cause = object_store::Error::Generic { store: "LocalFileSystem", source: source.into() };
            let error = unavailable("artifact.put", &Digest::ZERO, cause.into());
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            error.to_string()
        };
        let full = said(io::ErrorKind::StorageFull.into());
        assert!(full.contains("disk of the artifacts is full; make room and try again"), "{full}");
        let broken = said(io::Error::other("controller on fire"));
        assert!(broken.contains("cannot be used") && broken.contains("controller on fire"), "{broken}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Artifacts::local(file.path().join("x")).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
