use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, bail};

/// The key that binds cached machine code to this installation. It is created once, and only its
/// owner can read the file.
pub(crate) fn cache_key(cache_dir: &Path) -> anyhow::Result<[u8; 32]> {
    let path = cache_dir.join("key");
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(cache_dir);
    made.with_context(|| format!("cannot make the cache directory {}", cache_dir.display()))?;
    // Two processes may start at once: the first to link its complete file wins, both read that.
    let mut fresh = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .tempfile_in(cache_dir)
        .with_context(|| format!("cannot write to {}", cache_dir.display()))?;
    fresh.write_all(&rand::random::<[u8; 32]>())?;
    fresh.as_file().sync_all()?;
    if let Err(error) = fresh.persist_noclobber(&path)
        && error.error.kind() != std::io::ErrorKind::AlreadyExists
    {
        bail!("cannot write {}: {}", path.display(), error.error);
    }
    let key = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    <[u8; 32]>::try_from(key.as_slice()).map_err(|_| {
        anyhow::anyhow!(
            "{} is damaged. Delete it: the cache is then rebuilt",
            path.display()
        )
    })
}
