//! `patchbay dev --watch`: builds, pushes and activates saved plugins, one build at a time.
//!
//! If a build fails or a file is refused, the running revision stays. Nothing here stops the host.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use patchbay_api::plugins::SignedComponent;
use patchbay_cli::{Client, Project, short};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Editors write several files for one save.
const QUIET: Duration = Duration::from_millis(100);
/// Folders that builds write.
const OUTPUTS: [&str; 5] = ["target", "dist", "build", "node_modules", "__pycache__"];

/// Folders with a plugin.toml each, and what has changed in them.
pub(super) struct Watch {
    projects: Vec<Watched>,
    changes: UnboundedReceiver<PathBuf>,
    _watcher: RecommendedWatcher,
}

struct Watched {
    /// As it was given, for messages.
    dir: PathBuf,
    /// Absolute paths of the folder, and of the other sources that its build reads.
    roots: Vec<PathBuf>,
}

impl Watch {
    /// Watches the plugins in `folder` and those in `more`. Fails for a folder of `more` without a
    /// plugin.toml, and when there is no plugin at all.
    pub(super) fn begin(folder: &Path, more: Vec<PathBuf>) -> anyhow::Result<Self> {
        let entries = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let mut dirs: Vec<PathBuf> = entries
            .filter(|dir| dir.join("plugin.toml").exists())
            .chain(more)
            .collect();
        dirs.sort();
        dirs.dedup_by_key(|dir| dir.canonicalize().ok());
        if dirs.is_empty() {
            bail!(
                "nothing to watch: no folder in {} has a plugin.toml; name one after --watch",
                folder.display()
            );
        }
        let (changed, changes) = unbounded_channel();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let event = event.unwrap_or_default();
                if is_change(event.kind) {
                    event
                        .paths
                        .into_iter()
                        .for_each(|path| drop(changed.send(path)));
                }
            })?;
        let projects = dirs
            .into_iter()
            .map(Watched::of)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let roots = || projects.iter().flat_map(|watched| &watched.roots);
        // For a file, its folder is watched: editors replace the file by a new one. Folders come
        // later in the list, because the last mode counts.
        let folders_of_files = roots()
            .filter(|root| root.is_file())
            .filter_map(|file| file.parent());
        let folders = roots().filter(|root| root.is_dir()).map(PathBuf::as_path);
        let all = folders_of_files
            .map(|dir| (dir, RecursiveMode::NonRecursive))
            .chain(folders.map(|dir| (dir, RecursiveMode::Recursive)));
        for (dir, mode) in all {
            watcher
                .watch(dir, mode)
                .with_context(|| format!("cannot watch {}", dir.display()))?;
        }
        Ok(Self {
            projects,
            changes,
            _watcher: watcher,
        })
    }

    /// Builds each plugin once, and then after each change. Never returns by itself.
    pub(super) async fn run(mut self, client: Client) {
        let mut due: BTreeSet<usize> = (0..self.projects.len()).collect();
        loop {
            if due.is_empty() {
                let Some(path) = self.changes.recv().await else {
                    return;
                };
                due.extend(self.affected_by(&path));
            }
            while let Ok(Some(path)) = tokio::time::timeout(QUIET, self.changes.recv()).await {
                due.extend(self.affected_by(&path));
            }
            if let Some(next) = due.pop_first() {
                self.projects[next].replace(&client).await;
            }
        }
    }

    fn affected_by(&self, path: &Path) -> Vec<usize> {
        let affected = |watched: &Watched| watched.roots.iter().any(|root| is_source(path, root));
        self.projects
            .iter()
            .enumerate()
            .filter(|(_, watched)| affected(watched))
            .map(|(at, _)| at)
            .collect()
    }
}

impl Watched {
    fn of(dir: PathBuf) -> anyhow::Result<Self> {
        let project = Project::read(&dir)?;
        let more: &[PathBuf] = &project.build.watch;
        // plugin.toml itself always counts.
        let named = if more.is_empty() {
            vec![PathBuf::new()]
        } else {
            [&[PathBuf::from("plugin.toml")], more].concat()
        };
        let absolute = |path: PathBuf| {
            let path = dir.join(path);
            path.canonicalize()
                .with_context(|| format!("cannot watch {}", path.display()))
        };
        let roots = named
            .into_iter()
            .map(absolute)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { dir, roots })
    }

    async fn replace(&self, client: &Client) {
        let began = Instant::now();
        let name = self.dir.display();
        eprintln!("{name}: building…");
        match self.build_and_swap(client).await {
            Ok(line) => eprintln!("{name}: {line}"),
            Err(error) => {
                let seconds = began.elapsed().as_secs_f64();
                eprintln!(
                    "{name}: not replaced after {seconds:.1} s; the previous revision keeps running: {error:#}"
                );
            }
        }
    }

    async fn build_and_swap(&self, client: &Client) -> anyhow::Result<String> {
        let began = Instant::now();
        let project = Project::read(&self.dir)?;
        let packed = project.pack(&project.build().await?, None)?;
        let built = began.elapsed().as_secs_f64();
        let file = SignedComponent {
            component: packed.bytes,
            signatures: Vec::new(),
            source: None,
        };
        let digest = client.push(file).await?.data.digest.to_string();
        let plugin = &project.manifest.name;
        let activated = client.activate(plugin.as_str(), &digest, true).await?;
        let (version, digest) = (&project.manifest.version, short(&digest));
        if !activated.data.changed {
            return Ok(format!(
                "{plugin} {version} ({digest}) is active already (built in {built:.1} s)"
            ));
        }
        let swapped = began.elapsed().as_secs_f64() - built;
        Ok(format!(
            "{plugin} {version} ({digest}) is active (built in {built:.1} s, swapped in {swapped:.1} s)"
        ))
    }
}

/// Reading is not a change, and neither is a new time stamp.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Modify(ModifyKind::Metadata(_)) => false,
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) => true,
        EventKind::Any | EventKind::Access(_) | EventKind::Other => false,
    }
}

/// Whether people write this file. Hidden files and outputs of builds do not count; otherwise each
/// build would start another one.
fn is_source(path: &Path, root: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else {
        return false;
    };
    let is_output = |part: Component| {
        let name = part.as_os_str().to_string_lossy();
        name.starts_with('.') || name.ends_with('~') || OUTPUTS.contains(&name.as_ref())
    };
    !below.components().any(is_output)
        && path.extension().is_none_or(|extension| extension != "wasm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_writes_begins_no_build() {
        let root = Path::new("/home/target/hello");
        for source in ["src/lib.rs", "plugin.toml", "a/b/c.ts", ""] {
            assert!(is_source(&root.join(source), root), "{source}");
        }
        for output in [
            "target/release/x.d",
            "dist/hello-0.1.0.wasm",
            "out.wasm",
            ".git/index",
            "src/.lib.rs.swp",
            "src/lib.rs~",
        ] {
            assert!(!is_source(&root.join(output), root), "{output}");
        }
        assert!(!is_source(Path::new("/home/target/other/src/lib.rs"), root));
    }
}
