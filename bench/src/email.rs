//! The email plugin in as many revisions as are wanted: the same code, another manifest, and so
//! another digest and another compilation.

use std::path::Path;

use patchbay_model::manifest::Manifest;

use crate::environment;

const MANIFEST: &str = include_str!("../../plugins/email/plugin.toml");

/// The file of a plugin of this name that works on this queue; `n` tells its revisions apart.
pub fn revision(plugin: &str, queue: &str, n: usize) -> anyhow::Result<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/email");
    let read =
        |file: &str| std::fs::read_to_string(dir.join(file)).map_err(|error| error.to_string());
    let mut manifest = Manifest::from_toml(MANIFEST, read)?;
    manifest.name = plugin.parse()?;
    manifest.description = format!("revision {n}");
    manifest.queues[0].name = queue.parse()?;
    Ok(patchbay_runtime::pack(
        &std::fs::read(environment("PATCHBAY_BENCH_EMAIL")?)?,
        &manifest,
    )?)
}
