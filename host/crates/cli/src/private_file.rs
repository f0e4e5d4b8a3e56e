//! Files that only their owner can read.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Only the owner can read the file. It is written completely or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::remove_file(&temporary).ok();
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary);
    let mut file = opened.with_context(|| format!("cannot write {}", temporary.display()))?;
    file.write_all(content)?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}
