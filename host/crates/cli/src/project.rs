//! The sources of a plugin, as its plugin.toml describes them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use patchbay_model::build::BuildSpec;
use patchbay_model::manifest::Manifest;

/// A directory with a plugin.toml.
pub struct Project {
    pub(super) dir: PathBuf,
    pub manifest: Manifest,
    pub build: BuildSpec,
}

impl Project {
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("plugin.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let read_file =
            |name: &str| std::fs::read_to_string(dir.join(name)).map_err(|error| error.to_string());
        let (manifest, build) = Manifest::with_build_from_toml(&text, read_file)
            .with_context(|| path.display().to_string())?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            build,
        })
    }
}
