//! The WIT world of one plugin, made from its plugin.toml: it imports what the manifest asks for.
//! Toolchains for JavaScript and Python keep every import of the world that they bind, so a world
//! with the whole contract would ask for everything.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use patchbay_model::build::BuildSpec;
use patchbay_model::manifest::Manifest;
use serde_json::json;

use super::Output;
use super::project::Project;

const V0_1: &str = include_str!("../../../../wit/v0.1/plugin.wit");
const V0_2: &str = include_str!("../../../../wit/v0.2/plugin.wit");
/// First line of generated files; only files that begin with it are overwritten.
const MARK: &str = "// Written by `patchbay plugin build` from plugin.toml. Do not edit.\n";

#[derive(Args)]
pub struct WriteWorld {
    /// Directory with plugin.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Replace a wit/world.wit that was written by hand
    #[arg(long)]
    force: bool,
}

/// The directory `wit` of a plugin: a WIT package of its own, next to the contract.
pub(crate) struct World {
    dir: PathBuf,
    text: String,
    contract: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    New,
    Unchanged,
    /// The file was written by hand and stays unchanged.
    ByHand,
}

pub(super) fn write(args: &WriteWorld, output: Output) -> anyhow::Result<()> {
    let project = Project::read(&args.dir)?;
    let world = World::of(&project);
    let file = world.file();
    let state = match world.write(args.force)? {
        Written::ByHand => {
            bail!(
                "{} was written by hand: replace it with --force, or move it out of the way",
                file.display()
            )
        }
        Written::New => "written",
        Written::Unchanged => "unchanged",
    };
    let text = format!(
        "{state}: {}, world plugin\n{}",
        file.display(),
        world.summary()
    );
    output.value(
        &text,
        &json!({ "file": file, "world": "plugin", "state": state, "text": world.text }),
    );
    Ok(())
}

impl World {
    pub(super) fn of(project: &Project) -> Self {
        let manifest = &project.manifest;
        let contract = if manifest.wit == "0.2" { V0_2 } else { V0_1 };
        Self {
            dir: project.dir.join("wit"),
            text: text(manifest, &project.build, version(contract)),
            contract,
        }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.dir.join("world.wit")
    }

    /// Whether the file exists and was generated.
    pub(super) fn is_generated(&self) -> bool {
        std::fs::read_to_string(self.file()).is_ok_and(|text| text.starts_with(MARK))
    }

    /// Files with the right content are not written, because a new modification time would start
    /// another build.
    pub(super) fn write(&self, force: bool) -> anyhow::Result<Written> {
        if self.file().exists() && !self.is_generated() && !force {
            return Ok(Written::ByHand);
        }
        let contract = format!("{MARK}{}", self.contract);
        let deps = self.dir.join("deps/patchbay-plugin/plugin.wit");
        let world = write_changed(&self.file(), &self.text)?;
        let contract = write_changed(&deps, &contract)?;
        Ok(if world || contract {
            Written::New
        } else {
            Written::Unchanged
        })
    }

