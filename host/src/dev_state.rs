//! The state of `patchbay dev` between runs, which commands on the same machine read:
//! `.patchbay/dev.json`, readable only by its owner.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Context;
use patchbay_cli::Connection;
pub(crate) use patchbay_cli::write_private;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DevState {
    #[serde(skip)]
    pub(crate) dir: PathBuf,
    /// There was no state: data that is stored elsewhere belongs to a directory that was deleted.
    #[serde(skip)]
    pub(crate) is_new: bool,
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// Password of the private Postgres and Redis.
    pub(crate) service_password: String,
    pub(crate) redis_port: Option<u16>,
    pub(crate) mail_dir: PathBuf,
    /// Ports of stand-ins, by their names: what refers to one stays right.
    #[serde(default)]
    pub(crate) stand_in_ports: BTreeMap<String, u16>,
    /// Values that its host gets besides the environment: where Postgres, Redis and mail are.
    #[serde(default)]
    pub(crate) given: BTreeMap<String, String>,
    /// Configuration variables of the environment in which its host was started.
    #[serde(default)]
    pub(crate) inherited: BTreeMap<String, String>,
    /// The configuration file of its host.
    #[serde(default)]
    pub(crate) config_file: Option<PathBuf>,
}

impl DevState {
    /// The variables with which its host was started.
    pub(crate) fn variables(&self) -> HashMap<String, String> {
        let all = self.inherited.iter().chain(&self.given);
        all.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// Reads the state of an earlier run, or creates a new one.
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
            stand_in_ports: BTreeMap::new(),
            given: BTreeMap::new(),
            inherited: BTreeMap::new(),
            config_file: None,
            dir,
        };
        state.save()?;
        Ok(state)
    }

    /// Held while `patchbay dev` runs here: a second one would share and stop its servers.
    pub(crate) fn lock(&self) -> anyhow::Result<std::fs::File> {
        let file = std::fs::File::create(self.dir.join("lock"))?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => anyhow::anyhow!(
                "`patchbay dev` runs already in {}: {}; stop that one first, or give another directory with --dir",
                self.dir.display(),
                self.url
            ),
            std::fs::TryLockError::Error(error) => error.into(),
        })?;
        Ok(file)
    }

    /// The development host of this directory or a parent directory, while it runs.
    pub(crate) fn running() -> Option<Self> {
        Self::find().filter(Self::is_running)
    }

    /// Whether a process holds the lock that [`Self::lock`] takes.
    fn is_running(&self) -> bool {
        let lock = std::fs::File::open(self.dir.join("lock"));
        lock.is_ok_and(|file| {
            matches!(
                file.try_lock_shared(),
                Err(std::fs::TryLockError::WouldBlock)
            )
        })
    }

    fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("dev.json")).ok()?;
        let state: Self = serde_json::from_str(&text).ok()?;
        Some(Self {
            dir: dir.to_owned(),
            ..state
        })
    }

    /// The state of the development host in this directory or a parent directory.
    pub(crate) fn find() -> Option<Self> {
        let here = std::env::current_dir().ok()?;
        // A host without an address has never started.
        let known = here
            .ancestors()
            .find_map(|dir| Self::read(&dir.join(".patchbay")));
        known.filter(|state| !state.url.is_empty())
    }

    pub(crate) fn connection(self) -> Connection {
        Connection {
            url: self.url,
            user: self.user,
            password: self.password,
        }
    }

    /// The file of the vault's master key, created at the first start. Without this key the secrets
    /// in the database cannot be read.
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

fn random() -> String {
    hex::encode(rand::random::<[u8; 12]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_the_version_before_is_read_and_only_a_held_lock_means_that_it_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = r#"{"url":"http://127.0.0.1:1","user":"u","password":"p","service_password":"s","redis_port":null,"mail_dir":"m"}"#;
        std::fs::write(dir.path().join("dev.json"), old).expect("written");
        let state = DevState::open(dir.path()).expect("a state");
        assert!(state.inherited.is_empty() && state.config_file.is_none());
        assert!(!state.is_running());
        let lock = state.lock().expect("the lock");
        assert!(state.is_running());
        drop(lock);
        assert!(!state.is_running());
    }
}
