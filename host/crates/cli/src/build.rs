//! `patchbay plugin build|pack|inspect`: builds, packs and shows plugin files, without a host.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use patchbay_model::RevisionDigest;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::Output;
use super::project::Project;
use super::world::{World, Written};

const CARGO: [&str; 5] = [
    "build",
    "--release",
    "--target",
    "wasm32-wasip2",
    "--message-format=json-render-diagnostics",
];

/// Exit code of `sh` for a program that it does not find (POSIX).
const COMMAND_NOT_FOUND: i32 = 127;

#[derive(Args)]
pub struct Build {
    /// Directory with plugin.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Output file [default: DIR/dist/NAME-VERSION.wasm]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args)]
pub struct Pack {
    /// Directory with plugin.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Built component [default: the one that plugin.toml names, else
    /// target/wasm32-wasip2/release/NAME.wasm in the Cargo workspace of DIR]
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// Output file [default: DIR/dist/NAME-VERSION.wasm]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A component file that hosts accept.
pub struct Packed {
    pub file: PathBuf,
    pub bytes: Vec<u8>,
    digest: RevisionDigest,
}

pub(super) async fn build(args: Build, output: Output) -> anyhow::Result<()> {
    let project = Project::read(&args.dir)?;
    let component = project.build().await?;
    report(&project, &project.pack(&component, args.output)?, output);
    Ok(())
}

pub(super) fn pack(args: Pack, output: Output) -> anyhow::Result<()> {
    let project = Project::read(&args.dir)?;
    let component = args.component.map_or_else(|| project.built(), Ok)?;
    report(&project, &project.pack(&component, args.output)?, output);
    Ok(())
}

fn report(project: &Project, packed: &Packed, output: Output) {
    let (manifest, size) = (&project.manifest, packed.bytes.len());
    let text = format!(
        "{} ({} KiB, {})",
        packed.file.display(),
        size >> 10,
        packed.digest.short()
    );
    let value = json!({
        "file": packed.file, "bytes": size, "digest": packed.digest, "plugin": manifest.name, "version": manifest.version,
    });
    output.value(&text, &value);
}

impl Project {
    /// Runs the build and returns the path of the component. Build output goes to standard error.
    ///
    /// Ctrl-C, or dropping the future, ends the build with all its child processes.
    pub async fn build(&self) -> anyhow::Result<PathBuf> {
        self.write_world()?;
        if let (Some(command), Some(component)) = (&self.build.command, &self.build.component) {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(command).stdout(std::io::stderr());
            let ended = Running::start(shell, &self.dir)?.ended().await?;
            return self.made(ended, &format!("`{command}`"), self.dir.join(component));
        }
        if !self.dir.join("Cargo.toml").exists() {
            bail!(
                "It is unknown how {} is built: it has no Cargo.toml, and its plugin.toml has no section [build]. Add that section with command and component",
                self.dir.display()
            );
        }
        let mut cargo = Command::new("cargo");
        cargo.args(CARGO).stdout(Stdio::piped());
        let mut running = Running::start(cargo, &self.dir)?;
        let mut messages = String::new();
        if let Some(mut stdout) = running.child.stdout.take() {
            unless_interrupted(stdout.read_to_string(&mut messages)).await??;
        }
        let ended = running.ended().await?;
        let crate_manifest = self.dir.canonicalize()?.join("Cargo.toml");
        // Only cargo knows where its target directory is.
        let component = messages
            .lines()
            .filter_map(|line| component_in(line, &crate_manifest))
            .next_back();
        self.made(ended, "cargo", component.unwrap_or_default())
    }

    /// For toolchains that bind a world. Cargo projects on the SDK need no world; a generated one
    /// that exists is kept up to date.
    fn write_world(&self) -> anyhow::Result<()> {
        let world = World::of(self);
        if (self.build.command.is_some() || world.is_generated())
            && world.write(false)? == Written::New
        {
            eprintln!("written: {}", world.file().display());
        }
        Ok(())
    }

    fn made(&self, ended: ExitStatus, what: &str, component: PathBuf) -> anyhow::Result<PathBuf> {
        if ended.code() == Some(COMMAND_NOT_FOUND) {
            bail!(
                "{what} needs a program that is not installed, or not on the PATH. The line above names it"
            );
        }
        if !ended.success() {
            bail!("{what} failed in {} ({ended})", self.dir.display());
        }
        if !component.is_file() {
            bail!(
                "{what} made no component in {}: {}",
                self.dir.display(),
                match component.as_os_str().is_empty() {
                    true => "its Cargo.toml needs [lib] crate-type = [\"cdylib\"]".to_owned(),
                    false => format!("{} does not exist", component.display()),
                }
            );
        }
        Ok(component)
    }

