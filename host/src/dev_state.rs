//! What `patchbay dev` remembers between runs, and what commands on the same machine read: `.patchbay/dev.json`, for its owner only.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use patchbay_cli::Connection;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DevState {
    #[serde(skip)]
    pub(crate) dir: PathBuf,
    /// Nothing was there: data that is kept elsewhere belongs to a directory that was deleted.
    #[serde(skip)]
    pub(crate) is_new: bool,
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// Of the private Postgres and Redis.
    pub(crate) service_password: String,
    pub(crate) redis_port: Option<u16>,
    pub(crate) mail_dir: PathBuf,
    /// What its host was given beside the environment: where Postgres, Redis and mail are.
    #[serde(default)]
    pub(crate) given: BTreeMap<String, String>,
}

impl DevState {
    /// Reads what an earlier run left, or begins anew.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        if let Some(known) = Self::read(&dir) {
            return Ok(known);
        }
        let state = Self {
            is_new: true,
            url: String::new(),
            user: "operator".into(),
            password: random(),
            service_password: random(),
            redis_port: None,
            mail_dir: dir.join("mail"),
            given: BTreeMap::new(),
            dir,
        };
        state.save()?;
        Ok(state)
    }

    /// Held as long as `patchbay dev` runs here: a second one would share its servers, and take them along when it ends.
    pub(crate) fn lock(&self) -> anyhow::Result<std::fs::File> {
        let file = std::fs::File::create(self.dir.join("lock"))?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => anyhow::anyhow!(
                "`patchbay dev` runs already in {}: {}; end that one first, or give another directory with --dir",
                self.dir.display(),
                self.url
            ),
            std::fs::TryLockError::Error(error) => error.into(),
        })?;
        Ok(file)
    }

    fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("dev.json")).ok()?;
        let state: Self = serde_json::from_str(&text).ok()?;
        Some(Self { dir: dir.to_owned(), ..state })
    }

    /// Of the development host in this directory or one above.
    pub(crate) fn find() -> Option<Self> {
        let here = std::env::current_dir().ok()?;
        // Without an address it has never come up.
        let known = here.ancestors().find_map(|dir| Self::read(&dir.join(".patchbay")));
        known.filter(|state| !state.url.is_empty())
    }

    /// For commands on this machine.
    pub(crate) fn connection(self) -> Connection {
        Connection { url: self.url, user: self.user, password: self.password }
    }

    /// The master key of the vault, made at the first start. Without it the secrets in the database cannot be read.
    pub(crate) fn master_key_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.join("secrets.key");
        if !path.exists() {
            write_private(&path, hex::encode(rand::random::<[u8; 32]>()).as_bytes())?;
        }
        Ok(path)
    }

    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let path = self.dir.join("dev.json");
        write_private(&path, serde_json::to_string_pretty(self)?.as_bytes())
    }
}

/// For its owner's eyes, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::remove_file(&temporary).ok();
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = opened.with_context(|| format!("cannot write {}", temporary.display()))?;
    file.write_all(content)?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}

fn random() -> String {
    hex::encode(rand::random::<[u8; 12]>())
}
