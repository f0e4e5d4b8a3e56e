//! The archive: a directory with a README, a list of contents, and the files.

use std::fmt::Write as _;
use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// File name of the list of contents.
const CONTENTS: &str = "contents.json";

/// One file of the archive, or why it is missing.
#[derive(Debug)]
pub struct BundleFile {
    pub name: &'static str,
    pub about: &'static str,
    /// Bytes, or why they are missing.
    pub content: Result<Vec<u8>, String>,
}

/// An entry of the list of contents.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub about: String,
    /// Size. `None` when the file is missing.
    pub bytes: Option<usize>,
    /// Why the file is missing.
    pub missing: Option<String>,
}

#[derive(Debug)]
pub struct Title {
    pub by: String,
    pub at: DateTime<Utc>,
    /// How far back it reaches.
    pub since: String,
}

impl BundleFile {
    /// Makes a file of readable JSON.
    pub fn json(name: &'static str, about: &'static str, content: Result<Value, String>) -> Self {
        let text =
            |value: Value| serde_json::to_string_pretty(&value).map_err(|error| error.to_string());
        Self {
            name,
            about,
            content: content
                .and_then(text)
                .map(|text| (text + "\n").into_bytes()),
        }
    }
}

/// Makes a `.tar.gz` with one directory, which contains a README, the list of contents, and the
/// parts.
pub fn archive(title: &Title, parts: &[BundleFile]) -> io::Result<Vec<u8>> {
    let entries: Vec<Entry> = parts
        .iter()
        .map(|part| Entry {
            name: part.name.into(),
            about: part.about.into(),
            bytes: part.content.as_ref().ok().map(Vec::len),
            missing: part.content.as_ref().err().cloned(),
        })
        .collect();
    let dir = format!("patchbay-incident-{}", title.at.format("%Y%m%dT%H%M%SZ"));
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(title.at.timestamp()).unwrap_or(0));
        builder.append_data(&mut header, format!("{dir}/{name}"), content)
    };
    add("README.md", readme(title, &entries).as_bytes())?;
    add(CONTENTS, &serde_json::to_vec_pretty(&entries)?)?;
    for part in parts {
        if let Ok(content) = &part.content {
            add(part.name, content)?;
        }
    }
    builder.into_inner()?.finish()
}

/// Reads the list of contents of an archive.
pub fn contents(archive: &[u8]) -> io::Result<Vec<Entry>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path()?.ends_with(CONTENTS) {
            return Ok(serde_json::from_reader(entry)?);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the archive has no list of contents",
    ))
}

fn readme(title: &Title, entries: &[Entry]) -> String {
    let Title { by, at, since } = title;
    let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut text = format!(
        "# Incident bundle of Patchbay\n\nCollected by {by} at {at}, looking back {since}.\n\n"
    );
    for Entry {
        name,
        about,
        missing,
        ..
    } in entries
    {
        let missing = missing
            .as_ref()
            .map(|why| format!(" **Missing**: {why}"))
            .unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- `{name}`: {about}.{missing}");
    }
    text + "\nIt holds no secrets, no jobs' ids, names or data, and nothing that plugins have logged. In texts, addresses, long numbers and \
            what was quoted are left out; of failures' messages only ordinary words are kept. Read it before you pass it on all the same: \
            it names plugins, queues, outside hosts and operators.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_the_rest_is_there() -> io::Result<()> {
        let title = Title {
            by: "host a:1".into(),
            at: DateTime::UNIX_EPOCH,
            since: "1 h".into(),
        };
        let parts = [
            BundleFile::json("there.json", "something", Ok(serde_json::json!({ "a": 1 }))),
            BundleFile::json(
                "gone.json",
                "something else",
                Err("Postgres does not answer".into()),
            ),
        ];
        let packed = archive(&title, &parts)?;
        let entries = contents(&packed)?;
        assert_eq!(entries[0].bytes, Some(13));
        assert_eq!(
            entries[1].missing.as_deref(),
            Some("Postgres does not answer")
        );
        let text = readme(&title, &entries);
        assert!(
            text.contains("`gone.json`: something else. **Missing**: Postgres does not answer"),
            "{text}"
        );
        Ok(())
    }
}
