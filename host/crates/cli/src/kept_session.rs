//! Sessions that `patchbay login` keeps: one file per host, in the user's configuration directory, which
//! only the user can read.

use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::private_file::write_private;

/// A session of an operator on a host.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KeptSession {
    /// Address of the host, without credentials.
    pub(super) url: String,
    /// Name of the operator.
    pub(super) name: String,
    /// `NAME=VALUE` of the cookie: whoever has it is the operator.
    pub(super) cookie: String,
    pub(super) ends_at: DateTime<Utc>,
}

impl KeptSession {
    /// The session on this host, unless it is over.
    pub(super) fn of(url: &str) -> Option<Self> {
        let text = std::fs::read_to_string(file(url)?).ok()?;
        let kept: Self = serde_json::from_str(&text).ok()?;
        (kept.url == url && kept.ends_at > Utc::now()).then_some(kept)
    }

    pub(super) fn keep(&self) -> anyhow::Result<PathBuf> {
        let file = file(&self.url).context(
            "no directory for the session: set HOME or XDG_CONFIG_HOME, or use a token (PATCHBAY_TOKEN)",
        )?;
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let text = Zeroizing::new(serde_json::to_string(self)?);
        write_private(&file, text.as_bytes())?;
        Ok(file)
    }

    pub(super) fn forget(url: &str) {
        if let Some(file) = file(url) {
            std::fs::remove_file(file).ok();
        }
    }
}

fn file(url: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")))?;
    Some(base.join("patchbay/sessions").join(file_name(url)))
}

/// Readable, and different for different addresses.
fn file_name(url: &str) -> String {
    let mut name = String::new();
    for byte in url.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => name.push(char::from(byte)),
            other => name.push_str(&format!("_{other:02x}")),
        }
    }
    name.truncate(200);
    name + ".json"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_a_file_of_its_own_in_the_same_directory() {
        let names = [
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8081",
            "https://ops.example",
            "https://ops.example/../x",
        ]
        .map(file_name);
        let distinct: std::collections::HashSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| !name.contains('/')), "{names:?}");
    }
}
