//! Compiled code on disk, tied to its component by a keyed MAC. A file that somebody else wrote, or
//! that belongs to another component or engine, is a cache miss.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::RevisionDigest;
use sha2::Sha256;

use crate::RuntimeError;

const MAC_BYTES: usize = 32;

pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; 32],
    /// Engine settings and version that the code is tied to.
    engine: Vec<u8>,
}

impl Cache {
    pub(crate) fn open(dir: &Path, key: [u8; 32], engine: Vec<u8>) -> Result<Self, RuntimeError> {
        let io = |source| RuntimeError::Io {
            what: "cannot use the cache directory",
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io)?;
        let metadata = fs::metadata(dir).map_err(io)?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || metadata.mode() & 0o022 != 0 {
            return Err(io(std::io::Error::other(
                "another user owns it or may write to it: make the host's user its owner and set its mode to 0700",
            )));
        }
        Ok(Self {
            dir: dir.to_owned(),
            key,
            engine,
        })
    }

    fn path(&self, digest: &RevisionDigest) -> PathBuf {
        self.dir.join(format!("{digest}.cwasm"))
    }

    fn mac(&self, digest: &RevisionDigest, code: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).expect("HMAC takes any key");
        mac.update(digest.as_bytes());
        mac.update(&(self.engine.len() as u64).to_be_bytes());
        mac.update(&self.engine);
        mac.update(&(code.len() as u64).to_be_bytes());
        mac.update(code);
        mac
    }

    /// The cached code, if this installation wrote the file and it is complete.
    pub(crate) fn get(&self, digest: &RevisionDigest) -> Option<Vec<u8>> {
        let mut file = fs::read(self.path(digest)).ok()?;
        let code = file.split_off(MAC_BYTES.min(file.len()));
        let genuine = self.mac(digest, &code).verify_slice(&file).is_ok();
        if !genuine {
            tracing::warn!(revision = %digest, "Cached code does not match its revision and is compiled again");
        }
        genuine.then_some(code)
    }

    /// Writes the file completely or not at all. A failure only makes the next start slower.
    pub(crate) fn put(&self, digest: &RevisionDigest, code: &[u8]) {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(&self.mac(digest, code).finalize().into_bytes())?;
            file.write_all(code)?;
            file.as_file().sync_all()?;
            file.persist(self.path(digest))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "Compiled code could not be cached; the next start compiles it again");
        }
    }
}
