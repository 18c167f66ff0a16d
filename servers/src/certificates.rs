//! Certificates for servers and clients that speak TLS.

use std::path::{Path, PathBuf};

/// A file of `servers/fixtures` (PEM; `make.sh` there makes them). `ca.pem` vouches for `server.pem` and `client.pem`, of
/// localhost and 127.0.0.1, which hold their keys as well; `other-ca.pem` does for `stranger.pem`; `client.key` holds the
/// client's key alone.
///
/// # Panics
/// When there is no such file.
#[must_use]
pub fn certificate(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    assert!(file.is_file(), "there is no certificate {name}");
    file
}
