//! docs/errors.md has every error code of the API and the command line.

use std::path::Path;

use anyhow::Context;
use patchbay_api::errors::{ERRORS, page};

/// Error codes that the source makes an error with: the second argument of `Error::new` and the
/// like, if it is written there.
fn codes_in(source: &str) -> Vec<String> {
    let mut codes = Vec::new();
    for (at, _) in source.match_indices("::new(") {
        let before = source[..at].rsplit(|c: char| !c.is_alphanumeric()).next();
        if !["Error", "ApiError", "Self"].contains(&before.unwrap_or_default()) {
            continue;
        }
        let arguments = &source[at + "::new(".len()..];
        let Some((first, rest)) = arguments.split_once(',') else {
            continue;
        };
        let is_kind = first
            .trim()
            .chars()
            .all(|c| c.is_alphanumeric() || c == ':' || c == '_');
        let code = rest
            .trim_start()
            .strip_prefix('"')
            .and_then(|rest| rest.split_once('"'));
        let is_code = |code: &str| {
            !code.is_empty() && code.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        if let (true, Some((code, _))) = (is_kind, code.filter(|(code, _)| is_code(code))) {
            codes.push(code.to_owned());
        }
    }
    codes
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_error_code_is_in_the_table() -> anyhow::Result<()> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/crates");
    let mut files = Vec::new();
    for name in ["app/src", "http/src"] {
        sources(&crates.join(name), &mut files)?;
    }
    let mut seen = 0;
    for file in files {
        for code in codes_in(&std::fs::read_to_string(&file)?) {
            seen += 1;
            let is_known = ERRORS.iter().any(|error| error.code == code);
            assert!(
                is_known,
                "{}: {code} is not in host/crates/api/src/errors.rs",
                file.display()
            );
        }
    }
    assert!(seen > 30, "the source has other forms now: {seen}");
    Ok(())
}

#[test]
fn the_page_of_errors_is_made_from_the_table() -> anyhow::Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    if std::env::var_os("PATCHBAY_TEST_UPDATE").is_some() {
        std::fs::write(&file, page())?;
    }
    let there = std::fs::read_to_string(&file).context("docs/errors.md")?;
    assert!(
        there == page(),
        "docs/errors.md differs: PATCHBAY_TEST_UPDATE=1 cargo nextest run -p patchbay-tests --test structure"
    );
    Ok(())
}
