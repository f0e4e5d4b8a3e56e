//! How a plugin is built: the section `[build]` of plugin.toml. The section stays with the sources
//! and is not in the packed manifest.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// Without a command, cargo builds a folder that has a Cargo.toml.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// Command that `sh` runs in the plugin's folder.
    #[serde(default)]
    pub command: Option<String>,
    /// The component that the build makes, relative to the plugin's folder.
    #[serde(default)]
    pub component: Option<PathBuf>,
    /// Files and folders that `patchbay dev --watch` watches, relative to the plugin's folder;
    /// default: that folder.
    #[serde(default)]
    pub watch: Vec<PathBuf>,
    /// Interfaces that the generated world exports; default: `jobs` if the manifest names queues,
    /// `operations` if it names routes or no queues, `webhooks` if it names webhooks.
    #[serde(default)]
    pub exports: Vec<Export>,
}

/// An interface of the contract that a plugin exports and the host calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Export {
    Jobs,
    /// Operations: routes of the manifest and operators, with `patchbay plugin call`, call them.
    Operations,
    /// Requests to the webhooks that the manifest names.
    Webhooks,
    /// The self-test at staging.
    Lifecycle,
}

impl Export {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Operations => "operations",
            Self::Webhooks => "webhooks",
            Self::Lifecycle => "lifecycle",
        }
    }
}

impl BuildSpec {
    /// Takes the section out of a whole plugin.toml. The error is the wrong key, and why.
    pub(crate) fn take_from(manifest: &mut Value) -> Result<Self, (String, String)> {
        let section = manifest
            .as_object_mut()
            .and_then(|manifest| manifest.remove("build"));
        let Some(section) = section else {
            return Ok(Self::default());
        };
        let spec: Self = serde_json::from_value(section)
            .map_err(|error| ("build".to_owned(), error.to_string()))?;
        match (&spec.command, &spec.component) {
            (Some(_), None) => Err((
                "build.component".into(),
                "is missing: name the file that build.command makes".into(),
            )),
            (None, Some(_)) => Err((
                "build.command".into(),
                "is missing: name the command that makes the component".into(),
            )),
            _ => Ok(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, ManifestError};

    const MANIFEST: &str = "name = \"hello\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n";

    fn read(section: &str) -> Result<(Manifest, BuildSpec), ManifestError> {
        Manifest::with_build_from_toml(&format!("{MANIFEST}[build]\n{section}"), |_| {
            Err("no file".into())
        })
    }

    #[test]
    fn how_it_is_built_is_not_part_of_what_is_packed() {
        let (manifest, build) =
            read("command = \"make\"\ncomponent = \"out/hello.wasm\"\nwatch = [\"src\"]")
                .expect("valid");
        assert_eq!(build.command.as_deref(), Some("make"));
        assert_eq!(
            manifest,
            Manifest::from_toml(MANIFEST, |_| Err("no file".into())).expect("valid")
        );
        let packed = r#"{"format":1,"name":"hello","version":"1.0.0","wit":"0.1","build":{"command":"make"}}"#;
        let refused = Manifest::from_packed(packed.as_bytes())
            .expect_err("a host runs no commands of others");
        assert!(refused.to_string().contains("build"), "{refused}");
    }

    #[test]
    fn a_half_or_mistyped_section_is_refused_and_named() {
        for (section, named) in [
            ("command = \"make\"", "build.component"),
            ("component = \"a\"", "build.command"),
            ("comand = 1", "comand"),
        ] {
            let refused = read(section).expect_err(section).to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
