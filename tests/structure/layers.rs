//! The layers: each crate's Cargo.toml uses only what docs/ARCHITECTURE.md allows, and every path
//! that the documents name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Crate → crates that it may use, from the table under `## Layers`; `None` for all crates.
fn documented() -> anyhow::Result<BTreeMap<String, Option<BTreeSet<String>>>> {
    let text = std::fs::read_to_string(repository().join("docs/ARCHITECTURE.md"))?;
    let section = text
        .split("## Layers")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .context("a section Layers")?;
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, uses] = cells[..] else {
            anyhow::bail!("not three cells: {row}")
        };
        let uses = (uses != "everything").then(|| quoted(uses).map(str::to_owned).collect());
        Ok((name.trim_matches('`').to_owned(), uses))
    })
    .collect()
}

/// The workspace's own crates, without those for tests.
fn used(manifest: &Path) -> anyhow::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    let section = text
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .unwrap_or_default();
    let names = section
        .lines()
        .filter_map(|line| line.split_once(" =")?.0.strip_prefix("patchbay-"));
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn each_crate_uses_what_the_layers_let_it_use() -> anyhow::Result<()> {
    let documented = documented()?;
    let mut crates: BTreeMap<String, PathBuf> =
        BTreeMap::from([("patchbay".into(), repository().join("host"))]);
    for entry in std::fs::read_dir(repository().join("host/crates"))? {
        let entry = entry?;
        crates.insert(
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        );
    }
    assert_eq!(
        crates.keys().collect::<Vec<_>>(),
        documented.keys().collect::<Vec<_>>(),
        "docs/ARCHITECTURE.md, Layers"
    );
    for (name, path) in crates {
        let Some(may_use) = &documented[&name] else {
            continue;
        };
        let used = used(&path.join("Cargo.toml"))?;
        assert_eq!(
            &used, may_use,
            "`{name}` uses (left), and may use by docs/ARCHITECTURE.md (right)"
        );
    }
    Ok(())
}

#[test]
fn every_place_that_the_documents_of_the_tree_name_is_there() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for document in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(repository().join(document))?;
        for place in quoted(&text) {
            let is_place = [
                "host/",
                "wit/",
                "tests/",
                "migrations/",
                "plugins/",
                "deploy/",
                "docs/",
            ]
            .iter()
            .any(|top| place.starts_with(top));
            if is_place
                && !place.contains(['<', '*', ' '])
                && !place.contains("NNN")
                && !place.contains("NAME")
                && !repository().join(place).exists()
            {
                missing.push(format!("{document}: {place}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    Ok(())
}

#[test]
fn each_alert_rule_has_its_section_in_the_documents() -> anyhow::Result<()> {
    let rules = std::fs::read_to_string(repository().join("host/crates/app/src/alerts/rule.rs"))?;
    let page = std::fs::read_to_string(repository().join("docs/operations/alerts.md"))?;
    let table = rules
        .split("pub const RULES")
        .nth(1)
        .and_then(|rest| rest.split("\n];").next())
        .context("RULES")?;
    let text: String = table.split_whitespace().collect();
    let names: Vec<&str> = text
        .split("rule(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(names.len() > 5, "{names:?}");
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !page.contains(&format!("\"{name}\"")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

/// Most lines of a file without a reason of its own.
const LONGEST: usize = 500;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn long_files_have_their_reason() -> anyhow::Result<()> {
    const PAGE: &str = "docs/decisions/041-long-files.md";
    let repository = repository();
    let page = std::fs::read_to_string(repository.join(PAGE))?;
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let told: BTreeSet<String> = rows
        .filter_map(|row| quoted(row).next().map(str::to_owned))
        .collect();
    let mut found = Vec::new();
    for folder in ["host", "plugins"] {
        sources(&repository.join(folder), &mut found)?;
    }
    let mut long = BTreeSet::new();
    for path in found {
        if std::fs::read_to_string(&path)?.lines().count() > LONGEST {
            let path = path.strip_prefix(&repository)?;
            long.insert(path.to_string_lossy().into_owned());
        }
    }
    let without: Vec<_> = long.difference(&told).collect();
    assert!(
        without.is_empty(),
        "split these files, or give their reason in {PAGE}: {without:?}"
    );
    let short: Vec<_> = told.difference(&long).collect();
    assert!(short.is_empty(), "take these rows out of {PAGE}: {short:?}");
    Ok(())
}
