//! Reads what a component file says about itself, without compiling it. Also packs the manifest
//! into a component.

use patchbay_model::RevisionDigest;
use patchbay_model::manifest::Manifest;
use wasmparser::{Parser, Payload};

use crate::wit::{Wit, interface};
use crate::{Rejection, engine};

const SECTION: &str = "patchbay:manifest";
/// Interfaces that a host calls. A plugin exports at least one of them.
const SERVED: [&str; 3] = ["jobs", "operations", "webhooks"];

#[derive(Debug)]
pub struct Inspected {
    pub digest: RevisionDigest,
    pub manifest: Manifest,
    /// The version of the contract that it was built for.
    pub wit: Wit,
    pub exports: Vec<String>,
    pub imports: Vec<String>,
    /// What one call takes from the pool, in core instances.
    pub(crate) weight: u32,
}

impl Inspected {
    /// Whether it exports this interface of the contract.
    pub(crate) fn offers(&self, interface: &str) -> bool {
        offers(&self.exports, interface)
    }
}

#[derive(Default)]
struct Sections {
    manifests: Vec<Vec<u8>>,
    exports: Vec<String>,
    imports: Vec<String>,
    core_instances: u32,
    memories: u32,
    tables: u32,
}

fn read(component: &[u8]) -> Result<Sections, Rejection> {
    let broken = |error: wasmparser::BinaryReaderError| Rejection::NotAComponent(error.to_string());
    if !Parser::is_component(component) {
        let kind = if Parser::is_core_wasm(component) {
            "this is a core module"
        } else {
            "unknown file type"
        };
        return Err(Rejection::NotAComponent(kind.into()));
    }
    // Also finds truncation, because every section is validated.
    wasmparser::Validator::new()
        .validate_all(component)
        .map_err(broken)?;
    let mut sections = Sections::default();
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::InstanceSection(reader) => {
                for instance in reader {
                    // The other kind only renames existing instances.
                    let made = matches!(
                        instance.map_err(broken)?,
                        wasmparser::Instance::Instantiate { .. }
                    );
                    sections.core_instances += u32::from(made);
                }
            }
            Payload::MemorySection(reader) => sections.memories += reader.count(),
            Payload::TableSection(reader) => sections.tables += reader.count(),
            Payload::CustomSection(custom) if depth == 0 && custom.name() == SECTION => {
                sections.manifests.push(custom.data().to_vec());
            }
            Payload::ComponentImportSection(reader) if depth == 0 => {
                for import in reader {
                    sections
                        .imports
                        .push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(reader) if depth == 0 => {
                for export in reader {
                    sections
                        .exports
                        .push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(sections)
}

/// Reads and checks a packed component file, without compiling it.
pub fn inspect(component: &[u8]) -> Result<Inspected, Rejection> {
    let sections = read(component)?;
    let manifest = match sections.manifests.as_slice() {
        [] => return Err(Rejection::NoManifest),
        [one] => Manifest::from_packed(one)?,
        _ => return Err(Rejection::DoubledManifest),
    };
    check_imports(&manifest, &sections.imports)?;
    let wit = Wit::of(sections.exports.iter().chain(&sections.imports))?;
    if let Some(wit) = wit.filter(|wit| wit.as_str() != manifest.wit) {
        return Err(Rejection::OtherWit {
            manifest: manifest.wit.clone(),
            component: wit.as_str(),
        });
    }
    let is_ours = sections
        .exports
        .iter()
        .any(|name| interface(name).is_some());
    if !manifest.queues.is_empty() && is_ours && !offers(&sections.exports, "jobs") {
        return Err(Rejection::NoJobs);
    }
    for (is_named, section, interface) in [
        (!manifest.routes.is_empty(), "routes", "operations"),
        (!manifest.webhooks.is_empty(), "webhooks", "webhooks"),
    ] {
        if is_named && is_ours && !offers(&sections.exports, interface) {
            return Err(Rejection::NoEndpoint { section, interface });
        }
    }
    let served = SERVED
        .iter()
        .any(|interface| offers(&sections.exports, interface));
    let Some(wit) = wit.filter(|_| served) else {
        return Err(Rejection::NoExport(sections.exports.join(", ")));
    };
    let weight = sections
        .core_instances
        .max(sections.tables)
        .max(sections.memories * 2)
        .max(engine::LEAST_WEIGHT);
    if weight > engine::MOST_WEIGHT {
        let parts = format!(
            "{} core instances, {} memories and {} tables per call",
            sections.core_instances, sections.memories, sections.tables
        );
        return Err(Rejection::TooManyParts(parts));
    }
    Ok(Inspected {
        digest: RevisionDigest::of(component),
        manifest,
        wit,
        exports: sections.exports,
        imports: sections.imports,
        weight,
    })
}

fn offers(exports: &[String], wanted: &str) -> bool {
    exports
        .iter()
        .filter_map(|name| interface(name))
        .any(|(name, _)| name == wanted)
}

/// Checks that imports ⊆ asked. Every toolchain imports parts of WASI that it never uses; those are
/// linked but give access to nothing.
fn check_imports(manifest: &Manifest, imports: &[String]) -> Result<(), Rejection> {
    let asked = manifest.asked_interfaces();
    let mut missing = Vec::new();
    for import in imports {
        if let Some((interface, _)) = interface(import) {
            if !asked.contains(interface) {
                missing.push(interface.to_owned());
            }
        } else if import.starts_with("wasi:http/") {
            // It passes the same gate as `patchbay:plugin/http`, so it needs the same ask.
            if !asked.contains("http") {
                missing.push(import.clone());
            }
        } else if !import.starts_with("wasi:") {
            return Err(Rejection::Unknown {
                import: import.clone(),
            });
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Rejection::NotAsked { imports: missing })
    }
}

/// Puts the manifest into a component that has none.
pub fn pack(component: &[u8], manifest: &Manifest) -> Result<Vec<u8>, Rejection> {
    if !read(component)?.manifests.is_empty() {
        return Err(Rejection::DoubledManifest);
    }
    let content = manifest.to_packed();
    let mut body = Vec::with_capacity(content.len() + SECTION.len() + 4);
    leb128(&mut body, SECTION.len());
    body.extend(SECTION.as_bytes());
    body.extend(content);
    let mut packed = component.to_vec();
    packed.push(0);
    leb128(&mut packed, body.len());
    packed.extend(body);
    Ok(packed)
}

/// Puts another manifest into a packed component. What it says otherwise stays.
pub fn repack(packed: &[u8], manifest: &Manifest) -> Result<Vec<u8>, Rejection> {
    let broken = |error: wasmparser::BinaryReaderError| Rejection::NotAComponent(error.to_string());
    let (mut depth, mut end, mut found) = (0u32, 0, None);
    for payload in Parser::new(0).parse_all(packed) {
        let payload = payload.map_err(broken)?;
        let section = payload.as_section().map(|(_, range)| range);
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            // From the end of what stands before it: its head belongs to it.
            Payload::CustomSection(custom) if depth == 0 && custom.name() == SECTION => {
                found = section.as_ref().map(|range| end..range.end);
            }
            Payload::Version { range, .. } if depth == 0 => end = range.end,
            _ => {}
        }
        // That of a nested component or module is its whole content.
        if let Some(range) = section {
            end = range.end.max(end);
        }
    }
    let found = found.ok_or(Rejection::NoManifest)?;
    let bare = [&packed[..found.start], &packed[found.end..]].concat();
    pack(&bare, manifest)
}

/// The encoding of lengths in a wasm file.
fn leb128(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_manifest_takes_the_place_of_the_one_that_is_there() {
        let manifest = |name: &str| {
            let text = format!("name = \"{name}\"\nversion = \"0.1.0\"\nwit = \"0.1\"\n");
            Manifest::from_toml(&text, |file| Err(format!("{file} is not expected")))
                .expect("a manifest")
        };
        // A component without content, and one with a section of somebody else behind the manifest.
        let empty = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
        let others = [0, 3, 2, b'n', b'x'];
        let long = manifest(&"a".repeat(39));
        let packed = pack(&empty, &long).expect("packed");
        let changed = repack(&packed, &manifest("short")).expect("packed again");
        assert_eq!(changed, pack(&empty, &manifest("short")).expect("packed"));
        let before_others = [&packed[..], &others].concat();
        let changed = repack(&before_others, &manifest("short")).expect("packed again");
        let bare = [&empty[..], &others].concat();
        assert_eq!(changed, pack(&bare, &manifest("short")).expect("packed"));
        assert!(repack(&empty, &long).is_err(), "there is none");
    }
}
