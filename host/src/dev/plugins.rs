//! Loads the plugins of a folder into a host that was just started.

use std::path::{Path, PathBuf};

use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::plugins::{PluginSummary, PluginsList, SignedComponent};
use patchbay_cli::Client;
use patchbay_model::shell::word;

use super::demo::{self, Begun, Demo, Stage};
use super::postgres::Postgres;
use super::step;
use crate::dev_state::DevState;

/// What became of the plugins of a folder, one text per plugin.
#[derive(Default)]
pub(super) struct LoadedPlugins {
    pub(super) loaded: Vec<String>,
    /// Active, and not from the folder.
    pub(super) active_before: Vec<String>,
    /// With the reason, and what to do.
    pub(super) not_loaded: Vec<String>,
    /// What to print of the demos.
    pub(super) demos: Vec<String>,
    /// Their stand-ins run as long as this is held.
    begun: Vec<Begun>,
}

/// Into what plugins are loaded.
pub(super) struct Target<'a> {
    /// By a key of this process: the login of the configuration may open less.
    pub(super) client: &'a Client,
    /// The Postgres that this process has started.
    pub(super) own: Option<&'a Postgres>,
    /// Where the demos of plugins take place, if they are wanted.
    pub(super) stage: Option<Stage<'a>>,
}

/// Pushes and activates the newest packed file of each plugin folder. Tables that a plugin works on and
/// does not own, its folder may have as `tables.sql`: they are made in our own Postgres only.
pub(super) async fn load_all(
    dir: &Path,
    target: &Target<'_>,
    state: &mut DevState,
) -> LoadedPlugins {
    let mut plugins = LoadedPlugins::default();
    for folder in folders(dir) {
        let Some(file) = newest_component(&folder.join("dist")) else {
            if folder.join("plugin.toml").exists() {
                plugins.not_loaded.push(not_built(&folder));
            }
            continue;
        };
        let tables = folder.join("tables.sql");
        if let Some(postgres) = target.own.filter(|_| tables.exists())
            && let Err(error) = postgres.make_tables(&tables).await
        {
            plugins.not_loaded.push(refused(&file, &error));
            continue;
        }
        let begun = match begin_demo(&folder, target, state).await {
            Ok(begun) => begun,
            Err(error) => {
                plugins.not_loaded.push(demo_failed(&folder, &error));
                continue;
            }
        };
        let loaded = match load_plugin(&file, begun.as_ref(), target.client).await {
            Ok(loaded) => loaded,
            Err(error) => {
                plugins.not_loaded.push(refused(&file, &error));
                continue;
            }
        };
        if let (Some(begun), Some(stage)) = (begun, &target.stage) {
            match begun.finish(&loaded.plugin, stage).await {
                Ok(()) => plugins.demos.extend(begun.told(&loaded.plugin)),
                Err(error) => plugins.not_loaded.push(demo_failed(&folder, &error)),
            }
            plugins.begun.push(begun);
        }
        plugins.loaded.push(loaded.line);
    }
    plugins.active_before = active_before(target.client, &plugins.loaded).await;
    plugins
}

/// The folders of plugins, in order.
pub(super) fn folders(dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

/// The demo of a plugin, if demos are wanted and it has one, with its stand-ins running.
async fn begin_demo(
    folder: &Path,
    target: &Target<'_>,
    state: &mut DevState,
) -> anyhow::Result<Option<Begun>> {
    let Some(stage) = &target.stage else {
        return Ok(None);
    };
    match Demo::of(folder)? {
        Some(demo) => Ok(Some(demo.begin(folder, stage, state).await?)),
        None => Ok(None),
    }
}

/// The active plugins that are not among the lines `loaded`. Empty if the host does not say.
async fn active_before(client: &Client, loaded: &[String]) -> Vec<String> {
    let Ok(plugins) = client.ask::<PluginsList>((), NoQuery {}, NoBody).await else {
        return Vec::new();
    };
    let line = |known: &PluginSummary| {
        let digest = patchbay_cli::short(&known.digest);
        format!("{} {} ({digest})", known.name, known.version)
    };
    let active = plugins.data.iter().filter(|known| known.active);
    let is_new = |line: &String| loaded.iter().all(|each| !each.starts_with(line.as_str()));
    active.map(line).filter(is_new).collect()
}

fn not_built(folder: &Path) -> String {
    let folder = folder.display().to_string();
    let folder = word(&folder);
    format!(
        "{folder}: it is not built: there is no .wasm file in its folder dist. Build it with: patchbay plugin build {folder}"
    )
}

fn refused(file: &Path, error: &anyhow::Error) -> String {
    let file = file.display().to_string();
    let file = word(&file);
    format!(
        "{file}: {error:#}. When that is corrected: patchbay plugin push {file} --activate --grant"
    )
}

fn demo_failed(folder: &Path, error: &anyhow::Error) -> String {
    let file = folder.join(demo::FILE).display().to_string();
    format!("{}: {error:#}", word(&file))
}

fn newest_component(dist: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dist)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let components = entries.filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "wasm")
    });
    components.max_by_key(|path| {
        path.metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
    })
}

/// A plugin that is active now.
struct Loaded {
    plugin: String,
    line: String,
}

/// With a demo, the plugin is another file: its rules lead to stand-ins, and nobody has signed it.
async fn load_plugin(file: &Path, demo: Option<&Begun>, client: &Client) -> anyhow::Result<Loaded> {
    let built = std::fs::read(file)?;
    let name = file.display().to_string();
    let component = match demo {
        Some(demo) => demo.adapted(&built)?,
        None => built.clone(),
    };
    let signatures = match component == built {
        true => patchbay_cli::signatures_for(file, None)?,
        false => Vec::new(),
    };
    let file = SignedComponent {
        component,
        signatures,
        source: None,
    };
    let staged = step(&name, async { Ok(client.push(file).await?) })
        .await?
        .data;
    let (plugin, digest) = (staged.plugin, staged.digest.to_string());
    let none = NoQuery {};
    let plugins = client.ask::<PluginsList>((), none, NoBody).await?.data;
    // What is active already needs no activation, and no record of one; unless it lacks grants.
    let is_active = plugins
        .iter()
        .any(|known| known.name == plugin.as_str() && known.active && known.digest == digest);
    if !is_active || !staged.missing.is_empty() {
        client.activate(plugin.as_str(), &digest, true).await?;
    }
    let of_demo = match demo {
        Some(_) => ", with its demo",
        None => "",
    };
    Ok(Loaded {
        line: format!(
            "{plugin} {} ({}){of_demo}",
            staged.version,
            patchbay_cli::short(&digest)
        ),
        plugin: plugin.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_was_not_loaded_says_why_and_what_to_do() {
        assert_eq!(
            not_built(Path::new("my plugins/email")),
            "'my plugins/email': it is not built: there is no .wasm file in its folder dist. Build it with: \
             patchbay plugin build 'my plugins/email'"
        );
        let error = anyhow::anyhow!("its signature is missing");
        assert_eq!(
            refused(Path::new("email/dist/email.wasm"), &error),
            "email/dist/email.wasm: its signature is missing. When that is corrected: \
             patchbay plugin push email/dist/email.wasm --activate --grant"
        );
    }
}
