//! Links: every page and heading that the documentation links to, or the source names, exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file with one of these extensions, without built or installed files.
fn files(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !name.starts_with('.')
                && !["target", "node_modules", "dist"].contains(&name.as_str())
            {
                files(&path, extensions, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|is| extensions.iter().any(|extension| is == *extension))
        {
            found.push(path);
        }
    }
    Ok(())
}

/// The lines outside of fenced code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchor that GitHub makes from a heading.
fn slug(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for line in prose(page) {
        if let Some(heading) = line.strip_prefix('#') {
            let slug = slug(heading.trim_start_matches('#'));
            let before = seen.entry(slug.clone()).or_default();
            anchors.insert(if *before == 0 {
                slug
            } else {
                format!("{slug}-{before}")
            });
            *before += 1;
        }
        anchors.extend(
            line.split("<a id=\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .map(str::to_owned),
        );
    }
    anchors
}

/// The targets of `[text](target)` in a line, without those in inline code.
fn targets(line: &str) -> Vec<String> {
    // A link's text may contain code: only code that contains a whole link is left out.
    let without_code: String = line
        .split('`')
        .enumerate()
        .filter(|(n, part)| n % 2 == 0 || !part.contains("]("))
        .map(|(_, part)| part)
        .collect();
    let links = without_code
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    links.map(str::to_owned).collect()
}

/// The problem of a link from `page`, if any.
fn broken(page: &Path, target: &str) -> anyhow::Result<Option<String>> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, anchor) = target
        .split_once('#')
        .map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() {
        page.to_owned()
    } else {
        page.parent().context("a folder")?.join(path)
    };
    if !file.exists() {
        return Ok(Some(format!(
            "{}: {target}: there is no such file",
            page.display()
        )));
    }
    let Some(anchor) = anchor else {
        return Ok(None);
    };
    let is_there = anchors(&std::fs::read_to_string(&file)?).contains(anchor);
    Ok((!is_there).then(|| format!("{}: {target}: there is no such heading", page.display())))
}

#[test]
fn every_link_of_the_documents_leads_somewhere() -> anyhow::Result<()> {
    let mut pages = Vec::new();
    files(&repository(), &["md"], &mut pages)?;
    let (mut wrong, mut links) = (Vec::new(), 0);
    for page in &pages {
        for line in prose(&std::fs::read_to_string(page)?) {
            for target in targets(line) {
                wrong.extend(broken(page, &target)?);
                links += 1;
            }
        }
    }
    assert!(links > 200, "only {links} links in {} pages", pages.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// `docs/operations/alerts.md#health` and the like, in messages, comments and alert rules.
#[test]
fn every_page_that_the_source_names_is_there() -> anyhow::Result<()> {
    let mut sources = Vec::new();
    files(
        &repository(),
        &["rs", "yml", "toml", "mjs", "py"],
        &mut sources,
    )?;
    let (mut wrong, mut named) = (Vec::new(), 0);
    for source in &sources {
        let text = std::fs::read_to_string(source)?;
        for rest in text.split("docs/").skip(1) {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || "/-_.#".contains(c)))
                .unwrap_or(rest.len());
            let place = rest[..end].trim_end_matches(['.', '#']);
            if place
                .split('#')
                .next()
                .is_some_and(|path| path.ends_with(".md"))
            {
                let root = repository().join("README.md");
                wrong.extend(
                    broken(&root, &format!("docs/{place}"))?
                        .map(|what| format!("{}: {what}", source.display())),
                );
                named += 1;
            }
        }
    }
    assert!(named > 10, "only {named} in {} files", sources.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_broken_link_is_found() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let page = dir.path().join("page.md");
    std::fs::write(
        &page,
        "# A page\n\n## See `this`: a name\n\n```\n## Not a heading\n```\n\n## Twice\n\n## Twice\n<a id=\"own\"></a>\n",
    )?;
    for target in [
        "page.md",
        "#a-page",
        "page.md#see-this-a-name",
        "#twice-1",
        "#own",
        "https://example.com/none",
    ] {
        assert_eq!(broken(&page, target)?, None, "{target}");
    }
    for target in [
        "none.md",
        "#not-a-heading",
        "page.md#twice-2",
        "none.md#a-page",
    ] {
        assert!(broken(&page, target)?.is_some(), "{target}");
    }
    assert_eq!(
        targets("[one](a.md), [`code`](b.md#c) and `[no](d.md)`"),
        ["a.md", "b.md#c"]
    );
    Ok(())
}