    /// The component of an earlier build.
    fn built(&self) -> anyhow::Result<PathBuf> {
        if let Some(component) = &self.build.component {
            return Ok(self.dir.join(component));
        }
        let file = format!(
            "target/wasm32-wasip2/release/{}.wasm",
            self.manifest.name.as_str().replace('-', "_")
        );
        let dir = self
            .dir
            .canonicalize()
            .with_context(|| self.dir.display().to_string())?;
        let found = dir
            .ancestors()
            .map(|ancestor| ancestor.join(&file))
            .find(|path| path.exists());
        found.with_context(|| {
            format!(
                "there is no {file} in {} or above. Build it with `patchbay plugin build`, or name it with --component",
                dir.display()
            )
        })
    }

    /// Writes the manifest into the component.
    pub fn pack(&self, component: &Path, out: Option<PathBuf>) -> anyhow::Result<Packed> {
        let manifest = &self.manifest;
        let bytes = std::fs::read(component)
            .with_context(|| format!("cannot read {}", component.display()))?;
        let bytes =
            patchbay_runtime::encode(bytes).with_context(|| component.display().to_string())?;
        let bytes = patchbay_runtime::pack(&bytes, manifest)
            .with_context(|| component.display().to_string())?;
        let digest = patchbay_runtime::inspect(&bytes)?.digest;
        let file = out.unwrap_or_else(|| {
            self.dir
                .join("dist")
                .join(format!("{}-{}.wasm", manifest.name, manifest.version))
        });
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Written as a whole or not at all, because a host may be reading the old file.
        let temporary = file.with_extension("tmp");
        std::fs::write(&temporary, &bytes)
            .with_context(|| format!("cannot write {}", temporary.display()))?;
        std::fs::rename(&temporary, &file)?;
        Ok(Packed {
            file,
            bytes,
            digest,
        })
    }
}

/// The component that the crate was built to, according to one line of cargo's output.
fn component_in(line: &str, crate_manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact"
        || Path::new(message["manifest_path"].as_str()?) != crate_manifest
    {
        return None;
    }
    let files = message["filenames"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str);
    files.map(PathBuf::from).find(|file| {
        file.extension()
            .is_some_and(|extension| extension == "wasm")
    })
}

/// A process in a process group of its own; dropping it before its end kills the whole group.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(mut command: Command, dir: &Path) -> anyhow::Result<Self> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let child = command
            .current_dir(dir)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn();
        let child = child
            .with_context(|| format!("cannot run {name}; is it installed, and on the PATH?"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok(Self { child, group })
    }

    async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        let ended = unless_interrupted(self.child.wait()).await??;
        self.group = None;
        Ok(ended)
    }
}

/// The process group of a build is not that of the terminal, so it does not get Ctrl-C itself.
async fn unless_interrupted<T>(act: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::select! {
        done = act => Ok(done),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

pub(super) fn inspect(file: &Path, output: Output) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let inspected =
        patchbay_runtime::inspect(&bytes).with_context(|| file.display().to_string())?;
    let value = json!({
        "digest": inspected.digest,
        "manifest": inspected.manifest,
        "asks": patchbay_model::grant::asks(&inspected.manifest),
        "exports": inspected.exports,
        "imports": inspected.imports,
    });
    let endpoints: String = inspected
        .manifest
        .endpoints()
        .map(|endpoint| format!("\n{:<9} {endpoint}", endpoint.label()))
        .collect();
    let manifest = &inspected.manifest;
    let named = |label: &str, names: Vec<&str>| match names.is_empty() {
        true => String::new(),
        false => format!("\n{label:<9} {}", names.join(" ")),
    };
    let queues = manifest.queues.iter().map(|queue| queue.name.as_str());
    let schedules = manifest.schedules.iter().map(|one| one.id.as_str());
    let asks: String = manifest
        .asks()
        .iter()
        .map(|ask| format!("\nasks for: {ask}"))
        .collect();
    let text = format!(
        "{} {} ({})\n{}{endpoints}{}{}{asks}\nexports:  {}\nimports:  {}",
        inspected.manifest.name,
        inspected.manifest.version,
        inspected.digest,
        inspected.manifest.description,
        named("queues:", queues.collect()),
        named("schedules:", schedules.collect()),
        inspected.exports.join(" "),
        inspected.imports.join(" "),
    );
    output.value(&text, &value);
    Ok(())
}
