//! The snapshot: what this host last saw in Postgres, on disk, so that it can start while Postgres
//! is away. It holds the active plugins with their grants, their component files, and the sealed
//! secrets.
//!
//! It contains grants, so a MAC under the key of the compilation cache binds it to this
//! installation. Component files need no MAC, since a digest names exactly one file. A file that is
//! wrong in any way counts as missing.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::RevisionDigest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use tracing::warn;

/// Hexadecimal digits of a SHA-256.
const MAC_DIGITS: usize = 64;
/// Enough to tell installations apart.
const NAME_DIGITS: usize = 16;

#[derive(Debug, Clone)]
pub struct OfflineSnapshot {
    dir: PathBuf,
    key: [u8; 32],
}

impl OfflineSnapshot {
    /// The directory is within the cache directory, which hosts of several installations may share.
    /// `installation` tells them apart.
    pub fn new(cache_dir: &Path, key: [u8; 32], installation: &str) -> Self {
        // Hashed with the key, since `installation` names a database, perhaps with its password.
        let name = hex::encode(
            mac(&key, "directory", installation.as_bytes())
                .finalize()
                .into_bytes(),
        );
        Self {
            dir: cache_dir.join("active").join(&name[..NAME_DIGITS]),
            key,
        }
    }

    /// Reads what was last saved under this name.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let file = std::fs::read(self.dir.join(name)).ok()?;
        let (found, text) = file.split_at_checked(MAC_DIGITS)?;
        if !hex::decode(found)
            .is_ok_and(|found| mac(&self.key, name, text).verify_slice(&found).is_ok())
        {
            warn!(
                name,
                "a snapshot on disk belongs to another installation and is not used"
            );
            return None;
        }
        serde_json::from_slice(text)
            .inspect_err(|error| warn!(name, %error, "a snapshot on disk cannot be read"))
            .ok()
    }

    /// Replaces what was saved under this name.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) {
        let text = serde_json::to_vec(value).unwrap_or_default();
        let mut file =
            hex::encode(mac(&self.key, name, &text).finalize().into_bytes()).into_bytes();
        file.extend(text);
        self.write(&self.dir.join(name), &file);
    }

    fn component_path(&self, digest: &RevisionDigest) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Reads a component file. `None` if it is missing or damaged.
    pub fn component(&self, digest: &RevisionDigest) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.component_path(digest)).ok()?;
        (RevisionDigest::of(&bytes) == *digest).then_some(bytes)
    }

    pub fn has_component(&self, digest: &RevisionDigest) -> bool {
        self.component_path(digest).exists()
    }

    pub fn keep_component(&self, digest: &RevisionDigest, component: &[u8]) {
        if !self.has_component(digest) {
            self.write(&self.component_path(digest), component);
        }
    }

    /// Deletes the other component files.
    pub fn keep_only(&self, wanted: &[RevisionDigest]) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_component = path
                .extension()
                .is_some_and(|extension| extension == "wasm");
            let digest = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<RevisionDigest>().ok());
            if is_component && digest.is_some_and(|digest| !wanted.contains(&digest)) {
                std::fs::remove_file(path).ok();
            }
        }
    }

    /// Writes the whole file or nothing. A failure only prevents a start without Postgres.
    fn write(&self, path: &Path, bytes: &[u8]) {
        let write = || -> std::io::Result<()> {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        if let Err(error) = write() {
            warn!(path = %path.display(), %error, "cannot keep a snapshot: this host cannot start while Postgres is away");
        }
    }
}

fn mac(key: &[u8; 32], name: &str, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    for part in [b"patchbay local copy".as_slice(), name.as_bytes()] {
        mac.update(part);
        mac.update(b"\0");
    }
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(dir: &Path) -> OfflineSnapshot {
        OfflineSnapshot::new(dir, [7; 32], "postgres://here/patchbay")
    }

    #[test]
    fn what_was_saved_is_loaded_with_its_files_and_only_those() {
        let dir = tempfile::tempdir().expect("a directory");
        let copy = copy(dir.path());
        let (old, new) = (RevisionDigest::of(b"old"), RevisionDigest::of(b"new"));
        copy.keep_component(&old, b"old");
        copy.keep_component(&new, b"new");
        copy.keep_only(&[new]);
        copy.save("plugins", &vec![new]);
        assert_eq!(copy.load::<Vec<RevisionDigest>>("plugins"), Some(vec![new]));
        assert_eq!(
            (copy.component(&new), copy.component(&old)),
            (Some(b"new".to_vec()), None)
        );
    }

    #[test]
    fn a_file_that_somebody_changed_or_took_from_elsewhere_is_as_if_it_were_not_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let copy = copy(dir.path());
        let digest = RevisionDigest::of(b"file");
        copy.keep_component(&digest, b"file");
        copy.save("plugins", &"smtp");
        let file = std::fs::read_to_string(copy.dir.join("plugins")).expect("a file");
        std::fs::write(copy.dir.join("secrets"), &file).expect("written");
        for (name, content) in [
            ("plugins", file.replace("smtp", "kv")),
            ("secrets", file),
            ("short", "short".to_owned()),
        ] {
            std::fs::write(copy.dir.join(name), content).expect("written");
            assert_eq!(copy.load::<String>(name), None, "{name}");
        }
        std::fs::write(copy.component_path(&digest), b"other").expect("written");
        assert_eq!(copy.component(&digest), None);
    }

    #[test]
    fn installations_that_share_a_cache_directory_do_not_see_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        copy(dir.path()).save("plugins", &1);
        assert_eq!(
            OfflineSnapshot::new(dir.path(), [7; 32], "postgres://there/patchbay")
                .load::<u8>("plugins"),
            None
        );
    }
}