    fn summary(&self) -> String {
        self.text
            .lines()
            .filter(|line| line.starts_with("  "))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Returns whether the file had to be written.
fn write_changed(file: &Path, text: &str) -> anyhow::Result<bool> {
    if std::fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    let parent = file.parent().context("a file in a folder")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
}

/// The version in the package line of the contract.
fn version(contract: &str) -> &str {
    let line = contract
        .lines()
        .find_map(|line| line.strip_prefix("package patchbay:plugin@"));
    line.map_or("0.1.0", |version| version.trim_end_matches(';'))
}

fn text(manifest: &Manifest, build: &BuildSpec, version: &str) -> String {
    let interface = |name: &str| format!("patchbay:plugin/{name}@{version};\n");
    let mut text = format!(
        "{MARK}package plugin:{};\n\nworld plugin {{\n",
        package_name(manifest.name.as_str())
    );
    // `types` has no functions; interfaces that need it import it themselves.
    for import in manifest
        .asked_interfaces()
        .into_iter()
        .filter(|&name| name != "types")
    {
        text += &format!("  import {}", interface(import));
    }
    for export in manifest.exports(build) {
        text += &format!("  export {}", interface(export.as_str()));
    }
    text + "}\n"
}

/// In WIT, each word of a name must begin with a letter, so `2fa` and `tier-1` are not allowed.
fn package_name(plugin: &str) -> String {
    let word = |word: &str| match word.starts_with(|first: char| first.is_ascii_digit()) {
        true => format!("n{word}"),
        false => word.to_owned(),
    };
    plugin
        .split('-')
        .filter(|part| !part.is_empty())
        .map(word)
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(dir: &Path, more: &str) -> Project {
        let head = "name = \"two-2fa\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n";
        std::fs::write(dir.join("plugin.toml"), format!("{head}{more}")).expect("written");
        Project::read(dir).expect("valid")
    }

    #[test]
    fn a_world_imports_what_the_manifest_asks_for_and_exports_what_the_host_calls() {
        let dir = tempfile::tempdir().expect("a folder");
        let world = World::of(&project(dir.path(), "[kv]\n[[queues]]\nname = \"q\"\n"));
        let expected = "package plugin:two-n2fa;\n\nworld plugin {\n  import patchbay:plugin/flows@0.1.1;\n  \
                        import patchbay:plugin/kv@0.1.1;\n  import patchbay:plugin/log@0.1.1;\n  \
                        import patchbay:plugin/progress@0.1.1;\n  import patchbay:plugin/settings@0.1.1;\n  \
                        export patchbay:plugin/jobs@0.1.1;\n}\n";
        assert_eq!(world.text.strip_prefix(MARK), Some(expected));
        // Without queues the world exports `operations`, for calls by operators; a list in [build]
        // overrides this.
        assert!(
            World::of(&project(dir.path(), ""))
                .text
                .contains("export patchbay:plugin/operations@0.1.1")
        );
        let answering = "[[queues]]\nname = \"q\"\n[[routes]]\nmethod = \"GET\"\npath = \"/api/a\"\nroles = [\"user\"]\noperation = \"a\"\n\
                         [[webhooks]]\nname = \"w\"\npath = \"/api/w\"\nqueue = \"q\"\n";
        let world = World::of(&project(dir.path(), answering));
        for export in ["jobs", "operations", "webhooks"] {
            assert!(
                world
                    .text
                    .contains(&format!("export patchbay:plugin/{export}@0.1.1")),
                "{}",
                world.text
            );
        }
        world.write(false).expect("written");
        let resolved = wit_parser::Resolve::default().push_dir(dir.path().join("wit"));
        resolved.expect("what toolchains read");
        let both = "[build]\nexports = [\"jobs\", \"lifecycle\"]\n[[queues]]\nname = \"q\"\n";
        let text = World::of(&project(dir.path(), both)).text;
        assert!(
            text.contains("plugin/jobs@") && text.contains("plugin/lifecycle@"),
            "{text}"
        );
    }

    #[test]
    fn a_world_is_written_once_and_one_of_a_hand_is_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let world = World::of(&project(dir.path(), "[[queues]]\nname = \"q\"\n"));
        assert!(world.write(false).expect("written") == Written::New);
        assert!(world.write(false).expect("written") == Written::Unchanged);
        let resolved = wit_parser::Resolve::default().push_dir(dir.path().join("wit"));
        resolved.expect("what toolchains read");
        std::fs::write(world.file(), "package my:own;\n").expect("written");
        assert!(world.write(false).expect("left") == Written::ByHand);
        assert_eq!(
            std::fs::read_to_string(world.file()).expect("there"),
            "package my:own;\n"
        );
        assert!(world.write(true).expect("replaced") == Written::New);
    }
}
